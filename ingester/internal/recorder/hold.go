package recorder

import (
	"context"
	"time"

	"tapedeck/shared/book"
	"tapedeck/shared/market"
)

const (
	// holdTime is how long an update waits for those before it: frames may come late, out of order, or over the other
	// connection only. Updates go out every 100 ms.
	holdTime = 250 * time.Millisecond

	// An update is taken for nonsense when the exchange says maxDenied times that it is not as far yet, and
	// maxDenialTime has passed or the stream goes on below it.
	maxDenied     = 3
	maxDenialTime = time.Minute
	judgeInterval = time.Second
)

// holdDeadline returns when to wait no longer for what is before the updates that do not follow the book. Those that do
// go on being applied meanwhile.
func (d *depth) holdDeadline() time.Time {
	switch {
	case !d.hasBook || d.pending.empty():
		return time.Time{}
	case !d.judgeAt.IsZero():
		return d.judgeAt
	default:
		return d.pending.updates[0].at.Add(holdTime)
	}
}

// release brings in what follows the book by now.
func (d *depth) release(ctx context.Context, now time.Time) {
	after := d.doubt // of what comes after all that waits
	for !d.pending.empty() && d.hasBook {
		verdict := d.follow(ctx, &d.pending.updates[0].DepthUpdate, now)
		if verdict == book.Gap {
			break
		}
		if verdict == book.Stale {
			d.pending.bequeath(0)
		}
		d.pending.pop()
		d.judgeAt = time.Time{}
	}
	d.doubt = ""
	if after != "" {
		d.doubtful(after, now)
	}
}

// endHold ends the wait of the first update that waits. Where the stream itself contradicts that update, the exchange is
// asked first.
func (d *depth) endHold(ctx context.Context, now time.Time) {
	if d.pending.outlier(0) && !d.pending.full() {
		d.judgeAt = now.Add(judgeInterval)
		d.probe(now)
		return
	}
	d.pass(ctx, now)
}

// pass makes a hole of what is missing before the first update that waits.
func (d *depth) pass(ctx context.Context, now time.Time) {
	next := &d.pending.updates[0]
	cause := d.links.cause(d.pending.takeDoubt(), now)
	if next.PrevID > d.book.LastID() {
		d.lose(ctx, cause, next.PrevID, next.RecvTime, now)
		d.ask(now)
		return
	}
	d.skip(ctx, cause, next)
	d.release(ctx, now)
}

// skip enters what is missing before next into the ledger. The book is not concerned: its snapshot holds it.
func (d *depth) skip(ctx context.Context, cause market.Cause, next *pendingUpdate) {
	d.cut(ctx)
	hole := d.gap(cause, next.PrevID, next.RecvTime)
	hole.End, hole.RecvEnd = next.EventTime, next.RecvTime
	hole.RepairedAt, hole.Repair = next.RecvTime, market.RepairSnapshot
	d.meter.gap(market.Depth, cause)
	d.log.Warn("depth updates are missing", "cause", cause, "first_missing_id", hole.FirstID, "last_missing_id", hole.LastID)
	d.writer.gap(ctx, *hole)
	d.lastID = next.PrevID
}

// judge takes the exchange's word, asked for at the given time, that its last update id is id. Updates beyond it that
// came before the question are in doubt: their ids are well-formed but may be nonsense. One that is denied often enough
// is dropped; so the updates behind the hole it pretended are not kept from the book for ever. An exchange whose
// snapshots are merely late denies all that waits, of which each update continues the one before: nothing is dropped.
func (d *depth) judge(id int64, asked, now time.Time) {
	for i := 0; i < len(d.pending.updates); {
		p := &d.pending.updates[i]
		if id < p.PrevID && p.at.Before(asked) {
			p.denied++
		}
		if !d.pending.outlier(i) || p.denied < maxDenied || !p.passed && now.Sub(p.at) < maxDenialTime {
			i++
			continue
		}
		d.complain("its ids are far beyond the exchange's", &p.DepthUpdate)
		if d.hole != nil && !d.resumed && d.hole.LastID == p.PrevID { // nothing shows where it ends
			d.hole.LastID = d.hole.FirstID - 1
		}
		d.disbelieve(i, now)
		d.judgeAt = time.Time{}
	}
}

// disbelieve drops the update at i. What stood in doubt before it came is in doubt still.
func (d *depth) disbelieve(i int, now time.Time) {
	left := d.pending.bequeath(i)
	d.pending.remove(i)
	if left != "" {
		d.doubtful(left, now)
	}
}

// trim drops the oldest of the updates that wait for a snapshot, but not the last one, until the rest is within the
// bound. What is dropped behind a hole becomes a hole as well.
func (d *depth) trim() {
	if d.cfg.Wait {
		return
	}
	for d.pending.full() && len(d.pending.updates) > 1 {
		oldest := &d.pending.updates[0]
		counter := d.meter.dropped
		switch {
		case oldest.LastID <= d.lastID: // a copy of what is recorded
			counter = d.meter.stale
		case d.hole == nil: // nothing was recorded before it
		case d.dropped != nil:
			d.dropped.LastID = oldest.LastID
		default:
			d.hole.LastID = max(d.hole.FirstID-1, oldest.PrevID)
			d.dropped = &market.Gap{
				Series: d.writer.series, Cause: market.CauseOverflow, FirstID: d.hole.LastID + 1, LastID: oldest.LastID,
				Start: d.hole.Start, RecvStart: oldest.RecvTime, DetectedAt: oldest.RecvTime,
			}
			d.meter.gap(market.Depth, market.CauseOverflow)
		}
		d.pending.bequeath(0)
		d.pending.pop()
		counter.Inc()
	}
}
