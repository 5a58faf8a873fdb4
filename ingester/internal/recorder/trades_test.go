package recorder_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"tapedeck/ingester/internal/recorder"
	"tapedeck/shared/market"
	"tapedeck/shared/tape"
)

// history is an exchange's memory of trades 1 to last: what deck.trade sends, 10 ms after each other.
type history struct {
	mu     sync.Mutex
	last   int64
	errs   []error // of the next requests for trades
	absent map[int64]bool
	times  map[int64]int // in milliseconds; of others 10 * id
	asked  []int64       // from which id trades were asked for
	wait   chan struct{}
}

func (h *history) to(last int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last = last
}

// requests returns how often trades were asked for.
func (h *history) requests() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.asked)
}

func (h *history) LastTradeID(context.Context, market.Market) (int64, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.last == 0 {
		return 0, errNotHere
	}
	return h.last, nil
}

func (h *history) TradesFrom(ctx context.Context, _ market.Market, fromID int64, limit int) (trades []market.Trade, err error) {
	if h.wait != nil {
		select {
		case <-h.wait:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asked = append(h.asked, fromID)
	if len(h.errs) > 0 {
		err, h.errs = h.errs[0], h.errs[1:]
		return nil, err
	}
	for id := fromID; id <= h.last && len(trades) < limit; id++ {
		ms, ok := h.times[id]
		if !ok {
			ms = 10 * int(id)
		}
		if !h.absent[id] {
			trades = append(trades, market.Trade{
				ID: id, EventTime: millis(ms), RecvTime: market.TimeOf(time.Now()),
				Price: 100e8, Quantity: 1e8, Side: market.Sell, Flags: market.TradeFlagM | market.TradeFlagBackfilled,
			})
		}
	}
	return trades, nil
}

// send sends trades as history has them.
func (d *deck) send(ids ...int64) {
	for _, id := range ids {
		d.trade(id, 10*int(id))
	}
}

// reconnect loses the only connection and makes another.
func (d *deck) reconnect() {
	d.inbox.Disconnected(1)
	d.inbox.Connected(1)
}

func TestTradesWithoutBackfill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := start(t, options{})
		d.send(5, 6, 6, 4, 7, 10, 11)
		pass(200 * time.Millisecond)
		d.send(9, 10) // still in time
		d.want("gaps trades", "")
		pass(250 * time.Millisecond)
		d.want("gaps trades", "sequence 8-8 resumed")
		d.send(8) // not any more
		d.reconnect()
		d.send(12) // nothing was missed
		d.reconnect()
		d.send(14)
		pass(time.Second)
		d.frame(market.Trades, "nonsense")
		d.send(16)
		pass(time.Second)
		d.inbox.Connected(1)
		d.inbox.Disconnected(1) // the other one lives
		d.send(18)
		pass(10 * time.Second)
		d.send(20)
		pass(10 * time.Second)
		d.inbox.Connected(1) // the other one was dead by then
		d.send(22)
		d.stop()
		d.want("blocks trades", "5-7, 9-12, 14-14, 16-16, 18-18, 20-20, 22-22", "gaps trades",
			"sequence 8-8 resumed, disconnect 13-13 resumed, malformed 15-15 resumed, disconnect 17-17 resumed, sequence 19-19 resumed, "+
				"disconnect 21-21 resumed")
		if got := d.events(market.Trades, "duplicate"); got != 4 {
			t.Errorf("%d duplicates, want 4", got)
		}
	})
}

// TestReorderedTrades sends trades in every order of a few: none is lost, and no hole is told of.
func TestReorderedTrades(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, order := range permutations([]int64{2, 3, 4, 5, 6}) {
			d := start(t, options{})
			d.send(1)
			d.send(order...)
			d.stop()
			d.want("blocks trades", "1-6", "gaps trades", "")
			if got := d.events(market.Trades, "recorded"); got != 6 {
				t.Errorf("%v: %d recorded", order, got)
			}
		}
	})
}

func permutations(of []int64) (all [][]int64) {
	if len(of) == 1 {
		return [][]int64{of}
	}
	for i, first := range of {
		for _, rest := range permutations(slices.Delete(slices.Clone(of), i, i+1)) {
			all = append(all, append([]int64{first}, rest...))
		}
	}
	return all
}

