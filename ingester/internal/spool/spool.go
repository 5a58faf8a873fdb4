// Package spool is a log of opaque records on disk, between one who appends and one who forwards. What was appended
// is on disk a moment later, stays there until it is acknowledged, and is delivered in the order of the appends, across
// restarts and crashes. The log is bounded in bytes, in memory and on disk. See docs/adr/0009-spool.md.
package spool

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/gofrs/flock"

	"tapedeck/shared/market"
)

// Config is how a spool works. It is bounded by MaxBytes on disk, and by BufferBytes plus one group of Next in memory.
type Config struct {
	Dir          string        // made when it is not there; one spool at a time may have it
	MaxBytes     int64         // of all segments on disk; at least 4 KiB
	SegmentBytes int64         // at which a new segment begins; 0 = 16 MiB; at least 1 KiB and at most a quarter of MaxBytes is used
	BufferBytes  int           // of records that were appended and are not on disk yet
	SyncInterval time.Duration // for which appended records are gathered before they are written and synced; 0 = 100 ms
	DropOldest   bool          // when MaxBytes is reached or the volume is full: give up the oldest segment instead of refusing what comes
}

// Position is the place of a record in the log: a later record has a greater one, also after another Open, and none is
// 0. Numbers may be left out. What a note says of positions that Next had returned holds in later lives: no other record
// gets one of them. One that no note speaks of, of a record that a crash took from memory, may be used again.
type Position uint64

// Loss says why records that once stood directly before a record are missing.
type Loss uint8

// The losses.
const (
	LossNone    Loss = iota // nothing is missing
	LossDropped             // records were refused or given up because the spool was full
	LossDamaged             // records were on disk and cannot be read any more
)

// Record is a record as it is delivered.
type Record struct {
	Data     []byte    // as it was appended; it must not be changed
	Position Position  // for Ack
	Appended time.Time // when it was appended, by the clock of this machine
	Lost     Loss      // whether records between the one delivered before and this one are missing
}

// Stats is the state of a spool at one moment. Counts of records that were lost are since Open.
type Stats struct {
	DiskBytes       int64     // of all segment files
	DiskRecords     int64     // durable and not acknowledged
	Segments        int       // files
	BufferedBytes   int       // in memory, not durable yet
	BufferedRecords int       // the same
	Oldest          time.Time // when the oldest record that is not acknowledged was appended, about; zero when there is none
	DroppedRecords  int64     // refused or given up because the spool was full
	DamagedRecords  int64     // that were on disk and could not be read, as far as they can be counted
	DamagedSegments int       // files known to be damaged, also at Open; once their readable part is acknowledged they are kept as *.damaged
	DiskError       error     // why the disk is not usable at present; nil when it is
}

// Spool is safe for concurrent use, but Next is for one goroutine at a time. Make one with Open, end it with Close.
type Spool struct {
	cfg    Config
	log    *slog.Logger
	disk   fileSystem
	lock   *flock.Flock
	locked fs.FileInfo // of the lock file

	found          []byte // the note
	recovered      []segment
	recoveredAfter Position

	wake  chan struct{} // holds a token when the writer should look what there is to do
	ready chan struct{} // holds a token when Next should
	done  chan struct{} // closed when the writer has ended
	once  sync.Once     // of Close

	w writer // the writer's own

	readMu sync.Mutex // held while a segment is read; taken before mu
	read   reader     // of Next

	mu       sync.Mutex // never held while the disk is used
	segments []*segment // in the order of their records; the active one is the last
	bytes    int64      // of them
	aside    []string   // names of files that were set aside, oldest first
	number   uint64     // of the newest segment

	committing []entry   // what is being written; then comes pending
	pending    []entry   // what is not
	buffered   int       // cost of both
	since      time.Time // when the first of pending was appended

	last         Position // that was given to a record
	durable      Position // the last record that is in a segment
	returned     Position // by Next
	acked        Position
	checkpointed Position // acked as it is durable
	dropped      Position // what is missing up to here was given up
	syncTo       Position // what somebody waits for in Sync
	lost         Loss     // of the next record
	note         func() []byte

	room     chan struct{} // made by who waits for room, closed when there may be some
	short    bool          // a record was not taken or written for want of room on disk, and nothing was removed since
	progress chan struct{} // closed and replaced when durable or acked grows, or the writer has ended

	inFlight []delivery // returned and not acknowledged, oldest first
	lastTime time.Time  // when the record last returned was appended

	sealed, closing, closed bool
	closeErr                error

	diskErr     error // why the last work of the writer failed
	backoff     time.Duration
	retryAt     time.Time
	readFailing time.Time // since when a segment cannot be read
	away        bool      // why: the directory is not there

	droppedRecords, damagedRecords int64
}

