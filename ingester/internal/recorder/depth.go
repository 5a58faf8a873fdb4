package recorder

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"

	"tapedeck/shared/book"
	"tapedeck/shared/market"
	"tapedeck/shared/tape"
)

const (
	// quietTime is how long a connected market may show no depth update before its snapshot is asked for anyway.
	quietTime = 5 * time.Second

	// graceTime is how far the stream may be behind a snapshot: an update goes out with others every 100 ms, and a
	// snapshot may hold what is still on its way.
	graceTime = time.Second

	// Snapshots are asked for at once, and then ever more slowly, until a book has lived for calmTime. A book that is
	// lost over and over must not spend the request weight of all others.
	minSnapshotDelay = 250 * time.Millisecond
	maxSnapshotDelay = 30 * time.Second
	calmTime         = time.Minute
	// unlistedDelay is how long a market that the exchange does not know is left alone: a few of them, misspelt or
	// gone, would spend the request weight of all others.
	unlistedDelay = 10 * time.Minute
)

// depth keeps the book of one market and records its updates. It is in one of three states:
//
//   - no book: the first update, or quietTime without one, asks for a snapshot;
//   - syncing: a snapshot is wanted, and updates wait in pending;
//   - a book: updates are applied and recorded. With a doubt (a new connection, a lost or broken frame), something may
//     be missing before the next update. The ids of that update tell, or, on a quiet market, those of a snapshot.
type depth struct {
	cfg    *Config
	log    *slog.Logger
	meter  *meter
	writer writer
	fetch  func() // starts to fetch a snapshot; receive gets the result
	book   *book.Book

	connected bool
	hasBook   bool
	syncing   bool
	doubt     market.Cause
	pending   pending

	fetching bool
	askAt    time.Time        // when to fetch; zero when no fetch is planned
	quietAt  time.Time        // when to ask although there was no update
	ahead    *market.Snapshot // shows that ids are missing, unless the stream still brings them; see probe
	missedAt time.Time        // until when it may
	asks     int              // snapshots asked for since the last calm
	syncedAt time.Time

	hole    *market.Gap // the open ledger entry
	restart restart

	lastID    int64       // of the last update recorded or the snapshot
	lastEvent market.Time // of the last update recorded
	lastRecv  market.Time

	builder   tape.DepthBuilder
	window    market.Time // of the block being built
	blockRecv market.Time // of the first update in it
	flushAt   time.Time   // when to cut it at the latest, or to record start
	blocks    int         // since the last keyframe

	proof   market.Keyframe  // what keyframes say of the book's origin; the rest of it is empty
	start   *market.Keyframe // the snapshot, until its event time is settled; see settleStart
	witness witness
	levels  [2][]market.Level // memory of keyframe
}

// connection notes that the market's connection came or went.
func (d *depth) connection(connected bool, now time.Time) {
	d.connected = connected
	d.quietAt = time.Time{}
	if connected {
		d.doubtful(market.CauseDisconnect, now)
	}
}

// doubtful notes that something may be missing before the next update. The first cause counts; where there is no
// update before, nothing can be missing.
func (d *depth) doubtful(cause market.Cause, now time.Time) {
	if d.doubt == "" && (d.hasBook || len(d.pending.updates) > 0) {
		d.doubt = cause
	}
	if !d.syncing && d.connected && d.quietAt.IsZero() {
		d.quietAt = now.Add(quietTime)
	}
}

// update takes one update of the stream.
func (d *depth) update(ctx context.Context, u *market.DepthUpdate, now time.Time) {
	if d.hasBook && d.follow(ctx, u, now) != book.Gap {
		return
	}
	d.pending.push(u, d.doubt)
	if !d.cfg.Wait {
		d.meter.dropped.Add(float64(d.pending.trim()))
	}
	d.doubt = ""
	d.sync(now)
}