func TestBackfill(t *testing.T) {
	const off = -1
	for _, test := range []struct {
		name    string
		limit   int64
		history *history
		fetched string // of the hole, 3 to 8
		gaps    string
		results string // counted
	}{
		{"all at once", 0, &history{}, "3 4 5 6 7 8 ", "sequence 3-8 resumed, sequence 3-8 backfilled", "complete"},
		{"none is wanted", off, &history{}, "", "sequence 3-8 resumed", ""},
		{"at the third time", 0, &history{errs: []error{errNotHere, errors.New("broken")}}, "3 4 5 6 7 8 ", "sequence 3-8 resumed, sequence 3-8 backfilled", "complete"},
		{"never", 0, &history{errs: slices.Repeat([]error{errNotHere}, 100)}, "", "sequence 3-8 resumed", "failed"},
		{"refused", 0, &history{errs: []error{market.Errorf(market.KindInvalid, "no")}}, "", "sequence 3-8 resumed", "partial"},
		{"nothing is told exactly", 0, &history{errs: []error{market.Errorf(market.KindNotFound, "no")}}, "", "sequence 3-8 resumed", "partial"},
		{"not all is told exactly", 0, &history{absent: map[int64]bool{3: true, 6: true}}, "4 5 7 8 ", "sequence 3-8 resumed", "partial"},
		{"the last is not told exactly", 0, &history{absent: map[int64]bool{8: true}}, "3 4 5 6 7 ", "sequence 3-8 resumed", "partial"},
		{"only the newest are wanted", 4, &history{}, "5 6 7 8 ", "sequence 3-8 resumed", "partial"},
		{"as many as are wanted", 6, &history{}, "3 4 5 6 7 8 ", "sequence 3-8 resumed, sequence 3-8 backfilled", "complete"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				test.history.last = 9
				config := recorder.Config{BackfillTrades: test.limit}
				switch test.limit {
				case 0:
					config.BackfillTrades = 1_000_000
				case off:
					config.BackfillTrades = 0
				}
				d := start(t, options{trades: test.history, config: config})
				d.send(1, 2, 9)
				pass(time.Hour)
				test.history.to(10) // the stream goes on
				d.send(10)
				d.stop()
				d.want("gaps trades", test.gaps)
				if got := ids(tradesOf(t, d.sink)); got != "1 2 "+test.fetched+"9 10" {
					t.Errorf("trades %s, want 1 2 %s9 10", got, test.fetched)
				}
				for _, result := range []string{"complete", "partial", "failed", "refused", "needless"} {
					want := 0
					if result == test.results {
						want = 1
					}
					if got := d.metric("tapedeck_backfills_total", map[string]string{"result": result}); got != want {
						t.Errorf("%d ended %s, want %d", got, result, want)
					}
				}
				if n := len(test.history.asked); n > 20 {
					t.Errorf("asked %d times", n)
				}
			})
		})
	}
}

// tradesOf returns the trades recorded, by id. It checks the blocks.
func tradesOf(t *testing.T, sink *recorded) map[int64]market.Trade {
	t.Helper()
	var decoder tape.Decoder
	all := map[int64]market.Trade{}
	for _, b := range sink.batch.Blocks {
		if b.Series != tradeOf {
			continue
		}
		events, err := decoder.Trades(b.Data)
		if err != nil {
			t.Fatal(err)
		}
		for i, e := range events {
			if e.ID != b.FirstID+int64(i) || e.EventTime.Truncate(market.BlockWindow) != b.Start.Truncate(market.BlockWindow) {
				t.Fatalf("trade %d at %v stands in the block of %d to %d at %v", e.ID, e.EventTime, b.FirstID, b.LastID, b.Start)
			}
			if old, ok := all[e.ID]; ok && !sameTrade(old, e) {
				t.Fatalf("trade %d was recorded as %+v and as %+v", e.ID, old, e)
			}
			all[e.ID] = e
		}
	}
	return all
}

// sameTrade compares what the exchange says of a trade, whichever way it came.
func sameTrade(a, b market.Trade) bool {
	for _, t := range []*market.Trade{&a, &b} {
		t.RecvTime, t.SentTime = 0, 0
		t.Flags &^= market.TradeFlagBackfilled
	}
	return a == b
}

// restores counts the calls of Config.Restore.
type restores struct {
	mu    sync.Mutex
	calls []market.Stream
}

func (r *restores) restore(_ market.Market, stream market.Stream) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls = append(r.calls, stream)
}

func (r *restores) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, stream := range r.calls {
		if stream == market.Trades {
			n++
		}
	}
	return n
}