// entry is a record in memory.
type entry struct {
	data     []byte
	position Position
	appended time.Time
	lost     Loss
}

// entryBytes is what a record costs in memory beside its data, and more than what it does on disk.
const entryBytes = 64

func cost(record []byte) int { return entryBytes + len(record) }

// delivery is what one call of Next returned.
type delivery struct {
	last     Position
	appended time.Time // of the first
}

// maxInFlight is of how many deliveries the age is known apart.
const maxInFlight = 64

const (
	lockName            = "lock"
	defaultSegmentBytes = 16 << 20
	defaultSyncInterval = 100 * time.Millisecond
	minSegmentBytes     = 1 << 10
	segmentsPerSpool    = 4 // at least, so that room appears in pieces
)

// Open opens the spool in a directory, or begins one. It fails with KindInvalid when cfg cannot work, and with
// KindUnavailable when another spool has the directory or it cannot be read or written. Nothing that is in the
// directory makes it fail: a torn tail is cut off, and what is damaged is left or set aside. A full disk does not make
// it fail either, as records can be forwarded from memory.
func Open(cfg Config, log *slog.Logger) (*Spool, error) { return open(cfg, log, operatingSystem{}) }

func open(cfg Config, log *slog.Logger, disk fileSystem) (s *Spool, err error) {
	defer market.Wrap(&err, "open the spool in %s", cfg.Dir)
	if cfg.Dir == "" || cfg.BufferBytes <= 0 || cfg.MaxBytes < segmentsPerSpool*minSegmentBytes ||
		cfg.SegmentBytes < 0 || cfg.SyncInterval < 0 {
		return nil, market.Errorf(market.KindInvalid, "a directory and bounds above zero are needed: %+v", cfg)
	}
	cfg.SegmentBytes = min(max(cmp.Or(cfg.SegmentBytes, defaultSegmentBytes), minSegmentBytes), cfg.MaxBytes/segmentsPerSpool)
	cfg.SyncInterval = cmp.Or(cfg.SyncInterval, defaultSyncInterval)
	if err := disk.MkdirAll(cfg.Dir); err != nil {
		return nil, market.Errorf(market.KindUnavailable, "%w", err)
	}
	lock := flock.New(filepath.Join(cfg.Dir, lockName))
	switch held, err := lock.TryLock(); {
	case err != nil:
		return nil, market.Errorf(market.KindUnavailable, "%w", err)
	case !held:
		return nil, market.Errorf(market.KindUnavailable, "the directory is in use by another spool")
	}
	s, err = openLocked(cfg, log, disk, lock)
	if err != nil {
		return nil, errors.Join(market.Errorf(market.KindUnavailable, "%w", err), lock.Unlock())
	}
	return s, nil
}

// openLocked opens the spool in a directory that belongs to it.
func openLocked(cfg Config, log *slog.Logger, disk fileSystem, lock *flock.Flock) (*Spool, error) {
	locked, err := lock.Stat()
	if err != nil {
		return nil, err
	}
	r := recovery{disk: disk, dir: cfg.Dir, log: log}
	if err := r.recover(); err != nil {
		return nil, err
	}
	s := r.open(cfg)
	s.lock, s.locked = lock, locked
	s.limitAside()
	if err := s.advance(); err != nil {
		if !noSpace(err) {
			return nil, err
		}
		log.Error("the disk of the spool is full; records wait in memory", "dir", cfg.Dir, "error", err)
		s.diskErr = err
	}
	go s.run()
	return s, nil
}

// Append appends a record, in the order of the calls. It does not wait, and returns false when the spool is full or
// sealed. What is refused is counted as dropped, and the next record that is taken is delivered with LossDropped. The
// spool keeps the slice: it must not be changed afterwards. An empty record is allowed.
//
// A record is durable SyncInterval and one sync of the disk later, or two while the disk is slow.
func (s *Spool) Append(record []byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.take(record) {
		return true
	}
	s.refuse()
	return false
}

