package verify_test

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"tapedeck/shared/book"
	"tapedeck/shared/market"
	"tapedeck/shared/storetest"
	"tapedeck/shared/tape"
)

var (
	btcusdt = market.Market{Exchange: market.Binance, Symbol: "BTCUSDT"}
	depth   = market.Series{Market: btcusdt, Stream: market.Depth}
	trades  = market.Series{Market: btcusdt, Stream: market.Trades}
)

// epoch is when histories begin.
const epoch = market.Time(1_700_000_000 * time.Second)

// recorder plays one recorder of one market: it puts what it records into a batch. Its tests say when it cuts blocks,
// loses its book and finds it again.
type recorder struct {
	batch  *market.Batch
	book   *book.Book
	proof  market.Keyframe
	synced bool

	depth   tape.DepthBuilder
	trades  tape.TradeBuilder
	windows map[market.Stream]market.Time
	spans   map[market.Stream]int // index of the open span
	last    map[market.Stream]market.Block
}

func newRecorder(batch *market.Batch) *recorder {
	return &recorder{
		batch: batch, book: book.New(), windows: map[market.Stream]market.Time{}, spans: map[market.Stream]int{},
		last: map[market.Stream]market.Block{},
	}
}

// snapshot builds the book from the exchange's, of which it gets levels a side, and stores it.
func (r *recorder) snapshot(truth *book.Book, levels int, at market.Time) {
	bids, asks := truth.AppendBids(nil, levels), truth.AppendAsks(nil, levels)
	r.synced = true
	r.book.Reset(truth.LastID(), bids, asks)
	r.proof = market.Keyframe{Market: btcusdt, SnapshotID: truth.LastID(), EventTime: at, RecvTime: at}
	if len(bids) > 0 {
		r.proof.VerifiedBid = bids[len(bids)-1].Price
	}
	if len(asks) > 0 {
		r.proof.VerifiedAsk = asks[len(asks)-1].Price
	}
	r.keyframe()
}

// keyframe stores the book.
func (r *recorder) keyframe() {
	k := r.proof
	k.UpdateID = r.book.LastID()
	k.Data = tape.EncodeBook(r.book.AppendBids(nil, -1), r.book.AppendAsks(nil, -1))
	r.batch.Keyframes = append(r.batch.Keyframes, k)
}

// update records an update, which follows the one before, or begins a span.
func (r *recorder) update(u *market.DepthUpdate) {
	if r.synced && r.book.Apply(u) == book.Applied {
		if r.proof.UpdatesApplied == 0 {
			r.proof.FirstUpdateID = u.FirstID
		}
		r.proof.UpdatesApplied++
		r.proof.EventTime, r.proof.RecvTime = u.EventTime, u.RecvTime
	}
	if window := u.EventTime.Truncate(market.BlockWindow); window != r.windows[market.Depth] {
		r.cut(market.Depth)
		r.windows[market.Depth] = window
	}
	r.depth.Append(u)
}

func (r *recorder) trade(t *market.Trade) {
	if window := t.EventTime.Truncate(market.BlockWindow); window != r.windows[market.Trades] {
		r.cut(market.Trades)
		r.windows[market.Trades] = window
	}
	r.trades.Append(t)
}

// cut ends the block of a stream, and reports whether there was one.
func (r *recorder) cut(stream market.Stream) bool {
	var b market.Block
	switch {
	case stream == market.Depth && r.depth.Len() > 0:
		b = r.depth.Finish()
	case stream == market.Trades && r.trades.Len() > 0:
		b = r.trades.Finish()
	default:
		return false
	}
	b.Series = market.Series{Market: btcusdt, Stream: stream}
	i, open := r.spans[stream]
	if !open {
		i = len(r.batch.Spans)
		r.spans[stream] = i
		r.batch.Spans = append(r.batch.Spans, market.Span{
			Series: b.Series, FirstID: b.FirstID, PrevID: b.PrevID, Start: b.Start,
		})
	}
	span := &r.batch.Spans[i]
	span.LastID, span.End = b.LastID, max(span.End, b.End)
	b.SpanID = span.FirstID
	r.last[stream] = b
	r.batch.Blocks = append(r.batch.Blocks, b)
	return true
}

