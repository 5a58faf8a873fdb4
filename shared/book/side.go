package book

import (
	"cmp"
	"math/bits"
	"slices"

	"tapedeck/shared/market"
)

// A side keeps its levels in pages of 64 neighbouring prices: an array of quantities and a bitmap of those that are
// there. Setting a level is a division, a lookup of the page and two writes, whatever the size of the book; levels
// cluster around the best price, so the page is mostly at hand.
//
// A price's key is its number of units, negated on the ask side, so that on both sides the best price has the greatest
// key. The unit is the greatest number that divides every price seen: the tick, or less where old orders stand on a
// finer one. It is found, not configured, so no price is ever off the grid: a price that is makes the grid finer.
//
// A page that was emptied stays for a while, since quotes come back where they were: sweep takes the empty ones out
// when they outnumber the others. Only the best page is never empty, so that the best price is found at once.
type side struct {
	sign   int64 // +1 for bids, -1 for asks
	unit   int64 // 0 while no price was seen
	levels int
	pages  map[int64]*page
	near   [nearPages]*page // pages by the low bits of their number: spares most look-ups in the map
	order  []*page          // ascending by number: the best page is the last, where most comes and goes
	empty  int              // how many pages in order are empty
	free   []*page          // pages out of use, kept for the next
	fresh  []page           // pages never used, allocated together
}

const (
	pageShift  = 6
	pageLevels = 1 << pageShift
	pageMask   = pageLevels - 1
	nearPages  = 512
	minSweep   = 64 // empty pages below which a sweep does not pay
	freshPages = 16 // pages allocated at a time
)

// page holds the levels with keys from number<<pageShift on.
type page struct {
	number   int64
	present  uint64
	quantity [pageLevels]market.Decimal
}

func newSide(s market.Side) side {
	sign := int64(1)
	if s == market.Sell {
		sign = -1
	}
	return side{sign: sign, pages: make(map[int64]*page)}
}

// reset replaces all levels. The unit starts anew, so that a market's coarser tick is found again.
func (s *side) reset(levels []market.Level) {
	s.clear()
	s.unit = 0
	for i := range levels {
		s.unit = gcd(s.unit, int64(levels[i].Price))
	}
	for i := range slices.Backward(levels) { // mostly best first: so the pages come in the order of s.order
		s.set(levels[i])
	}
}

// clear removes all levels and keeps the memory.
func (s *side) clear() {
	s.free = append(s.free, s.order...)
	for _, p := range s.order {
		p.present = 0
	}
	s.order = s.order[:0]
	clear(s.pages)
	clear(s.near[:])
	s.levels, s.empty = 0, 0
}

// set puts one level, or removes it when its quantity is 0.
func (s *side) set(l market.Level) {
	key := s.key(l.Price)
	number := key >> pageShift
	near := &s.near[number&(nearPages-1)]
	p := *near
	if p == nil || p.number != number {
		if p = s.pages[number]; p == nil {
			if l.Quantity == 0 {
				return
			}
			p = s.addPage(number)
		}
		*near = p
	}
	i := uint(key & pageMask)
	bit := uint64(1) << i
	switch {
	case l.Quantity != 0:
		if p.present&bit == 0 {
			if p.present == 0 {
				s.empty--
			}
			p.present |= bit
			s.levels++
		}
		p.quantity[i] = l.Quantity
	case p.present&bit != 0:
		p.present &^= bit
		s.levels--
		if p.present == 0 {
			s.emptied()
		}
	}
}

// key returns the number of units of a price, making the unit finer first where the price needs it.
func (s *side) key(price market.Decimal) int64 {
	if s.unit != 0 {
		if n := int64(price) / s.unit; n*s.unit == int64(price) {
			return s.sign * n
		}
	}
	s.refine(gcd(s.unit, int64(price)))
	return s.sign * (int64(price) / s.unit)
}

// refine rebuilds the side on a finer unit.
func (s *side) refine(unit int64) {
	levels := s.appendBest(make([]market.Level, 0, s.levels), -1)
	s.clear()
	s.unit = max(unit, 1) // a price of 0 has no divisor; it is nobody's price, but must not crash a book
	for i := range slices.Backward(levels) {
		s.set(levels[i])
	}
}

// place returns where a new page of that number belongs in order.
func (s *side) place(number int64) int {
	// Most pages come and go near the best price: look there first.
	n := len(s.order)
	for i := n - 1; i >= max(0, n-4); i-- {
		if s.order[i].number < number {
			return i + 1
		}
	}
	i, _ := slices.BinarySearchFunc(s.order, number, func(p *page, number int64) int {
		return cmp.Compare(p.number, number)
	})
	return i
}

func (s *side) addPage(number int64) *page {
	var p *page
	if n := len(s.free); n > 0 {
		p, s.free = s.free[n-1], s.free[:n-1]
	} else {
		if len(s.fresh) == 0 {
			s.fresh = make([]page, freshPages)
		}
		p, s.fresh = &s.fresh[0], s.fresh[1:]
	}
	p.number = number
	s.pages[number] = p
	s.order = slices.Insert(s.order, s.place(number), p)
	s.empty++
	return p
}

// emptied takes account of a page that has just lost its last level.
func (s *side) emptied() {
	s.empty++
	for n := len(s.order); n > 0 && s.order[n-1].present == 0; n-- {
		s.release(s.order[n-1])
		s.order = s.order[:n-1]
	}
	if s.empty > minSweep && s.empty > len(s.order)/2 {
		s.order = slices.DeleteFunc(s.order, func(p *page) bool {
			if p.present != 0 {
				return false
			}
			s.release(p)
			return true
		})
	}
}

// release takes an empty page out of use; the caller takes it out of order.
func (s *side) release(p *page) {
	s.empty--
	delete(s.pages, p.number)
	if near := &s.near[p.number&(nearPages-1)]; *near == p {
		*near = nil
	}
	s.free = append(s.free, p)
}

// level returns the level at index i of page p.
func (s *side) level(p *page, i int) market.Level {
	key := p.number<<pageShift | int64(i)
	return market.Level{Price: market.Decimal(s.sign * key * s.unit), Quantity: p.quantity[i]}
}

func (s *side) best() (market.Level, bool) {
	if len(s.order) == 0 {
		return market.Level{}, false
	}
	p := s.order[len(s.order)-1]
	return s.level(p, bits.Len64(p.present)-1), true
}

func (s *side) appendBest(dst []market.Level, n int) []market.Level {
	if n < 0 || n > s.levels {
		n = s.levels
	}
	dst = slices.Grow(dst, n)
	for _, p := range slices.Backward(s.order) {
		for present := p.present; present != 0; {
			if n == 0 {
				return dst
			}
			i := bits.Len64(present) - 1
			present &^= 1 << i
			dst = append(dst, s.level(p, i))
			n--
		}
	}
	return dst
}

// countFrom returns how many levels are at price or better.
func (s *side) countFrom(price market.Decimal) int {
	n := 0
	for _, p := range slices.Backward(s.order) {
		if p.present == 0 {
			continue
		}
		worst := s.level(p, bits.TrailingZeros64(p.present))
		if s.sign*int64(worst.Price-price) >= 0 {
			n += bits.OnesCount64(p.present)
			continue
		}
		for present := p.present; present != 0; present &= present - 1 {
			if l := s.level(p, bits.TrailingZeros64(present)); s.sign*int64(l.Price-price) >= 0 {
				n++
			}
		}
		return n
	}
	return n
}

// gcd returns the greatest common divisor; gcd(0, b) is b.
func gcd(a, b int64) int64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
