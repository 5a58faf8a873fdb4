package recorder_test

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"tapedeck/ingester/internal/recorder"
	"tapedeck/shared/market"
	"tapedeck/shared/tape"
)

func TestSync(t *testing.T) {
	for _, test := range []struct {
		name      string
		snapshots []int64 // answers, in order
		wantRead  string  // blocks
		wantStale int
	}{
		{"snapshot within the first update", []int64{12}, "11-30", 0},
		{"snapshot just before the first update", []int64{10}, "11-30", 0},
		{"snapshot at the end of the first update", []int64{15}, "16-30", 1},
		{"snapshot at the end of the buffer", []int64{30}, "31-35", 4},
		{"snapshot ahead of the stream", []int64{32}, "31-35", 4},
		{"snapshot older than the buffer, then newer", []int64{9, 5, 20}, "21-30", 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := start(t, options{})
				d.depth(11, 15, 100)
				d.depth(16, 20, 200)
				d.depth(21, 25, 300)
				d.depth(26, 30, 400)
				d.wantState(market.StateSyncing)
				for _, id := range test.snapshots {
					d.answerNext(id, 50)
				}
				d.wantState(market.StateSynced)
				pass(2 * time.Second) // cuts the block
				d.depth(31, 35, 1500)
				if d.stop() != 0 {
					t.Error("something was not recorded")
				}
				want := test.wantRead
				if want != "31-35" {
					want += ", 31-35"
				}
				d.want("blocks depth", want, "gaps depth", "")
				if got := d.events(market.Depth, "stale"); got != test.wantStale {
					t.Errorf("%d stale, want %d", got, test.wantStale)
				}
				if d.collect() != 0 {
					t.Error("one snapshot too many was asked for")
				}
			})
		})
	}
}

func TestKeyframeOfTheFirstSync(t *testing.T) {
	for _, test := range []struct {
		name       string
		snapshotMS int
		id         int64
		wantMS     int
	}{
		{"the snapshot's own time", 150, 15, 150},
		{"not before the last update it holds", 50, 15, 100},
		{"not after the first update applied to it", 5000, 15, 200},
		{"on a stream that has not caught up: its own time", 700, 40, 700},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := start(t, options{})
				d.depth(11, 15, 100)
				d.depth(16, 20, 200)
				d.answer(test.id, test.snapshotMS)
				d.stop()
				k := d.sink.batch.Keyframes[0]
				if k.UpdateID != test.id || k.SnapshotID != test.id || k.EventTime != millis(test.wantMS) ||
					k.UpdatesApplied != 0 || k.FirstUpdateID != 0 || k.VerifiedBid != 98e8 || k.VerifiedAsk != 103e8 {
					t.Errorf("keyframe %+v, want event time %v", k, millis(test.wantMS))
				}
				var decoder tape.Decoder
				bids, asks, err := decoder.Book(k.Data)
				if err != nil || len(bids) != 2 || len(asks) != 2 || bids[0].Price != 99e8 || asks[0].Price != 101e8 {
					t.Errorf("levels %v %v, %v", bids, asks, err)
				}
			})
		})
	}
}

func TestQuietMarketIsAskedForAnyway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := start(t, options{})
		pass(4 * time.Second)
		if d.collect() != 0 {
			t.Error("asked too early")
		}
		pass(2 * time.Second)
		d.answer(10, 50)
		d.wantState(market.StateSynced)
		pass(2 * time.Second)
		d.want("keyframes", "@10")
		d.depth(11, 12, 9000)
		d.stop()
		d.want("blocks depth", "11-12", "gaps depth", "", "keyframes", "@10")
	})
}

