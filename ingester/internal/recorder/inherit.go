package recorder

import (
	"cmp"
	"context"
	"slices"
	"time"

	"tapedeck/shared/market"
)

const (
	// inheritFor is how far back holes are taken up that an earlier process left; the exchange has trades for longer.
	inheritFor = 7 * 24 * time.Hour
	// maxInheritEntries bounds the entries of the ledger that are looked through for them: where there are more, it is the
	// newest part of that time, halved as often as it takes.
	maxInheritEntries = 1000
	// maxInherited bounds the holes that are taken up: there must be room for new ones.
	maxInherited = maxHoles / 2
	// inheritSlack is how far outside of a hole's time, by the exchange's clock, trades of it are looked for: the clock
	// may have stepped.
	inheritSlack = time.Minute
	// maxHoleSpans bounds the spans of one hole that are looked at; one that is fetched again from its beginning has one.
	maxHoleSpans = 100
)

// askInherited looks for holes of trades that earlier processes left, without making the market wait: a stop or a crash
// ended their backfill.
func (r *Recorder) askInherited(ctx context.Context) {
	if r.cfg.BackfillTrades == 0 {
		return
	}
	before := market.TimeOf(time.Now())
	r.children.Go(func() {
		left, err := r.findInherited(ctx, before)
		if err != nil && ctx.Err() == nil {
			r.log.Warn("holes that an earlier process left are not looked for", "error", err)
		}
		r.answers <- func(ctx context.Context, now time.Time) { r.trades.inherit(ctx, &left, now) }
	})
}

// inheritance is what earlier processes left.
type inheritance struct {
	holes []hole  // of trades, by id
	steps []int64 // before which ids in them, or just behind, the ledger has a step back of the exchange's clock
}

// findInherited returns the newest holes of trades that were found before a time and may still be fetched again. What
// lies behind the last trade stored then is not among them: it is a hole of this process (see restart).
func (r *Recorder) findInherited(ctx context.Context, before market.Time) (left inheritance, err error) {
	series := market.Series{Market: r.market, Stream: market.Trades}
	if err := r.sink.Settled(ctx); err != nil {
		return left, err
	}
	tail, err := r.sink.Tail(ctx, series)
	if market.KindOf(err) == market.KindNotFound {
		return left, nil
	} else if err != nil {
		return left, err
	}
	entries, err := r.newestEntries(ctx, before)
	if err != nil {
		return left, err
	}
	steps := slices.DeleteFunc(slices.Clone(entries), func(g market.Gap) bool { return g.Cause != market.CauseClock })
	entries = slices.DeleteFunc(entries, func(g market.Gap) bool {
		return g.Cause.IsDoubt() || g.Cause == market.CauseRefused || g.Repair == market.RepairBackfilled ||
			g.FirstID > g.LastID || g.LastID > tail.LastID || g.DetectedAt >= before
	})
	entries = entries[max(0, len(entries)-maxInherited):]
	slices.SortFunc(entries, func(a, b market.Gap) int { return cmp.Compare(a.FirstID, b.FirstID) })
	for i := range entries {
		h, err := r.remainder(ctx, &entries[i], before)
		if err != nil {
			return inheritance{}, err
		}
		if n := len(left.holes); n > 0 && h.next <= left.holes[n-1].last { // two entries name the same ids
			h.next, h.whole = left.holes[n-1].last+1, false
		}
		for j := range steps {
			if h.noteTold(&steps[j]) {
				left.steps = append(left.steps, steps[j].FirstID)
			}
		}
		if h.next <= h.last || h.whole {
			left.holes = append(left.holes, h)
		}
	}
	return left, nil
}

// newestEntries returns the newest entries of the ledger of trades, oldest first.
func (r *Recorder) newestEntries(ctx context.Context, before market.Time) ([]market.Gap, error) {
	for back := inheritFor; ; back /= 2 {
		entries, err := r.sink.Gaps(ctx, market.GapQuery{
			Market: r.market, Stream: market.Trades, From: max(0, before.Add(-back)), To: before.Add(inheritFor),
			Limit: maxInheritEntries,
		})
		if err != nil || len(entries) < maxInheritEntries || back < time.Minute {
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
	if step.FirstID < h.next { // a span's end is its greatest time
		h.event = min(h.event, step.End)
	}
	return true
}

// remainder returns what of an entry lies behind all that is held of it: trades are fetched again in their order, from
// the first one on, if that is not too long ago. An entry that nobody closed ends, before a time, where what is held goes
// on; it is closed only when all of it is held, as nobody knows how far the rest of it reaches.
func (r *Recorder) remainder(ctx context.Context, entry *market.Gap, before market.Time) (hole, error) {
	h := hole{entry: *entry, next: entry.FirstID, last: entry.LastID, whole: true, event: entry.Start, inherited: true}
	end := cmp.Or(entry.End, before)
	from, to := min(entry.Start, end).Add(-inheritSlack), max(entry.Start, end).Add(inheritSlack)
	held, err := r.sink.Spans(ctx, entry.Series, max(0, from), to, maxHoleSpans)
	if err != nil {
		return h, err
	}
	slices.SortFunc(held, func(a, b market.Span) int { return cmp.Compare(a.FirstID, b.FirstID) })
	for i := range held {
		switch s := &held[i]; {
		case s.FirstID > h.last && h.entry.End == 0:
			h.entry.End, h.entry.RecvEnd = s.Start, before
		case s.LastID >= h.next && s.FirstID <= h.last:
			h.whole = h.whole && s.FirstID <= h.next
			if h.next = s.LastID + 1; h.next <= h.last+1 {
				h.event = s.End
			}
		}
	}
	if len(held) == maxHoleSpans { // there may be more, and nothing is to be fetched twice
		h.next, h.whole = h.last+1, false
	}
	return h, nil
}

// inherit has holes that earlier processes left fetched again.
func (t *trades) inherit(ctx context.Context, left *inheritance, now time.Time) {
	t.steps = slices.Concat(left.steps, t.steps)
	t.steps = t.steps[max(0, len(t.steps)-maxSteps):]
	for i := range left.holes {
		h := &left.holes[i]
		switch {
		case t.backfill.find(h.entry.FirstID) >= 0: // it has grown meanwhile
		case h.next > h.last: // only the last word was missing
			t.settleClock(ctx, h, now)
			t.closeHole(ctx, h, now)
		case !t.enqueue(h):
			t.settleClock(ctx, h, now)
		default:
			t.log.Info("trades that an earlier process missed are fetched again",
				"first_missing_id", h.next, "last_missing_id", h.last)
		}
	}
}
