package recorder_test

import (
	"testing"
	"testing/synctest"
	"time"

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
