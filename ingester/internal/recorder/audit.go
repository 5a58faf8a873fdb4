package recorder

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"

	"tapedeck/shared/book"
	"tapedeck/shared/market"
)

const (
	// maxAuditBytes bounds the updates that are kept while an audit waits for its snapshot, some minutes' worth.
	maxAuditBytes = 4 << 20
	// auditTimeout bounds the wait for the snapshot of an audit.
	auditTimeout = time.Minute
	// auditCatchUp is how long the book may take to reach that snapshot.
	auditCatchUp = 10 * time.Second
	// maxAudits is how many markets of a process are audited at a time: each holds a copy of its book.
	maxAudits = 2
)

// How an audit ended.
const (
	auditMatch     = "match"
	auditMismatch  = "mismatch"
	auditAbandoned = "abandoned" // the book was lost meanwhile, book and snapshot did not meet, or there was nothing to compare
	auditError     = "error"     // no snapshot came, or none that can be used
)

// audits compares the book with a fresh snapshot at the same update id, time and again. Both what agrees and what does
// not leads to a book on the grounds of that snapshot: its depth is verified anew, and levels beyond are kept.
type audits struct {
	at      time.Time // of the next; zero when none is planned
	waiting bool      // for a turn or a snapshot
	running *audit
	good    anchor    // up to where the book is known to be right
	goodAt  time.Time // of the last audit that matched
}

// anchor is a point of the series, on both clocks.
type anchor struct {
	id          int64
	event, recv market.Time
}

// audit is one comparison: a copy of the book when it began, and what was applied since.
type audit struct {
	id       int64
	bids     []market.Level
	asks     []market.Level
	updates  []market.DepthUpdate
	bytes    int
	snapshot *market.Snapshot // once it is here; the book may still have to reach it
	until    time.Time        // when to wait for that no longer
}

// planAudit plans the first audit of a book. The markets of a process begin at different times.
func (d *depth) planAudit(now time.Time) {
	d.audits.good = anchor{d.book.LastID(), d.lastEvent, d.lastRecv}
	if d.cfg.AuditInterval > 0 && d.audits.at.IsZero() && !d.audits.waiting {
		d.audits.at = now.Add(d.cfg.AuditInterval/10 + rand.N(d.cfg.AuditInterval))
	}
}

// auditDeadline returns when auditDue has something to do; zero for never.
func (d *depth) auditDeadline() time.Time {
	if d.audits.running == nil {
		return d.audits.at
	}
	return earliest(d.audits.at, d.audits.running.until)
}

// auditDue begins an audit, or ends one that takes too long.
func (d *depth) auditDue(now time.Time) {
	if a := d.audits.running; a != nil && due(a.until, now) {
		d.abandonAudit(now)
	}
	if !due(d.audits.at, now) {
		return
	}
	if !d.auditable() {
		d.audits.at = now.Add(min(d.cfg.AuditInterval, auditCatchUp))
		return
	}
	d.audits.at, d.audits.waiting = time.Time{}, true
	d.reaudit()
}

// auditable reports whether the book is one to compare.
func (d *depth) auditable() bool {
	return d.hasBook && d.intact() && d.start == nil && d.state() == market.StateSynced
}

// beginAudit copies the book: it is this market's turn. It returns false when there is nothing to compare now.
func (d *depth) beginAudit(now time.Time) bool {
	if !d.auditable() {
		d.audits.waiting = false
		d.endAudit(auditAbandoned, now)
		return false
	}
	d.audits.running = &audit{
		id: d.book.LastID(), bids: d.book.AppendBids(nil, -1), asks: d.book.AppendAsks(nil, -1),
	}
	return true
}

// auditApplied takes an update that was applied while an audit runs.
func (d *depth) auditApplied(ctx context.Context, u *market.DepthUpdate, now time.Time) {
	a := d.audits.running
	kept := *u
	kept.Bids, kept.Asks = slices.Clone(u.Bids), slices.Clone(u.Asks)
	a.updates = append(a.updates, kept)
	if a.bytes += updateBytes + levelBytes*(len(u.Bids)+len(u.Asks)); a.bytes > maxAuditBytes {
		d.abandonAudit(now)
		return
	}
	if a.snapshot != nil && d.book.LastID() >= a.snapshot.LastID {
		d.compare(ctx, now)
	}
}

// audited takes the snapshot of an audit.
func (d *depth) audited(ctx context.Context, s *market.Snapshot, err error, now time.Time) {
	d.audits.waiting = false
	a := d.audits.running
	switch {
	case a == nil: // abandoned meanwhile, and counted
		d.nextAudit(now, d.cfg.AuditInterval/4)
	case err != nil:
		d.log.Warn("no snapshot for an audit", "error", err)
		d.endAudit(auditError, now)
	case !a.comparable(s):
		d.log.Warn("the snapshot for an audit cannot be used", "snapshot_id", s.LastID, "bids", len(s.Bids), "asks", len(s.Asks))
		d.endAudit(auditError, now)
	case s.LastID < a.id:
		d.endAudit(auditAbandoned, now)
	case s.LastID > d.book.LastID():
		a.snapshot, a.until = s, now.Add(auditCatchUp)
		if d.missedAt.IsZero() && !d.cfg.Wait { // as good as an answer to a probe
			d.noteAhead(s.LastID, now)
		}
	default:
		a.snapshot = s
		d.compare(ctx, now)
	}
}

