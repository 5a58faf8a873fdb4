package query

import (
	"cmp"
	"context"
	"slices"

	"tapedeck/shared/market"
)

// bookByID answers for the event that holds id. That book is what it is whether or not anybody still records, so it is
// synced or, where id lies in a hole or in doubt, the book before.
func (s *Service) bookByID(ctx context.Context, q BookQuery, id int64) (*Book, error) {
	r, holder, err := s.reach(ctx, q.Market, id)
	if err != nil {
		return nil, err
	}
	if r == nil || (holder.Events == 0 && r.book.LastID() < id && r.hole == 0) {
		return nil, s.noData(ctx, market.Series{Market: q.Market, Stream: market.Depth})
	}
	doubts, stepped, err := s.doubtsByID(ctx, q.Market, r)
	if err == nil && len(doubts) > 0 && stepped {
		r, doubts, err = s.afterDoubt(ctx, q.Market, r, doubts, min(id, r.book.LastID()), &holder)
	}
	if err != nil {
		return nil, err
	}
	good := r
	if len(doubts) > 0 {
		if good, err = s.goodBeforeByID(ctx, q.Market, r, doubts); err != nil {
			return nil, err
		}
	}
	answer := good.answer(q, r.eventTime)
	answer.State, answer.Gaps = Synced, nearest(doubts)
	if len(doubts) > 0 {
		answer.State = Gap
	}
	if r.book.LastID() < id {
		answer.State = Gap
		hole := r.answer(q, r.eventTime)
		if err := s.explainHole(ctx, r, hole, max(holder.End, r.eventTime)); err != nil {
			return nil, err
		}
		known := func(g market.Gap) bool { return slices.Contains(doubts, g) }
		answer.Gaps = nearest(append(doubts, slices.DeleteFunc(hole.Gaps, known)...))
	}
	return answer, s.refuse(ctx, q, answer)
}

// reach returns the book after the event that holds id, or before the hole in which id lies; nil when no keyframe up to id
// was found. holder is the block that holds id or what follows it; it has no events when there is none.
func (s *Service) reach(ctx context.Context, m market.Market, id int64) (r *replay, holder market.Block, err error) {
	holder, err = s.reader.BlockByID(ctx, market.Series{Market: m, Stream: market.Depth}, id)
	t := target{wanted: id, until: holder.End, within: &holder}
	if isNotFound(err) {
		t.until, t.within = endOfTime, nil // no event reaches id, but a snapshot may be newer than every event
	} else if err != nil {
		return nil, holder, err
	}
	// A book that corrects a stored one is a nanosecond later.
	r, err = s.replayToID(ctx, m, t, t.until, t.until.Add(1))
	if err == nil && (r == nil || r.book.LastID() < id) {
		r, err = s.replayBehind(ctx, m, r, t)
	}
	if err == nil && r != nil && r.book.LastID() >= id {
		err = s.dateBeforeStep(ctx, r, &holder)
	}
	return r, holder, err
}

// replayToID returns the book after the event that holds the wanted id, or before the hole in which that lies; nil when no
// keyframe up to that id was found. Keyframes are found by time, none later than high: the last one that is not beyond the
// id, or of several down to low, between which the clock may have stepped back, the nearest by its id.
func (s *Service) replayToID(ctx context.Context, m market.Market, t target, low, high market.Time) (*replay, error) {
	upTo, beyond, err := s.keyframesAround(ctx, m, t.wanted, low, high)
	if err != nil {
		return nil, err
	}
	// A keyframe of that very id answers by itself, also where the id lies within an event.
	exact := upTo != nil && upTo.UpdateID == t.wanted
	t.stop = func(u *market.DepthUpdate) bool { return exact || u.PrevID >= t.wanted }
	var r *replay
	if upTo != nil {
		if r, err = s.replay(ctx, upTo, t); err != nil || r.book.LastID() >= t.wanted {
			return r, err
		}
	}
	if beyond == nil {
		return r, nil
	}
	// The exchange's snapshot may have been taken within the event that holds id, which then follows it, or right
	// behind it.
	snapshot, err := s.replay(ctx, beyond, t)
	if err != nil {
		return nil, err
	}
	if snapshot.holds || (snapshot.applied > 0 && snapshot.firstID <= t.wanted) {
		return snapshot, nil
	}
	if r != nil && r.hole == 0 {
		r.hole = beyond.UpdateID // what lies between was passed unseen
	}
	return r, nil
}

// keyframesAround returns, of the keyframes from high back to low, and on to the first one that is not beyond id, the one
// with the greatest id up to that, and the one with the least id beyond it; of several the latest, and the earliest. Each
// is nil where there is none.
func (s *Service) keyframesAround(
	ctx context.Context, m market.Market, id int64, low, high market.Time,
) (upTo, beyond *market.Keyframe, err error) {
	for at, tried := high, 0; upTo == nil || at > low; tried++ {
		if tried == maxKeyframes {
			return nil, nil, tooWide(maxKeyframes, "keyframes")
		}
		keyframe, err := s.reader.Keyframe(ctx, m, at)
		if isNotFound(err) {
			break
		}
		if err != nil {
			return nil, nil, err
		}
		at = keyframe.EventTime - 1
		switch {
		case keyframe.UpdateID > id && (beyond == nil || keyframe.UpdateID <= beyond.UpdateID):
			beyond = &keyframe
		case keyframe.UpdateID <= id && (upTo == nil || keyframe.UpdateID > upTo.UpdateID):
			upTo = &keyframe
		}
	}
	return upTo, beyond, nil
}

