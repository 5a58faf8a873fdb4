package recorder

import (
	"cmp"
	"context"
	"math/rand/v2"
	"slices"
	"time"

	"tapedeck/shared/market"
	"tapedeck/shared/tape"
)

const (
	// maxHoles bounds the holes of a market that wait to be fetched.
	maxHoles = 64
	// maxSteps bounds the steps back of the exchange's clock that are remembered, so that none is told of twice.
	maxSteps = 64

	// A page that does not come is asked for again, ever more slowly, so often in a row: for a quarter of an hour. While
	// the exchange wants no requests at all, one waits for that to end.
	maxBackfillTries = 20
	minBackfillDelay = time.Second
	maxBackfillDelay = time.Minute
)

// How the backfill of a hole ended.
const (
	backfillComplete = "complete"
	backfillPartial  = "partial"  // the exchange does not have all, or does not tell all exactly; or the hole was too large
	backfillFailed   = "failed"   // no answer came for long
	backfillRefused  = "refused"  // too many holes waited
	backfillNeedless = "needless" // the stream brought what was missing
)

// backfill fetches the trades of holes again, one hole after the other, by pages; those that are taken up later let others
// go before. What comes is recorded as blocks of its own, beside what the stream brings. The ledger tells of a hole before
// its backfill begins; that it is repaired it tells only when all was handed over. A hole whose backfill ends otherwise
// stays in the ledger as one that was not repaired; which of its trades are held after all, the spans tell. It is taken up
// from there, by this process or the next one (see unrepaired).
type backfill struct {
	limit   int64       // trades of a hole; 0 = fetch nothing
	request func(*hole) // starts to fetch a page of a hole; fetchedPage gets it
	queue   []*hole     // the first is at work
	under   bool        // a page is under way
	retryAt time.Time   // when to ask for a page again; zero when that is not planned
	begun   int         // holes that were ever in the queue
	tried   []attempt   // the last ones that are not to be taken up for a while
	left    *hole       // of the open entry of a mute stream, when it was given up; the entry may grow

	builder tape.TradeBuilder
	first   market.Trade // in builder
	last    market.Trade
}

// hole is a stretch of trades that are fetched again.
type hole struct {
	entry  market.Gap // as it stands in the ledger
	next   int64      // the first that was not handed over
	last   int64
	whole  bool        // all of the entry before next was handed over
	event  market.Time // of the last trade held before since
	since  int64       // from which id on none is known to be held before next, or that of which event is the one before
	behind market.Time // of the trade just behind it, if the exchange showed it
	tries  int         // in a row without a trade

	takenUp bool          // it was left before
	vague   bool          // event is not exact
	aloof   bool          // the entry ends with another trade than the one just behind it, as far as is known
	held    []market.Span // what is held of the rest, by id
}

// end returns when the trade just behind the hole was, 0 when that is not known.
func (h *hole) end() market.Time {
	if h.behind == 0 && !h.aloof {
		return h.entry.End
	}
	return h.behind
}

// from returns from which id on to ask. The trade before, where it is held, shows when exactly that was.
func (h *hole) from() int64 {
	if h.vague && h.since == h.next && h.next > 0 {
		return h.next - 1
	}
	return h.next
}

// skip goes on behind what is held.
func (h *hole) skip() {
	for len(h.held) > 0 && h.held[0].FirstID <= h.next {
		s := &h.held[0]
		h.held = h.held[1:]
		if s.LastID < h.next {
			continue
		}
		h.next = s.LastID + 1
		if s.LastID <= h.last {
			h.event, h.since, h.vague = s.End, h.next, true
		}
	}
}

// holds reports whether a trade behind next is held.
func (h *hole) holds(id int64) bool {
	return slices.ContainsFunc(h.held, func(s market.Span) bool { return s.FirstID <= id && id <= s.LastID })
}

// page is the answer to a request.
type page struct {
	hole   *hole
	trades []market.Trade
	err    error
}

