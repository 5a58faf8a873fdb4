package market

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/big"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestParseDecimal(t *testing.T) {
	for text, want := range map[string]Decimal{
		"0": 0, "1": 1e8, "0.00000001": 1, "61837.63000000": 6183763000000, "61837.63": 6183763000000,
		"-2.5": -25e7, "00012.10": 1210000000, "1.0000000000": 1e8, "244.566304": 24456630400,
		"92233720368.54775807": math.MaxInt64, "-92233720368.54775807": -math.MaxInt64,
	} {
		got, err := ParseDecimal(text)
		if err != nil || got != want {
			t.Errorf("%q: %d %v, want %d", text, got, err, want)
		}
		if got, err := ParseDecimal([]byte(text)); err != nil || got != want {
			t.Errorf("%q as bytes: %d %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", "-", ".", "1.", ".5", "+1", " 1", "1 ", "1e3", "1,5", "1.2.3", "--1", "0x1", "NaN", "Inf", "٣",
		"0.000000001", "1.000000009", "92233720368.54775808", "92233720369", "99999999999999999999",
		"-92233720368.54775808", strings.Repeat("0", MaxDecimalText+1),
	} {
		if got, err := ParseDecimal(text); KindOf(err) != KindInvalid {
			t.Errorf("%q: %d %v, want an error", text, got, err)
		}
	}
}

// TestDecimalRoundTrip holds Append and ParseDecimal against big.Rat.
func TestDecimalRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := Decimal(rapid.Int64Range(-math.MaxInt64, math.MaxInt64).Draw(t, "d"))
		exact := new(big.Rat).SetFrac64(int64(d), 1e8).FloatString(8)
		if d.String() != exact {
			t.Fatalf("%d is %q, want %q", int64(d), d.String(), exact)
		}
		if back, err := ParseDecimal(exact); err != nil || back != d {
			t.Fatalf("%q: %d %v", exact, back, err)
		}
	})
}

func TestDecimalInJSON(t *testing.T) {
	text, err := json.Marshal([2]Decimal{123, 5e8})
	if err != nil || string(text) != `["0.00000123","5.00000000"]` {
		t.Errorf("%s %v", text, err)
	}
	var back [2]Decimal
	if err := json.Unmarshal(text, &back); err != nil || back != [2]Decimal{123, 5e8} {
		t.Errorf("%v %v", back, err)
	}
	if err := json.Unmarshal([]byte(`["1","x"]`), &back); err == nil {
		t.Error("a decimal x is accepted")
	}
}

func FuzzParseDecimal(f *testing.F) {
	f.Add("61837.63000000")
	f.Add("-0.1")
	f.Fuzz(func(t *testing.T, text string) {
		d, err := ParseDecimal(text)
		exact, ok := new(big.Rat).SetString(text)
		if err != nil {
			return
		}
		if !ok || exact.Cmp(new(big.Rat).SetFrac64(int64(d), 1e8)) != 0 {
			t.Errorf("%q is read as %v", text, d)
		}
	})
}

