package recorder_test

import (
	"errors"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"tapedeck/ingester/internal/recorder"
	"tapedeck/shared/market"
	"tapedeck/shared/tape"
)

const auditInterval = 10 * time.Minute

// auditing returns a recorder that has just asked for the snapshot of an audit. Its book stands at id 20: bids 99 (with
// a quantity of 20) and 98, asks 101 and 103.
func auditing(t *testing.T, o options) *deck {
	t.Helper()
	o.config.AuditInterval = auditInterval
	d := synced(t, o)
	d.source.at(20)
	d.nextAudit()
	return d
}

// nextAudit waits for the next audit to ask for its snapshot.
func (d *deck) nextAudit() {
	d.t.Helper()
	for begin := time.Now(); d.collect() == 0; pass(time.Second) {
		if time.Since(begin) > 2*auditInterval {
			d.t.Fatal("no audit")
		}
	}
}

// bookAt is what the exchange shows at an id: 99 with a quantity of id, as the updates of depth leave it.
func bookAt(id, bid99 int64) market.Snapshot {
	s := snapshot(id, 5000)
	s.Bids[0].Quantity = market.Decimal(bid99) * market.DecimalOne
	return s
}

// audits returns how many audits ended so.
func (d *deck) audits(result string) int {
	return d.metric("tapedeck_audits_total", map[string]string{"result": result})
}

// wantAudits checks the results of all audits.
func (d *deck) wantAudits(match, mismatch, abandoned, failed int) {
	d.t.Helper()
	got := [4]int{d.audits("match"), d.audits("mismatch"), d.audits("abandoned"), d.audits("error")}
	if got != [4]int{match, mismatch, abandoned, failed} {
		d.t.Errorf("audits: %v matched, mismatched, abandoned, failed; want %d %d %d %d", got, match, mismatch, abandoned, failed)
	}
}

// TestAuditOfABookFromNothing: the snapshots of the sync had no levels, time and again.
func TestAuditOfABookFromNothing(t *testing.T) {
	for _, test := range []struct {
		name                       string
		truth                      market.Snapshot
		match, mismatch, abandoned int
		gaps                       string
	}{
		{"which was true", bookAt(20, 20), 1, 0, 0, ""},
		{"which was false", bookAt(20, 20), 0, 1, 0, "audit 11-20 snapshot"},
		{"and has none now", empty(10), 0, 0, 1, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if test.match > 0 {
					test.truth.Bids, test.truth.Asks = test.truth.Bids[:1], nil
				}
				d := start(t, options{config: recorder.Config{AuditInterval: auditInterval}})
				pass(6 * time.Second)
				d.source.at(20)
				for range 2 { // at a first sync, on a quiet market, that is enough
					d.wantState(market.StateSyncing)
					d.waitForRequest()
					d.reply(answer{snapshot: empty(10)})
				}
				if test.abandoned == 0 {
					d.depth(11, 20, 100)
				} else {
					d.source.at(10)
				}
				d.nextAudit()
				d.reply(answer{snapshot: test.truth})
				d.wantAudits(test.match, test.mismatch, test.abandoned, 0)
				d.stop()
				d.want("gaps depth", test.gaps)
			})
		})
	}
}

