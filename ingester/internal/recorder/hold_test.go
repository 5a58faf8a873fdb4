package recorder_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"tapedeck/ingester/internal/recorder"
	"tapedeck/shared/market"
)

// TestOutOfOrder: updates that come late, twice or in another order leave no hole, as long as all are here in time.
func TestOutOfOrder(t *testing.T) {
	for _, test := range []struct {
		name      string
		updates   [][2]int64
		wantStale int
	}{
		{"two swapped", [][2]int64{{26, 30}, {21, 25}, {31, 35}}, 0},
		{"the first one last", [][2]int64{{26, 30}, {31, 35}, {36, 40}, {21, 25}}, 0},
		{"backwards", [][2]int64{{36, 40}, {31, 35}, {26, 30}, {21, 25}}, 0},
		{"two links, one behind", [][2]int64{{21, 25}, {31, 35}, {21, 25}, {26, 30}, {31, 35}}, 2},
		{"two links, each with another half", [][2]int64{{21, 25}, {31, 35}, {31, 35}, {26, 30}, {36, 40}}, 1},
		{"another cut of the same ids", [][2]int64{{31, 35}, {28, 30}, {21, 29}, {31, 35}}, 1},
		{"a wider one after a narrower", [][2]int64{{26, 30}, {24, 30}, {21, 25}}, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := synced(t, options{})
				last := int64(0)
				for i, u := range test.updates {
					d.depth(u[0], u[1], 200)
					last = max(last, u[1])
					if i+1 < len(test.updates) {
						pass(50 * time.Millisecond)
					}
				}
				d.wantState(market.StateSynced)
				pass(time.Second)
				d.wantState(market.StateSynced)
				if d.collect() != 0 {
					t.Error("a snapshot was asked for")
				}
				d.stop()
				d.want("gaps depth", "", "blocks depth", fmt.Sprintf("11-%d", last), "keyframes", "@10")
				if got := d.events(market.Depth, "stale"); got != test.wantStale {
					t.Errorf("%d stale, want %d", got, test.wantStale)
				}
			})
		})
	}
}

func TestWhatIsMissingIsWaitedForForAShortTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := synced(t, options{})
		d.depth(26, 30, 200)
		pass(240 * time.Millisecond)
		d.wantState(market.StateSyncing)
		d.want("gaps depth", "")
		pass(20 * time.Millisecond)
		d.want("gaps depth", "sequence 21-25")
		d.depth(21, 25, 150) // later than that, but before the snapshot: nothing is missing after all
		d.answerNext(33, 250)
		d.depth(31, 35, 300)
		d.wantState(market.StateSynced)
		d.stop()
		d.want("gaps depth", "sequence 21-25, sequence 21-20 snapshot", "blocks depth", "11-20, 21-35", "keyframes", "@10, @33")
	})
}

// TestHoleIsExactlyWhatIsMissing: updates behind the hole are recorded although the snapshot holds them, those that
// come later included.
func TestHoleIsExactlyWhatIsMissing(t *testing.T) {
	for _, test := range []struct {
		name       string
		snapshot   int64
		before     [][2]int64 // the snapshot
		after      [][2]int64
		wantGaps   string
		wantBlocks string
	}{
		{
			"the snapshot is within the buffer", 38,
			[][2]int64{{26, 30}, {31, 35}, {36, 40}},
			[][2]int64{{41, 45}},
			"sequence 21-25, sequence 21-25 snapshot", "11-20, 26-45",
		},
		{
			"the snapshot is ahead of the stream", 48,
			[][2]int64{{26, 30}, {31, 35}},
			[][2]int64{{36, 40}, {41, 45}, {46, 50}},
			"sequence 21-25, sequence 21-25 snapshot", "11-20, 26-50",
		},
		{
			"another hole below the snapshot", 48,
			[][2]int64{{26, 30}, {36, 40}},
			[][2]int64{{41, 45}, {46, 50}},
			"sequence 21-25, sequence 21-25 snapshot, sequence 31-35 snapshot", "11-20, 26-30, 36-50",
		},
		{
			"another hole across the snapshot", 33,
			[][2]int64{{26, 30}, {36, 40}},
			[][2]int64{{41, 45}},
			"sequence 21-25, sequence 21-25 snapshot, sequence 31-35, sequence 31-35 snapshot", "11-20, 26-30, 36-45",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := synced(t, options{})
				d.source.at(45)
				for _, u := range test.before {
					d.depth(u[0], u[1], 200)
				}
				pass(300 * time.Millisecond)
				d.answerNext(test.snapshot, 250)
				for _, u := range test.after {
					d.depth(u[0], u[1], 300)
				}
				pass(time.Second)
				if d.collect() > 0 {
					d.answer(37, 300)
				}
				d.wantState(market.StateSynced)
				d.stop()
				d.want("gaps depth", test.wantGaps, "blocks depth", test.wantBlocks)
				for _, g := range d.sink.batch.Gaps {
					if g.Repair != "" && (g.End == 0 || g.RecvEnd == 0 || g.RepairedAt == 0) {
						t.Errorf("gap %+v", g)
					}
				}
			})
		})
	}
}

