package query_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"tapedeck/functions/internal/historytest"
	"tapedeck/functions/internal/query"
	"tapedeck/shared/market"
	"tapedeck/shared/storetest"
)

var depthOfBTCUSDT = market.Series{Market: historytest.BTCUSDT, Stream: market.Depth}

// TestDoubt has every id from 11 to 25 recorded, 16 to 20 of them while there was no good book.
func TestDoubt(t *testing.T) {
	for _, c := range []struct {
		name     string
		gap      market.Gap
		at       int // seconds
		id       int64
		state    query.State
		after    int // seconds; -1: no good instant is known
		snapshot bool
	}{
		{name: "crossed, before", gap: market.Gap{Cause: market.CauseCrossed, Start: second(5), End: second(10)}, at: 5, id: 15, state: query.Synced, snapshot: true},
		{name: "crossed, within", gap: market.Gap{Cause: market.CauseCrossed, Start: second(5), End: second(10)}, at: 7, id: 15, state: query.Gap, after: 10, snapshot: true},
		{name: "crossed, behind", gap: market.Gap{Cause: market.CauseCrossed, Start: second(5), End: second(10)}, at: 10, id: 20, state: query.Synced, snapshot: true},
		{name: "crossed, never ended", gap: market.Gap{Cause: market.CauseCrossed, Start: second(5)}, at: 14, id: 15, state: query.Gap, after: -1},
		{name: "audit, before", gap: market.Gap{Cause: market.CauseAudit, Start: second(5), End: second(10)}, at: 4, id: 14, state: query.Synced, snapshot: true},
		{name: "audit, at its start", gap: market.Gap{Cause: market.CauseAudit, Start: second(5), End: second(10)}, at: 5, id: 14, state: query.Gap, after: 10, snapshot: true},
		{name: "audit, within", gap: market.Gap{Cause: market.CauseAudit, Start: second(5), End: second(10)}, at: 9, id: 14, state: query.Gap, after: 10, snapshot: true},
		{name: "audit, behind", gap: market.Gap{Cause: market.CauseAudit, Start: second(5), End: second(10)}, at: 12, id: 22, state: query.Synced, snapshot: true},
		{name: "audit whose book is not stored", gap: market.Gap{Cause: market.CauseAudit, Start: second(5), End: second(10)}, at: 12, id: 14, state: query.Gap, after: -1},
	} {
		t.Run(c.name, func(t *testing.T) {
			store := storetest.NewMemory()
			w := historytest.NewWriter(t, store, historytest.BTCUSDT)
			w.Snapshot(snapshotAt(10, 0))
			for i := range 10 {
				w.Depth(updateAt(int64(11+i), 1+i))
			}
			if c.snapshot {
				w.Snapshot(snapshotAt(20, 10))
			}
			for i := range 5 {
				w.Depth(updateAt(int64(21+i), 11+i))
			}
			w.CutDepth()
			c.gap.Series, c.gap.FirstID, c.gap.LastID = depthOfBTCUSDT, 16, 20
			write(t, store, market.Batch{Gaps: []market.Gap{c.gap}})
			s := query.New(store, clockAt(1000))
			q := query.BookQuery{At: new(second(c.at))}
			got := bookOf(t, s, q)
			if got.LastID != c.id || got.State != c.state || (len(got.Gaps) == 1) != (c.state == query.Gap) {
				t.Errorf("id %d, %s, gaps %+v; want %d, %s", got.LastID, got.State, got.Gaps, c.id, c.state)
			}
			q.Market, q.Depth, q.Strict = historytest.BTCUSDT, 1, true
			_, err := s.Book(t.Context(), q)
			refused, ok := errors.AsType[*query.DataGap](err)
			after := market.Time(0)
			if c.after >= 0 {
				after = second(c.after)
			}
			if ok != (c.state == query.Gap) || (ok && (refused.Before != got.EventTime || refused.After != after)) {
				t.Errorf("strict: %v, %+v", err, refused)
			}
		})
	}
}

