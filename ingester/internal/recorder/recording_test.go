package recorder_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tapedeck/ingester/internal/recorder"
	"tapedeck/shared/binance"
	"tapedeck/shared/book"
	"tapedeck/shared/market"
	"tapedeck/shared/recording"
	"tapedeck/shared/recording/witness"
	"tapedeck/shared/storetest"
	"tapedeck/shared/tape"
)

// memorySink writes straight into a store in memory.
type memorySink struct{ *storetest.Memory }

func (s memorySink) Put(ctx context.Context, b *market.Batch, _ market.Time) bool {
	return s.Write(ctx, b) == nil
}

func (memorySink) Save(market.Block, market.Time) bool { return true }

func (memorySink) Settled(context.Context) error { return nil }

// neverShown are the two updates of the bundled recordings after which the best bid and ask were never shown by
// bookTicker, which is conflated.
var neverShown = []int64{50093478174, 50093480542}

// TestBundledRecordings records two real recordings, reads the store back, and holds the rebuilt book against the known
// results and, after every single update, against the exchange's own best bid and ask.
func TestBundledRecordings(t *testing.T) {
	reader, err := recording.Open(recording.Bundled()...)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	store := storetest.NewMemory()
	registry := prometheus.NewRegistry()
	metrics := recorder.NewMetrics(registry)
	snapshots := make(chan market.Snapshot, 1)
	source := sourceFunc(func(ctx context.Context, _ market.Market) (market.Snapshot, error) {
		select {
		case s := <-snapshots:
			return s, nil
		case <-ctx.Done():
			return market.Snapshot{}, ctx.Err()
		}
	})
	inbox := recorder.NewInbox(recorder.NewMemory(8<<20, 1), true)
	r := recorder.New(btcusdt, inbox, memorySink{store}, recorder.NewSnapshots(source, source, 1000, metrics),
		recorder.Config{FlushInterval: time.Hour, KeyframeBlocks: 128, Wait: true, Witness: true},
		metrics, slog.New(slog.DiscardHandler))
	done := make(chan int, 1)
	go func() { done <- r.Run(t.Context()) }()

	tickers := replay(t, reader, inbox, snapshots)
	inbox.Close()
	if unwritten := <-done; unwritten != 0 {
		t.Fatalf("%d frames unwritten", unwritten)
	}
	deck := deck{t: t, registry: registry}
	if got := deck.events(market.Depth, "stale"); got != 2 {
		t.Errorf("%d stale updates, want 2", got)
	}
	if got := deck.metric("tapedeck_witness_mismatches_total", nil); got != len(neverShown) {
		t.Errorf("the recorder itself saw %d mismatches", got)
	}
	checkTrades(t, store)
	checkBook(t, store, tickers)
}

// replay sends all frames of a recording and returns the tickers.
func replay(t *testing.T, reader *recording.Reader, inbox *recorder.Inbox, snapshots chan<- market.Snapshot) (tickers []market.Ticker) {
	t.Helper()
	inbox.Connected(1)
	begin := market.Time(0)
	var decoder binance.Decoder
	for {
		line, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return tickers
		}
		if err != nil {
			t.Fatal(err)
		}
		event, err := decoder.Decode(line.Frame, line.RecvTime)
		if err != nil || event.Depth == nil && event.Trade == nil && event.Ticker == nil {
			s, err := binance.DecodeSnapshot(line.Frame)
			if err != nil {
				t.Fatal(err)
			}
			s.EventTime, s.RecvTime = begin, line.RecvTime
			snapshots <- s
			continue
		}
		stream := market.Stream("")
		switch {
		case event.Depth != nil:
			stream = market.Depth
			if begin == 0 {
				begin = event.Depth.EventTime
			}
		case event.Trade != nil:
			stream = market.Trades
		default:
			tickers = append(tickers, *event.Ticker)
		}
		if !inbox.Frame(t.Context(), stream, line.RecvTime, line.Frame) {
			t.Fatal("a frame was dropped")
		}
	}
}

func blocks(t *testing.T, store *storetest.Memory, of market.Series) []market.Block {
	t.Helper()
	found, err := store.Blocks(t.Context(), market.BlockQuery{Series: of, To: math.MaxInt64, Limit: math.MaxInt})
	if err != nil {
		t.Fatal(err)
	}
	for i := range found[1:] {
		if found[i+1].PrevID != found[i].LastID {
			t.Errorf("the block of %v from %d on does not follow %d", of, found[i+1].FirstID, found[i].LastID)
		}
	}
	return found
}

func checkTrades(t *testing.T, store *storetest.Memory) {
	t.Helper()
	var decoder tape.Decoder
	trades, last := 0, int64(0)
	for _, b := range blocks(t, store, tradeOf) {
		events, err := decoder.Trades(b.Data)
		if err != nil {
			t.Fatal(err)
		}
		for i := range events {
			if last != 0 && events[i].ID != last+1 {
				t.Fatalf("trade %d after %d", events[i].ID, last)
			}
			last = events[i].ID
			trades++
		}
	}
	if trades != 19904 {
		t.Errorf("%d trades, want 19904", trades)
	}
}