// comparable reports whether a snapshot is what a book can be built from. An empty side is not, where the book has one:
// replies of an exchange in trouble look like that.
func (a *audit) comparable(s *market.Snapshot) bool {
	if len(s.Bids) == 0 && len(a.bids) > 0 || len(s.Asks) == 0 && len(a.asks) > 0 {
		return false
	}
	return len(s.Bids) == 0 || len(s.Asks) == 0 || s.Bids[0].Price < s.Asks[0].Price
}

// compare compares the book at the snapshot's id with the snapshot, and builds it on that.
func (d *depth) compare(ctx context.Context, now time.Time) {
	a := d.audits.running
	side, next := a.bookAt(a.snapshot.LastID)
	found := compareBooks(side, a.snapshot, &d.proof, next)
	d.meter.matchedLevels.Add(float64(found.matched))
	d.meter.mismatchedLevels.Add(float64(found.mismatched))
	if found == (comparison{}) {
		d.endAudit(auditAbandoned, now)
		return
	}
	rebased, proof := d.rebase(a, side)
	if rebased.Crossed() {
		d.endAudit(auditError, now)
		d.lose(ctx, market.CauseCrossed, d.lastID, d.lastRecv, now)
		d.ask(now)
		return
	}
	d.book, d.proof = rebased, proof
	if found.mismatched == 0 {
		d.endAudit(auditMatch, now)
		d.audits.goodAt, d.due = now, true
	} else {
		d.endAudit(auditMismatch, now)
		d.log.Error("the book was not the exchange's", "snapshot_id", a.snapshot.LastID,
			"wrong_levels", found.mismatched, "right_levels", found.matched)
		d.enterMismatch(ctx, a.snapshot)
	}
	d.audits.good = anchor{d.lastID, d.lastEvent, d.lastRecv}
}

// bookAt returns the book after the last update at or below id, and the update that holds id together with later ones,
// nil where none does.
func (a *audit) bookAt(id int64) (side *book.Book, next *market.DepthUpdate) {
	side = book.New()
	side.Reset(a.id, a.bids, a.asks)
	for i := range a.updates {
		u := &a.updates[i]
		if u.LastID > id {
			if u.PrevID < id {
				next = u
			}
			break
		}
		side.Apply(u)
	}
	return side, next
}

// rebase returns the book that follows from the snapshot and what was applied behind it, with its proof. side is the book
// at the snapshot's id: its levels beyond the snapshot are kept.
func (d *depth) rebase(a *audit, side *book.Book) (*book.Book, market.Keyframe) {
	s := a.snapshot
	bids, asks := slices.Clone(s.Bids), slices.Clone(s.Asks)
	if len(bids) > 0 {
		beyond := side.AppendBids(nil, -1)
		bids = append(bids, beyond[side.CountBids(worst(bids)):]...)
	}
	if len(asks) > 0 {
		beyond := side.AppendAsks(nil, -1)
		asks = append(asks, beyond[side.CountAsks(worst(asks)):]...)
	}
	rebased, proof := book.New(), d.proofOf(s)
	rebased.Reset(s.LastID, bids, asks)
	for i := range a.updates {
		u := &a.updates[i]
		if rebased.Apply(u) != book.Applied {
			continue
		}
		if proof.UpdatesApplied == 0 {
			proof.FirstUpdateID = u.FirstID
		}
		proof.UpdatesApplied++
	}
	return rebased, proof
}

// enterMismatch enters into the ledger that the book was wrong since it was last known to be right, and records the
// right one: no id is missing, but a book of a time between may be false.
func (d *depth) enterMismatch(ctx context.Context, s *market.Snapshot) {
	fresh := d.builder.Len() > 0 // no keyframe can stand at this id yet
	d.cut(ctx)
	k := d.keyframe()
	if !fresh {
		k.EventTime++ // one that is stored is not overwritten, but readers take the later one
	}
	good := d.audits.good
	d.meter.gap(market.Depth, market.CauseAudit)
	d.writer.start(ctx, *k, market.Gap{
		Series: d.writer.series, Cause: market.CauseAudit, FirstID: good.id + 1, LastID: max(d.lastID, good.id),
		Start: good.event, End: k.EventTime, RecvStart: good.recv, RecvEnd: s.RecvTime,
		DetectedAt: s.RecvTime, RepairedAt: s.RecvTime, Repair: market.RepairSnapshot,
	})
}

// abandonAudit ends an audit without a result.
func (d *depth) abandonAudit(now time.Time) {
	if d.audits.running != nil {
		d.endAudit(auditAbandoned, now)
	}
}

// endAudit counts how an audit ended and plans the next.
func (d *depth) endAudit(result string, now time.Time) {
	d.meter.audit(result)
	d.audits.running = nil
	if result == auditMatch || result == auditMismatch {
		d.nextAudit(now, d.cfg.AuditInterval)
		return
	}
	d.nextAudit(now, d.cfg.AuditInterval/4)
}

// nextAudit plans an audit after about the given time, unless a snapshot of the last one is still under way.
func (d *depth) nextAudit(now time.Time, after time.Duration) {
	if !d.audits.waiting {
		d.audits.at = now.Add(after*9/10 + rand.N(after/5+1))
	}
}
