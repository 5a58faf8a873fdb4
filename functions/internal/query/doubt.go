package query

import (
	"context"
	"slices"

	"tapedeck/shared/market"
)

// doubted returns the answer where the book of r, asked for at a moment, is in doubt, seen from the instant now: the last
// good book before, with the entries of the ledger that cast the doubt. It returns nil where there is none. Holding every
// id settles no doubt; see market.Cause.IsDoubt.
func (s *Service) doubted(ctx context.Context, q BookQuery, r *replay, moment, now market.Time) (*Book, error) {
	doubts, err := s.doubts(ctx, q.Market, r, moment)
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
	return answer, nil
}

// goodBeforeByID returns the last book before the doubts that r, asked for by its id, rests on; where the first book of all
// is in doubt, that one. The book before one doubt may lie in another, and so on, which is followed for a few rounds.
func (s *Service) goodBeforeByID(ctx context.Context, m market.Market, r *replay, doubts []market.Gap) (*replay, error) {
	for range maxRounds {
		first := r.book.LastID()
		for i := range doubts {
			first = min(first, doubtful(&doubts[i]))
		}
		before, _, err := s.reach(ctx, m, first-1)
		if before == nil || err != nil {
			return r, err
		}
		r = before
		if doubts, _, err = s.doubtsByID(ctx, m, r); len(doubts) == 0 || err != nil {
			return r, err
		}
	}
	return r, nil
}

// doubts returns the entries that cast doubt on the book of r at a moment.
func (s *Service) doubts(ctx context.Context, m market.Market, r *replay, moment market.Time) ([]market.Gap, error) {
	var doubts []market.Gap
	for _, cause := range []market.Cause{market.CauseAudit, market.CauseCrossed} {
		entries, err := s.ledger(ctx, market.GapQuery{
			Market: m, Stream: market.Depth, Cause: cause, From: r.keyframe.EventTime, To: moment.Add(1),
		})
		if err != nil {
			return nil, err
		}
		doubts = append(doubts, entries...)
	}
	doubts = slices.DeleteFunc(doubts, func(g market.Gap) bool { return !r.restsOn(&g, moment) })
	steps, err := s.clockSteps(ctx, market.Series{Market: m, Stream: market.Depth}, min(moment, r.eventTime), moment)
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

// doubtsByID returns the entries that cast doubt on the book of r by its id, and whether the exchange's clock stepped about
// there. Ids have one order, whatever the clock, so that a step itself casts none.
func (s *Service) doubtsByID(
	ctx context.Context, m market.Market, r *replay,
) (doubts []market.Gap, stepped bool, err error) {
	near, err := s.around(ctx, m, r.earliest, r.latest, tellsStep)
	for i := range near.entries {
		g := &near.entries[i]
		stepped = stepped || tellsStep(g)
		if (g.Cause == market.CauseAudit || g.Cause == market.CauseCrossed) && r.restsOnByID(g) {
			doubts = append(doubts, *g)
		}
	}
	return doubts, stepped, err
}

// restsOn reports whether the book of r, asked for at a moment, lies in what g doubts: from its first id and its start on,
// until a book was built anew. Where nobody was left to end it, that is the one with which the next process began.
func (r *replay) restsOn(g *market.Gap, moment market.Time) bool {
	switch {
	case g.End != 0 && r.keyframe.EventTime >= g.End:
		return false
	case g.End == 0 && r.keyframe.SnapshotID >= g.FirstID:
		return false
	}
	return moment > g.Start-inclusive(g) || r.book.LastID() >= g.FirstID
}

// restsOnByID is restsOn for a book that was asked for by its id: from the first id in doubt on, unless the keyframe is built
// from a later snapshot, or is stored behind the end of g. Of two with the very last id of g, the later one is that with
// which g ends. Another recorder's book, which goes on beyond g, is not in doubt.
func (r *replay) restsOnByID(g *market.Gap) bool {
	k := r.keyframe
	behind := g.End != 0 && (k.UpdateID > g.LastID || (k.UpdateID == g.LastID && k.EventTime >= g.End))
	return r.book.LastID() >= doubtful(g) && k.SnapshotID < g.FirstID && !behind
}

// doubtful returns the first id of the books that g doubts: of an audit that found the very book wrong that the stream had
// led to, that of this book.
func doubtful(g *market.Gap) int64 {
	if g.LastID < g.FirstID && g.Cause == market.CauseAudit {
		return g.LastID
	}
	return g.FirstID
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
