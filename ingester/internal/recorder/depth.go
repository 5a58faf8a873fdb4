package recorder

import (
	"context"
	"log/slog"
	"time"

	"tapedeck/shared/book"
	"tapedeck/shared/market"
	"tapedeck/shared/tape"
)

// depth keeps the book of one market and records its updates. It is in one of four states:
//
//   - no book: the first update, or quietTime without one, asks for a snapshot;
//   - syncing: a snapshot is wanted, and updates wait in pending (sync.go);
//   - a book: updates are applied and recorded. With a doubt (all connections were lost, a lost or broken frame),
//     something may be missing before the next update. The ids of that update tell, or, on a quiet market, those of the
//     exchange (probe.go);
//   - a book, and updates in pending that do not follow it: what is between may still come (hold.go).
//
// Two ids tell how far it is: that of the book, and lastID, of the last update recorded. They are the same but for the
// time just after a sync that ended a hole: the snapshot holds updates that came behind the hole, or are still to come,
// and those are recorded although the book needs them no more. So nothing but what is missing is missing.
type depth struct {
	cfg    *Config
	log    *slog.Logger
	meter  *meter
	links  *links
	writer writer
	book   *book.Book

	// What a recorder does for it, without making it wait; at most one of each is under way.
	fetch    func() // fetches a snapshot: receive gets it
	inquire  func() // asks for the exchange's last update id: answered gets it
	reaudit  func() // waits for the turn to audit: beginAudit is called, and then audited
	trading  func() bool
	complain func(reason string, u *market.DepthUpdate) // about an update that is of no use

	connected bool
	hasBook   bool
	syncing   bool
	doubt     market.Cause
	pending   pending

	fetching  bool
	fetchedAt time.Time // when the fetch under way, or the last one, began
	askAt     time.Time // when to fetch; zero when no fetch is planned
	quietAt   time.Time // when to ask although there was no update
	asks      int       // snapshots asked for since the last calm
	floor     int64     // the least id of a snapshot that is of use, beside what need says
	below     regress   // snapshots that only the floor keeps from use
	hollow    regress   // snapshots with an empty side
	syncedAt  time.Time

	silence   silence
	asking    bool
	askedAt   time.Time // when the question under way, or the last one, was put
	settling  bool      // the doubt is older than that question
	ahead     int64     // the exchange's last id, when it is beyond the book's; 0 = it is not
	far       int64     // an id of the exchange that is hard to believe, until there is another one like it
	missedAt  time.Time // until when the stream may bring it
	judgeAt   time.Time // when to ask about an update that is held; see judge
	regressed regress

	hole    *market.Gap // the open ledger entry
	resumed bool        // whether an update behind it was recorded
	before  market.Time // from which the clock may have stepped up to that update
	behind  moment      // when that was
	dropped *market.Gap // the updates behind it that found no room; it joins the hole
	restart restart

	lastID    int64       // of the last update recorded, or of the snapshot where nothing is missing before it
	lastEvent market.Time // of the last update recorded, or of the snapshot
	lastRecv  market.Time
	stepEvent market.Time // from which the clock may step: of the last update recorded; 0 = there is none

	builder   tape.DepthBuilder
	window    market.Time // of the block being built
	blockRecv market.Time // of the first update in it
	begunAt   time.Time   // when it came
	flushAt   time.Time   // when to cut it at the latest, or to record start
	saveAt    time.Time   // when to save what it has by then; zero = all is saved
	blocks    int         // since the last keyframe
	due       bool        // a keyframe is due at the next border of blocks

	proof   market.Keyframe  // what keyframes say of the book's origin; the rest of it is empty
	start   *market.Keyframe // the snapshot, until its event time is settled; see settleStart
	witness witness
	levels  [2][]market.Level // memory of keyframe

	audits audits
	offset clockOffset
}

