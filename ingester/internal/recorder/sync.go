package recorder

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"

	"tapedeck/shared/market"
)

const (
	// Snapshots are asked for at once, and then ever more slowly, until a book has lived for calmTime. A book that is
	// lost over and over must not spend the request weight of all others.
	minSnapshotDelay = 250 * time.Millisecond
	maxSnapshotDelay = 30 * time.Second
	calmTime         = time.Minute
	// unlistedDelay is how long a market that the exchange does not know is left alone: a few of them, misspelt or
	// gone, would spend the request weight of all others.
	unlistedDelay = 10 * time.Minute
)

// sync wants a snapshot.
func (d *depth) sync(now time.Time) {
	d.syncing, d.quietAt = true, time.Time{}
	d.ask(now)
}

// ask plans to fetch a snapshot, unless that is under way.
func (d *depth) ask(now time.Time) {
	if d.fetching || !d.askAt.IsZero() {
		return
	}
	delay := time.Duration(0)
	if d.asks > 0 {
		delay = min(minSnapshotDelay<<min(d.asks-1, 16), maxSnapshotDelay)
		delay = delay/2 + rand.N(delay/2)
	}
	d.asks++
	if delay == 0 {
		d.launch(now)
		return
	}
	d.askAt = now.Add(delay)
}

// launch starts a fetch; receive gets its result.
func (d *depth) launch(now time.Time) {
	d.askAt, d.fetching, d.fetchedAt = time.Time{}, true, now
	d.fetch()
}

// need returns the least id that a snapshot must have to be of use: not before what was recorded, nor before the first
// update that waits. It must not be before what made the last book useless either, which is the floor.
func (d *depth) need() int64 {
	need := d.lastID
	if !d.pending.empty() {
		need = max(need, d.pending.updates[0].PrevID)
	}
	return need
}

// outdated reports whether a snapshot with that id is of no use. A floor that snapshots time and again do not reach was
// no true id of the exchange, and is given up.
func (d *depth) outdated(id int64, now time.Time) bool {
	need := d.need()
	switch {
	case id < need:
		d.noteRegress(id, d.lastID, now)
	case id >= d.floor:
		return false
	case d.below.again(now):
		d.log.Warn("the exchange is not as far as it said", "snapshot_id", id, "floor_id", d.floor)
		if d.floor = 0; d.hole != nil && !d.resumed { // nothing shows where it ends
			d.hole.LastID = d.hole.FirstID - 1
		}
		return false
	}
	d.log.Warn("the snapshot is older than the stream", "snapshot_id", id, "needed_id", max(need, d.floor))
	return true
}

// dubious reports whether a snapshot is hard to believe, and waits for others like it: its id is far beyond all that
// is known, or a side is empty. Replies of an exchange in trouble look like that.
func (d *depth) dubious(s *market.Snapshot, now time.Time) bool {
	known := max(d.need(), d.floor)
	if known > 0 && s.LastID-known > maxJump && !near(s.LastID, d.far) {
		d.far = s.LastID
		d.log.Warn("the snapshot's id is hard to believe", "snapshot_id", s.LastID, "known_id", known)
		return true
	}
	d.far = 0
	if len(s.Bids) > 0 && len(s.Asks) > 0 {
		return false
	}
	believed := d.hollow.again(now)
	if !d.knowsLevels(len(s.Bids) == 0, len(s.Asks) == 0) {
		believed = d.hollow.answers > 1
	}
	if !believed {
		d.log.Warn("the snapshot has an empty side", "snapshot_id", s.LastID, "bids", len(s.Bids), "asks", len(s.Asks))
	}
	return !believed
}

// knowsLevels reports whether the last book, or an update that waits, has levels on one of the sides asked for.
func (d *depth) knowsLevels(bids, asks bool) bool {
	has := func(levels []market.Level) bool {
		return slices.ContainsFunc(levels, func(l market.Level) bool { return l.Quantity > 0 })
	}
	n, m := d.book.Len()
	if bids && n > 0 || asks && m > 0 {
		return true
	}
	return slices.ContainsFunc(d.pending.updates, func(u pendingUpdate) bool {
		return bids && has(u.Bids) || asks && has(u.Asks)
	})
}

// receive takes the result of a fetch.
func (d *depth) receive(ctx context.Context, s *market.Snapshot, err error, now time.Time) {
	d.fetching = false
	if err == nil {
		d.judge(s.LastID, d.fetchedAt, now)
	}
	switch {
	case market.KindOf(err) == market.KindNotFound:
		d.log.Error("the exchange does not know the market", "error", err)
		d.askAt = now.Add(unlistedDelay)
	case err != nil:
		d.log.Warn("no snapshot", "error", err)
		d.askAgain(now)
	case !d.syncing:
	case d.outdated(s.LastID, now) || d.dubious(s, now):
		d.ask(now)
	default:
		d.build(ctx, s, now)
	}
}

// askAgain asks for another snapshot if one is still wanted.
func (d *depth) askAgain(now time.Time) {
	if d.syncing {
		d.ask(now)
	}
}