func TestBufferOverflowWhileTheSnapshotIsLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := start(t, options{memory: 16 << 10})
		for id := range int64(100) {
			d.depth(id+1, id+1, 100+int(id))
		}
		dropped := int64(d.events(market.Depth, "dropped"))
		if dropped < 10 || dropped > 90 {
			t.Fatalf("%d updates dropped", dropped)
		}
		d.answer(dropped-1, 50) // would leave one out
		d.wantState(market.StateSyncing)
		d.answerNext(dropped+3, 50)
		d.wantState(market.StateSynced)
		d.stop()
		d.want("blocks depth", fmt.Sprintf("%d-100", dropped+4), "keyframes", fmt.Sprintf("@%d", dropped+3), "gaps depth", "")
	})
}

// TestBufferOverflowBehindAHole: what is dropped for want of room is missing for another reason than what did not come; and
// a copy of what is recorded is not missing at all.
func TestBufferOverflowBehindAHole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := synced(t, options{memory: 16 << 10})
		for id := int64(26); id <= 125; id++ {
			d.depth(id, id, 200)
		}
		pass(time.Second)
		d.depth(16, 20, 100) // again
		for id := int64(126); id <= 200; id++ {
			d.depth(id, id, 300)
		}
		d.depth(16, 20, 100)
		dropped := int64(d.events(market.Depth, "dropped"))
		if dropped < 10 || dropped > 170 {
			t.Fatalf("%d updates dropped", dropped)
		}
		d.answerNext(198, 400)
		d.stop()
		d.want("gaps depth", fmt.Sprintf("sequence 21-25, sequence 21-25 snapshot, overflow 26-%d snapshot", 25+dropped),
			"blocks depth", fmt.Sprintf("11-20, %d-200", 26+dropped), "keyframes", "@10, @198")
	})
}

func TestBufferThatWaitsDropsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := start(t, options{memory: 512 << 10, config: recorder.Config{Wait: true}})
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			for id := range int64(8000) {
				d.inbox.Frame(t.Context(), market.Depth, 1, []byte(depthFrame("BTCUSDT", id+1, id+1, 100, "99.0")))
			}
		}()
		synctest.Wait()
		if d.inbox.Bytes() == 0 {
			t.Error("the recorder went on taking frames")
		}
		select {
		case <-sent:
			t.Error("the feed was not made to wait")
		default:
		}
		pass(3 * time.Second) // or never: the clock of the bubble stands still while the recorder is busy
		d.answer(5, 50)
		<-sent
		d.stop()
		d.want("blocks depth", "6-4101, 4102-8000", "gaps depth", "")
		if got := d.events(market.Depth, "dropped"); got != 0 {
			t.Errorf("%d updates dropped", got)
		}
	})
}

// synced returns a recorder whose book stands at id 20, with one block from 11 recorded.
func synced(t *testing.T, o options) *deck {
	t.Helper()
	d := start(t, o)
	d.depth(11, 20, 100)
	d.answer(10, 50)
	d.wantState(market.StateSynced)
	return d
}

func TestGapRestartsTheBook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := synced(t, options{})
		d.depth(26, 30, 200) // 21 to 25 are missing
		d.wantState(market.StateSyncing)
		d.want("gaps depth", "")
		pass(300 * time.Millisecond)
		d.want("gaps depth", "sequence 21-25")
		d.depth(31, 35, 300)
		d.trade(1, 300) // goes on being recorded
		d.answerNext(28, 250)
		d.wantState(market.StateSynced)
		d.depth(36, 40, 400)
		d.stop()
		d.want("gaps depth", "sequence 21-25, sequence 21-25 snapshot",
			"blocks depth", "11-20, 26-40", "keyframes", "@10, @28",
			"blocks trades", "1-1", "gaps trades", "")
		g := d.sink.batch.Gaps[1]
		if g.Start != millis(100) || g.End != millis(200) || g.RepairedAt == 0 || g.DetectedAt == 0 {
			t.Errorf("gap %+v", g)
		}
	})
}

func TestGapWithinTheBuffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := start(t, options{})
		d.depth(11, 15, 100)
		d.depth(21, 25, 200) // 16 to 20 are missing
		d.depth(26, 30, 300)
		d.answer(12, 50)
		d.wantState(market.StateSyncing)
		d.answerNext(18, 150) // holds neither what is missing nor what waits
		d.wantState(market.StateSyncing)
		d.answerNext(22, 250)
		d.wantState(market.StateSynced)
		d.stop()
		d.want("gaps depth", "sequence 16-20, sequence 16-20 snapshot", "blocks depth", "11-15, 21-30", "keyframes", "@12, @22")
	})
}

func TestReconnect(t *testing.T) {
	for _, test := range []struct {
		name          string
		first, last   int64
		wantGaps      string
		wantBlocks    string
		wantSnapshots int
	}{
		{"nothing was missed", 21, 25, "", "11-25", 0},
		{"overlap", 18, 25, "", "11-25", 0},
		{"loss", 23, 25, "disconnect 21-22, disconnect 21-22 snapshot", "11-20, 23-25", 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := synced(t, options{})
				d.inbox.Disconnected(2)
				synctest.Wait()
				d.wantState(market.StateOffline)
				d.inbox.Connected(3)
				synctest.Wait()
				d.wantState(market.StateSyncing)
				d.depth(test.first, test.last, 300)
				for range test.wantSnapshots {
					d.answerNext(24, 250)
				}
				d.wantState(market.StateSynced)
				d.stop()
				d.want("gaps depth", test.wantGaps, "blocks depth", test.wantBlocks)
				if d.collect() != 0 {
					t.Error("a snapshot was asked for")
				}
			})
		})
	}
}

func TestReconnectOfAQuietMarket(t *testing.T) {
	for _, test := range []struct {
		name       string
		exchange   int64         // where it is
		pause      time.Duration // until the next update
		first      int64         // of that
		wantGaps   string
		wantBlocks string
	}{
		{"nothing was missed", 20, time.Minute, 21, "", "11-20, 21-30"},
		{"the exchange has what is on its way", 27, 100 * time.Millisecond, 21, "", "11-20, 21-30"},
		{"a part of it", 27, 100 * time.Millisecond, 26, "disconnect 21-25, disconnect 21-25 snapshot", "11-20, 26-30"},
		{"loss", 27, time.Minute, 28, "disconnect 21-27, disconnect 21-27 snapshot", "11-20, 28-30"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := synced(t, options{})
				d.source.at(20)
				pass(2 * time.Minute)
				d.inbox.Disconnected(2)
				d.inbox.Connected(3)
				d.source.at(test.exchange)
				if pass(5 * time.Second); test.wantBlocks == "11-20, 28-30" {
					d.answerNext(test.exchange, 5000)
				}
				pass(test.pause)
				d.depth(test.first, 30, 9000)
				if test.first == 26 {
					d.answerNext(test.exchange, 9100)
				}
				d.wantState(market.StateSynced)
				d.stop()
				d.want("gaps depth", test.wantGaps, "blocks depth", test.wantBlocks)
				if d.collect() != 0 {
					t.Error("one snapshot too many was asked for")
				}
			})
		})
	}
}

func TestCrossedBookIsBuiltAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := synced(t, options{})
		d.frame(market.Depth, depthFrame("BTCUSDT", 21, 25, 200, "102.00000000")) // above the best ask
		d.wantState(market.StateSyncing)
		d.want("gaps depth", "crossed 21-25")
		d.depth(26, 30, 300)
		d.answerNext(24, 250) // may hold what was wrong
		d.wantState(market.StateSyncing)
		d.answerNext(26, 250)
		d.wantState(market.StateSynced)
		d.stop()
		d.want("gaps depth", "crossed 21-25, crossed 21-25 snapshot", "blocks depth", "11-20, 26-30")
	})
}