// TestDoubtOfTheLatest asks for the latest book, and for ids, while an audit has found it wrong and it is not yet built
// anew.
func TestDoubtOfTheLatest(t *testing.T) {
	store, _ := history(t)
	write(t, store, market.Batch{Gaps: []market.Gap{{
		Series: depthOfBTCUSDT, Cause: market.CauseAudit, FirstID: 23, LastID: 24, Start: second(12), DetectedAt: second(14),
	}}})
	s := query.New(store, clockAt(20))
	for _, c := range []struct {
		name string
		q    query.BookQuery
		want int64 // the last id of the last good book: by time, another event may have had the time at which the doubt starts
	}{
		{"latest", query.BookQuery{}, 21},
		{"in doubt", query.BookQuery{UpdateID: new(int64(24))}, 22},
		{"behind", query.BookQuery{UpdateID: new(int64(25))}, 22},
	} {
		if got := bookOf(t, s, c.q); got.State != query.Gap || got.LastID != c.want || len(got.Gaps) != 1 {
			t.Errorf("%s: %s, id %d, gaps %+v", c.name, got.State, got.LastID, got.Gaps)
		}
	}
	if got := bookOf(t, s, query.BookQuery{UpdateID: new(int64(22))}); got.State != query.Synced || got.LastID != 22 {
		t.Errorf("before: %s, id %d", got.State, got.LastID)
	}
}

// TestDoubtBehindManyEntries has entries that nobody closed, more than are looked at together.
func TestDoubtBehindManyEntries(t *testing.T) {
	for _, n := range []int{1, 300} {
		store, _ := history(t)
		for i := range n {
			write(t, store, market.Batch{Gaps: []market.Gap{{
				Series: depthOfBTCUSDT, Cause: market.CauseDisconnect, FirstID: int64(i + 1), LastID: int64(i), Start: second(i - 1000),
			}}})
		}
		write(t, store, market.Batch{Gaps: []market.Gap{{
			Series: depthOfBTCUSDT, Cause: market.CauseAudit, FirstID: 22, LastID: 24, Start: second(12), End: second(40), DetectedAt: second(14),
		}}})
		s := query.New(store, clockAt(20))
		got := bookOf(t, s, query.BookQuery{At: new(second(14))})
		if got.State != query.Gap || got.LastID != 21 || len(got.Gaps) != 1 || got.Gaps[0].Cause != market.CauseAudit {
			t.Errorf("%d entries: %s, id %d, gaps %+v", n, got.State, got.LastID, got.Gaps)
		}
	}
}

// TestHoleBehindManyEntries has the only word of a hole stand behind entries that nobody closed, while a recorder is
// alive.
func TestHoleBehindManyEntries(t *testing.T) {
	store := storetest.NewMemory()
	w := historytest.NewWriter(t, store, historytest.BTCUSDT)
	w.Snapshot(snapshotAt(1000, 0))
	w.Depth(updateAt(1001, 1))
	w.CutDepth()
	for i := range 300 {
		write(t, store, market.Batch{Gaps: []market.Gap{{
			Series: depthOfBTCUSDT, Cause: market.CauseDisconnect, FirstID: int64(i + 1), LastID: int64(i), Start: second(i - 1000),
		}}})
	}
	write(t, store, market.Batch{Gaps: []market.Gap{{
		Series: depthOfBTCUSDT, Cause: market.CauseStall, FirstID: 1002, LastID: 1005, Start: second(1), DetectedAt: second(19),
	}}})
	write(t, store, alive(20, 20, 0))
	got := bookOf(t, query.New(store, clockAt(20)), query.BookQuery{})
	if got.State != query.Gap || len(got.Gaps) != 1 || got.Gaps[0].Cause != market.CauseStall {
		t.Errorf("%s, gaps %+v", got.State, got.Gaps)
	}
}

