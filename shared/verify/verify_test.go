package verify_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"tapedeck/shared/book"
	"tapedeck/shared/market"
	"tapedeck/shared/sqlitestore"
	"tapedeck/shared/storetest"
	"tapedeck/shared/tape"
	"tapedeck/shared/verify"
)

// plain returns a world in which an update of two ids and a trade happen every 250 ms, and a recorder of it.
func plain() (*world, *recorder) {
	n := 0
	w := newWorld(func(label string, low, high int) int {
		n++
		switch label {
		case "ms":
			return 250
		case "width", "levels":
			return 1
		}
		return low + n*7%(high-low+1)
	})
	r := newRecorder(&market.Batch{})
	r.snapshot(w.book, 4, w.now)
	return w, r
}

// happen lets n updates and trades happen, recorded in blocks of one second with a keyframe behind every other block.
func (w *world) happen(n int, recorders ...*recorder) {
	for range n {
		u, t := w.update(), w.nextTrade()
		for _, r := range recorders {
			blocks := len(r.batch.Blocks)
			if r.windows[market.Depth] != u.EventTime.Truncate(time.Second) && r.cut(market.Depth) && blocks%4 == 0 {
				r.keyframe()
			}
			r.update(&u)
			r.trade(&t)
		}
	}
}

// history returns eight seconds of plain history, and behind a hole of three updates six seconds more: 27 and 24 blocks
// or so, of four events each.
func history() *market.Batch {
	w, r := plain()
	w.happen(32, r)
	r.breakSpan(market.Depth)
	before := r.last[market.Depth]
	for range 3 {
		w.update()
	}
	missing := w.book.LastID()
	r.hole(before, before.LastID+1, missing, w.now, market.RepairSnapshot)
	r.snapshot(w.book, 4, w.now)
	w.happen(24, r)
	r.breakSpan(market.Depth)
	r.breakSpan(market.Trades)
	return r.batch
}

func blocksOf(b *market.Batch, series market.Series) []*market.Block {
	var found []*market.Block
	for i := range b.Blocks {
		if b.Blocks[i].Series == series {
			found = append(found, &b.Blocks[i])
		}
	}
	return found
}

// replayed returns the keyframes that are not snapshots.
func replayed(b *market.Batch) []*market.Keyframe {
	var found []*market.Keyframe
	for i := range b.Keyframes {
		if b.Keyframes[i].UpdatesApplied > 0 {
			found = append(found, &b.Keyframes[i])
		}
	}
	return found
}

// place is where a code was found.
type place struct {
	code        verify.Code
	first, last int64
}

func places(findings ...[]verify.Finding) []place {
	var found []place
	for _, f := range slices.Concat(findings...) {
		for _, p := range f.Listed {
			found = append(found, place{f.Code, p.FirstID, p.LastID})
		}
	}
	return found
}

// problems returns all problems of a report.
func problems(r verify.Report) []place {
	var found []place
	for _, m := range r.Markets {
		for _, s := range m.Streams {
			found = append(found, places(s.Problems)...)
		}
	}
	return found
}

// recode changes the events of a block of depth updates.
func recode(tb testing.TB, b *market.Block, change func([]market.DepthUpdate)) {
	tb.Helper()
	updates, err := new(tape.Decoder).Depth(b.Data)
	if err != nil {
		tb.Fatal(err)
	}
	change(updates)
	var builder tape.DepthBuilder
	for i := range updates {
		builder.Append(&updates[i])
	}
	series, span := b.Series, b.SpanID
	*b = builder.Finish()
	b.Series, b.SpanID = series, span
}

// TestLongLedger: what does not fit one reading is verified once, also where the clock stepped back.
func TestLongLedger(t *testing.T) {
	b := history()
	series, at := b.Gaps[0].Series, b.Gaps[0].Start
	for i := range 12_000 {
		start := at + market.Time(i)*market.Time(time.Minute)
		id := int64(1_000_000 + i)
		b.Gaps = append(b.Gaps, market.Gap{
			Series: series, Cause: market.CauseClock, FirstID: id, LastID: id - 1, Start: start, End: start.Add(-10 * time.Minute),
			DetectedAt: start, RepairedAt: start, Repair: market.RepairResumed,
		})
	}
	report := run(t, store(t, b), verify.Options{})
	if got := report.Markets[0].Streams[0].Entries; !report.Holds() || got != 12_001 {
		t.Errorf("%d entries\n%s", got, text(report))
	}
}

