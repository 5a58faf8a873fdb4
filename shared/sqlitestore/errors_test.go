package sqlitestore

import (
	"path/filepath"
	"testing"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"tapedeck/shared/market"
)

// TestRefusedForGood: what the file refuses of one record is no reason to try again.
func TestRefusedForGood(t *testing.T) {
	m := market.Market{Exchange: market.Binance, Symbol: "BTCUSDT"}
	frame := &market.Batch{Keyframes: []market.Keyframe{{Market: m, UpdateID: 1, EventTime: 1, Data: make([]byte, 1<<20)}}}
	for name, c := range map[string]struct {
		arrange func(t *testing.T, s *Store)
		kind    market.Kind
	}{
		"a constraint": {func(t *testing.T, s *Store) {
			execute(t, s, "CREATE TRIGGER refuse BEFORE INSERT ON keyframes BEGIN SELECT RAISE(ABORT, 'no'); END")
		}, market.KindInvalid},
		"a type": {func(t *testing.T, s *Store) {
			execute(t, s, "DROP TABLE keyframes")
			execute(t, s, `CREATE TABLE keyframes (market INTEGER PRIMARY KEY, event_ns, update_id, recv_ns, snapshot_id,
				updates_applied, first_update_id, verified_bid, verified_ask, data)`)
			execute(t, s, "CREATE UNIQUE INDEX keyframes_key ON keyframes (market, event_ns, update_id)")
		}, market.KindInvalid},
		"a bound": {func(t *testing.T, s *Store) {
			conn, err := s.db.Conn(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := sqlite.Limit(conn, sqlite3.SQLITE_LIMIT_LENGTH, 1<<16); err != nil {
				t.Fatal(err)
			}
		}, market.KindTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := Open(t.Context(), filepath.Join(t.TempDir(), "refuses.db"), ReadWrite)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close(t.Context())
			s.db.SetMaxOpenConns(1) // a bound is that of a connection
			c.arrange(t, s)
			if err := s.Write(t.Context(), frame); market.KindOf(err) != c.kind {
				t.Errorf("error %v is of kind %q", err, market.KindOf(err))
			}
			if err := s.Write(t.Context(), &market.Batch{Listings: []market.Listing{{Market: m}}}); err != nil {
				t.Errorf("Write of another record: %v", err)
			}
		})
	}
}

func execute(t *testing.T, s *Store, statement string) {
	t.Helper()
	if _, err := s.db.ExecContext(t.Context(), statement); err != nil {
		t.Fatal(err)
	}
}
