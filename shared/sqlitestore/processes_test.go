package sqlitestore_test

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"tapedeck/shared/market"
	"tapedeck/shared/sqlitestore"
)

var trades = market.Series{
	Market: market.Market{Exchange: market.Binance, Symbol: "BTCUSDT"}, Stream: market.Trades,
}

func batchOf(id int64) *market.Batch {
	at := market.Time(id+1) * 1e9
	return &market.Batch{Blocks: []market.Block{{
		Series: trades, FirstID: id, LastID: id, PrevID: id - 1, Start: at, End: at, Events: 1, Data: []byte{1, 2, 3},
	}}}
}

func wantKind(t *testing.T, err error, kind market.Kind) {
	t.Helper()
	if err == nil || market.KindOf(err) != kind {
		t.Errorf("error %v is of kind %q, want %q", err, market.KindOf(err), kind)
	}
}

func TestReaderMayComeFirst(t *testing.T) {
	path := filepath.Join(t.TempDir(), "later", "tapedeck.db")
	reader := mustOpen(t, path, sqlitestore.ReadOnly)
	defer reader.Close(t.Context())
	_, err := reader.Tail(t.Context(), trades)
	wantKind(t, err, market.KindUnavailable)
	wantKind(t, reader.Ping(t.Context()), market.KindUnavailable)
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the reader made a file: %v", err)
	}

	if err := os.Mkdir(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o644); err != nil { // as a writer that has only just begun
		t.Fatal(err)
	}
	_, err = reader.Tail(t.Context(), trades)
	wantKind(t, err, market.KindUnavailable)

	writer := mustOpen(t, path, sqlitestore.ReadWrite)
	_, err = reader.Tail(t.Context(), trades)
	wantKind(t, err, market.KindNotFound)
	if err := writer.Write(t.Context(), batchOf(7)); err != nil {
		t.Fatal(err)
	}
	if b, err := reader.Tail(t.Context(), trades); err != nil || b.FirstID != 7 {
		t.Errorf("Tail = %+v, %v", b, err)
	}
	// The writer takes the log with it; a reader goes on, and a new one can begin.
	if err := writer.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	late := mustOpen(t, path, sqlitestore.ReadOnly)
	defer late.Close(t.Context())
	for _, r := range []*sqlitestore.Store{reader, late} {
		if err := r.Ping(t.Context()); err != nil {
			t.Errorf("Ping: %v", err)
		}
		if b, err := r.Tail(t.Context(), trades); err != nil || b.FirstID != 7 {
			t.Errorf("Tail = %+v, %v", b, err)
		}
		wantKind(t, r.Write(t.Context(), batchOf(8)), market.KindInvalid)
	}
}

func TestForeignFiles(t *testing.T) {
	garbage := filepath.Join(t.TempDir(), "garbage.db")
	if err := os.WriteFile(garbage, []byte(strings.Repeat("not a database ", 1000)), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := sqlitestore.Open(t.Context(), garbage, sqlitestore.ReadWrite)
	wantKind(t, err, market.KindCorrupt)

	for name, statement := range map[string]string{
		"a later schema":   "PRAGMA user_version = 3",
		"another's tables": "CREATE TABLE things (id INTEGER)",
	} {
		path := filepath.Join(t.TempDir(), "foreign.db")
		db, err := sql.Open("sqlite", path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := db.Exec(statement); err != nil {
			t.Fatal(err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		_, err = sqlitestore.Open(t.Context(), path, sqlitestore.ReadWrite)
		if market.KindOf(err) != market.KindCorrupt || !strings.Contains(fmt.Sprint(err), "schema version") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestKilledWriter lets another process write, kills it between two answers, and counts what it had acknowledged.
func TestKilledWriter(t *testing.T) {
	const variable = "TAPEDECK_TEST_WRITE_TO"
	if path := os.Getenv(variable); path != "" {
		writeForEver(t, path)
	}
	path := filepath.Join(t.TempDir(), "killed.db")
	for round := range 3 {
		ctx, cancel := context.WithCancel(t.Context())
		child := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestKilledWriter$") // a cancelled one is killed
		child.Env = append(os.Environ(), variable+"="+path)
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		acknowledged := int64(-1)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if acknowledged, err = strconv.ParseInt(lines.Text(), 10, 64); err != nil {
				t.Fatal(err)
			}
			if acknowledged%50 == 49 {
				cancel()
			}
		}
		cancel()
		if err := child.Wait(); err == nil {
			t.Fatal("the writer ended by itself")
		}
		s := mustOpen(t, path, sqlitestore.ReadWrite)
		blocks, err := s.Blocks(t.Context(), market.BlockQuery{Series: trades, To: 1e18, Limit: 100_000})
		if err != nil {
			t.Fatal(err)
		}
		if int64(len(blocks)) <= acknowledged || acknowledged < 0 {
			t.Errorf("round %d: %d blocks, but %d was acknowledged", round, len(blocks), acknowledged)
		}
		for i, b := range blocks {
			if b.FirstID != int64(i) {
				t.Fatalf("round %d: block %d has id %d", round, i, b.FirstID)
			}
		}
		if err := s.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func writeForEver(t *testing.T, path string) {
	s := mustOpen(t, path, sqlitestore.ReadWrite)
	next := int64(0)
	if tail, err := s.Tail(t.Context(), trades); err == nil {
		next = tail.LastID + 1
	}
	for id := next; ; id++ {
		if err := s.Write(t.Context(), batchOf(id)); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(id)
	}
}
