package recorder_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tapedeck/ingester/internal/recorder"
	"tapedeck/shared/market"
	"tapedeck/shared/tape"
)

func TestBlockBorders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := synced(t, options{})
		d.depth(21, 21, 999)  // the same window of a second
		d.depth(22, 22, 1000) // the next one
		d.depth(23, 23, 1500)
		d.depth(24, 24, 900) // the clock steps back
		d.depth(25, 25, 4000)
		d.trade(1, 100)
		d.trade(2, 1100)
		d.trade(3, 1200)
		pass(2 * time.Second) // the clock's flush
		d.depth(26, 26, 4100)
		d.trade(4, 1300)
		d.stop()
		d.want("blocks depth", "11-21, 22-23, 24-24, 25-25, 26-26",
			"blocks trades", "1-1, 2-3, 4-4", "gaps depth", "", "gaps trades", "")
		for _, b := range d.sink.batch.Blocks {
			if b.Start.Truncate(market.BlockWindow) != b.End.Truncate(market.BlockWindow) {
				t.Errorf("block %d-%d spans two windows", b.FirstID, b.LastID)
			}
		}
	})
}

func TestFullBlockIsCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := start(t, options{memory: 256 << 20})
		for id := range int64(market.MaxBlockEvents + 10) {
			d.inbox.Frame(t.Context(), market.Trades, 1, fmt.Appendf(nil,
				`{"stream":"btcusdt@trade","data":{"e":"trade","E":1700000000000,"s":"BTCUSDT","t":%d,"p":"1.0","q":"1.0","T":1700000000000,"m":true,"M":true}}`, id+1))
		}
		d.stop()
		d.want("blocks trades", fmt.Sprintf("1-%d, %d-%d", market.MaxBlockEvents, market.MaxBlockEvents+1, market.MaxBlockEvents+10))
	})
}

func TestBlockOfManyLevelsIsCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := start(t, options{memory: 256 << 20})
		levels := strings.TrimSuffix(strings.Repeat(`["1.0","0.0"],`, market.MaxUpdateLevels/2), ",")
		for id := range int64(3) {
			d.frame(market.Depth, fmt.Sprintf(`{"stream":"btcusdt@depth@100ms","data":{"e":"depthUpdate","E":1700000000000,"s":"BTCUSDT","U":%d,"u":%d,"b":[%s],"a":[%s]}}`,
				id+1, id+1, levels, levels))
		}
		d.answer(0, 50)
		d.stop()
		d.want("blocks depth", "1-2, 3-3")
	})
}

func TestKeyframesFollowBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := start(t, options{config: recorder.Config{KeyframeBlocks: 3}})
		d.depth(1, 1, 0)
		d.answer(0, 0)
		for id := range int64(9) {
			d.depth(id+2, id+2, 1000*int(id+1))
		}
		d.stop()
		d.want("blocks depth", "1-1, 2-2, 3-3, 4-4, 5-5, 6-6, 7-7, 8-8, 9-9, 10-10", "keyframes", "@0, @3, @6, @9")
		k := d.sink.batch.Keyframes[2]
		if k.EventTime != millis(5000) || k.UpdatesApplied != 6 || k.FirstUpdateID != 1 || k.SnapshotID != 0 {
			t.Errorf("keyframe %+v", k)
		}
		var decoder tape.Decoder
		bids, _, err := decoder.Book(k.Data)
		if err != nil || bids[0] != (market.Level{Price: 99e8, Quantity: 6e8}) {
			t.Errorf("the keyframe @6 begins with %v, %v", bids, err)
		}
	})
}

