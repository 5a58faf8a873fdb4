package recorder_test

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tapedeck/ingester/internal/recorder"
	"tapedeck/shared/market"
)

// TestLinks: connections come and go one by one; the market is offline, and in doubt, only without any.
func TestLinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := synced(t, options{})
		do := func(f func(market.Time), want market.MarketState) {
			t.Helper()
			f(1)
			synctest.Wait()
			d.wantState(want)
		}
		do(d.inbox.Connected, market.StateSynced)
		do(d.inbox.Disconnected, market.StateSynced)
		do(d.inbox.Disconnected, market.StateOffline)
		do(d.inbox.Connected, market.StateSyncing)
		d.depth(21, 25, 200)
		d.wantState(market.StateSynced)
		do(d.inbox.Connected, market.StateSynced)
		do(d.inbox.Disconnected, market.StateSynced)
		d.depth(31, 35, 300) // the link that was lost may have had what is missing
		pass(time.Second)
		d.answerNext(31, 300)
		pass(10 * time.Second)
		d.depth(41, 45, 400) // that was long ago
		pass(time.Second)
		d.answerNext(41, 400)
		d.stop()
		d.want("gaps depth", "disconnect 26-30, disconnect 26-30 snapshot, sequence 36-40, sequence 36-40 snapshot",
			"blocks depth", "11-25, 31-35, 41-45")
	})
}

// TestSnapshotFromBeforeAReconnect: what is missing between a snapshot and the first update was lost with a connection,
// also when the book was not there yet.
func TestSnapshotFromBeforeAReconnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := start(t, options{})
		pass(6 * time.Second) // quiet, so it is asked for
		d.inbox.Disconnected(1)
		d.inbox.Connected(1)
		synctest.Wait()
		d.answer(10, 50)
		d.wantState(market.StateSyncing)
		d.depth(21, 25, 200)
		pass(time.Second)
		d.answerNext(22, 200)
		d.stop()
		d.want("gaps depth", "disconnect 11-20, disconnect 11-20 snapshot", "blocks depth", "21-25")
	})
}

// stalls collects what the feed is asked to restore.
type stalls chan market.Stream

func (s stalls) restore(_ market.Market, stream market.Stream) { s <- stream }

func TestMuteStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := make(stalls, 10)
		d := synced(t, options{config: recorder.Config{Restore: asked.restore}})
		d.source.at(20)
		pass(time.Minute)
		d.wantState(market.StateSynced)
		d.depth(21, 25, 61_000)
		d.source.at(40)
		pass(4 * time.Second)
		if len(asked) != 0 {
			t.Error("restored too early")
		}
		pass(3 * time.Minute) // the market was silent for a minute before
		d.wantState(market.StateSyncing)
		if len(asked) == 0 {
			t.Fatal("the feed was not asked to restore the stream")
		}
		d.want("gaps depth", "stall 26-40")
		d.answer(42, 90_000)
		d.source.at(42)
		d.wantState(market.StateSyncing) // until it is known that there is nothing to say
		pass(10 * time.Second)
		d.wantState(market.StateSynced)
		d.depth(43, 45, 120_000)
		d.stop()
		if len(asked) != 1 {
			t.Errorf("%d complaints, want 1", len(asked))
		}
		d.want("gaps depth", "stall 26-40, stall 26-42 snapshot", "blocks depth", "11-20, 21-25, 43-45", "keyframes", "@10, @42")
	})
}

// TestMuteStreamIsComplainedOfAgain: what the feed did was of no use.
func TestMuteStreamIsComplainedOfAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := make(stalls, 100)
		d := synced(t, options{config: recorder.Config{Restore: asked.restore}})
		begin, id := time.Now(), int64(40)
		for time.Since(begin) < 5*time.Minute {
			d.source.at(id)
			if d.collect() > 0 {
				d.answer(id, 200)
			}
			id++
			pass(100 * time.Millisecond)
		}
		if len(asked) < 3 || len(asked) > 60 {
			t.Errorf("%d complaints in five minutes", len(asked))
		}
		if d.wantState(market.StateSyncing); len(d.sink.batch.Keyframes) < 3 {
			t.Errorf("%d books in five minutes", len(d.sink.batch.Keyframes))
		}
		d.depth(id, id, 9000)
		d.stop()
	})
}