// TestTooManyDoubts has more audits at once than are read.
func TestTooManyDoubts(t *testing.T) {
	store, _ := history(t)
	batch := market.Batch{}
	for i := range 10_001 {
		batch.Gaps = append(batch.Gaps, market.Gap{
			Series: depthOfBTCUSDT, Cause: market.CauseAudit, FirstID: int64(1_000_000 + i), LastID: int64(1_000_000 + i), Start: second(1),
		})
	}
	write(t, store, batch)
	s := query.New(store, clockAt(20))
	_, err := s.Book(t.Context(), query.BookQuery{Market: historytest.BTCUSDT, Depth: 1})
	if market.KindOf(err) != market.KindTooLarge {
		t.Errorf("error %v", err)
	}
}

// TestCorrectedBookByItsID has an audit that finds a stored book wrong: the right one is stored a nanosecond later.
func TestCorrectedBookByItsID(t *testing.T) {
	store, w := history(t) // ids up to 25, at second 15
	w.Keyframe()
	corrected := snapshotAt(25, 15)
	corrected.EventTime++
	w.Snapshot(corrected)
	w.Depth(updateAt(26, 16))
	w.CutDepth()
	write(t, store, market.Batch{Gaps: []market.Gap{{
		Series: depthOfBTCUSDT, Cause: market.CauseAudit, FirstID: 23, LastID: 25, Start: second(12), End: second(15) + 1,
		DetectedAt: second(15), RepairedAt: second(15), Repair: market.RepairSnapshot,
	}}})
	s := query.New(store, clockAt(1000))
	for id, want := range map[int64]query.Book{
		22: {State: query.Synced, LastID: 22, SnapshotID: 20}, 24: {State: query.Gap, LastID: 22, SnapshotID: 20},
		25: {State: query.Synced, LastID: 25, SnapshotID: 25}, 26: {State: query.Synced, LastID: 26, SnapshotID: 25},
	} {
		got := bookOf(t, s, query.BookQuery{UpdateID: &id})
		if got.State != want.State || got.LastID != want.LastID || got.SnapshotID != want.SnapshotID {
			t.Errorf("id %d: %s, id %d, of snapshot %d; want %s, %d, %d", id, got.State, got.LastID, got.SnapshotID,
				want.State, want.LastID, want.SnapshotID)
		}
	}
}

// TestHoleBehindADoubt: the book before the hole is not the last good one, where it is in doubt.
func TestHoleBehindADoubt(t *testing.T) {
	store, w := history(t) // ids up to 25, at second 15
	write(t, store, market.Batch{Gaps: []market.Gap{
		{Series: depthOfBTCUSDT, Cause: market.CauseCrossed, FirstID: 24, LastID: 24, Start: second(13), DetectedAt: second(14)},
		{Series: depthOfBTCUSDT, Cause: market.CauseDisconnect, FirstID: 26, LastID: 28, Start: second(15), End: second(18)},
	}})
	w.Snapshot(snapshotAt(28, 18))
	w.Depth(updateAt(29, 19))
	w.CutDepth()
	got := bookOf(t, query.New(store, clockAt(1000)), query.BookQuery{UpdateID: new(int64(27))})
	if got.State != query.Gap || got.LastID != 23 || len(got.Gaps) != 2 {
		t.Errorf("%s, id %d, gaps %+v", got.State, got.LastID, got.Gaps)
	}
}

