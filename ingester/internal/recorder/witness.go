package recorder

import (
	"tapedeck/shared/book"
	"tapedeck/shared/market"
)

// maxWitnesses bounds the tickers that wait for the depth update that they belong to. Tickers come at once and updates
// every 100 ms; 520 messages in 10 ms were measured.
const maxWitnesses = 1024

// witness compares the book with the best bid and ask that the exchange itself shows (bookTicker). After an update,
// the book must show what the last ticker at or below its id shows. Tickers are conflated: 2 of 6,495 book states on
// BTCUSDT were never shown, so a mismatch now and then is no fault; a growing number is.
type witness struct {
	tickers []market.Ticker // with ids above the last check, oldest first
	last    market.Ticker   // the last one at or below it
	seen    bool
}

// note takes a ticker; the oldest is dropped when too many wait.
func (w *witness) note(t *market.Ticker) {
	if len(w.tickers) == maxWitnesses {
		copy(w.tickers, w.tickers[1:])
		w.tickers = w.tickers[:maxWitnesses-1]
	}
	w.tickers = append(w.tickers, *t)
}

// agrees reports whether the book, after an applied update, shows what the exchange showed. It is true where no ticker
// was seen yet.
func (w *witness) agrees(b *book.Book) bool {
	passed := 0
	for passed < len(w.tickers) && w.tickers[passed].UpdateID <= b.LastID() {
		w.last, w.seen = w.tickers[passed], true
		passed++
	}
	w.tickers = w.tickers[:copy(w.tickers, w.tickers[passed:])]
	if !w.seen {
		return true
	}
	bid, _ := b.BestBid()
	ask, _ := b.BestAsk()
	return bid == w.last.Bid && ask == w.last.Ask
}
