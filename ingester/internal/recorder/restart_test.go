package recorder_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tapedeck/ingester/internal/recorder"
	"tapedeck/shared/market"
)

// TestClockStepsBackAcrossARestart is in the ledger although nothing is missing, however late the store answers.
func TestClockStepsBackAcrossARestart(t *testing.T) {
	for _, test := range []struct {
		name     string
		tailWait time.Duration
		snapshot int64
	}{
		{"the snapshot is where the store ends", 0, 10},
		{"the snapshot is beyond", 0, 12},
		{"the store answers late", 5 * time.Second, 10},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := start(t, options{sink: &recorded{tailWait: test.tailWait, tails: map[market.Series]market.Block{
					depthOf: {FirstID: 1, LastID: 10, End: millis(20_000)},
				}}})
				d.depth(10, 15, 100)
				d.answerNext(test.snapshot, 50)
				pass(10 * time.Second)
				d.stop()
				d.want("gaps depth", "clock 11-10 resumed", "blocks depth", "10-15")
				for _, g := range d.sink.batch.Gaps {
					if g.Start != millis(20_000) || g.End > millis(100) || g.RecvEnd == 0 || g.DetectedAt == 0 {
						t.Errorf("gap %+v", g)
					}
				}
			})
		})
	}
}

// TestClockStepsBackAcrossMissingIDs: an entry tells of the ids, and one of the step behind them.
func TestClockStepsBackAcrossMissingIDs(t *testing.T) {
	for name, tailWait := range map[string]time.Duration{"": 0, "the store answers late": 5 * time.Second} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := start(t, options{sink: &recorded{tailWait: tailWait, tails: map[market.Series]market.Block{
					depthOf: {FirstID: 1, LastID: 5, End: millis(20_000)},
					tradeOf: {FirstID: 1, LastID: 5, End: millis(20_000)},
				}}})
				d.depth(11, 15, 100)
				d.answerNext(10, 50)
				d.trade(11, 100)
				d.trade(12, 200)
				pass(10 * time.Second)
				d.stop()
				d.want("gaps depth", "restart 6-10 snapshot, clock 11-10 resumed", "blocks depth", "11-15",
					"gaps trades", "restart 6-10 resumed, clock 11-10 resumed", "blocks trades", "11-12")
				for _, g := range d.sink.batch.Gaps {
					if g.Cause == market.CauseClock && (g.Start != millis(20_000) || g.End > millis(100) || g.RecvEnd == 0) {
						t.Errorf("gap %+v", g)
					}
				}
			})
		})
	}
}

// TestIDsThatBeganAgain while nobody recorded are noticed: what is newer by time has ids below those that are stored.
func TestIDsThatBeganAgain(t *testing.T) {
	for _, test := range []struct {
		name     string
		tail     int // when what is stored ends, in milliseconds; its last id is 1000
		tailWait time.Duration
		ids      int64 // from which on updates and trades come
		want     int   // streams of which that is noticed
		state    market.MarketState
	}{
		{"the exchange was wiped", 0, 0, 10, 2, market.StateSyncing},
		{"the store answers late", 0, 50 * time.Second, 10, 2, market.StateSyncing},
		{"a recording is played again", 1_000_000, 0, 10, 0, market.StateSynced},
		{"another recorder was ahead, whose clock was not", 99_500, 0, 990, 0, market.StateSynced},
		{"it goes on", 0, 0, 1001, 0, market.StateSynced},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := start(t, options{sink: &recorded{tailWait: test.tailWait, tails: map[market.Series]market.Block{
					depthOf: {FirstID: 900, LastID: 1000, End: millis(test.tail)},
					tradeOf: {FirstID: 900, LastID: 1000, End: millis(test.tail)},
				}}})
				d.depth(test.ids, test.ids+5, 100_000)
				d.answerNext(test.ids+2, 100_000)
				d.trade(test.ids, 100_000)
				for i := range int64(120) {
					d.source.at(test.ids + 6 + i)
					d.depth(test.ids+6+i, test.ids+6+i, 101_000+int(i)*1000)
					d.trade(test.ids+1+i, 101_000+int(i)*1000)
					pass(time.Second)
				}
				d.wantState(test.state)
				if got := d.metric("tapedeck_id_regressions_total", nil); got != test.want {
					t.Errorf("%d counted, want %d", got, test.want)
				}
				d.stop()
			})
		})
	}
}

