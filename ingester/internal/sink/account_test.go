package sink

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"tapedeck/ingester/internal/spool"
	"tapedeck/shared/market"
)

var (
	btcusdt = market.Market{Exchange: market.Binance, Symbol: "BTCUSDT"}
	trades  = market.Series{Market: btcusdt, Stream: market.Trades}
	depth   = market.Series{Market: btcusdt, Stream: market.Depth}
)

// at returns the event time that tests give to an id.
func at(id int64) market.Time { return market.Time(id * 1000) }

// blockOf returns a block of the ids first to last.
func blockOf(series market.Series, first, last int64) market.Block {
	return market.Block{
		Series: series, FirstID: first, LastID: last, PrevID: first - 1, Start: at(first), End: at(last), Events: 1,
		Data: []byte{1},
	}
}

// sends is a delivery of blocks and ledger entries.
func sends(position spool.Position, received market.Time, records ...any) *delivery {
	v := &delivery{position: position, received: received, session: 1}
	for _, r := range records {
		switch r := r.(type) {
		case market.Block:
			v.batch.Blocks = append(v.batch.Blocks, r)
		case market.Gap:
			v.batch.Gaps = append(v.batch.Gaps, r)
		case market.Keyframe:
			v.batch.Keyframes = append(v.batch.Keyframes, r)
		case market.Cause:
			v.lost = r
		case int64:
			v.session = r
		}
	}
	return v
}

// book brings deliveries into an account one by one, and returns what is written for the last one.
func book(a *account, deliveries ...*delivery) market.Batch {
	var last market.Batch
	for _, v := range deliveries {
		d := a.draft()
		d.add(v)
		d.commit()
		last = d.batch
	}
	return last
}

func span(series market.Series, prev, first, last int64) market.Span {
	return market.Span{Series: series, FirstID: first, PrevID: prev, LastID: last, Start: at(first), End: at(last)}
}

func hole(series market.Series, cause market.Cause, first, last int64) market.Gap {
	return market.Gap{Series: series, Cause: cause, FirstID: first, LastID: last}
}

