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
	Cause   market.Cause
}

// keyOf returns the place of g in the order of the ledger.
func keyOf(g *market.Gap) GapKey {
	return GapKey{Start: g.Start, FirstID: g.FirstID, Stream: g.Series.Stream, Cause: g.Cause}
}

func (k GapKey) compare(l GapKey) int {
	return cmp.Or(cmp.Compare(k.Start, l.Start), cmp.Compare(k.FirstID, l.FirstID), cmp.Compare(k.Stream, l.Stream),
		cmp.Compare(k.Cause, l.Cause))
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

// ledger returns all entries that q selects, whatever its Limit. More than can be judged are an error: what is left out
// might be the one that matters.
func (s *Service) ledger(ctx context.Context, q market.GapQuery) ([]market.Gap, error) {
	q.Limit = maxGaps + 1
	entries, err := s.reader.Gaps(ctx, q)
	if err == nil && len(entries) > maxGaps {
		err = tooWide(maxGaps, "gaps")
	}
	if err != nil {
		return nil, err
	}
	return entries, nil
}

// nearest bounds the entries that an answer shows.
func nearest(entries []market.Gap) []market.Gap { return entries[:min(len(entries), maxNearGaps)] }

// unsettled returns those entries of a series that are holes or doubts still in [from, to): it leaves out entries of
// missing ids that are all held, by another recorder or fetched again. Where nobody was left to close an entry of missing
// ids, it ends with what is held behind. All entries are of that series.
func (s *Service) unsettled(
	ctx context.Context, series market.Series, entries []market.Gap, from, to market.Time,
) ([]market.Gap, error) {
	if len(entries) == 0 {
		return nil, nil
	}
	first, last := endOfTime, market.Time(0)
	for i := range entries {
		first, last = min(first, begin(&entries[i])), max(last, end(&entries[i])+1)
		if unclosed(&entries[i]) {
			last = max(last, to)
		}
	}
	held, err := s.stretches(ctx, series, first, last)
	if err != nil {
		return nil, err
	}
	var open []market.Gap
	for _, g := range entries {
		n := behind(held, g.FirstID)
		if settled(&g, held[:n]) {
			continue
		}
		if unclosed(&g) && n < len(held) {
			g.End = max(g.Start, held[n].Start)
		}
		if g.End == 0 || end(&g) >= from {
			open = append(open, g)
		}
	}
	return open, nil
}

// unclosed reports whether an entry of missing ids is open.
func unclosed(g *market.Gap) bool { return g.End == 0 && !g.Cause.IsDoubt() }

// behind returns the index of the first of the stretches that begins behind an id. They are ordered by id, and none
// continues the one before.
func behind(held []market.Span, id int64) int {
	n, _ := slices.BinarySearchFunc(held, id, func(p market.Span, id int64) int { return cmp.Compare(p.PrevID, id) })
	return n
}

// settled reports whether an entry speaks of missing ids, of which every one is held, or none turned out to be missing.
// before are the stretches that begin at or before its first id.
func settled(g *market.Gap, before []market.Span) bool {
	switch none := g.LastID < g.FirstID; {
	case g.Cause.IsDoubt():
		return false
	case none && g.End != 0:
		return true
	}
	n := len(before)
	return n > 0 && max(g.FirstID, g.LastID) <= before[n-1].LastID
}
