package spool

import (
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// modelled is a spool beside what is known of it.
type modelled struct {
	t    *rapid.T
	cfg  Config
	disk *faultyDisk
	s    *Spool

	next      int   // number of the next record
	log       []int // what was taken and not acknowledged, oldest first
	durable   int   // of log, from its start
	returned  int   // of log
	positions []Position
	refused   bool // the record that will be appended next follows one that was refused
	marked    map[int]bool
}

// TestModel compares a spool with a list.
func TestModel(t *testing.T) {
	t.Parallel()
	base, runs := t.TempDir(), 0
	rapid.Check(t, func(t *rapid.T) {
		runs++
		m := &modelled{t: t, disk: &faultyDisk{quick: true}, next: 1, marked: map[int]bool{}}
		m.cfg = Config{
			Dir: filepath.Join(base, strconv.Itoa(runs)), SyncInterval: time.Hour, // only when told, so that the model knows
			MaxBytes:     rapid.Int64Range(8<<10, 64<<10).Draw(t, "max bytes"),
			SegmentBytes: rapid.Int64Range(1, 4<<10).Draw(t, "segment bytes"),
			BufferBytes:  1 << 20,
		}
		m.open()
		defer func() { m.s.Close() }()
		t.Repeat(map[string]func(*rapid.T){
			"append": func(*rapid.T) { m.append() },
			"sync":   func(*rapid.T) { m.sync() },
			"next":   func(t *rapid.T) { m.take(rapid.IntRange(1, 9).Draw(t, "records")) },
			"ack":    func(t *rapid.T) { m.ack(rapid.IntRange(1, 20).Draw(t, "records")) },
			"close":  func(*rapid.T) { m.close() },
			"crash":  func(*rapid.T) { m.crash() },
		})
	})
}

func (m *modelled) open() {
	s, err := open(m.cfg, quiet(), m.disk)
	if err != nil {
		m.t.Fatal(err)
	}
	m.s = s
	var found []int
	for record := range s.Recovered() {
		found = append(found, recordNumber(record))
	}
	if !slices.Equal(found, m.log) {
		m.t.Fatalf("recovered %v, not %v", found, m.log)
	}
	m.returned, m.positions, m.durable = 0, nil, len(m.log)
}

func (m *modelled) append() {
	if taken := m.s.Append(numbered(m.next)); !taken {
		// A segment that is partly acknowledged counts wholly, and each record for a few bytes more than it takes.
		if stats := m.s.Stats(); stats.DiskBytes+int64(stats.BufferedBytes) < m.cfg.MaxBytes/4 {
			m.t.Fatalf("refused with room: %+v", stats)
		}
		m.refused = true
		return
	}
	m.marked[m.next], m.refused = m.refused, false
	m.log = append(m.log, m.next)
	m.next++
}

func (m *modelled) sync() {
	if err := m.s.Sync(m.t.Context()); err != nil {
		m.t.Fatal(err)
	}
	m.durable = len(m.log)
	if stats := m.s.Stats(); stats.DiskBytes > m.cfg.MaxBytes || stats.DiskRecords != int64(len(m.log)) {
		m.t.Fatalf("%d records, and %+v", len(m.log), stats)
	}
}

func (m *modelled) take(n int) {
	if m.returned == len(m.log) {
		return
	}
	records, err := m.s.Next(m.t.Context(), n, 500)
	if err != nil {
		m.t.Fatal(err)
	}
	if len(records) > n {
		m.t.Fatalf("%d records, not %d", len(records), n)
	}
	for _, r := range records {
		want := m.log[m.returned]
		if number := recordNumber(r.Data); number != want || !slices.Equal(r.Data, numbered(want)) || (r.Lost != LossNone) != m.marked[want] {
			m.t.Fatalf("record %d (%v), not %d (%v)", number, r.Lost, want, m.marked[want])
		}
		m.returned++
		m.positions = append(m.positions, r.Position)
	}
}

func (m *modelled) ack(n int) {
	if n = min(n, len(m.positions)); n == 0 {
		return
	}
	m.s.Ack(m.positions[n-1])
	m.log, m.positions = m.log[n:], m.positions[n:]
	m.returned -= n
	m.durable = max(m.durable-n, 0)
}

func (m *modelled) close() {
	if err := m.s.Close(); err != nil {
		m.t.Fatal(err)
	}
	m.open()
}

// crash loses what was not durable. What was acknowledged just before may come again, and is acknowledged again.
func (m *modelled) crash() {
	m.disk.fail(func(operation, _ string) error {
		if changes(operation) {
			return errKilled
		}
		return nil
	})
	m.s.Close()
	m.disk.fail(nil)
	s, err := open(m.cfg, quiet(), m.disk)
	if err != nil {
		m.t.Fatal(err)
	}
	m.log = m.log[:m.durable]
	oldest := m.next
	if len(m.log) > 0 {
		oldest = m.log[0]
	}
	again := 0
	for record := range s.Recovered() {
		if recordNumber(record) >= oldest {
			break
		}
		again++
	}
	for again > 0 {
		records, err := s.Next(m.t.Context(), again, 1<<20)
		if err != nil {
			m.t.Fatal(err)
		}
		again -= len(records)
		s.Ack(records[len(records)-1].Position)
	}
	if err := s.Close(); err != nil {
		m.t.Fatal(err)
	}
	m.refused = s.lost != LossNone
	m.open()
}