// TestAccount delivers what must have happened before, and then what the case is about, to which Spans, SpanID and
// ledger entries are given.
func TestAccount(t *testing.T) {
	fresh := func() *account { return newAccount(0) }
	// Of the first: ids 1 to 10 of both series, received at 5.
	begun := func() *account {
		a := fresh()
		book(a, sends(1, 5, blockOf(trades, 1, 10), blockOf(depth, 1, 10)))
		return a
	}
	full := func(g market.Gap, start, end, recvStart, recv market.Time, repair market.Repair) market.Gap {
		g.Start, g.End, g.RecvStart, g.RecvEnd, g.DetectedAt, g.RepairedAt, g.Repair = start, end, recvStart, recv, recv, recv, repair
		return g
	}
	overlap := blockOf(depth, 18, 30)
	for name, c := range map[string]struct {
		account *account
		before  []*delivery
		last    *delivery
		spanIDs []int64
		spans   []market.Span
		gaps    []market.Gap
	}{
		"the first block begins a span, and nothing is missing before it": {
			account: fresh(), last: sends(1, 5, blockOf(trades, 7, 9)),
			spanIDs: []int64{7}, spans: []market.Span{span(trades, 6, 7, 9)},
		},
		"a block that continues grows the span": {
			account: begun(), last: sends(2, 6, blockOf(trades, 11, 20), blockOf(trades, 21, 22)),
			spanIDs: []int64{1, 1}, spans: []market.Span{span(trades, 0, 1, 22)},
		},
		"a block that overlaps grows the span": {
			account: begun(), last: sends(2, 6, blockOf(depth, 8, 20)),
			spanIDs: []int64{1}, spans: []market.Span{span(depth, 0, 1, 20)},
		},
		"a hole that nobody explained": {
			account: begun(), last: sends(2, 6, blockOf(trades, 15, 20)),
			spanIDs: []int64{15}, spans: []market.Span{span(trades, 14, 15, 20)},
			gaps: []market.Gap{full(hole(trades, market.CauseSequence, 11, 14), at(10), at(15), 5, 6, market.RepairResumed)},
		},
		"a hole before the first block of another process": {
			account: begun(), last: sends(2, 6, blockOf(depth, 15, 20), int64(2)),
			spanIDs: []int64{15}, spans: []market.Span{span(depth, 14, 15, 20)},
			gaps: []market.Gap{full(hole(depth, market.CauseRestart, 11, 14), at(10), at(15), 5, 6, market.RepairResumed)},
		},
		"a hole in the depth that a snapshot ended": {
			account: begun(), before: []*delivery{sends(2, 6, market.Keyframe{Market: btcusdt, UpdateID: 16}, int64(2))},
			last: sends(3, 7, blockOf(depth, 15, 20), int64(2)), spanIDs: []int64{15}, spans: []market.Span{span(depth, 14, 15, 20)},
			gaps: []market.Gap{full(hole(depth, market.CauseRestart, 11, 14), at(10), at(15), 5, 7, market.RepairSnapshot)},
		},
		"a hole in the depth and a stored book before it": {
			account: begun(), before: []*delivery{sends(2, 6, market.Keyframe{Market: btcusdt, UpdateID: 10})},
			last: sends(3, 7, blockOf(depth, 15, 20)), spanIDs: []int64{15}, spans: []market.Span{span(depth, 14, 15, 20)},
			gaps: []market.Gap{full(hole(depth, market.CauseSequence, 11, 14), at(10), at(15), 5, 7, market.RepairResumed)},
		},
		"a hole in the depth and a stored book of its first block": {
			account: begun(), last: sends(2, 6, blockOf(depth, 15, 20), market.Keyframe{Market: btcusdt, UpdateID: 20}),
			spanIDs: []int64{15}, spans: []market.Span{span(depth, 14, 15, 20)},
			gaps: []market.Gap{full(hole(depth, market.CauseSequence, 11, 14), at(10), at(15), 5, 6, market.RepairSnapshot)},
		},
		"a hole where the spool dropped records": {
			account: begun(), before: []*delivery{sends(2, 6, market.CauseOverflow)},
			last: sends(3, 7, blockOf(trades, 15, 20)), spanIDs: []int64{15}, spans: []market.Span{span(trades, 14, 15, 20)},
			gaps: []market.Gap{full(hole(trades, market.CauseOverflow, 11, 14), at(10), at(15), 5, 7, market.RepairResumed)},
		},
		"the spool dropped records of others": {
			account: begun(), before: []*delivery{sends(2, 6, market.CauseOverflow, blockOf(trades, 11, 12))},
			last: sends(3, 7, blockOf(trades, 15, 20)), spanIDs: []int64{15}, spans: []market.Span{span(trades, 14, 15, 20)},
			gaps: []market.Gap{full(hole(trades, market.CauseSequence, 13, 14), at(12), at(15), 6, 7, market.RepairResumed)},
		},
		"a hole that the recorder explained": {
			account: begun(), before: []*delivery{sends(2, 6, hole(trades, market.CauseStall, 11, 14))},
			last: sends(3, 7, blockOf(trades, 15, 20)), spanIDs: []int64{15}, spans: []market.Span{span(trades, 14, 15, 20)},
		},
		"a hole that the recorder explains beside the block": {
			account: begun(), last: sends(2, 6, blockOf(trades, 15, 20), hole(trades, market.CauseStall, 11, 14)),
			spanIDs: []int64{15}, spans: []market.Span{span(trades, 14, 15, 20)},
			gaps: []market.Gap{hole(trades, market.CauseStall, 11, 14)},
		},
		"a hole that was explained in part": {
			account: begun(),
			before:  []*delivery{sends(2, 6, hole(trades, market.CauseStall, 9, 12)), sends(3, 6, hole(trades, market.CauseMalformed, 15, 17))},
			last:    sends(4, 7, blockOf(trades, 20, 25)), spanIDs: []int64{20}, spans: []market.Span{span(trades, 19, 20, 25)},
			gaps: []market.Gap{
				full(hole(trades, market.CauseStall, 13, 14), at(10), at(20), 5, 7, market.RepairResumed),
				full(hole(trades, market.CauseStall, 18, 19), at(10), at(20), 5, 7, market.RepairResumed),
			},
		},
		"an entry that was open when its recorder knew no id yet names the cause": {
			account: begun(), before: []*delivery{sends(2, 6, hole(depth, market.CauseDisconnect, 11, 10))},
			last: sends(3, 7, blockOf(depth, 15, 20)), spanIDs: []int64{15}, spans: []market.Span{span(depth, 14, 15, 20)},
			gaps: []market.Gap{full(hole(depth, market.CauseDisconnect, 11, 14), at(10), at(15), 5, 7, market.RepairResumed)},
		},
		"a doubt about ids explains no missing ones": {
			account: begun(),
			before:  []*delivery{sends(2, 6, hole(depth, market.CauseAudit, 8, 14), hole(depth, market.CauseClock, 11, 10))},
			last:    sends(3, 7, blockOf(depth, 15, 20)), spanIDs: []int64{15}, spans: []market.Span{span(depth, 14, 15, 20)},
			gaps: []market.Gap{full(hole(depth, market.CauseSequence, 11, 14), at(10), at(15), 5, 7, market.RepairResumed)},
		},
		"updates were missing when the book was crossed": {
			account: begun(), before: []*delivery{sends(2, 6, hole(depth, market.CauseCrossed, 11, 14))},
			last: sends(3, 7, blockOf(depth, 15, 20)), spanIDs: []int64{15}, spans: []market.Span{span(depth, 14, 15, 20)},
		},
		"the first block after a snapshot begins below the snapshot's id": {
			account: begun(), before: []*delivery{sends(2, 6, hole(depth, market.CauseSequence, 11, 20))},
			last: sends(3, 7, overlap), spanIDs: []int64{18}, spans: []market.Span{span(depth, 17, 18, 30)},
		},
		"trades fetched again get a span of their own, which grows": {
			account: begun(), before: []*delivery{sends(2, 6, blockOf(trades, 20, 25)), sends(3, 7, blockOf(trades, 11, 15))},
			last: sends(4, 8, blockOf(trades, 16, 19)), spanIDs: []int64{11}, spans: []market.Span{span(trades, 10, 11, 19)},
		},
		"trades of two holes fetched again": {
			account: begun(), before: []*delivery{sends(2, 6, blockOf(trades, 20, 25)), sends(3, 7, blockOf(trades, 16, 17))},
			last: sends(4, 8, blockOf(trades, 12, 13)), spanIDs: []int64{12}, spans: []market.Span{span(trades, 11, 12, 13)},
		},
		"what the span holds already changes nothing": {
			account: begun(), last: sends(2, 6, blockOf(trades, 3, 4)),
			spanIDs: []int64{1}, spans: []market.Span{span(trades, 0, 1, 10)},
		},
		"series do not mix": {
			account: begun(), last: sends(2, 6, blockOf(trades, 11, 12), blockOf(depth, 13, 14)),
			spanIDs: []int64{1, 13}, spans: []market.Span{span(trades, 0, 1, 12), span(depth, 12, 13, 14)},
			gaps: []market.Gap{full(hole(depth, market.CauseSequence, 11, 12), at(10), at(13), 5, 6, market.RepairResumed)},
		},
	} {
		t.Run(name, func(t *testing.T) {
			book(c.account, c.before...)
			got := book(c.account, c.last)
			var spanIDs []int64
			for _, b := range got.Blocks {
				spanIDs = append(spanIDs, b.SpanID)
			}
			for what, diff := range map[string]string{
				"SpanID": cmp.Diff(c.spanIDs, spanIDs), "spans": cmp.Diff(c.spans, got.Spans), "gaps": cmp.Diff(c.gaps, got.Gaps),
			} {
				if diff != "" {
					t.Errorf("%s (-want +got):\n%s", what, diff)
				}
			}
		})
	}
}