func TestGoodHistory(t *testing.T) {
	report := run(t, store(t, history()), verify.Options{})
	if report.Problems != 0 || report.Notes != 0 || !report.Holds() {
		t.Fatal(text(report))
	}
	d, tr := report.Markets[0].Streams[0], report.Markets[0].Streams[1]
	if d.Events != 56 || d.IDs != 112 || d.Spans != 2 || d.Entries != 1 || len(d.Holes) != 1 || d.Holes[0].IDs != 6 ||
		d.Holes[0].Cause != market.CauseDisconnect || d.Keyframes.Whole == 0 || d.Keyframes.Begun != 2 ||
		d.Keyframes.EventsWithoutBook != 0 || d.Book == nil || d.Book.LastID != d.LastID {
		t.Error(text(report))
	}
	if tr.Events != 56 || tr.Spans != 1 || tr.FirstID != 501 || tr.LastID != 556 || tr.Book != nil || tr.Keyframes != nil {
		t.Error(text(report))
	}
}

// TestProblems injects one fault each into a good history and says what is found.
func TestProblems(t *testing.T) {
	tests := []struct {
		name   string
		inject func(*testing.T, *market.Batch) []place // changes the batch and returns what is to be found
	}{
		{"a damaged block", func(_ *testing.T, b *market.Batch) []place {
			block := blocksOf(b, depth)[3]
			block.Data[7] ^= 1
			return []place{{verify.Checksum, block.FirstID, block.LastID}}
		}},
		{"a damaged keyframe", func(_ *testing.T, b *market.Batch) []place {
			k := replayed(b)[1]
			k.Data[len(k.Data)-1] ^= 1
			return []place{{verify.Checksum, k.UpdateID, k.UpdateID}}
		}},
		{"a record beside another content", func(_ *testing.T, b *market.Batch) []place {
			block := blocksOf(b, depth)[3]
			block.Events++
			return []place{{verify.BlockDiffers, block.FirstID, block.LastID}}
		}},
		{"a deleted block", func(_ *testing.T, b *market.Batch) []place {
			gone := *blocksOf(b, depth)[3]
			b.Blocks = slices.DeleteFunc(b.Blocks, func(c market.Block) bool { return c.Series == depth && c.FirstID == gone.FirstID })
			return []place{
				{verify.UnexplainedHole, gone.FirstID, gone.LastID},
				{verify.SpanWithoutBlocks, gone.FirstID, gone.LastID},
			}
		}},
		{"a deleted last block", func(_ *testing.T, b *market.Batch) []place {
			all := blocksOf(b, trades)
			gone := *all[len(all)-1]
			b.Blocks = slices.DeleteFunc(b.Blocks, func(c market.Block) bool { return c.Series == trades && c.FirstID == gone.FirstID })
			return []place{{verify.SpanWithoutBlocks, gone.LastID, gone.LastID}}
		}},
		{"a deleted entry", func(_ *testing.T, b *market.Batch) []place {
			g := b.Gaps[0]
			b.Gaps = nil
			return []place{{verify.UnexplainedHole, g.FirstID, g.LastID}}
		}},
		{"an entry of too few ids", func(_ *testing.T, b *market.Batch) []place {
			g := &b.Gaps[0]
			g.FirstID += 2
			return []place{{verify.UnexplainedHole, g.FirstID - 2, g.FirstID - 1}}
		}},
		{"an audit around the hole in place of its entry", func(_ *testing.T, b *market.Batch) []place {
			g := b.Gaps[0]
			b.Gaps[0] = market.Gap{
				Series: depth, Cause: market.CauseAudit, FirstID: g.FirstID - 20, LastID: g.LastID + 10,
				Start: g.Start.Add(-5 * time.Second), End: g.End.Add(5 * time.Second),
				DetectedAt: 1, RepairedAt: 1, Repair: market.RepairSnapshot,
			}
			return []place{{verify.UnexplainedHole, g.FirstID, g.LastID}}
		}},
		{"an entry at a later time", func(_ *testing.T, b *market.Batch) []place {
			g := &b.Gaps[0]
			g.Start, g.End = g.Start.Add(time.Hour), g.End.Add(time.Hour)
			return []place{{verify.EntryFar, g.FirstID, g.LastID}}
		}},
		{"an entry of a step of the clock at a later time", func(_ *testing.T, b *market.Batch) []place {
			g := &b.Gaps[0]
			g.Start, g.End = g.Start.Add(3*time.Hour), g.End.Add(2*time.Hour)
			return []place{{verify.EntryFar, g.FirstID, g.LastID}}
		}},
		{"a repaired entry without an end", func(_ *testing.T, b *market.Batch) []place {
			g := &b.Gaps[0]
			g.End = 0
			return []place{{verify.LedgerEntry, g.FirstID, g.LastID}}
		}},
		{"an entry of ids that were not fetched again", func(_ *testing.T, b *market.Batch) []place {
			g := &b.Gaps[0]
			g.Repair = market.RepairBackfilled
			return []place{{verify.BackfillIncomplete, g.FirstID, g.LastID}}
		}},
		{"a deleted span", func(_ *testing.T, b *market.Batch) []place {
			p := b.Spans[0]
			b.Spans = b.Spans[1:]
			return []place{{verify.BlockWithoutSpan, p.FirstID, p.LastID}}
		}},
		{"a block of a span that begins with no block", func(_ *testing.T, b *market.Batch) []place {
			block := blocksOf(b, depth)[1]
			block.SpanID++
			return []place{{verify.SpanIDWrong, block.FirstID, block.LastID}}
		}},
		{"a block of the span before a hole", func(_ *testing.T, b *market.Batch) []place {
			all := blocksOf(b, depth)
			block := all[len(all)-2]
			block.SpanID = all[0].FirstID
			return []place{{verify.SpanIDWrong, block.FirstID, block.LastID}}
		}},
		{"a span that claims too much", func(_ *testing.T, b *market.Batch) []place {
			p := &b.Spans[0] // depth, before the hole
			p.LastID += 2
			return []place{{verify.SpanWithoutBlocks, p.LastID - 1, p.LastID}}
		}},
		{"a span that begins too early", func(_ *testing.T, b *market.Batch) []place {
			p := &b.Spans[0]
			p.Start--
			return []place{{verify.SpanDiffers, p.FirstID, p.LastID}}
		}},
		{"an update that says something else", func(t *testing.T, b *market.Batch) []place {
			block, k := blocksOf(b, depth)[0], replayed(b)[0]
			recode(t, block, func(us []market.DepthUpdate) {
				us[1].Bids = []market.Level{{Price: 2 * market.DecimalOne, Quantity: 77}}
			})
			return []place{{verify.KeyframeDiffers, k.UpdateID, k.UpdateID}}
		}},
		{"a keyframe that holds something else", func(_ *testing.T, b *market.Batch) []place {
			k := replayed(b)[1]
			k.Data = b.Keyframes[0].Data
			return []place{{verify.KeyframeDiffers, k.UpdateID, k.UpdateID}}
		}},
		{"a keyframe at another time", func(_ *testing.T, b *market.Batch) []place {
			k := replayed(b)[1]
			k.EventTime = k.EventTime.Add(time.Minute)
			return []place{{verify.KeyframeMisplaced, k.UpdateID, k.UpdateID}}
		}},
		{"a keyframe of other updates", func(_ *testing.T, b *market.Batch) []place {
			k := replayed(b)[1]
			k.UpdatesApplied--
			return []place{{verify.KeyframeProof, k.UpdateID, k.UpdateID}}
		}},
		{"a crossed book", func(t *testing.T, b *market.Batch) []place {
			blocks := blocksOf(b, depth)
			block, id := blocks[len(blocks)-1], int64(0) // no keyframe is behind it
			recode(t, block, func(us []market.DepthUpdate) {
				us[1].Bids, id = []market.Level{{Price: 30 * market.DecimalOne, Quantity: 1}}, us[1].FirstID
			})
			return []place{{verify.CrossedBook, id, id + 1}}
		}},
		{"a hole within a block", func(t *testing.T, b *market.Batch) []place {
			blocks := blocksOf(b, depth)
			block, id := blocks[len(blocks)-1], int64(0)
			recode(t, block, func(us []market.DepthUpdate) {
				id = us[1].FirstID
				us[1].FirstID, us[1].PrevID = id+1, id
			})
			return []place{
				{verify.HoleInBlock, id, id}, {verify.UnexplainedHole, id, id}, {verify.SpanWithoutBlocks, id, id},
			}
		}},
		{"a clock that steps back", func(t *testing.T, b *market.Batch) []place {
			blocks := blocksOf(b, depth)
			block := blocks[len(blocks)-1]
			recode(t, block, func(us []market.DepthUpdate) {
				for i := range us {
					us[i].EventTime = us[i].EventTime.Add(-3 * time.Second)
				}
			})
			b.Spans[2].End = blocks[len(blocks)-2].End
			return []place{{verify.TimeStepsBack, block.FirstID, block.FirstID + 1}}
		}},
		{"copies that differ", func(t *testing.T, b *market.Batch) []place {
			blocks := blocksOf(b, depth)
			other, id := *blocks[1], int64(0)
			recode(t, &other, func(us []market.DepthUpdate) {
				id = us[1].FirstID
				us[1].Bids = []market.Level{{Price: market.DecimalOne, Quantity: 9}}
			})
			recode(t, blocks[1], func([]market.DepthUpdate) {})
			cutFirst(t, &other) // it is a block of its own
			b.Blocks = append(b.Blocks, other)
			return []place{{verify.DuplicateDiffers, id, id + 1}}
		}},
		{"copies at another time", func(t *testing.T, b *market.Batch) []place {
			other := *blocksOf(b, depth)[1]
			recode(t, &other, func(us []market.DepthUpdate) {
				for i := range us {
					us[i].EventTime = us[i].EventTime.Add(5 * time.Second)
				}
			})
			b.Blocks = append(b.Blocks, other)
			return []place{{verify.DuplicateDiffers, other.FirstID, other.LastID}}
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			batch := history()
			want := test.inject(t, batch)
			report := run(t, store(t, batch), verify.Options{})
			if got := problems(report); !slices.Equal(got, want) || report.Holds() || report.Problems != len(want) {
				t.Errorf("found %v, want %v\n%s", got, want, text(report))
			}
		})
	}
}

