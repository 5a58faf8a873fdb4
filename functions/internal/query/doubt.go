package query

import (
	"context"
	"slices"
	"time"

	"tapedeck/shared/market"
)

// clockReach is how far before and behind an instant entries of the exchange's clock are looked for.
const clockReach = 24 * time.Hour

// doubted returns the answer where the book of r is in doubt, seen from the instant now: the last good book before,
// with the entries of the ledger that cast the doubt. It returns nil where there is none. Holding every id settles no
// doubt; see market.Cause.IsDoubt.
func (s *Service) doubted(ctx context.Context, q BookQuery, r *replay, moment, now market.Time) (*Book, error) {
	doubts, err := s.doubts(ctx, q, r, moment)
	if len(doubts) == 0 || err != nil {
		return nil, err
	}
	good := bound{until: moment}
	for i := range doubts {
		g := &doubts[i]
		if start := begin(g); start != 0 {
			good.until = min(good.until, start-inclusive(g))
		}
		if good.admits(g.FirstID) {
			good.before = g.FirstID
		}
	}
	before, err := s.replayUntil(ctx, q.Market, good)
	if isNotFound(err) { // the first book of all is in doubt
		good.until++
		before, err = s.replayUntil(ctx, q.Market, good)
	}
	if err != nil {
		return nil, err
	}
	answer := before.answer(q, now)
	answer.State, answer.Gaps = Gap, doubts
	return answer, s.refuse(ctx, q, answer)
}

// doubts returns the entries that cast doubt on the book of r at a moment.
func (s *Service) doubts(ctx context.Context, q BookQuery, r *replay, moment market.Time) ([]market.Gap, error) {
	entries, err := s.reader.Gaps(ctx, market.GapQuery{
		Market: q.Market, Stream: market.Depth, From: r.keyframe.EventTime, To: moment.Add(1), Limit: maxNearGaps,
	})
	if err != nil {
		return nil, err
	}
	byID := q.UpdateID != nil
	doubts := slices.DeleteFunc(entries, func(g market.Gap) bool {
		return !g.Cause.IsDoubt() || g.Cause == market.CauseClock || !r.restsOn(&g, moment, byID)
	})
	if byID {
		return doubts, nil // ids have one order, whatever the clock
	}
	series := market.Series{Market: q.Market, Stream: market.Depth}
	steps, err := s.clockSteps(ctx, series, min(moment, r.eventTime), moment)
	if err != nil {
		return nil, err
	}
	return slices.AppendSeq(doubts, func(yield func(market.Gap) bool) {
		for _, g := range steps {
			if r.astride(&g, moment) && !yield(g) {
				return
			}
		}
	}), nil
}

// restsOn reports whether the book of r, asked for at a moment or by its id, lies in what g doubts: from its first id
// and its start on, until a book was built anew.
func (r *replay) restsOn(g *market.Gap, moment market.Time, byID bool) bool {
	switch {
	case g.End != 0 && r.keyframe.EventTime >= g.End:
		return false
	case g.End == 0 && r.keyframe.SnapshotID >= g.FirstID: // nobody was left to end it; the next process began anew
		return false
	}
	if byID && g.LastID >= g.FirstID {
		return r.book.LastID() >= g.FirstID
	}
	return moment > g.Start-inclusive(g) || r.book.LastID() >= g.FirstID
}

// inclusive returns 1 when the instant at which g starts is in doubt too, and 0 when the book is good up to it. An
// audit compares a book with the exchange's own and finds it wrong; all other entries start at the last good event.
func inclusive(g *market.Gap) market.Time {
	if g.Cause == market.CauseAudit {
		return 1
	}
	return 0
}

// astride reports whether the exchange's clock, which stepped back at g, showed the moment twice, or r ends before the
// step and the moment lies behind it.
func (r *replay) astride(g *market.Gap, moment market.Time) bool {
	if moment < begin(g) {
		return false
	}
	return g.End == 0 || moment < max(g.Start, g.End) || r.book.LastID() < g.FirstID
}

// clockSteps returns the ledger's entries of the exchange's clock around a stretch of time. The two times of an entry
// may stand in any order.
func (s *Service) clockSteps(ctx context.Context, series market.Series, from, to market.Time) ([]market.Gap, error) {
	return s.reader.Gaps(ctx, market.GapQuery{
		Market: series.Market, Stream: series.Stream, Cause: market.CauseClock,
		From: max(0, from.Add(-clockReach)), To: to.Add(clockReach), Limit: maxNearGaps,
	})
}

// withClockSteps adds to a range's entries those of the exchange's clock that touch it: a step back ends, by time, before
// it begins, and stores select by the order of the two.
func (s *Service) withClockSteps(
	ctx context.Context, entries []market.Gap, series market.Series, from, to market.Time,
) ([]market.Gap, error) {
	steps, err := s.clockSteps(ctx, series, from, to)
	if err != nil {
		return nil, err
	}
	for i := range steps {
		g := &steps[i]
		known := slices.ContainsFunc(entries, func(have market.Gap) bool { return keyOf(&have) == keyOf(g) })
		if !known && begin(g) < to && max(g.Start, g.End) >= from {
			entries = append(entries, *g)
		}
	}
	slices.SortFunc(entries, func(a, b market.Gap) int { return keyOf(&a).compare(keyOf(&b)) })
	return entries, nil
}

// begin returns the earlier of the times of an entry, as far as known.
func begin(g *market.Gap) market.Time {
	if g.End != 0 {
		return min(g.Start, g.End)
	}
	return g.Start
}