// Offer appends a record that the appender can do without: while the disk works and the spool is less than half full.
// What is refused counts as if it had never been.
func (s *Spool) Offer(record []byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.buffered + cost(record)
	return s.diskErr == nil && n <= s.cfg.BufferBytes/2 && s.bytes+s.onDisk(n) <= s.cfg.MaxBytes/2 && s.take(record)
}

// AppendWait is Append that waits for room until ctx is done. A record that no room can ever hold is refused at once.
func (s *Spool) AppendWait(ctx context.Context, record []byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.take(record) {
		if s.sealed || !s.holdable(record) || ctx.Err() != nil {
			s.refuse()
			return false
		}
		if s.room == nil {
			s.room = make(chan struct{})
		}
		room := s.room
		s.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
		}
		s.mu.Lock()
	}
	return true
}

// holdable reports whether a record fits into the spool when nothing else is in it.
func (s *Spool) holdable(record []byte) bool {
	return len(record) <= maxRecordBytes && s.onDisk(cost(record)) <= s.cfg.MaxBytes
}

// onDisk returns how much n bytes of records take on disk at most.
func (s *Spool) onDisk(n int) int64 { return int64(n) + headerBytes*(2+int64(n)/s.cfg.SegmentBytes) }

// take appends a record if there is room. A record longer than BufferBytes is let in when nothing else is in memory. For
// use under mu.
func (s *Spool) take(record []byte) bool {
	n := cost(record)
	if s.sealed || !s.holdable(record) {
		return false
	}
	if s.buffered+n > s.cfg.BufferBytes {
		s.release()
		if s.buffered > 0 && s.buffered+n > s.cfg.BufferBytes {
			return false
		}
	}
	if !s.cfg.DropOldest && s.bytes+s.onDisk(s.buffered+n) > s.cfg.MaxBytes {
		s.short = true
		notify(s.wake)
		return false
	}
	s.last++
	now := time.Now()
	if len(s.pending) == 0 {
		s.since = now
		notify(s.wake)
	}
	if before := s.buffered; before <= s.cfg.BufferBytes/2 && before+n > s.cfg.BufferBytes/2 {
		notify(s.wake)
	}
	s.pending = append(s.pending, entry{data: record, position: s.last, appended: now, lost: s.lost})
	s.buffered += n
	s.lost = LossNone
	notify(s.ready)
	return true
}

// refuse counts a record that was not taken. For use under mu.
func (s *Spool) refuse() {
	s.droppedRecords++
	s.lost = LossDropped
}

// release takes acknowledged records out of memory that would otherwise still be written. It is done only when memory
// is short or the disk fails, since the next record then needs a segment of its own. For use under mu.
func (s *Spool) release() {
	n := 0
	for n < len(s.pending) && s.pending[n].position <= s.acked {
		n++
	}
	if n > 0 {
		s.forget(s.pending[:n])
		s.pending = s.pending[n:]
		s.announce()
	}
}

// forget takes entries off the account of what is in memory. For use under mu.
func (s *Spool) forget(entries []entry) {
	for i := range entries {
		s.buffered -= cost(entries[i].data)
	}
	clear(entries) // the rest of the slice may live on
}

// announce wakes those who wait for room or in Sync. For use under mu.
func (s *Spool) announce() {
	if s.room != nil {
		close(s.room)
		s.room = nil
	}
	close(s.progress)
	s.progress = make(chan struct{})
}

// Ack says that everything up to p, a position that Next returned, is done with and may be forgotten. This becomes
// durable a second later or so: after a crash some of it is delivered again.
func (s *Spool) Ack(p Position) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p = min(p, s.returned)
	if p <= s.acked {
		return
	}
	s.acked = p
	for len(s.inFlight) > 0 && s.inFlight[0].last <= p {
		s.inFlight = slices.Delete(s.inFlight, 0, 1)
	}
	if s.diskErr != nil {
		s.release()
	}
	s.announce()
	notify(s.wake)
}

// Note returns the note that was last made durable before Open, nil when there is none. It must not be changed.
func (s *Spool) Note() []byte { return s.found }

