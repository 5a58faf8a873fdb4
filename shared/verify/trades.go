package verify

import (
	"context"

	"tapedeck/shared/market"
)

// trades verifies the blocks of trades of one market.
func (r *verifier) trades(ctx context.Context, t *task) error {
	s := newSeries(r, t, tradeCodec, r.opts.Start.Truncate(market.BlockWindow), -1)
	for {
		trade, err := s.walk.next(ctx)
		if trade == nil || err != nil {
			return err
		}
		if _, err := s.event(ctx, tradeCodec.event(trade)); err != nil {
			return err
		}
		if trade.Flags&market.TradeFlagBackfilled != 0 {
			t.stream.Backfilled++
		}
	}
}
