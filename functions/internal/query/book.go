package query

import (
	"context"
	"time"

	"tapedeck/shared/book"
	"tapedeck/shared/market"
	"tapedeck/shared/tape"
)

// BookQuery asks for one book: the latest, the one at an instant (At not nil), or the one after the event that holds an
// update id (UpdateID not nil). At and UpdateID exclude each other.
type BookQuery struct {
	Market   market.Market
	At       *market.Time
	UpdateID *int64
	Depth    int           // levels a side, best first
	MaxAge   time.Duration // a synced book that is older is stale; 0: no bound
	Strict   bool          // anything but a synced book is an error of type DataGap
}

// State says what an answer is worth.
type State string

// The states.
const (
	Synced State = "synced" // nothing is missing: this is the book at the moment asked for
	Stale  State = "stale"  // this was the book; nobody vouches that nothing has happened since
	Gap    State = "gap"    // events are missing, or the book is in doubt: this is the last good one before
)

// Book is the answer to a BookQuery, with its proof.
type Book struct {
	Market     market.Market
	EventTime  market.Time // of the last event in the book
	RecvTime   market.Time
	LastID     int64
	Bids, Asks []market.Level // best first, at most Depth

	State State
	Age   time.Duration // from the last event to the moment asked for, or to now
	Gaps  []market.Gap  // the hole, or the doubt, that State speaks of

	SnapshotID     int64 // the exchange's own snapshot that the book was built from
	KeyframeID     int64 // the stored book that the answer was replayed from
	UpdatesApplied int64 // since the snapshot
	FirstUpdateID  int64 // first id of the first update applied since the snapshot; 0 when none was
	VerifiedBids   int   // levels of the whole book that lie within the depth of the snapshot
	VerifiedAsks   int
}

// Book answers q.
//
// Errors: UnknownMarket; NoData when the moment lies before the first record, or the id was never recorded; DataGap for
// a strict q.
func (s *Service) Book(ctx context.Context, q BookQuery) (answer *Book, err error) {
	defer market.Wrap(&err, "Book(%v)", q.Market)
	if q.UpdateID != nil {
		return s.bookByID(ctx, q, *q.UpdateID)
	}
	now, until := s.clock(), endOfTime
	if q.At != nil {
		now, until = *q.At, *q.At
	}
	r, err := s.replayUntil(ctx, q.Market, bound{until: until})
	if err != nil {
		return nil, err
	}
	if answer, err := s.doubted(ctx, q, r, until, now); answer != nil || err != nil {
		return answer, err
	}
	answer = r.answer(q, now)
	answer.State = Synced
	if !r.complete && until > r.eventTime {
		if err := s.judge(ctx, r, answer, until, q.At); err != nil {
			return nil, err
		}
	}
	if answer.State == Synced && q.MaxAge > 0 && answer.Age > q.MaxAge {
		answer.State = Stale
	}
	return answer, s.refuse(ctx, q, answer)
}

// bookByID answers for the event that holds id. That book is what it is whether or not anybody still records, so it is
// synced or, where id lies in a hole or in doubt, the book before.
func (s *Service) bookByID(ctx context.Context, q BookQuery, id int64) (*Book, error) {
	series := market.Series{Market: q.Market, Stream: market.Depth}
	holder, err := s.reader.BlockByID(ctx, series, id)
	until := holder.End
	if isNotFound(err) {
		until = endOfTime // no event reaches id, but a snapshot may be newer than every event
	} else if err != nil {
		return nil, err
	}
	r, err := s.replayToID(ctx, q.Market, id, until, until, until)
	if err == nil && (r == nil || r.book.LastID() < id) {
		r, err = s.replayBehind(ctx, q.Market, r, id, until)
	}
	if err != nil {
		return nil, err
	}
	if r == nil || (holder.Events == 0 && r.book.LastID() < id && r.hole == 0) {
		return nil, s.noData(ctx, series)
	}
	if r.book.LastID() >= id {
		if err := s.dateBeforeStep(ctx, r); err != nil {
			return nil, err
		}
		if answer, err := s.doubted(ctx, q, r, r.eventTime, r.eventTime); answer != nil || err != nil {
			return answer, err
		}
	}
	answer := r.answer(q, r.eventTime)
	answer.State = Synced
	if r.book.LastID() < id {
		answer.State = Gap
		if err := s.explainHole(ctx, r, answer, max(holder.End, r.eventTime)); err != nil {
			return nil, err
		}
	}
	return answer, s.refuse(ctx, q, answer)
}