// cutFirst takes the first event out of a block.
func cutFirst(t *testing.T, b *market.Block) {
	t.Helper()
	updates, err := new(tape.Decoder).Depth(b.Data)
	if err != nil {
		t.Fatal(err)
	}
	var builder tape.DepthBuilder
	for i := range updates[1:] {
		builder.Append(&updates[1+i])
	}
	series, span := b.Series, b.SpanID
	*b = builder.Finish()
	b.Series, b.SpanID = series, span
}

// TestCausesThatExplain has one entry of each cause for a hole. Where a book was crossed, updates may be missing as well.
func TestCausesThatExplain(t *testing.T) {
	for _, cause := range market.Causes() {
		batch := history()
		g := &batch.Gaps[0]
		g.Cause = cause
		want := []place{{verify.UnexplainedHole, g.FirstID, g.LastID}}
		if cause != market.CauseAudit && cause != market.CauseClock {
			want = nil
		}
		if got := problems(run(t, store(t, batch), verify.Options{})); !slices.Equal(got, want) {
			t.Errorf("%s: found %v, want %v", cause, got, want)
		}
	}
}

// TestClockStepsBackInAHole: the entry of the hole stands at both times.
func TestClockStepsBackInAHole(t *testing.T) {
	batch := history()
	batch.Gaps[0].Start = batch.Gaps[0].Start.Add(time.Hour)
	if report := run(t, store(t, batch), verify.Options{}); !report.Holds() || report.Notes != 0 {
		t.Error(text(report))
	}
}

