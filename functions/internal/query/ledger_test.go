package query_test

import (
	"slices"
	"testing"

	"tapedeck/functions/internal/historytest"
	"tapedeck/functions/internal/query"
	"tapedeck/shared/market"
	"tapedeck/shared/storetest"
)

// TestLedgerPagesOverAStep has the exchange's clock step back from second 900 to 500, and holes at 800 and 950.
func TestLedgerPagesOverAStep(t *testing.T) {
	store := storetest.NewMemory()
	entry := func(cause market.Cause, id int64, from, to int) market.Gap {
		return market.Gap{
			Series: depthOfBTCUSDT, Cause: cause, FirstID: id, LastID: id, Start: second(from), End: second(to),
			DetectedAt: 1, RepairedAt: 1, Repair: market.RepairResumed,
		}
	}
	const sequence, clock = market.CauseSequence, market.CauseClock
	write(t, store, market.Batch{Gaps: []market.Gap{
		entry(sequence, 5, 800, 801), entry(clock, 10, 900, 500), entry(sequence, 10, 900, 901), entry(sequence, 15, 950, 951),
	}})
	s := query.New(store, clockAt(10_000))
	for _, c := range []struct {
		name       string
		start, end market.Time
		want       []market.Cause
	}{
		{"all", 0, 0, []market.Cause{sequence, clock, sequence, sequence}},
		{"from before the step", second(850), 0, []market.Cause{clock, sequence, sequence}},
		{"shown twice", second(600), second(700), []market.Cause{clock}},
		{"behind", second(902), 0, []market.Cause{sequence}},
		{"before", 0, second(500), nil},
	} {
		for _, limit := range []int{1, 2, 100} {
			q := query.GapsQuery{
				RangeQuery: query.RangeQuery{Market: historytest.BTCUSDT, Start: c.start, End: c.end}, Limit: limit,
			}
			gaps, err := allGaps(t, s, q)
			if (err != nil) != (c.want == nil) { // nothing else is known of the market
				t.Fatalf("%s: %v", c.name, err)
			}
			var got []market.Cause
			for _, g := range gaps {
				got = append(got, g.Cause)
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("%s, in pages of %d: %v, want %v", c.name, limit, got, c.want)
			}
		}
	}
}

// allGaps returns the entries of all pages.
func allGaps(t *testing.T, s *query.Service, q query.GapsQuery) (all []market.Gap, err error) {
	t.Helper()
	for {
		gaps, next, err := s.Gaps(t.Context(), q)
		if all = append(all, gaps...); err != nil || next == nil {
			return all, err
		}
		q.After = next
	}
}

// TestEntryThatNobodyClosed has two recorders, one of which was killed in a hole.
func TestEntryThatNobodyClosed(t *testing.T) {
	type span struct {
		start, end int // seconds
		state      query.CoverageState
	}
	for _, c := range []struct {
		name   string
		missed int64 // ids 31 to 31 + missed - 1 by the other as well
		want   []span
	}{
		{"the other missed nothing", 0, []span{{1, 50, query.Available}}},
		{"the other missed something there", 4, []span{{1, 20, query.Available}, {20, 25, query.Missing}, {25, 50, query.Available}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			store := storetest.NewMemory()
			w := historytest.NewWriter(t, store, historytest.BTCUSDT)
			for i := range 50 {
				if id := int64(11 + i); id <= 30 || id > 30+c.missed {
					w.Trade(tradeAt(id, 1+i))
				} else {
					w.BreakTrades()
				}
			}
			w.CutTrades()
			if c.missed > 0 { // it began before the killed one's
				w.Gap(market.Gap{
					Series: tradesOfBTCUSDT, Cause: market.CauseDisconnect, FirstID: 31, LastID: 30 + c.missed, Start: second(20),
					End: second(21 + int(c.missed)), RepairedAt: 1, Repair: market.RepairResumed,
				})
			}
			w.Gap(market.Gap{Series: tradesOfBTCUSDT, Cause: market.CauseDisconnect, FirstID: 32, LastID: 31, Start: second(21)})
			write(t, store, alive(100, 99, 60))
			s := query.New(store, clockAt(100))
			spans, _, err := s.Coverage(t.Context(), query.RangeQuery{Market: historytest.BTCUSDT, Stream: market.Trades})
			if err != nil {
				t.Fatal(err)
			}
			var got []span
			for _, p := range spans {
				got = append(got, span{int((p.Start - second(0)) / 1e9), int((p.End - second(0)) / 1e9), p.State})
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("%v, want %v", got, c.want)
			}
			for _, q := range []query.TradesQuery{{Start: second(30)}, {Start: second(30), End: second(40)}, {FromID: 40}} {
				checkStrict(t, store, 100, q, false, 0, 0)
			}
			if page, err := s.Trades(t.Context(), query.TradesQuery{
				Market: historytest.BTCUSDT, Start: second(10), End: second(40), Limit: 100, Strict: true,
			}); (err != nil) != (c.missed > 0) {
				t.Errorf("over the hole: %+v, %v", page, err)
			}
		})
	}
}

// TestEntryStillOpen has the only recorder in a hole.
func TestEntryStillOpen(t *testing.T) {
	store := storetest.NewMemory()
	w := historytest.NewWriter(t, store, historytest.BTCUSDT)
	for i := range 5 {
		w.Trade(tradeAt(int64(1+i), 1+i))
	}
	w.CutTrades()
	w.Gap(market.Gap{Series: tradesOfBTCUSDT, Cause: market.CauseDisconnect, FirstID: 6, LastID: 5, Start: second(5)})
	write(t, store, alive(100, 99, 5))
	for _, q := range []query.TradesQuery{{Start: second(1)}, {FromID: 1}, {FromID: 6}} {
		checkStrict(t, store, 100, q, true, second(5), 0)
	}
	checkStrict(t, store, 100, query.TradesQuery{FromID: 1, Limit: 3}, false, 0, 0)
}