// TestBookThatIsBuiltOffline: without a connection nothing can be mute, and the way on is the first update after it.
func TestBookThatIsBuiltOffline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := make(stalls, 100)
		d := synced(t, options{config: recorder.Config{Restore: asked.restore}})
		d.depth(26, 30, 200)
		pass(300 * time.Millisecond)
		d.inbox.Disconnected(1) // while the snapshot is fetched
		synctest.Wait()
		d.answerNext(30, 300)
		for id := int64(40); id < 3000; id += 10 {
			d.source.at(id)
			pass(time.Second)
		}
		d.wantState(market.StateOffline)
		if n := d.collect(); n > 0 || len(asked) > 0 {
			t.Errorf("%d snapshots and %d restores without a connection", n, len(asked))
		}
		d.inbox.Connected(1)
		d.depth(3001, 3010, 9000)
		pass(time.Second)
		d.answerNext(3010, 9000)
		d.wantState(market.StateSynced)
		d.stop()
		d.want("gaps depth", "sequence 21-25, sequence 21-25 snapshot, disconnect 31-3000, disconnect 31-3000 snapshot")
	})
}

// TestAnswerFromBeforeTheDoubt: what the exchange said before frames were lost says nothing of those.
func TestAnswerFromBeforeTheDoubt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := synced(t, options{})
		slow := make(chan struct{})
		d.source.slow = slow
		d.source.at(20)
		pass(6 * time.Second) // silent: the question is under way
		d.reconnect()
		close(slow)
		pass(time.Second)
		d.wantState(market.StateSyncing)
		d.source.at(25) // was shown while there was no connection
		pass(10 * time.Second)
		d.answerNext(25, 300)
		d.stop()
		d.want("gaps depth", "disconnect 21-25, disconnect 21-25 snapshot")
	})
}

// TestNonsenseOfTheExchange: it says, once or for some time, that it is far beyond what it shows.
func TestNonsenseOfTheExchange(t *testing.T) {
	const far = 9_000_000_000_000
	for _, test := range []struct {
		name string
		play func(d *deck)
		gaps string
	}{
		{"one answer", func(d *deck) {
			d.source.at(far)
			pass(5100 * time.Millisecond)
			d.source.at(20)
		}, ""},
		{"answers for a while", func(d *deck) {
			d.source.at(far)
			pass(9 * time.Second)
			d.source.at(20)
		}, "stall 21-20, stall 21-20 snapshot"},
		{"one snapshot", func(d *deck) {
			d.depth(26, 30, 200)
			pass(300 * time.Millisecond)
			d.answerNext(far, 200)
			d.answerNext(30, 200)
		}, "sequence 21-25, sequence 21-25 snapshot"},
		{"the snapshot of an audit", func(d *deck) {
			d.source.at(20)
			d.nextAudit()
			d.answer(far, 200)
		}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := synced(t, options{config: recorder.Config{AuditInterval: time.Minute}})
				test.play(d)
				id := max(d.recorder.Status().LastUpdateID, 20)
				for begin := time.Now(); time.Since(begin) < 2*time.Minute; pass(time.Second) {
					id++
					d.source.at(id)
					d.depth(id, id, 200)
					if d.collect() > 0 {
						d.reply(answer{snapshot: bookAt(id, id)})
					}
				}
				d.wantState(market.StateSynced)
				d.stop()
				d.want("gaps depth", test.gaps)
				if last := d.recorder.Status().LastUpdateID; last != id {
					t.Errorf("recorded up to %d, want %d", last, id)
				}
			})
		})
	}
}

// TestATrueLeap: a mute stream misses more ids than are easy to believe.
func TestATrueLeap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const far = 5_000_000
		asked := make(stalls, 10)
		d := synced(t, options{config: recorder.Config{Restore: asked.restore}})
		d.source.at(far)
		pass(10 * time.Second)
		if len(asked) != 1 {
			t.Errorf("%d complaints, want 1", len(asked))
		}
		d.answerNext(far+1, 200)
		d.depth(far+2, far+3, 300)
		d.wantState(market.StateSynced)
		d.stop()
		d.want("gaps depth", "stall 21-20, stall 21-5000001 snapshot", "blocks depth", "11-20, 5000002-5000003")
	})
}

// TestQuietMarketIsNotMute: the exchange says that nothing happened, at an ever slower pace of questions; a market that
// does not trade is hardly asked for.
func TestQuietMarketIsNotMute(t *testing.T) {
	for _, test := range []struct {
		name        string
		status      string
		least, most int // questions within an hour
	}{
		{"trading", "TRADING", 8, 20},
		{"in a break", "BREAK", 5, 7},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				asked := make(stalls, 10)
				d := synced(t, options{config: recorder.Config{Restore: asked.restore}})
				ctx, stop := context.WithCancel(t.Context())
				reporter := &recorder.Reporter{
					Name: "test", Recorders: []*recorder.Recorder{d.recorder}, Sink: &recorded{}, Log: slog.New(slog.DiscardHandler),
					Lister: &lister{status: test.status},
				}
				go reporter.Run(ctx)
				synctest.Wait()
				d.depth(21, 25, 200) // the recorder looks at its clock again
				before := d.source.at(25)
				pass(time.Hour)
				if n := d.source.at(25) - before; n < test.least || n > test.most {
					t.Errorf("%d questions in an hour, want %d to %d", n, test.least, test.most)
				}
				d.wantState(market.StateSynced)
				if len(asked) > 0 || d.collect() > 0 {
					t.Error("the market was taken for a mute one")
				}
				want := 0
				if test.status == "TRADING" {
					want = 1
				}
				if got := d.metric("tapedeck_market_trading", nil); got != want {
					t.Errorf("trading %d, want %d", got, want)
				}
				stop()
				d.stop()
				d.want("gaps depth", "")
			})
		})
	}
}

