package sqlitestore

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"

	"tapedeck/shared/market"
)

const (
	tailSQL = `
SELECT start_ns, first_id, last_id, prev_id, span_id, end_ns, events, NULL FROM blocks
WHERE series = (SELECT id FROM series WHERE name = ?)
ORDER BY start_ns DESC, first_id DESC, last_id DESC LIMIT 1`

	blocksSQL = `
SELECT start_ns, first_id, last_id, prev_id, span_id, end_ns, events, data FROM blocks
WHERE series = (SELECT id FROM series WHERE name = ?)
	AND (start_ns, first_id, last_id) > (?, ?, ?) AND start_ns < ?
ORDER BY start_ns, first_id, last_id LIMIT ?`

	blockByIDSQL = `
SELECT start_ns, first_id, last_id, prev_id, span_id, end_ns, events, NULL FROM blocks
WHERE series = (SELECT id FROM series WHERE name = ?) AND last_id >= ?
ORDER BY last_id LIMIT 1`

	keyframeSQL = `
SELECT event_ns, update_id, recv_ns, snapshot_id, updates_applied, first_update_id, verified_bid, verified_ask, data
FROM keyframes WHERE market = ? AND event_ns <= ?
ORDER BY event_ns DESC, update_id DESC LIMIT 1`

	spansSQL = `
SELECT first_id, prev_id, last_id, start_ns, end_ns FROM spans
WHERE series = (SELECT id FROM series WHERE name = ?) AND end_ns >= ? AND start_ns < ?
ORDER BY start_ns, first_id LIMIT ?`

	gapsSQL = `
SELECT stream, first_id, last_id, cause, start_ns, end_ns, recv_start_ns, recv_end_ns, detected_ns, repaired_ns, repair
FROM gaps
WHERE market = ?1 AND iif(end_ns = 0, 9223372036854775807, max(start_ns, end_ns)) >= ?2
	AND iif(end_ns = 0, start_ns, min(start_ns, end_ns)) < ?3
	AND ?4 IN ('', stream) AND ?5 IN ('', cause)
ORDER BY start_ns, first_id, stream, cause LIMIT ?6`

	listingsSQL  = `SELECT market, status, tick_size, lot_size, updated_ns FROM listings ORDER BY market`
	recordersSQL = `SELECT recorder, version, started_ns, updated_ns, stopped, markets FROM recorders ORDER BY recorder`
)

// Tail implements storetest.Store.
func (s *Store) Tail(ctx context.Context, series market.Series) (_ market.Block, err error) {
	defer market.Wrap(&err, "read last block of %v from SQLite", series)
	stmts, err := s.statements(ctx)
	if err != nil {
		return market.Block{}, err
	}
	blocks, err := query(ctx, stmts.tail, scanBlock(series), series.String())
	return one(blocks, err)
}

// Blocks implements storetest.Store.
func (s *Store) Blocks(ctx context.Context, q market.BlockQuery) (_ []market.Block, err error) {
	defer market.Wrap(&err, "read blocks %+v from SQLite", q)
	if q.Limit < 1 {
		return nil, market.Errorf(market.KindInvalid, "limit %d", q.Limit)
	}
	stmts, err := s.statements(ctx)
	if err != nil {
		return nil, err
	}
	after := q.After
	if after.Start < q.From || after == (market.BlockKey{}) {
		after = market.BlockKey{Start: q.From, FirstID: -1} // before the first that can be
	}
	return query(ctx, stmts.blocks, scanBlock(q.Series), q.Series.String(),
		int64(after.Start), after.FirstID, after.LastID, int64(q.To), q.Limit)
}

// BlockByID implements storetest.Store.
func (s *Store) BlockByID(ctx context.Context, series market.Series, id int64) (_ market.Block, err error) {
	defer market.Wrap(&err, "find block of %v with id %d in SQLite", series, id)
	stmts, err := s.statements(ctx)
	if err != nil {
		return market.Block{}, err
	}
	blocks, err := query(ctx, stmts.blockByID, scanBlock(series), series.String(), id)
	return one(blocks, err)
}

// Keyframe implements storetest.Store.
func (s *Store) Keyframe(ctx context.Context, m market.Market, at market.Time) (_ market.Keyframe, err error) {
	defer market.Wrap(&err, "find keyframe of %v at %v in SQLite", m, at)
	stmts, err := s.statements(ctx)
	if err != nil {
		return market.Keyframe{}, err
	}
	keyframes, err := query(ctx, stmts.keyframe, func(rows *sql.Rows) (market.Keyframe, error) {
		k := market.Keyframe{Market: m}
		err := rows.Scan(&k.EventTime, &k.UpdateID, &k.RecvTime, &k.SnapshotID, &k.UpdatesApplied, &k.FirstUpdateID,
			&k.VerifiedBid, &k.VerifiedAsk, &k.Data)
		return k, err
	}, m.String(), int64(at))
	return one(keyframes, err)
}