// TestHostileFrames sends what an exchange should not. The recorder survives and counts each, and the ids of what
// follows show that nothing was lost.
func TestHostileFrames(t *testing.T) {
	for name, frame := range map[string]string{
		"not JSON":          `hello`,
		"HTML":              `<html><body>502 Bad Gateway</body></html>`,
		"empty":             ``,
		"cut off":           `{"stream":"btcusdt@depth@100ms","data":{"e":"depthUpdate","E":1700000000000,"s":"BTCUSDT","U":21,"u":2`,
		"NUL bytes":         "\x00\x00\x00",
		"ids reversed":      `{"stream":"x","data":{"e":"depthUpdate","E":1700000000000,"s":"BTCUSDT","U":30,"u":21,"b":[],"a":[]}}`,
		"id beyond 64 bits": `{"stream":"x","data":{"e":"depthUpdate","E":1700000000000,"s":"BTCUSDT","U":21,"u":99999999999999999999,"b":[],"a":[]}}`,
		"no ids":            `{"stream":"x","data":{"e":"depthUpdate","E":1700000000000,"s":"BTCUSDT","b":[],"a":[]}}`,
		"price is a number": `{"stream":"x","data":{"e":"depthUpdate","E":1700000000000,"s":"BTCUSDT","U":21,"u":25,"b":[[1,2]],"a":[]}}`,
		"price is a word":   `{"stream":"x","data":{"e":"depthUpdate","E":1700000000000,"s":"BTCUSDT","U":21,"u":25,"b":[["one","2"]],"a":[]}}`,
		"price too large":   `{"stream":"x","data":{"e":"depthUpdate","E":1700000000000,"s":"BTCUSDT","U":21,"u":25,"b":[["999999999999999","2"]],"a":[]}}`,
		"year 1":            `{"stream":"x","data":{"e":"depthUpdate","E":-62135596800000,"s":"BTCUSDT","U":21,"u":25,"b":[],"a":[]}}`,
		"another market":    depthFrame("ETHUSDT", 21, 25, 200, "1.0"),
		"an unknown symbol": depthFrame("NOSUCH", 21, 25, 200, "1.0"),
		"deeply nested":     strings.Repeat(`[`, 100_000),
		"too many levels":   `{"stream":"x","data":{"e":"depthUpdate","E":1700000000000,"s":"BTCUSDT","U":21,"u":25,"b":[` + strings.TrimSuffix(strings.Repeat(`["1.0","0.0"],`, market.MaxUpdateLevels+1), ",") + `],"a":[]}}`,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := synced(t, options{memory: 64 << 20})
				d.frame(market.Depth, frame)
				if got := d.events(market.Depth, "malformed"); got != 1 {
					t.Errorf("%d malformed counted", got)
				}
				d.wantState(market.StateSyncing) // until it is known that nothing is missing
				d.depth(21, 25, 300)
				d.wantState(market.StateSynced)
				d.frame(market.Depth, frame)
				d.depth(31, 35, 400) // and now something is
				d.answerNext(32, 500)
				d.trade(1, 500)
				d.frame(market.Trades, frame)
				d.trade(3, 500)
				d.stop()
				d.want("blocks depth", "11-25, 31-35", "gaps depth", "malformed 26-30, malformed 26-30 snapshot",
					"gaps trades", "malformed 2-2 resumed")
			})
		})
	}
}

func TestUnusedEventsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := synced(t, options{})
		d.frame("", `{"stream":"btcusdt@kline_1s","data":{"e":"kline","E":1700000000000,"s":"BTCUSDT","k":{}}}`)
		d.wantState(market.StateSynced)
		if got := d.events("", "other"); got != 1 {
			t.Errorf("%d counted", got)
		}
	})
}

func TestInboxOverflowIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// The recorder is stuck in the sink, so that nobody takes from the inbox.
		unblock := make(chan struct{})
		stuck := &recorded{}
		d := synced(t, options{memory: 8000, sink: stuck})
		stuck.mu.Lock()
		stuck.refuse = func(*market.Batch) bool { <-unblock; return false }
		stuck.mu.Unlock()
		d.depth(21, 21, 1000) // cuts a block
		dropped := 0
		for id := int64(22); id <= 100; id++ {
			if !d.inbox.Frame(t.Context(), market.Depth, 1, []byte(depthFrame("BTCUSDT", id, id, 1000, "99.0"))) {
				dropped++
			}
		}
		if dropped == 0 || d.inbox.Bytes() > 8000 {
			t.Fatalf("%d dropped, %d bytes in the inbox", dropped, d.inbox.Bytes())
		}
		close(unblock)
		synctest.Wait()
		d.depth(101, 101, 1100)
		d.answerNext(101, 1200)
		d.depth(102, 102, 1300)
		d.stop()
		first := 101 - dropped
		d.want("gaps depth", fmt.Sprintf("overflow %d-100, overflow %d-100 snapshot", first, first),
			"blocks depth", fmt.Sprintf("11-20, 21-%d, 101-102", first-1))
	})
}

func TestRefusingSink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		full := false
		sink := &recorded{}
		sink.refuse = func(*market.Batch) bool { return full }
		d := synced(t, options{sink: sink})
		d.trade(1, 100)
		d.depth(21, 21, 1000) // writes 11-20
		d.trade(2, 1000)      // writes 1
		full = true
		for i := range 5 {
			d.depth(int64(22+i), int64(22+i), 2000+1000*i)
			d.trade(int64(3+i), 2000+1000*i)
		}
		d.wantState(market.StateSynced) // the book itself is whole
		full = false
		d.depth(27, 27, 8000) // writes 26
		d.trade(8, 8000)      // writes 7
		d.stop()
		d.want("blocks depth", "11-20, 26-26, 27-27", "gaps depth", "overflow 21-25 resumed",
			"blocks trades", "1-1, 7-7, 8-8", "gaps trades", "overflow 2-6 resumed",
			"keyframes", "@10, @25") // from which a reader goes on behind the hole
		for _, g := range sink.batch.Gaps {
			if g.Start != millis(100) || g.End != millis(6000) || g.RepairedAt == 0 {
				t.Errorf("gap %+v", g)
			}
		}
	})
}

// TestSinkRefusesTheFirstBlock: nothing is known of before, so the entry begins with the first event that is lost.
func TestSinkRefusesTheFirstBlock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &recorded{refuse: func(*market.Batch) bool { return true }}
		d := start(t, options{sink: sink})
		d.trade(1, 2000)
		d.trade(2, 3000)
		pass(2 * time.Second)
		sink.setRefuse(nil)
		d.trade(3, 4000)
		d.stop()
		d.want("gaps trades", "overflow 1-2 resumed")
		if g := sink.batch.Gaps[0]; g.Start != millis(2000) || g.End != millis(4000) {
			t.Errorf("gap %+v", g)
		}
	})
}

// TestRefusingSinkBehindAClockStep: the entry of what was lost begins at the time of the last update before it.
func TestRefusingSinkBehindAClockStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &recorded{}
		d := synced(t, options{sink: sink})
		d.depth(21, 25, 60_000)
		d.depth(26, 30, 10_000)
		pass(2 * time.Second)
		sink.setRefuse(func(*market.Batch) bool { return true })
		d.depth(31, 35, 12_000)
		pass(2 * time.Second)
		sink.setRefuse(nil)
		d.depth(36, 40, 14_000)
		d.stop()
		d.want("gaps depth", "clock 26-25 resumed, overflow 31-35 resumed")
		if g := sink.batch.Gaps[len(sink.batch.Gaps)-1]; g.Start != millis(10_000) || g.End != millis(14_000) {
			t.Errorf("gap %+v", g)
		}
	})
}

