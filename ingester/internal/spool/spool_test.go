package spool

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"tapedeck/shared/market"
)

func TestRecordsComeBackInOrder(t *testing.T) {
	cfg := testConfig(t.TempDir())
	s := mustOpen(t, cfg)
	fill(t, s, 1, 100)
	got, last := take(t, s, 40)
	expect(t, got, run(1, 40, LossNone))
	s.Ack(last)
	got, _ = take(t, s, 20) // returned, and never acknowledged
	expect(t, got, run(41, 60, LossNone))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	s = mustOpen(t, cfg)
	var recovered []delivered
	for record := range s.Recovered() {
		recovered = append(recovered, delivered{number: numberOf(t, record)})
	}
	expect(t, recovered, run(41, 100, LossNone))
	fill(t, s, 101, 110)
	got, last = drain(t, s)
	expect(t, got, run(41, 110, LossNone))
	s.Ack(last)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got := names(t, cfg.Dir); !slices.Equal(got, []string{checkpointName, lockName}) {
		t.Errorf("with everything acknowledged there are %v", got)
	}

	s = mustOpen(t, cfg)
	if got, _ := drain(t, s); len(got) != 0 {
		t.Errorf("delivered again: %v", got)
	}
}

func TestNextObeysItsBounds(t *testing.T) {
	for _, onDisk := range []bool{false, true} {
		cfg := testConfig(t.TempDir())
		cfg.SyncInterval = time.Hour // in memory until Sync
		s := mustOpen(t, cfg)
		for _, size := range []int{10, 10, 10, 2000, 10, 0, 10} {
			if !s.Append(make([]byte, size)) {
				t.Fatal("refused")
			}
		}
		if onDisk {
			if err := s.Sync(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		var sizes [][]int
		for _, bound := range []struct{ records, bytes int }{{2, 100}, {100, 100}, {100, 100}, {100, 9}, {100, 100}} {
			records, err := s.Next(t.Context(), bound.records, bound.bytes)
			if err != nil {
				t.Fatal(err)
			}
			var group []int
			for _, r := range records {
				group = append(group, len(r.Data))
			}
			sizes = append(sizes, group)
		}
		want := [][]int{{10, 10}, {10}, {2000}, {10}, {0, 10}}
		if !slices.EqualFunc(sizes, want, slices.Equal[[]int]) {
			t.Errorf("on disk %v: groups of %v, not %v", onDisk, sizes, want)
		}
	}
}

func TestNextWaitsAndEnds(t *testing.T) {
	s := mustOpen(t, testConfig(t.TempDir()))
	if _, err := s.Next(ended(t), 1, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("with a done context: %v", err)
	}
	type result struct {
		records []Record
		err     error
	}
	results := make(chan result)
	next := func() {
		records, err := s.Next(t.Context(), 10, 1000)
		results <- result{records, err}
	}
	go next()
	if !s.Append(numbered(1)) {
		t.Fatal("refused")
	}
	if r := <-results; r.err != nil || len(r.records) != 1 || numberOf(t, r.records[0].Data) != 1 {
		t.Errorf("Next returned %v", r)
	}
	go next()
	s.Seal()
	if r := <-results; !errors.Is(r.err, io.EOF) {
		t.Errorf("sealed: %v", r)
	}
	if s.Append(numbered(2)) {
		t.Error("a sealed spool takes a record")
	}
}

func TestCloseEndsNext(t *testing.T) {
	cfg := testConfig(t.TempDir())
	s := mustOpen(t, cfg)
	fill(t, s, 1, 3)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Next(t.Context(), 1, 1); !errors.Is(err, io.EOF) {
		t.Errorf("closed: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("closed twice: %v", err)
	}
	if s.Append(numbered(4)) {
		t.Error("a closed spool takes a record")
	}
	got, _ := drain(t, mustOpen(t, cfg))
	expect(t, got, run(1, 3, LossNone))
}

func TestDirectoryBelongsToOne(t *testing.T) {
	cfg := testConfig(t.TempDir())
	s := mustOpen(t, cfg)
	_, err := Open(cfg, quiet())
	if market.KindOf(err) != market.KindUnavailable || !strings.Contains(err.Error(), cfg.Dir) || !strings.Contains(err.Error(), "in use") {
		t.Errorf("opened twice: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	mustOpen(t, cfg)
}

func TestOpenRefuses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		change func(*Config)
		kind   market.Kind
	}{
		"no directory":     {func(c *Config) { c.Dir = "" }, market.KindInvalid},
		"no bound":         {func(c *Config) { c.MaxBytes = 0 }, market.KindInvalid},
		"no buffer":        {func(c *Config) { c.BufferBytes = 0 }, market.KindInvalid},
		"negative segment": {func(c *Config) { c.SegmentBytes = -1 }, market.KindInvalid},
		"a file":           {func(c *Config) { c.Dir = file }, market.KindUnavailable},
	} {
		cfg := testConfig(t.TempDir())
		tt.change(&cfg)
		if _, err := Open(cfg, quiet()); market.KindOf(err) != tt.kind {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNoteOutlivesTheRecords(t *testing.T) {
	cfg := testConfig(t.TempDir())
	s := mustOpen(t, cfg)
	if s.Note() != nil {
		t.Error("a new spool has a note")
	}
	s.SetNote(func() []byte { return []byte("after record 10") })
	fill(t, s, 1, 10)
	_, last := take(t, s, 10)
	s.Ack(last)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 { // also when nobody set one in between
		s = mustOpen(t, cfg)
		if got := s.Note(); string(got) != "after record 10" {
			t.Errorf("the note is %q", got)
		}
		fill(t, s, 11, 12)
		_, last = take(t, s, 2)
		s.Ack(last)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// The note and what it belongs to become durable in one step, however the crash falls.
func TestNoteIsNeverOlderThanWhatIsAcknowledged(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t.TempDir())
	cfg.MaxBytes = 1 << 20
	acked := 0
	for stop := range 40 {
		disk := &faultyDisk{}
		s := mustOpenOn(t, cfg, disk)
		noted := 0
		if note := s.Note(); note != nil {
			noted = numberOf(t, note)
		}
		first := noted + 1
		for record := range s.Recovered() {
			first = numberOf(t, record)
			break
		}
		if first > noted+1 {
			t.Fatalf("the log begins with %d, the note is of %d", first, noted)
		}
		s.SetNote(func() []byte { s.mu.Lock(); defer s.mu.Unlock(); return numbered(acked) })
		operations := 0
		disk.fail(func(operation, _ string) error {
			if changes(operation) {
				operations++
			}
			if changes(operation) && operations > stop {
				return errKilled
			}
			return nil
		})
		next := first
		for record := range s.Recovered() {
			next = numberOf(t, record) + 1
		}
		for n := next; n < next+30; n++ {
			if !s.Append(numbered(n)) {
				t.Fatal("refused")
			}
		}
		for range 10 {
			records, err := s.Next(t.Context(), 2, 1000)
			if err != nil {
				t.Fatal(err)
			}
			r := records[len(records)-1]
			s.mu.Lock()
			acked = numberOf(t, r.Data)
			s.mu.Unlock()
			s.Ack(r.Position)
		}
		s.Close()
	}
}

func TestGroupCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := &faultyDisk{}
		var syncs []time.Time
		cfg := testConfig(t.TempDir())
		cfg.SyncInterval = 100 * time.Millisecond
		s := mustOpenOn(t, cfg, disk)
		disk.fail(func(operation, _ string) error {
			if operation == "sync" {
				syncs = append(syncs, time.Now())
			}
			return nil
		})
		start := time.Now()
		for n := range 10 {
			s.Append(numbered(n))
			<-time.After(15 * time.Millisecond)
		}
		<-time.After(time.Minute)
		disk.fail(nil)
		// The eighth record, after 105 ms, is the first that the first sync does not hold.
		want := []time.Time{start.Add(100 * time.Millisecond), start.Add(205 * time.Millisecond)}
		if !slices.EqualFunc(syncs, want, time.Time.Equal) {
			t.Errorf("synced at %v, not %v", syncs, want)
		}
		if stats := s.Stats(); stats.DiskRecords != 10 || stats.BufferedRecords != 0 {
			t.Errorf("%+v", stats)
		}
		s.Close()
	})
}

func TestStats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := testConfig(t.TempDir())
		s := mustOpen(t, cfg)
		if got := s.Stats(); got != (Stats{}) {
			t.Errorf("empty: %+v", got)
		}
		start := time.Now()
		for n := range 40 {
			s.Append(numbered(n))
			<-time.After(time.Second)
		}
		stats := s.Stats()
		if stats.DiskRecords != 40 || stats.BufferedBytes != 0 || stats.Segments < 2 || !stats.Oldest.Equal(start) {
			t.Errorf("filled: %+v", stats)
		}
		var bytes int64
		for _, path := range segmentFiles(t, cfg.Dir) {
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			bytes += info.Size()
		}
		if stats.DiskBytes != bytes {
			t.Errorf("%d bytes on disk, counted %d", bytes, stats.DiskBytes)
		}
		_, last := take(t, s, 10)
		s.Ack(last)
		take(t, s, 5)
		if got := s.Stats(); got.DiskRecords != 30 || !got.Oldest.Equal(start.Add(10*time.Second)) {
			t.Errorf("10 acknowledged, 5 in flight: %+v", got)
		}
		_, last = take(t, s, 25)
		s.Ack(last)
		<-time.After(2 * checkpointInterval)
		if got := s.Stats(); got.DiskRecords != 0 || got.Segments != 1 || !got.Oldest.IsZero() {
			t.Errorf("all acknowledged: %+v", got)
		}
		s.Close()
	})
}

// TestOffer: what is offered is taken while there is much room and the disk works, and is not missed otherwise.
func TestOffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := &faultyDisk{}
		cfg := testConfig(t.TempDir())
		s := mustOpenOn(t, cfg, disk)
		taken := 0
		for s.Offer(numbered(taken + 1)) {
			taken++
		}
		if n := s.Stats().BufferedBytes; n > cfg.BufferBytes/2 || n < cfg.BufferBytes/3 {
			t.Errorf("%d bytes of %d in memory were taken", n, cfg.BufferBytes)
		}
		for s.Stats().DiskBytes < cfg.MaxBytes*9/20 {
			for s.Offer(numbered(taken + 1)) {
				taken++
			}
			if err := s.Sync(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		for s.Offer(numbered(taken + 1)) {
			taken++
		}
		if err := s.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := s.Stats().DiskBytes; n > cfg.MaxBytes/2 {
			t.Errorf("%d bytes of %d on disk were taken", n, cfg.MaxBytes)
		}
		got, last := take(t, s, taken)
		if i := slices.IndexFunc(got, func(d delivered) bool { return d.lost != LossNone }); i >= 0 || s.Stats().DroppedRecords != 0 {
			t.Errorf("record %d: what was only offered is missed", i)
		}
		s.Ack(last)
		<-time.After(5 * time.Second)
		disk.fail(func(operation, _ string) error {
			if changes(operation) {
				return syscall.EIO
			}
			return nil
		})
		if !s.Append(numbered(taken + 1)) {
			t.Fatal("refused")
		}
		<-time.After(time.Second)
		if s.Offer(numbered(taken + 2)) {
			t.Error("taken for a disk that fails")
		}
		take(t, s, 1)
		s.Ack(last + 1)
	})
}