// TestMuteTrades: the stream says nothing, and the exchange had trades. They are fetched again, and the feed is asked to
// restore the stream, again and again while it is mute.
func TestMuteTrades(t *testing.T) {
	for _, test := range []struct {
		name     string
		limit    int64
		trades   *history
		then     func(d *deck, h *history) // after six seconds of silence in which trades 3 to 6 happened
		trade    string                    // the trades recorded in the end
		gaps     string
		restores int
	}{
		{"and then goes on", 100, &history{}, func(d *deck, h *history) {
			h.to(7)
			d.send(7)
		}, "1 2 3 4 5 6 7", "stall 3-6, stall 3-6 backfilled", 1},
		{"and then leaves out more", 100, &history{}, func(d *deck, h *history) {
			h.to(9)
			d.send(9)
			pass(time.Second)
		}, "1 2 3 4 5 6 7 8 9", "stall 3-6, stall 3-6 backfilled, stall 7-8 resumed, stall 7-8 backfilled", 1},
		{"for longer", 100, &history{}, func(d *deck, h *history) {
			h.to(9)
			pass(7 * time.Second)
			h.to(10)
			d.send(10)
		}, "1 2 3 4 5 6 7 8 9 10", "stall 3-6, stall 3-6 backfilled, stall 7-9, stall 7-9 backfilled", 2},
		{"and brings all late", 100, &history{errs: slices.Repeat([]error{errNotHere}, 3)}, func(d *deck, h *history) {
			h.to(7)
			d.send(3, 4, 5, 6, 7)
		}, "1 2 3 4 5 6 7", "stall 3-6, stall 3-6 backfilled", 1},
		{"and the exchange does not answer", 100, &history{errs: slices.Repeat([]error{errNotHere}, 3)}, func(d *deck, h *history) {
			h.to(9)
			d.send(9)
			pass(time.Minute)
		}, "1 2 3 4 5 6 7 8 9", "stall 3-6, stall 3-8 resumed, stall 3-8 backfilled", 1},
		{"and goes on in the middle", 100, &history{errs: slices.Repeat([]error{errNotHere}, 3)}, func(d *deck, h *history) {
			h.to(7)
			d.send(5, 6, 7)
			pass(time.Minute)
		}, "1 2 3 4 5 6 7", "stall 3-6, stall 3-6 resumed", 1},
		{"and not all is told exactly", 100, &history{absent: map[int64]bool{4: true}}, func(d *deck, h *history) {
			h.to(8)
			d.send(7, 8)
		}, "1 2 3 5 6 7 8", "stall 3-6, stall 3-6 resumed", 1},
		{"and nothing is to be fetched", 0, &history{}, func(d *deck, h *history) {
			h.to(9)
			d.send(9)
			pass(time.Second)
		}, "1 2 9", "stall 3-6, stall 3-8 resumed", 1},
		{"and a later answer is behind", 0, &history{}, func(_ *deck, h *history) {
			h.to(5)
			pass(7 * time.Second)
		}, "1 2", "stall 3-6, stall 3-6", 2},
		{"and ends", 0, &history{}, func(*deck, *history) {}, "1 2", "stall 3-6", 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h, r := test.trades, restores{}
				d := start(t, options{trades: h, config: recorder.Config{BackfillTrades: test.limit, Restore: r.restore}})
				d.send(1, 2)
				h.to(6)
				pass(7 * time.Second)
				test.then(d, h)
				d.stop()
				d.want("gaps trades", test.gaps)
				if got := ids(tradesOf(t, d.sink)); got != test.trade {
					t.Errorf("trades %s, want %s", got, test.trade)
				}
				if got := r.count(); got != test.restores {
					t.Errorf("restored %d times, want %d", got, test.restores)
				}
			})
		})
	}
}

// TestFetchedTradesReachThoseThatAreHeld: a mute stream talks again while what it missed is fetched, of which the answer
// holds what the stream brings as well.
func TestFetchedTradesReachThoseThatAreHeld(t *testing.T) {
	for _, test := range []struct {
		name    string
		resumed []int64
		trades  string // recorded in the end
		gaps    string
	}{
		{"just behind", []int64{7}, "1 2 3 4 5 6 7", "stall 3-6, stall 3-6 backfilled"},
		{"in the middle", []int64{5}, "1 2 3 4 5 6", "stall 3-6, stall 3-6 backfilled"},
		{"from the middle on", []int64{4, 5, 6, 7}, "1 2 3 4 5 6 7", "stall 3-6, stall 3-6 backfilled"},
		{"beyond", []int64{5, 8, 9}, "1 2 3 4 5 6 7 8 9", "stall 3-6, stall 3-6 backfilled, sequence 7-7 resumed, sequence 7-7 backfilled"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := &history{wait: make(chan struct{})}
				d := start(t, options{trades: h, config: recorder.Config{BackfillTrades: 100}})
				d.send(1, 2)
				h.to(6)
				pass(7 * time.Second) // mute; the answer is under way
				h.to(9)
				d.send(test.resumed...)
				pass(100 * time.Millisecond)
				close(h.wait)
				pass(time.Second)
				d.stop()
				d.want("gaps trades", test.gaps)
				if got := ids(tradesOf(t, d.sink)); got != test.trades {
					t.Errorf("trades %s, want %s", got, test.trades)
				}
				times := d.events(market.Trades, "recorded") + d.metric("tapedeck_backfilled_trades_total", nil)
				if n := len(tradesOf(t, d.sink)); times != n {
					t.Errorf("%d trades recorded %d times", n, times)
				}
			})
		})
	}
}

