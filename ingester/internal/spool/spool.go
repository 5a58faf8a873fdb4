// Package spool is a log of opaque records on disk, between one who appends and one who forwards. What was appended
// is on disk a moment later, stays there until it is acknowledged, and is delivered in the order of the appends, across
// restarts and crashes. The log is bounded in bytes, in memory and on disk. See docs/adr/0009-spool.md.
package spool

import (
	"context"
	"io"
	"iter"
	"log/slog"
	"time"

	"tapedeck/shared/market"
)

// Config is how a spool works. It is bounded by MaxBytes on disk, and by BufferBytes plus one group of Next in memory.
type Config struct {
	Dir          string        // made when it is not there; one spool at a time may have it
	MaxBytes     int64         // of all segments on disk
	SegmentBytes int64         // at which a new segment begins; 0 = 16 MiB; at most a quarter of MaxBytes
	BufferBytes  int           // of records that were appended and are not on disk yet
	SyncInterval time.Duration // for which appended records are gathered before they are written and synced; 0 = 100 ms
	DropOldest   bool          // when MaxBytes is reached: give up the oldest segment instead of refusing what comes
}

// Position is the place of a record in the log. A later record has a greater position, also across restarts as long as
// the directory stays; the first record has a position above 0. Positions may leave numbers out.
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

// Stats is the state of a spool at one moment. Counts of events are since Open.
type Stats struct {
	DiskBytes       int64     // of all segment files
	DiskRecords     int64     // durable and not acknowledged
	Segments        int       // files
	BufferedBytes   int       // in memory, not durable yet
	BufferedRecords int       // the same
	Oldest          time.Time // when the oldest record that is not acknowledged was appended, about; zero when there is none
	DroppedRecords  int64     // refused or given up because the spool was full
	DroppedBytes    int64     // the same
	DamagedRecords  int64     // that were on disk and could not be read, as far as they can be counted
	DamagedSegments int       // files that were set aside in the directory as *.damaged
	LastSync        time.Time // when records were last made durable; zero when none were
	DiskError       error     // why the disk is not usable at present; nil when it is
}

// Spool is safe for concurrent use, but Next is for one goroutine at a time. Make one with Open, end it with Close.
type Spool struct{}

// Open opens the spool in a directory, or begins one. It fails with KindInvalid when cfg cannot work, and with
// KindUnavailable when another spool has the directory or it cannot be written to. Nothing that is in the directory
// makes it fail: a torn tail is cut off, and what is damaged is left or set aside. A full disk does not make it fail
// either, as records can be forwarded from memory.
func Open(cfg Config, log *slog.Logger) (*Spool, error) {
	return nil, market.Errorf(market.KindUnavailable, "not built yet")
}

// Append appends a record, in the order of the calls. It does not wait, and returns false when the spool is full or
// sealed. What is refused is counted as dropped, and the next record that is taken is delivered with LossDropped. The
// spool keeps the slice: it must not be changed afterwards. An empty record is allowed.
//
// A record is durable SyncInterval and one sync of the disk later, or two while the disk is slow.
func (s *Spool) Append(record []byte) bool { return false }

// AppendWait is Append that waits for room until ctx is done. A record that no room can ever hold is refused at once.
func (s *Spool) AppendWait(ctx context.Context, record []byte) bool { return false }

// Next returns the oldest records not returned yet: at least one, at most maxRecords, and not more than maxBytes of
// data unless the first alone is longer. It waits for them until ctx is done, and then returns its error; it returns
// io.EOF when the spool is sealed and all was returned, or closed. A record is returned once in the life of a Spool.
// One that was returned but not acknowledged is delivered again after the next Open.
func (s *Spool) Next(ctx context.Context, maxRecords, maxBytes int) ([]Record, error) {
	return nil, io.EOF
}

// Ack says that everything up to p, a position that Next returned, is done with and may be forgotten. This becomes
// durable a second later or so: after a crash some of it is delivered again.
func (s *Spool) Ack(p Position) {}

// Recovered goes through the records that were on disk at Open and not acknowledged, oldest first, beside Next and
// without an effect on it. The slice is valid until the next step. It reads the files again; what is damaged or was
// acknowledged in the meantime may be left out.
func (s *Spool) Recovered() iter.Seq[[]byte] { return func(func([]byte) bool) {} }

// Note returns the note that was last made durable before Open, nil when there is none.
func (s *Spool) Note() []byte { return nil }

// SetNote sets the source of the note: a small state that outlives the records. It is asked, from a goroutine of the
// spool, whenever acknowledgements are about to be made durable, and what it returns is stored with them in one step.
// One who changes that state before the Ack that belongs to it therefore finds after a crash a note that is as new as
// what is acknowledged, or newer. A note has at most MaxNoteBytes.
func (s *Spool) SetNote(note func() []byte) {}

// MaxNoteBytes bounds a note.
const MaxNoteBytes = 16 << 20

// Sync makes everything that was appended durable, without waiting for SyncInterval. It returns when that is done or
// all of it is acknowledged, and otherwise, when ctx is done, an error of KindUnavailable with what the disk last said.
func (s *Spool) Sync(ctx context.Context) error { return nil }

// Seal ends the appending. Next returns what is there and then io.EOF.
func (s *Spool) Seal() {}

// Close seals the spool, makes everything durable, and releases the directory. It returns an error when something that
// is not acknowledged could not be made durable. What was not delivered or not acknowledged is delivered after the next
// Open.
func (s *Spool) Close() error { return nil }

// Stats returns the state of the spool.
func (s *Spool) Stats() Stats { return Stats{} }
