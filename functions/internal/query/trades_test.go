package query_test

import (
	"errors"
	"slices"
	"testing"

	"tapedeck/functions/internal/historytest"
	"tapedeck/functions/internal/query"
	"tapedeck/shared/market"
	"tapedeck/shared/storetest"
)

var tradesOfBTCUSDT = market.Series{Market: historytest.BTCUSDT, Stream: market.Trades}

func tradeAt(id int64, n int) *market.Trade {
	return &market.Trade{ID: id, EventTime: second(n), Price: 1, Quantity: 1, Side: market.Buy}
}

// alive is the word of a recorder at second now, which follows the streams, has seen the exchange's clock show second
// shown, and that trade last.
func alive(now, shown int, lastTrade int64) market.Batch {
	return market.Batch{Statuses: []market.RecorderStatus{{
		Recorder: "a", UpdatedAt: second(now), Markets: []market.MarketStatus{{
			Market: historytest.BTCUSDT, State: market.StateSynced, LastTradeID: lastTrade,
			EventTime: second(shown), RecvTime: second(now),
		}},
	}}}
}

// TestStrictTradesNearTheEnds has trades 11 to 60 at seconds 1 to 50, and asks at second 100.
func TestStrictTradesNearTheEnds(t *testing.T) {
	following := alive(100, 99, 60)
	ahead, syncing, silent, stopped := alive(100, 99, 61), alive(100, 99, 60), alive(84, 99, 60), alive(100, 99, 60)
	syncing.Statuses[0].Markets[0].State = market.StateSyncing
	stopped.Statuses[0].Stopped = true
	nobody := market.Batch{}
	type bounds = query.TradesQuery
	for _, c := range []struct {
		name          string
		recorder      market.Batch
		q             query.TradesQuery
		refused       bool
		before, after market.Time
	}{
		{name: "within", recorder: nobody, q: bounds{Start: second(10), End: second(30)}},
		{name: "up to the last", recorder: nobody, q: bounds{Start: second(1), End: second(50)}},
		{name: "start omitted", recorder: nobody, q: bounds{End: second(30)}},
		{name: "a page, and more follow", recorder: nobody, q: bounds{FromID: 20, Limit: 5}},
		{name: "a page by time", recorder: nobody, q: bounds{Start: second(10), End: second(70), Limit: 5}},
		{name: "beyond the last", recorder: nobody, q: bounds{Start: second(10), End: second(60)}, refused: true, before: second(50)},
		{name: "the last instant", recorder: nobody, q: bounds{Start: second(10), End: second(50) + 1}, refused: true, before: second(50)},
		{name: "behind the last", recorder: nobody, q: bounds{Start: second(60), End: second(70)}, refused: true, before: second(50)},
		{name: "end omitted", recorder: nobody, q: bounds{Start: second(10)}, refused: true, before: second(50)},
		{name: "all", recorder: nobody, q: bounds{}, refused: true, before: second(50)},
		{name: "by id", recorder: nobody, q: bounds{FromID: 20}, refused: true, before: second(50)},
		{name: "an id to come", recorder: nobody, q: bounds{FromID: 61}, refused: true, before: second(50)},
		{name: "from before the first", recorder: nobody, q: bounds{Start: second(0), End: second(30)}, refused: true, after: second(1)},
		{name: "before the first", recorder: nobody, q: bounds{Start: second(-9), End: second(0)}, refused: true, after: second(1)},
		{name: "an id before the first", recorder: nobody, q: bounds{FromID: 10, Limit: 5}, refused: true, after: second(1)},
		{name: "the first id", recorder: nobody, q: bounds{FromID: 11, Limit: 5}},

		{name: "followed, beyond the last", recorder: following, q: bounds{Start: second(10), End: second(60)}},
		{name: "followed, behind the last", recorder: following, q: bounds{Start: second(60), End: second(70)}},
		{name: "followed, end omitted", recorder: following, q: bounds{Start: second(10)}},
		{name: "followed, end to come", recorder: following, q: bounds{Start: second(10), End: second(1000)}},
		{name: "followed, end just now", recorder: following, q: bounds{Start: second(10), End: second(98)}, refused: true, before: second(50)},
		{name: "followed, all", recorder: following, q: bounds{}},
		{name: "followed, by id", recorder: following, q: bounds{FromID: 20}},
		{name: "followed, an id to come", recorder: following, q: bounds{FromID: 61}},
		{name: "followed, an id far to come", recorder: following, q: bounds{FromID: 1000}},
		{name: "followed, from before the first", recorder: following, q: bounds{Start: second(0), End: second(30)}, refused: true, after: second(1)},
		{name: "followed, an id before the first", recorder: following, q: bounds{FromID: 1}, refused: true, after: second(1)},

		{name: "one is on its way, beyond", recorder: ahead, q: bounds{Start: second(10), End: second(60)}, refused: true, before: second(50)},
		{name: "one is on its way for long", recorder: ahead, q: bounds{Start: second(10)}, refused: true, before: second(50)},
		{name: "one is on its way for long, by id", recorder: ahead, q: bounds{FromID: 61}, refused: true, before: second(50)},
		{name: "a moment's delay", recorder: alive(100, 60, 61), q: bounds{Start: second(10)}},
		{name: "not connected", recorder: syncing, q: bounds{Start: second(10)}, refused: true, before: second(50)},
		{name: "silent", recorder: silent, q: bounds{Start: second(10)}, refused: true, before: second(50)},
		{name: "stopped", recorder: stopped, q: bounds{Start: second(10)}, refused: true, before: second(50)},
	} {
		t.Run(c.name, func(t *testing.T) {
			store := storetest.NewMemory()
			w := historytest.NewWriter(t, store, historytest.BTCUSDT)
			for i := range 50 {
				w.Trade(tradeAt(int64(11+i), 1+i))
			}
			w.CutTrades()
			write(t, store, c.recorder)
			checkStrict(t, store, 100, c.q, c.refused, c.before, c.after)
		})
	}
}