// TestKeyframeBehindAStepOfTheClock stands there though a crash cost the update that it was made for.
func TestKeyframeBehindAStepOfTheClock(t *testing.T) {
	w, r := plain()
	w.happen(32, r)
	r.breakSpan(market.Depth)
	r.keyframe()
	r.breakSpan(market.Trades)
	again := r.batch.Keyframes[len(r.batch.Keyframes)-1]
	step := market.Gap{
		Series: history().Gaps[0].Series, Cause: market.CauseClock, FirstID: again.UpdateID + 1, LastID: again.UpdateID,
		Start: again.EventTime, DetectedAt: 1, RepairedAt: 1, Repair: market.RepairResumed,
	}
	again.EventTime = again.EventTime.Add(-5 * time.Second)
	step.End = again.EventTime
	r.batch.Keyframes = append(r.batch.Keyframes, again)
	if report := run(t, store(t, r.batch), verify.Options{}); report.Holds() {
		t.Error("a keyframe of another time is found right")
	}
	r.batch.Gaps = append(r.batch.Gaps, step)
	if report := run(t, store(t, r.batch), verify.Options{}); !report.Holds() {
		t.Error(text(report))
	}
}

// TestTwoRecorders has a second recorder with a hole of its own, which the first one covers.
func TestTwoRecorders(t *testing.T) {
	w, a := plain()
	b := newRecorder(a.batch)
	w.now++
	b.snapshot(w.book, 2, w.now)
	w.happen(9, a, b)
	b.breakSpan(market.Depth)
	before := b.last[market.Depth]
	w.happen(3, a)
	b.hole(before, before.LastID+1, w.book.LastID(), w.now, market.RepairSnapshot)
	w.now++
	b.snapshot(w.book, 2, w.now)
	w.happen(20, a, b)
	for _, r := range []*recorder{a, b} {
		r.breakSpan(market.Depth)
		r.breakSpan(market.Trades)
	}
	report := run(t, store(t, a.batch), verify.Options{})
	s := report.Markets[0].Streams[0]
	if report.Problems != 0 || s.Copies == 0 || len(s.Holes) != 0 || s.Keyframes.Depth == 0 {
		t.Error(text(report))
	}
	if got := places(s.Notes); !slices.Equal(got, []place{{verify.EntryHeld, before.LastID + 1, before.LastID + 6}}) {
		t.Errorf("notes %v", got)
	}
}

