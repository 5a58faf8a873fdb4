package sqlitestore

import (
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"modernc.org/sqlite"

	"tapedeck/shared/market"
)

// TestNotReadyYet opens a file that cannot be written, and writes when it can.
func TestNotReadyYet(t *testing.T) {
	b := market.Block{
		Series:  market.Series{Market: market.Market{Exchange: market.Binance, Symbol: "BTCUSDT"}, Stream: market.Trades},
		FirstID: 1, LastID: 2, Start: 1, End: 1, Events: 2, Data: []byte{1},
	}
	for name, c := range map[string]struct {
		prevent func(t *testing.T, path string) (allow func() error)
		reads   market.Kind // of the error of reading before that
	}{
		"another process has the lock":   {lockFile, market.KindUnavailable},
		"no directory":                   {noDirectory, market.KindUnavailable},
		"a directory stands there":       {inTheWay, market.KindUnavailable},
		"read-only directory":            {readOnlyDirectory, market.KindUnavailable},
		"read-only file, tables and all": {readOnlyFile, market.KindNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "sub", "tapedeck.db")
			allow := c.prevent(t, path)
			s, err := open(t.Context(), path, ReadWrite, 10*time.Millisecond)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close(t.Context())
			want := func(what string, err error, kind market.Kind) {
				t.Helper()
				if err == nil || market.KindOf(err) != kind {
					t.Errorf("%s: error %v is of kind %q, want %q", what, err, market.KindOf(err), kind)
				}
			}
			write := func() error { return s.Write(t.Context(), &market.Batch{Blocks: []market.Block{b}}) }

			_, err = s.Tail(t.Context(), b.Series)
			want("Tail", err, c.reads)
			_, err = s.BlockByID(t.Context(), b.Series, 1)
			want("BlockByID", err, c.reads)
			gaps, err := s.Gaps(t.Context(), market.GapQuery{Market: b.Series.Market, To: 1, Limit: 1})
			if c.reads == market.KindNotFound && (err != nil || len(gaps) != 0) {
				t.Errorf("Gaps = %v, %v", gaps, err)
			} else if c.reads != market.KindNotFound {
				want("Gaps", err, c.reads)
			}
			want("Ping", s.Ping(t.Context()), market.KindUnavailable)
			want("Write", write(), market.KindUnavailable)

			if err := allow(); err != nil {
				t.Fatal(err)
			}
			_, err = s.Tail(t.Context(), b.Series) // with which a recorder begins
			want("Tail of a file that can be written now", err, market.KindNotFound)
			if err := write(); err != nil {
				t.Errorf("Write: %v", err)
			}
			if err := s.Ping(t.Context()); err != nil {
				t.Errorf("Ping: %v", err)
			}
			if tail, err := s.Tail(t.Context(), b.Series); err != nil || tail.LastID != b.LastID {
				t.Errorf("Tail = %+v, %v", tail, err)
			}
		})
	}
}

func noDirectory(_ *testing.T, path string) (allow func() error) {
	return func() error { return os.Mkdir(filepath.Dir(path), 0o755) }
}

func lockFile(t *testing.T, path string) (allow func() error) {
	mkdir(t, path)
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	db.SetMaxOpenConns(1)
	if _, err := db.ExecContext(t.Context(), "BEGIN EXCLUSIVE"); err != nil {
		t.Fatal(err)
	}
	return db.Close
}

func inTheWay(t *testing.T, path string) (allow func() error) {
	mkdir(t, path)
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
	return func() error { return os.Remove(path) }
}

func readOnlyDirectory(t *testing.T, path string) (allow func() error) {
	bound(t)
	mkdir(t, path)
	chmod(t, filepath.Dir(path), 0o555)
	return func() error { return os.Chmod(filepath.Dir(path), 0o755) }
}

func readOnlyFile(t *testing.T, path string) (allow func() error) {
	bound(t)
	mkdir(t, path)
	s, err := Open(t.Context(), path, ReadWrite)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	chmod(t, path, 0o444)
	return func() error {
		files, err := filepath.Glob(path + "*") // its log and its index, too, which have the file's mode
		for _, f := range files {
			err = errors.Join(err, os.Chmod(f, 0o644))
		}
		return err
	}
}

func mkdir(t *testing.T, path string) {
	t.Helper()
	if err := os.Mkdir(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
}

func chmod(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

// bound skips a test that needs permissions to bind.
func bound(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		t.Skip("permissions do not bind root")
	}
}

// TestForeignTables opens a file that says to be ours and is not, again and again. Nothing may pile up.
func TestForeignTables(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tapedeck.db")
	s, err := Open(t.Context(), path, ReadWrite)
	if err != nil {
		t.Fatal(err)
	}
	execute(t, s, "DROP TABLE recorders")
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), path, ReadWrite); market.KindOf(err) != market.KindCorrupt {
		t.Errorf("error %v is of kind %q", err, market.KindOf(err))
	}

	reader, err := Open(t.Context(), path, ReadOnly)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close(t.Context())
	reader.db.SetMaxOpenConns(1)
	bytes := func() (current int) {
		t.Helper()
		conn, err := reader.db.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := conn.Raw(func(c any) (err error) {
			current, _, err = c.(sqlite.DBStatus).Status(sqlite.DBStatusStmtUsed, false)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return current
	}
	before := bytes()
	for range 20 {
		if err := reader.Ping(t.Context()); market.KindOf(err) != market.KindCorrupt {
			t.Errorf("error %v is of kind %q", err, market.KindOf(err))
		}
	}
	if after := bytes(); after > before {
		t.Errorf("statements take %d bytes, %d before", after, before)
	}
}