// TestLedgerOfARefusingSink keeps each kind of entry, however many there are, and claims nothing of what is lost.
func TestLedgerOfARefusingSink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &recorded{}
		d := synced(t, options{sink: sink})
		sink.setRefuse(func(*market.Batch) bool { return true })
		ms := 1_000_000
		for id := int64(21); id < 400; id++ { // more steps than are kept
			ms -= 2000
			d.depth(id, id, ms)
		}
		sink.setRefuse(nil)
		d.stop()
		kinds := map[market.Cause]int{}
		for _, g := range sink.entries(t, market.Depth) {
			kinds[g.Cause]++
			if g.Cause == market.CauseOverflow && (g.FirstID > 21 || g.LastID < 398) {
				t.Errorf("gap %+v", g)
			}
			if from, to := 1_000_000-2000*int(g.FirstID-21), 1_000_000-2000*int(g.LastID-19); g.Cause == market.CauseClock &&
				(g.Start != millis(from) || g.End != millis(to)) {
				t.Errorf("from %d to %d: gap %+v", from, to, g)
			}
		}
		if kinds[market.CauseOverflow] != 1 || kinds[market.CauseClock] != 64 {
			t.Errorf("entries %v", kinds)
		}
	})
}

// TestCrowdedLedgerOfARefusingSink: an entry that stands for several begins with the first of them, and one that is open
// is not lost among those that have ended.
func TestCrowdedLedgerOfARefusingSink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, sink := &history{last: 2}, &recorded{}
		d := start(t, options{trades: h, sink: sink, config: recorder.Config{Restore: (&restores{}).restore}})
		begun := market.TimeOf(time.Now())
		d.send(1, 2)
		pass(2 * time.Second)
		sink.setRefuse(func(*market.Batch) bool { return true })
		last := int64(2)
		for range 70 { // more holes than entries are kept
			last += 2
			d.send(last)
			pass(300 * time.Millisecond)
		}
		h.to(last + 10)
		pass(20 * time.Minute)
		sink.setRefuse(nil)
		d.stop()
		entries := sink.entries(t, market.Trades)
		next, stalls := int64(3), 0
		for _, g := range entries {
			if g.Cause == market.CauseOverflow {
				continue
			}
			if g.Cause == market.CauseStall {
				stalls++
				if g.FirstID != last+1 || g.LastID != last+10 || g.Start != millis(10*int(last)) || g.End != 0 || g.RepairedAt != 0 {
					t.Errorf("gap %+v", g)
				}
				continue
			}
			if g.FirstID != next || g.Start != millis(10*int(g.FirstID-1)) || g.End != millis(10*int(g.LastID+1)) ||
				g.RecvStart < begun || g.RecvStart >= g.RecvEnd || g.DetectedAt > g.RepairedAt || g.Repair != market.RepairResumed {
				t.Errorf("gap %+v", g)
			}
			if stretched := g.LastID > g.FirstID; stretched && g.DetectedAt >= g.RepairedAt {
				t.Errorf("noticed when it was repaired: %+v", g)
			}
			next = g.LastID + 2
		}
		if next != last+1 || stalls != 1 {
			t.Errorf("holes up to %d, want %d; %d stalls", next-2, last-1, stalls)
		}
	})
}

func TestSinkRefusesToTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		full := false
		d := synced(t, options{sink: &recorded{refuse: func(*market.Batch) bool { return full }}})
		full = true
		d.depth(21, 21, 1000)
		d.trade(1, 1000)
		if unwritten := d.stop(); unwritten < 2 {
			t.Errorf("%d unwritten, though the entries of both series are nowhere", unwritten)
		}
	})
}

func TestLedgerSurvivesARefusingSink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		full := true
		sink := &recorded{}
		sink.refuse = func(*market.Batch) bool { return full }
		d := synced(t, options{sink: sink})
		d.trade(1, 100)
		for i := range int64(200) { // more ledger entries than are kept
			d.trade(10+10*i, 200)
		}
		d.depth(31, 40, 200)
		d.answerNext(35, 150)
		full = false
		d.stop()
		d.want("saved depth", "", "saved trades", "") // without what explains it
		d.want("keyframes", "@35", "gaps depth", "sequence 21-30 snapshot, overflow 11-20 resumed")
		missing := map[int64]bool{}
		for _, g := range sink.batch.Gaps {
			if g.LastID > 2000 {
				t.Fatalf("ids that never were: %+v", g)
			}
			for id := g.FirstID; id <= g.LastID; id++ {
				missing[id] = g.Series.Stream == market.Trades
			}
		}
		for i := range int64(199) {
			if !missing[11+10*i] {
				t.Fatalf("trade %d is missing, and so is it in the ledger", 11+10*i)
			}
		}
	})
}