// TestClock lets the exchange's clock step back and forth by more than blocks of one window overlap. What stands where
// in time then says little; order by id shows that nothing is missing.
func TestClock(t *testing.T) {
	testClock(t)
	t.Run("with hardly any room for blocks that wait", func(t *testing.T) {
		defer verify.SetMaxWaitingBytes(300)()
		testClock(t)
	})
}

func testClock(t *testing.T) {
	for _, by := range []time.Duration{-30 * time.Second, -time.Hour, -400 * time.Millisecond, -time.Millisecond, time.Hour} {
		t.Run(by.String(), func(t *testing.T) {
			w, r := plain()
			w.happen(60, r)
			steps := w.stepClock(r, by)
			w.happen(300, r)
			steps = append(steps, w.stepClock(r, -by)...)
			w.happen(60, r)
			r.breakSpan(market.Depth)
			r.breakSpan(market.Trades)
			report := run(t, store(t, r.batch), verify.Options{})
			s := report.Markets[0].Streams[0]
			notes := 0
			if by == -400*time.Millisecond {
				notes = 2
			}
			if report.Problems != 0 || report.Notes != notes || s.Events != 420 || s.IDs != 840 || len(s.Holes) != 0 {
				t.Error(text(report))
			}
			r.batch.Gaps = nil
			if got := problems(run(t, store(t, r.batch), verify.Options{})); !slices.Equal(got, steps) {
				t.Errorf("without entries found %v, want %v", got, steps)
			}
		})
	}
}

