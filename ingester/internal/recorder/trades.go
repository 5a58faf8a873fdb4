package recorder

import (
	"context"
	"log/slog"
	"time"

	"tapedeck/shared/market"
	"tapedeck/shared/tape"
)

// trades records the trades of one market. Their ids are contiguous: a jump is a hole.
type trades struct {
	cfg    *Config
	log    *slog.Logger
	meter  *meter
	writer writer

	doubt     market.Cause // why something may be missing before the next trade; "" when nothing should be
	begun     bool
	lastID    int64
	lastEvent market.Time
	lastRecv  market.Time
	restart   restart

	builder   tape.TradeBuilder
	window    market.Time // of the block being built
	blockRecv market.Time // of the first trade in it
	flushAt   time.Time   // when to cut it at the latest
}

// doubtful notes that something may be missing before the next trade. The first cause counts.
func (t *trades) doubtful(cause market.Cause) {
	if t.doubt == "" {
		t.doubt = cause
	}
}

// trade takes one trade of the stream.
func (t *trades) trade(ctx context.Context, tr *market.Trade, now time.Time) {
	if t.begun && tr.ID <= t.lastID {
		t.meter.duplicate.Inc()
		return
	}
	if t.begun && tr.ID > t.lastID+1 {
		t.missed(ctx, tr)
	}
	if t.mustCut(tr) {
		t.cut(ctx)
	}
	if t.builder.Len() == 0 {
		t.window, t.blockRecv, t.flushAt = tr.EventTime.Truncate(market.BlockWindow), tr.RecvTime, now.Add(t.cfg.FlushInterval)
	}
	t.builder.Append(tr)
	t.lastID, t.lastEvent, t.lastRecv, t.doubt = tr.ID, tr.EventTime, tr.RecvTime, ""
	t.meter.recorded.Inc()
	if !t.begun {
		t.begun = true
		t.restart.begin(tr.ID-1, tr.EventTime, tr.RecvTime)
		t.settleRestart(ctx)
	}
}

// missed enters the hole before tr into the ledger.
func (t *trades) missed(ctx context.Context, tr *market.Trade) {
	t.cut(ctx)
	cause := t.doubt
	if cause == "" {
		cause = market.CauseSequence
	}
	hole := market.Gap{
		Series: t.writer.series, Cause: cause, FirstID: t.lastID + 1, LastID: tr.ID - 1,
		Start: t.lastEvent, End: tr.EventTime, RecvStart: t.lastRecv, RecvEnd: tr.RecvTime,
		DetectedAt: tr.RecvTime, RepairedAt: tr.RecvTime, Repair: market.RepairResumed,
	}
	t.meter.gap(market.Trades, cause)
	t.log.Warn("trades are missing", "cause", cause, "first_missing_id", hole.FirstID, "last_missing_id", hole.LastID)
	t.writer.gap(ctx, hole)
}

// mustCut reports whether the block must end before tr.
func (t *trades) mustCut(tr *market.Trade) bool {
	n := t.builder.Len()
	return n > 0 && (n >= market.MaxBlockEvents || tr.EventTime.Truncate(market.BlockWindow) != t.window)
}

// cut ends the block.
func (t *trades) cut(ctx context.Context) {
	t.flushAt = time.Time{}
	if t.builder.Len() == 0 {
		return
	}
	t.meter.recordLag.Observe(market.TimeOf(time.Now()).Sub(t.blockRecv).Seconds())
	t.writer.block(ctx, t.builder.Finish(), nil, t.blockRecv)
}

// settleRestart enters what was missed since an earlier process into the ledger, once that is known.
func (t *trades) settleRestart(ctx context.Context) {
	if hole, ok := t.restart.hole(t.writer.series, market.RepairResumed); ok {
		t.meter.gap(market.Trades, market.CauseRestart)
		t.writer.gap(ctx, hole)
	}
}

// expire does what is due.
func (t *trades) expire(ctx context.Context, now time.Time) {
	if due(t.flushAt, now) {
		t.cut(ctx)
	}
}