func TestRefusedBlockIsInTheLedger(t *testing.T) {
	for name, c := range map[string]struct {
		refused market.Block
		want    []idRange // of CauseRefused
		then    market.Block
		gaps    int // with the block after it
	}{
		"one that continues":           {blockOf(trades, 11, 15), []idRange{{11, 15}}, blockOf(trades, 16, 20), 0},
		"one behind a hole":            {blockOf(trades, 13, 15), []idRange{{13, 15}}, blockOf(trades, 16, 20), 0},
		"one that overlaps":            {blockOf(depth, 8, 15), []idRange{{11, 15}}, blockOf(depth, 16, 20), 0},
		"one with a hole behind it":    {blockOf(trades, 11, 15), []idRange{{11, 15}}, blockOf(trades, 18, 20), 1},
		"one that another block holds": {blockOf(trades, 3, 4), nil, blockOf(trades, 11, 12), 0},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAccount(0)
			book(a, sends(1, 5, blockOf(trades, 1, 10), blockOf(depth, 1, 10)))
			d := a.draft()
			d.refuse(sends(2, 6, c.refused))
			d.commit()
			var got []idRange
			covered := idRanges{}.with(1, 10)
			for _, g := range d.batch.Gaps {
				if g.Cause == market.CauseRefused {
					got = append(got, idRange{g.FirstID, g.LastID})
				}
				if g.RepairedAt == 0 || g.End == 0 {
					t.Errorf("the entry stays open: %+v", g)
				}
				covered = covered.with(g.FirstID, g.LastID)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if missing := covered.missing(1, c.refused.LastID); len(missing) > 0 {
				t.Errorf("not in the ledger: %v", missing)
			}
			next := book(a, sends(3, 7, c.then))
			if len(next.Gaps) != c.gaps {
				t.Errorf("entries with the next block: %+v", next.Gaps)
			}
			if len(c.want) > 0 && next.Blocks[0].SpanID != c.then.FirstID {
				t.Errorf("the next block continues span %d", next.Blocks[0].SpanID)
			}
		})
	}
}

