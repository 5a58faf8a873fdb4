// Package recorder keeps the book of each market by the exchange's rules and turns what it receives into records:
// blocks of depth updates and trades, keyframes of the book, the spans they form, and the ledger of what is missing.
//
// One goroutine owns all of a market (Recorder.Run), so that markets share no state and none delays another. What is
// recorded follows from the frames and snapshots alone, whatever their timing; only the clock's flushes cut blocks
// elsewhere.
package recorder

import (
	"context"

	"tapedeck/shared/market"
)

// Source gives snapshots of books. An error may hold a binance.RateLimitError.
type Source interface {
	Snapshot(ctx context.Context, m market.Market, limit int) (market.Snapshot, error)
}

// Sink takes records on their way to a store. It is safe for concurrent use.
type Sink interface {
	// Put takes the whole batch over, in the order of the calls, or returns false: the sink is full, or ctx done while
	// it waited for room. received is when the oldest event in the batch was received, 0 when it holds none.
	Put(ctx context.Context, batch *market.Batch, received market.Time) bool

	// Tail returns the last block that was stored of the series before this process wrote anything, or an error of
	// kind KindNotFound. It waits for the store as long as ctx lasts.
	Tail(ctx context.Context, series market.Series) (market.Block, error)
}
