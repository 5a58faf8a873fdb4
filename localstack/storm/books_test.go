package storm

import (
	"cmp"
	"fmt"
	"slices"

	"tapedeck/shared/book"
	"tapedeck/shared/market"
	"tapedeck/shared/tape"
)

// bookWalk replays one market twice: all that was made, and what is held, from each stored book on. Behind every event
// the two books must agree, as deep as the stored one is verified.
type bookWalk struct {
	*judge
	market    market.Market
	keyframes []market.Keyframe // by id; those passed are dropped

	truth  *book.Book
	held   *book.Book  // nil while no book is known
	since  market.Time // of the stored book that it began with
	bid    market.Decimal
	ask    market.Decimal
	levels [4][]market.Level
}

// keyframes returns the stored books, by id.
func (j *judge) keyframes(m market.Market) (list []market.Keyframe, err error) {
	for at := forever; ; {
		k, err := j.store.Keyframe(j.t.Context(), m, at)
		if market.KindOf(err) == market.KindNotFound {
			break
		}
		if err != nil {
			return nil, err
		}
		list = append(list, k)
		at = k.EventTime - 1
	}
	slices.SortFunc(list, func(a, b market.Keyframe) int { return cmp.Compare(a.UpdateID, b.UpdateID) })
	return list, nil
}

func (j *judge) newBookWalk(m market.Market, keyframes []market.Keyframe) *bookWalk {
	w := &bookWalk{judge: j, market: m, truth: book.New(), keyframes: keyframes}
	begin := j.books[m.Symbol]
	w.truth.Reset(begin.LastID, begin.Bids, begin.Asks)
	return w
}

// see takes the next event that was made; is says whether it is held, as stored.
func (w *bookWalk) see(made, stored *event, is bool) error {
	if err := w.pass(made.lastID - 1); err != nil { // snapshots within the event's ids: the event goes on top
		return err
	}
	w.truth.Apply(&made.update)
	switch {
	case !is:
		if w.held != nil && w.held.LastID() < made.lastID {
			w.held = nil
		}
	case w.held == nil:
		w.counts.Unknown++
	case w.held.Apply(&stored.update) == book.Gap:
		w.held = nil
		w.counts.Unknown++
	default:
		w.check("after an event", made.lastID)
	}
	if err := w.pass(made.lastID); err != nil {
		return err
	}
	if w.asked != nil && is {
		known := w.held != nil && w.held.LastID() == made.lastID
		return w.asked(&sample{market: w.market, made: made, held: stored, book: w.truth, known: known, since: w.since})
	}
	return nil
}

// pass goes on with the stored books up to an id.
func (w *bookWalk) pass(id int64) error {
	for len(w.keyframes) > 0 && w.keyframes[0].UpdateID <= id {
		k := &w.keyframes[0]
		var decoder tape.Decoder
		bids, asks, err := decoder.Book(k.Data)
		if err != nil {
			w.problem("%v: keyframe %d: %v", w.market, k.UpdateID, err)
			w.keyframes = w.keyframes[1:]
			continue
		}
		w.held = book.New()
		w.held.Reset(k.UpdateID, bids, asks)
		w.since = k.EventTime
		w.bid, w.ask = k.VerifiedBid, k.VerifiedAsk
		w.counts.Keyframes++
		if k.UpdateID == w.truth.LastID() { // else it lies within an event; the next check will tell
			w.check("stored", k.UpdateID)
		}
		w.keyframes = w.keyframes[1:]
	}
	return nil
}

// check compares the two books.
func (w *bookWalk) check(what string, id int64) {
	w.counts.Books++
	if w.held.Crossed() {
		w.problem("%v: the book %s %d is crossed", w.market, what, id)
	}
	if w.bid != 0 {
		n := w.truth.CountBids(w.bid)
		w.levels[0] = w.truth.AppendBids(w.levels[0][:0], n)
		w.levels[1] = w.held.AppendBids(w.levels[1][:0], w.held.CountBids(w.bid))
	}
	if w.ask != 0 {
		n := w.truth.CountAsks(w.ask)
		w.levels[2] = w.truth.AppendAsks(w.levels[2][:0], n)
		w.levels[3] = w.held.AppendAsks(w.levels[3][:0], w.held.CountAsks(w.ask))
	}
	if w.bid != 0 && !slices.Equal(w.levels[0], w.levels[1]) || w.ask != 0 && !slices.Equal(w.levels[2], w.levels[3]) {
		w.problem("%v: the book %s %d is wrong: %s", w.market, what, id, difference(w.levels))
		w.held = nil // once is enough
	}
}

// sample is an event that is held, the true book after it, and whether the book is known by what is held.
type sample struct {
	market     market.Market
	made, held *event
	book       *book.Book
	known      bool
	since      market.Time // of the stored book that is known from; a snapshot may carry a time later than its events'
}

// difference says where books differ first.
func difference(levels [4][]market.Level) string {
	for side, name := range []string{"bids", "asks"} {
		want, got := levels[2*side], levels[2*side+1]
		for i := range max(len(want), len(got)) {
			if i >= len(want) || i >= len(got) || want[i] != got[i] {
				return fmt.Sprintf("%s differ from place %d on (%d in truth, %d held): %v, held %v", name, i, len(want), len(got),
					want[min(i, len(want)):min(i+2, len(want))], got[min(i, len(got)):min(i+2, len(got))])
			}
		}
	}
	return "they do not"
}
