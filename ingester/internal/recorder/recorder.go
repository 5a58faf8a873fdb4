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

const (
	// settleTime is how long a recorder that is to stop waits for the snapshot without which it cannot record what it
	// has.
	settleTime = 5 * time.Second
	// idleTime is how long a recorder keeps the memory that a burst took.
	idleTime = time.Second
)

// Config is how a recorder works.
type Config struct {
	FlushInterval  time.Duration // after which a block is cut; see flushTime
	KeyframeBlocks int           // a keyframe of the book follows every so many blocks
	BackfillTrades int64         // how many trades of a hole are fetched again; 0 = none
	BackfillRetry  time.Duration // between looks for holes of trades that were not repaired; 0 = at the start only
	AuditInterval  time.Duration // between comparisons of the book with a snapshot; 0 = never
	Witness        bool          // whether to compare the book with bookTicker frames

	// Wait says that frames come as fast as they are taken, as in a replay: they are left in the inbox instead of
	// dropping updates where memory ends, and silence means nothing.
	Wait bool

	// Restore is told of a stream that is proven to be mute; nil when nobody can help. It must not block.
	Restore func(m market.Market, stream market.Stream)
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
	links   links
	depth   depth
	trades  trades
	recv    market.Time // of the last frame

	answers  chan answer // to what was asked; there is room for all that can be under way
	children sync.WaitGroup

	taken    intake
	shrinkAt time.Time // when to give back the memory of a burst; zero = there is none

	mu        sync.Mutex
	published view
	changed   chan<- struct{} // gets a token when the published state changes; may be nil
	listed    string          // the market's status, as the exchange names it; "" while it is not known
}

// view is what a recorder shows of itself to other goroutines.
type view struct {
	market.MarketStatus
	bids, asks       int // levels
	bestBid, bestAsk market.Decimal
	syncedSince      time.Time // when the book was built; zero while there is none
	auditedAt        time.Time // of the last audit that matched; zero before
	offset           clockOffset
}

// answer brings in what one of the recorder's questions led to.
type answer func(ctx context.Context, now time.Time)

// maxAnswers is how many answers may come at once: a snapshot for the book and one for an audit, the last update id and
// the last trade id, a page of trades, two tails, and holes to take up.
const maxAnswers = 8

// intake is what was taken from the inbox.
type intake struct {
	memory  []byte // of what was taken last
	entries []byte // what of it is still to be handled
	closed  bool   // no more will come
}

// New returns a recorder of m that reads from inbox.
func New(m market.Market, inbox *Inbox, sink Sink, snapshots *Snapshots, cfg Config, metrics *Metrics, log *slog.Logger) *Recorder {
	r := &Recorder{
		market: m, inbox: inbox, sink: sink, snapshots: snapshots, cfg: cfg,
		log:      log.With("market", m.String()),
		meter:    newMeter(metrics, m),
		complain: rate.Sometimes{First: 3, Interval: time.Minute},
		answers:  make(chan answer, maxAnswers),
	}
	r.depth = depth{
		cfg: &r.cfg, log: r.log, meter: r.meter, links: &r.links, book: book.New(),
		writer:  writer{sink: sink, series: market.Series{Market: m, Stream: market.Depth}, meter: r.meter},
		pending: pending{account: account{memory: inbox.account.memory}},
		trading: r.trading, complain: r.complainOf,
	}
	r.trades = trades{
		cfg: &r.cfg, log: r.log, meter: r.meter, links: &r.links,
		writer:  writer{sink: sink, series: market.Series{Market: m, Stream: market.Trades}, meter: r.meter},
		trading: r.trading, complain: r.complainOfTrade,
		backfill: backfill{limit: cfg.BackfillTrades},
	}
	r.publish()
	return r
}

// Run records until the inbox is closed and everything in it is handed to the sink. It returns how many frames it
// could not record: no snapshot came for them, or ctx ended, at which it stops at once. Ledger entries and keyframes that
// the sink refused to the end count too: nobody else knows of what they stand for.
func (r *Recorder) Run(ctx context.Context) (unwritten int) {
	ctx, cancel := context.WithCancel(ctx)
	defer r.children.Wait()
	defer cancel()
	r.begin(ctx)
	timer := time.NewTimer(0)
	defer timer.Stop()
	var stop <-chan time.Time // when to wait for a snapshot no longer
	for {
		r.handleAll(ctx)
		idle := len(r.taken.entries) == 0
		if r.taken.closed && idle && r.depth.settle(ctx, time.Now()) {
			return r.finish(ctx)
		}
		r.publish()
		if r.taken.closed && stop == nil {
			stop = time.After(settleTime)
		}
		r.arm(timer, idle)
		ready := r.inbox.ready
		if !idle || r.taken.closed {
			ready = nil
		}
		select {
		case <-ready:
			r.take()
		case bring := <-r.answers:
			bring(ctx, time.Now())
		case <-timer.C:
			r.expire(ctx)
		case <-stop:
			return r.finish(ctx)
		case <-ctx.Done():
			return r.finish(ctx)
		}
	}
}

