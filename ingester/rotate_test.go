package main

import (
	"maps"
	"strings"
	"testing"

	"tapedeck/localstack/exchange"
	"tapedeck/shared/market"
)

// TestRotateConnections replaces every connection again and again while markets are busy: nothing is missing, and what
// came twice is stored once.
func TestRotateConnections(t *testing.T) {
	for name, c := range map[string]struct {
		env       map[string]string
		rotations float64
	}{
		"one connection":  {map[string]string{"FEED_CONNECTIONS": "1"}, 4},
		"two connections": {map[string]string{"FEED_CONNECTIONS": "2"}, 6},
	} {
		t.Run(name, func(t *testing.T) {
			symbols := exchange.SymbolNames(3)
			source, err := exchange.NewSynthetic(exchange.SyntheticConfig{Symbols: symbols, Seed: 5, Levels: 200})
			server := startExchange(t, source, err, exchange.WithSpeed(2))
			env := map[string]string{
				"SYMBOLS": strings.Join(symbols, ","), "SNAPSHOT_LIMIT": "1000", "FLUSH_INTERVAL": "50ms",
				"ROTATE_AFTER": "1s", "ROTATE_OVERLAP": "300ms", "BACKPRESSURE": "false",
			}
			maps.Copy(env, c.env)
			r := start(t, server, env)
			r.until("start", r.ready)
			r.until("rotations", func() bool {
				return r.metricBy("tapedeck_rotations_total", "result")["replaced"] >= c.rotations
			})
			for _, name := range []string{"tapedeck_gaps_total", "tapedeck_reconnects_total", "tapedeck_frames_dropped_total"} {
				if v := r.metric(name); v != 0 {
					t.Errorf("the metric %s is %v", name, v)
				}
			}
			if err := r.stop(); err != nil {
				t.Fatal(err)
			}
			store := r.open()
			for _, symbol := range symbols {
				got := read(t, store, market.Market{Exchange: market.Binance, Symbol: symbol})
				if len(got.gaps) != 0 || len(got.spans) != 1 {
					t.Errorf("%s: gaps %+v, spans %+v", symbol, got.gaps, got.spans)
				}
			}
		})
	}
}