// follow brings an update into the book and the block. After a Gap the book is gone, and the update waits for the
// next one.
func (d *depth) follow(ctx context.Context, u *market.DepthUpdate, now time.Time) book.Verdict {
	if u.LastID > d.book.LastID() && d.mustCut(u) {
		d.cut(ctx)
	}
	verdict := d.book.Apply(u)
	switch verdict {
	case book.Stale:
		d.meter.stale.Inc()
		if d.start != nil {
			d.start.EventTime = max(d.start.EventTime, u.EventTime)
		}
	case book.Gap:
		cause := d.doubt
		if cause == "" {
			cause = market.CauseSequence
		}
		d.doubt = ""
		d.lose(ctx, cause, u.PrevID, u.RecvTime, now)
	case book.Applied:
		d.applied(ctx, u, now)
	}
	return verdict
}

// applied records an update that is in the book.
func (d *depth) applied(ctx context.Context, u *market.DepthUpdate, now time.Time) {
	d.doubt, d.quietAt = "", time.Time{}
	d.ahead, d.missedAt = nil, time.Time{}
	if d.book.Crossed() {
		d.lose(ctx, market.CauseCrossed, u.LastID, u.RecvTime, now)
		d.ask(now)
		return
	}
	if d.start != nil {
		d.settleStart(ctx, u.EventTime)
	}
	if d.builder.Len() == 0 {
		d.window, d.blockRecv, d.flushAt = u.EventTime.Truncate(market.BlockWindow), u.RecvTime, now.Add(d.cfg.FlushInterval)
	}
	if d.proof.UpdatesApplied == 0 {
		d.proof.FirstUpdateID = u.FirstID
	}
	d.proof.UpdatesApplied++
	d.builder.Append(u)
	d.lastID, d.lastEvent, d.lastRecv = u.LastID, u.EventTime, u.RecvTime
	d.meter.applied.Inc()
	if d.cfg.Witness && !d.witness.agrees(d.book) {
		d.meter.mismatches.Inc()
	}
}

// mustCut reports whether the block must end before u.
func (d *depth) mustCut(u *market.DepthUpdate) bool {
	n := d.builder.Len()
	return n > 0 && (n >= market.MaxBlockEvents ||
		u.EventTime.Truncate(market.BlockWindow) != d.window ||
		d.builder.Levels()+len(u.Bids)+len(u.Asks) > market.MaxBlockLevels)
}

// cut ends the block, with a keyframe of the book where one is due.
func (d *depth) cut(ctx context.Context) {
	d.flushAt = time.Time{}
	if d.builder.Len() == 0 {
		return
	}
	d.blocks++
	var keyframe *market.Keyframe
	// After an update that crossed the book, the book is not what the block ends with.
	intact := d.book.LastID() == d.lastID
	if intact && d.blocks >= d.cfg.KeyframeBlocks {
		keyframe = d.keyframe()
	}
	d.meter.recordLag.Observe(market.TimeOf(time.Now()).Sub(d.blockRecv).Seconds())
	if !d.writer.block(ctx, d.builder.Finish(), keyframe, d.blockRecv) && intact && keyframe == nil {
		// What was refused is missing: a reader can go on only from the book as it is now.
		d.writer.held.Keyframes = []market.Keyframe{*d.keyframe()}
	}
}

// keyframe returns the book as it is.
func (d *depth) keyframe() *market.Keyframe {
	d.blocks = 0
	k := d.proof
	k.UpdateID, k.EventTime, k.RecvTime = d.lastID, d.lastEvent, d.lastRecv
	d.levels[0] = d.book.AppendBids(d.levels[0][:0], market.MaxBookLevels)
	d.levels[1] = d.book.AppendAsks(d.levels[1][:0], market.MaxBookLevels)
	k.Data = tape.EncodeBook(d.levels[0], d.levels[1])
	return &k
}