// checkBook rebuilds the book from the first keyframe and all blocks, and checks it against every other keyframe that
// it passes, the tickers, and the known result.
func checkBook(t *testing.T, store *storetest.Memory, tickers []market.Ticker) {
	t.Helper()
	var decoder tape.Decoder
	recorded := blocks(t, store, depthOf)
	first, err := store.Keyframe(t.Context(), btcusdt, recorded[0].Start)
	if err != nil {
		t.Fatal(err)
	}
	bids, asks, err := decoder.Book(first.Data)
	if err != nil {
		t.Fatal(err)
	}
	rebuilt := book.New()
	rebuilt.Reset(first.UpdateID, bids, asks)
	applied, keyframes, shown := 0, 0, market.Ticker{}
	var unseen []int64
	for _, b := range recorded {
		updates, err := decoder.Depth(b.Data)
		if err != nil {
			t.Fatal(err)
		}
		for i := range updates {
			if verdict := rebuilt.Apply(&updates[i]); verdict != book.Applied {
				t.Fatalf("update %d: %v", updates[i].LastID, verdict)
			}
			applied++
			for len(tickers) > 0 && tickers[0].UpdateID <= rebuilt.LastID() {
				shown, tickers = tickers[0], tickers[1:]
			}
			bid, _ := rebuilt.BestBid()
			ask, _ := rebuilt.BestAsk()
			if bid != shown.Bid || ask != shown.Ask {
				unseen = append(unseen, rebuilt.LastID())
			}
		}
		if k, err := store.Keyframe(t.Context(), btcusdt, b.End); err == nil && k.UpdateID == b.LastID {
			keyframes++
			bids, asks, err := decoder.Book(k.Data)
			if err != nil || !slices.Equal(bids, rebuilt.AppendBids(nil, -1)) || !slices.Equal(asks, rebuilt.AppendAsks(nil, -1)) {
				t.Errorf("the keyframe @%d is not the book (%v)", k.UpdateID, err)
			}
			if k.SnapshotID != first.UpdateID || k.UpdatesApplied != int64(applied) {
				t.Errorf("the proof of the keyframe @%d: %+v", k.UpdateID, k)
			}
		}
	}
	if !slices.Equal(unseen, neverShown) {
		t.Errorf("updates without a witness: %v, want %v", unseen, neverShown)
	}
	if applied != 6493 || rebuilt.LastID() != 50093696318 || rebuilt.Digest(1000) != "a64978904a861c8d" || keyframes < 3 {
		t.Errorf("%d applied up to %d, digest %s, %d later keyframes", applied, rebuilt.LastID(), rebuilt.Digest(1000), keyframes)
	}
}

// discard is a Sink that takes everything. It is not asked for what it has but for the tails.
type discard struct{ recorder.Sink }

func (discard) Put(context.Context, *market.Batch, market.Time) bool { return true }

func (discard) Save(market.Block, market.Time) bool { return true }

func (discard) Tail(context.Context, market.Series) (market.Block, error) {
	return market.Block{}, market.Errorf(market.KindNotFound, "empty")
}

// BenchmarkRecord measures the way of a frame from the inbox to the sink, on the bundled recordings: decode, book,
// blocks, and keyframes.
func BenchmarkRecord(b *testing.B) {
	events, err := witness.Load()
	if err != nil {
		b.Fatal(err)
	}
	frames := recordedFrames(b)
	source := sourceFunc(func(context.Context, market.Market) (market.Snapshot, error) {
		s := events.Snapshot
		s.EventTime = events.Updates[0].EventTime
		return s, nil
	})
	b.ReportAllocs()
	for b.Loop() {
		metrics := recorder.NewMetrics(prometheus.NewRegistry())
		inbox := recorder.NewInbox(recorder.NewMemory(8<<20, 1), true)
		r := recorder.New(btcusdt, inbox, discard{}, recorder.NewSnapshots(source, source, 1000, metrics),
			recorder.Config{FlushInterval: time.Second, KeyframeBlocks: 128, Wait: true},
			metrics, slog.New(slog.DiscardHandler))
		done := make(chan int, 1)
		go func() { done <- r.Run(b.Context()) }()
		inbox.Connected(1)
		for i := range frames {
			inbox.Frame(b.Context(), frames[i].stream, 1, frames[i].frame)
		}
		inbox.Close()
		if unwritten := <-done; unwritten != 0 {
			b.Fatalf("%d frames unwritten", unwritten)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(frames)), "ns/frame")
	b.ReportMetric(float64(b.N*len(frames))/b.Elapsed().Seconds(), "frames/s")
}

// recordedFrame is a depth or trade frame of a recording.
type recordedFrame struct {
	stream market.Stream
	frame  []byte
}

func recordedFrames(b *testing.B) (frames []recordedFrame) {
	b.Helper()
	reader, err := recording.Open(recording.Bundled()...)
	if err != nil {
		b.Fatal(err)
	}
	defer reader.Close()
	for {
		line, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return frames
		}
		if err != nil {
			b.Fatal(err)
		}
		switch {
		case bytes.Contains(line.Frame[:min(60, len(line.Frame))], []byte("@depth")):
			frames = append(frames, recordedFrame{market.Depth, bytes.Clone(line.Frame)})
		case bytes.Contains(line.Frame[:min(60, len(line.Frame))], []byte("@trade")):
			frames = append(frames, recordedFrame{market.Trades, bytes.Clone(line.Frame)})
		}
	}
}
