package main

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"tapedeck/localstack/exchange"
	"tapedeck/shared/recording"
)

// BenchmarkSocketToStore plays a source at full speed through a WebSocket, the ingester and the embedded store; the
// stand-in shares the process and the machine. It counts from the start of the ingester until the last record is
// stored and the store is closed.
func BenchmarkSocketToStore(b *testing.B) {
	markets := exchange.SymbolNames(10)
	for _, c := range []struct {
		name   string
		source func() (exchange.Source, error)
		env    map[string]string
	}{
		// All three recorded streams: 99,573 frames of one market, of which 6.5 % are depth updates.
		{
			"recorded", func() (exchange.Source, error) { return exchange.NewReplay(recording.Bundled()...) },
			map[string]string{"WITNESS": "true"},
		},
		// Depth and trades of ten markets, each as busy as BTCUSDT: many depth updates among few trades.
		{"synthetic", func() (exchange.Source, error) {
			return exchange.NewSynthetic(exchange.SyntheticConfig{Symbols: markets, Seed: 1, Duration: 2 * time.Minute})
		}, map[string]string{"SYMBOLS": strings.Join(markets, ","), "SNAPSHOT_LIMIT": "1000"}},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			var sent, depth atomic.Int64
			for b.Loop() {
				b.StopTimer()
				sent.Store(0)
				depth.Store(0)
				source, err := c.source()
				server := startExchange(b, source, err, exchange.WithWeightLimit(1<<30), exchange.WithObserver(func(stream string, _ []byte) {
					switch kind := stream[strings.IndexByte(stream, '@'):]; {
					case kind == "@depth@100ms":
						depth.Add(1)
						sent.Add(1)
					case kind == "@trade", kind == "@bookTicker" && c.env["WITNESS"] != "":
						sent.Add(1)
					}
				}))
				b.StartTimer()
				r := start(b, server, c.env)
				<-server.Done()
				r.until("the last frame", func() bool {
					return int64(r.metric("tapedeck_frames_total")) >= sent.Load()
				})
				if err := r.stop(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(sent.Load())*float64(b.N)/b.Elapsed().Seconds(), "frames/s")
			b.ReportMetric(float64(depth.Load()), "depth-frames")
			b.ReportMetric(float64(sent.Load()), "frames")
		})
	}
}