// build makes the book from a snapshot and brings in what waited:
//
//  1. the snapshot must not be older than the first update that waited (receive saw to it);
//  2. updates at or below the snapshot's id are stale: recorded where they end a hole, and else dropped;
//  3. the first one above it must continue or overlap it, and each further one the one before.
func (d *depth) build(ctx context.Context, s *market.Snapshot, now time.Time) {
	d.book.Reset(s.LastID, s.Bids, s.Asks)
	if d.book.Crossed() {
		d.log.Warn("the snapshot is crossed", "snapshot_id", s.LastID)
		d.askAgain(now)
		return
	}
	d.hasBook, d.syncing, d.syncedAt, d.floor, d.judgeAt = true, false, now, 0, time.Time{}
	d.calm(s.LastID, s.EventTime)
	d.proof = d.proofOf(s)
	if d.hole == nil && !d.followTail(s) {
		d.lastID = s.LastID
	}
	// The snapshot is older than the first update beyond it, whatever the clock said when it was asked for: a replica of
	// the exchange's may be late. What is hard to believe does not count.
	if next := d.pending.beyond(s.LastID); next != nil && next.LastID-s.LastID <= maxJump {
		s.EventTime = min(s.EventTime, next.EventTime)
	}
	d.lastEvent, d.lastRecv = s.EventTime, s.RecvTime
	d.start = d.keyframe()
	d.flushAt = now.Add(d.cfg.FlushInterval)
	if d.connected && !d.cfg.Wait {
		d.silence.start(now)
	}
	d.planAudit(now)
	d.release(ctx, now)
}

// proofOf returns what keyframes say of a book that is built from the snapshot.
func (d *depth) proofOf(s *market.Snapshot) market.Keyframe {
	return market.Keyframe{
		Market: d.writer.series.Market, SnapshotID: s.LastID,
		VerifiedBid: worst(s.Bids), VerifiedAsk: worst(s.Asks),
	}
}

// worst returns the price of the last level, 0 when there is none.
func worst(levels []market.Level) market.Decimal {
	if len(levels) == 0 {
		return 0
	}
	return levels[len(levels)-1].Price
}

// followTail makes the first book continue what an earlier process stored, if that is known yet and behind the
// snapshot: nothing but what is missing between is missing. It returns false when the book begins with the snapshot.
func (d *depth) followTail(s *market.Snapshot) bool {
	tail := d.restart.tail
	if d.restart.begun || tail == nil {
		return false
	}
	d.restart.begin(s.LastID, s.EventTime, s.RecvTime)
	d.restart.done = true
	if tail.LastID > s.LastID {
		return false
	}
	d.lastID = tail.LastID
	d.hole = &market.Gap{
		Series: d.writer.series, Cause: market.CauseRestart, FirstID: tail.LastID + 1, LastID: tail.LastID,
		Start: tail.End, DetectedAt: s.RecvTime,
	}
	d.resumed = false
	return true
}

// resume ends the hole before u, the first update behind it. It may turn out to be none: what was missing came late,
// or, after a restart, nothing happened in between.
func (d *depth) resume(u *market.DepthUpdate) {
	d.resumed, d.before, d.behind = true, max(d.hole.Start, d.stepEvent), moment{u.EventTime, u.RecvTime}
	last := max(u.PrevID, d.hole.FirstID-1)
	if d.dropped != nil {
		d.dropped.LastID = max(last, d.dropped.FirstID-1)
		return
	}
	d.hole.LastID = last
}

// settleStart records the snapshot with which the book began, and ends the hole before it. The snapshot's own time is
// the exchange's clock just before it, or the time of the last update it is known to hold; but it is not later than that
// of the first update applied to it, where that is known (see dateStart).
func (d *depth) settleStart(ctx context.Context) {
	k := *d.start
	d.start = nil
	var ended []market.Gap
	if d.hole != nil {
		ended = d.endHole(&k)
	}
	d.writer.start(ctx, k, ended...)
	d.restart.begin(k.UpdateID, k.EventTime, k.RecvTime)
	d.settleRestart(ctx)
}

// endHole returns the ledger entries of the hole that ends with the snapshot k, and of a step back of the exchange's clock
// across it.
func (d *depth) endHole(k *market.Keyframe) (ended []market.Gap) {
	if !d.resumed && d.dropped != nil && k.UpdateID < d.dropped.FirstID {
		d.dropped = nil // what was dropped is beyond the snapshot, of a hole that is told of next
	}
	holes := []*market.Gap{d.hole}
	if d.dropped != nil {
		holes = append(holes, d.dropped)
	}
	last := holes[len(holes)-1]
	if !d.resumed { // no update shows where it ends, so that it ends with the snapshot: what is beyond may still come
		last.LastID = k.UpdateID
		d.lastID, d.before, d.behind = k.UpdateID, max(d.hole.Start, d.stepEvent), moment{k.EventTime, k.RecvTime}
	}
	for _, hole := range holes {
		hole.End, hole.RecvEnd = k.EventTime, k.RecvTime
		hole.RepairedAt, hole.Repair = k.RecvTime, market.RepairSnapshot
		if hole.Cause == market.CauseRestart {
			if hole.LastID < hole.FirstID { // nothing is missing
				continue
			}
			d.meter.gap(market.Depth, hole.Cause)
		}
		ended = append(ended, *hole)
	}
	if stepsBack(d.before, d.behind.event) {
		ended = append(ended, *d.stepBack(last.LastID+1, moment{d.before, d.hole.RecvStart}, d.behind))
		if !d.resumed {
			d.stepEvent = k.EventTime // which is told
		}
	}
	d.hole, d.dropped = nil, nil
	return ended
}

// settleRestart enters what was missed since an earlier process into the ledger, where that became known only after
// recording had begun.
func (d *depth) settleRestart(ctx context.Context) {
	hole, step := d.restart.settle(d.writer.series, market.RepairSnapshot)
	for _, entry := range []*market.Gap{hole, step} {
		if entry != nil {
			d.meter.gap(market.Depth, entry.Cause)
			d.writer.gap(ctx, *entry)
		}
	}
}