// TestFetchedAgain: an entry that says of ids that they were fetched again and are held is believed, unless they may be
// among what was lost on the way.
func TestFetchedAgain(t *testing.T) {
	g := hole(trades, market.CauseDisconnect, 11, 19)
	g.Repair, g.RepairedAt = market.RepairBackfilled, 9
	for name, c := range map[string]struct {
		before []*delivery
		want   market.Repair
	}{
		"all is held":          {[]*delivery{sends(3, 7, market.CauseOverflow, blockOf(trades, 11, 19))}, market.RepairBackfilled},
		"nothing was lost":     {[]*delivery{sends(3, 7, blockOf(trades, 11, 15))}, market.RepairBackfilled},
		"some of it was lost":  {[]*delivery{sends(3, 7, blockOf(trades, 11, 15)), sends(4, 8, market.CauseDamaged)}, market.RepairResumed},
		"others were recorded": {[]*delivery{sends(3, 7, market.CauseOverflow, blockOf(trades, 26, 30))}, market.RepairResumed},
	} {
		a := newAccount(0)
		book(a, sends(1, 5, blockOf(trades, 1, 10)), sends(2, 6, blockOf(trades, 20, 25)))
		book(a, c.before...)
		if got := book(a, sends(9, 9, g)); got.Gaps[0].Repair != c.want {
			t.Errorf("%s: %s", name, got.Gaps[0].Repair)
		}
	}
	for name, front := range map[string]*delivery{
		"a block behind was refused": sends(2, 6, blockOf(trades, 20, 25)), "a block ahead was refused": sends(2, 6),
	} {
		a := newAccount(0)
		book(a, sends(1, 5, blockOf(trades, 1, 10)), front)
		d := a.draft()
		d.refuse(sends(3, 7, blockOf(trades, 11, 19)))
		d.commit()
		if got := book(a, sends(9, 9, g)); got.Gaps[0].Repair != market.RepairResumed {
			t.Errorf("%s: %s", name, got.Gaps[0].Repair)
		}
	}
}

// TestTwoHolesFetchedAgain: that one hole is held says nothing of another, of which something was lost.
func TestTwoHolesFetchedAgain(t *testing.T) {
	fetched := func(first, last int64) market.Gap {
		g := hole(trades, market.CauseDisconnect, first, last)
		g.Repair, g.RepairedAt = market.RepairBackfilled, 9
		return g
	}
	lose := func(a *account) { book(a, sends(3, 6, market.CauseOverflow)) }
	refuse := func(a *account) {
		d := a.draft()
		d.refuse(sends(3, 6, blockOf(trades, 11, 14)))
		d.commit()
	}
	for name, part := range map[string]func(a *account){"lost": lose, "refused": refuse} {
		t.Run(name, func(t *testing.T) {
			a := newAccount(0)
			book(a, sends(1, 5, blockOf(trades, 1, 10)), sends(2, 5, blockOf(trades, 20, 25)))
			part(a)
			book(a, sends(4, 6, blockOf(trades, 28, 30)), sends(5, 7, blockOf(trades, 26, 27)))
			if got := book(a, sends(6, 7, fetched(26, 27))); got.Gaps[0].Repair != market.RepairBackfilled {
				t.Errorf("the whole one: %s", got.Gaps[0].Repair)
			}
			book(a, sends(7, 8, blockOf(trades, 15, 19)))
			if got := book(a, sends(8, 9, fetched(11, 19))); got.Gaps[0].Repair != market.RepairResumed {
				t.Errorf("the other one: %s", got.Gaps[0].Repair)
			}
			// What came after the loss is not concerned, however it is held.
			book(a, sends(9, 9, blockOf(trades, 40, 50)), sends(10, 9, blockOf(trades, 31, 39)), sends(11, 9, blockOf(trades, 11, 14)))
			if got := book(a, sends(12, 9, fetched(31, 39))); got.Gaps[0].Repair != market.RepairBackfilled {
				t.Errorf("a later one: %s", got.Gaps[0].Repair)
			}
		})
	}
}

// TestOpen begins accounts from what the spool remembers and the store holds.
func TestOpen(t *testing.T) {
	tail := blockOf(trades, 31, 40)
	tail.SpanID = 21
	remembered := standing{Front: span(trades, 0, 1, 10), Session: 1, Received: 5}
	for name, c := range map[string]struct {
		remembered *standing
		tail       *market.Block
		block      market.Block
		spanID     int64
		gaps       []idRange
	}{
		"nothing is known":                     {nil, nil, blockOf(trades, 50, 60), 50, nil},
		"the store's last block is continued":  {nil, &tail, blockOf(trades, 41, 60), 21, nil},
		"a hole behind the store's last block": {nil, &tail, blockOf(trades, 50, 60), 50, []idRange{{41, 49}}},
		"the remembered span is continued":     {&remembered, nil, blockOf(trades, 11, 60), 1, nil},
		// Whoever wrote the store's last block, the ledger had what was missing before it then.
		"the store went on after what is remembered": {&remembered, &tail, blockOf(trades, 50, 60), 50, []idRange{{41, 49}}},
		"what is written already comes again":        {&remembered, &tail, blockOf(trades, 11, 20), 1, nil},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAccount(3)
			a.open(trades, c.remembered, c.tail)
			got := book(a, sends(4, 6, c.block, int64(2)))
			var gaps []idRange
			for _, g := range got.Gaps {
				gaps = append(gaps, idRange{g.FirstID, g.LastID})
				if g.Cause != market.CauseRestart {
					t.Errorf("cause %s", g.Cause)
				}
			}
			if got.Blocks[0].SpanID != c.spanID || !cmp.Equal(gaps, c.gaps) {
				t.Errorf("span %d, gaps %v; want %d, %v", got.Blocks[0].SpanID, gaps, c.spanID, c.gaps)
			}
		})
	}
	t.Run("what the checkpoint holds is not written again", func(t *testing.T) {
		a := newAccount(3)
		a.open(trades, &remembered, &tail)
		got := book(a, sends(3, 6, blockOf(trades, 1, 10), hole(trades, market.CauseStall, 0, 0), market.CauseDamaged))
		if got.Len() != 0 || a.series[trades].Lost != "" {
			t.Errorf("written: %+v", got)
		}
	})
}

