// Package sink carries records from the recorders to the store. In front is the spool, a bounded log on disk: what was
// put is durable there a moment later, and waits for as long as the store is away. Behind it one forwarder writes to
// the store, in order, each record until the store takes it; the account on its way makes the spans and sees to it that
// nothing is missing without an entry in the ledger.
package sink

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"tapedeck/ingester/internal/spool"
	"tapedeck/shared/market"
)

// Store is where records go, and where the last ones stand.
type Store interface {
	// Write stores a batch; writing it again changes nothing. Errors of kind KindInvalid and KindTooLarge are final.
	Write(ctx context.Context, batch *market.Batch) error
	// Tail returns the last block of a series, or an error of kind KindNotFound.
	Tail(ctx context.Context, series market.Series) (market.Block, error)
	// BlockByID returns the block with the least LastID at or above id, or an error of kind KindNotFound.
	BlockByID(ctx context.Context, series market.Series, id int64) (market.Block, error)
	// Gaps and Spans return what is stored; see recorder.Sink.
	Gaps(ctx context.Context, query market.GapQuery) ([]market.Gap, error)
	Spans(ctx context.Context, series market.Series, from, to market.Time, limit int) ([]market.Span, error)
}

// Spool is what a sink needs of a spool.Spool, which documents it.
type Spool interface {
	Append(record []byte) bool
	Offer(record []byte) bool
	AppendWait(ctx context.Context, record []byte) bool
	Next(ctx context.Context, maxRecords, maxBytes int) ([]spool.Record, error)
	Ack(p spool.Position)
	Recovered() iter.Seq[[]byte]
	Note() []byte
	SetNote(note func() []byte)
	Last() spool.Position
	Sync(ctx context.Context) error
	Seal()
	Stats() spool.Stats
}

// Config is how a sink works.
type Config struct {
	Wait        bool            // whether Put waits for room instead of refusing
	Series      []market.Series // whose last blocks are read from the store before anything is written
	SpoolBytes  int64           // the bound of the spool on disk
	BlockTime   time.Duration   // after which a block that was saved has been put whole
	DeadLetters string          // folder of records that can never be stored; made when it is needed
}

// Sink is safe for concurrent use. Make one with New and start it with Run.
type Sink struct {
	store    Store
	spool    Spool
	cfg      Config
	session  int64 // marks what this process puts; no other process has the same
	meter    *Metrics
	log      *slog.Logger
	complain rate.Sometimes // about the store
	mourn    rate.Sometimes // dead letters

	tails       tails
	remembered  memory // the spool's note at the start
	deadLetters *deadLetters
	unfinished  unfinished    // Run's own
	portion     int           // records that are written at once at most, so that the store is quick enough for them; Run's own
	reading     chan struct{} // holds a token for each question of a recorder's to the store; see read

	mu       sync.Mutex
	account  *account      // written by Run and what it starts, with mu held
	resumed  bool          // the first record that this process put is in the store, and so all before it
	progress chan struct{} // closed and replaced when something was written
	opened   map[market.Series]bool
	healing  []market.Span // spans behind the store's last blocks that are still to be written
	writable bool
	since    time.Time // when writable was last found out
	lastErr  error     // why it is not
	halted   error     // why nothing more is written; nil while it is
}

// New returns a sink before store and behind a spool, which the caller closes when Run has returned. It fails when the
// folder of dead letters cannot be read, or a newer version of this program was the last one with the spool.
func New(store Store, log Spool, cfg Config, meter *Metrics, logger *slog.Logger) (*Sink, error) {
	letters, err := openDeadLetters(cfg.DeadLetters)
	if err != nil {
		return nil, err
	}
	s := &Sink{
		store: store, spool: log, cfg: cfg, session: time.Now().UnixNano(), meter: meter, log: logger,
		complain: rate.Sometimes{First: 1, Interval: time.Minute},
		mourn:    rate.Sometimes{First: 100, Interval: time.Second},
		tails:    newTails(cfg.Series), deadLetters: letters, portion: maxWriteRecords,
		unfinished: newUnfinished(cfg.BlockTime), opened: make(map[market.Series]bool),
		progress: make(chan struct{}), reading: make(chan struct{}, maxReads),
	}
	if note := log.Note(); note != nil {
		s.remembered, err = decodeMemory(note)
		if errors.Is(err, errNewer) { // its account would be lost with the first checkpoint
			return nil, fmt.Errorf("read the spool's note: %w", err)
		}
		if err != nil {
			logger.Error("where the last process stood is not known; blocks may get further spans", "error", err)
		}
	}
	s.account = newAccount(s.remembered.settled)
	log.SetNote(s.note)
	meter.observe(s)
	return s, nil
}