// checkStrict asks at a second, with a limit of 1000 where q has none.
func checkStrict(t *testing.T, store *storetest.Memory, now int, q query.TradesQuery, refused bool, before, after market.Time) {
	t.Helper()
	s := query.New(store, clockAt(now))
	q.Market = historytest.BTCUSDT
	if q.Limit == 0 {
		q.Limit = 1000
	}
	if _, err := s.Trades(t.Context(), q); err != nil {
		t.Errorf("not strict: %v", err)
	}
	q.Strict = true
	page, err := s.Trades(t.Context(), q)
	gap, ok := errors.AsType[*query.DataGap](err)
	switch {
	case ok != refused:
		t.Errorf("%+v, %v", page, err)
	case ok && (gap.Before != before || gap.After != after):
		t.Errorf("before %v, after %v; want %v, %v", gap.Before, gap.After, before, after)
	}
}

// TestStrictTradesAroundAnUnexplainedHole has trades 1 to 5 at seconds 1 to 5, 6 to 9 at seconds 11 to 14 in a span of
// their own, and 13 to 15 at seconds 21 to 23, of which the ledger knows nothing.
func TestStrictTradesAroundAnUnexplainedHole(t *testing.T) {
	store := storetest.NewMemory()
	w := historytest.NewWriter(t, store, historytest.BTCUSDT)
	for i := range 5 {
		w.Trade(tradeAt(int64(1+i), 1+i))
	}
	w.BreakTrades()
	for i := range 4 {
		w.Trade(tradeAt(int64(6+i), 11+i))
	}
	w.BreakTrades()
	for i := range 3 {
		w.Trade(tradeAt(int64(13+i), 21+i))
	}
	w.BreakTrades()
	write(t, store, alive(100, 99, 15))
	for name, c := range map[string]struct {
		q       query.TradesQuery
		refused bool
	}{
		"before":                     {q: query.TradesQuery{Start: second(1), End: second(5)}},
		"between two that belong":    {q: query.TradesQuery{Start: second(6), End: second(9)}},
		"from between":               {q: query.TradesQuery{Start: second(6), End: second(13)}},
		"to between":                 {q: query.TradesQuery{Start: second(3), End: second(8)}},
		"over two that belong":       {q: query.TradesQuery{Start: second(2), End: second(13)}},
		"into the hole":              {q: query.TradesQuery{Start: second(12), End: second(18)}, refused: true},
		"within the hole":            {q: query.TradesQuery{Start: second(16), End: second(18)}, refused: true},
		"out of the hole":            {q: query.TradesQuery{Start: second(16), End: second(22)}, refused: true},
		"over the hole":              {q: query.TradesQuery{Start: second(12), End: second(22)}, refused: true},
		"behind":                     {q: query.TradesQuery{Start: second(21), End: second(60)}},
		"by id, before":              {q: query.TradesQuery{FromID: 1, Limit: 8}},
		"by id, up to the hole":      {q: query.TradesQuery{FromID: 1, Limit: 9}, refused: true},
		"by id, over the hole":       {q: query.TradesQuery{FromID: 1}, refused: true},
		"by id, from the hole":       {q: query.TradesQuery{FromID: 10}, refused: true},
		"by id, behind the hole":     {q: query.TradesQuery{FromID: 13}},
		"a page up to the hole":      {q: query.TradesQuery{Start: second(2), End: second(60), Limit: 8}, refused: true},
		"a page that ends before it": {q: query.TradesQuery{Start: second(2), End: second(60), Limit: 7}},
	} {
		t.Run(name, func(t *testing.T) {
			s := query.New(store, clockAt(100))
			c.q.Market, c.q.Strict = historytest.BTCUSDT, true
			if c.q.Limit == 0 {
				c.q.Limit = 1000
			}
			page, err := s.Trades(t.Context(), c.q)
			gap, ok := errors.AsType[*query.DataGap](err)
			if ok != c.refused || ok && (gap.Before != second(14) || gap.After != 0 && gap.After != second(21)) {
				t.Errorf("%+v, %v, %+v", page, err, gap)
			}
		})
	}
}

