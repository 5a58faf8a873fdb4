package storm

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"tapedeck/localstack/exchange"
	"tapedeck/shared/market"
)

const (
	// pingInterval is how often the exchange asks the ingester whether it has read everything.
	pingInterval = 500 * time.Millisecond
	// attentive is how soon a client that reads at once answers a ping. Where it takes longer, what went out may come so
	// late that REST was asked for it meanwhile.
	attentive = time.Second
	// durable is how long a process must live on to have on disk what it has read: less than a second by
	// docs/reliability.md, but for a machine that is busy.
	durable = 1500 * time.Millisecond
	// alone is for how long the first trade that a process sees may wait for another one, or for the exchange's word, as
	// proof that its id is no nonsense.
	alone = 5 * time.Second
)

// receipts are what the exchange knows that the ingester has read.
type receipts struct {
	mu     sync.Mutex
	series map[market.Series][]receipt
}

// receipt says that the ingester has read the events with certain ids, unharmed and in time, before a time.
type receipt struct {
	firstID, lastID int64
	at              time.Time
}

// note is told of each receipt.
func (r *receipts) note(e exchange.Receipt) {
	series, ok := seriesOf(e.Stream)
	if !ok || e.Echoed.Sub(e.Asked) > attentive {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.series[series] = append(r.series[series], receipt{e.FirstID, e.LastID, e.Echoed})
}

// of returns the receipts of a series, by first id.
func (r *receipts) of(series market.Series) []receipt {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.SortedFunc(slices.Values(r.series[series]), func(a, b receipt) int { return cmp.Compare(a.firstID, b.firstID) })
}