// TestIDsThatBeginAgain: an exchange that starts its ids anew cannot be recorded in one series, and must not be
// vouched for.
func TestIDsThatBeginAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := synced(t, options{})
		d.source.at(5)
		for id := int64(1); id <= 10; id++ {
			d.depth(id, id, int(1000*id))
			pass(10 * time.Second)
		}
		d.wantState(market.StateSyncing)
		if got := d.metric("tapedeck_id_regressions_total", nil); got != 1 {
			t.Errorf("%d counted", got)
		}
		if d.collect() != 0 {
			t.Error("a snapshot was asked for, of which nothing can be made")
		}
		d.depth(21, 25, 90_000) // it was not that
		d.wantState(market.StateSynced)
		d.stop()
		d.want("blocks depth", "11-20, 21-25", "gaps depth", "")
	})
}

func TestClockStepsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := synced(t, options{})
		d.depth(21, 25, 60_000)
		d.depth(26, 30, 59_100) // less than a second: a matter of blocks only
		d.depth(31, 35, 30_000)
		d.depth(36, 40, 30_100)
		d.wantState(market.StateSynced)
		d.stop()
		d.want("blocks depth", "11-20, 21-25, 26-30, 31-40", "gaps depth", "clock 31-30 resumed", "keyframes", "@10, @30")
		if k := d.sink.batch.Keyframes[1]; k.EventTime != millis(30_000) || k.UpdatesApplied != 3 {
			t.Errorf("keyframe %+v", k)
		}
		if g := d.sink.batch.Gaps[0]; g.Start != millis(59_100) || g.End != millis(30_000) || g.RecvStart == 0 || g.RecvEnd == 0 {
			t.Errorf("gap %+v", g)
		}
	})
}

// TestSnapshotBehindAStepOfTheClock has the time behind the step, wherever among the updates that it ends a hole with the
// step is.
func TestSnapshotBehindAStepOfTheClock(t *testing.T) {
	for _, test := range []struct {
		name string
		ms   [4]int // of the updates 36 to 40, 41 to 45, 46 to 50 and 51 to 55
		want int    // the time of the snapshot at 50
	}{
		{"none", [4]int{60_200, 60_300, 60_400, 60_600}, 60_500},
		{"before one that it holds", [4]int{60_200, 30_000, 30_100, 30_300}, 30_000}, // it is recorded with the first behind
		{"before the last that it holds", [4]int{60_200, 60_300, 30_100, 30_300}, 30_100},
		{"before the first that it does not hold", [4]int{60_200, 60_300, 60_400, 30_300}, 30_300},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := synced(t, options{})
				d.depth(21, 25, 60_000)
				d.depth(31, 35, 60_100)
				pass(300 * time.Millisecond)
				d.answerNext(50, 60_500)
				for i, ms := range test.ms {
					d.depth(int64(36+5*i), int64(40+5*i), ms)
				}
				d.stop()
				for _, k := range d.sink.batch.Keyframes {
					if k.UpdateID == 50 && k.UpdatesApplied == 0 && k.EventTime != millis(test.want) {
						t.Errorf("keyframe of %v, want %v", k.EventTime, millis(test.want))
					}
				}
				if !strings.Contains(d.sink.describe("keyframes", market.Depth), "@50") {
					t.Error("no keyframe at 50")
				}
			})
		})
	}
}

