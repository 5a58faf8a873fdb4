package recorder

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"tapedeck/shared/binance"
	"tapedeck/shared/book"
	"tapedeck/shared/market"
)

// settleTime is how long a recorder that is to stop waits for the snapshot without which it cannot record what it has.
const settleTime = 5 * time.Second

// Config is how a recorder works.
type Config struct {
	FlushInterval  time.Duration // after which a block is cut, counted from its first event
	KeyframeBlocks int           // a keyframe of the book follows every so many blocks
	PendingBytes   int           // bound of the updates that wait for a snapshot
	Wait           bool          // whether to leave frames in the inbox, instead of dropping updates, at that bound
	Witness        bool          // whether to compare the book with bookTicker frames
}

// Recorder records one market. Make one with New and start it with Run.
type Recorder struct {
	market    market.Market
	inbox     *Inbox
	sink      Sink
	snapshots *Snapshots
	cfg       Config
	log       *slog.Logger
	meter     *meter
	complain  rate.Sometimes // about frames

	decoder binance.Decoder
	depth   depth
	trades  trades
	recv    market.Time // of the last frame

	fetched  chan fetched
	tails    chan storedTail
	children sync.WaitGroup

	mu        sync.Mutex
	published view
	changed   chan<- struct{} // gets a token when the published state changes; may be nil
}

// view is what a recorder shows of itself to other goroutines.
type view struct {
	market.MarketStatus
	bids, asks       int // levels
	bestBid, bestAsk market.Decimal
}

// fetched is the result of a fetch of a snapshot.
type fetched struct {
	snapshot market.Snapshot
	err      error
}

// storedTail is the last stored block of a series, if there is one.
type storedTail struct {
	stream market.Stream
	block  market.Block
	err    error
}

// New returns a recorder of m that reads from inbox.
func New(m market.Market, inbox *Inbox, sink Sink, snapshots *Snapshots, cfg Config, metrics *Metrics, log *slog.Logger) *Recorder {
	r := &Recorder{
		market: m, inbox: inbox, sink: sink, snapshots: snapshots, cfg: cfg,
		log:      log.With("market", m.String()),
		meter:    newMeter(metrics, m),
		complain: rate.Sometimes{First: 3, Interval: time.Minute},
		fetched:  make(chan fetched, 1),
		tails:    make(chan storedTail, 2),
	}
	r.depth = depth{
		cfg: &r.cfg, log: r.log, meter: r.meter, book: book.New(),
		writer:  writer{sink: sink, series: market.Series{Market: m, Stream: market.Depth}, meter: r.meter},
		pending: pending{limit: cfg.PendingBytes},
	}
	r.trades = trades{
		cfg: &r.cfg, log: r.log, meter: r.meter,
		writer: writer{sink: sink, series: market.Series{Market: m, Stream: market.Trades}, meter: r.meter},
	}
	r.publish()
	return r
}

// Run records until the inbox is closed and everything in it is handed to the sink. It returns how many frames it
// could not record: no snapshot came for them, or ctx ended, at which it stops at once.
func (r *Recorder) Run(ctx context.Context) (unwritten int) {
	ctx, cancel := context.WithCancel(ctx)
	defer r.children.Wait()
	defer cancel()
	r.depth.fetch = func() { r.fetch(ctx) }
	r.askTails(ctx)
	timer := time.NewTimer(0)
	defer timer.Stop()

	var memory, entries []byte // what was taken from the inbox, and what of it is still to be handled
	var stop <-chan time.Time  // when to wait for a snapshot no longer
	for closed := false; ; {
		entries = r.handleAll(ctx, entries)
		r.publish()
		ready := r.inbox.ready
		if closed || len(entries) > 0 {
			ready = nil
		}
		if closed && len(entries) == 0 && (!r.depth.syncing || len(r.depth.pending.updates) == 0) {
			return r.finish(ctx, nil)
		}
		if closed && stop == nil {
			stop = time.After(settleTime)
		}
		r.arm(timer)
		select {
		case <-ready:
			entries, closed = r.inbox.take(memory)
			memory = entries
		case f := <-r.fetched:
			r.depth.receive(ctx, &f.snapshot, f.err, time.Now())
		case t := <-r.tails:
			r.resume(ctx, &t)
		case now := <-timer.C:
			r.depth.expire(ctx, now)
			r.trades.expire(ctx, now)
		case <-stop:
			return r.finish(ctx, entries)
		case <-ctx.Done():
			return r.finish(ctx, entries)
		}
	}
}

// handleAll handles entries until there are none, or the recorder has to wait for a snapshot. It returns the rest.
func (r *Recorder) handleAll(ctx context.Context, entries []byte) (rest []byte) {
	now := time.Now() // one reading for all: it only sets deadlines
	for len(entries) > 0 && !r.mustWait() {
		var e entry
		e, entries = nextEntry(entries)
		r.handle(ctx, e, now)
	}
	return entries
}

// mustWait reports whether no more updates fit until there is a snapshot.
func (r *Recorder) mustWait() bool { return r.cfg.Wait && r.depth.syncing && r.depth.pending.full() }

// handle takes one entry of the inbox.
func (r *Recorder) handle(ctx context.Context, e entry, now time.Time) {
	switch e.kind {
	case markConnected:
		r.depth.connection(true, now)
		r.trades.doubtful(market.CauseDisconnect)
	case markDisconnected:
		r.depth.connection(false, now)
	case markLost:
		r.depth.doubtful(market.CauseOverflow, now)
		r.trades.doubtful(market.CauseOverflow)
	default:
		r.recv = e.recv
		r.frame(ctx, e, now)
	}
}

