package recorder_test

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"tapedeck/ingester/internal/recorder"
	"tapedeck/shared/market"
)

// TestHolesOfEarlierProcesses are fetched again, as far as that was not done: a stop or a crash ended the work of the process that
// found them.
func TestHolesOfEarlierProcesses(t *testing.T) {
	entry := func(first, last int64, change ...func(*market.Gap)) market.Gap {
		g := market.Gap{
			Series: tradeOf, Cause: market.CauseDisconnect, FirstID: first, LastID: last,
			Start: millis(int(10 * (first - 1))), End: millis(int(10 * (last + 1))),
			DetectedAt: 1, RepairedAt: 1, Repair: market.RepairResumed,
		}
		for _, change := range change {
			change(&g)
		}
		return g
	}
	span := func(first, last int64) market.Span {
		return market.Span{
			Series: tradeOf, FirstID: first, LastID: last, PrevID: first - 1,
			Start: millis(int(10 * first)), End: millis(int(10 * last)),
		}
	}
	open := func(g *market.Gap) { g.End, g.RecvEnd, g.RepairedAt, g.Repair = 0, 0, 0, "" }
	cause := func(c market.Cause) func(*market.Gap) { return func(g *market.Gap) { g.Cause = c } }
	for _, test := range []struct {
		name    string
		limit   int64
		ledger  []market.Gap
		spans   []market.Span // of the store, which ends with 60
		fetched string
		gaps    string
	}{
		{"all of one", 0, []market.Gap{entry(11, 14)}, nil, "11 12 13 14", "disconnect 11-14 backfilled"},
		{"the rest of one", 0, []market.Gap{entry(11, 16)}, []market.Span{span(1, 10), span(11, 13), span(17, 60)}, "14 15 16", "disconnect 11-16 backfilled"},
		{"the last word on one", 0, []market.Gap{entry(11, 16)}, []market.Span{span(1, 10), span(11, 13), span(14, 60)}, "", "disconnect 11-16 backfilled"},
		{"what lies around what is held", 0, []market.Gap{entry(11, 16)}, []market.Span{span(1, 10), span(13, 14)}, "11 12 15 16", "disconnect 11-16 backfilled"},
		{"what lies between what is held", 0, []market.Gap{entry(11, 20)}, []market.Span{span(1, 12), span(14, 15), span(15, 17), span(20, 60)}, "13 18 19", "disconnect 11-20 backfilled"},
		{"what the exchange has around what is held", 0, []market.Gap{entry(40, 46)}, []market.Span{span(44, 45)}, "40 42 46", ""},
		{"what lies before what is held", 0, []market.Gap{entry(11, 16)}, []market.Span{span(1, 10), span(13, 60)}, "11 12", "disconnect 11-16 backfilled"},
		{"only as many as are wanted", 2, []market.Gap{entry(11, 16)}, nil, "15 16", ""},
		{"each", 0, []market.Gap{entry(31, 33), entry(11, 12, cause(market.CauseOverflow))}, nil, "11 12 31 32 33", "overflow 11-12 backfilled, disconnect 31-33 backfilled"},
		{"nothing twice", 0, []market.Gap{entry(11, 14), entry(13, 16), entry(15, 16)}, nil, "11 12 13 14 15 16", "disconnect 11-14 backfilled"},
		{"nothing that is fetched", 0, []market.Gap{entry(11, 14, func(g *market.Gap) { g.Repair = market.RepairBackfilled })}, nil, "", ""},
		{"one that nobody closed", 0, []market.Gap{entry(11, 14, open)}, nil, "11 12 13 14", "disconnect 11-14 backfilled"},
		{"the last word on one that nobody closed", 0, []market.Gap{entry(11, 14, open)}, []market.Span{span(1, 60)}, "", "disconnect 11-14 backfilled"},
		{"what the exchange does not have of one that nobody closed", 0, []market.Gap{entry(41, 44, open)}, nil, "42 44", ""},
		{"what lies before what is held of one that nobody closed", 0, []market.Gap{entry(11, 16, open)}, []market.Span{span(1, 10), span(13, 16), span(17, 60)}, "11 12", "disconnect 11-16 backfilled"},
		{"of one that nobody closed, and that ends within", 0, []market.Gap{entry(11, 16, open)}, []market.Span{span(1, 10), span(15, 60)}, "11 12 13 14", "disconnect 11-16 backfilled"},
		{"nothing where too much is held to look at", 0, []market.Gap{entry(11, 14)}, slices.Repeat([]market.Span{span(1, 10)}, 100), "", ""},
		{"nothing that the store refused", 0, []market.Gap{entry(11, 14, cause(market.CauseRefused))}, nil, "", ""},
		{"no doubts", 0, []market.Gap{entry(11, 10, cause(market.CauseClock)), entry(12, 14, cause(market.CauseAudit))}, nil, "", ""},
		{"nothing behind what is stored", 0, []market.Gap{entry(61, 64)}, nil, "", ""},
		{"nothing found meanwhile", 0, []market.Gap{entry(11, 14, func(g *market.Gap) { g.DetectedAt = market.TimeOf(time.Now().Add(time.Hour)) })}, nil, "", ""},
		{"none at all", -1, []market.Gap{entry(11, 14)}, nil, "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := &history{absent: map[int64]bool{41: true, 43: true}}
				h.to(60)
				config := recorder.Config{BackfillTrades: 100}
				switch {
				case test.limit > 0:
					config.BackfillTrades = test.limit
				case test.limit < 0:
					config.BackfillTrades = 0
				}
				d := start(t, options{trades: h, config: config, sink: &recorded{
					ledger: test.ledger, spans: test.spans,
					tails: map[market.Series]market.Block{tradeOf: {Series: tradeOf, FirstID: 51, LastID: 60, End: millis(600)}},
				}})
				pass(time.Minute)
				d.send(61)
				d.stop()
				want := test.fetched + " 61"
				if test.fetched == "" {
					want = "61"
				}
				if got := ids(tradesOf(t, d.sink)); got != want {
					t.Errorf("trades %s, want %s", got, want)
				}
				d.want("gaps trades", test.gaps)
				for _, g := range d.sink.batch.Gaps {
					if g.End < g.Start || g.End > millis(int(10*(g.LastID+1))) || g.RepairedAt == 0 {
						t.Errorf("gap %+v", g)
					}
				}
			})
		})
	}
}