// update takes one update of the stream.
func (d *depth) update(ctx context.Context, u *market.DepthUpdate, now time.Time) {
	d.offset.note(u.RecvTime.Sub(u.EventTime))
	if u.LastID-u.FirstID > maxJump { // applied, it would make all that follows look old
		d.complain("it spans far too many ids", u)
		d.doubtful(market.CauseMalformed, now)
		return
	}
	if d.hasBook && d.follow(ctx, u, now) != book.Gap {
		if !d.pending.empty() {
			d.pending.pass(0)
			d.release(ctx, now)
		}
		return
	}
	if !d.pending.insert(u, d.doubt, now) {
		d.meter.stale.Inc() // another connection's copy
		return
	}
	d.doubt = ""
	if d.hasBook {
		if !d.cfg.Wait && d.pending.full() { // there is no room to wait for what is before it
			d.endHold(ctx, now)
		}
		return
	}
	d.trim()
	d.sync(now)
}

// follow brings an update into the book and the block. A Gap changes nothing; after any other verdict the book may be
// gone, if the update crossed it.
func (d *depth) follow(ctx context.Context, u *market.DepthUpdate, now time.Time) book.Verdict {
	behindHole := d.hole != nil && !d.resumed
	switch {
	case u.LastID <= d.lastID:
		d.meter.stale.Inc()
		d.noteHeld(u)
		return book.Stale
	case u.PrevID > d.lastID && (!behindHole || u.PrevID > d.book.LastID()):
		return book.Gap
	}
	d.dateStart(u)
	if d.mustCut(u) {
		d.cut(ctx)
	}
	if behindHole {
		d.resume(u)
	} else {
		d.checkClock(ctx, u)
	}
	if u.LastID <= d.book.LastID() {
		d.noteHeld(u)
		d.record(u, now)
		return book.Applied
	}
	d.book.Apply(u)
	d.doubt, d.quietAt = "", time.Time{}
	if d.book.Crossed() {
		d.lose(ctx, market.CauseCrossed, u.LastID, u.RecvTime, now)
		d.floor = u.LastID
		d.ask(now)
		return book.Applied
	}
	if d.start != nil {
		d.settleStart(ctx)
	}
	if d.proof.UpdatesApplied == 0 {
		d.proof.FirstUpdateID = u.FirstID
	}
	d.proof.UpdatesApplied++
	d.record(u, now)
	if d.cfg.Witness && !d.witness.agrees(d.book) {
		d.meter.mismatches.Inc()
	}
	if d.audits.running != nil {
		d.auditApplied(ctx, u, now)
	}
	return book.Applied
}

// dateStart takes from the next update, before anything is recorded, what the clock may have been at the snapshot: not
// later than at the first update beyond it, and behind a step back that an update of it is behind.
func (d *depth) dateStart(u *market.DepthUpdate) {
	switch {
	case d.start == nil:
	case u.LastID > d.start.UpdateID:
		d.start.EventTime = min(d.start.EventTime, u.EventTime)
	case stepsBack(d.stepEvent, u.EventTime):
		d.start.EventTime = u.EventTime
	}
}

// noteHeld notes an update that the snapshot holds: the snapshot is not older than it, unless the clock has stepped back
// behind it.
func (d *depth) noteHeld(u *market.DepthUpdate) {
	stepped := d.stepEvent != 0 && u.LastID <= d.lastID && stepsBack(u.EventTime, d.stepEvent)
	if d.start != nil && u.LastID <= d.start.UpdateID && !stepped {
		d.start.EventTime = max(d.start.EventTime, u.EventTime)
	}
}