// frame decodes a frame and hands its event on.
func (r *Recorder) frame(ctx context.Context, e entry, now time.Time) {
	event, err := r.decoder.Decode(e.frame, e.recv)
	if err == nil && event.Symbol != r.market.Symbol {
		err = market.Errorf(market.KindInvalid, "a frame of %s holds an event of %q", r.market.Symbol, event.Symbol)
	}
	switch {
	case err != nil:
		r.malformed(e.kind, err, now)
	case event.Depth != nil:
		r.meter.eventLag.Observe(e.recv.Sub(event.Depth.EventTime).Seconds())
		r.depth.update(ctx, event.Depth, now)
	case event.Trade != nil:
		r.meter.eventLag.Observe(e.recv.Sub(event.Trade.EventTime).Seconds())
		r.trades.trade(ctx, event.Trade, now)
	case event.Ticker != nil:
		if r.cfg.Witness {
			r.depth.witness.note(event.Ticker)
		}
	default:
		r.meter.other("", resultOther)
	}
}

// malformed takes a frame that cannot be read: nobody knows what it held, but the ids of what comes next will tell
// whether anything is missing.
func (r *Recorder) malformed(kind markKind, err error, now time.Time) {
	stream := market.Stream("")
	switch kind {
	case markDepth:
		stream = market.Depth
		r.depth.doubtful(market.CauseMalformed, now)
	case markTrades:
		stream = market.Trades
		r.trades.doubtful(market.CauseMalformed)
	default: // leaves no hole
	}
	r.meter.other(stream, resultMalformed)
	r.complain.Do(func() { r.log.Warn("malformed frame", "stream", stream, "error", err) })
}

// fetch fetches a snapshot without making the market wait. At most one fetch is under way.
func (r *Recorder) fetch(ctx context.Context) {
	r.children.Go(func() {
		s, err := r.snapshots.fetch(ctx, r.market)
		r.fetched <- fetched{s, err}
	})
}

// askTails asks for what is stored already, without making the market wait.
func (r *Recorder) askTails(ctx context.Context) {
	for _, stream := range []market.Stream{market.Depth, market.Trades} {
		r.children.Go(func() {
			b, err := r.sink.Tail(ctx, market.Series{Market: r.market, Stream: stream})
			r.tails <- storedTail{stream, b, err}
		})
	}
}

// resume takes what is stored already into account.
func (r *Recorder) resume(ctx context.Context, t *storedTail) {
	if t.err != nil {
		if market.KindOf(t.err) != market.KindNotFound && !errors.Is(t.err, context.Canceled) {
			r.log.Error("what is stored is not known; a hole before this start may not be in the ledger", "error", t.err)
		}
		return
	}
	if t.stream == market.Depth {
		r.depth.restart.tail = &t.block
		r.depth.writer.resume(ctx, &t.block)
		r.depth.settleRestart(ctx)
		return
	}
	r.trades.restart.tail = &t.block
	r.trades.writer.resume(ctx, &t.block)
	r.trades.settleRestart(ctx)
}

// finish hands over what is left, but for the entries that were not handled.
func (r *Recorder) finish(ctx context.Context, entries []byte) (unwritten int) {
	r.depth.connected = false
	r.depth.flush(ctx)
	r.trades.cut(ctx)
	r.depth.writer.flush(ctx)
	r.trades.writer.flush(ctx)
	r.publish()
	waiting, _ := r.inbox.take(nil)
	unwritten = len(r.depth.pending.updates) + countFrames(entries) + countFrames(waiting)
	r.meter.unwritten.Add(float64(unwritten))
	return unwritten
}

// publish shows the state to other goroutines.
func (r *Recorder) publish() {
	v := view{MarketStatus: market.MarketStatus{
		Market: r.market, State: r.depth.state(), LastUpdateID: r.depth.lastID, LastTradeID: r.trades.lastID,
		EventTime: max(r.depth.lastEvent, r.trades.lastEvent), RecvTime: r.recv,
	}}
	v.bids, v.asks = r.depth.book.Len()
	bid, _ := r.depth.book.BestBid()
	ask, _ := r.depth.book.BestAsk()
	v.bestBid, v.bestAsk = bid.Price, ask.Price
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.changed != nil && v.State != r.published.State {
		notify(r.changed)
	}
	r.published = v
}

// notifyState has a token put into ch, which has room for one, whenever the published state changes.
func (r *Recorder) notifyState(ch chan<- struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.changed = ch
}

// view returns what was last published.
func (r *Recorder) view() view {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.published
}

// Status returns how the recorder stands to its market.
func (r *Recorder) Status() market.MarketStatus { return r.view().MarketStatus }

// arm sets the timer to the next deadline.
func (r *Recorder) arm(timer *time.Timer) {
	next := earliest(r.depth.deadline(), r.trades.flushAt)
	if next.IsZero() {
		timer.Stop()
		return
	}
	timer.Reset(time.Until(next))
}

// earliest returns the earliest of the times that are not zero.
func earliest(times ...time.Time) (first time.Time) {
	for _, t := range times {
		if !t.IsZero() && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	return first
}

// due reports whether a deadline was reached; a zero one never is.
func due(deadline, now time.Time) bool { return !deadline.IsZero() && !now.Before(deadline) }