func TestParseTime(t *testing.T) {
	for text, want := range map[string]Time{
		"0":                              0,
		"1723161255208":                  1723161255208e6,
		"2024-08-08T23:54:15.208Z":       1723161255208e6,
		"2024-08-09T01:54:15.208+02:00":  1723161255208e6,
		"2024-08-08T23:54:15.123456789Z": 1723161255123456789,
		"1970-01-01T00:00:00Z":           0,
	} {
		if got, err := ParseTime(text); err != nil || got != want {
			t.Errorf("%q: %d %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", "yesterday", "-1", "1.5", "2024-08-08", "2024-08-08T23:54:15", "1969-12-31T23:59:59Z", "2200-01-02T00:00:00Z",
		"9999-01-01T00:00:00Z", "9223372036854775807", "99999999999999999999", "2024-13-08T23:54:15Z",
		"7258118400000",
	} {
		if got, err := ParseTime(text); KindOf(err) != KindInvalid {
			t.Errorf("%q: %d %v, want an error", text, got, err)
		}
	}
}

func TestTimeText(t *testing.T) {
	for at, want := range map[Time]string{
		1723161255208e6: "2024-08-08T23:54:15.208Z", 1723161255000000001: "2024-08-08T23:54:15.000000001Z", 0: "1970-01-01T00:00:00Z",
	} {
		text, err := json.Marshal(at)
		if err != nil || string(text) != `"`+want+`"` || at.String() != want {
			t.Errorf("%d: %s %v", at, text, err)
		}
		var back Time
		if err := json.Unmarshal(text, &back); err != nil || back != at {
			t.Errorf("%s: %d %v", text, back, err)
		}
	}
}

func TestTruncateGoesDown(t *testing.T) {
	for at, want := range map[Time]Time{0: 0, 1: 0, 999_999_999: 0, 1e9: 1e9, 1e9 + 1: 1e9, -1: -1e9, -1e9: -1e9} {
		if got := at.Truncate(time.Second); got != want {
			t.Errorf("%d: %d, want %d", at, got, want)
		}
	}
}

func TestMarkets(t *testing.T) {
	for text, want := range map[string]string{
		"binance/BTCUSDT": "binance/BTCUSDT", "binance/btcusdt": "binance/BTCUSDT", "binance/币安人生USDT": "binance/币安人生USDT",
	} {
		m, err := Parse(text)
		if err != nil || m.String() != want {
			t.Errorf("%q: %v %v, want %s", text, m, err, want)
		}
	}
	for _, text := range []string{
		"", "BTCUSDT", "binance/", "kraken/BTCUSDT", "binance/BTC/USDT", "binance/BTC USDT", "binance/BTC@USDT", "binance/BTC\x00",
		"binance/" + strings.Repeat("X", maxSymbolBytes+1),
	} {
		if m, err := Parse(text); KindOf(err) != KindInvalid {
			t.Errorf("%q: %v %v, want an error", text, m, err)
		}
	}
	series := Series{Market: Market{Exchange: Binance, Symbol: "BTCUSDT"}, Stream: Depth}
	if series.String() != "binance/BTCUSDT/depth" {
		t.Error(series)
	}
}

func TestClosedLists(t *testing.T) {
	for _, s := range []Stream{Depth, Trades} {
		if got, err := ParseStream(string(s)); err != nil || got != s {
			t.Errorf("%s: %v %v", s, got, err)
		}
	}
	if _, err := ParseStream("kline"); KindOf(err) != KindInvalid {
		t.Error(err)
	}
	for _, c := range []Cause{CauseSequence, CauseDisconnect, CauseRestart, CauseOverflow, CauseMalformed, CauseCrossed} {
		if got, err := ParseCause(string(c)); err != nil || got != c {
			t.Errorf("%s: %v %v", c, got, err)
		}
	}
	if _, err := ParseCause("gremlins"); KindOf(err) != KindInvalid {
		t.Error(err)
	}
}

func TestKindsTravelThroughWrapping(t *testing.T) {
	read := func() (err error) {
		defer Wrap(&err, "read(%d)", 7)
		return Errorf(KindUnavailable, "socket: %w", io.ErrUnexpectedEOF)
	}
	err := fmt.Errorf("outer: %w", read())
	if KindOf(err) != KindUnavailable || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%v: kind %v", err, KindOf(err))
	}
	if want := "outer: read(7): socket: unexpected EOF"; err.Error() != want {
		t.Errorf("%q, want %q", err, want)
	}
	if KindOf(io.EOF) != KindUnknown || KindOf(nil) != KindUnknown {
		t.Error("an error without a kind has one")
	}
	if again := Errorf(KindCorrupt, "%w", err); KindOf(again) != KindCorrupt {
		t.Error("the outermost kind does not count")
	}
}

// TestMergedEntries: an entry names all ids that its writes named. It calls them held only by a write that named them all.
func TestMergedEntries(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		writes := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Gap {
			g := Gap{LastID: rapid.Int64Range(0, 3).Draw(t, "last")}
			g.Repair = rapid.SampledFrom(append(Repairs(), "")).Draw(t, "repair")
			if g.Repair != "" {
				g.RepairedAt = 1
			}
			return g
		}), 1, 6).Draw(t, "writes")
		stored, last, vouched := writes[0], writes[0].LastID, false
		for _, g := range writes[1:] {
			last = max(last, g.LastID)
			stored = stored.Merge(g)
		}
		for _, g := range writes {
			vouched = vouched || g.LastID == last && g.Repair == RepairBackfilled
		}
		if stored.LastID != last {
			t.Fatalf("up to %d, want %d", stored.LastID, last)
		}
		if stored.Repair == RepairBackfilled && !vouched {
			t.Fatal("ids are called held by writes that did not name them")
		}
		if newest := writes[len(writes)-1]; newest.Repair == RepairBackfilled && newest.LastID == last && stored.Repair != RepairBackfilled {
			t.Fatal("the last write called all of them held")
		}
	})
}
