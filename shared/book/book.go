package book

import "tapedeck/shared/market"

// Verdict is what Apply did with an update.
type Verdict uint8

// The verdicts.
const (
	Applied Verdict = iota // the update followed the book's id, or overlapped it, and was applied
	Stale                  // the update ends at or before the book's id; the book is unchanged
	Gap                    // updates between the book's id and this one are missing; the book is unchanged
)

// Book is an order book. The zero Book is not usable; see New.
type Book struct{}

// New returns an empty book with id 0, to which no update applies before Reset.
func New() *Book { return &Book{} }

// Reset makes the book hold exactly the given levels, with lastID as its id. Zero quantities are left out. The slices
// may be in any order, are copied, and stay the caller's.
func (b *Book) Reset(lastID int64, bids, asks []market.Level) {}

// Apply brings one update into the book by the exchange's rule:
//
//  1. u.LastID <= id: the update is older than the book: Stale.
//  2. u.PrevID > id: something between is missing: Gap.
//  3. else it continues or overlaps the book: its levels are set (quantity 0 removes; removing what is not there is
//     normal), and the book's id becomes u.LastID: Applied.
//
// On spot, PrevID is U-1, which makes rule 3 "U <= id+1 <= u"; on futures it is pu.
func (b *Book) Apply(u *market.DepthUpdate) Verdict { return Gap }

// LastID returns the id of the last update in the book.
func (b *Book) LastID() int64 { return 0 }

// BestBid returns the highest bid; false when there is none.
func (b *Book) BestBid() (market.Level, bool) { return market.Level{}, false }

// BestAsk returns the lowest ask; false when there is none.
func (b *Book) BestAsk() (market.Level, bool) { return market.Level{}, false }

// Crossed reports whether the best bid is at or above the best ask: a sign that an update was missed.
func (b *Book) Crossed() bool { return false }

// Len returns the number of levels on each side.
func (b *Book) Len() (bids, asks int) { return 0, 0 }

// AppendBids appends the n best bids, best first, to dst and returns it; all of them for n < 0.
func (b *Book) AppendBids(dst []market.Level, n int) []market.Level { return dst }

// AppendAsks appends the n best asks, best first, to dst and returns it; all of them for n < 0.
func (b *Book) AppendAsks(dst []market.Level, n int) []market.Level { return dst }

// CountBids returns how many bids are at or above price.
func (b *Book) CountBids(price market.Decimal) int { return 0 }

// CountAsks returns how many asks are at or below price.
func (b *Book) CountAsks(price market.Decimal) int { return 0 }

// Digest returns the first 16 hex digits of sha256 over "price*1e8:quantity*1e8;" of the best n bids (descending) and
// then of the best n asks (ascending).
func (b *Book) Digest(n int) string { return "" }