// Put hands the batch to the spool, in the order of the calls, and keeps nothing of it. Its Spans and SpanIDs are
// ignored: the sink makes them. It returns false, and counts the records as dropped, when the spool is full, the sink
// closed, or, with Config.Wait, ctx done before there was room. received is when the oldest event in the batch was
// received, 0 when it holds none.
func (s *Sink) Put(ctx context.Context, batch *market.Batch, received market.Time) bool {
	record, err := encode(&delivery{batch: *batch, received: received, session: s.session})
	taken := false
	switch {
	case err != nil:
		s.log.Error("records cannot be encoded; they are lost", "error", err)
	case s.cfg.Wait:
		taken = s.spool.AppendWait(ctx, record)
	default:
		taken = s.spool.Append(record)
	}
	if !taken {
		s.meter.dropped.Add(float64(batch.Len()))
	}
	return taken
}

// Save hands what a block has so far to the spool, so that less is lost if this process is killed. The whole block is to
// be put a moment later, and takes its place; where it never comes, the next process stores what was saved. Save returns
// false when it would cost room that is needed otherwise: then the block had better end.
func (s *Sink) Save(block market.Block, received market.Time) bool {
	record, err := encode(&delivery{
		batch: market.Batch{Blocks: []market.Block{block}}, received: received, session: s.session, unfinished: true,
	})
	return err == nil && s.spool.Offer(record)
}

// Close ends the putting, and makes what was put durable, for which it waits as long as ctx lasts. Run returns once all
// of it is written.
func (s *Sink) Close(ctx context.Context) {
	s.spool.Seal()
	if err := s.spool.Sync(ctx); err != nil { // closing the spool tries again, and tells what is lost if that fails
		s.log.Warn("what was received last is not on disk yet", "error", err)
	}
}

// note returns the account for the spool's checkpoint.
func (s *Sink) note() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := memory{settled: s.account.settled, standings: make(map[market.Series]standing)}
	for series, standing := range s.remembered.standings { // those that are not opened yet, or no longer recorded
		if !s.opened[series] {
			m.standings[series] = standing
		}
	}
	for series, standing := range s.account.series {
		m.standings[series] = standing
	}
	data, err := encodeMemory(&m)
	if err != nil {
		s.log.Error("the account cannot be remembered", "error", err)
		return nil
	}
	return data
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

// StoreProblem returns nil while the store is writable, by its last answer, and otherwise why it is not.
func (s *Sink) StoreProblem() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.halted != nil:
		return fmt.Errorf("the spool cannot be read on: %w", s.halted)
	case s.since.IsZero():
		return market.Errorf(market.KindUnavailable, "the store has not answered yet")
	case !s.writable:
		return fmt.Errorf("the store does not take records: %w", s.lastErr)
	case time.Since(s.since) > staleAfter:
		return market.Errorf(market.KindUnavailable, "the store has not answered since %v", s.since.UTC().Format(time.RFC3339))
	}
	return nil
}

// fullPercent is how full the spool may be before that is a problem: the rest is the time left to do something.
const fullPercent = 90

// SpoolProblem returns nil while the spool can be written to and has room, and otherwise what is wrong with it.
func (s *Sink) SpoolProblem() error {
	switch stats := s.spool.Stats(); {
	case stats.DiskError != nil:
		return fmt.Errorf("records cannot be spooled to disk: %w", stats.DiskError)
	case stats.DiskBytes > s.cfg.SpoolBytes/100*fullPercent:
		return market.Errorf(market.KindTooLarge, "the spool holds %d bytes of at most %d", stats.DiskBytes, s.cfg.SpoolBytes)
	}
	return nil
}