// record puts an update into the block.
func (d *depth) record(u *market.DepthUpdate, now time.Time) {
	if d.builder.Len() == 0 {
		d.window, d.blockRecv, d.begunAt = u.EventTime.Truncate(market.BlockWindow), u.RecvTime, now
	}
	d.saveAt = earliest(d.saveAt, saveTime(u.RecvTime, now, d.cfg))
	d.flushAt = flushTime(d.begunAt, now, d.cfg.FlushInterval)
	d.builder.Append(u)
	d.lastID, d.lastEvent, d.lastRecv, d.stepEvent = u.LastID, u.EventTime, u.RecvTime, u.EventTime
	d.ahead, d.missedAt = 0, time.Time{}
	if d.restart.contradicts(u.LastID, u.EventTime) {
		d.noteRegress(u.LastID, d.restart.tail.LastID, now)
	}
	d.calm(u.LastID, u.EventTime)
	if d.connected && !d.cfg.Wait {
		d.silence.heard(now)
	}
	d.meter.applied.Inc()
}

// mustCut reports whether the block must end before u.
func (d *depth) mustCut(u *market.DepthUpdate) bool {
	n := d.builder.Len()
	return n > 0 && (n >= market.MaxBlockEvents ||
		u.EventTime.Truncate(market.BlockWindow) != d.window ||
		d.builder.Levels()+len(u.Bids)+len(u.Asks) > market.MaxBlockLevels)
}

// intact reports whether the book is what it was after the last update recorded. It is not after an update that
// crossed it, nor while updates are recorded that its snapshot holds already.
func (d *depth) intact() bool { return d.book.LastID() == d.lastID }

