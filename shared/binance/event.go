package binance

import (
	"tapedeck/shared/market"
)

// Event is one decoded frame: exactly one of the pointers or Other is set. The pointers lead into the Decoder and are
// valid until its next call.
type Event struct {
	Symbol string // upper case, as the exchange names it; "" for control frames and where the frame does not say
	Depth  *market.DepthUpdate
	Trade  *market.Trade
	Ticker *market.Ticker
	Reply  *Reply    // to SUBSCRIBE and its kind
	Notice *Shutdown // serverShutdown
	Other  string    // the "e" of a well-formed event that Tapedeck does not use, or OtherPartialDepth or OtherArray
}

// Names in Event.Other for events that have no "e" of their own.
const (
	OtherPartialDepth = "partialDepth" // the best levels of a book: lastUpdateId, bids, asks
	OtherArray        = "array"        // events of all markets in one frame ("!miniTicker@arr")
)

// Reply answers a control frame. Code and Message are set when it failed.
type Reply struct {
	ID      int64  // of the request; 0 when the exchange did not say, or when it is not an integer
	Result  []byte // JSON; "null" for a subscription that succeeded; nil when it failed
	Code    int    // 0 is a code too ("unknown property"): Message says whether the request failed
	Message string
}

// Shutdown is the notice that the server goes away soon.
type Shutdown struct{ EventTime market.Time }
