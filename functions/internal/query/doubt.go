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
	before, err := s.goodBefore(ctx, q, r, doubts, moment)
	if err != nil {
		return nil, err
	}
	answer := before.answer(q, now)
	answer.State, answer.Gaps = Gap, nearest(doubts)
	return answer, s.refuse(ctx, q, answer)
}

// goodBefore returns the last book before the doubts that r rests on; where the first book of all is in doubt, that one.
func (s *Service) goodBefore(
	ctx context.Context, q BookQuery, r *replay, doubts []market.Gap, moment market.Time,
) (before *replay, err error) {
	if q.UpdateID != nil {
		return s.goodBeforeByID(ctx, q, r, doubts)
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
	before, err = s.replayUntil(ctx, q.Market, good)
	if isNotFound(err) {
		good.until++
		before, err = s.replayUntil(ctx, q.Market, good)
	}
	return before, err
}

// goodBeforeByID is goodBefore for a book that was asked for by its id. The book before one doubt may lie in another.
func (s *Service) goodBeforeByID(ctx context.Context, q BookQuery, r *replay, doubts []market.Gap) (*replay, error) {
	for range maxRounds {
		first := r.book.LastID()
		for i := range doubts {
			first = min(first, doubtful(&doubts[i]))
		}
		before, _, err := s.reach(ctx, q.Market, first-1)
		if before == nil || err != nil {
			return r, err
		}
		r = before
		if doubts, err = s.doubts(ctx, q, r, r.eventTime); len(doubts) == 0 || err != nil {
			return r, err
		}
	}
	return r, nil
}

// doubts returns the entries that cast doubt on the book of r at a moment; by its id, whenever that is.
func (s *Service) doubts(ctx context.Context, q BookQuery, r *replay, moment market.Time) ([]market.Gap, error) {
	if q.UpdateID != nil { // ids have one order, whatever the clock
		near, err := s.around(ctx, q.Market, r.earliest, r.latest)
		return slices.DeleteFunc(near.entries, func(g market.Gap) bool {
			return (g.Cause != market.CauseAudit && g.Cause != market.CauseCrossed) || !r.restsOnByID(&g)
		}), err
	}
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
	doubts = slices.DeleteFunc(doubts, func(g market.Gap) bool { return !r.restsOn(&g, moment) })
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

// restsOn reports whether the book of r, asked for at a moment, lies in what g doubts: from its first id and its start on,
// until a book was built anew.
func (r *replay) restsOn(g *market.Gap, moment market.Time) bool {
	if r.anewSince(g) || (g.End != 0 && r.keyframe.EventTime >= g.End) {
		return false
	}
	return moment > g.Start-inclusive(g) || r.book.LastID() >= g.FirstID
}

// restsOnByID is restsOn for a book that was asked for by its id. The keyframe with which g ends has g's last id, and may
// follow one of the same id that is in doubt: that is of an older snapshot, or of that very id.
func (r *replay) restsOnByID(g *market.Gap) bool {
	k := r.keyframe
	ended := k.UpdateID > g.LastID || (k.UpdateID == g.LastID &&
		(k.EventTime >= g.End || (k.SnapshotID == g.LastID && g.LastID >= g.FirstID)))
	if r.anewSince(g) || (g.End != 0 && ended) {
		return false
	}
	return r.book.LastID() >= doubtful(g)
}

// doubtful returns the first id of the books that g doubts: of an audit that found the very book wrong that the stream had
// led to, that of this book.
func doubtful(g *market.Gap) int64 {
	if g.LastID < g.FirstID && inclusive(g) != 0 {
		return g.LastID
	}
	return g.FirstID
}

// anewSince reports whether nobody was left to end g, and the book of r is one that the next process began.
func (r *replay) anewSince(g *market.Gap) bool {
	return g.End == 0 && r.keyframe.SnapshotID >= g.FirstID
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
