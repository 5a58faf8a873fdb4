package sqlitestore_test

import (
	"os"
	"path/filepath"
	"testing"

	"tapedeck/shared/sqlitestore"
	"tapedeck/shared/storetest"
)

func BenchmarkStore(b *testing.B) {
	storetest.Bench(b, mustOpen(b, filepath.Join(b.TempDir(), "bench.db"), sqlitestore.ReadWrite))
}

// BenchmarkOverhead reports what a block takes in the file beside its data.
func BenchmarkOverhead(b *testing.B) {
	var perBlock float64
	for b.Loop() {
		path := filepath.Join(b.TempDir(), "bench.db")
		s := mustOpen(b, path, sqlitestore.ReadWrite)
		data, blocks, random := 0, 0, make([]byte, 1<<20)
		for second := range 200 {
			batch := storetest.BenchBatch(second, random)
			batch.Keyframes = nil
			for _, block := range batch.Blocks {
				data += len(block.Data)
			}
			blocks += len(batch.Blocks)
			if err := s.Write(b.Context(), batch); err != nil {
				b.Fatal(err)
			}
		}
		if err := s.Close(b.Context()); err != nil {
			b.Fatal(err)
		}
		file, err := os.Stat(path)
		if err != nil {
			b.Fatal(err)
		}
		perBlock = float64(file.Size()-int64(data)) / float64(blocks)
	}
	b.ReportMetric(perBlock, "overhead_bytes/block")
}
