package recorder

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"time"

	"tapedeck/shared/market"
	"tapedeck/shared/tape"
)

// trades records the trades of one market. Their ids are contiguous: a jump is a hole, of which the ledger is told at
// once, and which is fetched again in the background while newer trades are recorded (see backfill).
type trades struct {
	cfg      *Config
	log      *slog.Logger
	meter    *meter
	writer   writer
	links    *links
	trading  func() bool                             // whether the market may be expected to show something
	inquire  func()                                  // asks for the exchange's last trade id; answered gets it
	complain func(reason string, trade market.Trade) // of a trade that is dropped
	look     func(upTo int64, tried []attempt)       // for holes to take up, with ids up to one; found gets them

	doubt     market.Cause // why something may be missing before the next trade; "" when nothing should be
	begun     bool         // lastID is known
	lastID    int64        // up to which all is recorded, or in the ledger
	lastEvent market.Time  // of the last trade recorded
	lastRecv  market.Time
	stepEvent market.Time // lastEvent, but 0 where those who fetch trades again look for a step of the clock
	newest    market.Time // greatest event time recorded
	origin    anchor      // the id before the first trade recorded, and the times of that trade
	certain   bool        // the id of the first trade is no nonsense: others are near it
	restart   restart
	regressed regress
	steps     []int64 // before which ids the clock stepped back, as far as told of late

	held     []heldTrade // by id, none twice
	watch    tradeWatch
	backfill backfill

	takeUpAt  time.Time // when to look for holes to take up; zero = never, or that is under way
	begunThen int       // backfill.begun when the looking began

	builder   tape.TradeBuilder
	window    market.Time // of the block being built
	blockRecv market.Time // of the first trade in it
	begunAt   time.Time   // when that came
	flushAt   time.Time   // when to cut it at the latest
	saveAt    time.Time   // when to save what it has by then; zero = all is saved
}

// doubtful notes that something may be missing before the next trade. The first cause counts. Where nothing is known of
// what was before, nothing can be missing.
func (t *trades) doubtful(cause market.Cause) {
	if t.doubt == "" && (t.begun || t.watch.base != 0) {
		t.doubt = cause
	}
	t.watch.settling = false
}

// trade takes one trade of the stream.
func (t *trades) trade(ctx context.Context, tr *market.Trade, now time.Time) {
	if !t.cfg.Wait {
		t.watch.silence.heard(now)
	}
	if base := t.watch.base; !t.begun && base != 0 && tr.ID > base {
		t.beginAt(base)
	}
	switch {
	case !t.begun:
		t.doubt = ""
		t.take(ctx, tr, now)
	case tr.ID <= t.lastID:
		t.behind(ctx, tr, now)
	case tr.ID == t.lastID+1:
		t.doubt = ""
		t.take(ctx, tr, now)
		t.release(ctx, now)
	default:
		t.hold(ctx, tr, now)
	}
}

// beginAt begins behind an id that the exchange gave as its last: whatever follows it is to be recorded.
func (t *trades) beginAt(id int64) {
	t.begun, t.certain, t.lastID, t.origin.id = true, true, id, id
}

// take records the trade after lastID, or the first one.
func (t *trades) take(ctx context.Context, tr *market.Trade, now time.Time) {
	if t.mustCut(tr) {
		t.cut(ctx)
	}
	if stepsBack(t.stepEvent, tr.EventTime) {
		t.stepBack(ctx, clockStep(t.writer.series, tr.ID, moment{t.lastEvent, t.lastRecv}, moment{tr.EventTime, tr.RecvTime}))
	}
	if t.builder.Len() == 0 {
		t.window, t.blockRecv, t.begunAt = tr.EventTime.Truncate(market.BlockWindow), tr.RecvTime, now
	}
	t.saveAt = earliest(t.saveAt, saveTime(tr.RecvTime, now, t.cfg))
	t.flushAt = flushTime(t.begunAt, now, t.cfg.FlushInterval)
	if t.restart.contradicts(tr.ID, tr.EventTime) {
		t.noteRegress(tr.ID, t.restart.tail.LastID, now)
	} else if t.regressed.answers > 0 {
		t.regressed = regress{}
	}
	t.builder.Append(tr)
	t.meter.recorded.Inc()
	t.advance(ctx, tr)
}