// stepClock lets the exchange's clock step. A recorder tells of a step back that is longer than readers look back, and
// stores the book once more behind it. It returns what is found if the recorder does not tell.
func (w *world) stepClock(r *recorder, by time.Duration) []place {
	id, trade, before := w.book.LastID()+1, w.trade+1, w.now
	w.now = w.now.Add(by)
	next := w.now.Add(250 * time.Millisecond)
	if next >= before.Add(-time.Second) {
		return nil
	}
	r.cut(market.Depth)
	r.keyframe()
	r.batch.Keyframes[len(r.batch.Keyframes)-1].EventTime = next
	r.batch.Gaps = append(r.batch.Gaps, market.Gap{
		Series: depth, Cause: market.CauseClock, FirstID: id, LastID: id - 1, Start: before, End: next,
		DetectedAt: 1, RepairedAt: 1, Repair: market.RepairResumed,
	})
	return []place{{verify.TimeStepsBack, id, id + 1}, {verify.TimeStepsBack, trade, trade}}
}

// TestSnapshotWithinAnUpdate begins another book in the middle of an update's ids.
func TestSnapshotWithinAnUpdate(t *testing.T) {
	for _, right := range []bool{true, false} {
		w, r := plain()
		w.happen(10, r)
		r.cut(market.Depth)
		u := w.update()
		r.update(&u)
		inside := book.New()
		inside.Reset(u.FirstID, w.book.AppendBids(nil, -1), w.book.AppendAsks(nil, -1))
		other := newRecorder(r.batch)
		other.snapshot(inside, 3, u.EventTime-1)
		if !right { // it misses a level that no update touches again
			other.batch.Keyframes[len(r.batch.Keyframes)-1].Data = tape.EncodeBook(w.book.AppendBids(nil, 1), w.book.AppendAsks(nil, 3))
		}
		w.happen(10, r)
		r.breakSpan(market.Depth)
		r.breakSpan(market.Trades)
		report := run(t, store(t, r.batch), verify.Options{})
		if got := problems(report); right != (len(got) == 0) || !right && got[0] != (place{verify.KeyframeDiffers, u.LastID, u.LastID}) {
			t.Errorf("right %v: found %v", right, got)
		}
	}
}

// TestAuditedBook has a book that was wrong, which the recorder found out and wrote down.
func TestAuditedBook(t *testing.T) {
	for _, known := range []bool{true, false} {
		w, r := plain()
		w.happen(9, r)
		r.book.Apply(&market.DepthUpdate{ // the truth holds what no update said
			FirstID: r.book.LastID(), LastID: r.book.LastID() + 1, PrevID: r.book.LastID(),
		})
		wrong := w.book.AppendBids(nil, -1)
		wrong[0].Quantity += 5
		w.book.Reset(w.book.LastID(), wrong, w.book.AppendAsks(nil, -1))
		r.cut(market.Depth)
		w.now++
		r.snapshot(w.book, 4, w.now)
		id := w.book.LastID()
		if known {
			r.batch.Gaps = append(r.batch.Gaps, market.Gap{
				Series: depth, Cause: market.CauseAudit, FirstID: id + 1, LastID: id, Start: w.now, End: w.now,
				DetectedAt: 1, RepairedAt: 1, Repair: market.RepairSnapshot,
			})
		}
		w.happen(9, r)
		r.breakSpan(market.Depth)
		r.breakSpan(market.Trades)
		report := run(t, store(t, r.batch), verify.Options{})
		if known && (report.Problems != 0 || report.Markets[0].Streams[0].Keyframes.Corrected != 1) {
			t.Error(text(report))
		}
		if got := problems(report); !known && !slices.Equal(got, []place{{verify.KeyframeDiffers, id, id}}) {
			t.Errorf("found %v", got)
		}
	}
}

// TestRange verifies parts of a history. What is wrong outside of them is not found.
func TestRange(t *testing.T) {
	batch := history()
	blocksOf(batch, depth)[0].Data[9] ^= 1
	s := store(t, batch)
	first := replayed(batch)[0]
	report := run(t, s, verify.Options{Start: first.EventTime.Add(700 * time.Millisecond), End: epoch.Add(5 * time.Second)})
	d := report.Markets[0].Streams[0]
	if report.Problems != 0 || d.FirstID != first.UpdateID+1 || d.End >= epoch.Add(5*time.Second) || d.Keyframes.Whole == 0 {
		t.Error(text(report))
	}
	if report := run(t, s, verify.Options{End: epoch.Add(5 * time.Second)}); report.Problems != 1 {
		t.Error(text(report))
	}
}

