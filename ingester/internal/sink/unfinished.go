package sink

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"tapedeck/ingester/internal/spool"
	"tapedeck/shared/market"
)

// unfinished holds back the blocks that were saved before they were whole (see Sink.Save), at most one of a series, until
// what comes out of the spool behind them shows what became of them. Nearly always the whole block follows a moment later,
// and they are dropped. Where it does not, as the process was killed, or the spool refused or lost it, they are all there is.
//
// The spool keeps a block until what took its place is in the store. It belongs to one goroutine.
type unfinished struct {
	patience int          // for how many ticks a block waits
	waiting  []savedBlock // by position
	leaving  []leaving
	lost     market.Cause   // why records are gone before the next delivery from lostAt on
	lostAt   spool.Position // where that was told
	ticked   time.Time      // when the waiting was counted last
}

// savedBlock is a delivery of one block that waits.
type savedBlock struct {
	delivery
	from   spool.Position // of the first that was saved of the block
	waited int            // times tick, while anything went on at all
}

// leaving is a block that waits no more, but that the spool is not to forget from there on yet.
type leaving struct {
	from  spool.Position
	with  spool.Position // it may with the delivery there, which took its place or is the block itself
	alone bool           // the block itself
}

// presence says in what form the store holds a block that was saved before it was whole.
type presence uint8

const (
	absent  presence = iota
	itself           // as it was saved
	inWhole          // all of it in another block: the whole one was there before it was on disk
)

const tick = time.Second

// newUnfinished returns one that waits for what is put within a time. A whole block comes within a flush interval, or was
// refused; the spool must not keep all that follows for ever.
func newUnfinished(within time.Duration) unfinished {
	const more = 10
	return unfinished{patience: more + int(within/tick)}
}

// sift returns what is to be delivered of what came out of the spool, which may be nothing. It asks how the store holds blocks
// of which the whole did not come.
func (u *unfinished) sift(deliveries []delivery, now time.Time, stored func(*market.Block) presence) (sifted []delivery) {
	deliver := func(v delivery) {
		if v.position >= u.lostAt {
			v.lost, u.lost = cmp.Or(v.lost, u.lost), ""
		}
		sifted = append(sifted, v)
	}
	release := func(saved *savedBlock) {
		saved.stored = stored(&saved.batch.Blocks[0])
		u.leaving = append(u.leaving, leaving{saved.from, saved.position, true})
		deliver(saved.delivery)
	}
	for _, saved := range u.overdue(now) {
		release(&saved)
	}
	for i := range deliveries {
		v := &deliveries[i]
		from := v.position
		u.waiting = slices.DeleteFunc(u.waiting, func(saved savedBlock) bool {
			dropped, over := saved.fate(v)
			switch {
			case over && !dropped:
				release(&saved)
			case over && v.unfinished: // more of the block was saved, and may not be on disk yet
				from = min(from, saved.from)
			case over:
				u.leaving = append(u.leaving, leaving{saved.from, v.position, false})
			}
			return over
		})
		if v.unfinished {
			if v.lost != "" && u.lost == "" {
				u.lost, u.lostAt = v.lost, v.position
			}
			v.lost = ""
			u.waiting = append(u.waiting, savedBlock{delivery: *v, from: from})
			continue
		}
		deliver(*v)
	}
	return sifted
}

// overdue takes out the blocks that have waited for too long. Times in which the machine stood still count as one tick:
// the whole block did not come because nobody could put it.
func (u *unfinished) overdue(now time.Time) (overdue []savedBlock) {
	if now.Sub(u.ticked) < tick {
		return nil
	}
	u.ticked = now
	n := 0
	for n < len(u.waiting) && u.waiting[n].waited >= u.patience {
		n++
	}
	overdue = slices.Clone(u.waiting[:n])
	u.waiting = slices.Delete(u.waiting, 0, n)
	for i := range u.waiting {
		u.waiting[i].waited++
	}
	return overdue
}

// settled returns up to where the spool may forget what was delivered, where all up to p is in the store but for what waits,
// and so are the blocks that were never finished at some positions.
func (u *unfinished) settled(p spool.Position, blocks []spool.Position) spool.Position {
	u.leaving = slices.DeleteFunc(u.leaving, func(l leaving) bool {
		return l.alone && slices.Contains(blocks, l.with) || !l.alone && l.with <= p
	})
	for _, l := range u.leaving {
		p = min(p, l.from-1)
	}
	for i := range u.waiting {
		p = min(p, u.waiting[i].from-1)
	}
	return p
}

// fate returns what a delivery, which comes behind a saved block, means for it: that the waiting is over, and that the
// block is dropped, as all of it comes with the delivery or is in the ledger.
func (v *delivery) fate(next *delivery) (dropped, over bool) {
	saved := &v.batch.Blocks[0]
	covers := func(series market.Series, first, last int64) bool {
		return series == saved.Series && first <= saved.FirstID && saved.LastID <= last
	}
	if next.session == 0 { // it is unreadable
		return false, false
	}
	if next.session != v.session {
		return false, true
	}
	for i := range next.batch.Gaps { // the whole block was refused
		if g := &next.batch.Gaps[i]; !g.Cause.MissesNothing() && covers(g.Series, g.FirstID, g.LastID) {
			return true, true
		}
	}
	for i := range next.batch.Blocks {
		switch b := &next.batch.Blocks[i]; {
		case covers(b.Series, b.FirstID, b.LastID):
			return true, true
		case b.Series == saved.Series && b.FirstID > saved.LastID: // the whole block was lost on the way
			return false, true
		}
	}
	return false, false
}

// maxBlocksAside bounds how many blocks of other recorders are looked at that end within a whole one.
const maxBlocksAside = 16

// presenceOf returns how the store holds a saved block. Where the store cannot say, the block is stored, perhaps once more.
func (s *Sink) presenceOf(ctx context.Context, saved *market.Block) presence {
	from := saved.LastID
	for range maxBlocksAside {
		b, err := s.blockFrom(ctx, saved.Series, from)
		if err != nil || b.FirstID > saved.LastID {
			break
		}
		if b.Key() == saved.Key() {
			return itself
		}
		if b.FirstID <= saved.FirstID {
			return inWhole
		}
		from = b.LastID + 1
	}
	if ctx.Err() == nil {
		s.log.Info("a block that was never finished is stored as far as it went",
			"series", saved.Series.String(), "first_id", saved.FirstID, "last_id", saved.LastID)
	}
	return absent
}

// nextRecords returns what comes out of the spool next, or nothing after a tick while blocks wait.
func (s *Sink) nextRecords(ctx context.Context) ([]spool.Record, error) {
	if len(s.unfinished.waiting) == 0 {
		return s.spool.Next(ctx, maxWriteRecords, maxWriteBytes)
	}
	ticking, cancel := context.WithTimeout(ctx, tick)
	defer cancel()
	records, err := s.spool.Next(ticking, maxWriteRecords, maxWriteBytes)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return nil, nil
	}
	return records, err
}
