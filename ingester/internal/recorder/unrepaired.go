package recorder

import (
	"cmp"
	"context"
	"math/rand/v2"
	"slices"
	"time"

	"tapedeck/shared/market"
)

const (
	// takeUpFor is how far back holes are taken up; the exchange has trades for longer.
	takeUpFor = 7 * 24 * time.Hour
	// maxLedgerEntries bounds the entries of the ledger that are looked through for them: where there are more, it is the
	// newest part of that time, halved as often as it takes.
	maxLedgerEntries = 1000
	// maxTakenUp bounds the holes that are taken up at a time: there must be room for new ones.
	maxTakenUp = maxHoles / 2
	// takeUpSlack is how far outside of a hole's time, by the exchange's clock, trades of it are looked for: the clock
	// may have stepped.
	takeUpSlack = time.Minute
	// maxHoleSpans bounds the spans of one hole that are looked at; mostly there are one or two.
	maxHoleSpans = 100
	// beforeStart stands for the last id that was stored before this process.
	beforeStart = -1
	// triedTime is how long an entry is left alone that was fetched as far as it can be.
	triedTime = 24 * time.Hour
	// busyTime is how long a look for holes is put off while some are being fetched.
	busyTime = time.Minute
)

// unrepaired is what may still be fetched again, of holes that an earlier process left as a stop or a crash ended their
// backfill, or that this one gave up, as no answer came or the sink refused what did.
type unrepaired struct {
	holes []hole  // of trades, by id
	steps []int64 // before which ids in them, or just behind, the ledger has a step back of the exchange's clock
}

// lookForHoles looks in the store for holes of trades that are to be taken up, with ids up to one, or up to beforeStart,
// and that were not tried. It does not make the market wait.
func (r *Recorder) lookForHoles(ctx context.Context, upTo int64, tried []attempt) {
	before := market.TimeOf(time.Now())
	r.children.Go(func() {
		found, err := r.findUnrepaired(ctx, before, upTo, tried)
		if err != nil && ctx.Err() == nil {
			r.log.Warn("holes that were not repaired are not looked for", "error", err)
		}
		r.answers <- func(ctx context.Context, now time.Time) { r.trades.found(ctx, &found, upTo == beforeStart, now) }
	})
}

// findUnrepaired returns the newest holes of trades that were found before a time and may still be fetched again. At the
// start, what lies behind the last trade stored then is not among them: it is a hole of this process (see restart).
func (r *Recorder) findUnrepaired(
	ctx context.Context, before market.Time, upTo int64, tried []attempt,
) (found unrepaired, err error) {
	series := market.Series{Market: r.market, Stream: market.Trades}
	if err := r.sink.Settled(ctx); err != nil {
		return found, err
	}
	if upTo == beforeStart {
		tail, err := r.sink.Tail(ctx, series)
		if market.KindOf(err) == market.KindNotFound {
			return found, nil
		} else if err != nil {
			return found, err
		}
		upTo = tail.LastID
	}
	entries, err := r.newestEntries(ctx, before)
	if err != nil {
		return found, err
	}
	steps := slices.DeleteFunc(slices.Clone(entries), func(g market.Gap) bool { return g.Cause != market.CauseClock })
	entries = slices.DeleteFunc(entries, func(g market.Gap) bool {
		return g.Cause.IsDoubt() || g.Cause == market.CauseRefused || g.Repair == market.RepairBackfilled ||
			g.FirstID > g.LastID || g.LastID > upTo || g.DetectedAt >= before ||
			slices.ContainsFunc(tried, func(a attempt) bool { return a.first == g.FirstID && g.LastID <= a.last })
	})
	entries = entries[max(0, len(entries)-maxTakenUp):]
	slices.SortFunc(entries, func(a, b market.Gap) int { return cmp.Compare(a.FirstID, b.FirstID) })
	for i := range entries {
		h, err := r.remainder(ctx, &entries[i], before)
		if err != nil {
			return unrepaired{}, err
		}
		if n := len(found.holes); n > 0 && h.next <= found.holes[n-1].last { // two entries name the same ids
			h.next, h.whole = found.holes[n-1].last+1, false
			h.skip()
		}
		for j := range steps {
			if h.noteTold(&steps[j]) {
				found.steps = append(found.steps, steps[j].FirstID)
			}
		}
		if h.next <= h.last || h.whole {
			found.holes = append(found.holes, h)
		}
	}
	return found, nil
}

// newestEntries returns the newest entries of the ledger of trades, oldest first.
func (r *Recorder) newestEntries(ctx context.Context, before market.Time) ([]market.Gap, error) {
	for back := takeUpFor; ; back /= 2 {
		entries, err := r.sink.Gaps(ctx, market.GapQuery{
			Market: r.market, Stream: market.Trades, From: max(0, before.Add(-back)), To: before.Add(takeUpFor),
			Limit: maxLedgerEntries,
		})
		if err != nil || len(entries) < maxLedgerEntries || back < time.Minute {
			return entries, err
		}
	}
}