// TestAccountProperty plays random histories: blocks, ledger entries, losses, refusals, blocks fetched again, crashes
// that lose the checkpoint or only what was not settled. The store is a plain model; what is written to it is checked
// as a whole.
func TestAccountProperty(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		h := &history{T: rt, account: newAccount(0), session: 1, store: newModel()}
		rt.Repeat(map[string]func(*rapid.T){
			"":         func(*rapid.T) { h.store.check(rt) },
			"block":    h.block,
			"hole":     h.hole,
			"explain":  h.explain,
			"doubt":    h.doubt,
			"again":    h.again,
			"lose":     h.lose,
			"refuse":   h.refuse,
			"restart":  h.restart,
			"crash":    h.crash,
			"cut":      h.cut,
			"stale":    h.stale,
			"other":    h.other,
			"deliver2": h.deliverTwo,
			"save":     h.save,
		})
	})
}

// history is one series as a recorder, the spool and the store see it.
type history struct {
	*rapid.T
	account  *account
	sieve    unfinished
	store    *model
	log      []*delivery // all that ever was in the spool, oldest first
	position spool.Position
	session  int64
	next     int64 // next id that the exchange gives
	lost     market.Cause
}

func (h *history) draw(n int64, what string) int64 { return rapid.Int64Range(1, n).Draw(h.T, what) }

// put appends a delivery to the log; nothing delivers it yet.
func (h *history) put(records ...any) *delivery {
	h.position += spool.Position(h.draw(2, "step"))
	v := sends(h.position, market.Time(h.position), records...)
	v.session, v.lost, h.lost = h.session, h.lost, ""
	h.log = append(h.log, v)
	return v
}

// draft returns what deliveries come to.
func (h *history) draft(deliveries ...*delivery) *draft {
	d := h.account.draft()
	for _, v := range deliveries {
		for _, v := range h.sieve.sift([]delivery{*v}, time.Time{}, h.store.presence) {
			d.add(&v)
		}
	}
	return d
}

// deliver writes deliveries in one batch.
func (h *history) deliver(deliveries ...*delivery) {
	d := h.draft(deliveries...)
	h.store.write(h.T, &d.batch)
	if rapid.Bool().Draw(h.T, "written twice") {
		h.store.write(h.T, &d.batch)
	}
	d.commit()
	h.sieve.settled(h.account.settled, d.unfinished)
}

func (h *history) fresh() market.Block {
	first := h.next + 1
	h.next += h.draw(5, "ids")
	return blockOf(trades, first, h.next)
}

func (h *history) block(*rapid.T) { h.deliver(h.put(h.fresh())) }

func (h *history) deliverTwo(*rapid.T) {
	a := h.put(h.fresh())
	h.next += h.draw(3, "missing") - 1
	h.deliver(a, h.put(h.fresh()))
}

// hole lets ids go by unrecorded.
func (h *history) hole(*rapid.T) { h.next += h.draw(5, "missing") }

// explain is a ledger entry of some of what went by, right or wrong.
func (h *history) explain(*rapid.T) {
	first := max(0, h.next-h.draw(8, "from"))
	h.deliver(h.put(hole(trades, market.CauseStall, first, first+h.draw(8, "many")-2)))
}

// doubt is a ledger entry about ids that the recorder had, whether they were stored or not.
func (h *history) doubt(*rapid.T) {
	first := max(0, h.next-h.draw(8, "from"))
	h.deliver(h.put(hole(trades, market.CauseAudit, first, max(first, h.next))))
}

// again is a block of ids that went by, which may be held or not.
func (h *history) again(*rapid.T) {
	if h.next == 0 {
		return
	}
	first := h.draw(h.next, "first")
	h.deliver(h.put(blockOf(trades, first, min(h.next, first+h.draw(4, "many")-1))))
}

