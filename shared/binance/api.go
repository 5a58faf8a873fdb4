package binance

import (
	"context"
	"net/http"

	"tapedeck/shared/market"
)

// StreamName returns the name under which a series is subscribed: "btcusdt@depth@100ms", "btcusdt@trade".
func StreamName(s market.Series) string { return "" }

// TickerStreamName returns the name of the market's bookTicker stream.
func TickerStreamName(m market.Market) string { return "" }

// Route returns the stream name of a frame of the combined endpoint without parsing the rest, as a part of frame; nil
// when the frame has none (a control reply) or must be parsed to find it. It never fails: what it does not recognise
// goes the slow way.
func Route(frame []byte) []byte { return nil }

// Event is one decoded frame: exactly one of the pointers is set. The pointers lead into the Decoder and are valid
// until its next call.
type Event struct {
	Symbol string // upper case; "" for control frames
	Depth  *market.DepthUpdate
	Trade  *market.Trade
	Ticker *market.Ticker
	Reply  *Reply    // to SUBSCRIBE and its kind
	Notice *Shutdown // serverShutdown
	Other  string    // the "e" of a well-formed event that Tapedeck does not use
}

// Reply answers a control frame. Code and Message are set when it failed.
type Reply struct {
	ID      int64
	Result  []byte
	Code    int
	Message string
}

// Shutdown is the notice that the server goes away soon.
type Shutdown struct{ EventTime market.Time }

// Decoder decodes frames, raw or wrapped by the combined endpoint, with keys in any order and unknown keys ignored. It
// belongs to one goroutine. The zero value is ready.
type Decoder struct{}

// Decode decodes one frame and stamps it with recv. Errors are of kind KindInvalid (not what the exchange documents) or
// KindTooLarge, and say where.
func (d *Decoder) Decode(frame []byte, recv market.Time) (Event, error) { return Event{}, nil }

// REST calls the exchange's REST interface. It is safe for concurrent use.
type REST struct{}

// NewREST returns a client for the given base ("https://api.binance.com"). A nil client means one with sane timeouts.
func NewREST(base string, client *http.Client) *REST { return &REST{} }

// Snapshot fetches a book, asking the exchange's clock first (see market.Snapshot.EventTime).
func (r *REST) Snapshot(ctx context.Context, m market.Market, limit int) (market.Snapshot, error) {
	return market.Snapshot{}, nil
}

// Listings fetches what the exchange says of the given markets; a market that it does not know is an error of kind
// KindNotFound that names it.
func (r *REST) Listings(ctx context.Context, markets []market.Market) ([]market.Listing, error) {
	return nil, nil
}
