// Package historytest writes histories of a market into a store, as a recorder would, for the tests of the read side.
package historytest

import (
	"testing"

	"tapedeck/shared/book"
	"tapedeck/shared/market"
	"tapedeck/shared/recording/witness"
	"tapedeck/shared/storetest"
	"tapedeck/shared/tape"
)

// BTCUSDT is the market of the bundled recordings.
var BTCUSDT = market.Market{Exchange: market.Binance, Symbol: "BTCUSDT"}

// Writer plays one recorder of one market. A test writes snapshots, updates and trades in the order of their ids, and
// cuts blocks where it likes; a block that would leave its window is cut before.
type Writer struct {
	tb     testing.TB
	store  *storetest.Memory
	market market.Market

	Book      *book.Book
	proof     market.Keyframe
	depth     tape.DepthBuilder
	trades    tape.TradeBuilder
	window    market.Time
	last      int64 // of the updates gathered
	tradeTime market.Time
	spans     map[market.Stream]market.Span
}

// NewWriter returns a writer into store.
func NewWriter(tb testing.TB, store *storetest.Memory, m market.Market) *Writer {
	return &Writer{tb: tb, store: store, market: m, Book: book.New(), spans: make(map[market.Stream]market.Span)}
}

func (w *Writer) write(batch *market.Batch) {
	w.tb.Helper()
	if err := w.store.Write(w.tb.Context(), batch); err != nil {
		w.tb.Fatal(err)
	}
}

// Snapshot starts the book anew. It writes the keyframe. The next update begins a span, unless it continues one.
func (w *Writer) Snapshot(s *market.Snapshot) {
	w.tb.Helper()
	w.CutDepth()
	w.Book.Reset(s.LastID, s.Bids, s.Asks)
	w.proof = market.Keyframe{Market: w.market, SnapshotID: s.LastID, EventTime: s.EventTime, RecvTime: s.RecvTime}
	if len(s.Bids) > 0 {
		w.proof.VerifiedBid = s.Bids[len(s.Bids)-1].Price
	}
	if len(s.Asks) > 0 {
		w.proof.VerifiedAsk = s.Asks[len(s.Asks)-1].Price
	}
	w.Keyframe()
}

// Keyframe writes the book as it is; the caller has cut.
func (w *Writer) Keyframe() {
	w.tb.Helper()
	k := w.proof
	k.UpdateID = w.Book.LastID()
	k.Data = tape.EncodeBook(w.Book.AppendBids(nil, -1), w.Book.AppendAsks(nil, -1))
	w.write(&market.Batch{Keyframes: []market.Keyframe{k}})
}

// Step writes the block, and the book as it is with the time to which the exchange's clock steps back behind it.
func (w *Writer) Step(to market.Time) {
	w.tb.Helper()
	w.CutDepth()
	w.proof.EventTime = to
	w.Keyframe()
}

// Unapplied gathers an update into the block that came when there was no book: behind a hole, before the snapshot.
func (w *Writer) Unapplied(u *market.DepthUpdate) {
	w.tb.Helper()
	w.gather(u)
}

func (w *Writer) gather(u *market.DepthUpdate) {
	w.tb.Helper()
	window := u.EventTime.Truncate(market.BlockWindow)
	if window != w.window || u.PrevID > w.last {
		w.CutDepth()
	}
	w.window, w.last = window, u.LastID
	w.depth.Append(u)
}

// Gap writes an entry of the ledger. Its series' stream is given, its market is the writer's.
func (w *Writer) Gap(g market.Gap) {
	w.tb.Helper()
	g.Series.Market = w.market
	w.write(&market.Batch{Gaps: []market.Gap{g}})
}

// Depth applies an update and gathers it into the block. It reports whether the update was applied.
func (w *Writer) Depth(u *market.DepthUpdate) bool {
	w.tb.Helper()
	switch w.Book.Apply(u) {
	case book.Stale:
		return false
	case book.Gap:
		w.tb.Fatalf("update %d to %d does not follow %d", u.FirstID, u.LastID, w.Book.LastID())
	case book.Applied:
	}
	w.gather(u)
	if w.proof.UpdatesApplied == 0 {
		w.proof.FirstUpdateID = u.FirstID
	}
	w.proof.UpdatesApplied++
	w.proof.EventTime, w.proof.RecvTime = u.EventTime, u.RecvTime
	return true
}

// Trade gathers a trade into the block.
func (w *Writer) Trade(t *market.Trade) {
	w.tb.Helper()
	if window := t.EventTime.Truncate(market.BlockWindow); window != w.tradeTime {
		w.CutTrades()
		w.tradeTime = window
	}
	w.trades.Append(t)
}

// CutDepth writes the gathered updates as a block, if there are any, and reports whether there were.
func (w *Writer) CutDepth() bool {
	w.tb.Helper()
	if w.depth.Len() == 0 {
		return false
	}
	w.block(market.Depth, w.depth.Finish())
	return true
}

// CutTrades writes the gathered trades as a block, if there are any.
func (w *Writer) CutTrades() {
	w.tb.Helper()
	if w.trades.Len() > 0 {
		w.block(market.Trades, w.trades.Finish())
	}
}

// BreakTrades ends the span of trades: the next trade begins another.
func (w *Writer) BreakTrades() {
	w.tb.Helper()
	w.CutTrades()
	delete(w.spans, market.Trades)
}

func (w *Writer) block(stream market.Stream, b market.Block) {
	w.tb.Helper()
	b.Series = market.Series{Market: w.market, Stream: stream}
	span, ok := w.spans[stream]
	if !ok || b.PrevID > span.LastID {
		span = market.Span{Series: b.Series, FirstID: b.FirstID, PrevID: b.PrevID, Start: b.Start}
	}
	span.LastID, span.End = b.LastID, max(span.End, b.End)
	w.spans[stream] = span
	b.SpanID = span.FirstID
	w.write(&market.Batch{Blocks: []market.Block{b}, Spans: []market.Span{span}})
}

// Recording writes the bundled recording of BTCUSDT into store, in blocks of 10 updates or trades and with a keyframe
// every 128 blocks. It calls each, if not nil, with every update applied and the book after it.
func Recording(tb testing.TB, store *storetest.Memory, each func(*market.DepthUpdate, *book.Book)) {
	tb.Helper()
	const blockEvents, keyframeBlocks = 10, 128
	events, err := witness.Load()
	if err != nil {
		tb.Fatal(err)
	}
	w := NewWriter(tb, store, BTCUSDT)
	snapshot := events.Snapshot
	for _, u := range events.Updates {
		if u.LastID <= snapshot.LastID {
			snapshot.EventTime = u.EventTime // the recording has no time for it
		}
	}
	w.Snapshot(&snapshot)
	applied, blocks := 0, 0
	for i := range events.Updates {
		u := &events.Updates[i]
		if !w.Depth(u) {
			continue
		}
		if each != nil {
			each(u, w.Book)
		}
		if applied++; applied%blockEvents == 0 && w.CutDepth() {
			if blocks++; blocks%keyframeBlocks == 0 {
				w.Keyframe()
			}
		}
	}
	w.CutDepth()
	for i := range events.Trades {
		if i%blockEvents == 0 {
			w.CutTrades()
		}
		w.Trade(&events.Trades[i])
	}
	w.CutTrades()
}
