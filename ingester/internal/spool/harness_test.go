package spool

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"
)

// testConfig is a small spool: 16 segments of 4 kB.
func testConfig(dir string) Config {
	return Config{Dir: dir, MaxBytes: 64 << 10, SegmentBytes: 4 << 10, BufferBytes: 16 << 10, SyncInterval: time.Millisecond}
}

func mustOpen(t testing.TB, cfg Config) *Spool {
	t.Helper()
	return mustOpenOn(t, cfg, operatingSystem{})
}

func mustOpenOn(t testing.TB, cfg Config, disk fileSystem) *Spool {
	t.Helper()
	s, err := open(cfg, quiet(), disk)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// numbered returns a record that tells its number, and of which every byte depends on it.
func numbered(n int) []byte {
	source := rand.New(rand.NewPCG(uint64(n), 1))
	b := make([]byte, 8+source.IntN(300))
	for i := range b {
		b[i] = byte(source.Uint32())
	}
	binary.BigEndian.PutUint64(b, uint64(n))
	return b
}

// numberOf returns the number of a record, and fails the test unless it is whole.
func numberOf(t testing.TB, record []byte) int {
	t.Helper()
	n := recordNumber(record)
	if n < 0 || n > 1<<30 || !bytes.Equal(record, numbered(n)) {
		t.Fatalf("record %d of %d bytes is not what was appended", n, len(record))
	}
	return n
}

func recordNumber(record []byte) int {
	if len(record) < 8 {
		return -1
	}
	return int(binary.BigEndian.Uint64(record))
}

// fill appends records from and up to, durably.
func fill(t testing.TB, s *Spool, from, to int) {
	t.Helper()
	for n := from; n <= to; n++ {
		if !s.AppendWait(t.Context(), numbered(n)) {
			t.Fatalf("record %d is refused", n)
		}
	}
	if err := s.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// delivered is a record as the tests compare it.
type delivered struct {
	number int
	lost   Loss
}

// take returns the next n records.
func take(t testing.TB, s *Spool, n int) (got []delivered, last Position) {
	t.Helper()
	for len(got) < n {
		records, err := s.Next(t.Context(), n-len(got), 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range records {
			if r.Position <= last {
				t.Fatalf("position %d after %d", r.Position, last)
			}
			last = r.Position
			got = append(got, delivered{numberOf(t, r.Data), r.Lost})
		}
	}
	return got, last
}

// drain returns everything there is.
func drain(t testing.TB, s *Spool) (got []delivered, last Position) {
	t.Helper()
	s.Seal()
	for {
		records, err := s.Next(t.Context(), 7, 1000)
		if errors.Is(err, io.EOF) {
			return got, last
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range records {
			if r.Position <= last {
				t.Fatalf("position %d after %d", r.Position, last)
			}
			last = r.Position
			got = append(got, delivered{numberOf(t, r.Data), r.Lost})
		}
	}
}

// run returns from, from+1 … to, the first with a loss.
func run(from, to int, lost Loss) (want []delivered) {
	for n := from; n <= to; n++ {
		want = append(want, delivered{number: n})
	}
	if len(want) > 0 {
		want[0].lost = lost
	}
	return want
}

func expect(t testing.TB, got []delivered, want ...[]delivered) {
	t.Helper()
	if all := slices.Concat(want...); !slices.Equal(got, all) {
		same := 0
		for same < min(len(got), len(all)) && got[same] == all[same] {
			same++
		}
		t.Fatalf("delivered %d records, not %d; after %d that are right:\n%v, not\n%v", len(got), len(all), same, got[same:], all[same:])
	}
}

// eventually waits until something holds.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not in 10 s: %s", what)
		}
	}
}

// crash ends a spool as a kill does: nothing more is written.
func crash(t testing.TB, s *Spool, disk *faultyDisk) {
	t.Helper()
	disk.fail(func(operation, _ string) error {
		if changes(operation) {
			return errKilled
		}
		return nil
	})
	s.Close()
	disk.fail(nil)
}

var errKilled = errors.New("killed")

// names returns the files in a directory.
func names(t testing.TB, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

// segmentFiles returns the paths of the segments in a directory, oldest first.
func segmentFiles(t testing.TB, dir string) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*"+segmentSuffix))
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

// faultyDisk is the operating system with faults.
type faultyDisk struct {
	operatingSystem
	mu    sync.Mutex
	fault func(operation, name string) error
	short bool // a write that fails writes half before
	quick bool // syncs do nothing

	volume   string // a directory that holds so many bytes; "" for no bound
	capacity int64
}

// hold bounds what a directory holds.
func (d *faultyDisk) hold(dir string, bytes int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.volume, d.capacity = dir, bytes
}

// left returns how many bytes may still be written.
func (d *faultyDisk) left() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.volume == "" {
		return math.MaxInt64
	}
	left := d.capacity
	entries, _ := os.ReadDir(d.volume)
	for _, entry := range entries {
		if info, err := entry.Info(); err == nil {
			left -= info.Size()
		}
	}
	return max(left, 0)
}

// fail sets what fails: a function that returns the error of an operation (open, create, write, read, sync, rename, remove,
// syncdir, stat) on a file, nil for no faults.
func (d *faultyDisk) fail(fault func(operation, name string) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fault = fault
}

// changes reports whether an operation changes what is on disk.
func changes(operation string) bool {
	return operation != "open" && operation != "read" && operation != "stat"
}

func (d *faultyDisk) check(operation, name string) error {
	d.mu.Lock()
	fault := d.fault
	d.mu.Unlock()
	if fault == nil {
		return nil
	}
	if err := fault(operation, name); err != nil {
		return &fs.PathError{Op: operation, Path: name, Err: err}
	}
	return nil
}

func (d *faultyDisk) Open(name string, flag int) (file, error) {
	operation := "open"
	if flag != readOnly {
		operation = "create"
	}
	if err := d.check(operation, name); err != nil {
		return nil, err
	}
	f, err := d.operatingSystem.Open(name, flag)
	if err != nil {
		return nil, err
	}
	return &faultyFile{file: f, disk: d, name: name}, nil
}

func (d *faultyDisk) Stat(name string) (fs.FileInfo, error) {
	if err := d.check("stat", name); err != nil {
		return nil, err
	}
	return d.operatingSystem.Stat(name)
}

func (d *faultyDisk) Rename(from, to string) error {
	if err := d.check("rename", from); err != nil {
		return err
	}
	return d.operatingSystem.Rename(from, to)
}

func (d *faultyDisk) Remove(name string) error {
	if err := d.check("remove", name); err != nil {
		return err
	}
	return d.operatingSystem.Remove(name)
}

func (d *faultyDisk) SyncDir(dir string) error {
	if err := d.check("syncdir", dir); err != nil || d.quick {
		return err
	}
	return d.operatingSystem.SyncDir(dir)
}

type faultyFile struct {
	file
	disk *faultyDisk
	name string
}

func (f *faultyFile) Write(b []byte) (int, error) {
	if err := f.disk.check("write", f.name); err != nil {
		n := 0
		if f.disk.short {
			n, _ = f.file.Write(b[:len(b)/2])
		}
		return n, err
	}
	if left := f.disk.left(); left < int64(len(b)) {
		n, _ := f.file.Write(b[:left])
		return n, &fs.PathError{Op: "write", Path: f.name, Err: syscall.ENOSPC}
	}
	return f.file.Write(b)
}

func (f *faultyFile) ReadAt(b []byte, off int64) (int, error) {
	if err := f.disk.check("read", f.name); err != nil {
		return 0, err
	}
	return f.file.ReadAt(b, off)
}

func (f *faultyFile) Sync() error {
	if err := f.disk.check("sync", f.name); err != nil || f.disk.quick {
		return err
	}
	return f.file.Sync()
}

// contextOf returns a context that ends with a stream: a child does not outlive its parent.
func contextOf(in io.Reader) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, in)
		cancel()
	}()
	return ctx, cancel
}

// ended returns a context that has ended.
func ended(t testing.TB) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}
