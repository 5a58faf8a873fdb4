package api

import (
	"testing"
	"time"

	"tapedeck/functions/internal/historytest"
	"tapedeck/shared/market"
	"tapedeck/shared/recording/witness"
	"tapedeck/shared/storetest"
)

func benchmark(b *testing.B, endpoint Endpoint, event string, parallel bool) {
	store := storetest.NewMemory()
	historytest.Recording(b, store, nil)
	h := NewHandler(endpoint, opened{reader: store})
	payload := []byte(event)
	var size int
	b.ReportAllocs()
	if parallel {
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, err := h.Invoke(b.Context(), payload); err != nil {
					b.Fatal(err)
				}
			}
		})
		return
	}
	for b.Loop() {
		out, err := h.Invoke(b.Context(), payload)
		if err != nil {
			b.Fatal(err)
		}
		size = len(out)
	}
	b.ReportMetric(float64(size), "bytes")
}

// BenchmarkBookAt answers for an instant just before a keyframe is due, with 128 blocks of 10 recorded updates to
// replay and 1000 levels a side to encode: all that happens between the gateway's event and the response but the store.
func BenchmarkBookAt(b *testing.B) {
	const applied = 128*10 - 1
	events, err := witness.Load()
	if err != nil {
		b.Fatal(err)
	}
	var at market.Time
	n := 0
	for _, u := range events.Updates {
		if u.LastID > events.Snapshot.LastID {
			if n++; n == applied {
				at = u.EventTime
			}
		}
	}
	event := `{"pathParameters":{"exchange":"binance","symbol":"BTCUSDT"},"queryStringParameters":{"depth":"1000","at":"` +
		at.Std().Format(time.RFC3339Nano) + `"}}`
	b.Run("serial", func(b *testing.B) { benchmark(b, Book, event, false) })
	b.Run("parallel", func(b *testing.B) { benchmark(b, Book, event, true) })
}

// BenchmarkTradesPage answers with a page of 1000 trades from the middle of the recording.
func BenchmarkTradesPage(b *testing.B) {
	events, err := witness.Load()
	if err != nil {
		b.Fatal(err)
	}
	middle := events.Trades[len(events.Trades)/2].EventTime
	benchmark(b, Trades, `{"pathParameters":{"exchange":"binance","symbol":"BTCUSDT"},"queryStringParameters":{"start":"`+
		middle.Std().Format(time.RFC3339Nano)+`"}}`, false)
}
