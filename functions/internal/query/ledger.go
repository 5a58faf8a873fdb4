package query

import (
	"cmp"
	"context"
	"slices"

	"tapedeck/shared/market"
)

// GapsQuery asks for a page of the ledger.
type GapsQuery struct {
	RangeQuery
	Cause market.Cause // empty: all
	After *GapKey      // nil: from the start of the range
	Limit int          // at least 1
}

// GapKey is the place of a gap in the order of the ledger.
type GapKey struct {
	Start   market.Time
	FirstID int64
	Stream  market.Stream
}

// keyOf returns the place of g in the order of the ledger.
func keyOf(g *market.Gap) GapKey {
	return GapKey{Start: g.Start, FirstID: g.FirstID, Stream: g.Series.Stream}
}

func (k GapKey) compare(l GapKey) int {
	return cmp.Or(cmp.Compare(k.Start, l.Start), cmp.Compare(k.FirstID, l.FirstID), cmp.Compare(k.Stream, l.Stream))
}

// Gaps returns the page of the ledger that q asks for, and where the next one begins; nil when there is none.
func (s *Service) Gaps(ctx context.Context, q GapsQuery) (gaps []market.Gap, next *GapKey, err error) {
	defer market.Wrap(&err, "Gaps(%v)", q.Market)
	if q.End == 0 {
		q.End = endOfTime
	}
	from := q.Start
	if q.After != nil {
		from = max(from, q.After.Start) // what began earlier was on an earlier page
	}
	gaps, err = s.reader.Gaps(ctx, market.GapQuery{
		Market: q.Market, Stream: q.Stream, Cause: q.Cause, From: from, To: q.End, Limit: maxGaps + 1,
	})
	switch {
	case err != nil:
		return nil, nil, err
	case len(gaps) == 0 && q.After == nil:
		return nil, nil, s.known(ctx, q.Market)
	}
	all := len(gaps) <= maxGaps // that there are
	if q.After != nil {
		gaps = slices.DeleteFunc(gaps, func(g market.Gap) bool { return keyOf(&g).compare(*q.After) <= 0 })
	}
	switch {
	case len(gaps) > q.Limit:
		gaps = gaps[:q.Limit]
	case all:
		return gaps, nil, nil
	case len(gaps) == 0:
		return nil, nil, tooWide(maxGaps, "gaps that overlap one instant")
	}
	last := keyOf(&gaps[len(gaps)-1])
	return gaps, &last, nil
}

// unsettled returns those entries of a series that are holes or doubts still: it leaves out entries of missing ids that
// are all held, by another recorder or fetched again. All entries are of that series.
func (s *Service) unsettled(ctx context.Context, series market.Series, entries []market.Gap) ([]market.Gap, error) {
	if len(entries) == 0 {
		return nil, nil
	}
	from, to := endOfTime, market.Time(0)
	for i := range entries {
		from = min(from, begin(&entries[i]))
		to = max(to, entries[i].Start, entries[i].End)
	}
	held, err := s.stretches(ctx, series, from, to+1)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(entries), func(g market.Gap) bool { return settled(&g, held) }), nil
}

// settled reports whether an entry speaks of missing ids, of which every one is held. The stretches are ordered by id,
// and none continues the one before.
func settled(g *market.Gap, held []market.Span) bool {
	switch {
	case g.Cause.IsDoubt():
		return false
	case g.LastID < g.FirstID:
		return g.End != 0 // no id turned out to be missing
	}
	n, _ := slices.BinarySearchFunc(held, g.FirstID, func(p market.Span, id int64) int { return cmp.Compare(p.PrevID, id) })
	return n > 0 && g.LastID <= held[n-1].LastID // the last one that begins at or before the id
}