func TestAudit(t *testing.T) {
	for _, test := range []struct {
		name         string
		before       [][2]int64 // updates between the request and the snapshot
		snapshot     func() market.Snapshot
		after        [][2]int64 // updates behind the snapshot
		want         string
		matched      int // levels
		mismatched   int
		wantSnapshot int64 // of the keyframe at the end, and the updates applied to it
		wantApplied  int64
	}{
		{"on a quiet market", nil, func() market.Snapshot { return bookAt(20, 20) }, nil, "match", 4, 0, 20, 1},
		{
			"at an id that has passed",
			[][2]int64{{21, 25}, {26, 30}, {31, 35}},
			func() market.Snapshot { return bookAt(30, 30) }, nil, "match", 4, 0, 30, 1,
		},
		{
			"ahead of the stream",
			[][2]int64{{21, 25}},
			func() market.Snapshot { return bookAt(35, 35) },
			[][2]int64{{26, 30}, {31, 35}},
			"match", 4, 0, 35, 0,
		},
		{
			"within an update: its levels are in either state",
			[][2]int64{{21, 25}, {26, 30}},
			func() market.Snapshot { return bookAt(28, 25) }, nil, "match", 3, 0, 28, 1,
		},
		{
			"within an update, which the snapshot holds in part",
			[][2]int64{{21, 25}, {26, 30}},
			func() market.Snapshot { return bookAt(28, 28) }, nil, "match", 3, 0, 28, 1,
		},
		{
			"within an update that is still to come",
			[][2]int64{{21, 25}},
			func() market.Snapshot { return bookAt(28, 28) },
			[][2]int64{{26, 30}},
			"match", 3, 0, 28, 1,
		},
		{"another quantity", nil, func() market.Snapshot { return bookAt(20, 19) }, nil, "mismatch", 3, 1, 20, 0},
		{
			"a level that the exchange does not have", nil,
			func() market.Snapshot { s := bookAt(20, 20); s.Asks = s.Asks[1:]; return s }, nil, "mismatch", 3, 1, 20, 0,
		},
		{
			"a level that only the exchange has", nil, func() market.Snapshot {
				s := bookAt(20, 20)
				s.Asks = append(s.Asks[:1:1], market.Level{Price: 102e8, Quantity: 1e8}, s.Asks[1])
				return s
			}, nil, "mismatch", 4, 1, 20, 0,
		},
		{
			"levels beyond what the book knows", nil, func() market.Snapshot {
				s := bookAt(20, 20)
				s.Bids = append(s.Bids, market.Level{Price: 50e8, Quantity: 1e8})
				return s
			}, nil, "match", 4, 0, 20, 1,
		},
		{
			"less deep than the book", nil, func() market.Snapshot { s := bookAt(20, 20); s.Bids = s.Bids[:1]; return s },
			nil, "match", 3, 0, 20, 1,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := auditing(t, options{})
				send := func(updates [][2]int64) {
					for _, u := range updates {
						d.depth(u[0], u[1], 2000)
					}
				}
				send(test.before)
				s := test.snapshot()
				d.reply(answer{snapshot: s})
				send(test.after)
				if got := d.audits(test.want); got != 1 {
					t.Fatalf("%s: %d", test.want, got)
				}
				matched := d.metric("tapedeck_audit_matched_levels_total", nil)
				mismatched := d.metric("tapedeck_audit_mismatched_levels_total", nil)
				if matched != test.matched || mismatched != test.mismatched {
					t.Errorf("%d levels matched, %d mismatched; want %d and %d", matched, mismatched, test.matched, test.mismatched)
				}
				d.wantState(market.StateSynced)
				last := d.recorder.Status().LastUpdateID
				if last == 20 && test.want == "match" { // the next border of blocks is still to come
					last = 50
				}
				d.depth(d.recorder.Status().LastUpdateID+1, 50, 3000)
				d.stop()
				k := d.sink.batch.Keyframes[len(d.sink.batch.Keyframes)-1]
				if k.UpdateID != last || k.SnapshotID != test.wantSnapshot || k.UpdatesApplied != test.wantApplied ||
					k.VerifiedBid != s.Bids[len(s.Bids)-1].Price || k.VerifiedAsk != s.Asks[len(s.Asks)-1].Price {
					t.Errorf("keyframe %+v", k)
				}
				if test.want == "match" {
					d.want("gaps depth", "")
				}
			})
		})
	}
}

