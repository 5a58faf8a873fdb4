package recorder

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"tapedeck/shared/binance"
	"tapedeck/shared/market"
)

const (
	statusInterval = 5 * time.Second
	// changeDelay is how long a change of a market's state waits for others to be reported with: markets mostly change
	// together, with their connection.
	changeDelay = 100 * time.Millisecond

	listingInterval = 10 * time.Minute
	listingRetry    = time.Minute // after a failure
	listingTimeout  = 30 * time.Second
)

// Lister tells what the exchange says of markets. Those that it does not know are left out, and an error of kind
// KindNotFound stands beside the others. An error may hold a binance.RateLimitError.
type Lister interface {
	Listings(ctx context.Context, markets []market.Market) ([]market.Listing, error)
}

// Reporter writes down what a process is and does: the state of its recorders every few seconds and whenever that of a
// market changes, and what the exchange says of the markets every ten minutes. The recorders learn from it whether their
// market trades.
type Reporter struct {
	Name      string // of the process, unique among those that write to one store
	Version   string
	StartedAt market.Time
	Recorders []*Recorder
	Sink      Sink
	Lister    Lister
	Log       *slog.Logger
}

// Run reports until ctx ends.
func (p *Reporter) Run(ctx context.Context) {
	statuses := time.NewTicker(statusInterval)
	defer statuses.Stop()
	listings := time.NewTimer(0)
	defer listings.Stop()
	changed := make(chan struct{}, 1)
	for _, r := range p.Recorders {
		r.notifyState(changed)
	}
	var gathered <-chan time.Time // when to report changes; nil while there are none
	p.Report(ctx, false)
	for {
		select {
		case <-changed:
			if gathered == nil {
				gathered = time.After(changeDelay)
			}
		case <-gathered:
			gathered = nil
			p.Report(ctx, false)
		case <-statuses.C:
			p.Report(ctx, false)
		case <-listings.C:
			listings.Reset(p.list(ctx))
		case <-ctx.Done():
			return
		}
	}
}

// Report puts the state of all recorders into the sink; stopped says that it is the last time.
func (p *Reporter) Report(ctx context.Context, stopped bool) {
	status := market.RecorderStatus{
		Recorder: p.Name, Version: p.Version, StartedAt: p.StartedAt, UpdatedAt: market.TimeOf(time.Now()),
		Stopped: stopped, Markets: make([]market.MarketStatus, len(p.Recorders)),
	}
	for i, r := range p.Recorders {
		status.Markets[i] = r.Status()
	}
	p.Sink.Put(ctx, &market.Batch{Statuses: []market.RecorderStatus{status}}, 0) // the next one says the same, and more
}

// list puts what the exchange says of the markets into the sink. It returns when to do so again.
func (p *Reporter) list(ctx context.Context) time.Duration {
	ctx, cancel := context.WithTimeout(ctx, listingTimeout)
	defer cancel()
	markets := make([]market.Market, len(p.Recorders))
	for i, r := range p.Recorders {
		markets[i] = r.market
	}
	listings, err := p.Lister.Listings(ctx, markets)
	p.note(listings)
	if len(listings) > 0 {
		p.Sink.Put(ctx, &market.Batch{Listings: listings}, 0)
	}
	if err == nil {
		return listingInterval
	}
	p.Log.Warn("no listings from the exchange", "error", err)
	if limited, ok := errors.AsType[*binance.RateLimitError](err); ok { // asking earlier makes a ban longer
		return max(limited.RetryAfter, listingRetry)
	}
	if market.KindOf(err) == market.KindNotFound {
		return listingInterval
	}
	return listingRetry
}

// note tells the recorders of the status of their markets.
func (p *Reporter) note(listings []market.Listing) {
	status := make(map[market.Market]string, len(listings))
	for i := range listings {
		status[listings[i].Market] = listings[i].Status
	}
	for _, r := range p.Recorders {
		if s, ok := status[r.market]; ok {
			r.setListed(s)
		}
	}
}
