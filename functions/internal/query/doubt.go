package query

import (
	"context"
	"slices"

	"tapedeck/shared/market"
)

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
	answer.State, answer.Gaps = Gap, nearest(doubts)
	return answer, s.refuse(ctx, q, answer)
}

// doubts returns the entries that cast doubt on the book of r at a moment.
func (s *Service) doubts(ctx context.Context, q BookQuery, r *replay, moment market.Time) ([]market.Gap, error) {
	var doubts []market.Gap
	for _, cause := range []market.Cause{market.CauseAudit, market.CauseCrossed} {
		entries, err := s.ledger(ctx, market.GapQuery{
			Market: q.Market, Stream: market.Depth, Cause: cause, From: r.keyframe.EventTime, To: moment.Add(1),
		})
		if err != nil {
			return nil, err
		}
		doubts = append(doubts, entries...)
	}
	byID := q.UpdateID != nil
	doubts = slices.DeleteFunc(doubts, func(g market.Gap) bool { return !r.restsOn(&g, moment, byID) })
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

// clockSteps returns the ledger's entries around [from, to] that tell of steps of the exchange's clock: those of that cause,
// and those of holes that end earlier than they begin.
func (s *Service) clockSteps(ctx context.Context, series market.Series, from, to market.Time) ([]market.Gap, error) {
	entries, err := s.ledger(ctx, market.GapQuery{
		Market: series.Market, Stream: series.Stream, From: from.Add(-clockSlack), To: to.Add(clockSlack),
	})
	return slices.DeleteFunc(entries, func(g market.Gap) bool { return !tellsStep(&g) }), err
}

// tellsStep reports whether an entry tells that the exchange's clock stepped back.
func tellsStep(g *market.Gap) bool {
	return g.Cause == market.CauseClock || (g.End != 0 && g.Start.Sub(g.End) > clockSlack)
}

// begin returns the earlier of the times of an entry, as far as known.
func begin(g *market.Gap) market.Time {
	if g.End != 0 {
		return min(g.Start, g.End)
	}
	return g.Start
}

// end returns the later of the times of an entry, as far as known.
func end(g *market.Gap) market.Time { return max(g.Start, g.End) }