// SetNote sets the source of the note: a small state that outlives the records. It is asked, from a goroutine of the
// spool, whenever acknowledgements are about to be made durable, and what it returns is stored with them in one step.
// One who changes that state before the Ack that belongs to it therefore finds after a crash a note that is as new as
// what is acknowledged, or newer. A note has at most MaxNoteBytes. Until a source is set the note found stays.
func (s *Spool) SetNote(note func() []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.note = note
}

// MaxNoteBytes bounds a note. One that is longer counts as an error of the disk: nothing is given up, but nothing
// removed either.
const MaxNoteBytes = 16 << 20

// Sync makes everything that was appended durable, without waiting for SyncInterval. It returns when that is done or
// all of it is acknowledged, and otherwise, when ctx is done, an error of KindUnavailable with what the disk last said.
func (s *Spool) Sync(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	target := s.last
	s.syncTo = max(s.syncTo, target)
	notify(s.wake)
	for max(s.durable, s.acked) < target {
		if s.closed {
			return market.Errorf(market.KindUnavailable, "sync the spool in %s: it is closed", s.cfg.Dir)
		}
		progress := s.progress
		s.mu.Unlock()
		select {
		case <-progress:
		case <-ctx.Done():
		}
		s.mu.Lock()
		if err := ctx.Err(); err != nil && max(s.durable, s.acked) < target {
			return market.Errorf(market.KindUnavailable, "sync the spool in %s: %w", s.cfg.Dir, errors.Join(err, s.diskErr))
		}
	}
	return nil
}

// Seal ends the appending. Next returns what is there and then io.EOF.
func (s *Spool) Seal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sealed = true
	s.announce()
	notify(s.ready)
	notify(s.wake)
}

// Close seals the spool, makes everything durable, and releases the directory. It returns an error of KindUnavailable
// when records that are not acknowledged could not be made durable: they are lost. What was not delivered or not
// acknowledged is delivered after the next Open, and what is acknowledged may be where the disk takes nothing more.
func (s *Spool) Close() error {
	s.once.Do(func() {
		s.mu.Lock()
		s.sealed, s.closing = true, true
		s.mu.Unlock()
		notify(s.wake)
		<-s.done

		s.readMu.Lock()
		s.read.close()
		s.mu.Lock()
		s.closed = true
		s.announce()
		if s.closeErr != nil {
			s.closeErr = market.Errorf(market.KindUnavailable, "close the spool in %s: %w", s.cfg.Dir, s.closeErr)
		}
		s.mu.Unlock()
		s.readMu.Unlock()
		notify(s.ready)
		if err := s.lock.Unlock(); err != nil { // it ends with the process at the latest
			s.log.Error("the spool's directory cannot be unlocked", "dir", s.cfg.Dir, "error", err)
		}
	})
	return s.closeErr
}

// Last returns the position of the last record that was taken, by this process or an earlier one.
func (s *Spool) Last() Position {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

// Stats returns the state of the spool.
func (s *Spool) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	stats := Stats{
		DiskBytes: s.bytes, Segments: len(s.segments),
		BufferedBytes: s.buffered, BufferedRecords: len(s.committing) + len(s.pending),
		DroppedRecords: s.droppedRecords, DamagedRecords: s.damagedRecords, DamagedSegments: len(s.aside),
		DiskError: s.diskErr, Oldest: s.oldest(),
	}
	for _, g := range s.segments {
		if from := max(g.first-1, s.acked); g.end > from && !g.spent {
			stats.DiskRecords += int64(g.end - from)
		}
		if g.damaged {
			stats.DamagedSegments++
		}
	}
	return stats
}

// oldest returns when the oldest record that is not acknowledged was appended, about. For use under mu.
func (s *Spool) oldest() time.Time {
	if len(s.inFlight) > 0 {
		return s.inFlight[0].appended
	}
	if g := s.oldestUnread(); g != nil {
		if created := g.createdAt(); created.After(s.lastTime) || s.returned < g.first {
			return created
		}
		return s.lastTime
	}
	if records := s.fromMemory(1, 1); len(records) > 0 {
		return records[0].Appended
	}
	return time.Time{}
}

// notify leaves a token in ch unless there is one.
func notify(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
