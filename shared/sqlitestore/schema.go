package sqlitestore

import (
	"context"
	"database/sql"
	"fmt"

	sqlite3 "modernc.org/sqlite/lib"

	"tapedeck/shared/market"
)

// schemaVersion stands in the file as PRAGMA user_version. It grows with every change that an older program could not
// read or write.
const schemaVersion = 2

// schema: columns ending in _ns are market.Time; prices are market.Decimal; a series is named by a small number, which
// stands in every block and twice in its indexes. The blocks' table is in the order of arrival and therefore densely
// packed; with the key as its order (WITHOUT ROWID) pages were half empty and writing was five times slower.
const schema = `
CREATE TABLE series (
	id   INTEGER PRIMARY KEY,
	name TEXT NOT NULL UNIQUE -- market.Series.String
) STRICT;
CREATE TABLE blocks (
	series   INTEGER NOT NULL,
	start_ns INTEGER NOT NULL,
	first_id INTEGER NOT NULL,
	last_id  INTEGER NOT NULL,
	prev_id  INTEGER NOT NULL,
	span_id  INTEGER NOT NULL,
	end_ns   INTEGER NOT NULL,
	events   INTEGER NOT NULL,
	data     BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX blocks_key ON blocks (series, start_ns, first_id, last_id);
CREATE INDEX blocks_last_id ON blocks (series, last_id);
CREATE TABLE keyframes (
	market          TEXT NOT NULL, -- market.Market.String
	event_ns        INTEGER NOT NULL,
	update_id       INTEGER NOT NULL,
	recv_ns         INTEGER NOT NULL,
	snapshot_id     INTEGER NOT NULL,
	updates_applied INTEGER NOT NULL,
	first_update_id INTEGER NOT NULL,
	verified_bid    INTEGER NOT NULL,
	verified_ask    INTEGER NOT NULL,
	data            BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX keyframes_key ON keyframes (market, event_ns, update_id);
CREATE TABLE spans (
	series   INTEGER NOT NULL,
	first_id INTEGER NOT NULL,
	prev_id  INTEGER NOT NULL,
	last_id  INTEGER NOT NULL,
	start_ns INTEGER NOT NULL,
	end_ns   INTEGER NOT NULL,
	PRIMARY KEY (series, first_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX spans_end ON spans (series, end_ns);
CREATE TABLE gaps (
	market        TEXT NOT NULL,
	stream        TEXT NOT NULL,
	first_id      INTEGER NOT NULL,
	beside        TEXT NOT NULL, -- see market.GapKey
	last_id       INTEGER NOT NULL,
	cause         TEXT NOT NULL,
	start_ns      INTEGER NOT NULL,
	end_ns        INTEGER NOT NULL, -- 0 while open
	recv_start_ns INTEGER NOT NULL,
	recv_end_ns   INTEGER NOT NULL,
	detected_ns   INTEGER NOT NULL,
	repaired_ns   INTEGER NOT NULL, -- 0 while not repaired
	repair        TEXT NOT NULL,
	PRIMARY KEY (market, stream, first_id, beside)
) STRICT, WITHOUT ROWID;
-- An open one ends never, and where the exchange's clock stepped back a gap begins with its end.
CREATE INDEX gaps_until ON gaps (market, iif(end_ns = 0, 9223372036854775807, max(start_ns, end_ns)));
CREATE TABLE listings (
	market     TEXT NOT NULL PRIMARY KEY,
	status     TEXT NOT NULL,
	tick_size  INTEGER NOT NULL,
	lot_size   INTEGER NOT NULL,
	updated_ns INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE recorders (
	recorder   TEXT NOT NULL PRIMARY KEY,
	version    TEXT NOT NULL,
	started_ns INTEGER NOT NULL,
	updated_ns INTEGER NOT NULL,
	stopped    INTEGER NOT NULL,
	markets    TEXT NOT NULL -- JSON, see marketStatus
) STRICT, WITHOUT ROWID;
`

