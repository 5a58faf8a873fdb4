package query

import (
	"context"
	"time"

	"tapedeck/shared/book"
	"tapedeck/shared/market"
	"tapedeck/shared/tape"
)

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
	newest int64 // of the events within the keyframe, the last id of those that are not before the moment; 0 when none is

	earliest, latest market.Time // of the keyframe and of the events applied
}

// pass notes a time of the book on its way.
func (r *replay) pass(at market.Time) { r.earliest, r.latest = min(r.earliest, at), max(r.latest, at) }

const (
	// maxReplays and maxKeyframes bound how many keyframes are tried, each with a replay or for its id alone. One is nearly
	// always enough; see replayUntil and replayToID.
	maxReplays   = 4
	maxKeyframes = 64
	// maxRounds bounds how often what the ledger says leads to a further look into it.
	maxRounds = 4
	// seekReach is how much time is read at once from where a seek led. The clock may have stepped again behind that.
	seekReach = time.Minute
)

// target is where a replay ends, beside the first update that is missing.
type target struct {
	until  market.Time                    // by time: no event later than this; by id: up to where updates are looked for by time
	wanted int64                          // the id asked for; -1 when a time is
	within *market.Block                  // by id: what holds that id; nil when nothing does
	seek   bool                           // by id: updates are followed by their ids where their times lead to none
	stop   func(*market.DepthUpdate) bool // whether an update lies beyond the moment asked for
}

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
		best, err = s.replay(ctx, &keyframe, target{until: b.until, wanted: -1, stop: func(u *market.DepthUpdate) bool {
			return u.EventTime > b.until || !b.admits(u.LastID)
		}})
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

// replay builds the book of the keyframe and applies the updates behind it, in the order of ids, until the target's stop
// says that an update lies beyond the moment asked for, or one is missing.
func (s *Service) replay(ctx context.Context, k *market.Keyframe, t target) (*replay, error) {
	from := k.EventTime
	if b := t.within; b != nil && b.FirstID <= k.UpdateID && k.UpdateID <= b.LastID {
		from = min(from, b.Start) // the exchange's snapshot may have been taken long after the event that it ends with
	}
	r, err := s.replayFrom(ctx, k, from, t)
	if err != nil || r.complete || r.applied > 0 || k.UpdatesApplied > 0 {
		return r, err
	}
	// A snapshot of the exchange's that was old already carries a time behind those of the updates that follow it.
	series := market.Series{Market: k.Market, Stream: market.Depth}
	next, err := s.reader.BlockByID(ctx, series, k.UpdateID+1)
	if err == nil && next.PrevID <= k.UpdateID && next.Start < from {
		return s.replayFrom(ctx, k, next.Start, t)
	}
	if isNotFound(err) {
		err = nil
	}
	return r, err
}

// replayFrom is replay with the updates from an instant on.
func (s *Service) replayFrom(ctx context.Context, k *market.Keyframe, from market.Time, t target) (*replay, error) {
	var decoder tape.Decoder
	bids, asks, err := decoder.Book(k.Data)
	if err != nil {
		return nil, market.Errorf(market.KindOf(err), "keyframe %v %d: %w", k.Market, k.UpdateID, err)
	}
	r := &replay{
		keyframe: k, book: book.New(), eventTime: k.EventTime, recvTime: k.RecvTime, wanted: t.wanted,
		earliest: k.EventTime, latest: k.EventTime,
	}
	r.book.Reset(k.UpdateID, bids, asks)
	// The event behind the moment shows that nothing is missing before it; it is looked for within the slack.
	events := s.updates(r, from.Add(-clockSlack).Truncate(market.BlockWindow), t.until.Add(clockSlack+1), maxPageBlocks, t)
	for sought, seeks := int64(-1), 0; ; {
		u, err := events.next(ctx)
		if err != nil {
			return nil, err
		}
		if last := r.book.LastID(); t.seek && last < t.wanted && sought != last && (u == nil || u.PrevID > last) {
			if seeks++; seeks > maxSeeks {
				return nil, tooWide(maxSeeks, "steps of the exchange's clock, or minutes beyond one")
			}
			sought = last
			series := market.Series{Market: k.Market, Stream: market.Depth}
			elsewhere, err := nearer(ctx, s.reader, series, last, u, depthCodec)
			if err != nil {
				return nil, err
			}
			if elsewhere != nil {
				events = s.updates(r, aroundBlock(elsewhere), elsewhere.Start.Add(seekReach), firstPage, t)
				continue
			}
		}
		if u == nil || r.take(u, t.stop(u), t.until) {
			// Of a snapshot that goes beyond the last event at the moment, nobody knows that it is not later.
			r.ahead = r.ahead || (r.newest != 0 && r.newest < r.keyframe.UpdateID)
			return r, nil
		}
	}
}

// updates reads the updates of blocks with from <= Start < to, of those that lie within r's keyframe only what shows how it
// stands to the target.
func (s *Service) updates(r *replay, from, to market.Time, page int, t target) *merge[market.DepthUpdate] {
	id := r.keyframe.UpdateID
	series := market.Series{Market: r.keyframe.Market, Stream: market.Depth}
	return newMerge(s.reader, series, from, to, page, depthCodec, func(b *market.Block) bool {
		if b.LastID > id {
			return true
		}
		r.within(b.LastID, b.End, t.until)
		return b.LastID == id && t.wanted >= 0 && t.wanted < id
	})
}

// within notes that the keyframe holds an event with that last id, or several of which the latest has that time.
func (r *replay) within(lastID int64, at, until market.Time) {
	r.ahead = r.ahead || at > until
	if at >= until {
		r.newest = max(r.newest, lastID)
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
	r.pass(u.EventTime)
	return false
}
