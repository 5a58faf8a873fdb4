package sink

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tapedeck/shared/market"
)

func TestDeadLettersAreBounded(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dead-letters")
	d, err := openDeadLetters(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("the folder is there without a letter")
	}
	d.maxFiles, d.maxBytes = 8, 4000
	large := strings.Repeat("x", 1000)
	for i := range 3 {
		if err := d.keep(fmt.Sprint("large", i), &deadLetter{Record: large}); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.keep("large3", &deadLetter{Record: large}); market.KindOf(err) != market.KindTooLarge {
		t.Errorf("beyond the bound of bytes: %v", err)
	}
	for i := range 5 {
		if err := d.keep(fmt.Sprint("small", i), &deadLetter{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.keep("more", &deadLetter{}); market.KindOf(err) != market.KindTooLarge {
		t.Errorf("beyond the bound of files: %v", err)
	}
	if err := d.keep("small4", &deadLetter{Error: "once more"}); err != nil {
		t.Errorf("the same letter again: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "1.tmp"), nil, 0o600); err != nil { // of a write that a crash cut short
		t.Fatal(err)
	}
	again, err := openDeadLetters(dir)
	if err != nil || again.count() != 8 || again.bytes != d.bytes {
		t.Errorf("opened again: %d files, %d bytes, want %d, %d; %v", again.count(), again.bytes, d.files, d.bytes, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 8 {
		t.Errorf("%d files, %v", len(entries), err)
	}
	for _, name := range []string{"large0.json", "small0.json"} { // by an operator who has dealt with them
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.keep("later", &deadLetter{Record: large}); err != nil {
		t.Errorf("with room again: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "later.json")); err != nil || d.count() != 6 {
		t.Errorf("%d files, %v", d.count(), err)
	}
	if _, err := openDeadLetters(filepath.Join(dir, "small1.json")); market.KindOf(err) != market.KindUnavailable {
		t.Errorf("a file as the folder: %v", err)
	}
}

func TestNamesOfDeadLetters(t *testing.T) {
	for _, c := range []struct {
		batch market.Batch
		kind  string
		name  string
	}{
		{market.Batch{Blocks: []market.Block{blockOf(trades, 1, 2)}}, "block", "binance-BTCUSDT-trades-1-2"},
		{market.Batch{Keyframes: []market.Keyframe{{Market: btcusdt, UpdateID: 7}}}, "keyframe", "binance-BTCUSDT-7"},
		{market.Batch{Gaps: []market.Gap{hole(depth, market.CauseAudit, 3, 4)}}, "gap", "binance-BTCUSDT-depth-3"},
		{market.Batch{Listings: []market.Listing{{Market: btcusdt}}}, "listing", "binance-BTCUSDT"},
		{market.Batch{Statuses: []market.RecorderStatus{{Recorder: "../" + strings.Repeat("名", 99)}}}, "status", "..-" + strings.Repeat("-", 61)},
	} {
		if kind, name, record := describe(&c.batch); kind != c.kind || name != c.name || record == nil {
			t.Errorf("%s %q, want %s %q", kind, name, c.kind, c.name)
		}
	}
}
