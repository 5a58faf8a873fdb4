// Package market holds the nouns of Tapedeck: markets, exact numbers, instants, what an exchange shows (depth updates,
// snapshots, trades), the records that stores keep, and the kinds of error. It has no dependencies, no I/O and no
// goroutines; everything else may import it.
package market

import (
	"fmt"
	"strings"
)

// Exchange names a venue as it stands in URLs and in stored keys.
type Exchange string

// The exchanges that Tapedeck knows.
const (
	Binance Exchange = "binance" // Binance spot
)

// Market is one order book on one exchange. Symbol is upper case, as the exchange itself names it ("BTCUSDT").
// A Market is comparable and may be used as a map key.
type Market struct {
	Exchange Exchange
	Symbol   string
}

// String returns "exchange/SYMBOL", the form that stored keys and logs use.
func (m Market) String() string { return string(m.Exchange) + "/" + m.Symbol }

// maxSymbolBytes bounds a symbol: the longest listed today have 20 bytes, and non-ASCII ones (allowed since
// December 2025) take up to four bytes a character.
const maxSymbolBytes = 64

// New checks and returns a market. The symbol is upper-cased, so that a user may write "btcusdt".
// The error is of kind KindInvalid.
func New(exchange Exchange, symbol string) (Market, error) {
	switch {
	case exchange != Binance:
		return Market{}, Errorf(KindInvalid, "unknown exchange %q", exchange)
	case symbol == "":
		return Market{}, Errorf(KindInvalid, "empty symbol")
	case len(symbol) > maxSymbolBytes:
		return Market{}, Errorf(KindInvalid, "symbol of %d bytes is longer than %d", len(symbol), maxSymbolBytes)
	case strings.ContainsFunc(symbol, forbiddenInSymbol):
		return Market{}, Errorf(KindInvalid, "symbol %q holds a character that no exchange uses", symbol)
	}
	return Market{Exchange: exchange, Symbol: strings.ToUpper(symbol)}, nil
}

// forbiddenInSymbol keeps separators of keys, paths and stream names, and what cannot be seen, out of symbols.
func forbiddenInSymbol(r rune) bool {
	return r <= ' ' || r == 0x7f || strings.ContainsRune(`/\@?&#%"'`, r)
}

// Parse reads the form that String writes.
func Parse(s string) (Market, error) {
	exchange, symbol, ok := strings.Cut(s, "/")
	if !ok {
		return Market{}, Errorf(KindInvalid, "market %q is not exchange/SYMBOL", s)
	}
	return New(Exchange(exchange), symbol)
}

// Stream is a kind of event that a market shows. Ids are contiguous within one stream of one market.
type Stream string

// The streams that are recorded.
const (
	Depth  Stream = "depth"  // order-book changes; ids are the exchange's update ids
	Trades Stream = "trades" // trades; ids are the exchange's trade ids
)

// ParseStream reads the name of a stream.
func ParseStream(s string) (Stream, error) {
	switch Stream(s) {
	case Depth, Trades:
		return Stream(s), nil
	}
	return "", Errorf(KindInvalid, "unknown stream %q (known: %s, %s)", s, Depth, Trades)
}

// Series is one stream of one market: the unit in which events are ordered and stored.
type Series struct {
	Market Market
	Stream Stream
}

// String returns "exchange/SYMBOL/stream".
func (s Series) String() string { return fmt.Sprintf("%s/%s", s.Market, s.Stream) }

// Side is the side of the taker of a trade, or a side of the book.
type Side uint8

// The two sides.
const (
	Buy  Side = iota + 1 // the taker bought; the bids of a book
	Sell                 // the taker sold; the asks of a book
)

// String returns "buy" or "sell".
func (s Side) String() string {
	switch s {
	case Buy:
		return "buy"
	case Sell:
		return "sell"
	}
	return fmt.Sprintf("Side(%d)", uint8(s))
}