// cut ends the block, with a keyframe of the book where one is due.
func (d *depth) cut(ctx context.Context) {
	d.flushAt, d.saveAt = time.Time{}, time.Time{}
	if d.builder.Len() == 0 {
		return
	}
	if d.start != nil { // what it says of the hole must be stored before what comes behind the hole
		d.settleStart(ctx)
	}
	d.blocks++
	var keyframe *market.Keyframe
	intact := d.hasBook && d.intact()
	if intact && (d.due || d.blocks >= d.cfg.KeyframeBlocks) {
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
	d.blocks, d.due = 0, false
	k := d.proof
	k.UpdateID, k.EventTime, k.RecvTime = d.book.LastID(), d.lastEvent, d.lastRecv
	d.levels[0] = d.book.AppendBids(d.levels[0][:0], market.MaxBookLevels)
	d.levels[1] = d.book.AppendAsks(d.levels[1][:0], market.MaxBookLevels)
	k.Data = tape.EncodeBook(d.levels[0], d.levels[1])
	return &k
}

// checkClock enters into the ledger that the exchange's clock stepped back before u. Readers find the book behind the
// step by a keyframe of its own.
func (d *depth) checkClock(ctx context.Context, u *market.DepthUpdate) {
	if !stepsBack(d.stepEvent, u.EventTime) {
		return
	}
	d.cut(ctx)
	step := d.stepBack(d.lastID+1, moment{d.stepEvent, d.lastRecv}, moment{u.EventTime, u.RecvTime})
	if !d.intact() {
		d.writer.gap(ctx, *step)
		return
	}
	k := d.keyframe()
	k.EventTime, k.RecvTime = u.EventTime, u.RecvTime
	d.writer.start(ctx, *k, *step)
}

// stepBack counts a step back of the exchange's clock before an id, and returns its ledger entry.
func (d *depth) stepBack(id int64, from, to moment) *market.Gap {
	d.meter.gap(market.Depth, market.CauseClock)
	d.log.Warn("the exchange's clock stepped back", "update_id", id, "by", from.event.Sub(to.event))
	return clockStep(d.writer.series, id, from, to)
}

// lose gives the book up: ids up to missing, as far as known, did not come. The caller asks for a snapshot.
func (d *depth) lose(ctx context.Context, cause market.Cause, missing int64, recv market.Time, now time.Time) {
	if d.start != nil {
		d.settleStart(ctx)
	}
	d.cut(ctx)
	d.abandonAudit(now)
	if now.Sub(d.syncedAt) >= calmTime {
		d.asks = 0
	}
	d.hasBook, d.syncing, d.quietAt, d.judgeAt = false, true, time.Time{}, time.Time{}
	d.ahead, d.missedAt = 0, time.Time{}
	d.silence.stop()
	if missing-d.lastID > maxJump { // the ledger forgets nothing: it is told when that has proven to be true
		missing = d.lastID
	}
	d.hole, d.resumed, d.dropped = d.gap(cause, missing, recv), false, nil
	d.floor, d.below, d.hollow = 0, regress{}, regress{}
	d.meter.gap(market.Depth, cause)
	d.log.Warn("depth updates are missing", "cause", cause, "first_missing_id", d.hole.FirstID, "last_missing_id", missing)
	d.writer.gap(ctx, *d.hole)
}

// gap returns the ledger entry of a hole behind the last update recorded.
func (d *depth) gap(cause market.Cause, missing int64, recv market.Time) *market.Gap {
	return &market.Gap{
		Series: d.writer.series, Cause: cause, FirstID: d.lastID + 1, LastID: max(missing, d.lastID),
		Start: d.lastEvent, RecvStart: d.lastRecv, DetectedAt: recv,
	}
}

// deadline returns when expire has something to do; zero for never.
func (d *depth) deadline() time.Time {
	return earliest(d.flushAt, d.saveDeadline(), d.askAt, d.quietAt, d.missedAt, d.holdDeadline(), d.silence.deadline(d.trading()),
		d.auditDeadline())
}

// expire does what is due.
func (d *depth) expire(ctx context.Context, now time.Time) {
	if due(d.askAt, now) {
		d.launch(now)
	}
	if due(d.quietAt, now) {
		d.quiet(now)
	}
	if due(d.silence.deadline(d.trading()), now) {
		d.silence.answered(now) // not again before the answer
		d.probe(now)
	}
	if due(d.missedAt, now) {
		d.missed(ctx, now)
	}
	if due(d.holdDeadline(), now) {
		d.endHold(ctx, now)
	}
	if due(d.auditDeadline(), now) {
		d.auditDue(now)
	}
	if due(d.flushAt, now) {
		d.flush(ctx)
	}
	if due(d.saveDeadline(), now) {
		d.save(ctx)
	}
}

// saveDeadline returns when to save what the block has; zero for never. A snapshot whose event time is not settled is to
// be stored before it.
func (d *depth) saveDeadline() time.Time {
	if d.start != nil {
		return time.Time{}
	}
	return d.saveAt
}

// save saves what the block has so far.
func (d *depth) save(ctx context.Context) {
	d.saveAt = time.Time{}
	if !d.writer.save(d.builder.Peek(), d.blockRecv) {
		d.cut(ctx)
	}
}

// flush records what there is.
func (d *depth) flush(ctx context.Context) {
	if d.start != nil {
		d.settleStart(ctx)
	}
	d.cut(ctx)
	d.flushAt = time.Time{}
}

// settle ends all waiting: no more frames will come. It returns false while only a snapshot can do so. An update that the
// stream contradicts is dropped only where it is hard to believe, too: what came before it may just be late.
func (d *depth) settle(ctx context.Context, now time.Time) bool {
	if d.hasBook && !d.pending.empty() {
		first := &d.pending.updates[0]
		if d.pending.outlier(0) && (first.denied > 0 || first.PrevID-d.book.LastID() > maxJump) {
			d.complain("nothing came before it", &first.DepthUpdate)
			d.disbelieve(0, now)
			d.release(ctx, now)
		} else {
			d.pass(ctx, now)
		}
	}
	return d.pending.empty()
}

// state returns how the recorder stands to the market.
func (d *depth) state() market.MarketState {
	switch {
	case !d.connected:
		return market.StateOffline
	case d.hasBook && d.doubt == "" && d.pending.empty() && !d.regressed.certain:
		return market.StateSynced
	default:
		return market.StateSyncing
	}
}
