package main

import (
	"bytes"
	"context"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tapedeck/shared/market"
	"tapedeck/shared/sqlitestore"
	"tapedeck/shared/tape"
	"tapedeck/shared/verify"
)

var btcusdt = market.Market{Exchange: market.Binance, Symbol: "BTCUSDT"}

const begin = market.Time(1_700_000_000 * time.Second)

// stored returns the file of a store with three trades; change is applied to the records before they are written.
func stored(t *testing.T, change func(*market.Batch)) string {
	t.Helper()
	var builder tape.TradeBuilder
	for i := range int64(3) {
		builder.Append(&market.Trade{ID: 500 + i, EventTime: begin + market.Time(i), Price: 1, Quantity: 1, Side: market.Buy})
	}
	b := builder.Finish()
	b.Series, b.SpanID = market.Series{Market: btcusdt, Stream: market.Trades}, b.FirstID
	batch := &market.Batch{
		Blocks: []market.Block{b},
		Spans: []market.Span{{
			Series: b.Series, FirstID: b.FirstID, PrevID: b.PrevID, LastID: b.LastID, Start: b.Start, End: b.End,
		}},
		Listings: []market.Listing{{Market: btcusdt, Status: "TRADING"}},
	}
	if change != nil {
		change(batch)
	}
	file := filepath.Join(t.TempDir(), "tapedeck.db")
	s, err := sqlitestore.Open(t.Context(), file, sqlitestore.ReadWrite)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Write(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	return file
}

// call runs the command with an environment of KEY=value.
func call(ctx context.Context, env []string, args ...string) (code int, stdout, stderr string) {
	lookup := func(name string) (string, bool) {
		for _, entry := range env {
			if key, value, _ := strings.Cut(entry, "="); key == name {
				return value, true
			}
		}
		return "", false
	}
	var out, errs bytes.Buffer
	code = command(ctx, args, lookup, &out, &errs)
	return code, out.String(), errs.String()
}

func TestExitStatus(t *testing.T) {
	good := stored(t, nil)
	damaged := stored(t, func(b *market.Batch) { b.Blocks[0].Data[4] ^= 1 })
	tests := []struct {
		name   string
		env    []string
		args   []string
		code   int
		stdout string // part of it
		stderr string
	}{
		{"good", []string{"SQLITE_PATH=" + good}, nil, exitHolds, "All holds: 3 events, 0 problems", ""},
		{"flag before environment", []string{"MONGODB_URI=mongodb://h"}, []string{"-sqlite", good}, exitHolds, "All holds", ""},
		{"named", nil, []string{"-sqlite", good, "-market", "binance/btcusdt"}, exitHolds, "binance/BTCUSDT trades", ""},
		{"quiet", nil, []string{"-sqlite", good, "-quiet"}, exitHolds, "All holds", ""},
		{"damaged", nil, []string{"-sqlite", damaged}, exitDoesNotHold, "PROBLEM checksum (1)", ""},
		{"damaged, quiet", nil, []string{"-sqlite", damaged, "-quiet"}, exitDoesNotHold, "What to do: restore", ""},
		{"help", nil, []string{"-help"}, exitHolds, "", "-mongodb-uri"},
		{"no store", nil, nil, exitUsage, "", "SQLITE_PATH"},
		{"two stores", nil, []string{"-sqlite", good, "-mongodb-uri", "mongodb://h"}, exitUsage, "", "only one"},
		{"unknown exchange", nil, []string{"-sqlite", good, "-market", "nowhere/X"}, exitUsage, "", "nowhere"},
		{"no time", nil, []string{"-sqlite", good, "-start", "noon"}, exitUsage, "", "noon"},
		{"times in the wrong order", nil, []string{"-sqlite", good, "-start", "20", "-end", "10"}, exitUsage, "", "not after"},
		{"a word too many", nil, []string{"-sqlite", good, "all"}, exitUsage, "", "all"},
		{"no file", nil, []string{"-sqlite", good + "x"}, exitUnread, "NOT ALL WAS READ", "unable to open"},
		{"no such market", nil, []string{"-sqlite", good, "-market", "binance/ETHUSDT"}, exitUnread, "NOT ALL", "ETHUSDT"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			code, stdout, stderr := call(t.Context(), test.env, test.args...)
			if code != test.code || !strings.Contains(stdout, test.stdout) || !strings.Contains(stderr, test.stderr) {
				t.Errorf("exit status %d\n%s\n%s", code, stdout, stderr)
			}
		})
	}
}

func TestInterrupted(t *testing.T) {
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	code, stdout, stderr := call(canceled, nil, "-sqlite", stored(t, nil))
	if code != exitUnread || !strings.Contains(stdout, "NOT ALL") || !strings.Contains(stderr, "canceled") {
		t.Errorf("exit status %d\n%s\n%s", code, stdout, stderr)
	}
}

func TestJSON(t *testing.T) {
	file := stored(t, func(b *market.Batch) { b.Spans[0].PrevID-- })
	code, stdout, _ := call(t.Context(), nil, "-sqlite", file, "-json")
	var report verify.Report
	if err := json.Unmarshal([]byte(stdout), &report); err != nil {
		t.Fatal(err)
	}
	f := report.Markets[0].Streams[1].Problems[0]
	if code != exitDoesNotHold || !report.Complete || report.Problems != 1 || f.Code != verify.SpanDiffers ||
		f.Listed[0].FirstID != 500 || f.Listed[0].Time != begin {
		t.Errorf("exit status %d, %s", code, stdout)
	}
}

func TestProgress(t *testing.T) {
	var out bytes.Buffer
	now := time.Unix(100, 0)
	p := newProgress(&out, func() time.Time { return now })
	series := market.Series{Market: btcusdt, Stream: market.Depth}
	for i := range int64(7) { // a page a second
		p.show(verify.Progress{Series: series, At: begin.Add(time.Duration(i) * time.Minute), Events: 1000 * i, Bytes: 2000 * i})
		now = now.Add(time.Second)
	}
	want := `binance/BTCUSDT/depth 2023-11-14T22:16:20Z: 3,000 events so far, 1,000 events/s, 2,000 bytes/s
binance/BTCUSDT/depth 2023-11-14T22:19:20Z: 6,000 events so far, 1,000 events/s, 2,000 bytes/s
`
	if out.String() != want {
		t.Errorf("%s", out.String())
	}
}