// lose gives the book up: ids up to missing, as far as known, did not come. The caller asks for a snapshot or has one.
func (d *depth) lose(ctx context.Context, cause market.Cause, missing int64, recv market.Time, now time.Time) {
	if d.start != nil {
		d.settleStart(ctx, 0)
	}
	d.cut(ctx)
	d.writer.breakSpan()
	if now.Sub(d.syncedAt) >= calmTime {
		d.asks = 0
	}
	d.hasBook, d.syncing, d.quietAt = false, true, time.Time{}
	d.ahead, d.missedAt = nil, time.Time{}
	d.hole = &market.Gap{
		Series: d.writer.series, Cause: cause, FirstID: d.lastID + 1, LastID: missing,
		Start: d.lastEvent, RecvStart: d.lastRecv, DetectedAt: recv,
	}
	d.meter.gap(market.Depth, cause)
	d.log.Warn("depth updates are missing", "cause", cause, "first_missing_id", d.hole.FirstID, "last_missing_id", missing)
	d.writer.gap(ctx, *d.hole)
}

// sync wants a snapshot.
func (d *depth) sync(now time.Time) {
	d.syncing, d.quietAt = true, time.Time{}
	d.ask(now)
}

// ask plans to fetch a snapshot, unless that is under way.
func (d *depth) ask(now time.Time) {
	if d.fetching || !d.askAt.IsZero() {
		return
	}
	delay := time.Duration(0)
	if d.asks > 0 {
		delay = min(minSnapshotDelay<<min(d.asks-1, 16), maxSnapshotDelay)
		delay = delay/2 + rand.N(delay/2)
	}
	d.asks++
	if delay == 0 {
		d.launch()
		return
	}
	d.askAt = now.Add(delay)
}

// launch starts a fetch; receive gets its result.
func (d *depth) launch() {
	d.askAt, d.fetching = time.Time{}, true
	d.fetch()
}

// need returns the least id that a snapshot must have to be of use: one before the first update that waits, and at
// the end of what is known to be missing.
func (d *depth) need() int64 {
	need := int64(-1)
	if d.hole != nil {
		need = d.hole.LastID
	}
	if len(d.pending.updates) > 0 {
		need = max(need, d.pending.updates[0].PrevID)
	}
	return need
}

// receive takes the result of a fetch.
func (d *depth) receive(ctx context.Context, s *market.Snapshot, err error, now time.Time) {
	d.fetching = false
	switch {
	case market.KindOf(err) == market.KindNotFound:
		d.log.Error("the exchange does not know the market", "error", err)
		d.askAt = now.Add(unlistedDelay)
	case err != nil:
		d.log.Warn("no snapshot", "error", err)
		d.askAgain(now)
	case d.syncing && s.LastID < d.need():
		d.log.Warn("the snapshot is older than the stream", "snapshot_id", s.LastID, "needed_id", d.need())
		d.askAgain(now)
	case d.syncing:
		d.build(ctx, s, now)
	case d.hasBook && d.doubt != "":
		d.probe(s, now)
	}
}

// askAgain asks for another snapshot if one is still wanted.
func (d *depth) askAgain(now time.Time) {
	if d.syncing || d.hasBook && d.doubt != "" {
		d.ask(now)
	}
}

// probe settles a doubt on a quiet market: the snapshot shows whether the book missed anything. Where it is ahead, the
// next update settles the doubt, or, when none comes within graceTime, missed.
func (d *depth) probe(s *market.Snapshot, now time.Time) {
	d.ahead, d.missedAt = nil, time.Time{}
	switch id := d.book.LastID(); {
	case s.LastID == id:
		d.doubt = ""
	case s.LastID < id:
		d.askAgain(now)
	default:
		d.ahead, d.missedAt = s, now.Add(graceTime)
	}
}

// missed gives up waiting for what the snapshot ahead holds, and builds the book from it.
func (d *depth) missed(ctx context.Context, now time.Time) {
	s, cause := d.ahead, d.doubt
	d.doubt = ""
	d.lose(ctx, cause, s.LastID, s.RecvTime, now)
	d.askAt = time.Time{} // the snapshot is here
	d.build(ctx, s, now)
}