func TestFullRefusesTheNewest(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t.TempDir())
	s := mustOpen(t, cfg)
	taken := 0
	for s.Append(numbered(taken + 1)) {
		taken++
		if err := s.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if s.Append(make([]byte, 1000)) {
		t.Fatal("a full spool takes a record")
	}
	stats := s.Stats()
	if stats.DroppedRecords != 2 || stats.DiskBytes > cfg.MaxBytes || stats.DiskBytes < cfg.MaxBytes*9/10 {
		t.Errorf("full: %+v", stats)
	}
	got, last := take(t, s, taken)
	expect(t, got, run(1, taken, LossNone))
	waited := make(chan bool)
	go func() { waited <- s.AppendWait(t.Context(), numbered(taken+1)) }()
	s.Ack(last)
	if !<-waited {
		t.Fatal("no room after everything was acknowledged")
	}
	fill(t, s, taken+2, taken+3)
	got, _ = drain(t, s)
	expect(t, got, run(taken+1, taken+3, LossDropped))

	// The mark is on disk too.
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	got, _ = drain(t, mustOpen(t, cfg))
	expect(t, got, run(taken+1, taken+3, LossDropped))
}

func TestRefusalIsRememberedWithoutARecord(t *testing.T) {
	cfg := testConfig(t.TempDir())
	s := mustOpen(t, cfg)
	if s.AppendWait(t.Context(), make([]byte, cfg.MaxBytes)) {
		t.Fatal("took what it cannot hold")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, cfg)
	fill(t, s, 1, 2)
	got, _ := drain(t, s)
	expect(t, got, run(1, 2, LossDropped))
}