// TestDoubtThatNobodyEnded has a recorder that was killed while it doubted its book, and another that began anew.
func TestDoubtThatNobodyEnded(t *testing.T) {
	store, w := history(t)
	write(t, store, market.Batch{Gaps: []market.Gap{{
		Series: depthOfBTCUSDT, Cause: market.CauseCrossed, FirstID: 24, LastID: 24, Start: second(13), DetectedAt: second(14),
	}}})
	w.Snapshot(snapshotAt(28, 18))
	w.Depth(updateAt(29, 19))
	w.CutDepth()
	s := query.New(store, clockAt(1000))
	for at, want := range map[int]query.Book{
		13: {State: query.Synced, LastID: 23}, 14: {State: query.Gap, LastID: 23}, 17: {State: query.Gap, LastID: 23},
		18: {State: query.Synced, LastID: 28}, 19: {State: query.Synced, LastID: 29},
	} {
		if got := bookOf(t, s, query.BookQuery{At: new(second(at))}); got.State != want.State || got.LastID != want.LastID {
			t.Errorf("second %d: %s, id %d; want %s, %d", at, got.State, got.LastID, want.State, want.LastID)
		}
	}
}

// TestClockStepsFarBack has an exchange whose clock shows the seconds 6 to 15 twice.
func TestClockStepsFarBack(t *testing.T) {
	store, w := history(t) // ids up to 25, at second 15
	w.Snapshot(snapshotAt(25, 6))
	for i := range 15 {
		w.Depth(updateAt(int64(26+i), 6+i)) // up to id 40, at second 20
	}
	w.CutDepth()
	s := query.New(store, clockAt(22))
	for name, gap := range map[string]market.Gap{
		"as it happened": {Start: second(15), End: second(6)},
		"in order":       {Start: second(6), End: second(15)},
	} {
		gap.Series, gap.Cause, gap.FirstID, gap.LastID = depthOfBTCUSDT, market.CauseClock, 26, 25
		write(t, store, market.Batch{Gaps: []market.Gap{gap}, Statuses: []market.RecorderStatus{{
			Recorder: "a", UpdatedAt: second(22), Markets: []market.MarketStatus{{
				Market: historytest.BTCUSDT, State: market.StateSynced, LastUpdateID: 40, EventTime: second(20), RecvTime: second(22),
			}},
		}}})
		for at := range 25 {
			got := bookOf(t, s, query.BookQuery{At: new(second(at))})
			switch {
			case at < 5:
				if got.State != query.Synced || got.LastID != int64(10+at) {
					t.Errorf("%s, second %d, before: %s, id %d", name, at, got.State, got.LastID)
				}
			case at >= 6 && at < 15:
				if got.State != query.Gap || len(got.Gaps) == 0 || got.Gaps[0].Cause != market.CauseClock {
					t.Errorf("%s, second %d, shown twice: %s, gaps %+v", name, at, got.State, got.Gaps)
				}
			case at >= 15 && got.State != query.Gap && got.LastID != int64(min(40, 20+at)):
				t.Errorf("%s, second %d, behind: %s, id %d", name, at, got.State, got.LastID)
			}
		}
		for id := int64(10); id <= 40; id++ {
			got := bookOf(t, s, query.BookQuery{UpdateID: &id})
			want, lastID := query.Synced, id
			if id > 15 && id < 20 { // missed
				want, lastID = query.Gap, 15
			}
			if got.State != want || got.LastID != lastID || (want == query.Gap) != (len(got.Gaps) > 0) {
				t.Errorf("%s: id %d: %s, id %d, gaps %+v", name, id, got.State, got.LastID, got.Gaps)
			}
		}
		spans, gaps, err := s.Coverage(t.Context(), query.RangeQuery{Market: historytest.BTCUSDT, Start: second(8), End: second(10)})
		if err != nil || len(gaps) != 1 || len(spans) == 0 || slices.ContainsFunc(states(spans), func(c query.CoverageState) bool { return c == query.Available }) {
			t.Errorf("%s: coverage %+v, gaps %+v, %v", name, spans, gaps, err)
		}
		if got := bookOf(t, s, query.BookQuery{}); got.State != query.Gap && got.LastID != 40 {
			t.Errorf("%s, latest: %s, id %d", name, got.State, got.LastID)
		}
	}
}