// dateBeforeStep gives r, where it is a stored book and nothing else, the time of its last event: a book that was stored for
// a step back of the exchange's clock has the time behind the step.
func (s *Service) dateBeforeStep(ctx context.Context, r *replay) error {
	if r.applied > 0 {
		return nil
	}
	series := market.Series{Market: r.keyframe.Market, Stream: market.Depth}
	steps, err := s.clockSteps(ctx, series, r.eventTime, r.eventTime)
	for i := range steps {
		if g := &steps[i]; g.FirstID == r.keyframe.UpdateID+1 && g.End == r.eventTime && g.Cause == market.CauseClock {
			r.eventTime, r.recvTime = g.Start, g.RecvStart
			break
		}
	}
	return err
}

// replayBehind tries again to reach id where r, which is nil or else ended in a hole, did not: with the snapshot that ended
// the hole, or the one before a step back of the exchange's clock. It may be of that very id and still carry a time that is
// later than the id's event, up to those of the ledger's entries there. It returns what got furthest.
func (s *Service) replayBehind(ctx context.Context, m market.Market, r *replay, id int64, until market.Time) (*replay, error) {
	from := until
	if r != nil {
		from = min(from, r.eventTime)
	}
	low, high, err := s.around(ctx, m, from, until)
	if err != nil {
		return nil, err
	}
	behind, err := s.replayToID(ctx, m, id, until, low, high)
	if err != nil || behind == nil || (r != nil && behind.book.LastID() <= r.book.LastID()) {
		return r, err
	}
	return behind, nil
}

// around returns between which times a keyframe may lie that is needed at until, the time of an event: within the slack,
// before what the ledger says ended in [from, until], and where it tells of steps of the exchange's clock, in the times
// that were shown twice, or more often.
func (s *Service) around(ctx context.Context, m market.Market, from, until market.Time) (low, high market.Time, err error) {
	low, high = until.Add(-clockSlack), until.Add(clockSlack)
	for range maxReplays {
		entries, err := s.ledger(ctx, market.GapQuery{
			Market: m, Stream: market.Depth, From: min(low, from), To: high.Add(1),
		})
		if err != nil {
			return 0, 0, err
		}
		before, after := low, high
		for i := range entries {
			if high = max(high, end(&entries[i])); tellsStep(&entries[i]) {
				low = min(low, begin(&entries[i]).Add(-clockSlack))
			}
		}
		if low == before && high == after {
			break
		}
	}
	return low, high, nil
}

// replay is a book on its way from a keyframe to the moment asked for.
type replay struct {
	keyframe  *market.Keyframe
	book      *book.Book
	eventTime market.Time
	recvTime  market.Time
	applied   int64
	firstID   int64 // of the first update applied; 0 when none was

	complete bool  // the event after the moment was seen, and none is missing before it
	hole     int64 // last id of the hole that ended the replay; 0 when none did
	ahead    bool  // the keyframe holds events from after the moment

	wanted int64 // the id asked for; -1 when a time is
	holds  bool  // the keyframe is the book after the very event that holds the wanted id
	latest int64 // of the events within the keyframe, the last id of those that are not before the moment; 0 when none is
}

// Bounds of how many keyframes are tried, each with a replay or for its id alone. One is nearly always enough; see
// replayUntil and replayToID.
const (
	maxReplays   = 4
	maxKeyframes = 64
)

// bound is how far a replay may go.
type bound struct {
	until  market.Time // no event later than this
	before int64       // no event that reaches this id; 0: any
}

// admits reports whether a book with that id is within the bound.
func (b bound) admits(id int64) bool { return b.before == 0 || id < b.before }

