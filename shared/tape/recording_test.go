package tape

import (
	"reflect"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tapedeck/shared/book"
	"tapedeck/shared/market"
	"tapedeck/shared/recording/witness"
)

// chunks cuts events into blocks as a recorder does: by aligned windows of event time.
func chunks[E any](events []E, at func(*E) market.Time) (out [][]E) {
	from := 0
	for i := range events {
		if at(&events[i]).Truncate(market.BlockWindow) != at(&events[from]).Truncate(market.BlockWindow) {
			out = append(out, events[from:i])
			from = i
		}
	}
	return append(out, events[from:])
}

func updateTime(u *market.DepthUpdate) market.Time { return u.EventTime }
func tradeTime(t *market.Trade) market.Time        { return t.EventTime }

func load(t testing.TB) *witness.Events {
	t.Helper()
	events, err := witness.Load()
	if err != nil {
		t.Fatal(err)
	}
	return events
}

func TestRecordingRoundTrip(t *testing.T) {
	rec := load(t)
	var d Decoder
	for _, chunk := range chunks(rec.Updates, updateTime) {
		got, err := d.Depth(encodeDepth(chunk).Data)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.EqualFunc(chunk, got, sameUpdate) {
			t.Fatalf("(-in +out)\n%s", cmp.Diff(chunk, got, sameEvents))
		}
	}
	for _, chunk := range chunks(rec.Trades, tradeTime) {
		got, err := d.Trades(encodeTrades(chunk).Data)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(chunk, got) {
			t.Fatalf("(-in +out)\n%s", cmp.Diff(chunk, got))
		}
	}
}

// sameUpdate compares what cmp would take half a minute for, with the race detector.
func sameUpdate(a, b market.DepthUpdate) bool {
	same := slices.Equal(a.Bids, b.Bids) && slices.Equal(a.Asks, b.Asks)
	a.Bids, a.Asks, b.Bids, b.Asks = nil, nil, nil, nil
	return same && reflect.DeepEqual(a, b)
}

// keyframeBlocks is how many blocks an ingester lets pass between two keyframes by default.
const keyframeBlocks = 128

// BenchmarkDepth encodes and decodes the recorded updates in blocks of a second. bytes/event counts blocks alone,
// bytes/event+key the keyframes too.
func BenchmarkDepth(b *testing.B) {
	rec := load(b)
	blocks := chunks(rec.Updates, updateTime)
	perEvent := func(b *testing.B, runs int) {
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(runs*len(rec.Updates)), "ns/event")
	}
	var encoded [][]byte
	size := 0
	for _, block := range blocks {
		encoded = append(encoded, encodeDepth(block).Data)
		size += len(encoded[len(encoded)-1])
	}
	b.Run("encode", func(b *testing.B) {
		b.ReportAllocs()
		var builder DepthBuilder
		runs := 0
		for b.Loop() {
			for _, block := range blocks {
				for i := range block {
					builder.Append(&block[i])
				}
				builder.Finish()
			}
			runs++
		}
		perEvent(b, runs)
		b.ReportMetric(float64(size)/float64(len(rec.Updates)), "bytes/event")
		b.ReportMetric(float64(size+keyframeBytes(rec))/float64(len(rec.Updates)), "bytes/event+key")
	})
	b.Run("decode", func(b *testing.B) {
		b.ReportAllocs()
		var d Decoder
		runs := 0
		for b.Loop() {
			for _, data := range encoded {
				if _, err := d.Depth(data); err != nil {
					b.Fatal(err)
				}
			}
			runs++
		}
		perEvent(b, runs)
	})
}

// keyframeBytes returns the size of all keyframes that an ingester would write.
func keyframeBytes(rec *witness.Events) int {
	bk := book.New()
	bk.Reset(rec.Snapshot.LastID, rec.Snapshot.Bids, rec.Snapshot.Asks)
	size := len(EncodeBook(rec.Snapshot.Bids, rec.Snapshot.Asks))
	for i, block := range chunks(rec.Updates, updateTime) {
		for j := range block {
			bk.Apply(&block[j])
		}
		if (i+1)%keyframeBlocks == 0 {
			size += len(EncodeBook(bk.AppendBids(nil, -1), bk.AppendAsks(nil, -1)))
		}
	}
	return size
}

func BenchmarkTrades(b *testing.B) {
	rec := load(b)
	blocks := chunks(rec.Trades, tradeTime)
	var encoded [][]byte
	size := 0
	for _, block := range blocks {
		encoded = append(encoded, encodeTrades(block).Data)
		size += len(encoded[len(encoded)-1])
	}
	b.Run("encode", func(b *testing.B) {
		b.ReportAllocs()
		runs := 0
		var builder TradeBuilder
		for b.Loop() {
			for _, block := range blocks {
				for i := range block {
					builder.Append(&block[i])
				}
				builder.Finish()
			}
			runs++
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(runs*len(rec.Trades)), "ns/event")
		b.ReportMetric(float64(size)/float64(len(rec.Trades)), "bytes/event")
	})
	b.Run("decode", func(b *testing.B) {
		b.ReportAllocs()
		runs := 0
		var d Decoder
		for b.Loop() {
			for _, data := range encoded {
				if _, err := d.Trades(data); err != nil {
					b.Fatal(err)
				}
			}
			runs++
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(runs*len(rec.Trades)), "ns/event")
	})
}

func BenchmarkBook(b *testing.B) {
	rec := load(b)
	bk := book.New()
	bk.Reset(rec.Snapshot.LastID, rec.Snapshot.Bids, rec.Snapshot.Asks)
	for i := range rec.Updates {
		bk.Apply(&rec.Updates[i])
	}
	bids, asks := bk.AppendBids(nil, -1), bk.AppendAsks(nil, -1)
	data := EncodeBook(bids, asks)
	b.Run("encode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			EncodeBook(bids, asks)
		}
		b.ReportMetric(float64(len(data))/float64(len(bids)+len(asks)), "bytes/level")
	})
	b.Run("decode", func(b *testing.B) {
		b.ReportAllocs()
		var d Decoder
		for b.Loop() {
			if _, _, err := d.Book(data); err != nil {
				b.Fatal(err)
			}
		}
	})
}