// TestAuditMismatchIsInTheLedger: what was recorded since the book was last known to be right is in doubt, and the
// right book follows at once, though another one stands at the same id.
func TestAuditMismatchIsInTheLedger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := auditing(t, options{config: recorder.Config{KeyframeBlocks: 1}})
		pass(time.Second)
		d.want("keyframes", "@10, @20")
		d.reply(answer{snapshot: bookAt(20, 7)})
		d.wantAudits(0, 1, 0, 0)
		d.want("keyframes", "@10, @20, @20", "gaps depth", "audit 11-20 snapshot")
		g, k := d.sink.batch.Gaps[0], d.sink.batch.Keyframes[2]
		if g.Start != millis(50) || g.End != k.EventTime || g.RecvStart == 0 || g.RecvEnd == 0 || g.RepairedAt == 0 {
			t.Errorf("gap %+v", g)
		}
		if k.EventTime <= millis(100) {
			t.Errorf("the book at %v replaces none", k.EventTime)
		}
		var decoder tape.Decoder
		if bids, _, err := decoder.Book(k.Data); err != nil || bids[0] != (market.Level{Price: 99e8, Quantity: 7e8}) {
			t.Errorf("the keyframe begins with %v, %v", bids, err)
		}
		d.depth(21, 25, 5000)
		d.source.at(25)
		d.nextAudit()
		d.reply(answer{snapshot: bookAt(25, 24)})
		d.stop()
		d.want("gaps depth", "audit 11-20 snapshot, audit 21-25 snapshot", "blocks depth", "11-20, 21-25")
	})
}

// TestAuditThatCrossesTheBook: snapshot and updates together are crossed. No such book is recorded, and one is built anew.
func TestAuditThatCrossesTheBook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := auditing(t, options{config: recorder.Config{KeyframeBlocks: 1}})
		d.frame(market.Depth, depthFrame("BTCUSDT", 21, 25, 2000, "100.00000000"))
		s := bookAt(20, 20)
		s.Asks = slices.Insert(s.Asks, 0, market.Level{Price: 99_50000000, Quantity: 1e8})
		d.reply(answer{snapshot: s})
		d.wantAudits(0, 0, 0, 1)
		d.wantState(market.StateSyncing)
		d.stop()
		d.want("keyframes", "@10, @20, @25", "gaps depth", "crossed 26-25")
		var decoder tape.Decoder
		for _, k := range d.sink.batch.Keyframes {
			if bids, asks, err := decoder.Book(k.Data); err != nil || bids[0].Price >= asks[0].Price {
				t.Errorf("keyframe @%d: %v %v, %v", k.UpdateID, bids, asks, err)
			}
		}
	})
}

// TestAuditBesideLostUpdates: the entry of the audit does not take the place of theirs.
func TestAuditBesideLostUpdates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &recorded{}
		d := auditing(t, options{sink: sink})
		d.reply(answer{snapshot: bookAt(20, 20)})
		sink.setRefuse(func(*market.Batch) bool { return true })
		d.depth(21, 25, 3000)
		pass(2 * time.Second)
		sink.setRefuse(nil)
		d.depth(26, 30, 6000)
		pass(2 * time.Second)
		d.source.at(30)
		d.nextAudit()
		d.reply(answer{snapshot: bookAt(30, 7)})
		d.stop()
		var causes []market.Cause
		for _, g := range sink.entries(t, market.Depth) {
			if g.FirstID == 21 {
				causes = append(causes, g.Cause)
			}
		}
		slices.Sort(causes)
		if want := []market.Cause{market.CauseAudit, market.CauseOverflow}; !slices.Equal(causes, want) {
			t.Errorf("entries of 21: %v, want %v", causes, want)
		}
	})
}

func TestAuditExtendsTheVerifiedDepth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := auditing(t, options{})
		d.frame(market.Depth, depthFrame("BTCUSDT", 21, 25, 2000, "90.00000000")) // beyond what is verified
		d.frame(market.Depth, depthFrame("BTCUSDT", 26, 30, 2100, "10.00000000"))
		s := bookAt(30, 20)
		s.Bids = append(s.Bids, market.Level{Price: 90e8, Quantity: 24e8}, market.Level{Price: 80e8, Quantity: 1e8})
		d.reply(answer{snapshot: s})
		d.wantAudits(1, 0, 0, 0)
		d.stop()
		k := d.sink.batch.Keyframes[1]
		var decoder tape.Decoder
		bids, _, err := decoder.Book(k.Data)
		want := []market.Level{{Price: 99e8, Quantity: 20e8}, {Price: 98e8, Quantity: 1e8}, {Price: 90e8, Quantity: 24e8}, {Price: 80e8, Quantity: 1e8}, {Price: 10e8, Quantity: 30e8}}
		if err != nil || len(bids) != len(want) {
			t.Fatalf("bids %v, %v", bids, err)
		}
		for i := range want {
			if bids[i] != want[i] {
				t.Errorf("bid %d is %v, want %v", i, bids[i], want[i])
			}
		}
		if k.VerifiedBid != 80e8 {
			t.Errorf("verified down to %v", k.VerifiedBid)
		}
	})
}

