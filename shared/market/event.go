package market

// Level is one price of a book with the quantity that stands there. In a DepthUpdate the quantity is absolute, and 0
// removes the level.
type Level struct {
	Price    Decimal
	Quantity Decimal
}

// DepthUpdate is one change of a book as the exchange sent it. It covers the update ids FirstID to LastID.
//
// Ownership: whoever fills one may reuse its slices; a receiver that keeps it must copy.
type DepthUpdate struct {
	FirstID int64 // U
	LastID  int64 // u
	// PrevID is the LastID of the event before this one: FirstID-1 on spot, pu on futures. The book applies an update
	// when its own id lies in [PrevID, LastID).
	PrevID int64

	EventTime Time // E, the exchange's clock
	RecvTime  Time // stamped on arrival, before parsing

	Bids []Level // as sent; usually best first
	Asks []Level
}

// Trade is one trade as the exchange sent it.
type Trade struct {
	ID int64
	// EventTime is when the trade happened (T), the exchange's clock. It is the only time that REST gives too, so a
	// trade fetched again later carries the same one.
	EventTime Time
	SentTime  Time // E, when the stream sent it; 0 for a trade from REST
	RecvTime  Time
	Price     Decimal
	Quantity  Decimal
	Side      Side // the taker's
	// Flags keeps what else is known of the trade, for fidelity.
	Flags uint8
}

// The bits of Trade.Flags.
const (
	TradeFlagM          = 1 << iota // M, the field that Binance documents as "ignore"
	TradeFlagBackfilled             // not from the stream: fetched later by id; RecvTime is when
)

// Ticker is the best bid and ask as the exchange itself shows them (bookTicker): a witness for the book.
type Ticker struct {
	UpdateID int64
	Bid, Ask Level
}

// Snapshot is a whole book as the exchange's REST interface gives it. Bids and asks are best first.
type Snapshot struct {
	LastID int64
	// EventTime is the exchange's clock, asked for just before the snapshot (the reply itself carries no time): the
	// snapshot is not older than it.
	EventTime Time
	RecvTime  Time
	Bids      []Level
	Asks      []Level
}
