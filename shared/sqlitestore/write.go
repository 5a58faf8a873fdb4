package sqlitestore

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"slices"

	"tapedeck/shared/market"
)

const (
	putSeriesSQL = `INSERT INTO series (name) VALUES (?) ON CONFLICT DO NOTHING`
	getSeriesSQL = `SELECT id FROM series WHERE name = ?`

	putBlockSQL = `
INSERT INTO blocks (series, start_ns, first_id, last_id, prev_id, span_id, end_ns, events, data)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`

	putKeyframeSQL = `
INSERT INTO keyframes (market, event_ns, update_id, recv_ns, snapshot_id, updates_applied, first_update_id,
	verified_bid, verified_ask, data)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`

	putSpanSQL = `
INSERT INTO spans (series, first_id, prev_id, last_id, start_ns, end_ns) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (series, first_id) DO UPDATE SET
	last_id = max(last_id, excluded.last_id),
	start_ns = min(start_ns, excluded.start_ns),
	end_ns = max(end_ns, excluded.end_ns)`

	putGapSQL = `
INSERT INTO gaps (market, stream, first_id, beside, last_id, cause, start_ns, end_ns, recv_start_ns, recv_end_ns,
	detected_ns, repaired_ns, repair)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (market, stream, first_id, beside) DO UPDATE SET
	last_id = max(last_id, excluded.last_id), cause = excluded.cause,
	start_ns = excluded.start_ns, end_ns = excluded.end_ns,
	recv_start_ns = excluded.recv_start_ns, recv_end_ns = excluded.recv_end_ns,
	detected_ns = excluded.detected_ns, repaired_ns = excluded.repaired_ns, repair = excluded.repair
WHERE CASE
	WHEN repair = 'backfilled' AND excluded.repair <> 'backfilled' AND last_id < excluded.last_id THEN TRUE
	WHEN repair <> 'backfilled' AND excluded.repair = 'backfilled' AND excluded.last_id < last_id THEN FALSE
	ELSE repaired_ns = 0 OR excluded.repaired_ns <> 0 END`

	growGapSQL = `
UPDATE gaps SET last_id = ?5 WHERE market = ?1 AND stream = ?2 AND first_id = ?3 AND beside = ?4 AND last_id < ?5`

	putListingSQL = `
INSERT INTO listings (market, status, tick_size, lot_size, updated_ns) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (market) DO UPDATE SET
	status = excluded.status, tick_size = excluded.tick_size, lot_size = excluded.lot_size,
	updated_ns = excluded.updated_ns
WHERE excluded.updated_ns >= updated_ns`

	putRecorderSQL = `
INSERT INTO recorders (recorder, version, started_ns, updated_ns, stopped, markets) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (recorder) DO UPDATE SET
	version = excluded.version, started_ns = excluded.started_ns, updated_ns = excluded.updated_ns,
	stopped = excluded.stopped, markets = excluded.markets
WHERE excluded.updated_ns >= updated_ns`
)

// Write implements storetest.Store. A batch is one transaction.
func (s *Store) Write(ctx context.Context, batch *market.Batch) (err error) {
	defer market.Wrap(&err, "write %d records to SQLite", batch.Len())
	if err := batch.Validate(); err != nil {
		return err
	}
	if batch.Len() == 0 {
		return nil
	}
	stmts, err := s.statements(ctx)
	if err != nil {
		return err
	}
	return s.write(ctx, func(tx *sql.Tx) error {
		w := writer{tx: tx, stmts: stmts, series: make(map[market.Series]int64)}
		return w.put(ctx, batch)
	})
}

// writer writes one batch in one transaction.
type writer struct {
	tx     *sql.Tx
	stmts  *statements
	series map[market.Series]int64 // those of this batch so far
}

// put writes the records. Where a transaction ends in one go, their order does not matter.
func (w *writer) put(ctx context.Context, batch *market.Batch) error {
	if err := w.putBlocks(ctx, batch.Blocks); err != nil {
		return err
	}
	if err := w.putKeyframes(ctx, batch.Keyframes); err != nil {
		return err
	}
	if err := w.putSpans(ctx, batch.Spans); err != nil {
		return err
	}
	if err := w.putGaps(ctx, batch.Gaps); err != nil {
		return err
	}
	if err := w.putListings(ctx, batch.Listings); err != nil {
		return err
	}
	return w.putStatuses(ctx, batch.Statuses)
}

// exec runs a prepared statement once for each of n records.
func (w *writer) exec(ctx context.Context, prepared *sql.Stmt, n int, args func(i int) ([]any, error)) error {
	if n == 0 {
		return nil
	}
	stmt := w.tx.StmtContext(ctx, prepared) //nolint:sqlclosecheck // the end of the transaction closes it
	for i := range n {
		values, err := args(i)
		if err != nil {
			return err
		}
		if _, err := stmt.ExecContext(ctx, values...); err != nil {
			return err
		}
	}
	return nil
}

