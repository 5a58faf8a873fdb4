package query

import (
	"cmp"
	"context"
	"slices"

	"tapedeck/shared/market"
)

// CoverageState says how much of a stretch of time is held.
type CoverageState string

// The states of coverage.
const (
	Available CoverageState = "available" // every event is held
	Degraded  CoverageState = "degraded"  // held, but the ledger has an entry there that is not settled
	Missing   CoverageState = "missing"   // nothing is held between two stretches
)

// CoverageSpan is a stretch of time of one stream in one state. FirstID and LastID are the ids held, or missing, within
// the whole stretch that the span is cut from.
type CoverageSpan struct {
	Stream          market.Stream
	Start, End      market.Time
	State           CoverageState
	FirstID, LastID int64
}

// RangeQuery asks about a range of event time of one stream, or of all when Stream is empty.
type RangeQuery struct {
	Market     market.Market
	Stream     market.Stream
	Start, End market.Time // End 0: no bound
}

// Coverage returns what is held in the range, ordered by stream and start, and the ledger's entries in it. Time before
// the first record and after the last is not part of the answer.
func (s *Service) Coverage(ctx context.Context, q RangeQuery) (spans []CoverageSpan, gaps []market.Gap, err error) {
	defer market.Wrap(&err, "Coverage(%v)", q.Market)
	if q.End == 0 {
		q.End = endOfTime
	}
	gaps, err = s.ledger(ctx, market.GapQuery{Market: q.Market, Stream: q.Stream, From: q.Start, To: q.End})
	if err != nil {
		return nil, nil, err
	}
	for _, stream := range []market.Stream{market.Depth, market.Trades} {
		if q.Stream != "" && q.Stream != stream {
			continue
		}
		series := market.Series{Market: q.Market, Stream: stream}
		covered, err := s.coverage(ctx, series, q, gaps)
		if err != nil {
			return nil, nil, err
		}
		spans = append(spans, covered...)
	}
	if len(spans) == 0 {
		return nil, gaps, s.known(ctx, q.Market)
	}
	return spans, gaps, nil
}

// coverage returns the spans of one series.
func (s *Service) coverage(ctx context.Context, series market.Series, q RangeQuery, gaps []market.Gap) ([]CoverageSpan, error) {
	first, last, ok, err := s.held(ctx, series)
	if !ok || err != nil {
		return nil, err
	}
	stretches, err := s.stretches(ctx, series, q.Start, q.End)
	if err != nil {
		return nil, err
	}
	gaps = slices.DeleteFunc(slices.Clone(gaps), func(g market.Gap) bool { return g.Series != series })
	if gaps, err = s.unsettled(ctx, series, gaps, q.Start, q.End); err != nil {
		return nil, err
	}
	slices.SortFunc(gaps, func(a, b market.Gap) int { return cmp.Compare(begin(&a), begin(&b)) })
	var spans []CoverageSpan
	missing := func(from, to market.Time, firstID, lastID int64) {
		if from < to {
			spans = append(spans, CoverageSpan{series.Stream, from, to, Missing, firstID, lastID})
		}
	}
	reached, id := max(q.Start, first.Start), int64(0) // the end of what is held so far; id 0: not known
	for _, p := range stretches {
		before := int64(0)
		if id != 0 {
			before = id + 1
		}
		p.Start = resumed(&p, reached, gaps)
		missing(reached, p.Start, before, p.PrevID)
		spans = append(spans, split(p, gaps)...)
		reached, id = max(reached, p.End), max(id, p.LastID)
	}
	missing(reached, min(q.End, last.End), 0, 0)
	return clip(spans, q), nil
}

// resumed returns when the stretch p begins: at its first event, or, behind a hole, with the state that ended the hole,
// where nothing happened from that on to the first event. Nothing is held between reached and the first event.
func resumed(p *market.Span, reached market.Time, gaps []market.Gap) market.Time {
	start := p.Start
	for i := range gaps {
		if g := &gaps[i]; !g.Cause.IsDoubt() && g.LastID == p.PrevID && reached <= g.End && g.End != 0 {
			start = min(start, g.End)
		}
	}
	return start
}

// stretches returns the spans of a series in a range, with those that overlap or continue each other made into one,
// ordered by id.
func (s *Service) stretches(ctx context.Context, series market.Series, from, to market.Time) ([]market.Span, error) {
	spans, err := s.reader.Spans(ctx, series, from, to, maxSpans+1)
	if err != nil {
		return nil, err
	}
	if len(spans) > maxSpans {
		return nil, tooWide(maxSpans, "spans")
	}
	slices.SortFunc(spans, func(a, b market.Span) int { return cmp.Compare(a.FirstID, b.FirstID) })
	merged := spans[:0]
	for _, p := range spans {
		if n := len(merged); n > 0 && p.PrevID <= merged[n-1].LastID {
			last := &merged[n-1]
			last.Start = min(last.Start, p.Start)
			last.LastID, last.End = max(last.LastID, p.LastID), max(last.End, p.End)
			continue
		}
		merged = append(merged, p)
	}
	return merged, nil
}

// split cuts a stretch at the entries that lie on it, which are of its series and ordered by when they begin.
func split(p market.Span, gaps []market.Gap) []CoverageSpan {
	var spans []CoverageSpan
	add := func(from, to market.Time, state CoverageState) {
		spans = append(spans, CoverageSpan{p.Series.Stream, from, to, state, p.FirstID, p.LastID})
	}
	from := p.Start
	for _, g := range gaps {
		until := p.End
		if g.End != 0 {
			until = min(until, end(&g))
		}
		start := max(begin(&g), from)
		if start >= until {
			continue
		}
		if from < start {
			add(from, start, Available)
		}
		if n := len(spans); n > 0 && spans[n-1].State == Degraded && spans[n-1].End == start {
			spans[n-1].End = until
		} else {
			add(start, until, Degraded)
		}
		from = until
	}
	if from < p.End || len(spans) == 0 {
		add(from, p.End, Available)
	}
	return spans
}

// clip cuts the spans to the range and drops those outside.
func clip(spans []CoverageSpan, q RangeQuery) []CoverageSpan {
	clipped := spans[:0]
	for _, p := range spans {
		p.Start, p.End = max(p.Start, q.Start), min(p.End, q.End)
		if p.Start <= p.End {
			clipped = append(clipped, p)
		}
	}
	return clipped
}