// breakSpan ends the block and the span of a stream.
func (r *recorder) breakSpan(stream market.Stream) {
	r.cut(stream)
	delete(r.spans, stream)
}

// hole enters into the ledger that ids behind a block are missing.
func (r *recorder) hole(before market.Block, first, last int64, end market.Time, repair market.Repair) {
	r.batch.Gaps = append(r.batch.Gaps, market.Gap{
		Series: before.Series, Cause: market.CauseDisconnect, FirstID: first, LastID: last,
		Start: before.End, End: end, DetectedAt: end, RepairedAt: end, Repair: repair,
	})
}

// world is what happens at the exchange.
type world struct {
	book  *book.Book
	now   market.Time
	trade int64
	draw  func(label string, low, high int) int
}

func newWorld(draw func(label string, low, high int) int) *world {
	w := &world{book: book.New(), now: epoch, trade: 500, draw: draw}
	var bids, asks []market.Level
	for i := range market.Decimal(6) {
		bids = append(bids, market.Level{Price: (8 - i) * market.DecimalOne, Quantity: 1})
		asks = append(asks, market.Level{Price: (11 + i) * market.DecimalOne, Quantity: 1})
	}
	w.book.Reset(100, bids, asks)
	return w
}

// update makes the next update, of up to four ids.
func (w *world) update() market.DepthUpdate {
	w.now = w.now.Add(time.Duration(w.draw("ms", 0, 700)) * time.Millisecond)
	id := w.book.LastID()
	u := market.DepthUpdate{
		FirstID: id + 1, LastID: id + 1 + int64(w.draw("width", 0, 3)), PrevID: id,
		EventTime: w.now, RecvTime: w.now.Add(time.Second),
	}
	for range w.draw("levels", 0, 3) {
		level := market.Level{
			Price:    market.Decimal(w.draw("price", 1, 8)) * market.DecimalOne,
			Quantity: market.Decimal(w.draw("quantity", 0, 3)),
		}
		if w.draw("side", 0, 1) == 0 {
			u.Bids = append(u.Bids, level)
		} else {
			level.Price += 10 * market.DecimalOne
			u.Asks = append(u.Asks, level)
		}
	}
	w.book.Apply(&u)
	return u
}

// nextTrade makes the next trade.
func (w *world) nextTrade() market.Trade {
	w.trade++
	return market.Trade{
		ID: w.trade, EventTime: w.now, SentTime: w.now, RecvTime: w.now.Add(time.Second),
		Price: market.DecimalOne, Quantity: market.Decimal(w.draw("size", 1, 9)), Side: market.Buy, Flags: market.TradeFlagM,
	}
}

// record draws a history and what recorders keep of it: one all the time but for holes, a second one, if second, for
// parts of it.
func record(t *rapid.T, second bool) *market.Batch {
	draw := func(label string, low, high int) int { return rapid.IntRange(low, high).Draw(t, label) }
	batch := &market.Batch{}
	w := newWorld(draw)
	r := newRecorder(batch)
	r.snapshot(w.book, draw("snapshot levels", 1, 6), w.now)
	w.now++ // a market has at most one keyframe at an instant
	for i := range draw("stretches", 1, 3) {
		if i > 0 {
			w.hole(r)
		}
		w.stretch(r, second)
	}
	r.cut(market.Depth)
	r.cut(market.Trades)
	stored := slices.ContainsFunc(batch.Keyframes, func(k market.Keyframe) bool { return k.EventTime == r.proof.EventTime })
	if w.draw("last keyframe", 0, 1) == 1 && !stored {
		r.keyframe()
	}
	return batch
}