// lose drops or damages a block in the spool.
func (h *history) lose(*rapid.T) {
	h.fresh()
	h.lost = rapid.SampledFrom([]market.Cause{market.CauseOverflow, market.CauseDamaged}).Draw(h.T, "loss")
}

func (h *history) refuse(*rapid.T) {
	v := h.put(h.fresh())
	d := h.account.draft()
	d.refuse(v)
	h.store.write(h.T, &d.batch)
	d.commit()
	h.log = h.log[:len(h.log)-1] // refused every time, which is not played here
}

// restart is an orderly one.
func (h *history) restart(*rapid.T) {
	after := h.acknowledged()
	h.reopen(h.account.settled, h.remember())
	h.redeliver(after)
}

// save is a block that was saved before it was whole, with all that may become of it.
func (h *history) save(*rapid.T) {
	settled, remembered, after := h.account.settled, h.remember(), h.acknowledged()
	whole := h.fresh()
	part := blockOf(trades, whole.FirstID, whole.FirstID-1+h.draw(whole.LastID-whole.PrevID, "saved"))
	saved := h.put(part)
	saved.unfinished = true
	h.deliver(saved)
	if rapid.Bool().Draw(h.T, "checkpoint") {
		settled, remembered, after = h.account.settled, h.remember(), h.acknowledged()
	}
	last := whole.LastID
	switch fate := rapid.SampledFrom([]string{"whole", "refused", "lost", "killed", "killed when it was stored"}).Draw(h.T, "fate"); fate {
	case "whole":
		h.deliver(h.put(whole))
	case "refused":
		h.deliver(h.put(hole(trades, market.CauseOverflow, whole.FirstID, whole.LastID), h.fresh()))
		last = whole.PrevID
	case "lost":
		h.lost = market.CauseDamaged
		h.deliver(h.put(h.fresh()))
		last = part.LastID
	default:
		if last = part.LastID; fate != "killed" { // written out of memory, and not on disk
			h.deliver(h.put(whole))
			h.log = h.log[:len(h.log)-1]
			last = whole.LastID
		}
		h.reopen(settled, remembered)
		h.redeliver(after)
		h.deliver(h.put(h.fresh()))
	}
	for id := whole.FirstID; id <= whole.LastID; id++ {
		if n := h.store.count(id); n > 1 || (n == 1) != (id <= last) {
			h.Fatalf("of %d to %d, of which %d were saved, %d is held %d times", whole.FirstID, whole.LastID, part.LastID, id, n)
		}
	}
}

// acknowledged returns what the spool has forgotten at the most.
func (h *history) acknowledged() spool.Position { return h.sieve.settled(h.account.settled, nil) }

// crash loses the checkpoint, or falls back to one that is older than what was written last.
func (h *history) crash(*rapid.T) {
	if rapid.Bool().Draw(h.T, "without a note") {
		h.reopen(0, nil)
		h.redeliver(0)
		return
	}
	settled, remembered, after := h.account.settled, h.remember(), h.acknowledged()
	h.deliver(h.put(h.fresh())) // written, and not in the checkpoint
	before := h.store.clone()
	h.reopen(settled, remembered)
	h.redeliver(after - min(after, spool.Position(h.draw(6, "back"))))
	if remembered != nil {
		if diff := cmp.Diff(before, h.store, cmp.AllowUnexported(model{})); diff != "" {
			h.Fatalf("what was delivered again changed something (-before +after):\n%s", diff)
		}
	}
}

// cut is a crash in the middle of a write, of the process or the store: some of it is there, in the order of stores.
func (h *history) cut(*rapid.T) {
	settled, remembered, after := h.account.settled, h.remember(), h.acknowledged()
	a := h.put(h.fresh())
	h.next += h.draw(3, "missing") - 1
	b := h.put(hole(trades, market.CauseStall, max(0, h.next-h.draw(4, "from")), h.next), h.fresh())
	d := h.draft(a, b)
	h.store.writePart(h.T, &d.batch, int(h.draw(int64(d.batch.Len()), "written")-1))
	if rapid.Bool().Draw(h.T, "without a note") {
		settled, remembered, after, h.store.torn = 0, nil, 0, true
	}
	h.reopen(settled, remembered)
	h.redeliver(after)
}

// stale is a crash after a while in which the disk of the spool failed: the checkpoint is old, and what was written
// since does not come again.
func (h *history) stale(*rapid.T) {
	settled, remembered := h.account.settled, h.remember()
	if remembered == nil {
		return
	}
	for range h.draw(4, "blocks") {
		if rapid.Bool().Draw(h.T, "behind a hole") {
			h.hole(h.T)
		}
		h.deliver(h.put(h.fresh()))
	}
	h.reopen(settled, remembered)
	d := h.draft(h.put(h.fresh()))
	if len(d.batch.Gaps) > 0 {
		h.Fatalf("nothing is missing, but %+v", d.batch.Gaps)
	}
	h.store.write(h.T, &d.batch)
	d.commit()
}