// TestSQLite verifies the same history in a real store, and its damaged twin.
func TestSQLite(t *testing.T) {
	for _, damaged := range []bool{false, true} {
		batch := history()
		if damaged {
			blocksOf(batch, trades)[2].Data[3] ^= 1
		}
		s, err := sqlitestore.Open(t.Context(), t.TempDir()+"/tapedeck.db", sqlitestore.ReadWrite)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close(context.Background())
		if err := s.Write(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
		got, want := run(t, s, verify.Options{}), run(t, store(t, batch), verify.Options{})
		if text(got) != text(want) || got.Holds() == damaged {
			t.Errorf("%s", text(got))
		}
	}
}

// failing fails from the nth read of blocks on.
type failing struct {
	*storetest.Memory
	reads int
	err   error
	then  func()
}

func (f *failing) Blocks(ctx context.Context, q market.BlockQuery) ([]market.Block, error) {
	if f.reads--; f.reads < 0 {
		if f.then != nil {
			f.then()
		}
		return nil, f.err
	}
	return f.Memory.Blocks(ctx, q)
}

// TestUnreadStore never calls a walk complete that was not: not with an error of the store at any read, nor when ended.
func TestUnreadStore(t *testing.T) {
	whole := store(t, history())
	down := market.Errorf(market.KindUnavailable, "down")
	complete := false
	for n := 0; !complete; n++ {
		f := &failing{Memory: whole, reads: n, err: down}
		report, err := verify.Run(t.Context(), f, verify.Options{Markets: []market.Market{btcusdt}})
		complete = f.reads >= 0
		if report.Complete != complete || (err == nil) != complete || report.Holds() != complete || err != nil && !errors.Is(err, down) {
			t.Fatalf("read %d: %v, complete %v", n, err, report.Complete)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	report, err := verify.Run(ctx, whole, verify.Options{
		Markets: []market.Market{btcusdt}, Progress: func(verify.Progress) { cancel() },
	})
	if !errors.Is(err, context.Canceled) || report.Complete {
		t.Errorf("canceled: %v, complete %v", err, report.Complete)
	}
	if _, err := verify.Run(t.Context(), storetest.NewMemory(), verify.Options{}); market.KindOf(err) != market.KindNotFound {
		t.Errorf("empty store: %v", err)
	}
	opts := verify.Options{Markets: []market.Market{btcusdt}}
	if _, err := verify.Run(t.Context(), storetest.NewMemory(), opts); market.KindOf(err) != market.KindNotFound {
		t.Errorf("nothing of the market: %v", err)
	}
}

// TestStoreBeingWritten has a store in the middle of a write: a block is there, its span and the ledger's entry are not
// yet.
func TestStoreBeingWritten(t *testing.T) {
	for _, alive := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			whole := history()
			part := *whole
			part.Gaps, part.Spans = nil, whole.Spans[:1]
			status := market.RecorderStatus{
				Recorder: "r", UpdatedAt: market.TimeOf(time.Now()), Stopped: !alive,
				Markets: []market.MarketStatus{{Market: btcusdt, State: market.StateSynced}},
			}
			part.Statuses = []market.RecorderStatus{status}
			s := store(t, &part)
			go func() {
				<-time.After(3 * time.Second) // while it is verified: it waits 2 s at first, and then once more
				if err := s.Write(context.Background(), whole); err != nil {
					t.Error(err)
				}
			}()
			report, err := verify.Run(t.Context(), s, verify.Options{})
			synctest.Wait()
			if err != nil || report.Holds() != alive {
				t.Errorf("alive %v: %v %s", alive, err, text(report))
			}
			<-time.After(5 * time.Second)
		})
	}
}

