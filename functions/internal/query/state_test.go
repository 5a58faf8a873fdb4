package query_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"tapedeck/functions/internal/historytest"
	"tapedeck/functions/internal/query"
	"tapedeck/shared/market"
	"tapedeck/shared/storetest"
)

// second returns the instant n seconds after the start of the histories below.
func second(n int) market.Time { return market.Time(1_700_000_000+n) * market.Time(time.Second) }

// at is the update with one id, n seconds after the start.
func updateAt(id int64, n int) *market.DepthUpdate {
	return &market.DepthUpdate{
		FirstID: id, LastID: id, PrevID: id - 1, EventTime: second(n), RecvTime: second(n) + 1,
		Bids: []market.Level{{Price: market.Decimal(id), Quantity: 1}},
	}
}

func snapshotAt(id int64, n int) *market.Snapshot {
	return &market.Snapshot{
		LastID: id, EventTime: second(n), RecvTime: second(n) + 1,
		Bids: []market.Level{{Price: 5, Quantity: 1}, {Price: 3, Quantity: 1}},
		Asks: []market.Level{{Price: 1000, Quantity: 1}},
	}
}

// history has a snapshot at second 0, updates 11 to 15 at seconds 1 to 5, a hole, a snapshot with id 20 at second 10,
// and updates 21 to 25 at seconds 11 to 15.
func history(t *testing.T) (*storetest.Memory, *historytest.Writer) {
	store := storetest.NewMemory()
	w := historytest.NewWriter(t, store, historytest.BTCUSDT)
	w.Snapshot(snapshotAt(10, 0))
	for i := range 5 {
		w.Depth(updateAt(int64(11+i), 1+i))
	}
	w.Snapshot(snapshotAt(20, 10))
	for i := range 5 {
		w.Depth(updateAt(int64(21+i), 11+i))
	}
	w.CutDepth()
	return store, w
}

func clockAt(n int) func() time.Time { return func() time.Time { return second(n).Std() } }

func write(t *testing.T, store *storetest.Memory, batch market.Batch) {
	t.Helper()
	if err := store.Write(t.Context(), &batch); err != nil {
		t.Fatal(err)
	}
}

func ledgerEntry() market.Gap {
	return market.Gap{
		Series: market.Series{Market: historytest.BTCUSDT, Stream: market.Depth}, Cause: market.CauseDisconnect,
		FirstID: 16, LastID: 20, Start: second(5), End: second(10), DetectedAt: second(10), RepairedAt: second(10),
		Repair: "snapshot",
	}
}

