// Package sink carries records from the recorders to the store: a queue bounded in bytes, and one writer that groups
// records into batches and writes each until the store takes it. The store may be away for as long as the queue has
// room.
package sink

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"tapedeck/shared/market"
)

// Store is where records go, and where the last ones stand.
type Store interface {
	// Write stores a batch; writing it again changes nothing. Errors of kind KindInvalid and KindTooLarge are final.
	Write(ctx context.Context, batch *market.Batch) error
	// Tail returns the last block of a series, or an error of kind KindNotFound.
	Tail(ctx context.Context, series market.Series) (market.Block, error)
}

// Config is how a sink works.
type Config struct {
	MaxBytes int             // bound of the queue, with what is being written
	Wait     bool            // whether Put waits for room instead of refusing
	Series   []market.Series // whose last blocks are read from the store before anything is written
}

// Sink is safe for concurrent use. Make one with New and start it with Run.
type Sink struct {
	store Store
	cfg   Config
	meter *Metrics
	log   *slog.Logger

	ready chan struct{} // holds a token when there is something to write, or the sink was closed
	tails tails

	mu       sync.Mutex
	queue    []item
	bytes    int           // of queue and of what is being written
	records  int           // the same
	room     chan struct{} // closed and replaced when bytes shrinks
	closed   bool
	writable bool
	since    time.Time // when writable was last found out
	lastErr  error     // why it is not
}

// item is what one Put handed over.
type item struct {
	batch    market.Batch
	received market.Time
	bytes    int
}

// New returns a sink before store.
func New(store Store, cfg Config, meter *Metrics, log *slog.Logger) *Sink {
	s := &Sink{
		store: store, cfg: cfg, meter: meter, log: log,
		ready: make(chan struct{}, 1), room: make(chan struct{}),
		tails: newTails(),
	}
	meter.observeQueue(s)
	return s
}

// Put takes the batch over, in the order of the calls. It returns false, and counts the records as dropped, when the
// queue is full, the sink closed, or, with Config.Wait, ctx done before there was room. received is when the oldest
// event in the batch was received, 0 when it holds none.
func (s *Sink) Put(ctx context.Context, batch *market.Batch, received market.Time) bool {
	it := item{batch: *batch, received: received, bytes: sizeOf(batch)}
	for {
		taken, room := s.tryPut(&it)
		if taken {
			return true
		}
		if room == nil {
			s.meter.dropped.Add(float64(batch.Len()))
			return false
		}
		select {
		case <-room:
		case <-ctx.Done():
			s.meter.dropped.Add(float64(batch.Len()))
			return false
		}
	}
}

// tryPut puts an item if there is room. Otherwise it returns what to wait for, or nil when there is no use in waiting.
// An item larger than the whole queue is let in when the queue is empty.
func (s *Sink) tryPut(it *item) (taken bool, room <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return false, nil
	case s.bytes > 0 && s.bytes+it.bytes > s.cfg.MaxBytes:
		if s.cfg.Wait {
			return false, s.room
		}
		return false, nil
	}
	if len(s.queue) == 0 {
		notify(s.ready)
	}
	s.queue = append(s.queue, *it)
	s.bytes += it.bytes
	s.records += it.batch.Len()
	return true, nil
}

// Close lets Run return once everything is written. Puts are refused from then on.
func (s *Sink) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	notify(s.ready)
}

// Run reads the last blocks of Config.Series and then writes, until Close was called and everything is written, or ctx
// ends; Unwritten tells which.
func (s *Sink) Run(ctx context.Context) {
	if s.tails.read(ctx, s) {
		for s.next(ctx) {
			if group := s.group(); len(group) > 0 {
				s.write(ctx, group)
			}
		}
	}
}

// Unwritten returns nil when everything that was put is written, and otherwise an error that says how much is not, and
// what the store last said.
func (s *Sink) Unwritten() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.records == 0:
		return nil
	case s.lastErr == nil:
		return market.Errorf(market.KindUnavailable, "%d records (%d bytes) are not written", s.records, s.bytes)
	default:
		return market.Errorf(market.KindUnavailable, "%d records (%d bytes) are not written: %w", s.records, s.bytes, s.lastErr)
	}
}

// next waits until there is something to write. It returns false when there is nothing more to come, or ctx ended.
func (s *Sink) next(ctx context.Context) bool {
	for {
		s.mu.Lock()
		waiting, closed := len(s.queue), s.closed
		s.mu.Unlock()
		switch {
		case ctx.Err() != nil:
			return false
		case waiting > 0:
			return true
		case closed:
			return false
		}
		select {
		case <-s.ready:
		case <-ctx.Done():
		}
	}
}

// done takes written items off the account.
func (s *Sink) done(group []item) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range group {
		s.bytes -= group[i].bytes
		s.records -= group[i].batch.Len()
	}
	close(s.room)
	s.room = make(chan struct{})
}

// queued returns what waits or is being written.
func (s *Sink) queued() (records, bytes int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.records, s.bytes
}

// answered notes whether the store did what it was last asked for.
func (s *Sink) answered(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writable, s.since, s.lastErr = err == nil, time.Now(), err
}

// staleAfter is for how long an answer of the store counts. Recorders report every five seconds, so that a sink that
// works writes at least as often.
const staleAfter = 30 * time.Second

// Problem returns nil while the store is writable, by its last answer, and otherwise why it is not.
func (s *Sink) Problem() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.since.IsZero():
		return market.Errorf(market.KindUnavailable, "the store has not answered yet")
	case !s.writable:
		return fmt.Errorf("the store does not take records: %w", s.lastErr)
	case time.Since(s.since) > staleAfter:
		return market.Errorf(market.KindUnavailable, "the store has not answered since %v", s.since.UTC().Format(time.RFC3339))
	}
	return nil
}

// recordBytes is the memory of a record without its data.
const recordBytes = 256

// sizeOf returns about how much memory a batch takes.
func sizeOf(b *market.Batch) int {
	n := recordBytes * b.Len()
	for i := range b.Blocks {
		n += len(b.Blocks[i].Data)
	}
	for i := range b.Keyframes {
		n += len(b.Keyframes[i].Data)
	}
	for i := range b.Statuses {
		n += recordBytes * len(b.Statuses[i].Markets)
	}
	return n
}

// notify leaves a token in ch unless there is one.
func notify(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