// seriesID returns the number of a series, and gives it one if it has none.
func (w *writer) seriesID(ctx context.Context, series market.Series) (int64, error) {
	if id, ok := w.series[series]; ok {
		return id, nil
	}
	name := series.String()
	get := w.tx.StmtContext(ctx, w.stmts.getSeries) //nolint:sqlclosecheck // as above
	var id int64
	err := get.QueryRowContext(ctx, name).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		put := func(int) ([]any, error) { return []any{name}, nil }
		if err := w.exec(ctx, w.stmts.putSeries, 1, put); err != nil {
			return 0, err
		}
		err = get.QueryRowContext(ctx, name).Scan(&id)
	}
	if err != nil {
		return 0, err
	}
	w.series[series] = id
	return id, nil
}

func (w *writer) putBlocks(ctx context.Context, blocks []market.Block) error {
	return w.exec(ctx, w.stmts.putBlock, len(blocks), func(i int) ([]any, error) {
		b := &blocks[i]
		series, err := w.seriesID(ctx, b.Series)
		return []any{
			series, int64(b.Start), b.FirstID, b.LastID, b.PrevID, b.SpanID, int64(b.End), b.Events, b.Data,
		}, err
	})
}

func (w *writer) putKeyframes(ctx context.Context, keyframes []market.Keyframe) error {
	return w.exec(ctx, w.stmts.putKeyframe, len(keyframes), func(i int) ([]any, error) {
		k := &keyframes[i]
		return []any{
			k.Market.String(), int64(k.EventTime), k.UpdateID, int64(k.RecvTime), k.SnapshotID, k.UpdatesApplied,
			k.FirstUpdateID, int64(k.VerifiedBid), int64(k.VerifiedAsk), k.Data,
		}, nil
	})
}

func (w *writer) putSpans(ctx context.Context, spans []market.Span) error {
	return w.exec(ctx, w.stmts.putSpan, len(spans), func(i int) ([]any, error) {
		s := &spans[i]
		series, err := w.seriesID(ctx, s.Series)
		return []any{series, s.FirstID, s.PrevID, s.LastID, int64(s.Start), int64(s.End)}, err
	})
}

// putGaps merges entries one after the other, each as Gap.Merge says.
func (w *writer) putGaps(ctx context.Context, gaps []market.Gap) error {
	for i := range gaps {
		g := &gaps[i]
		key := []any{g.Series.Market.String(), string(g.Series.Stream), g.FirstID, string(g.Key().Beside), g.LastID}
		whole := append(slices.Clone(key), string(g.Cause),
			int64(g.Start), int64(g.End), int64(g.RecvStart), int64(g.RecvEnd),
			int64(g.DetectedAt), int64(g.RepairedAt), string(g.Repair))
		if err := w.exec(ctx, w.stmts.putGap, 1, func(int) ([]any, error) { return whole, nil }); err != nil {
			return err
		}
		if err := w.exec(ctx, w.stmts.growGap, 1, func(int) ([]any, error) { return key, nil }); err != nil {
			return err
		}
	}
	return nil
}

func (w *writer) putListings(ctx context.Context, listings []market.Listing) error {
	return w.exec(ctx, w.stmts.putListing, len(listings), func(i int) ([]any, error) {
		l := &listings[i]
		return []any{l.Market.String(), l.Status, int64(l.TickSize), int64(l.LotSize), int64(l.UpdatedAt)}, nil
	})
}

func (w *writer) putStatuses(ctx context.Context, statuses []market.RecorderStatus) error {
	return w.exec(ctx, w.stmts.putRecorder, len(statuses), func(i int) ([]any, error) {
		s := &statuses[i]
		markets, err := encodeMarkets(s.Markets)
		return []any{s.Recorder, s.Version, int64(s.StartedAt), int64(s.UpdatedAt), s.Stopped, markets}, err
	})
}

// marketStatus is how market.MarketStatus stands in JSON.
type marketStatus struct {
	Market       string `json:"market"`
	State        string `json:"state"`
	LastUpdateID int64  `json:"last_update_id"`
	LastTradeID  int64  `json:"last_trade_id"`
	EventNs      int64  `json:"event_ns"`
	RecvNs       int64  `json:"recv_ns"`
}

func encodeMarkets(markets []market.MarketStatus) (string, error) {
	out := make([]marketStatus, len(markets))
	for i, m := range markets {
		out[i] = marketStatus{
			Market: m.Market.String(), State: string(m.State), LastUpdateID: m.LastUpdateID,
			LastTradeID: m.LastTradeID, EventNs: int64(m.EventTime), RecvNs: int64(m.RecvTime),
		}
	}
	text, err := json.Marshal(out)
	return string(text), err
}