// stretch lets things happen and records them.
func (w *world) stretch(r *recorder, second bool) {
	var other *recorder
	keyframeAt := w.now
	for range w.draw("updates", 2, 14) {
		if second && other == nil && w.draw("second comes", 0, 3) == 0 {
			other = newRecorder(r.batch)
			w.now++
			other.snapshot(w.book, w.draw("snapshot levels", 1, 6), w.now)
			w.now++
		}
		u := w.update()
		recorders := []*recorder{r}
		if other != nil {
			recorders = append(recorders, other)
		}
		traded := make([]market.Trade, w.draw("trades", 0, 3))
		for i := range traded {
			traded[i] = w.nextTrade()
		}
		for _, to := range recorders {
			to.update(&u)
			for i := range traded {
				to.trade(&traded[i])
			}
			if w.draw("cut trades", 0, 3) == 0 {
				to.cut(market.Trades)
			}
			if w.draw("cut", 0, 2) == 0 && to.cut(market.Depth) && to.synced && w.draw("keyframe", 0, 1) == 0 && w.now > keyframeAt {
				keyframeAt = w.now
				to.keyframe()
			}
		}
		if other != nil && w.draw("second goes", 0, 5) == 0 {
			other.cut(market.Depth)
			other.cut(market.Trades)
			other = nil
		}
		if r.synced && w.draw("audit", 0, 9) == 0 && w.now > keyframeAt { // a snapshot takes the place of the book
			r.cut(market.Depth)
			w.now++
			r.rebase(w.book, w.draw("snapshot levels", 1, 6), w.now)
			keyframeAt = w.now
			w.now++
		}
	}
	if other != nil {
		other.cut(market.Depth)
		other.cut(market.Trades)
	}
}

// rebase stores the book anew from another snapshot, keeping the levels beyond.
func (r *recorder) rebase(truth *book.Book, levels int, at market.Time) {
	bids, asks := r.book.AppendBids(nil, -1), r.book.AppendAsks(nil, -1)
	r.snapshotWith(truth, levels, at, bids, asks)
}

func (r *recorder) snapshotWith(truth *book.Book, levels int, at market.Time, bids, asks []market.Level) {
	n := len(r.batch.Keyframes)
	r.snapshot(truth, levels, at)
	r.batch.Keyframes = r.batch.Keyframes[:n]
	for _, l := range bids {
		if l.Price < r.proof.VerifiedBid {
			bids = append(r.book.AppendBids(nil, -1), l)
			r.book.Reset(r.book.LastID(), bids, r.book.AppendAsks(nil, -1))
		}
	}
	for _, l := range asks {
		if l.Price > r.proof.VerifiedAsk {
			asks = append(r.book.AppendAsks(nil, -1), l)
			r.book.Reset(r.book.LastID(), r.book.AppendBids(nil, -1), asks)
		}
	}
	r.keyframe()
}

// hole lets things happen that nobody records, and then a snapshot, before or behind some updates that are recorded.
func (w *world) hole(r *recorder) {
	r.breakSpan(market.Depth)
	r.breakSpan(market.Trades)
	r.synced = false
	firstTrade := w.trade + 1
	for range w.draw("lost", 1, 3) {
		w.update()
	}
	missing, before := w.book.LastID(), r.last[market.Depth]
	for range w.draw("early", 0, 2) {
		u := w.update()
		r.update(&u)
	}
	r.cut(market.Depth)
	w.now = w.now.Add(time.Millisecond)
	r.hole(before, before.LastID+1, missing, w.now, market.RepairSnapshot)
	r.snapshot(w.book, w.draw("snapshot levels", 1, 6), w.now)
	w.now++
	if lost := w.draw("lost trades", 0, 3); lost > 0 && r.last[market.Trades].Events > 0 {
		w.loseTrades(r, firstTrade, lost)
	}
}

// loseTrades lets trades happen that are missing, or are fetched again.
func (w *world) loseTrades(r *recorder, first int64, lost int) {
	repair := market.RepairResumed
	if w.draw("backfill", 0, 1) == 1 {
		repair = market.RepairBackfilled
	}
	hole := newRecorder(r.batch)
	for range lost {
		t := w.nextTrade()
		if repair == market.RepairBackfilled {
			t.SentTime, t.Flags = 0, t.Flags|market.TradeFlagBackfilled
			hole.trade(&t)
		}
	}
	hole.cut(market.Trades)
	r.hole(r.last[market.Trades], first, first+int64(lost)-1, w.now, repair)
}

// store returns a store that holds a batch.
func store(tb testing.TB, batch *market.Batch) *storetest.Memory {
	tb.Helper()
	s := storetest.NewMemory()
	if err := s.Write(tb.Context(), batch); err != nil {
		tb.Fatal(err)
	}
	return s
}
