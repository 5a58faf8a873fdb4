// Package recorder keeps the book of each market by the exchange's rules and turns what it receives into records:
// blocks of depth updates and trades, keyframes of the book, and the ledger of what is missing.
//
// One goroutine owns all of a market (Recorder.Run), so that markets share no state but a budget of memory and none
// delays another. What is recorded follows from the frames and snapshots alone, as long as they come within the times
// that are granted to them; the clock's flushes cut blocks elsewhere.
package recorder

import (
	"context"

	"tapedeck/shared/market"
)

// Source answers questions about what the stream should have said; binance.REST is one. It keeps to the exchange's
// budget by itself: a call may wait for long, and fails at once where ctx's deadline would come before its turn.
type Source interface {
	// Snapshot fetches a book of up to limit levels a side.
	Snapshot(ctx context.Context, m market.Market, limit int) (market.Snapshot, error)

	// LastUpdateID and LastTradeID say how far the exchange itself is.
	LastUpdateID(ctx context.Context, m market.Market) (int64, error)
	LastTradeID(ctx context.Context, m market.Market) (int64, error)

	// TradesFrom fetches the trades with ids from fromID on, ascending, at most limit. It may leave out what the
	// exchange does not tell exactly; none means that there are none yet.
	TradesFrom(ctx context.Context, m market.Market, fromID int64, limit int) ([]market.Trade, error)
}

// Sink takes records on their way to a store. It is safe for concurrent use.
type Sink interface {
	// Put takes the whole batch over, in the order of the calls, or returns false: the sink is full, or ctx done while
	// it waited for room. received is when the oldest event in the batch was received, 0 when it holds none.
	Put(ctx context.Context, batch *market.Batch, received market.Time) bool

	// Save takes over what a block has so far, in case the process is killed before the block is put, which is to happen a
	// moment later: then that takes its place. It returns false when the block had better be put at once.
	Save(block market.Block, received market.Time) bool

	// Tail returns the last block that was stored of the series before this process wrote anything, or an error of
	// kind KindNotFound. It waits for the store as long as ctx lasts.
	Tail(ctx context.Context, series market.Series) (market.Block, error)

	// Settled waits, as long as ctx lasts, until the store has all that was put by now, and all that earlier processes
	// recorded.
	Settled(ctx context.Context) error

	// Gaps and Spans are what the store has. Gaps are ordered by Start, and so are spans, of which those are returned
	// that overlap [from, to).
	Gaps(ctx context.Context, query market.GapQuery) ([]market.Gap, error)
	Spans(ctx context.Context, series market.Series, from, to market.Time, limit int) ([]market.Span, error)
}