func TestStrictTradesOfNothing(t *testing.T) {
	store := storetest.NewMemory()
	write(t, store, alive(100, 99, 0))
	checkStrict(t, store, 100, query.TradesQuery{}, false, 0, 0)
	checkStrict(t, store, 100, query.TradesQuery{Start: second(1)}, true, 0, 0)
	write(t, store, alive(101, 99, 5)) // they are on their way
	checkStrict(t, store, 101, query.TradesQuery{}, true, 0, 0)
}

// TestTradesByIDOverASteppingClock reads every trade once, page by page, where the exchange's clock steps back, ahead,
// and back beyond what was before, with and without holes.
func TestTradesByIDOverASteppingClock(t *testing.T) {
	for name, seconds := range map[string]func(id int) int{
		"twice":          func(id int) int { return (id - 1) % 300 },
		"many times":     func(id int) int { return (id - 1) % 40 },
		"further back":   func(id int) int { return 2000 + id - 700*(id/200) },
		"back and ahead": func(id int) int { return id + 1000*(id/100%2) },
	} {
		t.Run(name, func(t *testing.T) {
			store := storetest.NewMemory()
			w := historytest.NewWriter(t, store, historytest.BTCUSDT)
			var want []int64
			for id := 1; id <= 600; id++ {
				if id%97 == 0 {
					w.BreakTrades() // and nobody has it
					continue
				}
				w.Trade(tradeAt(int64(id), seconds(id)))
				want = append(want, int64(id))
			}
			w.CutTrades()
			s := query.New(store, clockAt(10_000))
			for _, q := range []query.TradesQuery{{FromID: 1, Limit: 50}, {Limit: 50}, {Limit: 7}, {Limit: 1000}} {
				q.Market = historytest.BTCUSDT
				var got []int64
				for {
					page, err := s.Trades(t.Context(), q)
					if err != nil {
						t.Fatal(err)
					}
					for _, tr := range page.Trades {
						got = append(got, tr.ID)
					}
					if page.NextID == 0 {
						break
					}
					q.FromID = page.NextID
				}
				if !slices.Equal(got, want) {
					t.Errorf("limit %d: %d trades of %d", q.Limit, len(got), len(want))
				}
			}
		})
	}
}

// TestTradesFromTheFirstID: markets begin at 0 on some hosts.
func TestTradesFromTheFirstID(t *testing.T) {
	store := storetest.NewMemory()
	w := historytest.NewWriter(t, store, historytest.BTCUSDT)
	for id := range 10 {
		w.Trade(tradeAt(int64(id), id+1))
	}
	w.BreakTrades()
	for id := 20; id < 25; id++ {
		w.Trade(tradeAt(int64(id), id+1))
	}
	w.CutTrades()
	s := query.New(store, clockAt(100))
	page, err := s.Trades(t.Context(), query.TradesQuery{Market: historytest.BTCUSDT, Limit: 100})
	if err != nil || len(page.Trades) != 15 || page.Trades[0].ID != 0 {
		t.Errorf("%+v, %v", page, err)
	}
	_, err = s.Trades(t.Context(), query.TradesQuery{Market: historytest.BTCUSDT, Limit: 100, Strict: true})
	if _, refused := errors.AsType[*query.DataGap](err); !refused {
		t.Errorf("across a hole: %v", err)
	}
}

// TestLastHeldBehindManySpans: a refusal names the nearest instant however many spans lie before it.
func TestLastHeldBehindManySpans(t *testing.T) {
	store := storetest.NewMemory()
	var batch market.Batch
	for i := range 10_050 {
		id := int64(2 * i)
		batch.Spans = append(batch.Spans, market.Span{
			Series: market.Series{Market: historytest.BTCUSDT, Stream: market.Trades}, FirstID: id, LastID: id, PrevID: id - 1,
			Start: second(3 * i), End: second(3 * i),
		})
	}
	write(t, store, batch)
	w := historytest.NewWriter(t, store, historytest.BTCUSDT)
	w.Trade(tradeAt(30_000, 40_000))
	w.CutTrades()
	_, err := query.New(store, clockAt(40_001)).Trades(t.Context(), query.TradesQuery{
		Market: historytest.BTCUSDT, FromID: 29_990, Limit: 10, Strict: true,
	})
	gap, _ := errors.AsType[*query.DataGap](err)
	if gap == nil || gap.Before != second(3*10_049) || gap.After != second(40_000) {
		t.Errorf("%+v, %v", gap, err)
	}
}
