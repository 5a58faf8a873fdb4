package binance

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"tapedeck/shared/market"
	"tapedeck/shared/recording"
)

// readFrames returns all frames of recordings by kind: depth, trade, ticker and snapshot.
func readFrames(names ...string) (map[string][][]byte, error) {
	r, err := recording.Open(names...)
	if err != nil {
		return nil, err
	}
	frames := map[string][][]byte{}
	for {
		line, err := r.Next()
		if errors.Is(err, io.EOF) {
			return frames, r.Close()
		}
		if err != nil {
			return nil, errors.Join(err, r.Close())
		}
		kind := "snapshot"
		if name := string(Route(line.Frame)); name != "" {
			_, stream, _ := strings.Cut(name, "@")
			kind, _, _ = strings.Cut(stream, "@")
			kind = strings.Replace(kind, "bookTicker", "ticker", 1)
		}
		frames[kind] = append(frames[kind], bytes.Clone(line.Frame))
	}
}

var bundledFrames = sync.OnceValues(func() (map[string][][]byte, error) { return readFrames(recording.Bundled()...) })

// recordedFrames returns the frames of the bundled recordings by kind. They are read once and must not be changed.
func recordedFrames(tb testing.TB) map[string][][]byte {
	tb.Helper()
	frames, err := bundledFrames()
	if err != nil {
		tb.Fatal(err)
	}
	return frames
}

// TestRecordedFrames decodes every recorded frame and compares all that it says with a generic reading of its JSON.
func TestRecordedFrames(t *testing.T) {
	recorded := recordedFrames(t)
	for kind, want := range map[string]int{"depth": 6495, "trade": 19904, "ticker": 73174, "snapshot": 1} {
		if got := len(recorded[kind]); got != want {
			t.Errorf("%d frames of kind %s, want %d", got, kind, want)
		}
	}
	compareRecorded(t, recorded)
}

// TestFuturesFrames does the same on recordings of USD-M futures, which are not bundled.
func TestFuturesFrames(t *testing.T) {
	const variable = "TAPEDECK_RECORDINGS"
	dir := os.Getenv(variable)
	if dir == "" {
		t.Skip(variable + " does not name a folder with more recordings (usdm_*.gz)")
	}
	names, err := filepath.Glob(filepath.Join(dir, "usdm_*.gz"))
	if err != nil {
		t.Fatal(err)
	}
	if len(names) == 0 {
		t.Skipf("no usdm_*.gz in %s=%s", variable, dir)
	}
	recorded, err := readFrames(names...)
	if err != nil {
		t.Fatal(err)
	}
	compareRecorded(t, recorded)
}

func compareRecorded(t *testing.T, recorded map[string][][]byte) {
	t.Helper()
	var d Decoder
	for _, kind := range []string{"depth", "trade", "ticker"} {
		for i, frame := range recorded[kind] {
			if !d.scan(frame) {
				t.Fatalf("%s %d is left to the slow reader: %.200s", kind, i, frame)
			}
			event, err := d.Decode(frame, market.Time(i))
			if err != nil {
				t.Fatalf("%s %d: %v", kind, i, err)
			}
			if got, want := said(event, market.Time(i)), generic(t, frame); got != want {
				t.Fatalf("%s %d: %.200s\n got %.300s\nwant %.300s", kind, i, frame, got, want)
			}
		}
	}
	for _, body := range recorded["snapshot"] {
		s, err := DecodeSnapshot(body)
		if err != nil {
			t.Fatal(err)
		}
		var want map[string]any
		unmarshal(t, body, &want)
		got := fmt.Sprintln(s.LastID, sideOf(s.Bids), sideOf(s.Asks))
		if want := fmt.Sprintln(want["lastUpdateId"], genericSide(want["bids"]), genericSide(want["asks"])); got != want {
			t.Errorf("snapshot\n got %.300s\nwant %.300s", got, want)
		}
	}
}

// said writes down an event in the exchange's words. recv is the time that it must be stamped with.
func said(e Event, recv market.Time) string {
	ms := func(t market.Time) int64 { return t.Std().UnixMilli() }
	switch {
	case e.Depth != nil && e.Depth.RecvTime == recv:
		u := e.Depth
		return fmt.Sprintln("depth", e.Symbol, ms(u.EventTime), u.FirstID, u.LastID, u.PrevID, sideOf(u.Bids), sideOf(u.Asks))
	case e.Trade != nil && e.Trade.RecvTime == recv:
		x := e.Trade
		return fmt.Sprintln("trade", e.Symbol, x.ID, ms(x.SentTime), ms(x.EventTime), x.Price, x.Quantity, x.Side == market.Sell, x.Flags == market.TradeFlagM)
	case e.Ticker != nil:
		x := e.Ticker
		return fmt.Sprintln("ticker", e.Symbol, x.UpdateID, x.Bid.Price, x.Bid.Quantity, x.Ask.Price, x.Ask.Quantity)
	}
	return fmt.Sprintf("%+v", e)
}

// generic writes down what a frame says, read by encoding/json alone, in the form of said.
func generic(t *testing.T, frame []byte) string {
	t.Helper()
	var wrapper struct {
		Data map[string]any `json:"data"`
	}
	unmarshal(t, frame, &wrapper)
	x := wrapper.Data
	switch x["e"] {
	case "depthUpdate":
		prevID, ok := x["pu"]
		if !ok {
			first, err := x["U"].(json.Number).Int64()
			if err != nil {
				t.Fatal(err)
			}
			prevID = first - 1
		}
		return fmt.Sprintln("depth", x["s"], x["E"], x["U"], x["u"], prevID, genericSide(x["b"]), genericSide(x["a"]))
	case "trade":
		return fmt.Sprintln("trade", x["s"], x["t"], x["E"], x["T"], padded(x["p"]), padded(x["q"]), x["m"], x["M"] == true)
	}
	return fmt.Sprintln("ticker", x["s"], x["u"], padded(x["b"]), padded(x["B"]), padded(x["a"]), padded(x["A"]))
}

// unmarshal reads JSON without making floats of its numbers.
func unmarshal(t *testing.T, text []byte, to any) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := d.Decode(to); err != nil {
		t.Fatal(err)
	}
}

// padded returns a decimal with eight decimals, by its text alone.
func padded(text any) string {
	whole, decimals, _ := strings.Cut(text.(string), ".")
	return whole + "." + decimals + strings.Repeat("0", 8-len(decimals))
}

func genericSide(levels any) string {
	var b strings.Builder
	for _, level := range levels.([]any) {
		pair := level.([]any)
		b.WriteString(padded(pair[0]) + ":" + padded(pair[1]) + ";")
	}
	return b.String()
}

func sideOf(levels []market.Level) string {
	var b strings.Builder
	for _, l := range levels {
		b.WriteString(l.Price.String() + ":" + l.Quantity.String() + ";")
	}
	return b.String()
}
