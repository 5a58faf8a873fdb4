package sqlitestore

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"tapedeck/shared/market"
)

// TestQueriesUseIndexes asks SQLite how it runs each query.
func TestQueriesUseIndexes(t *testing.T) {
	s, err := Open(t.Context(), filepath.Join(t.TempDir(), "plan.db"), ReadWrite)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(t.Context())
	for name, c := range map[string]struct {
		sql    string
		index  string // the one that serves it
		sorted bool   // may be sorted after the index: ledgers, which are short

		numbered int // parameters, where they are numbered
	}{
		"tail":      {sql: tailSQL, index: "blocks_key"},
		"blocks":    {sql: blocksSQL, index: "blocks_key"},
		"blockByID": {sql: blockByIDSQL, index: "blocks_last_id"},
		"keyframe":  {sql: keyframeSQL, index: "keyframes_key"},
		"spans":     {sql: spansSQL, index: "spans_end", sorted: true},
		"gaps":      {sql: gapsSQL, index: "gaps_until", sorted: true, numbered: 6},
		"growGap":   {sql: growGapSQL, index: "PRIMARY KEY", numbered: 5},
		"getSeries": {sql: getSeriesSQL, index: "sqlite_autoindex_series_1"},
	} {
		parameters := c.numbered
		if parameters == 0 {
			parameters = strings.Count(c.sql, "?")
		}
		rows, err := s.db.QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+c.sql, make([]any, parameters)...)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		defer rows.Close()
		var plan []string
		for rows.Next() {
			var id, parent, unused int
			var detail string
			if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
				t.Fatal(err)
			}
			plan = append(plan, detail)
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
		text := strings.Join(plan, "\n")
		if !strings.Contains(text, c.index) || strings.Contains(text, "SCAN") ||
			(!c.sorted && strings.Contains(text, "TEMP B-TREE")) {
			t.Errorf("%s is not served by %s:\n%s", name, c.index, text)
		}
	}
}

func TestSettingsTakeEffect(t *testing.T) {
	s, err := Open(t.Context(), filepath.Join(t.TempDir(), "page.db"), ReadWrite)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(t.Context())
	for pragma, want := range map[string]string{"page_size": "16384", "journal_mode": "wal", "synchronous": "2"} {
		var got string
		if err := s.db.QueryRowContext(t.Context(), "PRAGMA "+pragma).Scan(&got); err != nil || got != want {
			t.Errorf("%s = %s (error %v), want %s", pragma, got, err, want)
		}
	}
}

func TestFullDisk(t *testing.T) {
	s, err := Open(t.Context(), filepath.Join(t.TempDir(), "full.db"), ReadWrite)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(t.Context())
	s.db.SetMaxOpenConns(1) // the limit is that of a connection
	limit := func(pages int) {
		if _, err := s.db.ExecContext(t.Context(), fmt.Sprintf("PRAGMA max_page_count = %d", pages)); err != nil {
			t.Fatal(err)
		}
	}
	m := market.Market{Exchange: market.Binance, Symbol: "BTCUSDT"}
	batch := &market.Batch{
		Keyframes: []market.Keyframe{{Market: m, UpdateID: 1, EventTime: 1, Data: make([]byte, 1<<20)}},
		Listings:  []market.Listing{{Market: m}},
	}
	limit(20)
	if err := s.Write(t.Context(), batch); market.KindOf(err) != market.KindUnavailable {
		t.Errorf("error %v is of kind %q", err, market.KindOf(err))
	}
	if listings, err := s.Listings(t.Context()); err != nil || len(listings) != 0 {
		t.Errorf("%d listings of a batch that failed, error %v", len(listings), err)
	}
	limit(1000)
	if err := s.Write(t.Context(), batch); err != nil {
		t.Errorf("Write when there is room again: %v", err)
	}
}
