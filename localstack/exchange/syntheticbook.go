package exchange

import (
	"math/bits"

	"tapedeck/shared/market"
)

// ladder is the book of a made-up market: one quantity for each price in ticks, and a bit for each price that has one.
// Everything up to bestBid is a bid, everything from bestAsk on an ask, so that it cannot be crossed. A search for a
// neighbour goes over 64 prices at a time.
type ladder struct {
	base     int      // the price in ticks of index 0
	lots     []uint32 // by index
	occupied []uint64
	bestBid  int // indexes
	bestAsk  int
	bidCount int
	askCount int
}

func newLadder(base, size int) ladder {
	return ladder{base: base, lots: make([]uint32, size), occupied: make([]uint64, (size+63)/64)}
}

func (l *ladder) has(i int) bool { return l.occupied[i/64]>>(i%64)&1 != 0 }

// set puts a quantity at a price; 0 removes what is there. The best prices and counts are the caller's to keep.
func (l *ladder) set(i int, lots uint32) {
	l.lots[i] = lots
	bit := uint64(1) << (i % 64)
	if lots > 0 {
		l.occupied[i/64] |= bit
	} else {
		l.occupied[i/64] &^= bit
	}
}

// down returns the first index at or below i that is occupied, or is not, as wanted; -1 when there is none.
func (l *ladder) down(i int, occupied bool) int {
	for w := i / 64; i >= 0; w-- {
		word := l.occupied[w]
		if !occupied {
			word = ^word
		}
		if word &= ^uint64(0) >> (63 - i%64); word != 0 {
			return w*64 + 63 - bits.LeadingZeros64(word)
		}
		i = w*64 - 1
	}
	return -1
}

// up returns the first index at or above i that is occupied, or is not, as wanted; -1 when there is none.
func (l *ladder) up(i int, occupied bool) int {
	for w := i / 64; w < len(l.occupied); w++ {
		word := l.occupied[w]
		if !occupied {
			word = ^word
		}
		if word &= ^uint64(0) << (i % 64); word != 0 {
			if at := w*64 + bits.TrailingZeros64(word); at < len(l.lots) {
				return at
			}
			return -1
		}
		i = w*64 + 64
	}
	return -1
}

func (l *ladder) bids(limit int, tick, lot market.Decimal) []market.Level {
	levels := make([]market.Level, 0, min(limit, l.bidCount))
	for i := l.bestBid; i >= 0 && len(levels) < limit; i = l.down(i-1, true) {
		levels = append(levels, l.level(i, tick, lot))
		if i == 0 {
			break
		}
	}
	return levels
}

func (l *ladder) asks(limit int, tick, lot market.Decimal) []market.Level {
	levels := make([]market.Level, 0, min(limit, l.askCount))
	for i := l.bestAsk; i >= 0 && len(levels) < limit; i = l.up(i+1, true) {
		levels = append(levels, l.level(i, tick, lot))
	}
	return levels
}

func (l *ladder) level(i int, tick, lot market.Decimal) market.Level {
	return market.Level{Price: market.Decimal(l.base+i) * tick, Quantity: market.Decimal(l.lots[i]) * lot}
}

// changes is a set of prices on each side that have changed since they were last shown.
type changes struct {
	bidSet, askSet []uint64
	bids, asks     []int32
	firstID        int64 // the first update id of them; 0 = none
}

func newChanges(size int) changes {
	return changes{bidSet: make([]uint64, (size+63)/64), askSet: make([]uint64, (size+63)/64)}
}

func (c *changes) add(i int, bid bool, id int64) {
	set, list := &c.askSet, &c.asks
	if bid {
		set, list = &c.bidSet, &c.bids
	}
	if c.firstID == 0 {
		c.firstID = id
	}
	if bit := uint64(1) << (i % 64); (*set)[i/64]&bit == 0 {
		(*set)[i/64] |= bit
		*list = append(*list, int32(i))
	}
}

func (c *changes) clear() {
	for _, i := range c.bids {
		c.bidSet[i/64] = 0
	}
	for _, i := range c.asks {
		c.askSet[i/64] = 0
	}
	c.bids, c.asks, c.firstID = c.bids[:0], c.asks[:0], 0
}