// TestHolesTakenUpAreTheNewest, and leave room for new ones.
func TestHolesTakenUpAreTheNewest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ledger []market.Gap
		for id := int64(2); id <= 3000; id += 2 {
			ledger = append(ledger, market.Gap{
				Series: tradeOf, Cause: market.CauseSequence, FirstID: id, LastID: id, Start: millis(int(10 * (id - 1))), End: millis(int(10 * (id + 1))),
				DetectedAt: 1, RepairedAt: 1, Repair: market.RepairResumed,
			})
		}
		h := &history{wait: make(chan struct{})}
		h.to(3100)
		d := start(t, options{trades: h, config: recorder.Config{BackfillTrades: 100}, sink: &recorded{
			ledger: ledger, old: 1400, tails: map[market.Series]market.Block{tradeOf: {Series: tradeOf, FirstID: 3001, LastID: 3001, End: millis(30_010)}},
		}})
		d.send(3002)
		pass(time.Second)
		for id := int64(3004); id <= 3060; id += 2 {
			d.send(id)
			pass(300 * time.Millisecond)
		}
		close(h.wait)
		pass(time.Minute)
		d.stop()
		trades := tradesOf(t, d.sink)
		for id := int64(3002); id <= 3060; id++ {
			if _, ok := trades[id]; !ok {
				t.Errorf("trade %d was not fetched", id)
			}
		}
		for id := int64(2938); id <= 3000; id += 2 {
			if _, ok := trades[id]; !ok {
				t.Errorf("trade %d was not taken up", id)
			}
		}
	})
}

