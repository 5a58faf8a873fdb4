package exchange

import (
	"errors"

	"tapedeck/shared/market"
)

// Source is what a Server shows: Replay or Synthetic. A Server calls its methods one at a time and owns it from New on.
type Source interface {
	// Due returns when the next step is due on the source's own clock, which only ever goes forward; io.EOF when the
	// source is over. Any other error ends the source too and is what Server.Err returns.
	Due() (market.Time, error)
	// Step takes the next step and emits its frames, which are valid during the call of emit. It returns the symbol
	// whose exchange snapshot was reached by this very step, or "". It is called only after Due returned no error.
	Step(emit func(Frame)) (snapshotOf string)
	// Book returns the book of a market after the last step with at most limit levels a side (all for limit < 0).
	// The error is ErrNoBook as long as there is none, and ErrUnknownSymbol for a market that the source does not show.
	Book(symbol string, limit int) (market.Snapshot, error)
	// Listings returns the markets that the source is known to show, in the order of their symbols.
	Listings() []market.Listing
	// Trades returns the latest trades of a market, which the source goes on adding to. The error is ErrUnknownSymbol for
	// a market that the source does not show.
	Trades(symbol string) (*Trades, error)
	// Pause lets nothing happen in a market any more, within a tenth of a second of its own clock, until as many calls with
	// on = false have taken it back. The error is of kind market.KindInvalid when the source cannot do that.
	Pause(symbol string, on bool) error
	// Time returns the exchange's clock: the event time last sent, or where it begins.
	Time() market.Time
	// Watch tells the source that somebody listens to a stream, or nobody any more.
	Watch(stream string, on bool)
	// Stats returns what the source counts.
	Stats() SourceStats
	// Close frees what the source holds.
	Close() error
}

// SourceStats is what a source counts.
type SourceStats struct {
	Total   int64 // frames that the source holds; 0 when not known
	Skipped int64 // frames that the source sent but could not bring into its own book
}

// Errors of Source.Book.
var (
	ErrNoBook        = errors.New("no book yet")
	ErrUnknownSymbol = errors.New("unknown symbol")
)

// Frame is one message of a stream.
type Frame struct {
	Stream   []byte // "btcusdt@trade"; empty for a frame of no stream, which goes to every subscriber of anything
	Combined []byte // as sent on /stream: {"stream":"btcusdt@trade","data":{…}}
	Raw      []byte // as sent on /ws: {…}
}
