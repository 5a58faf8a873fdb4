package storetest

import (
	"fmt"
	"testing"

	"tapedeck/shared/market"
)

// maxSteps bounds RunInterrupted.
const maxSteps = 50

// RunInterrupted lets a write be given up at each of its steps in turn, as a crash does it, and holds what s then has
// stored against the promises of market.Batch. Afterwards the same batch is written again, and everything is there.
//
// The function write writes a batch to where s reads, and gives up at a step, counted from 0; what it wrote before may
// stay. It returns nil when the batch was written before that step came. RunInterrupted returns the number of steps.
func RunInterrupted(t *testing.T, s Store, write func(step int, batch *market.Batch) error) (steps int) {
	for step := range maxSteps {
		// Markets of its own for each step, so that one store serves all.
		m := market.Market{Exchange: market.Binance, Symbol: fmt.Sprintf("STEP%dUSDT", step)}
		depth, trades := market.Series{Market: m, Stream: market.Depth}, market.Series{Market: m, Stream: market.Trades}
		before, batch := holed(depth, trades)
		model := NewMemory()
		mustWrite(t, s, before)
		mustWrite(t, model, before, batch)
		err := write(step, batch)
		for _, series := range []market.Series{depth, trades} {
			wantHonest(t, s, step, series)
		}
		if err == nil {
			sameSeries(t, model, s, depth, trades)
			return step
		}
		mustWrite(t, s, batch)
		sameSeries(t, model, s, depth, trades)
	}
	t.Fatalf("the batch was not written in %d steps", maxSteps)
	return maxSteps
}

// holed returns what is stored, and a batch that follows: behind a hole in each series, of which it holds the entry, and
// with trades for a hole that was stored before, of which it says that it is filled.
func holed(depth, trades market.Series) (before, batch *market.Batch) {
	filled := repaired(gap(trades, t0, 0, 10, 19), t0+second)
	filled.Repair = market.RepairResumed
	before = &market.Batch{
		Blocks: []market.Block{block(depth, t0, 1, 9), block(trades, t0, 1, 9), block(trades, t0+second, 20, 29)},
		Spans:  []market.Span{span(depth, t0, t0+1, 1, 9), span(trades, t0, t0+1, 1, 9), span(trades, t0+second, t0+second+1, 20, 29)},
		Gaps:   []market.Gap{filled},
	}
	filled.Repair = market.RepairBackfilled
	behind := func(series market.Series, first int64) (g market.Gap, blocks []market.Block, s market.Span) {
		g = repaired(gap(series, t0+second, 0, first, first+9), t0+3*second)
		blocks = []market.Block{
			block(series, t0+3*second, first+10, first+19), block(series, t0+4*second, first+20, first+29),
		}
		for i := range blocks {
			blocks[i].SpanID = first + 10
		}
		return g, blocks, span(series, t0+3*second, t0+4*second, first+10, first+29)
	}
	ofDepth, depthBlocks, depthSpan := behind(depth, 10)
	ofTrades, tradeBlocks, tradeSpan := behind(trades, 30)
	again := block(trades, t0+second, 10, 19)
	batch = &market.Batch{
		Blocks:    append(append(depthBlocks, tradeBlocks...), again),
		Keyframes: []market.Keyframe{keyframe(depth.Market, t0+3*second, 19)},
		Spans:     []market.Span{depthSpan, tradeSpan, span(trades, t0+second, t0+second+1, 10, 19)},
		Gaps:      []market.Gap{filled, ofDepth, ofTrades},
		Listings:  []market.Listing{listing(depth.Market, t0, "TRADING")},
		Statuses:  []market.RecorderStatus{status(depth.Market.Symbol, t0, depth.Market)},
	}
	return before, batch
}

// wantHonest checks that no id between two blocks of a series is missing unexplained, and that neither a span nor an
// entry of the ledger says that an id is held which is not.
func wantHonest(t *testing.T, s Store, step int, series market.Series) {
	t.Helper()
	blocks, err := s.Blocks(t.Context(), market.BlockQuery{Series: series, To: always, Limit: 100})
	if err != nil {
		t.Fatal(err)
	}
	spans, err := s.Spans(t.Context(), series, 0, always, 100)
	if err != nil {
		t.Fatal(err)
	}
	gaps, err := s.Gaps(t.Context(), market.GapQuery{Market: series.Market, Stream: series.Stream, To: always, Limit: 100})
	if err != nil {
		t.Fatal(err)
	}
	held, explained := make(map[int64]bool), make(map[int64]bool)
	greatest := int64(0)
	for _, b := range blocks {
		greatest = max(greatest, b.LastID)
		for id := b.FirstID; id <= b.LastID; id++ {
			held[id] = true
		}
	}
	claim := func(what string, first, last int64) {
		for id := first; id <= last; id++ {
			if !held[id] {
				t.Errorf("given up at step %d: %v: %s claims id %d, which no block holds", step, series, what, id)
				return
			}
		}
	}
	for _, span := range spans {
		claim(fmt.Sprintf("span %d", span.FirstID), span.FirstID, span.LastID)
	}
	for _, g := range gaps {
		if g.Repair == market.RepairBackfilled {
			claim(fmt.Sprintf("entry %d", g.FirstID), g.FirstID, g.LastID)
			continue
		}
		for id := g.FirstID; id <= g.LastID; id++ {
			explained[id] = true
		}
	}
	for id := int64(1); id <= greatest; id++ {
		if !held[id] && !explained[id] {
			t.Errorf("given up at step %d: %v: id %d is missing before a block, and not in the ledger", step, series, id)
			return
		}
	}
}