func TestAuditWithoutAResult(t *testing.T) {
	for _, test := range []struct {
		name              string
		do                func(d *deck)
		abandoned, failed int
	}{
		{"no answer", func(d *deck) { d.reply(answer{err: errors.New("none")}) }, 0, 1},
		{"a snapshot from before the audit", func(d *deck) { d.reply(answer{snapshot: bookAt(15, 15)}) }, 1, 0},
		{"a crossed snapshot", func(d *deck) {
			s := bookAt(20, 20)
			s.Bids[0].Price = 105e8
			d.reply(answer{snapshot: s})
		}, 0, 1},
		{"an empty snapshot", func(d *deck) { d.reply(answer{snapshot: market.Snapshot{LastID: 20, RecvTime: 1}}) }, 0, 1},
		{"too many updates meanwhile", func(d *deck) {
			levels := make([]byte, 0, 1<<20)
			for range 30_000 {
				levels = append(levels, `["99.0","20.0"],`...)
			}
			for id := int64(21); id <= 29; id++ {
				d.frame(market.Depth, `{"stream":"x","data":{"e":"depthUpdate","E":1700000002000,"s":"BTCUSDT","U":`+
					strconv.FormatInt(id, 10)+`,"u":`+strconv.FormatInt(id, 10)+`,"b":[`+string(levels[:len(levels)-1])+`],"a":[]}}`)
			}
			d.reply(answer{snapshot: bookAt(29, 1)})
		}, 1, 0},
		{"a hole meanwhile", func(d *deck) {
			d.depth(26, 30, 2000)
			pass(300 * time.Millisecond)
			d.reply(answer{snapshot: bookAt(28, 28)}) // of the audit
			d.answerNext(28, 2000)
		}, 1, 0},
		{"the stream does not get there, and is mute", func(d *deck) {
			d.reply(answer{snapshot: bookAt(30, 30)})
			pass(2 * time.Second)
			d.answerNext(30, 5000)
			d.source.at(30)
			pass(6 * time.Second)
		}, 1, 0},
		{"the stream does not get there, but talks", func(d *deck) {
			d.reply(answer{snapshot: bookAt(50, 50)})
			for id := int64(21); id < 40; id++ {
				d.depth(id, id, 2000+int(id))
				pass(time.Second)
			}
		}, 1, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := auditing(t, options{memory: 256 << 20})
				test.do(d)
				d.wantAudits(0, 0, test.abandoned, test.failed)
				d.wantState(market.StateSynced)
				id := d.recorder.Status().LastUpdateID
				d.source.at(id)
				d.nextAudit() // sooner than usual
				if d.collect() != 1 {
					t.Errorf("%d snapshots asked for", d.collect())
				}
				d.stop()
			})
		})
	}
}

// TestAuditAcrossALostLink: a reconnect without a loss disturbs nothing.
func TestAuditAcrossALostLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := auditing(t, options{})
		d.inbox.Disconnected(1)
		d.depth(21, 25, 2000)
		d.inbox.Connected(1)
		d.depth(26, 30, 2100)
		d.reply(answer{snapshot: bookAt(28, 28)})
		d.wantAudits(1, 0, 0, 0)
		d.stop()
		d.want("gaps depth", "")
	})
}

// TestAuditInterval: audits follow each other at about the interval, and their age is told.
func TestAuditInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := auditing(t, options{})
		var asked []time.Time
		for range 5 {
			asked = append(asked, time.Now())
			d.reply(answer{snapshot: bookAt(20, 20)})
			d.nextAudit()
		}
		for i := range asked[1:] {
			if pause := asked[i+1].Sub(asked[i]); pause < auditInterval*8/10 || pause > auditInterval*12/10 {
				t.Errorf("%v between two audits", pause)
			}
		}
		if age := d.metric("tapedeck_audit_age_seconds", nil); age < 500 || age > 800 {
			t.Errorf("the last audit is %d s ago", age)
		}
		d.wantAudits(5, 0, 0, 0)
		d.stop()
	})
}