// Spans implements storetest.Store.
func (s *Store) Spans(
	ctx context.Context, series market.Series, from, to market.Time, limit int,
) (_ []market.Span, err error) {
	defer market.Wrap(&err, "read spans of %v from %v to %v from SQLite", series, from, to)
	if limit < 1 {
		return nil, market.Errorf(market.KindInvalid, "limit %d", limit)
	}
	stmts, err := s.statements(ctx)
	if err != nil {
		return nil, err
	}
	return query(ctx, stmts.spans, func(rows *sql.Rows) (market.Span, error) {
		s := market.Span{Series: series}
		err := rows.Scan(&s.FirstID, &s.PrevID, &s.LastID, &s.Start, &s.End)
		return s, err
	}, series.String(), int64(from), int64(to), limit)
}

// Gaps implements storetest.Store.
func (s *Store) Gaps(ctx context.Context, q market.GapQuery) (_ []market.Gap, err error) {
	defer market.Wrap(&err, "read gaps %+v from SQLite", q)
	if q.Limit < 1 {
		return nil, market.Errorf(market.KindInvalid, "limit %d", q.Limit)
	}
	stmts, err := s.statements(ctx)
	if err != nil {
		return nil, err
	}
	return query(ctx, stmts.gaps, func(rows *sql.Rows) (market.Gap, error) {
		g := market.Gap{Series: market.Series{Market: q.Market}}
		err := rows.Scan(&g.Series.Stream, &g.FirstID, &g.LastID, &g.Cause, &g.Start, &g.End, &g.RecvStart, &g.RecvEnd,
			&g.DetectedAt, &g.RepairedAt, &g.Repair)
		return g, err
	}, q.Market.String(), int64(q.From), int64(q.To), string(q.Stream), string(q.Cause), q.Limit)
}

// Listings implements storetest.Store.
func (s *Store) Listings(ctx context.Context) (_ []market.Listing, err error) {
	defer market.Wrap(&err, "read listings from SQLite")
	stmts, err := s.statements(ctx)
	if err != nil {
		return nil, err
	}
	return query(ctx, stmts.listings, func(rows *sql.Rows) (l market.Listing, err error) {
		var of string
		if err := rows.Scan(&of, &l.Status, &l.TickSize, &l.LotSize, &l.UpdatedAt); err != nil {
			return l, err
		}
		l.Market, err = storedMarket(of)
		return l, err
	})
}

// Recorders implements storetest.Store.
func (s *Store) Recorders(ctx context.Context) (_ []market.RecorderStatus, err error) {
	defer market.Wrap(&err, "read recorders from SQLite")
	stmts, err := s.statements(ctx)
	if err != nil {
		return nil, err
	}
	return query(ctx, stmts.recorders, func(rows *sql.Rows) (r market.RecorderStatus, err error) {
		var markets string
		if err := rows.Scan(&r.Recorder, &r.Version, &r.StartedAt, &r.UpdatedAt, &r.Stopped, &markets); err != nil {
			return r, err
		}
		r.Markets, err = decodeMarkets(markets)
		return r, err
	})
}

// query runs a prepared statement and scans its rows. The statement's LIMIT bounds them, or there is one for each
// market or recorder.
func query[T any](ctx context.Context, stmt *sql.Stmt, scan func(*sql.Rows) (T, error), args ...any) ([]T, error) {
	rows, err := stmt.QueryContext(ctx, args...)
	if err != nil {
		return nil, classify(ctx, err)
	}
	defer rows.Close() //nolint:errcheck // Err tells what went wrong
	var found []T
	for rows.Next() {
		record, err := scan(rows)
		if err != nil {
			return nil, classify(ctx, err)
		}
		found = append(found, record)
	}
	return found, classify(ctx, rows.Err())
}

func one[T any](found []T, err error) (T, error) {
	if err == nil && len(found) == 0 {
		err = market.Errorf(market.KindNotFound, "none is there")
	}
	if err != nil {
		var none T
		return none, err
	}
	return found[0], nil
}

func scanBlock(series market.Series) func(*sql.Rows) (market.Block, error) {
	return func(rows *sql.Rows) (market.Block, error) {
		b := market.Block{Series: series}
		err := rows.Scan(&b.Start, &b.FirstID, &b.LastID, &b.PrevID, &b.SpanID, &b.End, &b.Events, &b.Data)
		return b, err
	}
}

func storedMarket(s string) (market.Market, error) {
	m, err := market.Parse(s)
	if err != nil {
		return m, &market.Error{Kind: market.KindCorrupt, Err: err}
	}
	return m, nil
}

func decodeMarkets(text string) ([]market.MarketStatus, error) {
	var stored []marketStatus
	if err := json.Unmarshal([]byte(text), &stored); err != nil {
		return nil, market.Errorf(market.KindCorrupt, "markets of a recorder: %w", err)
	}
	var markets []market.MarketStatus
	var errs error
	for _, s := range stored {
		m, err := storedMarket(s.Market)
		errs = errors.Join(errs, err)
		markets = append(markets, market.MarketStatus{
			Market: m, State: market.MarketState(s.State), LastUpdateID: s.LastUpdateID, LastTradeID: s.LastTradeID,
			EventTime: market.Time(s.EventNs), RecvTime: market.Time(s.RecvNs),
		})
	}
	return markets, errs
}