// replayUntil returns the book after the last event within the bound.
//
// A keyframe made from an exchange's snapshot carries the time at which the snapshot was asked for, and may hold a few
// events that came later. Where these events are held too, the keyframe is of no use, and an older one answers: exactly,
// or with the hole that the snapshot ended.
func (s *Service) replayUntil(ctx context.Context, m market.Market, b bound) (*replay, error) {
	var best *replay
	at := b.until
	for tried, replays := 0, 0; tried < maxKeyframes && replays < maxReplays; tried++ {
		keyframe, err := s.reader.Keyframe(ctx, m, at)
		if isNotFound(err) {
			break
		}
		if err != nil {
			return nil, err
		}
		at = keyframe.EventTime - 1
		if !b.admits(keyframe.UpdateID) {
			continue
		}
		replays++
		best, err = s.replay(ctx, &keyframe, b.until, -1, func(u *market.DepthUpdate) bool {
			return u.EventTime > b.until || !b.admits(u.LastID)
		})
		if err != nil {
			return nil, err
		}
		if !best.ahead {
			break
		}
	}
	if best == nil {
		return nil, s.noData(ctx, market.Series{Market: m, Stream: market.Depth})
	}
	return best, nil
}

// replayToID returns the book after the event that holds id, or before the hole in which id lies; nil when no keyframe
// is old enough. No keyframe is later than high. They are found by time: from high to low, where the exchange's clock may
// have stepped back, an earlier one may be further by its id. Where a hole lies behind a step as well, the book may be
// one before the last. The event has the time until, or an earlier one.
func (s *Service) replayToID(
	ctx context.Context, m market.Market, id int64, until, low, high market.Time,
) (*replay, error) {
	exact := false // a keyframe of that very id answers by itself, also where the id lies within an event
	stop := func(u *market.DepthUpdate) bool { return exact || u.PrevID >= id }
	var best *replay           // which got furthest
	var newer *market.Keyframe // of those beyond id, the one with the least
	for at, tried := high, 0; best == nil || at > low; tried++ {
		if tried == maxKeyframes {
			if best == nil {
				return nil, tooWide(maxKeyframes, "keyframes")
			}
			break
		}
		keyframe, err := s.reader.Keyframe(ctx, m, at)
		if isNotFound(err) {
			break
		}
		if err != nil {
			return nil, err
		}
		at = keyframe.EventTime - 1
		switch {
		case keyframe.UpdateID > id:
			if newer == nil || keyframe.UpdateID <= newer.UpdateID {
				newer = &keyframe
			}
		case best == nil || keyframe.UpdateID > best.book.LastID():
			exact = keyframe.UpdateID == id
			if best, err = s.replay(ctx, &keyframe, until, id, stop); err != nil || best.book.LastID() >= id {
				return best, err
			}
		}
	}
	if newer == nil {
		return best, nil
	}
	// The exchange's snapshot may have been taken within the event that holds id, which then follows it, or right
	// behind it.
	beyond, err := s.replay(ctx, newer, until, id, stop)
	if err != nil {
		return nil, err
	}
	if beyond.holds || (beyond.applied > 0 && beyond.firstID <= id) {
		return beyond, nil
	}
	if best != nil && best.hole == 0 {
		best.hole = newer.UpdateID // what lies between was passed unseen
	}
	return best, nil
}

// replay builds the book of the keyframe and applies the updates behind it, in the order of ids, until stop says that
// an update lies beyond the moment asked for, or one is missing. wanted is the id asked for, -1 when a time is.
func (s *Service) replay(
	ctx context.Context, k *market.Keyframe, until market.Time, wanted int64, stop func(*market.DepthUpdate) bool,
) (*replay, error) {
	r, err := s.replayFrom(ctx, k, k.EventTime, until, wanted, stop)
	if err != nil || r.complete || r.applied > 0 || k.UpdatesApplied > 0 {
		return r, err
	}
	// A snapshot of the exchange's that was old already carries a time behind those of the updates that follow it.
	series := market.Series{Market: k.Market, Stream: market.Depth}
	next, err := s.reader.BlockByID(ctx, series, k.UpdateID+1)
	if err == nil && next.PrevID <= k.UpdateID && next.Start < k.EventTime {
		return s.replayFrom(ctx, k, next.Start, until, wanted, stop)
	}
	if isNotFound(err) {
		err = nil
	}
	return r, err
}