// refetch has the trades first to last fetched again, of the hole of which the ledger holds the entry. Of a hole that
// grows, it is called again. It returns false when they are not fetched: then nobody else tells of a step of the
// exchange's clock in the hole.
func (t *trades) refetch(entry *market.Gap, first, last int64) bool {
	if first > last {
		return false
	}
	if i := t.backfill.find(entry.FirstID); i >= 0 {
		t.backfill.queue[i].entry, t.backfill.queue[i].last = *entry, last
		return true
	}
	h := &hole{entry: *entry, next: first, last: last, whole: first == entry.FirstID, event: entry.Start, since: first}
	if !h.whole { // it grew while it was not fetched
		h.event = t.lastEvent
	}
	if l := t.backfill.left; l != nil && l.entry.FirstID == entry.FirstID && l.next > first { // nothing twice
		h.next, h.whole, h.event, h.since = l.next, false, l.event, l.since
	}
	return t.enqueue(h)
}

// enqueue has the trades of a hole fetched again, from next on, or as many of them as are wanted. It returns false when
// they are not.
func (t *trades) enqueue(h *hole) bool {
	b := &t.backfill
	if b.limit == 0 {
		return false
	}
	if len(b.queue) >= maxHoles {
		t.log.Warn("trades are not fetched again: too many holes wait", "first_missing_id", h.next, "last_missing_id", h.last)
		t.meter.backfill(backfillRefused)
		return false
	}
	if newest := h.last - b.limit + 1; h.next < newest {
		h.next, h.whole = newest, false
		h.skip()
	}
	if h.next > h.last {
		return false
	}
	b.queue = append(b.queue, h)
	b.begun++
	b.yield()
	if b.retryAt.IsZero() { // else the first hole waits for its turn, and this one for that
		b.launch()
	}
	return true
}

// yield lets holes that are taken up wait for others, but for a page that is under way: where trades are not kept for long,
// or a stream is mute, those are more urgent.
func (b *backfill) yield() {
	if b.under || len(b.queue) == 0 {
		return
	}
	first := b.queue[0]
	slices.SortStableFunc(b.queue, func(a, b *hole) int {
		switch {
		case a.takenUp == b.takenUp:
			return 0
		case a.takenUp:
			return 1
		}
		return -1
	})
	if b.queue[0] != first {
		b.retryAt = time.Time{}
	}
}

// attempt is an entry that was fetched as far as it can be. When it is still not repaired, the exchange does not have all
// of it, or the store refused what came.
type attempt struct {
	first, last int64
	at          time.Time
}

// settle notes that an entry is not to be taken up again for a while.
func (b *backfill) settle(entry *market.Gap, now time.Time) {
	const most = 1000
	b.tried = append(b.tried[max(0, len(b.tried)-most+1):], attempt{entry.FirstID, entry.LastID, now})
}

// find returns the place of the hole whose entry begins with id, -1 when there is none.
func (b *backfill) find(id int64) int {
	return slices.IndexFunc(b.queue, func(h *hole) bool { return h.entry.FirstID == id })
}

// launch asks for the next page, unless that is done or planned.
func (b *backfill) launch() {
	if b.under || len(b.queue) == 0 {
		return
	}
	b.yield()
	b.under, b.retryAt = true, time.Time{}
	b.request(b.queue[0])
}

// remove forgets a hole and goes on with the next.
func (b *backfill) remove(i int) {
	b.queue = slices.Delete(b.queue, i, i+1)
	if i == 0 {
		b.retryAt = time.Time{}
		b.launch()
	}
}

// cancelBackfill ends the backfill of a hole of which all is here, if there is one.
func (t *trades) cancelBackfill(id int64) {
	i := t.backfill.find(id)
	if i < 0 {
		return
	}
	result := backfillNeedless
	if h := t.backfill.queue[i]; h.next > h.last {
		result = backfillComplete
	}
	t.meter.backfill(result)
	t.backfill.remove(i)
}

// fetchedPage takes the answer to a request. What it has of a mute stream may reach the trades that are held.
func (t *trades) fetchedPage(ctx context.Context, p *page, now time.Time) {
	t.takePage(ctx, p, now)
	t.release(ctx, now)
}

