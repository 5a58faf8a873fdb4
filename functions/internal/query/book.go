package query

import (
	"context"
	"time"

	"tapedeck/shared/market"
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
	if answer, err = s.doubted(ctx, q, r, until, now); err != nil {
		return nil, err
	}
	if answer != nil {
		return answer, s.refuse(ctx, q, answer)
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