func ids(trades map[int64]market.Trade) string {
	return strings.Trim(fmt.Sprint(slices.Sorted(maps.Keys(trades))), "[]")
}

// TestQuietTrades: a stream that is silent because nothing happens is left alone, and asked about ever more rarely.
func TestQuietTrades(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, r := &history{}, restores{}
		h.to(2)
		d := start(t, options{trades: h, config: recorder.Config{BackfillTrades: 100, Restore: r.restore}})
		pass(time.Minute) // not a word yet
		d.send(1, 2)
		pass(time.Hour)
		d.reconnect() // the doubt is settled by the exchange's word
		pass(time.Minute)
		h.to(4)
		d.send(4)
		pass(time.Second)
		d.stop()
		d.want("blocks trades", "1-2, 3-3, 4-4", "gaps trades", "sequence 3-3 resumed, sequence 3-3 backfilled")
		if r.count() != 0 {
			t.Errorf("restored %d times", r.count())
		}
	})
}

// TestMuteTradesFromTheStart: the stream never says anything. Only what happens after the exchange was first asked can
// be known to be missing.
func TestMuteTradesFromTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, r := &history{}, restores{}
		h.to(20)
		d := start(t, options{trades: h, config: recorder.Config{BackfillTrades: 100, Restore: r.restore}})
		pass(6 * time.Second)
		h.to(23)
		pass(20 * time.Second)
		h.to(24)
		d.send(24)
		d.stop()
		d.want("blocks trades", "21-23, 24-24", "gaps trades", "stall 21-23, stall 21-23 backfilled")
		if r.count() != 1 {
			t.Errorf("restored %d times", r.count())
		}
	})
}

// TestDisconnectedAndQuiet: what a lost connection missed is found though no trade follows.
func TestDisconnectedAndQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, r := &history{}, restores{}
		d := start(t, options{trades: h, config: recorder.Config{BackfillTrades: 100, Restore: r.restore}})
		d.send(1, 2)
		d.inbox.Disconnected(1)
		h.to(5)
		pass(time.Minute) // nobody is asked: nothing can be expected to come
		d.inbox.Connected(1)
		pass(7 * time.Second)
		d.stop()
		d.want("blocks trades", "1-2, 3-5", "gaps trades", "disconnect 3-5, disconnect 3-5 backfilled")
		if r.count() != 0 {
			t.Errorf("restored %d times", r.count())
		}
	})
}

// TestTradesAcrossARestart fetches what nobody recorded while the process was down.
func TestTradesAcrossARestart(t *testing.T) {
	tail := market.Block{
		Series: tradeOf, FirstID: 8, LastID: 10, PrevID: 7, SpanID: 1, Start: millis(80), End: millis(100), Events: 3, Data: []byte{1},
	}
	for _, test := range []struct {
		name   string
		first  int64
		blocks string
		gaps   string
	}{
		{"nothing is missing", 11, "11-12", ""},
		{"some are", 15, "11-14, 15-16", "restart 11-14 resumed, restart 11-14 backfilled"},
		{"it was played before", 5, "5-6", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := &history{}
				h.to(20)
				d := start(t, options{
					trades: h, config: recorder.Config{BackfillTrades: 100},
					sink: &recorded{tails: map[market.Series]market.Block{tradeOf: tail}},
				})
				d.send(test.first, test.first+1)
				d.stop()
				d.want("blocks trades", test.blocks, "gaps trades", test.gaps)
			})
		})
	}
}

// TestClockStepsBackUnseen: what tells of a step back of the exchange's clock while trades were missing are those that
// are fetched again, and what tells of one while nobody recorded is what is stored.
func TestClockStepsBackUnseen(t *testing.T) {
	for _, test := range []struct {
		name  string
		first int64 // the first id of this process; 10 is stored, of 20 s
		times []int // of the ids from 11 on, in seconds
		gaps  string
	}{
		{"nothing is missing", 11, []int{12, 13}, "clock 11-10 resumed"},
		{"nothing is missing, and it stepped by a second", 11, []int{19, 20}, ""},
		{"before the first that is missing", 15, []int{12, 13, 14, 15, 30}, "restart 11-14 resumed, clock 11-10 resumed, restart 11-14 backfilled"},
		{"between those that are missing", 15, []int{21, 22, 12, 13, 30}, "restart 11-14 resumed, clock 13-12 resumed, restart 11-14 backfilled"},
		{"twice", 15, []int{21, 22, 12, 5, 30}, "restart 11-14 resumed, clock 13-12 resumed, clock 14-13 resumed, restart 11-14 backfilled"},
		{"behind the last that is missing", 15, []int{31, 32, 33, 34, 30}, "restart 11-14 resumed, clock 15-14 resumed, restart 11-14 backfilled"},
		{"by a second", 15, []int{19, 20, 21, 31, 30}, "restart 11-14 resumed, restart 11-14 backfilled"},
		{"not", 15, []int{21, 22, 23, 24, 30}, "restart 11-14 resumed, restart 11-14 backfilled"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := &history{times: map[int64]int{}}
				for i, seconds := range test.times {
					h.times[int64(11+i)] = seconds * 1000
				}
				h.to(20)
				d := start(t, options{
					trades: h, config: recorder.Config{BackfillTrades: 100},
					sink: &recorded{tails: map[market.Series]market.Block{
						tradeOf: {Series: tradeOf, FirstID: 8, LastID: 10, Start: millis(20_000), End: millis(20_000)},
					}},
				})
				d.trade(test.first, test.times[test.first-11]*1000)
				pass(time.Second)
				d.stop()
				d.want("gaps trades", test.gaps)
				for _, g := range d.sink.batch.Gaps {
					if g.Cause == market.CauseClock && (g.Start <= g.End || g.RepairedAt == 0 || g.DetectedAt == 0) {
						t.Errorf("gap %+v", g)
					}
				}
			})
		})
	}
}