// replayFrom is replay with the updates from an instant on.
func (s *Service) replayFrom(
	ctx context.Context, k *market.Keyframe, from, until market.Time, wanted int64, stop func(*market.DepthUpdate) bool,
) (*replay, error) {
	var decoder tape.Decoder
	bids, asks, err := decoder.Book(k.Data)
	if err != nil {
		return nil, market.Errorf(market.KindOf(err), "keyframe %v %d: %w", k.Market, k.UpdateID, err)
	}
	r := &replay{keyframe: k, book: book.New(), eventTime: k.EventTime, recvTime: k.RecvTime, wanted: wanted}
	r.book.Reset(k.UpdateID, bids, asks)
	series := market.Series{Market: k.Market, Stream: market.Depth}
	read := func(from, to market.Time, page int) *merge[market.DepthUpdate] {
		return newMerge(s.reader, series, from, to, page, depthCodec, func(b *market.Block) bool {
			if b.LastID > k.UpdateID {
				return true
			}
			r.within(b.LastID, b.End, until)
			return b.LastID == k.UpdateID && wanted >= 0 && wanted < k.UpdateID
		})
	}
	// The event behind the moment shows that nothing is missing before it; it is looked for within the slack.
	events := read(from.Add(-clockSlack).Truncate(market.BlockWindow), until.Add(clockSlack+1), maxPageBlocks)
	for sought := int64(-1); ; {
		u, err := events.next(ctx)
		if err != nil {
			return nil, err
		}
		if last := r.book.LastID(); last < wanted && sought != last && (u == nil || u.PrevID > last) {
			sought = last
			elsewhere, err := nearer(ctx, s.reader, series, last, u, depthCodec)
			if err != nil {
				return nil, err
			}
			if elsewhere != nil {
				events = read(aroundBlock(elsewhere), endOfTime, firstPage)
				continue
			}
		}
		if u == nil || r.take(u, stop(u), until) {
			// Of a snapshot that goes beyond the last event at the moment, nobody knows that it is not later.
			r.ahead = r.ahead || (r.latest != 0 && r.latest < k.UpdateID)
			return r, nil
		}
	}
}

// within notes that the keyframe holds an event with that last id, or several of which the latest has that time.
func (r *replay) within(lastID int64, at, until market.Time) {
	r.ahead = r.ahead || at > until
	if at >= until {
		r.latest = max(r.latest, lastID)
	}
}

// take brings one update into the replay and reports whether the replay has ended.
func (r *replay) take(u *market.DepthUpdate, beyond bool, until market.Time) bool {
	switch id := r.book.LastID(); {
	case u.LastID <= r.keyframe.UpdateID:
		r.within(u.LastID, u.EventTime, until)
		r.holds = r.holds || (u.LastID == r.keyframe.UpdateID && u.FirstID <= r.wanted)
		return false
	case u.LastID <= id:
		return false
	case u.PrevID > id:
		r.hole = u.PrevID
		return true
	case beyond:
		r.complete = true
		return true
	}
	r.book.Apply(u) // the cases above are the book's own rule
	if r.applied == 0 {
		r.firstID = u.FirstID
	}
	r.applied++
	r.eventTime, r.recvTime = u.EventTime, u.RecvTime
	return false
}

// answer returns what r holds, seen from the instant now; the state is left to the caller.
func (r *replay) answer(q BookQuery, now market.Time) *Book {
	k := r.keyframe
	b := &Book{
		Market:         q.Market,
		EventTime:      r.eventTime,
		RecvTime:       r.recvTime,
		LastID:         r.book.LastID(),
		Bids:           r.book.AppendBids(make([]market.Level, 0, q.Depth), q.Depth),
		Asks:           r.book.AppendAsks(make([]market.Level, 0, q.Depth), q.Depth),
		Age:            max(0, now.Sub(r.eventTime)),
		SnapshotID:     k.SnapshotID,
		KeyframeID:     k.UpdateID,
		UpdatesApplied: k.UpdatesApplied + r.applied,
		FirstUpdateID:  k.FirstUpdateID,
	}
	if k.UpdatesApplied == 0 {
		b.FirstUpdateID = r.firstID
	}
	if k.VerifiedBid != 0 {
		b.VerifiedBids = r.book.CountBids(k.VerifiedBid)
	}
	if k.VerifiedAsk != 0 {
		b.VerifiedAsks = r.book.CountAsks(k.VerifiedAsk)
	}
	return b
}