// TestClockStepsBackInAHole has an exchange whose clock stepped back while updates were missed: only the entry of the hole
// tells.
func TestClockStepsBackInAHole(t *testing.T) {
	store, w := history(t) // ids up to 25, at second 15
	w.Gap(market.Gap{
		Series: depthOfBTCUSDT, Cause: market.CauseOverflow, FirstID: 26, LastID: 27, Start: second(15), End: second(12),
		DetectedAt: second(15), RepairedAt: second(15), Repair: market.RepairSnapshot,
	})
	w.Snapshot(snapshotAt(27, 12))
	for i := range 5 {
		w.Depth(updateAt(int64(28+i), 13+i)) // up to id 32, at second 17
	}
	w.CutDepth()
	s := query.New(store, clockAt(1000))
	for at, want := range map[int]query.Book{
		11: {State: query.Synced, LastID: 21}, 13: {State: query.Gap}, 14: {State: query.Gap}, 16: {State: query.Synced, LastID: 31},
	} {
		got := bookOf(t, s, query.BookQuery{At: new(second(at))})
		if got.State != want.State || (want.State == query.Gap) != (len(got.Gaps) > 0) || (want.LastID != 0 && got.LastID != want.LastID) {
			t.Errorf("second %d: %s, id %d, gaps %+v", at, got.State, got.LastID, got.Gaps)
		}
	}
	for id := int64(20); id <= 32; id++ {
		want := query.Synced
		if id == 26 {
			want = query.Gap
		}
		if got := bookOf(t, s, query.BookQuery{UpdateID: &id}); got.State != want || (want == query.Synced && got.LastID != id) {
			t.Errorf("id %d: %s, id %d", id, got.State, got.LastID)
		}
	}
}

// TestSnapshotFromTheFutureBehindAHole has a snapshot that holds more than its time says, and the hole before it.
func TestSnapshotFromTheFutureBehindAHole(t *testing.T) {
	store := storetest.NewMemory()
	w := historytest.NewWriter(t, store, historytest.BTCUSDT)
	w.Snapshot(snapshotAt(10, 0))
	w.Depth(updateAt(11, 1))
	w.Unapplied(updateAt(15, 6))
	w.Snapshot(snapshotAt(15, 5))
	w.Depth(updateAt(16, 7))
	w.CutDepth()
	s := query.New(store, clockAt(1000))
	for at, want := range map[int]query.Book{
		1: {State: query.Synced, LastID: 11}, 5: {State: query.Gap, LastID: 11},
		6: {State: query.Synced, LastID: 15}, 7: {State: query.Synced, LastID: 16},
	} {
		if got := bookOf(t, s, query.BookQuery{At: new(second(at))}); got.State != want.State || got.LastID != want.LastID {
			t.Errorf("second %d: %s, id %d; want %s, %d", at, got.State, got.LastID, want.State, want.LastID)
		}
	}
}