// TestTwoStepsOfTheClock: each is told before the trade behind it, the first one before the first trade that is missing.
func TestTwoStepsOfTheClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &history{times: map[int64]int{11: 12_000, 12: 5_000, 13: 6_000, 14: 7_000, 15: 30_000}}
		h.to(20)
		d := start(t, options{
			trades: h, config: recorder.Config{BackfillTrades: 100},
			sink: &recorded{tails: map[market.Series]market.Block{
				tradeOf: {Series: tradeOf, FirstID: 8, LastID: 10, Start: millis(20_000), End: millis(20_000)},
			}},
		})
		d.trade(15, 30_000)
		pass(time.Second)
		d.stop()
		d.want("gaps trades", "restart 11-14 resumed, clock 11-10 resumed, clock 12-11 resumed, restart 11-14 backfilled")
		for _, g := range d.sink.entries(t, market.Trades) {
			if g.Cause == market.CauseClock && g.FirstID == 11 && (g.Start != millis(20_000) || g.End != millis(12_000)) {
				t.Errorf("gap %+v", g)
			}
		}
	})
}

// TestClockStepIsToldOnce, where it is: what is fetched again shows that better than the first trade behind the hole.
func TestClockStepIsToldOnce(t *testing.T) {
	for _, test := range []struct {
		name  string
		limit int64
		play  func(d *deck, h *history, sink *recorded)
		gaps  string
	}{
		{"within what is fetched again", 100, func(d *deck, _ *history, _ *recorded) {
			d.trade(6, 10_030)
			pass(time.Second)
		}, "sequence 3-5 resumed, clock 4-3 resumed, sequence 3-5 backfilled"},
		{"while the sink refuses that", 100, func(d *deck, h *history, sink *recorded) {
			h.wait = make(chan struct{})
			d.trade(6, 10_030)
			pass(2 * time.Second)
			sink.setRefuse(func(*market.Batch) bool { return true })
			close(h.wait)
			pass(20 * time.Second) // it is fetched time and again
			sink.setRefuse(nil)
			pass(time.Minute)
		}, "sequence 3-5 resumed, clock 4-3 resumed, sequence 3-5 backfilled"},
		{"at the end of what is fetched again", 100, func(d *deck, _ *history, _ *recorded) {
			d.trade(4, 10_010)
			pass(time.Second)
		}, "sequence 3-3 resumed, clock 4-3 resumed, sequence 3-3 backfilled"},
		{"nothing is fetched again", 0, func(d *deck, _ *history, _ *recorded) {
			d.trade(6, 10_030)
			pass(time.Second)
		}, "sequence 3-5 resumed, clock 6-5 resumed"},
		{"the process ends before it is", 100, func(d *deck, h *history, _ *recorded) {
			h.wait = make(chan struct{})
			d.trade(6, 10_030)
			pass(time.Second)
		}, "sequence 3-5 resumed, clock 6-5 resumed"},
		{"it cannot be fetched again", 100, func(d *deck, h *history, _ *recorded) {
			h.errs = slices.Repeat([]error{errNotHere}, 100)
			d.trade(6, 10_030)
			pass(time.Hour)
		}, "sequence 3-5 resumed, clock 6-5 resumed"},
		{"the stream brings what was asked for", 100, func(d *deck, h *history, _ *recorded) {
			h.wait = make(chan struct{})
			h.to(5)
			pass(8 * time.Second)
			d.trade(3, 20_020)
			d.trade(4, 10_010)
			pass(2 * time.Second)
			close(h.wait)
			pass(time.Second)
		}, "stall 3-5, clock 4-3 resumed, stall 3-5 backfilled"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := &history{times: map[int64]int{1: 20_000, 2: 20_010, 3: 20_020, 4: 10_010, 5: 10_020, 6: 10_030}}
				sink := &recorded{}
				d := start(t, options{trades: h, sink: sink, config: recorder.Config{BackfillTrades: test.limit}})
				d.trade(1, 20_000)
				d.trade(2, 20_010)
				h.to(6)
				test.play(d, h, sink)
				d.stop()
				d.want("gaps trades", test.gaps)
				if got := d.metric("tapedeck_gaps_total", map[string]string{"cause": "clock"}); got != 1 {
					t.Errorf("%d steps counted", got)
				}
			})
		})
	}
}