func TestHoldByTheSameRuleInAReplay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := synced(t, options{config: recorder.Config{Wait: true, FlushInterval: 2 * time.Second}})
		d.depth(26, 30, 200)
		d.depth(21, 25, 150)
		d.wantState(market.StateSynced)
		pass(1300 * time.Millisecond)
		d.depth(31, 31, 200)
		pass(400 * time.Millisecond)
		d.want("saved depth", "") // which can be had again
		d.depth(32, 32, 200)
		d.depth(36, 40, 300)
		pass(300 * time.Millisecond)
		d.answerNext(37, 300)
		d.stop()
		d.want("gaps depth", "sequence 33-35, sequence 33-35 snapshot", "blocks depth", "11-32, 36-40")
	})
}

func TestStopEndsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := synced(t, options{})
		d.depth(26, 30, 200)
		d.inbox.Close()
		synctest.Wait()
		d.answerNext(28, 200)
		if unwritten := <-d.done; unwritten != 0 {
			t.Errorf("%d frames unwritten", unwritten)
		}
		d.want("gaps depth", "sequence 21-25, sequence 21-25 snapshot", "blocks depth", "11-20, 26-30")
	})
}

// TestStopKeepsWhatIsHeld: that an earlier update came later is no reason to drop one, as long as it may be true.
func TestStopKeepsWhatIsHeld(t *testing.T) {
	for _, test := range []struct {
		name      string
		id        int64 // of an update that waits, five ids long
		snapshot  int64 // 0 = there is none
		unwritten int
		blocks    string
		gaps      string
	}{
		{"a snapshot shows that it is true", 26, 28, 0, "11-23, 26-30", "sequence 24-25, sequence 24-25 snapshot"},
		{"no snapshot comes", 26, 0, 1, "11-23", "sequence 24-25"},
		{"it is hard to believe", 5_000_026, 0, 0, "11-23", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := synced(t, options{})
				d.depth(test.id, test.id+4, 200)
				d.depth(21, 23, 150)
				d.inbox.Close()
				synctest.Wait()
				if test.snapshot != 0 {
					d.answerNext(test.snapshot, 200)
				}
				if unwritten := <-d.done; unwritten != test.unwritten {
					t.Errorf("%d frames unwritten, want %d", unwritten, test.unwritten)
				}
				d.want("blocks depth", test.blocks, "gaps depth", test.gaps)
			})
		})
	}
}

// TestCauseOfAHole: the update that came first after frames were lost is not always the one behind the hole.
func TestCauseOfAHole(t *testing.T) {
	for _, test := range []struct {
		name string
		play func(d *deck)
		gaps string
	}{
		{"the next update comes late", func(d *deck) {
			d.frame(market.Depth, "broken") // was 21 to 25
			d.depth(31, 35, 200)
			d.depth(26, 30, 200)
		}, "malformed 21-25, malformed 21-25 snapshot"},
		{"two holes", func(d *deck) {
			d.depth(26, 30, 200)
			pass(100 * time.Millisecond)
			d.frame(market.Depth, "broken") // was 31 to 35
			d.depth(36, 40, 200)
		}, "sequence 21-25, sequence 21-25 snapshot, malformed 31-35 snapshot"},
		{"nonsense comes first", func(d *deck) {
			d.inbox.Disconnected(1)
			pass(10 * time.Second)
			d.inbox.Connected(1)
			d.depth(9000, 9000, 200)
			d.depth(26, 30, 200)
		}, "disconnect 21-25, disconnect 21-25 snapshot"},
		{"nonsense comes first, and is dropped", func(d *deck) {
			d.source.at(20)
			d.inbox.Disconnected(1)
			pass(10 * time.Second)
			d.inbox.Connected(1)
			d.depth(9000, 9000, 200)
			d.depth(18, 20, 200) // an old copy, which shows that the stream is not that far
			pass(4500 * time.Millisecond)
			d.depth(26, 30, 200)
		}, "disconnect 21-25, disconnect 21-25 snapshot"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := synced(t, options{})
				d.source.at(20)
				test.play(d)
				pass(time.Second)
				d.answerNext(60, 400)
				d.stop()
				d.want("gaps depth", test.gaps)
			})
		})
	}
}

