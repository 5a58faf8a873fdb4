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
	// maxInheritEntries bounds the entries of the ledger that are looked through for them, oldest first.
	maxInheritEntries = 1000
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
		holes, err := r.findInherited(ctx, before)
		if err != nil && ctx.Err() == nil {
			r.log.Warn("holes that an earlier process left are not looked for", "error", err)
		}
		r.answers <- func(ctx context.Context, now time.Time) { r.trades.inherit(ctx, holes, now) }
	})
}

// findInherited returns the newest holes of trades that were found before a time and may still be fetched again, by id.
// What lies behind the last trade stored then is not among them: it is a hole of this process (see restart).
func (r *Recorder) findInherited(ctx context.Context, before market.Time) ([]hole, error) {
	series := market.Series{Market: r.market, Stream: market.Trades}
	if err := r.sink.Settled(ctx); err != nil {
		return nil, err
	}
	tail, err := r.sink.Tail(ctx, series)
	if market.KindOf(err) == market.KindNotFound {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	entries, err := r.sink.Gaps(ctx, market.GapQuery{
		Market: r.market, Stream: market.Trades, From: before.Add(-inheritFor), To: before.Add(inheritFor), Limit: maxInheritEntries,
	})
	if err != nil {
		return nil, err
	}
	entries = slices.DeleteFunc(entries, func(g market.Gap) bool {
		return g.Cause.IsDoubt() || g.Cause == market.CauseRefused || g.Repair == market.RepairBackfilled ||
			g.FirstID > g.LastID || g.LastID > tail.LastID || g.DetectedAt >= before
	})
	entries = entries[max(0, len(entries)-maxHoles):]
	slices.SortFunc(entries, func(a, b market.Gap) int { return cmp.Compare(a.FirstID, b.FirstID) })
	holes := make([]hole, 0, len(entries))
	for i := range entries {
		h, err := r.remainder(ctx, &entries[i], before)
		if err != nil {
			return nil, err
		}
		if n := len(holes); n > 0 && h.next <= holes[n-1].last { // two entries name the same ids
			h.next, h.whole = holes[n-1].last+1, false
		}
		if h.next <= h.last || h.whole {
			holes = append(holes, h)
		}
	}
	return holes, nil
}

// remainder returns what of an entry lies behind all that is held of it: trades are fetched again in their order, from
// the first one on, if that is not too long ago. An entry that nobody closed ended before a time.
func (r *Recorder) remainder(ctx context.Context, entry *market.Gap, before market.Time) (hole, error) {
	h := hole{entry: *entry, next: entry.FirstID, last: entry.LastID, whole: true, event: entry.Start}
	end := cmp.Or(entry.End, before)
	from, to := min(entry.Start, end).Add(-inheritSlack), max(entry.Start, end).Add(inheritSlack)
	held, err := r.sink.Spans(ctx, entry.Series, max(0, from), to, maxHoleSpans)
	if err != nil {
		return h, err
	}
	if len(held) == maxHoleSpans { // there may be more, and nothing is to be fetched twice
		h.next, h.whole = h.last+1, false
		return h, nil
	}
	slices.SortFunc(held, func(a, b market.Span) int { return cmp.Compare(a.FirstID, b.FirstID) })
	for i := range held {
		if s := &held[i]; s.LastID >= h.next && s.FirstID <= h.last {
			h.whole = h.whole && s.FirstID <= h.next
			h.next = s.LastID + 1
		}
	}
	return h, nil
}

// inherit has holes that earlier processes left fetched again.
func (t *trades) inherit(ctx context.Context, holes []hole, now time.Time) {
	for i := range holes {
		h := &holes[i]
		switch {
		case t.backfill.find(h.entry.FirstID) >= 0: // it has grown meanwhile
		case h.next > h.last: // only the last word was missing
			t.closeHole(ctx, h, now)
		default:
			t.log.Info("trades that an earlier process missed are fetched again",
				"first_missing_id", h.next, "last_missing_id", h.last)
			t.enqueue(h)
		}
	}
}