// build makes the book from a snapshot and brings in what waited:
//
//  1. the snapshot must not be older than the first update that waited (receive saw to it);
//  2. updates at or below the snapshot's id are stale;
//  3. the first one above it must continue or overlap it, and each further one the one before.
func (d *depth) build(ctx context.Context, s *market.Snapshot, now time.Time) {
	d.book.Reset(s.LastID, s.Bids, s.Asks)
	if d.book.Crossed() {
		d.log.Warn("the snapshot is crossed", "snapshot_id", s.LastID)
		d.askAgain(now)
		return
	}
	d.hasBook, d.syncing, d.syncedAt = true, false, now
	d.proof = market.Keyframe{
		Market: d.writer.series.Market, SnapshotID: s.LastID,
		VerifiedBid: worst(s.Bids), VerifiedAsk: worst(s.Asks),
	}
	d.lastID, d.lastEvent, d.lastRecv = s.LastID, s.EventTime, s.RecvTime
	d.start = d.keyframe()
	d.flushAt = now.Add(d.cfg.FlushInterval)

	doubt := d.doubt // of what comes after all that waited
	for len(d.pending.updates) > 0 && d.hasBook {
		next := &d.pending.updates[0]
		d.doubt = next.doubt
		if d.follow(ctx, &next.DepthUpdate, now) == book.Gap {
			next.doubt = ""
			d.ask(now)
			break
		}
		d.pending.pop()
	}
	d.doubt = ""
	if doubt != "" {
		d.doubtful(doubt, now)
	}
}

// worst returns the price of the last level, 0 when there is none.
func worst(levels []market.Level) market.Decimal {
	if len(levels) == 0 {
		return 0
	}
	return levels[len(levels)-1].Price
}

// settleStart records the snapshot with which the book began, and ends the hole before it. The snapshot's own time is
// the exchange's clock just before it, or the time of the last update it is known to hold; but it is not later than
// first, the time of the first update applied to it, where that is known (not 0).
func (d *depth) settleStart(ctx context.Context, first market.Time) {
	k := *d.start
	if first != 0 {
		k.EventTime = min(k.EventTime, first)
	}
	d.start = nil
	if d.hole != nil {
		d.hole.LastID = max(d.hole.LastID, k.UpdateID)
		d.hole.End, d.hole.RecvEnd = k.EventTime, k.RecvTime
		d.hole.RepairedAt, d.hole.Repair = k.RecvTime, market.RepairSnapshot
	}
	d.writer.start(ctx, k, d.hole)
	d.hole = nil
	d.restart.begin(k.UpdateID, k.EventTime, k.RecvTime)
	d.settleRestart(ctx)
}

// settleRestart enters what was missed since an earlier process into the ledger, once that is known.
func (d *depth) settleRestart(ctx context.Context) {
	if hole, ok := d.restart.hole(d.writer.series, market.RepairSnapshot); ok {
		d.meter.gap(market.Depth, market.CauseRestart)
		d.writer.gap(ctx, hole)
	}
}

// deadline returns when expire has something to do; zero for never.
func (d *depth) deadline() time.Time { return earliest(d.flushAt, d.askAt, d.quietAt, d.missedAt) }

// expire does what is due.
func (d *depth) expire(ctx context.Context, now time.Time) {
	if due(d.askAt, now) {
		d.launch()
	}
	if due(d.quietAt, now) {
		d.quietAt = time.Time{}
		if !d.hasBook {
			d.syncing = true
		}
		d.ask(now)
	}
	if due(d.missedAt, now) {
		d.missed(ctx, now)
	}
	if due(d.flushAt, now) {
		d.flush(ctx)
	}
}

// flush records what there is.
func (d *depth) flush(ctx context.Context) {
	if d.start != nil {
		d.settleStart(ctx, 0)
	}
	d.cut(ctx)
}

// state returns how the recorder stands to the market.
func (d *depth) state() market.MarketState {
	switch {
	case !d.connected:
		return market.StateOffline
	case d.hasBook && d.doubt == "":
		return market.StateSynced
	default:
		return market.StateSyncing
	}
}