// TestSnapshotNearTheLastUpdate has a hole up to id 12, update 13 to 15 at second 6, a snapshot, and update 16 to 18 at
// second 7.
func TestSnapshotNearTheLastUpdate(t *testing.T) {
	update := func(first, last int64, n int) *market.DepthUpdate {
		u := updateAt(last, n)
		u.FirstID, u.PrevID = first, first-1
		return u
	}
	for _, c := range []struct {
		name string
		id   int64 // of the snapshot
		late time.Duration
		byID map[int64]int64         // id asked for: id of the book; 0 = gap
		byAt map[time.Duration]int64 // behind second 6, the same
	}{
		{
			"with the update", 15, 0,
			map[int64]int64{13: 15, 14: 15, 15: 15, 16: 18, 18: 18},
			map[time.Duration]int64{-1: 0, 0: 15, time.Second - 1: 15, time.Second: 18},
		},
		{
			"with the update, and a later time", 15, 100 * time.Millisecond,
			map[int64]int64{13: 15, 14: 15, 15: 15, 16: 18, 18: 18},
			map[time.Duration]int64{0: 0, 100 * time.Millisecond: 15, time.Second: 18},
		},
		{
			"within the next update, of unknown time", 17, 0,
			map[int64]int64{13: 0, 15: 0, 16: 18, 17: 17, 18: 18},
			map[time.Duration]int64{-1: 0, 0: 0, time.Second: 18},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			store := storetest.NewMemory()
			w := historytest.NewWriter(t, store, historytest.BTCUSDT)
			w.Snapshot(snapshotAt(10, 0))
			w.Unapplied(update(13, 15, 6))
			snapshot := snapshotAt(c.id, 6)
			snapshot.EventTime += market.Time(c.late)
			w.Snapshot(snapshot)
			w.Depth(update(16, 18, 7))
			w.CutDepth()
			s := query.New(store, clockAt(1000))
			check := func(what any, got *query.Book, want int64) {
				t.Helper()
				if want == 0 && got.State != query.Gap || want != 0 && (got.State != query.Synced || got.LastID != want) {
					t.Errorf("%v: %s, id %d; want %d", what, got.State, got.LastID, want)
				}
			}
			for id, want := range c.byID {
				check(id, bookOf(t, s, query.BookQuery{UpdateID: &id}), want)
			}
			for d, want := range c.byAt {
				check(d, bookOf(t, s, query.BookQuery{At: new(second(6).Add(d))}), want)
			}
		})
	}
}

// TestSnapshotOfALaterTime has a snapshot that carries a time long behind those of the updates around it. The ledger's
// entry of the hole leads to it.
func TestSnapshotOfALaterTime(t *testing.T) {
	store := storetest.NewMemory()
	w := historytest.NewWriter(t, store, historytest.BTCUSDT)
	w.Snapshot(snapshotAt(10, 0))
	u := updateAt(15, 6)
	u.FirstID, u.PrevID = 13, 12
	w.Unapplied(u)
	w.Snapshot(snapshotAt(15, 20))
	w.Depth(updateAt(16, 8)) // the snapshot was old
	w.Depth(updateAt(17, 30))
	w.CutDepth()
	w.Gap(market.Gap{
		Series: market.Series{Stream: market.Depth}, Cause: market.CauseRestart, FirstID: 11, LastID: 12,
		Start: second(0), End: second(20), RepairedAt: second(20), Repair: market.RepairSnapshot,
	})
	s := query.New(store, clockAt(1000))
	for id, want := range map[int64]query.Book{
		12: {State: query.Gap, LastID: 10}, 13: {State: query.Synced, LastID: 15}, 14: {State: query.Synced, LastID: 15},
		15: {State: query.Synced, LastID: 15}, 16: {State: query.Synced, LastID: 16},
		17: {State: query.Synced, LastID: 17},
	} {
		if got := bookOf(t, s, query.BookQuery{UpdateID: &id}); got.State != want.State || got.LastID != want.LastID {
			t.Errorf("id %d: %s, id %d; want %s, %d", id, got.State, got.LastID, want.State, want.LastID)
		}
	}
}