// TestClockStepsBackAcrossAHole is in the ledger beside the hole: by time, what is behind stands among what is older.
func TestClockStepsBackAcrossAHole(t *testing.T) {
	for _, test := range []struct {
		name     string
		play     func(d *deck)
		gaps     string
		from, to int // in milliseconds
	}{
		{"an update shows where the hole ends", func(d *deck) {
			d.depth(31, 35, 10_000)
			pass(300 * time.Millisecond)
			d.answerNext(33, 10_050)
			d.depth(36, 40, 10_100)
		}, "sequence 26-30, sequence 26-30 snapshot, clock 31-30 resumed", 60_000, 10_000},
		{"a later update that the snapshot holds is behind the step", func(d *deck) {
			d.depth(31, 35, 60_100)
			d.depth(36, 40, 10_000)
			pass(300 * time.Millisecond)
			d.answerNext(38, 10_050)
			d.depth(41, 45, 10_100)
		}, "sequence 26-30, sequence 26-30 snapshot, clock 36-35 resumed", 60_100, 10_000},
		{"the snapshot shows where the hole ends", func(d *deck) {
			d.source.at(28)
			d.reconnect()
			pass(10 * time.Second)
			d.answerNext(28, 10_000)
			pass(2 * time.Second)
			d.depth(29, 30, 10_100)
		}, "disconnect 26-28, disconnect 26-28 snapshot, clock 29-28 resumed", 60_000, 10_000},
		{"another hole behind that, which the snapshot holds", func(d *deck) {
			d.depth(31, 35, 60_100)
			d.depth(41, 45, 10_000)
			pass(300 * time.Millisecond)
			d.answerNext(50, 10_050)
			pass(300 * time.Millisecond)
			d.depth(46, 55, 10_100)
		}, "sequence 26-30, sequence 26-30 snapshot, sequence 36-40 snapshot, clock 41-40 resumed", 60_100, 10_000},
		{"less than a second", func(d *deck) {
			d.depth(31, 35, 59_500)
			pass(300 * time.Millisecond)
			d.answerNext(33, 59_600)
		}, "sequence 26-30, sequence 26-30 snapshot", 0, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := synced(t, options{})
				d.depth(21, 25, 60_000)
				test.play(d)
				d.stop()
				d.want("gaps depth", test.gaps)
				for _, g := range d.sink.batch.Gaps {
					if g.Cause == market.CauseClock && (g.Start != millis(test.from) || g.End != millis(test.to) || g.RecvStart == 0 || g.RecvEnd == 0) {
						t.Errorf("gap %+v", g)
					}
				}
				if got, want := d.metric("tapedeck_gaps_total", map[string]string{"cause": "clock"}), min(test.from, 1); got != want {
					t.Errorf("%d steps counted, want %d", got, want)
				}
			})
		})
	}
}

// TestBlockIsDurableSoon: a block is cut a second after its first event, and 0.7 s after its last; what it has 0.8 s after its
// first event is saved then, or it is cut if that cannot be.
func TestBlockIsDurableSoon(t *testing.T) {
	for name, c := range map[string]struct {
		refuse        bool // to save
		saved, blocks string
	}{
		"saved":   {saved: "21-24", blocks: "11-20"},
		"refused": {refuse: true, blocks: "11-20, 21-24"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := synced(t, options{})
				pass(650 * time.Millisecond)
				d.want("blocks depth", "")
				pass(100 * time.Millisecond)
				d.want("blocks depth", "11-20")
				d.sink.mu.Lock()
				d.sink.full = c.refuse
				d.sink.mu.Unlock()
				for id := range int64(4) { // one every 215 ms, all of one second of the exchange
					d.depth(21+id, 21+id, 200)
					pass(215 * time.Millisecond)
				}
				d.want("saved depth", c.saved, "blocks depth", c.blocks)
				pass(200 * time.Millisecond)
				d.want("saved depth", c.saved, "blocks depth", "11-20, 21-24")
				d.stop()
			})
		})
	}
}

// TestSavingWhatWasHeld: what waited for an earlier event is saved by when it came.
func TestSavingWhatWasHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := synced(t, options{})
		pass(750 * time.Millisecond)
		d.depth(22, 22, 200)
		pass(200 * time.Millisecond)
		d.depth(21, 21, 200)
		pass(550 * time.Millisecond)
		d.want("saved depth", "")
		pass(100 * time.Millisecond)
		d.want("saved depth", "21-22", "blocks depth", "11-20")
		d.stop()
	})
}

// slowLast takes a while to say what the last trade is.
type slowLast struct{ *history }

func (s slowLast) LastTradeID(ctx context.Context, m market.Market) (int64, error) {
	select {
	case <-time.After(2 * time.Second):
	case <-ctx.Done():
	}
	return s.history.LastTradeID(ctx, m)
}

// TestSavingATrade: a trade is saved as an update is, but not the first one, before which nothing shows that its id is no
// nonsense.
func TestSavingATrade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := synced(t, options{trades: slowLast{&history{last: 5}}})
		d.trade(5, 100)
		pass(900 * time.Millisecond)
		d.want("saved trades", "", "blocks trades", "")
		pass(2 * time.Second)
		d.want("blocks trades", "5-5")
		for id := range int64(5) {
			d.trade(6+id, 5000)
			pass(200 * time.Millisecond)
		}
		d.want("saved trades", "6-9", "blocks trades", "5-5, 6-10")
		d.stop()
	})
}
