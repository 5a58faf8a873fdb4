package sink

import (
	"cmp"
	"context"
	"slices"

	"tapedeck/ingester/internal/spool"
	"tapedeck/shared/market"
)

// unfinished holds back the blocks that were saved before they were whole (see Sink.Save), at most one of a series, until
// what comes out of the spool behind them shows what became of them. Nearly always the whole block follows a moment later,
// and they are dropped. Where it does not, as the process was killed, or the spool lost it, they are all there is.
//
// What is decided follows from what is in the spool alone, so that it is the same when records are delivered again. As long
// as a block is held back the spool keeps it.
type unfinished struct {
	waiting []delivery   // of one block each, by position
	lost    market.Cause // why records before the next delivery are gone
}

// patience is how far behind a saved block others may come until it is no longer waited for. The whole block is put some
// tenths of a second later, or was refused; the spool must not wait for it for ever.
const patience = 10_000

// sift returns what is to be delivered of what came out of the spool. It asks isStored about blocks of which the whole did not
// come.
func (u *unfinished) sift(deliveries []delivery, isStored func(*market.Block) bool) (sifted []delivery) {
	deliver := func(v delivery) {
		v.lost, u.lost = cmp.Or(v.lost, u.lost), ""
		sifted = append(sifted, v)
	}
	for i := range deliveries {
		v := &deliveries[i]
		u.waiting = slices.DeleteFunc(u.waiting, func(saved delivery) bool {
			dropped, over := saved.fate(v)
			if over && !dropped && !isStored(&saved.batch.Blocks[0]) {
				deliver(saved)
			}
			return over
		})
		if v.unfinished && len(v.batch.Blocks) == 1 {
			u.lost = cmp.Or(v.lost, u.lost)
			v.lost = ""
			u.waiting = append(u.waiting, *v)
			continue
		}
		deliver(*v)
	}
	return sifted
}

// settled returns up to where the spool may forget what was delivered, where all up to p was but for what waits.
func (u *unfinished) settled(p spool.Position) spool.Position {
	if len(u.waiting) > 0 {
		return min(p, u.waiting[0].position-1)
	}
	return p
}

// fate returns what a delivery, which comes behind a saved block, means for it: that the waiting is over, and that the
// block is dropped, as all of it comes with the delivery or is in the ledger.
func (v *delivery) fate(next *delivery) (dropped, over bool) {
	saved := &v.batch.Blocks[0]
	overlaps := func(series market.Series, first, last int64) bool {
		return series == saved.Series && first <= saved.LastID && saved.FirstID <= last
	}
	if next.session == 0 { // it is unreadable
		return false, false
	}
	if next.session != v.session {
		return false, true
	}
	for i := range next.batch.Gaps { // the whole block was refused
		if g := &next.batch.Gaps[i]; !g.Cause.MissesNothing() && overlaps(g.Series, g.FirstID, g.LastID) {
			return true, true
		}
	}
	for i := range next.batch.Blocks {
		switch b := &next.batch.Blocks[i]; {
		case overlaps(b.Series, b.FirstID, b.LastID):
			return true, true
		case b.Series == saved.Series && b.FirstID > saved.LastID: // the whole block was lost on the way
			return false, true
		}
	}
	return false, next.position-v.position > patience
}

// isStored reports whether the store holds all of a block that was saved before it was whole: the whole one was there
// before it was on disk. If not, it is to be stored.
func (s *Sink) isStored(ctx context.Context, saved *market.Block) bool {
	b, err := s.blockFrom(ctx, saved.Series, saved.LastID)
	if err == nil && b.FirstID <= saved.FirstID {
		return true
	}
	s.log.Info("a block that was never finished is stored as far as it went",
		"series", saved.Series.String(), "first_id", saved.FirstID, "last_id", saved.LastID)
	return false
}
