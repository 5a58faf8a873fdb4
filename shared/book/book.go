package book

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"

	"tapedeck/shared/market"
)

// Verdict is what Apply did with an update.
type Verdict uint8

// The verdicts.
const (
	Applied Verdict = iota // the update followed the book's id, or overlapped it, and was applied
	Stale                  // the update ends at or before the book's id; the book is unchanged
	Gap                    // updates between the book's id and this one are missing; the book is unchanged
)

// String names the verdict.
func (v Verdict) String() string {
	switch v {
	case Applied:
		return "applied"
	case Stale:
		return "stale"
	case Gap:
		return "gap"
	}
	return "Verdict(" + strconv.Itoa(int(v)) + ")"
}

// noID is the id of a book that was never Reset: below every id of an exchange, so that every update is a Gap.
const noID = -1

// Book is an order book. The zero Book is not usable; see New.
type Book struct {
	lastID int64
	bids   side
	asks   side
}

// New returns an empty book, to which no update applies before Reset.
func New() *Book {
	return &Book{lastID: noID, bids: newSide(market.Buy), asks: newSide(market.Sell)}
}

// Reset makes the book hold exactly the given levels, with lastID as its id. Zero quantities are left out; of two
// levels with one price the first counts. The slices may be in any order, are copied, and stay the caller's.
func (b *Book) Reset(lastID int64, bids, asks []market.Level) {
	b.lastID = lastID
	b.bids.reset(bids)
	b.asks.reset(asks)
}

// Apply brings one update into the book by the exchange's rule:
//
//  1. u.LastID <= id: the update is older than the book: Stale.
//  2. u.PrevID > id: something between is missing: Gap.
//  3. else it continues or overlaps the book: its levels are set (quantity 0 removes; removing what is not there is
//     normal), and the book's id becomes u.LastID: Applied.
//
// On spot, PrevID is U-1, which makes rule 3 "U <= id+1 <= u"; on futures it is pu. Apply keeps nothing of u.
func (b *Book) Apply(u *market.DepthUpdate) Verdict {
	switch {
	case b.lastID == noID:
		return Gap
	case u.LastID <= b.lastID:
		return Stale
	case u.PrevID > b.lastID:
		return Gap
	}
	for i := range u.Bids {
		b.bids.set(u.Bids[i])
	}
	for i := range u.Asks {
		b.asks.set(u.Asks[i])
	}
	b.lastID = u.LastID
	return Applied
}

// LastID returns the id of the last update in the book, -1 before the first Reset.
func (b *Book) LastID() int64 { return b.lastID }

// BestBid returns the highest bid; false when there is none.
func (b *Book) BestBid() (market.Level, bool) { return b.bids.best() }

// BestAsk returns the lowest ask; false when there is none.
func (b *Book) BestAsk() (market.Level, bool) { return b.asks.best() }

// Crossed reports whether the best bid is at or above the best ask: a sign that an update was missed. No event among
// 144,045 recorded ones left an intact book crossed.
func (b *Book) Crossed() bool {
	bid, hasBid := b.BestBid()
	ask, hasAsk := b.BestAsk()
	return hasBid && hasAsk && bid.Price >= ask.Price
}

// Len returns the number of levels on each side.
func (b *Book) Len() (bids, asks int) { return b.bids.levels, b.asks.levels }

// AppendBids appends the n best bids, best first, to dst and returns it; all of them for n < 0.
func (b *Book) AppendBids(dst []market.Level, n int) []market.Level { return b.bids.appendBest(dst, n) }

// AppendAsks appends the n best asks, best first, to dst and returns it; all of them for n < 0.
func (b *Book) AppendAsks(dst []market.Level, n int) []market.Level { return b.asks.appendBest(dst, n) }

// CountBids returns how many bids are at or above price.
func (b *Book) CountBids(price market.Decimal) int { return b.bids.countFrom(price) }

// CountAsks returns how many asks are at or below price.
func (b *Book) CountAsks(price market.Decimal) int { return b.asks.countFrom(price) }

// Digest returns the first 16 hex digits of sha256 over "price*1e8:quantity*1e8;" of the best n bids (descending) and
// then of the best n asks (ascending).
func (b *Book) Digest(n int) string {
	var text []byte
	for _, l := range b.AppendAsks(b.AppendBids(nil, n), n) {
		text = strconv.AppendInt(text, int64(l.Price), 10)
		text = append(text, ':')
		text = strconv.AppendInt(text, int64(l.Quantity), 10)
		text = append(text, ';')
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}
