package tape

import "tapedeck/shared/market"

// DepthBuilder gathers depth updates of one market into a block. It belongs to one goroutine, keeps its memory between
// blocks, and allocates nothing once it has grown. The zero value is ready.
type DepthBuilder struct{}

// Append copies u into the block. The caller keeps to the bounds of market (MaxBlockEvents, BlockWindow).
func (b *DepthBuilder) Append(u *market.DepthUpdate) {}

// Len returns the number of events gathered.
func (b *DepthBuilder) Len() int { return 0 }

// Levels returns the number of levels gathered.
func (b *DepthBuilder) Levels() int { return 0 }

// Finish returns the block without its Series and SpanID, freshly allocated (the caller owns it), and empties the
// builder. It panics on an empty builder.
func (b *DepthBuilder) Finish() market.Block { return market.Block{} }

// TradeBuilder gathers trades of one market into a block; see DepthBuilder.
type TradeBuilder struct{}

// Append copies t into the block.
func (b *TradeBuilder) Append(t *market.Trade) {}

// Len returns the number of events gathered.
func (b *TradeBuilder) Len() int { return 0 }

// Finish returns the block without its Series and SpanID, freshly allocated (the caller owns it), and empties the
// builder. It panics on an empty builder.
func (b *TradeBuilder) Finish() market.Block { return market.Block{} }

// EncodeBook encodes the levels of a book, each side best first, for Keyframe.Data. The result is freshly allocated.
func EncodeBook(bids, asks []market.Level) []byte { return nil }

// Decoder decodes blocks and keyframes. It belongs to one goroutine and keeps its memory between calls; what a call
// returns is valid until the next call of the same Decoder. The zero value is ready.
type Decoder struct{}

// Depth decodes the data of a block of depth updates, in the order in which they were appended.
func (d *Decoder) Depth(data []byte) ([]market.DepthUpdate, error) { return nil, nil }

// Trades decodes the data of a block of trades, in the order in which they were appended.
func (d *Decoder) Trades(data []byte) ([]market.Trade, error) { return nil, nil }

// Book decodes the data of a keyframe: each side best first.
func (d *Decoder) Book(data []byte) (bids, asks []market.Level, err error) { return nil, nil, nil }
