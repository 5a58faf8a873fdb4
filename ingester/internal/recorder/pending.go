package recorder

import (
	"cmp"
	"slices"
	"time"

	"tapedeck/shared/market"
)

// pending holds the depth updates that cannot be applied yet: there is no book, or something before them is missing.
// They stand in the order of their ids, whatever the order in which they came. Their memory is bounded.
type pending struct {
	account account
	updates []pendingUpdate
}

// pendingUpdate is an update that waits.
type pendingUpdate struct {
	market.DepthUpdate
	doubt  market.Cause // why something may be missing before it; "" when nothing should be
	at     time.Time    // when it came
	passed bool         // an update that came later lies below it; see depth.judge
	denied int          // answers of the exchange, asked for after it came, that were below it; see depth.judge
}

const (
	updateBytes = 192 // of a pendingUpdate without its levels, at most
	levelBytes  = 16
)

func (p *pendingUpdate) size() int { return updateBytes + levelBytes*(len(p.Bids)+len(p.Asks)) }

// order compares by PrevID and then by LastID: so the first in the order is the first that can be applied.
func (p *pendingUpdate) order(u *market.DepthUpdate) int {
	return cmp.Or(cmp.Compare(p.PrevID, u.PrevID), cmp.Compare(p.LastID, u.LastID))
}

// insert puts a copy of u in its place. It returns false when it is there already.
func (p *pending) insert(u *market.DepthUpdate, doubt market.Cause, now time.Time) bool {
	at := len(p.updates) // mostly
	if at > 0 && p.updates[at-1].order(u) >= 0 {
		var found bool
		if at, found = slices.BinarySearchFunc(p.updates, u, func(p pendingUpdate, u *market.DepthUpdate) int {
			return p.order(u)
		}); found {
			return false
		}
	}
	item := pendingUpdate{DepthUpdate: *u, doubt: doubt, at: now}
	item.Bids, item.Asks = slices.Clone(u.Bids), slices.Clone(u.Asks)
	p.account.force(item.size())
	p.updates = slices.Insert(p.updates, at, item)
	p.pass(at + 1)
	return true
}

// pass notes for the updates from that one on that an update came after them which lies below them.
func (p *pending) pass(from int) {
	for i := from; i < len(p.updates); i++ {
		p.updates[i].passed = true
	}
}

// outlier reports whether the stream or the exchange contradicts the update at i, and no later one continues it.
func (p *pending) outlier(i int) bool {
	u := &p.updates[i]
	continued := i+1 < len(p.updates) && p.updates[i+1].PrevID <= u.LastID
	return (u.passed || u.denied > 0) && !continued
}

// takeDoubt returns the first doubt that stood when the first update came, and forgets it. It is borne by the update that
// came first after it arose, which is not always the first by id.
func (p *pending) takeDoubt() market.Cause {
	for i := range p.updates {
		if u := &p.updates[i]; u.doubt != "" && !u.at.After(p.updates[0].at) {
			cause := u.doubt
			u.doubt = ""
			return cause
		}
	}
	return ""
}

// bequeath gives the doubt of the update at i, which is about to be forgotten, to the next one. It returns the doubt if
// there is no next one.
func (p *pending) bequeath(i int) (left market.Cause) {
	doubt := p.updates[i].doubt
	if i+1 == len(p.updates) {
		return doubt
	}
	if next := &p.updates[i+1]; next.doubt == "" {
		next.doubt = doubt
	}
	return ""
}

// pop forgets the first update.
func (p *pending) pop() {
	p.account.give(p.updates[0].size())
	p.updates[0] = pendingUpdate{}
	if p.updates = p.updates[1:]; len(p.updates) == 0 {
		p.updates = nil // gives the memory back: a book is synced for long
	}
}

// remove forgets the update at i.
func (p *pending) remove(i int) {
	p.account.give(p.updates[i].size())
	if p.updates = slices.Delete(p.updates, i, i+1); len(p.updates) == 0 {
		p.updates = nil
	}
}

// empty reports whether no update waits.
func (p *pending) empty() bool { return len(p.updates) == 0 }

// full reports whether the bound is reached.
func (p *pending) full() bool { return p.account.full() }

// beyond returns the first update that goes beyond id, nil when none does.
func (p *pending) beyond(id int64) *market.DepthUpdate {
	for i := range p.updates {
		if u := &p.updates[i].DepthUpdate; u.LastID > id {
			return u
		}
	}
	return nil
}