// take takes what waits in the inbox. All that was taken before must be handled.
func (r *Recorder) take() {
	in := &r.taken
	in.entries, in.closed = r.inbox.take(in.memory)
	in.memory = in.entries
	if cap(in.memory) > idleBytes {
		r.shrinkAt = time.Now().Add(idleTime)
	}
}

// expire does what is due.
func (r *Recorder) expire(ctx context.Context) {
	in := &r.taken
	if len(in.entries) == 0 && !in.closed { // what waits by now came in time, however late it is handled
		r.take()
		r.handleAll(ctx)
	}
	now := time.Now()
	r.depth.expire(ctx, now)
	r.trades.expire(ctx, now)
	if due(r.shrinkAt, now) && len(in.entries) == 0 {
		r.shrinkAt, in.memory = time.Time{}, r.inbox.shrink(in.memory)
	}
}

// begin makes the recorder ask for what it needs, as long as ctx lasts, and asks for what earlier processes left.
func (r *Recorder) begin(ctx context.Context) {
	r.depth.fetch = func() { r.fetch(ctx) }
	r.depth.inquire = func() { r.inquire(ctx) }
	r.depth.reaudit = func() { r.audit(ctx) }
	r.trades.inquire = func() { r.inquireTrade(ctx) }
	r.trades.backfill.request = func(h *hole) { r.fetchPage(ctx, h, h.from()) }
	r.trades.look = func(upTo int64, tried []attempt) { r.lookForHoles(ctx, upTo, tried) }
	r.askTails(ctx)
	if r.cfg.BackfillTrades > 0 {
		r.lookForHoles(ctx, beforeStart, nil)
	}
}

// handleAll handles what was taken until nothing is left, or the recorder has to wait for a snapshot.
func (r *Recorder) handleAll(ctx context.Context) {
	now := time.Now() // one reading for all: it only sets deadlines
	for len(r.taken.entries) > 0 && !r.mustWait() {
		var e entry
		e, r.taken.entries = nextEntry(r.taken.entries)
		r.handle(ctx, e, now)
	}
}

// mustWait reports whether no more updates fit until those that wait are applied.
func (r *Recorder) mustWait() bool {
	return r.cfg.Wait && !r.depth.pending.empty() && r.depth.pending.full()
}

// handle takes one entry of the inbox.
func (r *Recorder) handle(ctx context.Context, e entry, now time.Time) {
	switch e.kind {
	case markConnected:
		if r.links.connected(now) {
			r.depth.online(now)
			r.trades.online(now)
		}
	case markDisconnected:
		if r.links.disconnected(now) {
			r.depth.offline(now)
			r.trades.offline()
		}
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
		r.answers <- func(ctx context.Context, now time.Time) { r.depth.receive(ctx, &s, err, now) }
	})
}

// complainOf tells of an update that was dropped for what it says.
func (r *Recorder) complainOf(reason string, u *market.DepthUpdate) {
	r.meter.other(market.Depth, resultMalformed)
	r.complain.Do(func() {
		r.log.Warn("update dropped", "reason", reason, "first_update_id", u.FirstID, "last_update_id", u.LastID)
	})
}

// inquire asks for the exchange's last update id without making the market wait. At most one question is under way.
func (r *Recorder) inquire(ctx context.Context) {
	r.children.Go(func() {
		id, err := r.snapshots.background.LastUpdateID(ctx, r.market)
		r.answers <- func(ctx context.Context, now time.Time) { r.depth.answered(ctx, id, err, now) }
	})
}

// complainOfTrade tells of a trade that was dropped for what it says.
func (r *Recorder) complainOfTrade(reason string, t market.Trade) {
	r.meter.other(market.Trades, resultMalformed)
	r.complain.Do(func() { r.log.Warn("trade dropped", "reason", reason, "trade_id", t.ID, "event_time", t.EventTime) })
}

// inquireTrade asks for the exchange's last trade id without making the market wait. At most one question is under way.
func (r *Recorder) inquireTrade(ctx context.Context) {
	r.children.Go(func() {
		id, err := r.snapshots.background.LastTradeID(ctx, r.market)
		r.answers <- func(ctx context.Context, now time.Time) { r.trades.answered(ctx, id, err, now) }
	})
}

// fetchPage fetches trades of a hole without making the market wait. At most one page is under way.
func (r *Recorder) fetchPage(ctx context.Context, of *hole, fromID int64) {
	r.children.Go(func() {
		trades, err := r.snapshots.background.TradesFrom(ctx, r.market, fromID, binance.MaxTradesPage)
		r.answers <- func(ctx context.Context, now time.Time) { r.trades.fetchedPage(ctx, &page{of, trades, err}, now) }
	})
}

