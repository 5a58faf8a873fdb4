package recorder

import (
	"slices"

	"tapedeck/shared/book"
	"tapedeck/shared/market"
)

// comparison is what compareBooks found, in levels.
type comparison struct {
	matched    int
	mismatched int
}

// compareBooks compares a book with the exchange's at the same id, as deep as both are complete: proof says it of the
// book, of which a side that began empty is complete. The snapshot's id may lie within an update; the levels that this
// one, next, touches may be in either state and are left out.
func compareBooks(b *book.Book, s *market.Snapshot, proof *market.Keyframe, next *market.DepthUpdate) (c comparison) {
	if next == nil {
		next = &market.DepthUpdate{}
	}
	if len(s.Bids) > 0 {
		bound := max(proof.VerifiedBid, worst(s.Bids))
		mine := b.AppendBids(nil, b.CountBids(bound))
		theirs := s.Bids[:count(s.Bids, func(l market.Level) bool { return l.Price >= bound })]
		c.add(mine, theirs, -1, next.Bids)
	}
	if len(s.Asks) > 0 {
		bound := worst(s.Asks)
		if proof.VerifiedAsk != 0 {
			bound = min(bound, proof.VerifiedAsk)
		}
		mine := b.AppendAsks(nil, b.CountAsks(bound))
		theirs := s.Asks[:count(s.Asks, func(l market.Level) bool { return l.Price <= bound })]
		c.add(mine, theirs, 1, next.Asks)
	}
	return c
}

// count returns how many levels, from the best on, are within a bound.
func count(levels []market.Level, within func(market.Level) bool) int {
	if i := slices.IndexFunc(levels, func(l market.Level) bool { return !within(l) }); i >= 0 {
		return i
	}
	return len(levels)
}

// add compares two lists of levels, both from the best on: prices ascend for sign 1 and descend for -1.
func (c *comparison) add(mine, theirs []market.Level, sign market.Decimal, exempt []market.Level) {
	skip := make(map[market.Decimal]bool, len(exempt))
	for _, l := range exempt {
		skip[l.Price] = true
	}
	for len(mine) > 0 || len(theirs) > 0 {
		var price market.Decimal
		var agree bool
		switch {
		case len(theirs) == 0 || len(mine) > 0 && sign*mine[0].Price < sign*theirs[0].Price:
			price, mine = mine[0].Price, mine[1:]
		case len(mine) == 0 || sign*theirs[0].Price < sign*mine[0].Price:
			price, theirs = theirs[0].Price, theirs[1:]
		default:
			price, agree = mine[0].Price, mine[0].Quantity == theirs[0].Quantity
			mine, theirs = mine[1:], theirs[1:]
		}
		switch {
		case skip[price]:
		case agree:
			c.matched++
		default:
			c.mismatched++
		}
	}
}