// dateBeforeStep gives r, where it is a stored book and nothing else, the time of its last event, which holder has: a book
// that was stored for a step back of the exchange's clock has the time behind the step.
func (s *Service) dateBeforeStep(ctx context.Context, r *replay, holder *market.Block) error {
	id := r.keyframe.UpdateID
	if r.applied > 0 || id < holder.FirstID || id > holder.LastID {
		return nil
	}
	steps, err := s.clockSteps(ctx, holder.Series, r.eventTime, r.eventTime)
	for i := range steps {
		if g := &steps[i]; g.FirstID == id+1 && g.End == r.eventTime && g.Cause == market.CauseClock {
			r.pass(g.Start)
			r.eventTime, r.recvTime = g.Start, cmp.Or(g.RecvStart, r.recvTime)
			break
		}
	}
	return err
}

// replayBehind tries again to reach t where r, which is nil or else ended in a hole, did not: with the snapshot that ended
// the hole, which may be of that very id and still carry a time that is later than the id's event; or, where the exchange's
// clock stepped back, with the nearest book by its id, and along the ids. It returns what got furthest.
func (s *Service) replayBehind(ctx context.Context, m market.Market, r *replay, t target) (*replay, error) {
	from, to, last := t.until, t.until, int64(-1)
	if r != nil {
		from, to, last = min(from, r.eventTime), max(to, r.eventTime), r.book.LastID()
	}
	between := func(g *market.Gap) bool { return g.FirstID <= t.wanted && g.LastID > last }
	near, err := s.around(ctx, m, from, to, between)
	if err != nil {
		return nil, err
	}
	t.seek = true
	behind, err := s.replayToID(ctx, m, t, near.low, near.high)
	switch {
	case market.KindOf(err) == market.KindTooLarge:
		return r, nil // which is true, if not all that might be known
	case err != nil:
		return nil, err
	case behind == nil || (r != nil && behind.book.LastID() < r.book.LastID()):
		return r, nil
	}
	return behind, nil
}

// afterDoubt looks, where the exchange's clock stepped, for the book after the event that holds id, which r is, behind the
// doubts that r rests on: from a keyframe that was not found by its time. It returns that one and what casts doubt on it,
// which is nothing, or else r and its doubts. holder is as of reach.
func (s *Service) afterDoubt(
	ctx context.Context, m market.Market, r *replay, doubts []market.Gap, id int64, holder *market.Block,
) (*replay, []market.Gap, error) {
	near, err := s.around(ctx, m, r.earliest, r.latest, tellsStep)
	if err != nil {
		return nil, nil, err
	}
	t := target{until: r.latest, wanted: id, seek: true}
	if holder.Events > 0 {
		t.within = holder
	}
	after, err := s.replayToID(ctx, m, t, near.low, near.high)
	switch {
	case market.KindOf(err) == market.KindTooLarge:
		return r, doubts, nil // which are true
	case err != nil:
		return nil, nil, err
	case after == nil || after.book.LastID() < id || after.keyframe.UpdateID <= r.keyframe.UpdateID:
		return r, doubts, nil
	}
	if still, _, err := s.doubtsByID(ctx, m, after); len(still) > 0 || err != nil {
		return r, doubts, err
	}
	after.hole = r.hole
	return after, nil, s.dateBeforeStep(ctx, after, holder)
}

// vicinity is what the ledger says of a stretch of time.
type vicinity struct {
	low, high market.Time  // what may have to do with it lies between
	entries   []market.Gap // that overlap that
}

// around returns the vicinity of [from, to]: up to the end of the entries that overlap it and lead on, and where these tell
// of steps of the exchange's clock, the times that were shown twice, with what overlaps them in turn, as far as a few
// rounds lead. An entry that tells of a step always leads on.
func (s *Service) around(
	ctx context.Context, m market.Market, from, to market.Time, leads func(*market.Gap) bool,
) (near vicinity, err error) {
	near.low, near.high = from.Add(-clockSlack), to.Add(clockSlack)
	for range maxRounds {
		near.entries, err = s.ledger(ctx, market.GapQuery{
			Market: m, Stream: market.Depth, From: near.low, To: near.high.Add(1),
		})
		if err != nil {
			return near, err
		}
		low, high := near.low, near.high
		for i := range near.entries {
			g := &near.entries[i]
			if tellsStep(g) {
				near.low = min(near.low, begin(g).Add(-clockSlack))
			}
			if tellsStep(g) || leads(g) {
				near.high = max(near.high, end(g).Add(clockSlack))
			}
		}
		if near.low == low && near.high == high {
			break
		}
	}
	return near, nil
}