// TestClockStepBesideLostTrades: the entry of the step, which is found late, does not take the place of theirs.
func TestClockStepBesideLostTrades(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &history{
			times: map[int64]int{1: 20_000, 2: 20_010, 3: 20_020, 4: 20_030, 5: 10_000, 6: 10_010, 7: 12_000},
			wait:  make(chan struct{}),
		}
		h.to(20)
		sink := &recorded{}
		d := start(t, options{trades: h, config: recorder.Config{BackfillTrades: 100}, sink: sink})
		d.trade(1, 20_000)
		d.trade(2, 20_010)
		d.trade(5, 10_000)
		pass(300 * time.Millisecond)
		sink.setRefuse(func(*market.Batch) bool { return true })
		d.trade(6, 10_010)
		pass(2 * time.Second)
		sink.setRefuse(nil)
		d.trade(7, 12_000)
		pass(2 * time.Second)
		close(h.wait)
		pass(5 * time.Second)
		d.stop()
		d.want("blocks trades", "1-2, 7-7, 3-4")
		var at5 []market.Cause
		for _, g := range sink.entries(t, market.Trades) {
			if g.FirstID == 5 {
				at5 = append(at5, g.Cause)
			}
		}
		if want := []market.Cause{market.CauseOverflow, market.CauseClock}; !slices.Equal(at5, want) {
			t.Errorf("entries of 5: %v, want %v", at5, want)
		}
	})
}

// TestMuteTradesThatTheSinkRefuses are not said to be held, but fetched again.
func TestMuteTradesThatTheSinkRefuses(t *testing.T) {
	for _, test := range []struct {
		name   string
		limit  int64
		last   int64   // that the stream brings before the sink takes all again; the exchange said 6
		refuse []int64 // of which the blocks are refused
		trades string
		gaps   string
	}{
		{"the last block", 0, 6, []int64{3, 4, 5, 6}, "1 2 7", "overflow 3-6 resumed"},
		{"a block before the last", 0, 6, []int64{3}, "1 2 4 5 6 7", "stall 3-6 resumed"},
		{"a block before the first", 0, 6, []int64{2}, "1 3 4 5 6 7", "overflow 2-2 resumed, stall 3-6 backfilled"},
		{"and are fetched again", 100, 6, []int64{4, 5}, "1 2 3 4 5 6 7", "stall 3-6 backfilled, overflow 4-5 resumed"},
		// Both entries begin with 3: that of what was refused stands, and names 7 and 8, which are not fetched again.
		{"with newer ones", 100, 8, []int64{3, 4, 5, 6, 7, 8}, "1 2 3 4 5 6 9", "overflow 3-8 resumed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				times := map[int64]int{}
				for id := range int64(10) {
					times[id] = int(id) * 1000
				}
				refusing := true
				sink := &recorded{refuse: func(b *market.Batch) bool {
					return refusing && slices.ContainsFunc(b.Blocks, func(b market.Block) bool {
						return slices.ContainsFunc(test.refuse, func(id int64) bool { return b.FirstID <= id && id <= b.LastID })
					})
				}}
				h := &history{times: times, wait: make(chan struct{})}
				d := start(t, options{trades: h, sink: sink, config: recorder.Config{BackfillTrades: test.limit}})
				d.trade(1, 1000)
				pass(time.Second)
				d.trade(2, 2000)
				h.to(6)
				pass(8 * time.Second)
				for id := int64(3); id <= test.last; id++ {
					d.trade(id, int(id)*1000)
				}
				pass(2 * time.Second)
				refusing = false
				h.to(test.last + 1)
				d.trade(test.last+1, int(test.last+1)*1000)
				pass(2 * time.Second) // the entry of what was refused goes first
				close(h.wait)
				pass(time.Minute)
				d.stop()
				if got := ids(tradesOf(t, sink)); got != test.trades {
					t.Errorf("trades %s, want %s", got, test.trades)
				}
				var gaps []string
				for _, g := range sink.entries(t, market.Trades) {
					gaps = append(gaps, fmt.Sprintf("%s %d-%d %s", g.Cause, g.FirstID, g.LastID, g.Repair))
				}
				if got := strings.Join(gaps, ", "); got != test.gaps {
					t.Errorf("gaps %s, want %s", got, test.gaps)
				}
			})
		})
	}
}