// TestHolesTakenUpOfAClockThatSteppedBack: the ledger is told of no step twice.
func TestHolesTakenUpOfAClockThatSteppedBack(t *testing.T) {
	hole := market.Gap{
		Series: tradeOf, Cause: market.CauseDisconnect, FirstID: 11, LastID: 16, Start: millis(20_000), End: millis(10_000),
		DetectedAt: 1, RepairedAt: 1, Repair: market.RepairResumed,
	}
	step := func(id int64, from, to int) market.Gap {
		return market.Gap{Series: tradeOf, Cause: market.CauseClock, FirstID: id, LastID: id - 1, Start: millis(from), End: millis(to), RepairedAt: 1}
	}
	held := market.Span{Series: tradeOf, FirstID: 11, LastID: 13, PrevID: 10, Start: millis(21_000), End: millis(23_000)}
	for _, test := range []struct {
		name   string
		ledger []market.Gap
		spans  []market.Span
		times  []int // of the ids from 11 on, in seconds
		gaps   string
	}{
		{"nobody told", []market.Gap{hole}, nil, []int{21, 22, 23, 5, 6, 7}, "clock 14-13 resumed, disconnect 11-16 backfilled"},
		{"behind what is held", []market.Gap{hole}, []market.Span{held}, []int{21, 22, 23, 22, 6, 7}, "clock 15-14 resumed, disconnect 11-16 backfilled"},
		{"just behind what is held", []market.Gap{hole}, []market.Span{held}, []int{21, 22, 23, 21, 22, 23}, "clock 14-13 resumed, clock 17-16 resumed, disconnect 11-16 backfilled"},
		{"told within what is held", []market.Gap{hole, step(13, 23_000, 3_000)}, []market.Span{held}, []int{21, 23, 3, 5, 6, 7}, "disconnect 11-16 backfilled"},
		{"before what is held", []market.Gap{hole}, []market.Span{{
			Series: tradeOf, FirstID: 13, LastID: 14, PrevID: 12, Start: millis(5_000), End: millis(5_000),
		}}, []int{20, 21, 5, 5, 6, 7}, "clock 13-12 resumed, disconnect 11-16 backfilled"},
		{"a second one behind what is held", []market.Gap{hole, step(12, 23_000, 3_000)}, []market.Span{{
			Series: tradeOf, FirstID: 11, LastID: 13, PrevID: 10, Start: millis(3_000), End: millis(40_000),
		}}, []int{23, 3, 40, 5, 6, 7}, "clock 14-13 resumed, disconnect 11-16 backfilled"},
		{"told long before in what is held", []market.Gap{hole, step(5, 23_000, 3_000)}, []market.Span{{
			Series: tradeOf, FirstID: 1, LastID: 13, PrevID: 0, Start: millis(3_000), End: millis(23_000),
		}}, []int{4, 4, 4, 5, 6, 7}, "disconnect 11-16 backfilled"},
		{"told behind what is held", []market.Gap{hole, step(15, 23_000, 3_000)}, []market.Span{held}, []int{21, 22, 23, 23, 5, 6}, "disconnect 11-16 backfilled"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := &history{times: map[int64]int{17: 10_000}}
				for i, seconds := range test.times {
					h.times[int64(11+i)] = seconds * 1000
				}
				h.to(60)
				d := start(t, options{trades: h, config: recorder.Config{BackfillTrades: 100}, sink: &recorded{
					ledger: test.ledger, spans: test.spans,
					tails: map[market.Series]market.Block{tradeOf: {Series: tradeOf, FirstID: 51, LastID: 60, End: millis(15_000)}},
				}})
				pass(time.Minute)
				d.stop()
				d.want("gaps trades", test.gaps)
			})
		})
	}
}

// TestHolesTakenUpLetOthersGoBefore, whether they are being fetched or cannot be at the time.
func TestHolesTakenUpLetOthersGoBefore(t *testing.T) {
	for _, test := range []struct {
		name  string
		errs  []error
		asked []int64 // from which id, at first
	}{
		{"between two pages", nil, []int64{1, 30002, 1001, 2001}},
		{"between two tries", slices.Repeat([]error{errNotHere}, 5), []int64{1, 1, 30002, 30002, 30002, 30002, 1}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := &history{errs: test.errs}
				h.to(30_003)
				if test.errs == nil {
					h.wait = make(chan struct{})
				}
				d := start(t, options{trades: h, config: recorder.Config{BackfillTrades: 100_000}, sink: &recorded{
					ledger: []market.Gap{{
						Series: tradeOf, Cause: market.CauseDisconnect, FirstID: 2, LastID: 20_000, Start: millis(10), End: millis(200_010),
						DetectedAt: 1, RepairedAt: 1, Repair: market.RepairResumed,
					}},
					tails: map[market.Series]market.Block{tradeOf: {Series: tradeOf, FirstID: 30_000, LastID: 30_000, End: millis(300_000)}},
				}})
				d.send(30_001)
				pass(time.Second)
				d.send(30_003)
				pass(500 * time.Millisecond)
				if h.wait != nil {
					close(h.wait)
				}
				pass(time.Hour)
				d.stop()
				if got := h.asked[:len(test.asked)]; !slices.Equal(got, test.asked) {
					t.Errorf("asked from %d, want %d", h.asked, test.asked)
				}
				d.want("gaps trades", "sequence 30002-30002 resumed, sequence 30002-30002 backfilled, disconnect 2-20000 backfilled")
			})
		})
	}
}