// other is another recorder that writes to the store what this one did not see, and accounts for what it missed itself.
func (h *history) other(*rapid.T) {
	if len(h.account.series) == 0 {
		return // what goes by before this one's first block is not its business
	}
	b := h.fresh()
	b.SpanID = b.FirstID
	batch := market.Batch{Blocks: []market.Block{b}, Spans: []market.Span{spanOf(&b)}}
	if last := h.store.last(); last >= 0 && last < b.PrevID {
		batch.Gaps = []market.Gap{hole(trades, market.CauseStall, last+1, b.PrevID)}
	}
	h.store.write(h.T, &batch)
}

func (h *history) remember() *standing {
	s, ok := h.account.series[trades]
	if !ok {
		return nil
	}
	data, err := encodeMemory(&memory{settled: h.account.settled, standings: map[market.Series]standing{trades: s}})
	if err != nil {
		h.Fatal(err)
	}
	m, err := decodeMemory(data)
	if err != nil {
		h.Fatal(err)
	}
	if diff := cmp.Diff(h.account.series[trades], m.standings[trades], cmp.AllowUnexported(standing{}), ignoreRemembered); diff != "" {
		h.Fatalf("remembered (-want +got):\n%s", diff)
	}
	s = m.standings[trades]
	return &s
}

var ignoreRemembered = cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".remembered" }, cmp.Ignore())

func (h *history) reopen(checkpoint spool.Position, remembered *standing) {
	h.session++
	h.account, h.sieve = newAccount(checkpoint), unfinished{}
	h.account.open(trades, remembered, h.store.tail())
	if tail := h.store.tail(); tail != nil {
		h.store.write(h.T, &market.Batch{Spans: []market.Span{spanOfTail(tail)}})
	}
}

// redeliver delivers everything behind a position again.
func (h *history) redeliver(after spool.Position) {
	for _, v := range h.log {
		if v.position > after {
			h.deliver(v)
		}
	}
}

// model is a store of one series, as sets of ids.
type model struct {
	blocks []market.Block // in the order in which they were written first
	keys   map[market.BlockKey]bool
	held   map[int64]bool
	spans  map[int64]market.Span
	gaps   map[int64]market.Gap
	torn   bool // a write was cut, and then nobody knew of which spans: blocks may name one that holds them no more
}

func newModel() *model {
	return &model{
		keys: map[market.BlockKey]bool{}, held: map[int64]bool{}, spans: map[int64]market.Span{}, gaps: map[int64]market.Gap{},
	}
}

func (m *model) write(t *rapid.T, b *market.Batch) { m.writePart(t, b, b.Len()) }

// writePart writes the first records of a batch, in the order of market.Batch.
func (m *model) writePart(t *rapid.T, b *market.Batch, records int) {
	if err := b.Validate(); err != nil {
		t.Fatalf("the store would refuse the batch: %v", err)
	}
	var steps []func()
	for _, g := range b.Gaps {
		if g.Repair != market.RepairBackfilled {
			steps = append(steps, func() { m.putGap(g) })
		}
	}
	for _, block := range b.Blocks {
		steps = append(steps, func() { m.putBlock(block) })
	}
	for _, s := range b.Spans {
		steps = append(steps, func() { m.putSpan(s) })
	}
	for _, g := range b.Gaps {
		if g.Repair == market.RepairBackfilled {
			steps = append(steps, func() { m.putGap(g) })
		}
	}
	for _, step := range steps[:records] {
		step()
	}
}

func (m *model) putBlock(b market.Block) {
	if m.keys[b.Key()] {
		return
	}
	m.keys[b.Key()] = true
	m.blocks = append(m.blocks, b)
	for id := b.FirstID; id <= b.LastID; id++ {
		m.held[id] = true
	}
}

func (m *model) putSpan(s market.Span) {
	if old, ok := m.spans[s.FirstID]; ok {
		s.PrevID, s.Start = old.PrevID, min(old.Start, s.Start)
		s.LastID, s.End = max(old.LastID, s.LastID), max(old.End, s.End)
	}
	m.spans[s.FirstID] = s
}

func (m *model) putGap(g market.Gap) {
	if g.Cause == market.CauseAudit {
		return // it accounts for nothing
	}
	if old, ok := m.gaps[g.FirstID]; ok {
		g = old.Merge(g)
	}
	m.gaps[g.FirstID] = g
}