// create makes the tables where the file is new. The caller holds the lock of s.
func (s *Store) create(ctx context.Context) error {
	return s.transaction(ctx, func(tx *sql.Tx) error {
		var version, tables int
		if err := tx.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
			return err
		}
		if err := tx.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_schema").Scan(&tables); err != nil {
			return err
		}
		if version != 0 || tables != 0 {
			return checkVersion(version)
		}
		_, err := tx.ExecContext(ctx, schema+fmt.Sprintf("PRAGMA user_version = %d", schemaVersion))
		return err
	})
}

func checkVersion(version int) error {
	if version != schemaVersion {
		return market.Errorf(market.KindCorrupt,
			"the file has schema version %d, and this program knows version %d only", version, schemaVersion)
	}
	return nil
}

// statements are the prepared ones.
type statements struct {
	tail, blocks, blockByID, keyframe, spans, gaps, listings, recorders *sql.Stmt

	putSeries, getSeries, putBlock, putKeyframe, putSpan, putGap, growGap, putListing, putRecorder *sql.Stmt
}

// statements returns the prepared statements. The first call that can makes the file ready and prepares them.
func (s *Store) statements(ctx context.Context) (*statements, error) {
	if stmts, err := s.prepared(); stmts != nil || err != nil {
		return stmts, err
	}
	if err := s.lock(ctx); err != nil {
		return nil, err
	}
	defer s.unlock()
	if stmts, err := s.prepared(); stmts != nil || err != nil {
		return stmts, err
	}
	stmts, err := s.prepare(ctx)
	if err != nil {
		s.renew(err)
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stmts = stmts
	return stmts, nil
}

// prepared returns the statements, or nil when they are not prepared yet.
func (s *Store) prepared() (*statements, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, market.Errorf(market.KindUnavailable, "the store is closed")
	}
	return s.stmts, nil
}

// prepare makes the file ready, or finds that it is, and prepares the statements. The caller holds the lock of s.
func (s *Store) prepare(ctx context.Context) (_ *statements, err error) {
	var version int
	if err := s.db.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return nil, classify(ctx, err)
	}
	switch {
	case version != 0:
		err = checkVersion(version)
	case s.mode == ReadWrite:
		err = s.create(ctx)
	default:
		err = market.Errorf(market.KindUnavailable, "nothing has been written to %s yet", s.path)
	}
	if err != nil {
		return nil, err
	}
	var stmts statements
	var done []*sql.Stmt
	defer func() {
		if err != nil {
			for _, stmt := range done {
				stmt.Close() //nolint:errcheck // it was never used
			}
		}
	}()
	for query, stmt := range map[string]**sql.Stmt{
		tailSQL: &stmts.tail, blocksSQL: &stmts.blocks, blockByIDSQL: &stmts.blockByID, keyframeSQL: &stmts.keyframe,
		spansSQL: &stmts.spans, gapsSQL: &stmts.gaps, listingsSQL: &stmts.listings, recordersSQL: &stmts.recorders,
		putSeriesSQL: &stmts.putSeries, getSeriesSQL: &stmts.getSeries, putBlockSQL: &stmts.putBlock,
		putKeyframeSQL: &stmts.putKeyframe, putSpanSQL: &stmts.putSpan, putGapSQL: &stmts.putGap,
		growGapSQL: &stmts.growGap, putListingSQL: &stmts.putListing, putRecorderSQL: &stmts.putRecorder,
	} {
		if *stmt, err = s.db.PrepareContext(ctx, query); err != nil { //nolint:sqlclosecheck // Store.Close closes them all
			return nil, unprepared(ctx, err)
		}
		done = append(done, *stmt)
	}
	return &stmts, nil
}

// unprepared classifies the error of a statement that could not be prepared. SQLite has no code of its own for a table
// or column that is not there.
func unprepared(ctx context.Context, err error) error {
	if primaryCode(err) == sqlite3.SQLITE_ERROR {
		return market.Errorf(market.KindCorrupt, "the file does not hold what its schema version says: %w", err)
	}
	return classify(ctx, err)
}