func TestAppendWaitGivesUp(t *testing.T) {
	cfg := testConfig(t.TempDir())
	s := mustOpen(t, cfg)
	for s.Append(make([]byte, 3000)) {
		if err := s.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if s.AppendWait(ended(t), make([]byte, 3000)) {
		t.Error("took a record without room")
	}
	if got := s.Stats().DroppedRecords; got != 2 {
		t.Errorf("%d records counted as dropped", got)
	}
}

// A record of nearly the size of the spool must not wait for ever behind what is done with.
func TestRoomForALongRecord(t *testing.T) {
	cfg := testConfig(t.TempDir())
	s := mustOpen(t, cfg)
	long := bytes.Repeat([]byte{7}, int(cfg.MaxBytes)-entryBytes-18*headerBytes)
	for range 3 {
		fill(t, s, 1, 3)
		_, last := take(t, s, 3)
		s.Ack(last)
		if !s.AppendWait(t.Context(), long) {
			t.Fatal("refused")
		}
		if err := s.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		records, err := s.Next(t.Context(), 1, 1)
		if err != nil || len(records) != 1 || !bytes.Equal(records[0].Data, long) {
			t.Fatalf("%d records, %v", len(records), err)
		}
		s.Ack(records[0].Position)
	}
	if got := s.Stats(); got.DiskBytes > cfg.MaxBytes || got.DroppedRecords != 0 {
		t.Errorf("%+v", got)
	}
}

func TestFullDropsTheOldest(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t.TempDir())
	cfg.DropOldest = true
	s := mustOpen(t, cfg)
	fill(t, s, 1, 20)
	got, _ := take(t, s, 5) // in flight while their segment is given up
	expect(t, got, run(1, 5, LossNone))
	fill(t, s, 21, 1000)
	stats := s.Stats()
	if stats.DiskBytes > cfg.MaxBytes || stats.DroppedRecords == 0 {
		t.Fatalf("%+v", stats)
	}
	first := 6 + int(stats.DroppedRecords)
	got, _ = take(t, s, 10)
	expect(t, got, run(first, first+9, LossDropped))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	// Not acknowledged, and given up: the next life knows it too.
	s = mustOpen(t, cfg)
	got, _ = drain(t, s)
	expect(t, got, run(first, 1000, LossDropped))
}

func TestForeignFilesAreLeftAlone(t *testing.T) {
	cfg := testConfig(t.TempDir())
	s := mustOpen(t, cfg)
	fill(t, s, 1, 60)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	original, err := os.ReadFile(segmentFiles(t, cfg.Dir)[0])
	if err != nil {
		t.Fatal(err)
	}
	foreign := []string{"README", "0000000000000001.segment.bak", "1.segment", "0000000000000050.segment", "0000000000000051.segment.damaged"}
	for _, name := range foreign {
		if err := os.WriteFile(filepath.Join(cfg.Dir, name), original, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(cfg.Dir, "0000000000000052.segment"), 0o700); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, cfg)
	fill(t, s, 61, 100)
	got, last := drain(t, s)
	expect(t, got, run(1, 100, LossNone))
	s.Ack(last)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range foreign {
		if b, err := os.ReadFile(filepath.Join(cfg.Dir, name)); err != nil || !bytes.Equal(b, original) {
			t.Errorf("%s was touched (%v)", name, err)
		}
	}
}