// noteTold takes note of a step back of the exchange's clock that is in the ledger. It returns false if that lies neither
// in the hole nor just behind.
func (h *hole) noteTold(step *market.Gap) bool {
	if step.FirstID < h.entry.FirstID || step.FirstID > h.entry.LastID+1 {
		return false
	}
	if step.FirstID < h.since { // a span's end is its greatest time
		h.event = min(h.event, step.End)
	}
	for i := range h.held {
		if s := &h.held[i]; s.FirstID <= step.FirstID && step.FirstID <= s.LastID {
			s.End = min(s.End, step.End)
		}
	}
	return true
}

// remainder returns what of an entry is not held. An entry that nobody closed ends, before a time, where what is held goes
// on; it is closed only when all of it is held, as nobody knows how far the rest of it reaches.
func (r *Recorder) remainder(ctx context.Context, entry *market.Gap, before market.Time) (hole, error) {
	h := hole{entry: *entry, next: entry.FirstID, last: entry.LastID, whole: true, event: entry.Start, since: entry.FirstID, takenUp: true, vague: true}
	end := cmp.Or(entry.End, before)
	from, to := min(entry.Start, end).Add(-takeUpSlack), max(entry.Start, end).Add(takeUpSlack)
	held, err := r.sink.Spans(ctx, entry.Series, max(0, from), to, maxHoleSpans)
	if err != nil {
		return h, err
	}
	if len(held) == maxHoleSpans { // there may be more, and nothing is to be fetched twice
		h.next, h.whole = h.last+1, false
		return h, nil
	}
	slices.SortFunc(held, func(a, b market.Span) int { return cmp.Compare(a.FirstID, b.FirstID) })
	nearest := int64(-1)
	for i := range held {
		switch s := &held[i]; {
		case s.FirstID > h.last && h.entry.End == 0:
			h.entry.End, h.entry.RecvEnd = s.Start, before
		case s.LastID < entry.FirstID && s.LastID > nearest: // the entry may begin with an earlier trade
			nearest = s.LastID
			h.event, h.since = min(entry.Start, s.End), s.LastID+1
		}
	}
	h.aloof = entry.Cause == market.CauseOverflow || !slices.ContainsFunc(held, func(s market.Span) bool { return s.FirstID <= h.last+1 && h.last < s.LastID })
	h.held = slices.DeleteFunc(held, func(s market.Span) bool { return s.LastID < entry.FirstID || s.FirstID > entry.LastID })
	h.skip()
	return h, nil
}

// mayTakeUp reports whether all that is known to be missing is in the ledger as it is, and none of it being fetched.
func (t *trades) mayTakeUp() bool {
	b := &t.backfill
	return t.begun && t.certain && len(b.queue) == 0 && !b.under && t.watch.stall == nil && (t.restart.tail == nil || t.restart.done)
}

// takeUpAgain has holes looked for that were not repaired.
func (t *trades) takeUpAgain(ctx context.Context, now time.Time) {
	b := &t.backfill
	b.tried = slices.DeleteFunc(b.tried, func(a attempt) bool { return now.Sub(a.at) >= triedTime })
	if !t.mayTakeUp() {
		t.takeUpAt = now.Add(min(busyTime, t.cfg.BackfillRetry))
		return
	}
	t.cut(ctx) // what is recorded is to be found
	t.takeUpAt, t.begunThen = time.Time{}, b.begun
	t.look(t.lastID, slices.Clone(b.tried))
}

// found takes up holes that were not repaired. What was fetched since they were looked for, other than at the start, may be
// among them.
func (t *trades) found(ctx context.Context, left *unrepaired, start bool, now time.Time) {
	current := start || t.mayTakeUp() && t.begunThen == t.backfill.begun
	if every := t.cfg.BackfillRetry; every > 0 && !t.cfg.Wait {
		wait := every*3/4 + rand.N(every/2) // not all markets at once
		if !current {
			wait = min(busyTime, wait)
		}
		t.takeUpAt = now.Add(wait)
	}
	if current {
		t.takeUp(ctx, left, now)
	}
}

// takeUp has holes that were not repaired fetched again.
func (t *trades) takeUp(ctx context.Context, left *unrepaired, now time.Time) {
	known := slices.DeleteFunc(left.steps, func(id int64) bool { return slices.Contains(t.steps, id) })
	t.steps = slices.Concat(known, t.steps)
	t.steps = t.steps[max(0, len(t.steps)-maxSteps):]
	for i := range left.holes {
		h := &left.holes[i]
		switch {
		case t.backfill.find(h.entry.FirstID) >= 0: // it has grown meanwhile
		case h.next > h.last: // only the last word was missing
			t.settleClock(ctx, h, now)
			t.closeHole(ctx, h, now)
			t.backfill.settle(&h.entry, now)
		case !t.enqueue(h):
			t.settleClock(ctx, h, now)
		default:
			t.log.Info("trades that were missed are taken up", "first_missing_id", h.next, "last_missing_id", h.last)
		}
	}
}