// TestTradesEqualTheModel has recorders that miss trades, each in other places, with entries of the ledger for what the
// first one missed and trades that were fetched again, now and then.
func TestTradesEqualTheModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		store := storetest.NewMemory()
		const last = 40
		held, backfilled := map[int64]bool{}, map[int64]bool{}
		trade := func(id int64) *market.Trade {
			return &market.Trade{ID: id, EventTime: second(int(id) / 3), Price: 1, Quantity: market.Decimal(id), Side: market.Buy}
		}
		first := historytest.NewWriter(t, store, historytest.BTCUSDT)
		again := historytest.NewWriter(t, store, historytest.BTCUSDT)
		doubt := rapid.IntRange(0, 9).Draw(rt, "doubt") == 0
		for id := int64(1); id <= last; {
			until := min(last, id+rapid.Int64Range(0, 12).Draw(rt, "recorded"))
			for ; id <= until; id++ {
				first.Trade(trade(id))
				held[id] = true
			}
			first.BreakTrades()
			lost := rapid.Int64Range(0, 5).Draw(rt, "lost")
			if lost == 0 || id+lost > last {
				continue
			}
			repair := market.RepairResumed
			if kept := rapid.Int64Range(0, lost).Draw(rt, "fetched again"); kept > 0 {
				for i := range kept {
					tr := trade(id + i)
					tr.Flags = market.TradeFlagBackfilled
					again.Trade(tr)
					held[tr.ID], backfilled[tr.ID] = true, true
				}
				again.BreakTrades()
				if kept == lost {
					repair = market.RepairBackfilled
				}
			}
			first.Gap(market.Gap{
				Series: market.Series{Stream: market.Trades}, Cause: market.CauseDisconnect, FirstID: id, LastID: id + lost - 1,
				Start: trade(id - 1).EventTime, End: trade(id + lost).EventTime, RepairedAt: 1, Repair: repair,
			})
			id += lost
		}
		if doubt {
			first.Gap(market.Gap{
				Series: market.Series{Stream: market.Trades}, Cause: market.CauseClock, FirstID: 1000, LastID: 999, // of a key that no other has
				Start: second(2), End: second(1),
			})
		}
		other := historytest.NewWriter(t, store, historytest.BTCUSDT)
		from := rapid.Int64Range(1, last).Draw(rt, "second from")
		to := rapid.Int64Range(from-1, last).Draw(rt, "second to")
		for id := from; id <= to; id++ {
			other.Trade(trade(id))
			held[id] = true
		}
		other.CutTrades()
		write(t, store, alive(1000, 20, last))
		checkTrades(t, rt, query.New(store, clockAt(1000)), held, backfilled, doubt)
	})
}

func checkTrades(t *testing.T, rt *rapid.T, s *query.Service, held, backfilled map[int64]bool, doubt bool) {
	q := query.TradesQuery{Market: historytest.BTCUSDT, Limit: rapid.IntRange(1, 50).Draw(rt, "limit")}
	var got []int64
	for {
		page, err := s.Trades(t.Context(), q)
		if err != nil {
			rt.Fatal(err)
		}
		for i, tr := range page.Trades {
			flagged := tr.Flags&market.TradeFlagBackfilled != 0
			if tr.Quantity != market.Decimal(tr.ID) || (flagged && !backfilled[tr.ID]) {
				rt.Fatalf("trade %+v", tr)
			}
			if flagged && !slices.ContainsFunc(page.Gaps, func(g market.Gap) bool { return g.FirstID <= tr.ID && tr.ID <= g.LastID }) {
				rt.Fatalf("trade %d, number %d of the page, was fetched again, and the page says nothing: %+v", tr.ID, i, page.Gaps)
			}
			got = append(got, tr.ID)
		}
		if page.NextID == 0 {
			break
		}
		q.FromID = page.NextID
	}
	var want []int64
	whole := true
	for id := int64(1); id <= 40; id++ {
		if held[id] {
			want = append(want, id)
		}
		whole = whole && held[id]
	}
	if !slices.Equal(got, want) {
		rt.Fatalf("trades %v, want %v", got, want)
	}
	for _, c := range []struct {
		q    query.TradesQuery
		good bool
	}{
		{query.TradesQuery{}, whole},
		{query.TradesQuery{FromID: 1}, whole},
		{query.TradesQuery{Start: second(0)}, whole && !doubt},
		{query.TradesQuery{Start: second(0), End: second(15)}, whole && !doubt},
	} {
		c.q.Market, c.q.Limit, c.q.Strict = historytest.BTCUSDT, 100, true
		_, err := s.Trades(t.Context(), c.q)
		if refused, _ := errors.AsType[*query.DataGap](err); (refused == nil) != c.good {
			rt.Fatalf("strict, %+v: %v; whole %v, doubt %v", c.q, err, whole, doubt)
		}
	}
	spans, _, err := s.Coverage(t.Context(), query.RangeQuery{Market: historytest.BTCUSDT, Stream: market.Trades})
	if err != nil || (len(spans) == 1 && spans[0].State == query.Available) != (whole && !doubt) {
		rt.Fatalf("coverage %+v, %v; whole %v, doubt %v", spans, err, whole, doubt)
	}
}