// TestHolesTakenUpOfASilentStore: the market is recorded all the same.
func TestHolesTakenUpOfASilentStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &history{}
		h.to(60)
		d := start(t, options{trades: h, config: recorder.Config{BackfillTrades: 100}, sink: &recorded{
			ledgerErr: errors.New("broken"), tails: map[market.Series]market.Block{tradeOf: {Series: tradeOf, LastID: 60, End: millis(600)}},
		}})
		pass(time.Minute)
		d.send(61)
		d.stop()
		d.want("blocks trades", "61-61", "gaps trades", "")
	})
}

// TestHolesAreTakenUpAgain: what this process gave up is tried again as time goes by, but for what the exchange does not
// have.
func TestHolesAreTakenUpAgain(t *testing.T) {
	for _, test := range []struct {
		name    string
		history *history
		refuse  int64 // the id of a trade that the sink refuses at first
		asked   int   // requests for trades
		trades  string
		gaps    string
	}{
		{"no answer came", &history{errs: slices.Repeat([]error{errNotHere}, 20)}, 0, 21, "1 2 3 4 5", "sequence 3-4 resumed, sequence 3-4 backfilled"},
		{"nor for hours", &history{errs: slices.Repeat([]error{errNotHere}, 50)}, 0, 51, "1 2 3 4 5", "sequence 3-4 resumed, sequence 3-4 backfilled"},
		{"the sink refused it", &history{}, 2, 2, "1 2 3 4 5", "sequence 3-4 resumed, sequence 3-4 backfilled, overflow 2-2 resumed, overflow 2-2 backfilled"},
		{"the exchange does not have it", &history{absent: map[int64]bool{4: true}}, 0, 1, "1 2 3 5", "sequence 3-4 resumed"},
		{"the exchange does not tell", &history{errs: []error{market.Errorf(market.KindInvalid, "no")}}, 0, 1, "1 2 5", "sequence 3-4 resumed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sink := &recorded{live: true, refuse: func(b *market.Batch) bool {
					return slices.ContainsFunc(b.Blocks, func(b market.Block) bool { return b.FirstID == test.refuse })
				}}
				h := test.history
				d := start(t, options{trades: h, sink: sink, config: recorder.Config{BackfillTrades: 100, BackfillRetry: time.Hour}})
				d.send(1)
				pass(2 * time.Second)
				d.send(2)
				pass(2 * time.Second)
				sink.setRefuse(nil)
				h.to(5)
				d.send(5)
				pass(8 * time.Hour)
				d.stop()
				if got := ids(tradesOf(t, sink)); got != test.trades {
					t.Errorf("trades %s, want %s", got, test.trades)
				}
				d.want("gaps trades", test.gaps)
				if got := h.requests(); got != test.asked {
					t.Errorf("asked %d times, want %d", got, test.asked)
				}
			})
		})
	}
}

// TestHolesAreLeftAlone for a day once they were fetched as far as they can be: what the store refuses of them, or says
// that it does not have for another reason, would be fetched time and again.
func TestHolesAreLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &history{}
		h.to(60)
		d := start(t, options{trades: h, config: recorder.Config{BackfillTrades: 100, BackfillRetry: time.Hour}, sink: &recorded{
			ledger: []market.Gap{{
				Series: tradeOf, Cause: market.CauseDisconnect, FirstID: 11, LastID: 14, Start: millis(100), End: millis(150),
				DetectedAt: 1, RepairedAt: 1, Repair: market.RepairResumed,
			}},
			tails: map[market.Series]market.Block{tradeOf: {Series: tradeOf, FirstID: 51, LastID: 60, End: millis(600)}},
		}})
		d.send(61, 62)
		h.to(62)
		pass(23 * time.Hour)
		if got := h.requests(); got != 1 {
			t.Errorf("asked %d times within a day, want 1", got)
		}
		pass(3 * time.Hour)
		if got := h.requests(); got != 2 {
			t.Errorf("asked %d times after a day, want 2", got)
		}
		d.stop()
	})
}