// check holds what is stored against the promise.
func (m *model) check(t *rapid.T) {
	if len(m.blocks) == 0 {
		return
	}
	first, last := m.blocks[0].FirstID, m.blocks[0].LastID
	for _, b := range m.blocks {
		last = max(last, b.LastID)
		s, ok := m.spans[b.SpanID]
		if !m.torn && (!ok || b.FirstID < s.FirstID || b.LastID > s.LastID) {
			t.Fatalf("block %d to %d is not within its span %d: %+v", b.FirstID, b.LastID, b.SpanID, s)
		}
	}
	accounted := idRanges{}
	for _, s := range m.spans {
		for id := s.FirstID; id <= s.LastID; id++ {
			if !m.held[id] {
				t.Fatalf("span %d to %d claims %d, which no block holds", s.FirstID, s.LastID, id)
			}
		}
		accounted = accounted.with(s.FirstID, s.LastID)
	}
	spanned := accounted
	for _, g := range m.gaps {
		accounted = accounted.with(g.FirstID, g.LastID)
	}
	for id := range m.held {
		if len(spanned.missing(id, id)) > 0 {
			t.Fatalf("%d is held, and in no span", id)
		}
	}
	if missing := accounted.missing(first, last); len(missing) > 0 {
		t.Fatalf("between %d and %d, %v is in no span and no ledger entry\nblocks %v", first, last, missing, m)
	}
}

// presence returns how the store holds a block.
func (m *model) presence(b *market.Block) presence {
	switch {
	case m.keys[b.Key()]:
		return itself
	case slices.ContainsFunc(m.blocks, func(other market.Block) bool {
		return other.FirstID <= b.FirstID && b.LastID <= other.LastID
	}):
		return inWhole
	}
	return absent
}

// count returns how many blocks hold an id.
func (m *model) count(id int64) (n int) {
	for _, b := range m.blocks {
		if b.FirstID <= id && id <= b.LastID {
			n++
		}
	}
	return n
}

// last returns the greatest id held, -1 when none is.
func (m *model) last() int64 {
	last := int64(-1)
	for id := range m.held {
		last = max(last, id)
	}
	return last
}

func (m *model) tail() *market.Block {
	if len(m.blocks) == 0 {
		return nil
	}
	tail := m.blocks[0]
	for _, b := range m.blocks {
		if b.Start > tail.Start || b.Start == tail.Start && b.LastID > tail.LastID {
			tail = b
		}
	}
	tail.Data = nil
	return &tail
}

func (m *model) clone() *model {
	c := newModel()
	c.torn = m.torn
	c.blocks = append(c.blocks, m.blocks...)
	for k := range m.keys {
		c.keys[k] = true
	}
	for id := range m.held {
		c.held[id] = true
	}
	for id, s := range m.spans {
		c.spans[id] = s
	}
	for id, g := range m.gaps {
		c.gaps[id] = g
	}
	return c
}

func (m *model) String() string {
	s := ""
	for _, b := range m.blocks {
		s += fmt.Sprintf("[%d %d] in %d, ", b.FirstID, b.LastID, b.SpanID)
	}
	return s
}

func TestRanges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var rs idRanges
		set := map[int64]bool{}
		for range rapid.IntRange(0, 12).Draw(t, "ranges") {
			first := rapid.Int64Range(0, 40).Draw(t, "first")
			last := first + rapid.Int64Range(-1, 6).Draw(t, "length")
			before := fmt.Sprint(rs)
			next := rs.with(first, last)
			if fmt.Sprint(rs) != before {
				t.Fatal("with changed the ranges that it was called on")
			}
			rs = next
			for id := first; id <= last; id++ {
				set[id] = true
			}
			if rapid.IntRange(0, 3).Draw(t, "cut") == 0 {
				cut := rapid.Int64Range(0, 40).Draw(t, "at")
				rs = rs.above(cut)
				for id := range set {
					if id <= cut {
						delete(set, id)
					}
				}
			}
		}
		for i := range rs {
			if rs[i].Last < rs[i].First || i > 0 && rs[i].First <= rs[i-1].Last+1 {
				t.Fatalf("%v is not ordered and disjoint", rs)
			}
		}
		first := rapid.Int64Range(0, 50).Draw(t, "from")
		last := first + rapid.Int64Range(-1, 20).Draw(t, "to")
		missing := map[int64]bool{}
		for _, r := range rs.missing(first, last) {
			for id := r.First; id <= r.Last; id++ {
				missing[id] = true
			}
		}
		for id := range int64(80) {
			if want := id >= first && id <= last && !set[id]; missing[id] != want {
				t.Fatalf("missing(%d, %d) of %v: %d is %v", first, last, rs, id, missing[id])
			}
		}
	})
}

func TestRangesAreBounded(t *testing.T) {
	var rs idRanges
	for i := range int64(10 * maxExplained) {
		rs = rs.with(3*i, 3*i+1)
	}
	if len(rs) != maxExplained || rs[len(rs)-1].Last != 3*(10*maxExplained-1)+1 {
		t.Errorf("%d ranges up to %v", len(rs), rs[len(rs)-1])
	}
}