// takePage records what the answer to a request has, and goes on with the hole, or the next.
func (t *trades) takePage(ctx context.Context, p *page, now time.Time) {
	b := &t.backfill
	b.under = false
	if len(b.queue) == 0 || b.queue[0] != p.hole {
		b.launch() // the hole is gone meanwhile
		return
	}
	h := p.hole
	switch kind := market.KindOf(p.err); {
	case kind == market.KindNotFound || kind == market.KindInvalid:
		t.log.Warn("trades cannot be fetched again", "error", p.err)
		h.whole = false
		t.endBackfill(ctx, backfillPartial, now)
		return
	case p.err != nil:
		t.log.Warn("trades were not fetched again yet", "error", p.err)
	}
	before := h.next
	taken := t.recordPage(ctx, h, p.trades)
	if len(b.queue) == 0 || b.queue[0] != h {
		return // it ended the hole of a mute stream
	}
	switch {
	case h.next > h.last:
		t.endBackfill(ctx, "", now)
	case taken && h.next > before:
		h.tries = 0
		b.launch()
	default:
		t.retryBackfill(ctx, now)
	}
}

// retryBackfill plans to ask for a page again, or gives the hole up.
func (t *trades) retryBackfill(ctx context.Context, now time.Time) {
	b := &t.backfill
	h := b.queue[0]
	if h.tries++; h.tries >= maxBackfillTries {
		h.whole = false
		t.endBackfill(ctx, backfillFailed, now)
		return
	}
	delay := min(minBackfillDelay<<min(h.tries-1, 16), maxBackfillDelay)
	b.retryAt = now.Add(delay/2 + rand.N(delay/2))
	if b.yield(); b.retryAt.IsZero() {
		b.launch()
	}
}

// recordPage records what a page has of a hole. It returns false when the sink refused some of it, which is to be
// fetched again then.
func (t *trades) recordPage(ctx context.Context, h *hole, trades []market.Trade) bool {
	b := &t.backfill
	for i := range trades {
		tr := &trades[i]
		if b.builder.Len() > 0 && tr.ID <= b.last.ID {
			continue
		}
		if tr.ID > h.last {
			if tr.ID == h.last+1 {
				h.behind = tr.EventTime
			}
			break
		}
		if tr.ID < h.next || h.holds(tr.ID) {
			if !t.passHeld(ctx, h, tr) {
				return false
			}
			continue
		}
		if n := b.builder.Len(); n > 0 && (n >= market.MaxBlockEvents || tr.ID != b.last.ID+1 ||
			tr.EventTime.Truncate(market.BlockWindow) != b.last.EventTime.Truncate(market.BlockWindow)) && !t.putPage(ctx, h) {
			return false
		}
		if b.builder.Len() == 0 { // the clock steps back between blocks only: each is of one second
			b.first = *tr
		}
		b.builder.Append(tr)
		b.last = *tr
	}
	if b.builder.Len() > 0 && !t.putPage(ctx, h) {
		return false
	}
	if n := len(trades); n > 0 && trades[n-1].ID >= h.next && h.next <= h.last { // what is before it was left out
		h.next, h.whole = min(trades[n-1].ID, h.last)+1, false
		h.skip()
	}
	return true
}

// passHeld goes past a trade of a page that is held already: it ends a block, and tells the time exactly. It returns false
// when the sink refused the block.
func (t *trades) passHeld(ctx context.Context, h *hole, tr *market.Trade) bool {
	if b := &t.backfill; b.builder.Len() > 0 {
		if !t.putPage(ctx, h) {
			return false
		}
		if b.last.ID == tr.ID-1 {
			h.event, h.since = b.last.EventTime, tr.ID
			t.stepBack(ctx, t.stepBefore(h, tr.ID, tr.EventTime, tr.RecvTime))
		}
	}
	if tr.ID+1 >= h.since {
		h.event, h.since, h.vague = tr.EventTime, tr.ID+1, false
	}
	return true
}

// stepBefore returns the ledger entry of a step back of the exchange's clock before the trade with an id, in a hole or
// just behind it; nil when there was none, or it was told, wherever behind the last trade held.
func (t *trades) stepBefore(h *hole, id int64, event, detected market.Time) *market.Gap {
	told := func(at int64) bool { return h.since <= at && at <= id }
	if !stepsBack(h.event, event) || slices.ContainsFunc(t.steps, told) {
		return nil
	}
	step := clockStep(t.writer.series, id, moment{h.event, h.entry.RecvStart}, moment{event, cmp.Or(h.entry.RecvEnd, detected)})
	step.DetectedAt, step.RepairedAt = detected, detected
	return step
}