// TestStopEndsABackfill: the ledger does not claim what was not handed over.
func TestStopEndsABackfill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &history{wait: make(chan struct{}, 1)}
		h.to(5000)
		d := start(t, options{trades: h, config: recorder.Config{BackfillTrades: 10_000}})
		d.send(1, 5000)
		pass(time.Second)
		h.wait <- struct{}{} // one page
		synctest.Wait()
		d.stop()
		d.want("gaps trades", "sequence 2-4999 resumed")
		if got := len(tradesOf(t, d.sink)); got != 2+1000 {
			t.Errorf("%d trades, want %d", got, 2+1000)
		}
	})
}

// TestBackfillWaitsForTheSink: what the sink refuses is fetched again.
func TestBackfillWaitsForTheSink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, sink := &history{}, &recorded{}
		h.to(500)
		full := 3
		sink.refuse = func(b *market.Batch) bool {
			if len(b.Blocks) == 0 || b.Blocks[0].FirstID < 100 || b.Blocks[0].LastID == 500 {
				return false
			}
			full--
			return full >= 0
		}
		d := start(t, options{trades: h, sink: sink, config: recorder.Config{BackfillTrades: 1000}})
		d.send(1, 500)
		pass(time.Minute)
		d.stop()
		d.want("gaps trades", "sequence 2-499 resumed, sequence 2-499 backfilled")
		if got := len(tradesOf(t, d.sink)); got != 500 {
			t.Errorf("%d trades, want 500", got)
		}
	})
}

// TestNewHolesDoNotHurryABackfill: an exchange that does not answer is asked ever more slowly, however many trades are
// missing meanwhile.
func TestNewHolesDoNotHurryABackfill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &history{last: 100, errs: slices.Repeat([]error{errNotHere}, 100)}
		d := start(t, options{trades: h, config: recorder.Config{BackfillTrades: 100}})
		for id := int64(1); id < 60; id += 2 {
			d.send(id)
			pass(time.Second)
		}
		if n := len(h.asked); n < 3 || n > 7 {
			t.Errorf("asked %d times in half a minute", n)
		}
		d.stop()
	})
}

func TestManyHoles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &history{wait: make(chan struct{})}
		h.to(201)
		d := start(t, options{trades: h, config: recorder.Config{BackfillTrades: 1000}})
		for id := int64(1); id <= 201; id += 2 { // a hundred holes
			d.send(id)
			pass(300 * time.Millisecond)
		}
		close(h.wait)
		pass(time.Minute)
		d.stop()
		if got, want := len(tradesOf(t, d.sink)), 101+64; got != want {
			t.Errorf("%d trades, want %d", got, want)
		}
		if got := d.metric("tapedeck_backfills_total", map[string]string{"result": "refused"}); got != 36 {
			t.Errorf("%d refused, want 36", got)
		}
	})
}