func TestRestart(t *testing.T) {
	tail := func(first, last int64) market.Block {
		return market.Block{FirstID: first, LastID: last, PrevID: first - 1, SpanID: 3, Start: millis(-5000), End: millis(-4000)}
	}
	for _, test := range []struct {
		name       string
		depth      market.Block
		trades     market.Block
		wantDepth  string
		wantTrades string
	}{
		{"loss", tail(3, 8), tail(3, 5), "restart 9-10 snapshot", "restart 6-9 resumed"},
		{"continues", tail(5, 10), tail(5, 9), "", ""},
		{"overlaps", tail(5, 15), tail(5, 12), "", ""},
		{"begins earlier, as when a recording is played again", tail(50, 70), tail(50, 70), "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sink := &recorded{tails: map[market.Series]market.Block{depthOf: test.depth, tradeOf: test.trades}}
				d := synced(t, options{sink: sink}) // from a snapshot with id 10
				d.trade(10, 100)
				d.stop()
				d.want("gaps depth", test.wantDepth, "gaps trades", test.wantTrades)
				for _, g := range sink.batch.Gaps {
					if g.Start != millis(-4000) || g.End == 0 {
						t.Errorf("gap %+v", g)
					}
				}
			})
		})
	}
}

func TestRecordingGoesOnWhileTheStoreIsUnreadable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := synced(t, options{sink: &recorded{tailErr: market.Errorf(market.KindCorrupt, "bad")}})
		d.stop()
		d.want("blocks depth", "11-20")
	})
}

func TestSameFramesGiveTheSameRecords(t *testing.T) {
	play := func(pause time.Duration, snapshotAfter int) string {
		var out string
		synctest.Test(t, func(t *testing.T) {
			d := start(t, options{config: recorder.Config{FlushInterval: time.Hour, KeyframeBlocks: 4}})
			for i := range 40 {
				if i == snapshotAfter {
					d.answer(5, 10)
				}
				d.depth(int64(3+2*i), int64(4+2*i), 370*i)
				d.trade(int64(i+1), 410*i)
				pass(pause)
			}
			d.stop()
			for i := range d.sink.batch.Keyframes {
				d.sink.batch.Keyframes[i].RecvTime = 0 // the only clock of ours that stands beside the data
			}
			slices.SortStableFunc(d.sink.batch.Blocks, func(a, b market.Block) int {
				return strings.Compare(string(a.Series.Stream), string(b.Series.Stream))
			})
			for i := range d.sink.batch.Blocks {
				d.sink.batch.Blocks[i].Data = nil // holds receive times
			}
			for i := range d.sink.batch.Keyframes {
				out += fmt.Sprintf("%+v\n", d.sink.batch.Keyframes[i])
			}
			out += fmt.Sprintf("%+v", d.sink.batch.Blocks)
		})
		return out
	}
	want := play(0, 1)
	for _, run := range []struct {
		pause time.Duration
		after int
	}{{0, 39}, {30 * time.Millisecond, 7}, {700 * time.Millisecond, 20}} {
		if got := play(run.pause, run.after); got != want {
			t.Errorf("with a pause of %v and the snapshot after %d:\n%s\nwant\n%s", run.pause, run.after, got, want)
		}
	}
}

