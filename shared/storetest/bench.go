package storetest

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"tapedeck/shared/market"
)

// Shape of what Bench writes: about ten depth events of 120 bytes in a block, a second of a hundred markets in a batch.
const (
	benchData    = 1200
	benchMarkets = 100
	benchSeconds = 600
)

// Bench measures a fresh store: writing, and then reading from what is there. The bytes that the store takes for a block
// beside its data are its own to measure.
func Bench(b *testing.B, s Store) {
	ctx := b.Context()
	data := make([]byte, 1<<20)
	for i := range data {
		data[i] = byte(rand.Uint32())
	}
	second := 0
	batch := func() *market.Batch {
		batch := BenchBatch(second, data)
		second++
		return batch
	}
	for range benchSeconds {
		if err := s.Write(ctx, batch()); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("Write100Blocks", func(b *testing.B) {
		for b.Loop() {
			if err := s.Write(ctx, batch()); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(benchMarkets*b.N)/b.Elapsed().Seconds(), "blocks/s")
	})
	again := batch()
	b.Run("Write100BlocksAgain", func(b *testing.B) { // as after an answer that was lost, or beside another recorder
		for b.Loop() {
			if err := s.Write(ctx, again); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(benchMarkets*b.N)/b.Elapsed().Seconds(), "blocks/s")
	})
	series := benchSeries(7)
	read := func(name string, f func(at market.Time, id int64) error) {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				i := int64(rand.IntN(benchSeconds - 128))
				if err := f(t0+market.Time(i)*market.Time(market.BlockWindow), 50093696318+100*i); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	read("Read128Blocks", func(at market.Time, _ int64) error {
		_, err := s.Blocks(ctx, market.BlockQuery{Series: series, From: at, To: always, Limit: 128})
		return err
	})
	read("Read128BlocksBounded", func(at market.Time, _ int64) error {
		to := at + 128*market.Time(market.BlockWindow)
		blocks, err := s.Blocks(ctx, market.BlockQuery{Series: series, From: at, To: to, Limit: 1000})
		if err == nil && len(blocks) != 128 {
			err = fmt.Errorf("%d blocks", len(blocks))
		}
		return err
	})
	read("Keyframe", func(at market.Time, _ int64) error {
		_, err := s.Keyframe(ctx, series.Market, at)
		return err
	})
	read("BlockByID", func(_ market.Time, id int64) error {
		_, err := s.BlockByID(ctx, series, id)
		return err
	})
	read("Tail", func(market.Time, int64) error {
		_, err := s.Tail(ctx, series)
		return err
	})
}

// BenchBatch returns the blocks of one second of a hundred markets, with random data out of the given, and now and then
// a keyframe.
func BenchBatch(n int, data []byte) *market.Batch {
	var batch market.Batch
	at := t0 + market.Time(n)*second
	for i := range benchMarkets {
		from := rand.IntN(len(data) - 2*benchData)
		block := block(benchSeries(i), at+market.Time(rand.IntN(1e6)), 50093696318+100*int64(n), 50093696318+100*int64(n)+99)
		block.SpanID = 50093696318
		block.Data = data[from : from+benchData/2+rand.IntN(benchData)]
		batch.Blocks = append(batch.Blocks, block)
		batch.Spans = append(batch.Spans, span(benchSeries(i), t0, block.End, 50093696318, block.LastID))
		if n%10 == 0 {
			k := keyframe(benchSeries(i).Market, at, block.LastID)
			batch.Keyframes = append(batch.Keyframes, k)
		}
	}
	return &batch
}

func benchSeries(i int) market.Series {
	m := market.Market{Exchange: market.Binance, Symbol: fmt.Sprintf("B%02dUSDT", i)}
	return market.Series{Market: m, Stream: market.Depth}
}
