package sink

import (
	"context"
	"fmt"

	"tapedeck/shared/market"
)

// Settled returns nil once the store has all that earlier processes put: what this one puts goes behind it. It waits as
// long as ctx lasts.
func (s *Sink) Settled(ctx context.Context) error {
	select {
	case <-s.isSettled:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for what earlier processes recorded to be stored: %w", ctx.Err())
	}
}

// Gaps returns entries of the ledger as the store has them: those on their way are not among them.
func (s *Sink) Gaps(ctx context.Context, query market.GapQuery) ([]market.Gap, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	return s.store.Gaps(ctx, query)
}

// Spans returns spans as the store has them: what is on its way is not in them.
func (s *Sink) Spans(ctx context.Context, series market.Series, from, to market.Time, limit int) ([]market.Span, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	return s.store.Spans(ctx, series, from, to, limit)
}
