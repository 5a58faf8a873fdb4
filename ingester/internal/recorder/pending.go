package recorder

import (
	"slices"

	"tapedeck/shared/market"
)

// pending holds the depth updates that came while there was no book to apply them to, in their order. It is bounded in
// bytes.
type pending struct {
	limit   int
	bytes   int
	updates []pendingUpdate
}

// pendingUpdate is an update and why something may be missing before it; "" when nothing should be.
type pendingUpdate struct {
	market.DepthUpdate
	doubt market.Cause
}

const (
	updateBytes = 128 // of a pendingUpdate without its levels
	levelBytes  = 16
)

func (p *pendingUpdate) size() int { return updateBytes + levelBytes*(len(p.Bids)+len(p.Asks)) }

// push appends a copy of u.
func (p *pending) push(u *market.DepthUpdate, doubt market.Cause) {
	item := pendingUpdate{DepthUpdate: *u, doubt: doubt}
	item.Bids, item.Asks = slices.Clone(u.Bids), slices.Clone(u.Asks)
	p.bytes += item.size()
	p.updates = append(p.updates, item)
}

// trim drops the oldest updates, but not the last one, until the rest is within the bound.
func (p *pending) trim() (dropped int) {
	for p.bytes > p.limit && len(p.updates) > 1 {
		p.pop()
		dropped++
	}
	return dropped
}

// pop forgets the oldest update.
func (p *pending) pop() {
	p.bytes -= p.updates[0].size()
	p.updates[0] = pendingUpdate{}
	if p.updates = p.updates[1:]; len(p.updates) == 0 {
		p.updates = nil // gives the memory back: a book is synced for long
	}
}

// full reports whether the bound is reached.
func (p *pending) full() bool { return p.bytes >= p.limit }