// audit waits for the market's turn and fetches a snapshot to compare the book with, as it is when that is asked for.
// At most one audit is under way.
func (r *Recorder) audit(ctx context.Context) {
	r.children.Go(func() {
		select {
		case r.snapshots.audits <- struct{}{}:
		case <-ctx.Done():
			return
		}
		defer func() { <-r.snapshots.audits }()
		turn := make(chan bool, 1)
		r.answers <- func(_ context.Context, now time.Time) { turn <- r.depth.beginAudit(now) }
		select {
		case ready := <-turn:
			if !ready {
				return
			}
		case <-ctx.Done():
			return
		}
		ctx, cancel := context.WithTimeout(ctx, auditTimeout)
		defer cancel()
		s, err := r.snapshots.background.Snapshot(ctx, r.market, r.snapshots.limit)
		r.answers <- func(ctx context.Context, now time.Time) { r.depth.audited(ctx, &s, err, now) }
	})
}

// askTails asks for what is stored already, without making the market wait.
func (r *Recorder) askTails(ctx context.Context) {
	for _, stream := range []market.Stream{market.Depth, market.Trades} {
		r.children.Go(func() {
			b, err := r.sink.Tail(ctx, market.Series{Market: r.market, Stream: stream})
			r.answers <- func(ctx context.Context, _ time.Time) { r.resume(ctx, stream, &b, err) }
		})
	}
}

// resume takes the last stored block of a series into account, if there is one.
func (r *Recorder) resume(ctx context.Context, stream market.Stream, tail *market.Block, err error) {
	switch {
	case market.KindOf(err) == market.KindNotFound || errors.Is(err, context.Canceled):
	case err != nil:
		r.log.Error("what is stored is not known; a hole before this start may not be in the ledger", "error", err)
	case stream == market.Depth:
		r.depth.restart.tail = tail
		r.depth.settleRestart(ctx)
	default:
		r.trades.restart.tail = tail
		r.trades.settleRestart(ctx)
	}
}

// finish hands over what is left, but for what was taken and not handled.
func (r *Recorder) finish(ctx context.Context) (unwritten int) {
	r.depth.connected = false
	r.depth.flush(ctx)
	refused := r.depth.writer.flush(ctx)
	refused += r.trades.finish(ctx, time.Now())
	r.publish()
	waiting, _ := r.inbox.take(nil)
	depth, trades := countFrames(r.taken.entries)
	moreDepth, moreTrades := countFrames(waiting)
	depth += len(r.depth.pending.updates) + moreDepth
	trades += moreTrades
	r.meter.unwritten(market.Depth, depth)
	r.meter.unwritten(market.Trades, trades)
	return depth + trades + refused
}

// publish shows the state to other goroutines.
func (r *Recorder) publish() {
	v := view{MarketStatus: market.MarketStatus{
		Market: r.market, State: r.depth.state(), LastUpdateID: r.depth.lastID, LastTradeID: r.trades.lastID,
		EventTime: max(r.depth.lastEvent, r.trades.lastEvent), RecvTime: r.recv,
	}, auditedAt: r.depth.audits.goodAt, offset: r.depth.offset}
	if r.depth.hasBook {
		v.syncedSince = r.depth.syncedAt
	}
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

// SyncedFor returns how long ago the book was built that follows the stream, 0 when there is none. A lost connection
// alone ends no book.
func (r *Recorder) SyncedFor() time.Duration {
	since := r.view().syncedSince
	if since.IsZero() {
		return 0
	}
	return time.Since(since)
}

// setListed notes the market's status, as the exchange names it.
func (r *Recorder) setListed(status string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.listed = status
}

// statusBreak is the status of a market that shows nothing at all for the time being; in other states than TRADING
// there still is market data (faqs/spot_glossary.md).
const (
	statusTrading = "TRADING"
	statusBreak   = "BREAK"
)

// trading reports whether the market may be expected to show something.
func (r *Recorder) trading() bool { return r.status() != statusBreak }

// status returns the market's status, as the exchange names it; "" when it is not known.
func (r *Recorder) status() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.listed
}

// arm sets the timer to the next deadline. Memory can only be given back while no entries wait in it: idle.
func (r *Recorder) arm(timer *time.Timer, idle bool) {
	next := earliest(r.depth.deadline(), r.trades.deadline())
	if idle {
		next = earliest(next, r.shrinkAt)
	}
	if next.IsZero() {
		timer.Stop()
		return
	}
	timer.Reset(time.Until(next))
}

// saveTime returns when what a block has is to be saved because of an event that is recorded now: so early that a kill does
// not cost that event once it came as long ago as the flush interval, with room for the way to the disk. It may have been
// held until now; what came even earlier, to a recorder that lags or had no book, does not make it save time and again.
func saveTime(came market.Time, now time.Time, cfg *Config) time.Time {
	if cfg.Wait || cfg.FlushInterval < time.Second { // it can be had again, or is cut soon
		return time.Time{}
	}
	held := market.TimeOf(now).Sub(came)
	return now.Add(cfg.FlushInterval*8/10 - min(max(0, held), cfg.FlushInterval*3/10))
}

// flushTime returns when a block is to be cut whose first and last events came at these times: after interval, or
// earlier where its last event would else be older than 0.7 of it. So that event is durable within interval, with
// room for the way to the disk.
func flushTime(first, last time.Time, interval time.Duration) time.Time {
	return earliest(first.Add(interval), last.Add(interval*7/10))
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