// TestTradesOfAClockThatStepsBack has a page that lies behind the step by id, and before it by time.
func TestTradesOfAClockThatStepsBack(t *testing.T) {
	store := storetest.NewMemory()
	w := historytest.NewWriter(t, store, historytest.BTCUSDT)
	for i := range 20 {
		at := i // seconds 0 to 9, and 5 to 14
		if i >= 10 {
			at -= 5
		}
		w.Trade(&market.Trade{ID: int64(1 + i), EventTime: second(at), Price: 1, Quantity: 1, Side: market.Buy})
	}
	w.CutTrades()
	w.Gap(market.Gap{
		Series: market.Series{Stream: market.Trades}, Cause: market.CauseClock, FirstID: 11, LastID: 10, Start: second(9), End: second(5),
	})
	write(t, store, alive(1000, 20, 20))
	s := query.New(store, clockAt(1000))
	for _, c := range []struct {
		name string
		q    query.TradesQuery
		told bool
		good bool // strict refuses what is ambiguous: times, and never ids
	}{
		{"all", query.TradesQuery{}, true, true},
		{"by id, over the step", query.TradesQuery{FromID: 8}, true, true},
		{"by time", query.TradesQuery{Start: second(0)}, true, false},
		{"before", query.TradesQuery{Start: second(0), End: second(5)}, false, true},
		{"shown twice", query.TradesQuery{Start: second(6), End: second(8)}, true, false},
		{"behind", query.TradesQuery{Start: second(10), End: second(12)}, false, true},
	} {
		c.q.Market, c.q.Limit = historytest.BTCUSDT, 100
		page, err := s.Trades(t.Context(), c.q)
		if err != nil || (len(page.Gaps) > 0) != c.told {
			t.Errorf("%s: %+v, %v", c.name, page, err)
		}
		c.q.Strict = true
		if _, err := s.Trades(t.Context(), c.q); (err == nil) != c.good {
			t.Errorf("%s, strict: %v", c.name, err)
		}
	}
}

// TestTradesPageOverManyGaps has every second trade missing.
func TestTradesPageOverManyGaps(t *testing.T) {
	store := storetest.NewMemory()
	w := historytest.NewWriter(t, store, historytest.BTCUSDT)
	const trades = 1000
	for i := range trades {
		w.Trade(&market.Trade{ID: int64(1 + 2*i), EventTime: second(i), Price: 1, Quantity: 1, Side: market.Buy})
		w.BreakTrades()
		if i > 0 {
			w.Gap(market.Gap{
				Series: market.Series{Stream: market.Trades}, Cause: market.CauseSequence, FirstID: int64(2 * i), LastID: int64(2 * i),
				Start: second(i - 1), End: second(i),
			})
		}
	}
	s := query.New(store, clockAt(10_000))
	q := query.TradesQuery{Market: historytest.BTCUSDT, Limit: trades}
	want, told := int64(1), map[int64]bool{}
	for {
		page, err := s.Trades(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		for _, tr := range page.Trades {
			if tr.ID != want {
				t.Fatalf("trade %d, want %d", tr.ID, want)
			}
			want += 2
		}
		for _, g := range page.Gaps {
			told[g.FirstID] = true
		}
		if page.NextID == 0 {
			break
		}
		q.FromID = page.NextID
	}
	if want != 2*trades+1 || len(told) != trades-1 {
		t.Errorf("trades up to %d, %d entries", want-2, len(told))
	}
}
