package sink_test

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"tapedeck/ingester/internal/sink"
	"tapedeck/ingester/internal/spool"
	"tapedeck/shared/market"
)

// openSpool opens a real spool.
func openSpool(t *testing.T, cfg spool.Config) *spool.Spool {
	t.Helper()
	cfg.BufferBytes, cfg.SyncInterval = 1<<20, time.Millisecond
	log, err := spool.Open(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	return log
}

// large is a block of ten ids and some kilobytes.
func large(n int64) *market.Batch {
	b := block(10*n+1, 10*n+10)
	b.Blocks[0].Data = bytes.Repeat([]byte{byte(n)}, 4<<10)
	return b
}

// accounted checks that the ids first to last are in spans or ledger entries of the cause, and in no other entry, and
// returns how many are missing.
func accounted(t *testing.T, store *fakeStore, first, last int64, cause market.Cause) (missing int64) {
	t.Helper()
	covered := map[int64]bool{}
	for _, s := range spans(t, store) {
		for id := s[0]; id <= s[1]; id++ {
			covered[id] = true
		}
	}
	for _, g := range gaps(t, store) {
		if g.Cause != cause || g.RepairedAt == 0 {
			t.Errorf("ledger entry %+v", g)
		}
		for id := g.FirstID; id <= g.LastID; id++ {
			if covered[id] {
				t.Errorf("%d is held, or in two entries", id)
			}
			covered[id] = true
			missing++
		}
	}
	for id := first; id <= last; id++ {
		if !covered[id] {
			t.Errorf("%d is neither held nor in the ledger", id)
			break
		}
	}
	return missing
}

// TestDroppedOldest: what a full spool gave up is in the ledger, with exactly its ids.
func TestDroppedOldest(t *testing.T) {
	log := openSpool(t, spool.Config{Dir: t.TempDir(), MaxBytes: 1 << 20, SegmentBytes: 64 << 10, DropOldest: true})
	store := newStore()
	h := start(t, store, log, sink.Config{SpoolBytes: 1 << 20})
	h.put(large(0))
	for len(store.written()) == 0 {
		<-time.After(time.Millisecond)
	}
	store.fail(errDown)
	for n := range int64(500) {
		h.put(large(n + 1))
		if n%50 == 0 { // or the buffer is full before the disk is
			if err := log.Sync(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if h.metric("tapedeck_spool_dropped_batches_total") == 0 {
		t.Fatal("nothing was dropped")
	}
	store.fail(nil)
	h.put(large(501))
	h.drain()
	if missing := accounted(t, store, 1, 5020, market.CauseOverflow); missing < 1000 || missing > 4500 || missing%10 != 0 {
		t.Errorf("%d ids missing", missing)
	}
	if got := store.written(); !slices.IsSorted(got) || got[len(got)-1] != 5011 {
		t.Errorf("written: %v", got)
	}
}

// TestDamagedOnDisk: what cannot be read any more is in the ledger, with exactly its ids.
func TestDamagedOnDisk(t *testing.T) {
	dir := t.TempDir()
	cfg := spool.Config{Dir: dir, MaxBytes: 8 << 20, SegmentBytes: 64 << 10}
	log, store := openSpool(t, cfg), newStore()
	h := start(t, store, log, sink.Config{})
	h.put(large(0))
	for len(store.written()) == 0 {
		<-time.After(time.Millisecond)
	}
	store.fail(errDown)
	for n := range int64(100) {
		h.put(large(n + 1))
	}
	h.Close(t.Context())
	h.kill()
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}

	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	damaged := 0
	for _, file := range files { // the data of blocks 50 to 52
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for n := byte(50); n < 53; n++ {
			if at := bytes.Index(data, bytes.Repeat([]byte{n}, 4<<10)); at >= 0 {
				data[at+100] ^= 1
				damaged++
			}
		}
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if damaged != 3 {
		t.Fatalf("%d blocks found on disk", damaged)
	}

	store.fail(nil)
	h = start(t, store, openSpool(t, cfg), sink.Config{})
	h.drain()
	if missing := accounted(t, store, 1, 1010, market.CauseDamaged); missing < 30 || missing > 300 || missing%10 != 0 {
		t.Errorf("%d ids missing", missing)
	}
	if h.metric("tapedeck_spool_damaged_batches_total") == 0 {
		t.Error("the damage is not counted")
	}
}

// TestRealSpoolAcrossRestarts: several processes one after the other, with the store away at each end.
func TestRealSpoolAcrossRestarts(t *testing.T) {
	cfg := spool.Config{Dir: t.TempDir(), MaxBytes: 8 << 20}
	store := newStore()
	for n := range int64(4) {
		log := openSpool(t, cfg)
		h := start(t, store, log, sink.Config{})
		store.fail(nil)
		if tail, err := h.Tail(t.Context(), series); n > 0 && (err != nil || tail.LastID != 30*n) {
			t.Errorf("Tail() = %d, %v", tail.LastID, err)
		}
		h.put(large(3*n), large(3*n+1))
		for got := store.written(); len(got) == 0 || got[len(got)-1] < 30*n+11; got = store.written() {
			<-time.After(time.Millisecond)
		}
		store.fail(errDown)
		h.put(large(3*n + 2))
		h.Close(t.Context())
		h.kill()
		if err := log.Close(); err != nil {
			t.Fatal(err)
		}
	}
	store.fail(nil)
	h := start(t, store, openSpool(t, cfg), sink.Config{})
	h.drain()
	if got := spans(t, store); len(got) != 1 || got[0] != [2]int64{1, 120} || len(gaps(t, store)) != 0 {
		t.Errorf("spans %v, ledger %+v", got, gaps(t, store))
	}
	if got := store.written(); len(got) != 12 {
		t.Errorf("%d blocks written, want 12: %v", len(got), got)
	}
}
