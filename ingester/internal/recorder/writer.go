package recorder

import (
	"cmp"
	"context"
	"slices"

	"tapedeck/shared/market"
)

// maxHeldGaps bounds the ledger entries that wait for room in the sink. Beyond, the last one of their kind is stretched.
const maxHeldGaps = 64

// writer hands the records of one series to the sink. Where the sink refuses, it keeps the account of it: a block that
// is refused becomes a ledger entry; entries and the latest keyframe that are refused go with a later batch.
type writer struct {
	sink   Sink
	series market.Series
	meter  *meter

	end      market.Time  // of the last block handed over: its greatest event time
	refusal  int64        // greatest id of a block that was refused
	overflow *market.Gap  // the blocks refused since the last accepted one; nil when none was
	held     market.Batch // keyframe and ledger entries that were refused

	stretched bool // whether one of those stands for several
}

// block hands over a block fresh from its builder, with the keyframe of the book after it if there is one. It returns
// false when the sink refused; the keyframe, if any, is held.
func (w *writer) block(ctx context.Context, b market.Block, keyframe *market.Keyframe, received market.Time) bool {
	b.Series = w.series
	batch := market.Batch{Blocks: []market.Block{b}}
	if keyframe != nil {
		batch.Keyframes = []market.Keyframe{*keyframe}
	}
	if w.overflow != nil { // it ends where this block begins
		hole := *w.overflow
		hole.End, hole.RecvEnd, hole.RepairedAt, hole.Repair = b.Start, received, received, market.RepairResumed
		batch.Gaps = []market.Gap{hole}
	}
	if w.put(ctx, &batch, received) {
		w.overflow, w.end = nil, b.End
		return true
	}
	w.refused(&b, received)
	if keyframe != nil {
		w.held.Keyframes = batch.Keyframes
	}
	return false
}

// save hands over what a block has so far, fresh from its builder, in which the block goes on to grow. It returns false when
// the block had better end. While the sink refuses nothing is saved, as what explains the block is to come before it; by
// the time that it ends there may be room.
func (w *writer) save(b market.Block, received market.Time) bool {
	if w.overflow != nil || w.held.Len() > 0 {
		return true
	}
	b.Series = w.series
	return w.sink.Save(b, received)
}

// refused enters a block that the sink did not take into the ledger.
func (w *writer) refused(b *market.Block, received market.Time) {
	w.refusal = max(w.refusal, b.LastID)
	if w.overflow != nil {
		w.overflow.LastID = b.LastID
		return
	}
	w.overflow = &market.Gap{
		Series: w.series, Cause: market.CauseOverflow, FirstID: b.PrevID + 1, LastID: b.LastID,
		Start: cmp.Or(w.end, b.Start), RecvStart: received, DetectedAt: received,
	}
	w.meter.gap(w.series.Stream, market.CauseOverflow)
}

// gap hands over a ledger entry.
func (w *writer) gap(ctx context.Context, g market.Gap) {
	if !w.put(ctx, &market.Batch{Gaps: []market.Gap{g}}, 0) {
		w.hold(g)
	}
}

// start hands over the keyframe with which a book begins, and the entries of the holes that it ends, if any.
func (w *writer) start(ctx context.Context, keyframe market.Keyframe, gaps ...market.Gap) {
	batch := market.Batch{Keyframes: []market.Keyframe{keyframe}, Gaps: gaps}
	if w.put(ctx, &batch, 0) {
		return
	}
	w.held.Keyframes = batch.Keyframes
	for _, g := range gaps {
		w.hold(g)
	}
}

// hold keeps a ledger entry for the next batch. A later state of an entry replaces the earlier one, and may name fewer ids,
// but not where it vouches for those only: see market.Gap.Merge. Where there is no room for more, the last entry of its kind
// that has ended is stretched. One that is open, of which a series has few, keeps its key: by that its end will be told.
func (w *writer) hold(g market.Gap) {
	before, last := -1, -1 // of its kind, and ended
	for i := range w.held.Gaps {
		switch held := &w.held.Gaps[i]; {
		case held.Key() == g.Key() && (!w.stretched || held.RepairedAt == 0):
			if g.Repair != market.RepairBackfilled || g.LastID >= held.LastID {
				*held = g
			}
			return
		case held.Key() == g.Key():
			stretch(held, &g)
			return
		case held.Key().Beside == g.Key().Beside && held.RepairedAt != 0:
			before, last = last, i
		}
	}
	switch full, open := len(w.held.Gaps) >= maxHeldGaps, g.RepairedAt == 0; {
	case full && !open && last >= 0:
		w.stretched = true
		stretch(&w.held.Gaps[last], &g)
		return
	case full && open && before >= 0:
		w.stretched = true
		stretch(&w.held.Gaps[before], &w.held.Gaps[last])
		w.held.Gaps = slices.Delete(w.held.Gaps, last, last+1)
	}
	w.held.Gaps = append(w.held.Gaps, g)
}

// stretch makes an entry of the ledger that has ended cover another one that has, too. That all ids are held only an
// entry that names them all can say.
func stretch(held, later *market.Gap) {
	first, last := min(held.FirstID, later.FirstID), max(held.LastID, later.LastID)
	switch {
	case later.FirstID == first && later.LastID == last:
		*held = *later
		return
	case later.Repair == market.RepairBackfilled: // what is held says less, which is true as well
		return
	}
	held.FirstID, held.LastID = first, last
	held.Start, held.End = earliestKnown(held.Start, held.End, later.Start, later.End),
		max(held.Start, held.End, later.Start, later.End)
	if held.Cause == market.CauseClock { // it goes from the later time to the earlier one
		held.Start, held.End = held.End, held.Start
	}
	held.RecvStart, held.RecvEnd = earliestKnown(held.RecvStart, later.RecvStart), max(held.RecvEnd, later.RecvEnd)
	held.DetectedAt = earliestKnown(held.DetectedAt, later.DetectedAt)
	held.RepairedAt, held.Repair = max(held.RepairedAt, later.RepairedAt), later.Repair
}

// earliestKnown returns the least of the times that are known, which are not 0.
func earliestKnown(times ...market.Time) market.Time {
	if times = slices.DeleteFunc(times, func(at market.Time) bool { return at == 0 }); len(times) == 0 {
		return 0
	}
	return slices.Min(times)
}

// put hands over a batch and what is held; false when the sink refused both.
func (w *writer) put(ctx context.Context, batch *market.Batch, received market.Time) bool {
	whole := *batch
	if w.held.Len() > 0 {
		whole.Gaps = slices.Concat(w.held.Gaps, batch.Gaps)
		whole.Keyframes = slices.Concat(w.held.Keyframes, batch.Keyframes)
	}
	if !w.sink.Put(ctx, &whole, received) {
		return false
	}
	w.held, w.stretched = market.Batch{}, false
	return true
}

// holds reports whether every block with ids from one on was taken, as far as it was handed over.
func (w *writer) holds(from int64) bool { return w.refusal < from }

// flush hands over what is held, at the end. It returns how many records the sink still refused.
func (w *writer) flush(ctx context.Context) (unwritten int) {
	if w.overflow != nil {
		w.hold(*w.overflow)
	}
	if w.held.Len() > 0 {
		w.put(ctx, &market.Batch{}, 0)
	}
	return w.held.Len()
}