// TestRestartMissesOnlyWhatIsMissing: what came before the first snapshot of a process is recorded where it reaches
// back towards what an earlier process stored.
func TestRestartMissesOnlyWhatIsMissing(t *testing.T) {
	for _, test := range []struct {
		name       string
		tail       int64 // the last id stored
		updates    [][2]int64
		snapshot   int64
		after      [][2]int64
		wantGaps   string
		wantBlocks string
	}{
		{"nothing happened", 10, nil, 10, [][2]int64{{11, 20}}, "", "11-20"},
		{"the stream goes on where it ended", 10, [][2]int64{{11, 15}, {16, 20}}, 18, nil, "", "11-20"},
		{"the same, with a snapshot ahead of the stream", 10, [][2]int64{{11, 15}}, 18, [][2]int64{{16, 20}}, "", "11-20"},
		{"the stream overlaps it", 13, [][2]int64{{11, 15}, {16, 20}}, 18, nil, "", "11-20"},
		{"something is missing", 5, [][2]int64{{11, 15}, {16, 20}}, 18, nil, "restart 6-10 snapshot", "11-20"},
		{"nothing came before the snapshot", 5, nil, 18, [][2]int64{{19, 20}}, "restart 6-18 snapshot", "19-20"},
		{"a recording is played again", 70, [][2]int64{{11, 15}, {16, 20}}, 15, nil, "", "16-20"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := start(t, options{sink: &recorded{tails: map[market.Series]market.Block{
					depthOf: {FirstID: 1, LastID: test.tail, Start: millis(-5000), End: millis(-4000)},
				}}})
				for _, u := range test.updates {
					d.depth(u[0], u[1], 100)
				}
				d.answerNext(test.snapshot, 50)
				if test.updates == nil {
					pass(2 * time.Second)
				}
				for _, u := range test.after {
					d.depth(u[0], u[1], 200)
				}
				d.wantState(market.StateSynced)
				d.stop()
				d.want("gaps depth", test.wantGaps, "blocks depth", test.wantBlocks)
				for _, g := range d.sink.batch.Gaps {
					if g.Start != millis(-4000) || g.End == 0 || g.RepairedAt == 0 {
						t.Errorf("gap %+v", g)
					}
				}
			})
		})
	}
}

// TestHoleBeforeTheFirstTrade: what is missing before the first trade of a process begins where what is stored ends, and
// not at the beginning of time, from where it would cast doubt on all that was ever recorded.
func TestHoleBeforeTheFirstTrade(t *testing.T) {
	tail := market.Block{Series: tradeOf, FirstID: 45, LastID: 50, Start: millis(450), End: millis(500)}
	around := market.Block{Series: tradeOf, FirstID: 45, LastID: 60, Start: millis(450), End: millis(600)}
	skips := func(d *deck) { d.send(56) }
	mute := func(*deck) {}
	for _, test := range []struct {
		name     string
		tail     market.Block
		tailWait time.Duration
		limit    int64
		play     func(d *deck) // of trades 53 to 56
		open     string        // the ledger then: the ids, and from when on, in milliseconds
		gaps     string        // the ledger in the end
	}{
		{"it skips", tail, 0, 0, skips, "51-52 from 500, 53-55 from 500", "51-52 from 500, 53-55 from 500"},
		{"it skips within what another recorder stored", around, 0, 0, skips, "53-55 from 450", "53-55 from 450"},
		{"it skips, and the store is late", tail, time.Hour, 0, skips, "53-55 from 560", "51-52 from 500, 53-55 from 560"},
		{"it skips, and nothing is stored", market.Block{}, 0, 0, skips, "53-55 from 560", "53-55 from 560"},
		{"it is mute", tail, 0, 0, mute, "53-56 from 500", "51-52 from 500, 53-56 from 500"},
		{"it is mute, and the store is late", tail, 5 * time.Minute, 0, mute, "53-56 from 500", "51-52 from 500, 53-56 from 500"},
		{"it is mute, and the store is very late", tail, time.Hour, 0, mute, "53-56 from ever", "51-52 from 500, 53-56 from 570"},
		{"it is mute, and nothing is stored", market.Block{}, 0, 0, mute, "53-56 from ever", "53-56 from 570"},
		{"it is mute, and fetched again", market.Block{}, 0, 100, mute, "53-56 from 560", "53-56 from 560"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h, sink := &history{}, &recorded{tailWait: test.tailWait, tails: map[market.Series]market.Block{}}
				if test.tail.LastID != 0 {
					sink.tails[tradeOf] = test.tail
				}
				h.to(52)
				d := start(t, options{trades: h, config: recorder.Config{BackfillTrades: test.limit}, sink: sink})
				pass(time.Minute)
				h.to(56)
				test.play(d)
				pass(10 * time.Minute)
				wantStarts(t, sink, test.open)
				h.to(57)
				d.send(57)
				pass(2 * time.Hour)
				d.stop()
				wantStarts(t, sink, test.gaps)
			})
		})
	}
}

// wantStarts compares the ledger of the trades with "ids from milliseconds".
func wantStarts(t *testing.T, sink *recorded, want string) {
	t.Helper()
	var words []string
	for _, g := range sink.entries(t, market.Trades) {
		from := "ever"
		if g.Start != 0 {
			from = fmt.Sprint(g.Start.Sub(millis(0)).Milliseconds())
		}
		words = append(words, fmt.Sprintf("%d-%d from %s", g.FirstID, g.LastID, from))
	}
	if got := strings.Join(words, ", "); got != want {
		t.Errorf("ledger %q, want %q", got, want)
	}
}

// TestClockStepBeforeTheFirstTrade is told where it is, and not again in the hole behind those that the restart missed.
func TestClockStepBeforeTheFirstTrade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &history{times: map[int64]int{51: 12_000, 52: 12_010, 53: 12_020, 54: 12_030, 55: 12_040, 56: 12_050}}
		h.to(52)
		d := start(t, options{trades: h, config: recorder.Config{BackfillTrades: 100}, sink: &recorded{
			tails: map[market.Series]market.Block{
				tradeOf: {Series: tradeOf, FirstID: 45, LastID: 50, Start: millis(20_000), End: millis(20_000)},
			},
		}})
		pass(time.Minute)
		h.to(55)
		pass(time.Second)
		h.to(56)
		d.trade(56, 12_050)
		pass(time.Minute)
		d.stop()
		d.want("gaps trades", "sequence 53-55 resumed, restart 51-52 resumed, sequence 53-55 backfilled, clock 51-50 resumed, restart 51-52 backfilled")
	})
}