// TestListedPlaces counts all, and lists some.
func TestListedPlaces(t *testing.T) {
	batch := history()
	for i, b := range blocksOf(batch, depth) {
		if i%2 == 0 {
			b.Events++
		}
	}
	report := run(t, store(t, batch), verify.Options{Listed: 3})
	f := report.Markets[0].Streams[0].Problems[0]
	if f.Code != verify.BlockDiffers || f.Count != 8 || len(f.Listed) != 3 || report.Problems != 8 {
		t.Error(text(report))
	}
}

// TestNotes finds what is worth knowing and not wrong.
func TestNotes(t *testing.T) {
	tests := []struct {
		name   string
		inject func(*market.Batch) place
	}{
		{"an open entry behind the last event", func(b *market.Batch) place {
			b.Gaps = append(b.Gaps, market.Gap{Series: trades, Cause: market.CauseStall, FirstID: 557, LastID: 556, Start: epoch})
			return place{verify.EntryOpen, 557, 556}
		}},
		{"an entry of ids that are held", func(b *market.Batch) place {
			b.Gaps = append(b.Gaps, market.Gap{
				Series: trades, Cause: market.CauseDisconnect, FirstID: 510, LastID: 512, Start: epoch.Add(2 * time.Second),
				End: epoch.Add(3 * time.Second), RepairedAt: 1, Repair: market.RepairResumed,
			})
			return place{verify.EntryHeld, 510, 512}
		}},
		{"a block of a recorder whose span was never written", func(b *market.Batch) place {
			blocks := blocksOf(b, depth)
			blocks[2].SpanID = blocks[1].FirstID
			return place{verify.SpanIDDiffers, blocks[2].FirstID, blocks[2].LastID}
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			batch := history()
			want := test.inject(batch)
			report := run(t, store(t, batch), verify.Options{})
			var got []place
			for _, s := range report.Markets[0].Streams {
				got = append(got, places(s.Notes)...)
			}
			if !slices.Equal(got, []place{want}) || !report.Holds() {
				t.Errorf("found %v, want %v\n%s", got, want, text(report))
			}
		})
	}
}

// TestEveryCodeIsExplained keeps the words for operators complete.
func TestEveryCodeIsExplained(t *testing.T) {
	for _, code := range []verify.Code{
		verify.Checksum, verify.BlockDiffers, verify.HoleInBlock, verify.UnexplainedHole, verify.DuplicateDiffers,
		verify.SpanWithoutBlocks, verify.SpanDiffers, verify.BlockWithoutSpan, verify.KeyframeDiffers,
		verify.KeyframeMisplaced, verify.KeyframeProof, verify.CrossedBook, verify.TimeStepsBack, verify.LedgerEntry,
		verify.BackfillIncomplete, verify.EntryFar, verify.SpanIDWrong, verify.EntryHeld, verify.EntryOpen,
		verify.SpanIDDiffers, verify.KeyframeUnread,
	} {
		if code.Meaning() == "" || code.Action() == "" {
			t.Errorf("%s has no explanation", code)
		}
	}
}

// TestBookBesideOneGivenUp has two recorders that begin with the same snapshot, of which one keeps a level beyond it, and
// so many others that its book is followed no longer when its next keyframe comes.
func TestBookBesideOneGivenUp(t *testing.T) {
	batch := &market.Batch{}
	w := newWorld(func(_ string, low, _ int) int { return low })
	long, short := newRecorder(batch), newRecorder(batch)
	next := func(recorders ...*recorder) {
		u := w.update()
		for _, r := range recorders {
			r.update(&u)
			r.cut(market.Depth)
		}
		w.now++
	}
	long.snapshot(w.book, 2, w.now)
	w.now++
	next(long)
	long.rebase(w.book, 1, w.now)
	w.now++
	short.snapshot(w.book, 1, w.now)
	w.now++
	for range 5 {
		next(long, short)
		short.keyframe()
		newRecorder(batch).snapshot(w.book, 3, w.now)
		w.now++
	}
	next(long, short)
	long.keyframe()
	if report := run(t, store(t, batch), verify.Options{}); report.Problems != 0 {
		t.Fatalf("%s", text(report))
	}
}