func TestWitness(t *testing.T) {
	ticker := func(id int64, bid string) string {
		return fmt.Sprintf(`{"stream":"btcusdt@bookTicker","data":{"u":%d,"s":"BTCUSDT","b":"%s","B":"%d.0","a":"101.0","A":"1.0"}}`, id, bid, id)
	}
	synctest.Test(t, func(t *testing.T) {
		d := synced(t, options{config: recorder.Config{Witness: true}})
		d.frame("", ticker(22, "50.0")) // conflated away by the next
		d.frame("", ticker(25, "99.0"))
		d.frame("", ticker(26, "50.0")) // belongs to the update after this one
		d.depth(21, 25, 200)
		mismatches := func() int { return d.metric("tapedeck_witness_mismatches_total", nil) }
		if mismatches() != 0 {
			t.Errorf("%d mismatches", mismatches())
		}
		d.depth(26, 26, 300)
		if mismatches() != 1 {
			t.Errorf("%d mismatches, want 1", mismatches())
		}
		for id := range int64(5000) { // more than are kept
			d.inbox.Frame(t.Context(), "", 1, []byte(ticker(27+id, "99.0")))
		}
		synctest.Wait()
		d.depth(27, 5026, 400)
		if mismatches() != 1 {
			t.Errorf("%d mismatches, want 1", mismatches())
		}
	})
}

// TestManyMarkets lets 200 markets record side by side, of which one is stuck: its snapshot never comes.
func TestManyMarkets(t *testing.T) {
	const markets, updates = 200, 50
	sink := &recorded{}
	registry := prometheus.NewRegistry()
	metrics := recorder.NewMetrics(registry)
	source := sourceFunc(func(ctx context.Context, m market.Market) (market.Snapshot, error) {
		if m.Symbol == "SYM7" {
			<-ctx.Done()
			return market.Snapshot{}, ctx.Err()
		}
		return snapshot(0, 50), nil
	})
	snapshots := recorder.NewSnapshots(source, source, 100, metrics)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var inboxes []*recorder.Inbox
	var recorders []*recorder.Recorder
	done := make(chan int, markets)
	for i := range markets {
		m := market.Market{Exchange: market.Binance, Symbol: fmt.Sprintf("SYM%d", i)}
		inbox := recorder.NewInbox(recorder.NewMemory(1<<20, 1), false)
		r := recorder.New(m, inbox, sink, snapshots, recorder.Config{
			FlushInterval: time.Second, KeyframeBlocks: 128,
		}, metrics, slog.New(slog.DiscardHandler))
		inboxes, recorders = append(inboxes, inbox), append(recorders, r)
		go func() { done <- r.Run(ctx) }()
		inbox.Connected(1)
	}
	for id := range int64(updates) {
		for i, inbox := range inboxes {
			inbox.Frame(ctx, market.Depth, 1, []byte(depthFrame(fmt.Sprintf("SYM%d", i), id+1, id+1, 100*int(id), "99.0")))
		}
	}
	var unwritten atomic.Int64
	for i, inbox := range inboxes {
		if i != 7 {
			inbox.Close()
		}
	}
	for range markets - 1 {
		unwritten.Add(int64(<-done))
	}
	if unwritten.Load() != 0 {
		t.Errorf("%d frames unwritten", unwritten.Load())
	}
	if state := recorders[7].Status().State; state != market.StateSyncing {
		t.Errorf("the stuck market is %s", state)
	}
	events := 0
	for _, b := range sink.batch.Blocks {
		events += b.Events
	}
	if events != (markets-1)*updates || len(sink.batch.Gaps) != 0 {
		t.Errorf("%d events recorded, want %d; %d gaps", events, (markets-1)*updates, len(sink.batch.Gaps))
	}
	cancel()
	if n := <-done; n != updates {
		t.Errorf("the stuck market gave up %d frames, want %d", n, updates)
	}
}

// sourceFunc returns a Source that gives snapshots.
func sourceFunc(f func(context.Context, market.Market) (market.Snapshot, error)) recorder.Source {
	return snapshotSource{f: f}
}

type snapshotSource struct {
	noTrades
	f func(context.Context, market.Market) (market.Snapshot, error)
}

func (s snapshotSource) Snapshot(ctx context.Context, m market.Market, _ int) (market.Snapshot, error) {
	return s.f(ctx, m)
}
