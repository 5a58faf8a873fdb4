package recorder

import (
	"context"
	"time"

	"tapedeck/shared/market"
)

const (
	// quietTime is how long a market in doubt may show no depth update before the exchange is asked.
	quietTime = 5 * time.Second

	// graceTime is how far the stream may be behind what the exchange says: an update goes out with others every
	// 100 ms, and the answer may hold what is still on its way.
	graceTime = time.Second

	// An exchange whose ids begin again lower is believed after so many answers over so long a time: replicas of its
	// books may be a little late.
	maxRegress  = 3
	regressTime = 30 * time.Second
)

// online notes that the market has a connection again, or the first.
func (d *depth) online(now time.Time) {
	d.connected = true
	d.quietAt = time.Time{}
	if d.hasBook && !d.cfg.Wait {
		d.silence.start(now)
	}
	d.doubtful(market.CauseDisconnect, now)
}

// offline notes that the market's last connection is gone: frames may be missing from here on.
func (d *depth) offline(now time.Time) {
	d.connected = false
	d.quietAt = time.Time{}
	d.silence.stop()
	d.doubtful(market.CauseDisconnect, now)
}

// doubtful notes that something may be missing before the next update. The first cause counts; where there is no
// update or snapshot before, nothing can be missing.
func (d *depth) doubtful(cause market.Cause, now time.Time) {
	if d.doubt == "" && (d.hasBook || d.fetching || !d.pending.empty()) {
		d.doubt = cause
	}
	d.settling = false
	if !d.syncing && d.connected && d.quietAt.IsZero() {
		d.quietAt = now.Add(quietTime)
	}
}

// quiet acts on a market that shows nothing while it is in doubt or has no book.
func (d *depth) quiet(now time.Time) {
	d.quietAt = time.Time{}
	if !d.hasBook {
		d.sync(now)
		return
	}
	d.probe(now)
}

// probe asks for the exchange's last update id: a fiftieth of the weight of a snapshot. At most one question is under
// way.
func (d *depth) probe(now time.Time) {
	if d.asking {
		return
	}
	d.asking, d.askedAt, d.settling = true, now, d.doubt != ""
	d.inquire()
}

// answered takes the exchange's last update id.
func (d *depth) answered(ctx context.Context, id int64, err error, now time.Time) {
	d.asking = false
	if !d.hasBook {
		return
	}
	if err != nil {
		d.log.Warn("the exchange's last update id is not known", "error", err)
		d.askLater(now)
		return
	}
	if !d.pending.empty() {
		d.judgeHeld(ctx, id, now)
		return
	}
	last := d.book.LastID()
	if id > last {
		d.noteAhead(id, now)
		return
	}
	d.far = 0
	switch {
	case id < last:
		d.noteRegress(id, d.lastID, now)
		d.askLater(now)
	case d.doubt != "" && !d.settling: // it says nothing of what came into doubt meanwhile
		d.askLater(now)
	default:
		d.doubt, d.quietAt = "", time.Time{}
		d.calm(id, d.lastEvent)
	}
}

// noteAhead takes note that the exchange is beyond the book: the stream may still bring it. An answer that is hard to
// believe waits for another one like it.
func (d *depth) noteAhead(id int64, now time.Time) {
	if id-d.book.LastID() <= maxJump || near(id, d.far) {
		d.far, d.ahead, d.missedAt = 0, id, now.Add(graceTime)
		return
	}
	d.log.Warn("the exchange's last update id is hard to believe", "exchange_id", id, "book_id", d.book.LastID())
	if d.far = id; d.connected {
		d.quietAt = now.Add(graceTime)
	}
}

// askLater asks again after a while where there is a doubt. A silence is asked about at its own pace.
func (d *depth) askLater(now time.Time) {
	if d.doubt != "" && d.connected && d.quietAt.IsZero() {
		d.quietAt = now.Add(quietTime)
	}
}

// judgeHeld takes the exchange's word on the updates that are held.
func (d *depth) judgeHeld(ctx context.Context, id int64, now time.Time) {
	d.judge(id, d.askedAt, now)
	if d.pending.empty() {
		return
	}
	if next := &d.pending.updates[0]; id >= next.PrevID { // it is no nonsense: what is before it is missing
		next.passed, next.denied = false, 0
		d.judgeAt = time.Time{}
		if due(d.holdDeadline(), now) {
			d.endHold(ctx, now)
		}
	}
}

// missed gives up waiting for what the exchange has and the stream did not bring. Without a doubt that would explain
// it, the stream is mute, and the feed is asked to restore it.
func (d *depth) missed(ctx context.Context, now time.Time) {
	if !d.connected { // which explains it: there is a doubt, and the exchange is asked again when there is a connection
		d.ahead, d.missedAt = 0, time.Time{}
		return
	}
	id, cause := d.ahead, d.doubt
	if cause == "" {
		cause = market.CauseStall
	}
	d.lose(ctx, cause, id, market.TimeOf(now), now)
	d.floor, d.doubt = id, ""
	if cause == market.CauseStall {
		d.doubt = cause // until the stream talks again, or has nothing to say
		if d.cfg.Restore != nil {
			d.cfg.Restore(d.writer.series.Market, market.Depth)
		}
	}
	d.ask(now)
}

// regress counts answers of the exchange that contradict what it showed before: ids that are lower, or a book without
// levels.
type regress struct {
	answers int
	since   time.Time
	certain bool
}

// again counts one more. It reports whether they are to be believed by now.
func (r *regress) again(now time.Time) bool {
	if r.answers++; r.answers == 1 {
		r.since = now
	}
	return r.answers >= maxRegress && now.Sub(r.since) >= regressTime
}

// noteRegress takes note of an id of the exchange that is below one that was recorded, by this process or an earlier one.
// An exchange that begins its ids again cannot be recorded in one series: ids would be held twice, and readers merge by
// id. All that is done is to say so, loudly, and to vouch for nothing; the way on is a fresh store.
func (d *depth) noteRegress(id, recorded int64, now time.Time) {
	if id >= recorded || d.regressed.certain || !d.regressed.again(now) {
		return
	}
	d.regressed.certain = true
	d.meter.regressed()
	d.log.Error("the exchange's update ids began again lower: the market cannot be recorded on",
		"exchange_id", id, "recorded_id", recorded)
}

// calm forgets answers of the exchange that were below what was recorded: it goes on behind an id, at a time, unless what
// an earlier process recorded contradicts that, too.
func (d *depth) calm(id int64, event market.Time) {
	if !d.restart.contradicts(id, event) {
		d.regressed = regress{}
	}
}