// TestTradesWithAbsurdIDs: an id may be well-formed and nonsense all the same.
func TestTradesWithAbsurdIDs(t *testing.T) {
	const far = 5_000_000
	for _, test := range []struct {
		name      string
		play      func(d *deck, h *history)
		blocks    string
		gaps      string
		malformed int
	}{
		{"one among others", func(d *deck, _ *history) {
			d.send(1, 2)
			d.trade(far, 25)
			d.send(3, 4)
		}, "1-4", "", 1},
		{"one before a hole", func(d *deck, _ *history) {
			d.send(1, 2)
			d.trade(far, 25)
			d.send(4)
			pass(time.Second)
		}, "1-2, 4-4", "sequence 3-3 resumed", 1},
		{"and then silence", func(d *deck, h *history) {
			h.to(2)
			d.send(1, 2)
			d.trade(far, 25)
			pass(30 * time.Second)
			h.to(4)
			d.send(3, 4)
		}, "1-2, 3-4", "", 1},
		{"and no answers", func(d *deck, _ *history) {
			d.send(1, 2)
			d.trade(far, 25)
			pass(30 * time.Second)
			d.send(3)
		}, "1-2, 3-3", "", 1},
		{"a true one, and the next", func(d *deck, _ *history) {
			d.send(1, 2)
			d.trade(far, 25)
			d.trade(far+1, 35)
			pass(time.Second)
		}, "1-2, 5000000-5000001", "sequence 3-4999999 resumed", 0},
		{"a true one, as the exchange says", func(d *deck, h *history) {
			d.send(1, 2)
			h.to(far)
			d.trade(far, 25)
			pass(time.Second)
		}, "1-2, 5000000-5000000", "sequence 3-4999999 resumed", 0},
		{"the first one", func(d *deck, _ *history) {
			d.trade(far, 5)
			d.send(1, 2)
		}, "1-2", "", 1},
		{"the first one, and then silence", func(d *deck, h *history) {
			h.to(1)
			d.trade(far, 5)
			pass(3 * time.Second)
			d.send(1, 2)
		}, "1-2", "", 1},
		{"the first one, twice", func(d *deck, _ *history) {
			d.trade(far, 5)
			d.trade(far, 5)
			d.send(1, 2)
		}, "1-2", "", 1},
		{"the first one is low", func(d *deck, _ *history) {
			d.trade(1, 5)
			d.trade(far+1, 15)
			d.trade(far+2, 25)
			pass(time.Second)
			d.trade(far+3, 35)
		}, "5000001-5000002, 5000003-5000003", "", 1},
		{"the first one is low, as the exchange says", func(d *deck, h *history) {
			d.trade(1, 5)
			h.to(far + 1)
			d.trade(far+1, 15)
			pass(500 * time.Millisecond)
			d.trade(far+2, 25)
		}, "5000001-5000002", "", 1},
		{"the first one is low, and then silence", func(d *deck, h *history) {
			h.to(far)
			d.trade(1, 5)
			pass(time.Minute)
			d.trade(far+1, 15)
		}, "1-1, 5000001-5000001", "", 1}, // handed over in time, and not the beginning of a hole
		{"ids begin again", func(d *deck, _ *history) {
			for i := range 5 {
				d.trade(far+int64(i), i)
			}
			for i := range 5 {
				d.trade(int64(i), 5000+i)
				pass(10 * time.Second)
			}
		}, "5000000-5000004", "", 0},
		{"old ones with a new time, now and then", func(d *deck, _ *history) {
			for i := range 5 {
				d.trade(far+int64(i), 1000*i)
				d.trade(far-1, 1000*i+1)
				pass(time.Hour)
			}
		}, "5000000-5000000, 5000001-5000001, 5000002-5000002, 5000003-5000003, 5000004-5000004", "", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := &history{}
				d := start(t, options{trades: h})
				test.play(d, h)
				d.stop()
				d.want("blocks trades", test.blocks, "gaps trades", test.gaps)
				if got := d.events(market.Trades, "malformed"); got != test.malformed {
					t.Errorf("%d malformed, want %d", got, test.malformed)
				}
				want := 0
				if test.name == "ids begin again" {
					want = 1
				}
				if got := d.metric("tapedeck_id_regressions_total", nil); got != want {
					t.Errorf("%d regressions, want %d", got, want)
				}
			})
		})
	}
}

// TestLowFirstTradeAcrossARestart: what was missed is what is between what is stored and what is true.
func TestLowFirstTradeAcrossARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const far = 5_000_000
		tail := market.Block{Series: tradeOf, FirstID: far, LastID: far + 100, Start: 1, End: 2}
		d := start(t, options{sink: &recorded{tails: map[market.Series]market.Block{tradeOf: tail}}})
		d.trade(0, 10)
		d.trade(far+200, 20)
		d.trade(far+201, 30)
		pass(time.Second)
		d.stop()
		d.want("blocks trades", "5000200-5000201", "gaps trades", "restart 5000101-5000199 resumed")
	})
}

// TestFirstTradeIsDurableInTime, alone as it may be on a quiet market.
func TestFirstTradeIsDurableInTime(t *testing.T) {
	for name, h := range map[string]*history{"confirmed": {last: 7}, "no answer": {}, "the answer is behind": {last: 6}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := start(t, options{trades: h})
				d.send(7)
				pass(time.Second)
				d.want("blocks trades", "7-7")
				d.stop()
			})
		})
	}
}

// TestTradesOfAClockThatStepsBack: blocks are of one second each, and nothing is lost.
func TestTradesOfAClockThatStepsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := start(t, options{})
		for i, ms := range []int{100, 1100, 5000, 400, 450, 1500, 1400, 900, 7000} {
			d.trade(int64(i+1), ms)
			d.trade(int64(i+1), ms) // over the other connection
		}
		d.stop()
		d.want("blocks trades", "1-1, 2-2, 3-3, 4-5, 6-7, 8-8, 9-9", "gaps trades", "clock 4-3 resumed")
		if g := d.sink.batch.Gaps[0]; g.Start != millis(5000) || g.End != millis(400) || g.RecvStart == 0 || g.RecvEnd == 0 {
			t.Errorf("gap %+v", g)
		}
		if got := ids(tradesOf(t, d.sink)); got != "1 2 3 4 5 6 7 8 9" {
			t.Errorf("trades %s", got)
		}
		if got := d.events(market.Trades, "duplicate"); got != 9 {
			t.Errorf("%d duplicates, want 9", got)
		}
	})
}