// TestCauseOfAHoleBehindTheSnapshot: what came first after a frame was lost is old.
func TestCauseOfAHoleBehindTheSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := start(t, options{})
		d.depth(11, 15, 100)
		d.frame(market.Depth, "broken") // was 21 to 25
		d.depth(16, 20, 200)            // over the other connection
		d.depth(26, 30, 300)
		d.answer(20, 50)
		pass(time.Second)
		d.answerNext(30, 200)
		d.stop()
		d.want("gaps depth", "malformed 21-25, malformed 21-25 snapshot", "blocks depth", "26-30")
	})
}

// TestNonsenseIDs: an update is well-formed, but its ids are far beyond those of the exchange.
func TestNonsenseIDs(t *testing.T) {
	t.Run("while the stream goes on", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			d := synced(t, options{})
			d.source.at(20)
			d.depth(1_000_000, 1_000_005, 150)
			for id := int64(21); id <= 80; id++ {
				d.depth(id, id, int(200+100*(id-20)))
				d.source.at(id)
				pass(100 * time.Millisecond)
			}
			d.wantState(market.StateSynced)
			if d.collect() != 0 {
				t.Error("a snapshot was asked for")
			}
			d.stop()
			d.want("gaps depth", "", "keyframes", "@10")
			if got := d.events(market.Depth, "malformed"); got != 1 {
				t.Errorf("%d malformed, want 1", got)
			}
			if last := d.recorder.Status().LastUpdateID; last != 80 {
				t.Errorf("recorded up to %d, want 80", last)
			}
		})
	})
	t.Run("on a quiet market", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			d := synced(t, options{})
			d.source.at(22)
			d.depth(9_000_000_000, 9_000_000_005, 150)
			for begin := time.Now(); time.Since(begin) < 3*time.Minute; pass(time.Second) {
				if d.collect() > 0 {
					d.answer(22, 200)
				}
			}
			d.wantState(market.StateSynced)
			d.depth(23, 25, 9000)
			d.stop()
			d.want("blocks depth", "11-20, 23-25", "keyframes", "@10, @22",
				"gaps depth", "sequence 21-20, sequence 21-22 snapshot")
			if got := d.events(market.Depth, "malformed"); got != 1 {
				t.Errorf("%d malformed, want 1", got)
			}
		})
	})
	t.Run("from the right id on", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			d := synced(t, options{})
			d.depth(21, 9_000_000_000, 150) // instead of 21 to 25
			d.depth(26, 30, 200)
			d.depth(31, 35, 300)
			pass(300 * time.Millisecond)
			d.answerNext(35, 300)
			d.wantState(market.StateSynced)
			d.stop()
			d.want("blocks depth", "11-20, 26-35", "gaps depth", "malformed 21-25, malformed 21-25 snapshot")
			if got := d.events(market.Depth, "malformed"); got != 1 {
				t.Errorf("%d malformed, want 1", got)
			}
		})
	})
	t.Run("before the first book", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			d := start(t, options{})
			d.source.at(20)
			d.depth(1_000_000, 1_000_005, 150)
			d.depth(21, 25, 200)
			d.answerNext(22, 150)
			pass(5 * time.Second)
			d.wantState(market.StateSynced)
			d.depth(26, 30, 300)
			d.stop()
			d.want("blocks depth", "21-25, 26-30", "gaps depth", "")
		})
	})
	t.Run("an exchange whose snapshots are late", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			d := start(t, options{})
			for id := int64(101); id <= 1300; id++ {
				d.depth(id, id, int(100*id))
				if d.collect() > 0 {
					d.answer(50, 50)
				}
				pass(100 * time.Millisecond)
			}
			d.answerNext(150, 50)
			d.wantState(market.StateSynced)
			d.stop()
			d.want("gaps depth", "", "keyframes", "@150")
			if got := d.events(market.Depth, "malformed"); got != 0 {
				t.Errorf("%d updates dropped", got)
			}
		})
	})
}
