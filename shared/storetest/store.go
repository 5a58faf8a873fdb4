// Package storetest holds the contract of Tapedeck's stores: the whole interface, an in-memory store that other
// packages' tests use, and one conformance suite that every store passes.
package storetest

import (
	"context"

	"tapedeck/shared/market"
)

// Store is what every store does. Consumers declare the part of it that they use.
//
// All methods may be called from several goroutines, and several processes may have the same store open. An error is
// of kind KindUnavailable when the store does not answer (or is full, read-only, or has lost its primary) and a later
// try may succeed; of kind KindCorrupt when something stored is not what was written; of kind KindInvalid or KindTooLarge
// when what was asked for or written is refused for good; and it passes through the context's error, for errors.Is, when
// the context ended. Errors that nobody foresaw are of kind KindUnknown; trying again may help.
type Store interface {
	// Write stores a batch. When it returns nil, everything in it is stored durably. When it returns an error, any
	// part of it may be stored, in the order of market.Batch, and the same batch may be written again: writing is
	// idempotent. A batch that holds a record which Batch.Validate refuses is refused whole, with its error of kind
	// KindInvalid. The store itself may refuse a record for good, too; then none of the same kind behind it is stored.
	//
	// Blocks and keyframes: one whose key is there already changes nothing. Spans: those with one key merge, with the
	// least Start, the greatest LastID and End, and the PrevID of the first. Gaps: those with one key merge as Gap.Merge
	// says. Listings and statuses: a write replaces what is not newer (UpdatedAt).
	//
	// The store neither keeps nor changes the batch.
	Write(ctx context.Context, batch *market.Batch) error

	// Ping returns nil when the store answers and, unless it was opened for reading only, can be written to.
	Ping(ctx context.Context) error

	// Tail returns the last block of a series in the order of keys, without Data, or an error of kind KindNotFound.
	Tail(ctx context.Context, series market.Series) (market.Block, error)

	// Blocks returns the selected blocks, or none. A Limit below 1 is an error of kind KindInvalid.
	Blocks(ctx context.Context, query market.BlockQuery) ([]market.Block, error)

	// BlockByID returns the block with the least LastID at or above id (of several, any), without Data, or an error of
	// kind KindNotFound.
	BlockByID(ctx context.Context, series market.Series, id int64) (market.Block, error)

	// Keyframe returns the last keyframe, by EventTime and then UpdateID, with an EventTime at or before at, or an
	// error of kind KindNotFound.
	Keyframe(ctx context.Context, m market.Market, at market.Time) (market.Keyframe, error)

	// Spans returns at most limit spans of a series that overlap [from, to), ordered by Start and then by FirstID. Both
	// ends of a span belong to it: Start < to and End >= from. A limit below 1 is an error of kind KindInvalid.
	Spans(ctx context.Context, series market.Series, from, to market.Time, limit int) ([]market.Span, error)

	// Gaps returns the selected gaps, ordered by Start, FirstID, stream and cause, or none. A gap lasts from the earlier of
	// Start and End to the later, which belongs to it: where the exchange's clock stepped back, End is the earlier. It is
	// selected when it begins before To and does not end before From. An open one (End is 0) lasts from Start on. A Limit
	// below 1 is an error of kind KindInvalid.
	Gaps(ctx context.Context, query market.GapQuery) ([]market.Gap, error)

	// Listings returns every listing, ordered by market.
	Listings(ctx context.Context) ([]market.Listing, error)

	// Recorders returns the status of every recorder, ordered by name.
	Recorders(ctx context.Context) ([]market.RecorderStatus, error)

	// Close lets go of the store's resources. It waits for calls in flight at most as long as ctx lasts.
	Close(ctx context.Context) error
}