// advance notes that all up to a trade is recorded.
func (t *trades) advance(ctx context.Context, last *market.Trade) {
	first := t.newest == 0
	if first {
		t.origin.event, t.origin.recv = last.EventTime, last.RecvTime
	}
	if !t.begun {
		t.origin.id = last.ID - 1
	}
	t.begun, t.lastID, t.lastEvent, t.lastRecv, t.stepEvent = true, last.ID, last.EventTime, last.RecvTime, last.EventTime
	t.newest = max(t.newest, last.EventTime)
	switch {
	case first && t.certain, !first && !t.certain:
		t.believeFirst(ctx)
	case first:
		t.settleRestart(ctx)
	}
	if t.watch.stall != nil {
		t.settleStall(ctx)
	}
}

// stepBack enters a step back of the exchange's clock into the ledger, but not again.
func (t *trades) stepBack(ctx context.Context, step *market.Gap) {
	if step != nil && !slices.Contains(t.steps, step.FirstID) {
		t.noteStep(step)
		t.writer.gap(ctx, *step)
	}
}

// noteStep notes that the ledger is told of a step back of the exchange's clock.
func (t *trades) noteStep(step *market.Gap) {
	if len(t.steps) == maxSteps {
		t.steps = slices.Delete(t.steps, 0, 1)
	}
	t.steps = append(t.steps, step.FirstID)
	t.meter.gap(market.Trades, market.CauseClock)
	t.log.Warn("the exchange's clock stepped back", "trade_id", step.FirstID, "by", step.Start.Sub(step.End))
}

// behind takes a trade at or below lastID: one that came twice, as a rule.
func (t *trades) behind(ctx context.Context, tr *market.Trade, now time.Time) {
	switch {
	case !t.certain && t.lastID-tr.ID > maxJump:
		t.forgetFirst("its id is far beyond those that follow")
		t.take(ctx, tr, now)
		return
	case !t.certain && tr.ID != t.lastID:
		t.believeFirst(ctx)
	}
	if tr.EventTime <= t.newest {
		t.meter.duplicate.Inc()
		return
	}
	// It is newer by time and older by id.
	t.meter.other(market.Trades, resultRegressed)
	t.noteRegress(tr.ID, t.lastID, now)
}

// noteRegress takes note of a trade that is newer by time and older by id than one that was recorded; see
// depth.noteRegress.
func (t *trades) noteRegress(id, recorded int64, now time.Time) {
	if t.regressed.certain || !t.regressed.again(now) {
		return
	}
	t.regressed.certain = true
	t.meter.regressed()
	t.log.Error("the exchange's trade ids began again lower: the market cannot be recorded on",
		"trade_id", id, "recorded_id", recorded)
}

// forgetFirst drops the first trade, of which nothing has shown that its id is no nonsense: others are far from it.
func (t *trades) forgetFirst(reason string) {
	t.complain(reason, market.Trade{ID: t.lastID, EventTime: t.lastEvent})
	t.builder, t.flushAt, t.saveAt = tape.TradeBuilder{}, time.Time{}, time.Time{}
	t.begun, t.newest, t.lastEvent, t.lastRecv, t.stepEvent = false, 0, 0, 0, 0
}

// replaceFirst lets the recording begin with the first trade held, which is believed and far beyond the first one.
func (t *trades) replaceFirst(ctx context.Context, now time.Time) {
	first := t.held[0].Trade
	t.held = slices.Delete(t.held, 0, 1)
	t.forgetFirst("its id is far below those that follow")
	t.take(ctx, &first, now)
	if !t.certain {
		t.believeFirst(ctx)
	}
	t.release(ctx, now)
}

// believeFirst takes note that the id of the first trade is no nonsense: what was missed before it is known.
func (t *trades) believeFirst(ctx context.Context) {
	t.certain = true
	t.restart.begin(t.origin.id, t.origin.event, t.origin.recv)
	t.settleRestart(ctx)
}

// missed enters what is missing before a trade into the ledger, and has it fetched again.
func (t *trades) missed(ctx context.Context, next *heldTrade, cause market.Cause) {
	t.cut(ctx)
	hole := market.Gap{
		Series: t.writer.series, Cause: cause, FirstID: t.lastID + 1, LastID: next.ID - 1,
		Start: t.lastEvent, RecvStart: t.lastRecv, DetectedAt: next.RecvTime,
	}
	if stall := t.watch.stall; stall != nil { // the stream talks again, and this is what it missed
		hole, t.watch.stall = *stall, nil
		hole.LastID = max(hole.LastID, next.ID-1)
	} else {
		t.meter.gap(market.Trades, cause)
	}
	hole.Start = cmp.Or(hole.Start, t.restart.before(hole.FirstID), next.EventTime)
	hole.End, hole.RecvEnd = next.EventTime, next.RecvTime
	hole.RepairedAt, hole.Repair = next.RecvTime, market.RepairResumed
	t.log.Warn("trades are missing", "cause", hole.Cause, "first_missing_id", hole.FirstID, "last_missing_id", next.ID-1)
	t.writer.gap(ctx, hole)
	if t.refetchNext(&hole, next.ID-1) {
		t.stepEvent = 0
	}
	t.lastID = next.ID - 1
}