func bookOf(t *testing.T, s *query.Service, q query.BookQuery) *query.Book {
	t.Helper()
	q.Market, q.Depth = historytest.BTCUSDT, 100
	b, err := s.Book(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestStateAroundAHole(t *testing.T) {
	store, _ := history(t)
	s := query.New(store, clockAt(1000))
	for _, ledger := range []bool{false, true} {
		cause := market.Cause("") // a hole that only the spans show
		if ledger {
			write(t, store, market.Batch{Gaps: []market.Gap{ledgerEntry()}})
			cause = market.CauseDisconnect
		}
		for _, c := range []struct {
			at    market.Time
			id    int64
			state query.State
		}{
			{second(0), 10, query.Synced},
			{second(1) - 1, 10, query.Synced},
			{second(3), 13, query.Synced},
			{second(5), 15, query.Synced},
			{second(5) + 1, 15, query.Gap},
			{second(10) - 1, 15, query.Gap},
			{second(10), 20, query.Synced},
			{second(11) - 1, 20, query.Synced},
			{second(15), 25, query.Synced},
			{second(15) + 1, 25, query.Stale},
		} {
			got := bookOf(t, s, query.BookQuery{At: &c.at})
			if got.LastID != c.id || got.State != c.state || got.Age != c.at.Sub(got.EventTime) {
				t.Errorf("at %v: id %d, %s, age %v; want %d, %s", c.at, got.LastID, got.State, got.Age, c.id, c.state)
			}
			if c.state != query.Gap {
				if len(got.Gaps) != 0 {
					t.Errorf("at %v: gaps %v", c.at, got.Gaps)
				}
				continue
			}
			g := got.Gaps[0]
			if len(got.Gaps) != 1 || g.FirstID != 16 || g.LastID != 20 || g.Start != second(5) || g.Cause != cause {
				t.Errorf("at %v: gaps %+v", c.at, got.Gaps)
			}
		}
	}
}

func TestStrictNamesTheNearestGoodInstants(t *testing.T) {
	store, _ := history(t)
	s := query.New(store, clockAt(1000))
	in, beyond, lost := second(7), second(16), int64(17)
	for _, c := range []struct {
		name          string
		q             query.BookQuery
		before, after market.Time
	}{
		{"in the hole", query.BookQuery{At: &in}, second(5), second(10)},
		{"an id that was lost", query.BookQuery{UpdateID: &lost}, second(5), second(10)},
		{"beyond the end", query.BookQuery{At: &beyond}, second(15), 0},
		{"latest", query.BookQuery{}, second(15), 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.q.Market, c.q.Depth, c.q.Strict = historytest.BTCUSDT, 1, true
			_, err := s.Book(t.Context(), c.q)
			gap, ok := errors.AsType[*query.DataGap](err)
			if !ok || gap.Before != c.before || gap.After != c.after {
				t.Fatalf("%v, %+v", err, gap)
			}
			for _, good := range []market.Time{c.before, c.after} {
				if good != 0 {
					q := c.q
					q.At, q.UpdateID = &good, nil
					if _, err := s.Book(t.Context(), q); err != nil {
						t.Errorf("at %v, said to be good: %v", good, err)
					}
				}
			}
		})
	}
}

// TestVouching asks for the latest book, whose last event is 85 seconds old, with one recorder in the store.
func TestVouching(t *testing.T) {
	good := func() market.RecorderStatus {
		return market.RecorderStatus{
			Recorder: "a", UpdatedAt: second(90), Markets: []market.MarketStatus{{
				Market: historytest.BTCUSDT, State: market.StateSynced, LastUpdateID: 25,
				EventTime: second(15), RecvTime: second(15),
			}},
		}
	}
	replayed := func(r *market.RecorderStatus) { r.Markets[0].RecvTime = second(95) }
	for _, c := range []struct {
		name   string
		change func(*market.RecorderStatus)
		q      query.BookQuery
		want   query.State
	}{
		{"alive and synced, in a quiet market", func(*market.RecorderStatus) {}, query.BookQuery{}, query.Synced},
		{"a little behind", func(r *market.RecorderStatus) {
			r.Markets[0].LastUpdateID, r.Markets[0].EventTime = 30, second(30)
		}, query.BookQuery{}, query.Synced},
		{"far behind", func(r *market.RecorderStatus) {
			r.Markets[0].LastUpdateID, r.Markets[0].EventTime = 90, second(90)
		}, query.BookQuery{}, query.Stale},
		{"silent", func(r *market.RecorderStatus) { r.UpdatedAt = second(84) }, query.BookQuery{}, query.Stale},
		{"stopped", func(r *market.RecorderStatus) { r.Stopped = true }, query.BookQuery{}, query.Stale},
		{"syncing", func(r *market.RecorderStatus) { r.Markets[0].State = market.StateSyncing }, query.BookQuery{}, query.Stale},
		{"offline", func(r *market.RecorderStatus) { r.Markets[0].State = market.StateOffline }, query.BookQuery{}, query.Stale},
		{"of another market", func(r *market.RecorderStatus) { r.Markets[0].Market.Symbol = "ETHUSDT" }, query.BookQuery{}, query.Stale},
		{"older than asked for", func(*market.RecorderStatus) {}, query.BookQuery{MaxAge: 84 * time.Second}, query.Stale},
		{"as old as asked for", func(*market.RecorderStatus) {}, query.BookQuery{MaxAge: 85 * time.Second}, query.Synced},
		{"at an instant beyond the last event", func(*market.RecorderStatus) {}, query.BookQuery{At: new(second(97))}, query.Synced},
		{"at an instant whose events may be on their way", func(*market.RecorderStatus) {}, query.BookQuery{At: new(second(98))}, query.Stale},
		{"at an instant while the recorder has more than is stored", func(r *market.RecorderStatus) {
			r.Markets[0].LastUpdateID, r.Markets[0].EventTime = 30, second(30)
		}, query.BookQuery{At: new(second(25))}, query.Stale},
		{"at an instant that is yet to come", func(*market.RecorderStatus) {}, query.BookQuery{At: new(second(120))}, query.Stale},
		{"at an instant that a replay has reached", replayed, query.BookQuery{At: new(second(17))}, query.Synced},
		{"at an instant that a replay has yet to reach", replayed, query.BookQuery{At: new(second(50))}, query.Stale},
	} {
		t.Run(c.name, func(t *testing.T) {
			store, _ := history(t)
			status := good()
			c.change(&status)
			write(t, store, market.Batch{Statuses: []market.RecorderStatus{status}})
			age := 85 * time.Second
			if c.q.At != nil {
				age = c.q.At.Sub(second(15))
			}
			got := bookOf(t, query.New(store, clockAt(100)), c.q)
			if got.State != c.want || got.LastID != 25 || got.Age != age {
				t.Errorf("%s, id %d, age %v; want %s, %v", got.State, got.LastID, got.Age, c.want, age)
			}
		})
	}
}

// TestOpenGap asks for the latest book while the recorder, alive, knows of missing updates.
func TestOpenGap(t *testing.T) {
	store, _ := history(t)
	write(t, store, market.Batch{Gaps: []market.Gap{{
		Series: market.Series{Market: historytest.BTCUSDT, Stream: market.Depth}, Cause: market.CauseSequence,
		FirstID: 26, LastID: 25, Start: second(15), DetectedAt: second(16),
	}}})
	got := bookOf(t, query.New(store, clockAt(20)), query.BookQuery{})
	if got.State != query.Gap || len(got.Gaps) != 1 || got.Gaps[0].Cause != market.CauseSequence {
		t.Errorf("%s, gaps %+v", got.State, got.Gaps)
	}
}

func TestProof(t *testing.T) {
	store, w := history(t)
	w.Keyframe() // after update 25
	w.Depth(updateAt(26, 16))
	w.CutDepth()
	s := query.New(store, clockAt(1000))
	for _, c := range []struct {
		id                                 int64
		snapshot, keyframe, applied, first int64
		bids, asks                         int
	}{
		{10, 10, 10, 0, 0, 2, 1},
		{13, 10, 10, 3, 11, 5, 1},
		{24, 20, 20, 4, 21, 6, 1},
		{25, 20, 25, 5, 21, 7, 1},
		{26, 20, 25, 6, 21, 8, 1},
	} {
		b := bookOf(t, s, query.BookQuery{UpdateID: &c.id})
		if b.SnapshotID != c.snapshot || b.KeyframeID != c.keyframe || b.UpdatesApplied != c.applied || b.LastID != c.id ||
			b.FirstUpdateID != c.first || b.VerifiedBids != c.bids || b.VerifiedAsks != c.asks || b.Age != 0 {
			t.Errorf("id %d: %+v", c.id, b)
		}
	}
}

func TestNoBook(t *testing.T) {
	store, _ := history(t)
	write(t, store, market.Batch{Listings: []market.Listing{{Market: market.Market{Exchange: market.Binance, Symbol: "NEW"}}}})
	s := query.New(store, clockAt(1000))
	early, tooLow, tooHigh := second(0)-1, int64(9), int64(26)
	for name, q := range map[string]query.BookQuery{
		"before the first record":    {At: &early},
		"an id before the first":     {UpdateID: &tooLow},
		"an id that is yet to come":  {UpdateID: &tooHigh},
		"a market without records":   {Market: market.Market{Exchange: market.Binance, Symbol: "NEW"}},
		"a market that is not known": {Market: market.Market{Exchange: market.Binance, Symbol: "NONE"}},
	} {
		if q.Market == (market.Market{}) {
			q.Market = historytest.BTCUSDT
		}
		q.Depth = 1
		_, err := s.Book(t.Context(), q)
		noData, ok := errors.AsType[*query.NoData](err)
		_, unknown := errors.AsType[*query.UnknownMarket](err)
		switch q.Market.Symbol {
		case "BTCUSDT":
			if !ok || noData.Earliest != second(1) || noData.Latest != second(15) {
				t.Errorf("%s: %v, %+v", name, err, noData)
			}
		case "NEW":
			if !ok || noData.Earliest != 0 || noData.Latest != 0 {
				t.Errorf("%s: %v, %+v", name, err, noData)
			}
		default:
			if !unknown {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// TestSecondRecorderFillsAHole has a recorder that lost what another one holds.
func TestSecondRecorderFillsAHole(t *testing.T) {
	store, _ := history(t)
	write(t, store, market.Batch{Gaps: []market.Gap{ledgerEntry()}})
	second2 := historytest.NewWriter(t, store, historytest.BTCUSDT)
	second2.Book.Reset(13, nil, nil)
	for i := range 8 { // 14 to 21
		second2.Depth(updateAt(int64(14+i), 4+i))
	}
	second2.CutDepth()
	s := query.New(store, clockAt(1000))
	for id := int64(11); id <= 25; id++ {
		if b := bookOf(t, s, query.BookQuery{UpdateID: &id}); b.State != query.Synced || b.LastID != id {
			t.Errorf("id %d: %s, id %d", id, b.State, b.LastID)
		}
	}
	at := second(7)
	if b := bookOf(t, s, query.BookQuery{At: &at}); b.State != query.Synced || b.LastID != 17 || len(b.Gaps) != 0 {
		t.Errorf("at %v: %s, id %d, %v", at, b.State, b.LastID, b.Gaps)
	}
	spans, _, err := s.Coverage(t.Context(), query.RangeQuery{Market: historytest.BTCUSDT, Stream: market.Depth})
	if err != nil || !slices.Equal(states(spans), []query.CoverageState{query.Available}) {
		t.Errorf("%v, %+v", err, spans)
	}
}

// TestSnapshotFromTheFuture has a second recorder whose snapshot holds more than its time says.
func TestSnapshotFromTheFuture(t *testing.T) {
	store, _ := history(t)
	w := historytest.NewWriter(t, store, historytest.BTCUSDT)
	w.Snapshot(snapshotAt(14, 2))
	at := second(3)
	if b := bookOf(t, query.New(store, clockAt(1000)), query.BookQuery{At: &at}); b.LastID != 13 || b.SnapshotID != 10 {
		t.Errorf("id %d from snapshot %d", b.LastID, b.SnapshotID)
	}
}

// TestSnapshotWithinAnUpdate has a first update that begins before the snapshot's id.
func TestSnapshotWithinAnUpdate(t *testing.T) {
	store := storetest.NewMemory()
	w := historytest.NewWriter(t, store, historytest.BTCUSDT)
	w.Snapshot(snapshotAt(10, 0))
	u := updateAt(12, 1)
	u.FirstID, u.PrevID = 8, 7
	w.Depth(u)
	w.CutDepth()
	s := query.New(store, clockAt(1000))
	for id, want := range map[int64]int64{8: 12, 9: 12, 10: 10, 11: 12, 12: 12} {
		if b := bookOf(t, s, query.BookQuery{UpdateID: &id}); b.LastID != want || b.State != query.Synced {
			t.Errorf("id %d: book %d, %s; want %d", id, b.LastID, b.State, want)
		}
	}
}

// TestClockStepsBack has an update that the exchange stamped earlier than the one before it.
func TestClockStepsBack(t *testing.T) {
	store := storetest.NewMemory()
	w := historytest.NewWriter(t, store, historytest.BTCUSDT)
	w.Snapshot(snapshotAt(10, 0))
	for i, ms := range []int{900, 1000, 990, 1100} {
		u := updateAt(int64(11+i), 0)
		u.EventTime = second(0).Add(time.Duration(ms) * time.Millisecond)
		w.Depth(u)
	}
	w.CutDepth()
	s := query.New(store, clockAt(1000))
	for ms, want := range map[int]int64{900: 11, 995: 11, 1000: 13, 1100: 14} {
		at := second(0).Add(time.Duration(ms) * time.Millisecond)
		if b := bookOf(t, s, query.BookQuery{At: &at}); b.LastID != want || b.State != query.Synced {
			t.Errorf("at %v: id %d, %s; want %d", at, b.LastID, b.State, want)
		}
	}
}

func states(spans []query.CoverageSpan) []query.CoverageState {
	var states []query.CoverageState
	for _, s := range spans {
		states = append(states, s.State)
	}
	return states
}

func TestCoverage(t *testing.T) {
	store, _ := history(t)
	write(t, store, market.Batch{Gaps: []market.Gap{ledgerEntry()}})
	s := query.New(store, clockAt(1000))
	type span struct {
		start, end int // seconds
		state      query.CoverageState
	}
	for _, c := range []struct {
		name       string
		start, end market.Time
		want       []span
	}{
		{"all", 0, 0, []span{{1, 5, query.Available}, {5, 10, query.Missing}, {10, 15, query.Available}}},
		{"clipped", second(3), second(12), []span{{3, 5, query.Available}, {5, 10, query.Missing}, {10, 12, query.Available}}},
		{"within a span", second(2), second(3), []span{{2, 3, query.Available}}},
		{"within the hole", second(6), second(8), []span{{6, 8, query.Missing}}},
		{"from the hole", second(6), second(12), []span{{6, 10, query.Missing}, {10, 12, query.Available}}},
		{"into the hole", second(4), second(8), []span{{4, 5, query.Available}, {5, 8, query.Missing}}},
		{"before everything", second(-9), second(0), nil},
		{"behind everything", second(16), second(20), nil},
	} {
		spans, gaps, err := s.Coverage(t.Context(), query.RangeQuery{
			Market: historytest.BTCUSDT, Start: c.start, End: c.end,
		})
		if err != nil {
			t.Fatal(err)
		}
		var got []span
		for _, p := range spans {
			got = append(got, span{int((p.Start - second(0)) / 1e9), int((p.End - second(0)) / 1e9), p.State})
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
		if c.name == "all" && len(gaps) != 1 {
			t.Errorf("gaps %v", gaps)
		}
	}
}

// TestTradesAroundAHole has trades 1 to 5 at seconds 1 to 5 and 9 to 12 at seconds 9 to 12.
func TestTradesAroundAHole(t *testing.T) {
	store := storetest.NewMemory()
	w := historytest.NewWriter(t, store, historytest.BTCUSDT)
	for i := range 12 {
		switch id := int64(1 + i); id {
		case 6, 7, 8:
			w.BreakTrades()
		default:
			w.Trade(&market.Trade{ID: id, EventTime: second(1 + i), Price: 1, Quantity: 1, Side: market.Buy})
		}
	}
	w.CutTrades()
	gap := ledgerEntry()
	gap.Series.Stream, gap.FirstID, gap.LastID, gap.Start, gap.End = market.Trades, 6, 8, second(5), second(9)
	write(t, store, market.Batch{Gaps: []market.Gap{gap}})
	s := query.New(store, clockAt(1000))
	for _, c := range []struct {
		name string
		q    query.TradesQuery
		ids  []int64
		next int64
		gaps int // strict refuses where there are any, and behind everything
	}{
		{"all", query.TradesQuery{Limit: 100}, []int64{1, 2, 3, 4, 5, 9, 10, 11, 12}, 0, 1},
		{"a page before the hole", query.TradesQuery{Limit: 3}, []int64{1, 2, 3}, 4, 0},
		{"a page over the hole", query.TradesQuery{FromID: 4, Limit: 3}, []int64{4, 5, 9}, 10, 1},
		{"from within the hole", query.TradesQuery{FromID: 7, Limit: 100}, []int64{9, 10, 11, 12}, 0, 1},
		{"start is inclusive, end is not", query.TradesQuery{Start: second(2), End: second(4), Limit: 9}, []int64{2, 3}, 0, 0},
		{"within the hole", query.TradesQuery{Start: second(6), End: second(8), Limit: 9}, nil, 0, 1},
		{"behind everything", query.TradesQuery{FromID: 13, Limit: 9}, nil, 0, 0},
	} {
		c.q.Market = historytest.BTCUSDT
		page, err := s.Trades(t.Context(), c.q)
		if err != nil {
			t.Fatal(err)
		}
		var ids []int64
		for _, tr := range page.Trades {
			ids = append(ids, tr.ID)
		}
		if !slices.Equal(ids, c.ids) || page.NextID != c.next || len(page.Gaps) != c.gaps {
			t.Errorf("%s: %v, next %d, gaps %v", c.name, ids, page.NextID, page.Gaps)
		}
		c.q.Strict = true
		_, err = s.Trades(t.Context(), c.q)
		if _, ok := errors.AsType[*query.DataGap](err); ok != (c.gaps > 0 || len(c.ids) == 0) {
			t.Errorf("%s, strict: %v", c.name, err)
		}
	}
}

func TestLedgerPages(t *testing.T) {
	store := storetest.NewMemory()
	series := market.Series{Market: historytest.BTCUSDT, Stream: market.Depth}
	want := []int64{}
	for i := range 7 {
		// Every gap overlaps the next ones, and three begin at once.
		write(t, store, market.Batch{Gaps: []market.Gap{{
			Series: series, Cause: market.CauseOverflow, FirstID: int64(10 + i), LastID: int64(10 + i),
			Start: second(max(0, i-2)), End: second(100),
		}}})
		want = append(want, int64(10+i))
	}
	s := query.New(store, clockAt(1000))
	q := query.GapsQuery{RangeQuery: query.RangeQuery{Market: historytest.BTCUSDT}, Limit: 2}
	gaps, err := allGaps(t, s, q)
	if err != nil {
		t.Fatal(err)
	}
	var got []int64
	for _, g := range gaps {
		got = append(got, g.FirstID)
	}
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// TestLongLedger has more gaps than are ever read at once.
func TestLongLedger(t *testing.T) {
	store := storetest.NewMemory()
	series := market.Series{Market: historytest.BTCUSDT, Stream: market.Depth}
	batch := market.Batch{}
	for i := range 10_050 {
		batch.Gaps = append(batch.Gaps, market.Gap{
			Series: series, Cause: market.CauseDisconnect, FirstID: int64(10 + i), LastID: int64(10 + i),
			Start: second(2 * i), End: second(2*i + 1),
		})
	}
	write(t, store, batch)
	s := query.New(store, clockAt(1000))
	for _, limit := range []int{10_000, 4_000} {
		q := query.GapsQuery{RangeQuery: query.RangeQuery{Market: historytest.BTCUSDT}, Limit: limit}
		n := 0
		for {
			gaps, next, err := s.Gaps(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			for i := range gaps {
				if gaps[i].FirstID != batch.Gaps[n].FirstID {
					t.Fatalf("limit %d: gap %d is %+v", limit, n, gaps[i])
				}
				n++
			}
			if next == nil {
				break
			}
			q.After = next
		}
		if n != len(batch.Gaps) {
			t.Errorf("limit %d: %d gaps, want %d", limit, n, len(batch.Gaps))
		}
	}
}

// TestTradesOfAQuietMarket has one trade a block, and more blocks than one answer is made of.
func TestTradesOfAQuietMarket(t *testing.T) {
	store := storetest.NewMemory()
	w := historytest.NewWriter(t, store, historytest.BTCUSDT)
	const trades = 8_500
	for i := range trades {
		w.Trade(&market.Trade{ID: int64(1 + i), EventTime: second(2 * i), Price: 1, Quantity: 1, Side: market.Buy})
		w.CutTrades()
	}
	s := query.New(store, clockAt(1000))
	q := query.TradesQuery{Market: historytest.BTCUSDT, Limit: 10_000}
	for want := int64(1); ; {
		page, err := s.Trades(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		for _, tr := range page.Trades {
			if tr.ID != want {
				t.Fatalf("trade %d, want %d", tr.ID, want)
			}
			want++
		}
		if page.NextID == 0 {
			if want != trades+1 {
				t.Errorf("the last page ends before trade %d, want %d", want, trades+1)
			}
			break
		}
		q.FromID = page.NextID
	}
}

// TestStoreErrors has a store that does not answer, and one that holds garbage.
func TestStoreErrors(t *testing.T) {
	store, _ := history(t)
	s := query.New(store, clockAt(1000))
	write(t, store, market.Batch{Blocks: []market.Block{{
		Series:  market.Series{Market: historytest.BTCUSDT, Stream: market.Depth},
		FirstID: 26, LastID: 26, PrevID: 25, SpanID: 21, Start: second(16), End: second(16), Events: 1, Data: []byte("garbage"),
	}}})
	q := query.BookQuery{Market: historytest.BTCUSDT, Depth: 1}
	if _, err := s.Book(t.Context(), q); market.KindOf(err) != market.KindCorrupt {
		t.Errorf("garbage: %v", err)
	}
	store.Fail(market.Errorf(market.KindUnavailable, "away"))
	if _, err := s.Book(t.Context(), q); market.KindOf(err) != market.KindUnavailable {
		t.Errorf("store away: %v", err)
	}
}

// TestKeyframeWithinABlock has a recorder that ended with a keyframe, and another one whose block reaches over it.
func TestKeyframeWithinABlock(t *testing.T) {
	store := storetest.NewMemory()
	a := historytest.NewWriter(t, store, historytest.BTCUSDT)
	b := historytest.NewWriter(t, store, historytest.BTCUSDT)
	a.Snapshot(snapshotAt(10, 0))
	b.Book.Reset(11, nil, nil)
	for i := range 5 {
		u := updateAt(int64(11+i), 1)
		u.EventTime += market.Time(i) * market.Time(100*time.Millisecond)
		if u.LastID <= 13 {
			a.Depth(u)
		}
		b.Depth(u)
	}
	a.CutDepth()
	a.Keyframe()
	b.CutDepth()
	got := bookOf(t, query.New(store, clockAt(1000)), query.BookQuery{})
	if got.LastID != 15 || got.KeyframeID != 13 || got.UpdatesApplied != 5 {
		t.Errorf("id %d from keyframe %d, %d applied", got.LastID, got.KeyframeID, got.UpdatesApplied)
	}
}

// TestTradesOfTwoRecorders has the same trades cut in two ways, with a clock that steps back, and far more than fit
// into the pages that are read at once.
func TestTradesOfTwoRecorders(t *testing.T) {
	const last = 1000
	store := storetest.NewMemory()
	a := historytest.NewWriter(t, store, historytest.BTCUSDT)
	b := historytest.NewWriter(t, store, historytest.BTCUSDT)
	for id := int64(1); id <= last; id++ {
		trade := &market.Trade{
			ID: id, Price: 1, Quantity: 1, Side: market.Sell,
			EventTime: second(0).Add(time.Duration(id)*200*time.Millisecond - time.Duration(id%3)*250*time.Millisecond),
		}
		a.Trade(trade)
		b.Trade(trade)
		if id%3 == 0 {
			b.CutTrades()
		}
	}
	a.CutTrades()
	b.CutTrades()
	s := query.New(store, clockAt(1000))
	for from := int64(1); from < last; from += 7 {
		page, err := s.Trades(t.Context(), query.TradesQuery{Market: historytest.BTCUSDT, FromID: from, Limit: last})
		if err != nil {
			t.Fatal(err)
		}
		if int64(len(page.Trades)) != last-from+1 {
			t.Fatalf("from %d: %d trades", from, len(page.Trades))
		}
		for i, trade := range page.Trades {
			if trade.ID != from+int64(i) {
				t.Fatalf("from %d: trade %d at place %d", from, trade.ID, i)
			}
		}
	}
}

// TestCoverageJoinsSpans has spans that touch, overlap, and contain each other.
func TestCoverageJoinsSpans(t *testing.T) {
	store, _ := history(t)
	series := market.Series{Market: historytest.BTCUSDT, Stream: market.Depth}
	write(t, store, market.Batch{Spans: []market.Span{
		{Series: series, FirstID: 16, PrevID: 15, LastID: 18, Start: second(6), End: second(8)},  // continues 15
		{Series: series, FirstID: 17, PrevID: 16, LastID: 17, Start: second(7), End: second(7)},  // within
		{Series: series, FirstID: 18, PrevID: 17, LastID: 20, Start: second(8), End: second(10)}, // up to 21
	}})
	s := query.New(store, clockAt(1000))
	spans, _, err := s.Coverage(t.Context(), query.RangeQuery{Market: historytest.BTCUSDT})
	if err != nil {
		t.Fatal(err)
	}
	want := []query.CoverageSpan{{
		Stream: market.Depth, Start: second(1), End: second(15), State: query.Available, FirstID: 11, LastID: 25,
	}}
	if !slices.Equal(spans, want) {
		t.Errorf("%+v, want %+v", spans, want)
	}
}