// putPage hands a block over, with what its first trade tells of the clock. What the sink refuses is forgotten.
func (t *trades) putPage(ctx context.Context, h *hole) bool {
	b := &t.backfill
	last := b.last
	block := b.builder.Finish()
	block.Series = t.writer.series
	if block.LastID > t.lastID {
		t.cut(ctx) // blocks that continue each other go in their order
	}
	batch := market.Batch{Blocks: []market.Block{block}}
	step := t.stepBefore(h, b.first.ID, b.first.EventTime, b.first.RecvTime)
	if step != nil {
		batch.Gaps = []market.Gap{*step}
	}
	if !t.writer.put(ctx, &batch, last.RecvTime) {
		return false
	}
	if step != nil {
		t.noteStep(step)
	}
	t.meter.backfilled(block.Events)
	h.whole = h.whole && block.FirstID == h.next
	h.next, h.since, h.event, h.vague = block.LastID+1, block.LastID+1, last.EventTime, false
	h.skip()
	if t.begun && block.PrevID <= t.lastID && block.LastID > t.lastID { // the stream is mute: this is what it should have brought
		t.advance(ctx, &last)
	}
	return true
}

// endBackfill ends the backfill of the first hole, with a result, or by what was recorded.
func (t *trades) endBackfill(ctx context.Context, result string, now time.Time) {
	b := &t.backfill
	h := b.queue[0]
	t.settleClock(ctx, h, now)
	complete := h.whole && h.last >= h.entry.LastID && h.next > h.last
	switch {
	case complete:
		result = backfillComplete
		t.closeHole(ctx, h, now)
	case result == "" && t.watch.stall != nil && t.watch.stall.FirstID == h.entry.FirstID:
		t.leaveStall(ctx, h, now)
	}
	result = cmp.Or(result, backfillPartial)
	if stall := t.watch.stall; stall != nil && stall.FirstID == h.entry.FirstID {
		b.left = h
	}
	if result != backfillFailed {
		b.settle(&h.entry, now)
	}
	t.meter.backfill(result)
	t.log.Info("backfill ended", "result", result, "first_missing_id", h.entry.FirstID, "last_missing_id", h.entry.LastID, "next_id", h.next)
	b.remove(0)
}

// settleClock tells of a step back of the exchange's clock between the last trade of a hole that was fetched again and
// the first one behind it, wherever in between it was, unless one there was told.
func (t *trades) settleClock(ctx context.Context, h *hole, now time.Time) {
	if end := h.end(); end != 0 {
		t.stepBack(ctx, t.stepBefore(h, h.last+1, end, market.TimeOf(now)))
	}
}

// leaveBackfills tells of the exchange's clock in the holes that are left to the next process, if there is one.
func (t *trades) leaveBackfills(ctx context.Context, now time.Time) {
	for _, h := range t.backfill.queue {
		t.settleClock(ctx, h, now)
	}
}

// closeHole enters into the ledger that all of a hole is held.
func (t *trades) closeHole(ctx context.Context, h *hole, now time.Time) {
	h.entry.RepairedAt, h.entry.Repair = market.TimeOf(now), market.RepairBackfilled
	if h.entry.End == 0 { // it was open when the process that found it ended
		h.entry.End, h.entry.RecvEnd = cmp.Or(max(h.entry.Start, h.event), market.TimeOf(now)), market.TimeOf(now)
	}
	t.writer.gap(ctx, h.entry)
}

// leaveStall ends the entry of a mute stream, of whose hole no more is to be had.
func (t *trades) leaveStall(ctx context.Context, h *hole, now time.Time) {
	t.cut(ctx)
	t.watch.stall = nil
	if last := t.backfill.last; last.ID > t.lastID {
		t.lastEvent, t.lastRecv, t.stepEvent = last.EventTime, last.RecvTime, last.EventTime
	}
	t.lastID = max(t.lastID, h.last)
	h.entry.End, h.entry.RecvEnd = cmp.Or(max(t.lastEvent, h.entry.Start), market.TimeOf(now)), market.TimeOf(now)
	h.entry.RepairedAt, h.entry.Repair = market.TimeOf(now), market.RepairResumed
	t.writer.gap(ctx, h.entry)
}