// refetchNext has the trades behind lastID fetched again, up to the last. Where this process recorded none before them,
// they follow those that the restart missed, and not what is stored: nothing tells of the exchange's clock before them.
func (t *trades) refetchNext(entry *market.Gap, last int64) bool {
	fetched := t.refetch(entry, t.lastID+1, last)
	if i := t.backfill.find(entry.FirstID); i >= 0 && t.lastEvent == 0 && t.backfill.queue[i].event == entry.Start {
		t.backfill.queue[i].event = 0
	}
	return fetched
}

// settleRestart enters what was missed since an earlier process into the ledger, once that is known, and has it fetched
// again.
func (t *trades) settleRestart(ctx context.Context) {
	if tail := t.restart.tail; !t.certain && tail != nil && t.newest != 0 && near(t.lastID, tail.LastID) {
		t.believeFirst(ctx) // which comes back
		return
	}
	if t.dateStall(0) {
		t.writer.gap(ctx, *t.watch.stall)
	}
	hole, step := t.restart.settle(t.writer.series, market.RepairResumed)
	if hole != nil {
		t.meter.gap(market.Trades, market.CauseRestart)
		t.log.Info("trades were missed before this start", "first_missing_id", hole.FirstID, "last_missing_id", hole.LastID)
		t.writer.gap(ctx, *hole)
		if t.refetch(hole, hole.FirstID, hole.LastID) {
			return // which tells of the step
		}
	}
	t.stepBack(ctx, step)
}

// mustCut reports whether the block must end before tr.
func (t *trades) mustCut(tr *market.Trade) bool {
	n := t.builder.Len()
	return n > 0 && (n >= market.MaxBlockEvents || tr.EventTime.Truncate(market.BlockWindow) != t.window)
}

// cut ends the block.
func (t *trades) cut(ctx context.Context) {
	t.flushAt, t.saveAt = time.Time{}, time.Time{}
	if t.builder.Len() == 0 {
		return
	}
	t.meter.recordLag.Observe(market.TimeOf(time.Now()).Sub(t.blockRecv).Seconds())
	t.writer.block(ctx, t.builder.Finish(), nil, t.blockRecv)
}

// deadline returns when expire has something to do; zero for never.
func (t *trades) deadline() time.Time {
	return earliest(t.flushAt, t.saveAt, t.holdDeadline(), t.watch.missedAt, t.watch.silence.deadline(t.trading()),
		t.backfill.retryAt, t.takeUpAt)
}

// expire does what is due.
func (t *trades) expire(ctx context.Context, now time.Time) {
	if due(t.holdDeadline(), now) {
		t.endHold(ctx, now)
	}
	t.expireWatch(ctx, now)
	if due(t.backfill.retryAt, now) {
		t.backfill.launch()
	}
	if due(t.takeUpAt, now) {
		t.takeUpAgain(ctx, now)
	}
	if due(t.flushAt, now) && !t.askAboutFirst(now) {
		t.cut(ctx)
	}
	if due(t.saveAt, now) {
		t.save(ctx)
	}
}

// save saves what the block has so far, but for a first trade, which may be dropped yet.
func (t *trades) save(ctx context.Context) {
	t.saveAt = time.Time{}
	if t.certain && !t.writer.save(t.builder.Peek(), t.blockRecv) {
		t.cut(ctx)
	}
}

// askAboutFirst asks the exchange about a first trade that is alone, before it is handed over for good: a moment of
// waiting for one trade of a quiet market, against a series that begins with nonsense. It returns false when there is
// nothing to ask, or all was asked.
func (t *trades) askAboutFirst(now time.Time) bool {
	if t.certain || t.watch.askedFirst {
		return false
	}
	t.watch.askedFirst, t.flushAt = true, now.Add(quietTime)
	t.ask(now)
	return true
}

// finish records what is held and hands over what there is: nothing more will come. It returns how many records the sink
// refused for good.
func (t *trades) finish(ctx context.Context, now time.Time) (unwritten int) {
	t.backfill.limit = 0
	t.giveUpHold(ctx, now)
	t.cut(ctx)
	t.leaveBackfills(ctx, now)
	return t.writer.flush(ctx)
}
