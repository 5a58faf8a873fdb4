package spool

import (
	"errors"
	"io"
	"runtime"
	"testing"
	"time"
)

// benchConfig has room for what a benchmark writes.
func benchConfig(dir string) Config {
	return Config{Dir: dir, MaxBytes: 8 << 30, BufferBytes: 64 << 20}
}

const benchBytes = 1500 // about a block of one second

// BenchmarkAppend appends as fast as the disk takes it, in groups of 100 ms.
func BenchmarkAppend(b *testing.B) {
	s := mustOpen(b, benchConfig(b.TempDir()))
	record := make([]byte, benchBytes)
	b.SetBytes(benchBytes)
	for b.Loop() {
		if !s.AppendWait(b.Context(), record) {
			b.Fatal("refused")
		}
	}
	if err := s.Sync(b.Context()); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkAppendSync waits for the disk after each record.
func BenchmarkAppendSync(b *testing.B) {
	s := mustOpen(b, benchConfig(b.TempDir()))
	record := make([]byte, benchBytes)
	b.SetBytes(benchBytes)
	for b.Loop() {
		if !s.AppendWait(b.Context(), record) {
			b.Fatal("refused")
		}
		if err := s.Sync(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkBacklog opens a log of 256 MiB (a quarter of GiB: multiply by four), reads it and acknowledges it.
func BenchmarkBacklog(b *testing.B) {
	const records = 256 << 20 / benchBytes
	cfg := benchConfig(b.TempDir())
	record := make([]byte, benchBytes)
	var opening, looking, reading time.Duration
	var heap uint64
	for b.Loop() {
		b.StopTimer()
		s := mustOpen(b, cfg)
		for range records {
			if !s.AppendWait(b.Context(), record) {
				b.Fatal("refused")
			}
		}
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()

		start := time.Now()
		s = mustOpen(b, cfg)
		opening += time.Since(start)
		start = time.Now()
		n := 0
		for range s.Recovered() {
			n++
		}
		if n != records {
			b.Fatalf("%d records", n)
		}
		looking += time.Since(start)
		start = time.Now()
		s.Seal()
		for {
			group, err := s.Next(b.Context(), 1000, 1<<20)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				b.Fatal(err)
			}
			s.Ack(group[len(group)-1].Position)
		}
		reading += time.Since(start)
		var memory runtime.MemStats
		runtime.ReadMemStats(&memory)
		heap = max(heap, memory.HeapInuse)
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
	n := float64(b.N)
	b.ReportMetric(float64(opening.Microseconds())/1000/n, "open-ms")
	b.ReportMetric(float64(looking.Microseconds())/1000/n, "recovered-ms")
	b.ReportMetric(float64(records*benchBytes)*n/reading.Seconds()/1e6, "read-MB/s")
	b.ReportMetric(float64(heap)/(1<<20), "heap-MiB")
}