// TestKeyframeIsNeverOfACrossedBook: the block that ends before the crossing update is refused by a full sink, which
// calls for a keyframe, and the book holds that update already.
func TestKeyframeIsNeverOfACrossedBook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		full := false
		d := synced(t, options{sink: &recorded{refuse: func(*market.Batch) bool { return full }}})
		full = true
		d.frame(market.Depth, depthFrame("BTCUSDT", 21, 25, 200, "102.00000000")) // above the best ask
		full = false
		d.depth(26, 30, 300)
		d.answerNext(26, 250)
		d.stop()
		d.want("keyframes", "@10, @26", "blocks depth", "26-30")
	})
}

func TestCrossedSnapshotIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := start(t, options{})
		d.depth(11, 20, 100)
		s := snapshot(15, 50)
		s.Bids[0].Price = 105e8
		d.reply(answer{snapshot: s})
		d.wantState(market.StateSyncing)
		d.answerNext(15, 50)
		d.wantState(market.StateSynced)
		d.stop()
		d.want("blocks depth", "11-20", "keyframes", "@15")
	})
}

// TestSnapshotWithAnEmptySide is no snapshot where there are levels, unless the exchange says so for long.
func TestSnapshotWithAnEmptySide(t *testing.T) {
	for _, test := range []struct {
		name string
		bad  func(s *market.Snapshot)
		more int // of them
		ok   bool
	}{
		{"no bids", func(s *market.Snapshot) { s.Bids = nil }, 2, false},
		{"no asks", func(s *market.Snapshot) { s.Asks = nil }, 2, false},
		{"nothing", func(s *market.Snapshot) { s.Bids, s.Asks = nil, nil }, 2, false},
		{"nothing, for long", func(s *market.Snapshot) { s.Bids, s.Asks = nil, nil }, 10, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := snapshot(30, 250)
				test.bad(&s)
				d := synced(t, options{})
				d.depth(26, 30, 200)
				pass(300 * time.Millisecond)
				d.source.at(30)
				for range test.more {
					if d.waitForRequest(); d.collect() > 0 {
						d.reply(answer{snapshot: s})
					}
				}
				if test.ok {
					d.wantState(market.StateSynced)
				} else {
					d.wantState(market.StateSyncing)
					d.answerNext(30, 250)
				}
				d.depth(31, 35, 300)
				d.wantState(market.StateSynced)
				d.stop()
				d.want("gaps depth", "sequence 21-25, sequence 21-25 snapshot", "keyframes", "@10, @30")
			})
		})
	}
}

func TestUnknownMarketIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := start(t, options{})
		pass(6 * time.Second) // quiet, so it is asked for
		d.reply(answer{err: market.Errorf(market.KindNotFound, "Invalid symbol.")})
		pass(9 * time.Minute)
		if n := d.collect(); n != 0 {
			t.Errorf("asked for %d times within nine minutes", n)
		}
		pass(time.Minute + time.Second)
		d.answer(10, 0) // it is listed now
		d.wantState(market.StateSynced)
		d.stop()
	})
}

func TestSnapshotsAreAskedForEverMoreSlowly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := start(t, options{})
		d.depth(11, 20, 100)
		begin, requests := time.Now(), 0
		for time.Since(begin) < 10*time.Minute {
			if d.collect() > 0 {
				requests++
				d.reply(answer{err: errors.New("<html>not a snapshot</html>")})
			}
			pass(100 * time.Millisecond)
		}
		if requests < 20 || requests > 60 {
			t.Errorf("%d requests in ten minutes", requests)
		}
		d.answerNext(15, 50)
		d.wantState(market.StateSynced)
		d.stop()
		d.want("blocks depth", "11-20")
		if got := d.metric("tapedeck_snapshot_requests_total", map[string]string{"result": "error"}); got != requests {
			t.Errorf("%d failures counted of %d", got, requests)
		}
	})
}

func TestGapLoopIsSlowedDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := synced(t, options{})
		begin, requests, id := time.Now(), 0, int64(100)
		for time.Since(begin) < 10*time.Minute {
			if d.collect() > 0 {
				requests++
				d.answer(id, 250)
			}
			id += 10
			d.depth(id, id, 300) // always a gap
			pass(100 * time.Millisecond)
		}
		if requests > 60 {
			t.Errorf("%d requests in ten minutes of gaps", requests)
		}
		d.answerNext(id, 300)
		d.wantState(market.StateSynced)
		pass(2 * time.Minute)
		d.depth(id+10, id+10, 400)
		pass(300 * time.Millisecond)
		if d.collect() == 0 {
			t.Error("after a calm time the snapshot is not asked for at once")
		}
	})
}

func TestStopWaitsForTheSnapshotOfWhatIsBuffered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := start(t, options{})
		d.depth(11, 20, 100)
		d.inbox.Close()
		pass(time.Second)
		d.answer(15, 50)
		if unwritten := <-d.done; unwritten != 0 {
			t.Errorf("%d frames unwritten", unwritten)
		}
		d.want("blocks depth", "11-20")
	})
}

func TestStopWithoutASnapshotTellsWhatIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := start(t, options{})
		d.depth(11, 15, 100)
		d.depth(16, 20, 200)
		d.trade(1, 200)
		if unwritten := d.stop(); unwritten != 2 {
			t.Errorf("%d frames unwritten, want 2", unwritten)
		}
		d.want("blocks trades", "1-1", "blocks depth", "")
	})
}

// TestLateSnapshotBehindAHole: blocks are cut before the first update beyond the snapshot is applied, and the clock was
// asked long after the book was taken.
func TestLateSnapshotBehindAHole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := start(t, options{})
		d.depth(11, 15, 100)
		d.answer(10, 50)
		d.depth(31, 35, 900)
		d.depth(36, 40, 1400)
		d.depth(41, 45, 1500)
		pass(time.Second)
		d.answer(40, 5000)
		d.stop()
		keyframes := d.sink.batch.Keyframes
		if k := keyframes[len(keyframes)-1]; k.UpdateID != 40 || k.EventTime != millis(1500) {
			t.Errorf("keyframe of %d at %v, want 40 at %v", k.UpdateID, k.EventTime, millis(1500))
		}
	})
}

// TestCopyFromBeforeAStepDatesNoSnapshot: what came before the clock stepped back says nothing of the time behind it.
func TestCopyFromBeforeAStepDatesNoSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := synced(t, options{})
		d.depth(21, 25, 60_000)
		d.depth(26, 30, 5_000) // the clock stepped back
		d.depth(36, 40, 5_200)
		pass(300 * time.Millisecond) // 31 to 35 are missing
		d.answerNext(40, 5_300)
		d.depth(21, 25, 60_000) // again
		d.depth(46, 50, 5_400)
		pass(300 * time.Millisecond) // 41 to 45 are missing
		d.answerNext(50, 5_500)
		d.stop()
		for _, k := range d.sink.batch.Keyframes {
			if k.UpdateID == 40 && k.EventTime > millis(5_300) {
				t.Errorf("the book of %d is of %v, want %v or before", k.UpdateID, k.EventTime, millis(5_300))
			}
		}
		d.want("keyframes", "@10, @25, @40, @50")
	})
}

// TestNonsenseDatesNoSnapshot: an update that is hard to believe says nothing of the time of the snapshot before it.
func TestNonsenseDatesNoSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := synced(t, options{})
		d.source.at(28)
		d.reconnect()
		pass(10 * time.Second)
		d.wantState(market.StateSyncing)
		d.depth(18, 20, 100) // again
		d.depth(50_000_021, 50_000_025, 200)
		d.answerNext(28, 60_000)
		pass(2 * time.Second)
		d.stop()
		d.want("keyframes", "@10, @28")
		if k := d.sink.batch.Keyframes[1]; k.EventTime != millis(60_000) {
			t.Errorf("the book of %d is of %v, want %v", k.UpdateID, k.EventTime, millis(60_000))
		}
	})
}
