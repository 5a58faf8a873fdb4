package recorder

import (
	"cmp"
	"context"
	"time"

	"tapedeck/shared/market"
)

// tradeWatch is what finds out that trades are missing though no later one shows it: the stream is mute.
type tradeWatch struct {
	silence  silence
	asking   bool      // for the exchange's last trade id
	askedAt  time.Time // when
	settling bool      // the doubt is older than the question
	judgeAt  time.Time // when to ask about the first trade held again; zero when nothing is to be asked

	askedFirst bool // about the first trade recorded

	base     int64       // the exchange's last trade id before anything was recorded; 0 while it is not known
	ahead    int64       // the exchange's last trade id, up to which the stream may still bring trades
	missedAt time.Time   // until when it may; zero when it is not ahead
	far      int64       // an answer that is hard to believe, until the next one
	stall    *market.Gap // the open entry of what a mute stream did not bring
}

// online notes that the market has a connection again, or the first.
func (t *trades) online(now time.Time) {
	t.doubtful(market.CauseDisconnect)
	if !t.cfg.Wait {
		t.watch.silence.start(now)
	}
}

// offline notes that the market's last connection is gone: trades may be missing from here on.
func (t *trades) offline() {
	t.doubtful(market.CauseDisconnect)
	t.watch.silence.stop()
	t.watch.missedAt = time.Time{}
}

// expireWatch does what is due.
func (t *trades) expireWatch(ctx context.Context, now time.Time) {
	if due(t.watch.missedAt, now) {
		t.watch.missedAt = time.Time{}
		if t.watch.ahead > t.lastID && len(t.held) == 0 {
			t.mute(ctx, now)
		}
	}
	if due(t.watch.silence.deadline(t.trading()), now) {
		t.watch.silence.answered(now) // not again before the answer
		t.ask(now)
	}
}

// ask asks for the exchange's last trade id. At most one question is under way.
func (t *trades) ask(now time.Time) {
	if t.watch.asking {
		return
	}
	t.watch.asking, t.watch.askedAt, t.watch.settling = true, now, t.doubt != ""
	t.inquire()
}

// answered takes the exchange's last trade id.
func (t *trades) answered(ctx context.Context, id int64, err error, now time.Time) {
	w := &t.watch
	w.asking = false
	if err != nil {
		if market.KindOf(err) != market.KindNotFound { // which says that there never was a trade
			t.log.Warn("the exchange's last trade id is not known", "error", err)
		}
		id = -1
	}
	t.judgeFirst(ctx, id, now)
	t.judgeHeld(ctx, id, w.askedAt, now)
	if err != nil {
		return
	}
	last := t.lastID
	if !t.begun {
		last = w.base
	}
	switch {
	case last == 0 && !t.begun:
		w.base = id
	case id-last > maxJump && (w.far == 0 || id < w.far || id-w.far > maxJump):
		w.far = id // if the next answer is like it
		return
	case id-last > maxJump && !t.certain && t.newest != 0:
		t.forgetFirst("its id is far below the exchange's")
		t.beginAt(id)
		t.release(ctx, now)
	case id > last:
		w.ahead, w.missedAt = id, now.Add(graceTime)
	case w.settling:
		t.doubt = ""
	}
	w.far = 0
}

// judgeFirst takes the exchange's word on the first trade, or that there is none (-1), while nothing else has shown that
// its id is no nonsense.
func (t *trades) judgeFirst(ctx context.Context, id int64, now time.Time) {
	switch {
	case t.certain || t.newest == 0:
		return
	case id >= 0 && t.lastID-id > maxJump:
		t.forgetFirst("its id is far beyond the exchange's")
		return
	case id >= 0 && near(id, t.lastID):
		t.believeFirst(ctx)
	}
	if t.watch.askedFirst && t.builder.Len() > 0 {
		t.flushAt = now // it waited for this
	}
}

// mute notes that the exchange had trades which the stream did not bring. They are fetched again, and where nothing else
// explains it, the feed is asked to restore the stream.
func (t *trades) mute(ctx context.Context, now time.Time) {
	t.cut(ctx)
	w := &t.watch
	if !t.begun {
		t.beginAt(w.base)
	}
	if w.stall == nil {
		t.backfill.left = nil
		w.stall = &market.Gap{
			Series: t.writer.series, Cause: t.doubt, FirstID: t.lastID + 1,
			Start: t.lastEvent, RecvStart: t.lastRecv, DetectedAt: market.TimeOf(now),
		}
		if w.stall.Cause == "" {
			w.stall.Cause = market.CauseStall
		}
		t.meter.gap(market.Trades, w.stall.Cause)
		t.log.Warn("trades are missing", "cause", w.stall.Cause, "first_missing_id", w.stall.FirstID, "last_missing_id", w.ahead)
	}
	w.stall.LastID = max(w.stall.LastID, w.ahead) // a replica of the exchange may be late
	t.dateStall(0)
	t.writer.gap(ctx, *w.stall)
	t.refetchNext(w.stall, w.stall.LastID)
	if w.stall.Cause == market.CauseStall && t.cfg.Restore != nil {
		t.cfg.Restore(t.writer.series.Market, market.Trades)
	}
	t.doubt = w.stall.Cause        // until the stream talks again
	if !w.silence.since.IsZero() { // a mute stream is asked about again as soon as is usual
		w.silence.stop()
		w.silence.start(now)
	}
}

// dateStall gives the entry of a mute stream its beginning where this process recorded nothing before it: by what is
// stored, once that is known, else by the first trade recorded, if there is one. An entry without a beginning would cast
// doubt on all that was ever recorded of the market. It reports whether the entry is another one now.
func (t *trades) dateStall(first market.Time) bool {
	stall := t.watch.stall
	if stall == nil || stall.FirstID != t.origin.id+1 {
		return false
	}
	start := cmp.Or(t.restart.before(stall.FirstID), stall.Start, first)
	if start == stall.Start {
		return false
	}
	stall.Start = start
	if i := t.backfill.find(stall.FirstID); i >= 0 {
		t.backfill.queue[i].entry.Start = start
	}
	return true
}

// settleStall ends the entry of a mute stream when all of it is here after all. What the sink refused of that is missing
// still: its backfill goes on.
func (t *trades) settleStall(ctx context.Context) {
	t.dateStall(t.origin.event)
	if t.lastID < t.watch.stall.LastID {
		return
	}
	t.cut(ctx) // what the entry is going to say must be true
	whole := *t.watch.stall
	t.watch.stall = nil
	whole.End, whole.RecvEnd = t.lastEvent, t.lastRecv
	whole.RepairedAt, whole.Repair = t.lastRecv, market.RepairResumed
	if t.writer.holds(whole.FirstID) {
		whole.Repair = market.RepairBackfilled
		t.cancelBackfill(whole.FirstID)
	} else if i := t.backfill.find(whole.FirstID); i >= 0 {
		t.backfill.queue[i].entry = whole
	}
	t.writer.gap(ctx, whole)
}
