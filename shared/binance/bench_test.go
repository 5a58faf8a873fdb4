package binance

import (
	"encoding/json"
	"slices"
	"testing"

	"tapedeck/shared/market"
)

// depthJSON and its kind are what a reader built on encoding/json would use. It matches names without regard to case:
// without both of "U" and "u" one would take the other's value.
type depthJSON struct {
	Stream string `json:"stream"`
	Data   struct {
		Event     string      `json:"e"`
		EventTime int64       `json:"E"`
		Symbol    string      `json:"s"`
		FirstID   int64       `json:"U"`
		LastID    int64       `json:"u"`
		Bids      [][2]string `json:"b"`
		Asks      [][2]string `json:"a"`
	} `json:"data"`
}

type tradeJSON struct {
	Stream string `json:"stream"`
	Data   struct {
		Event        string `json:"e"`
		EventTime    int64  `json:"E"`
		Symbol       string `json:"s"`
		ID           int64  `json:"t"`
		TradeTime    int64  `json:"T"`
		Price        string `json:"p"`
		Quantity     string `json:"q"`
		BuyerIsMaker bool   `json:"m"`
		Ignored      bool   `json:"M"`
	} `json:"data"`
}

type tickerJSON struct {
	Stream string `json:"stream"`
	Data   struct {
		UpdateID    int64  `json:"u"`
		Symbol      string `json:"s"`
		BidPrice    string `json:"b"`
		BidQuantity string `json:"B"`
		AskPrice    string `json:"a"`
		AskQuantity string `json:"A"`
	} `json:"data"`
}

// depthExactJSON says what a DepthUpdate says: levels are numbers, not text.
type depthExactJSON struct {
	Stream string `json:"stream"`
	Data   struct {
		Event     string              `json:"e"`
		EventTime int64               `json:"E"`
		Symbol    string              `json:"s"`
		FirstID   int64               `json:"U"`
		LastID    int64               `json:"u"`
		Bids      [][2]market.Decimal `json:"b"`
		Asks      [][2]market.Decimal `json:"a"`
	} `json:"data"`
}

// BenchmarkDecode decodes the bundled recordings; one operation is one frame. The encoding-json cases read the same
// frames into structs and are what the decoder is measured against; all but the exact one leave decimals as text.
func BenchmarkDecode(b *testing.B) {
	recorded := recordedFrames(b)
	mix := slices.Concat(recorded["depth"], recorded["trade"], recorded["ticker"])
	var d Decoder
	decode := func(frame []byte) error {
		_, err := d.Decode(frame, 1)
		return err
	}
	slowly := func(frame []byte) error {
		_, err := d.decodeSlowly(frame, 1)
		return err
	}
	run := func(name string, frames [][]byte, decode func([]byte) error) {
		total := 0
		for _, frame := range frames {
			total += len(frame)
		}
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(total / len(frames)))
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if err := decode(frames[i%len(frames)]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	run("recorded-depth", recorded["depth"], decode)
	run("recorded-trade", recorded["trade"], decode)
	run("recorded-ticker", recorded["ticker"], decode)
	run("recorded-mix", mix, decode)
	run("slow-reader-depth", recorded["depth"], slowly)
	run("encoding-json-depth", recorded["depth"], func(frame []byte) error { return json.Unmarshal(frame, new(depthJSON)) })
	run("encoding-json-depth-exact", recorded["depth"], func(frame []byte) error {
		return json.Unmarshal(frame, new(depthExactJSON))
	})
	run("encoding-json-trade", recorded["trade"], func(frame []byte) error { return json.Unmarshal(frame, new(tradeJSON)) })
	run("encoding-json-ticker", recorded["ticker"], func(frame []byte) error { return json.Unmarshal(frame, new(tickerJSON)) })
}

// BenchmarkRoute finds the stream names of recorded frames.
func BenchmarkRoute(b *testing.B) {
	frames := recordedFrames(b)["depth"]
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if Route(frames[i%len(frames)]) == nil {
			b.Fatal("no stream name")
		}
	}
}

// BenchmarkDecodeSnapshot decodes the recorded snapshot of 1000 levels a side.
func BenchmarkDecodeSnapshot(b *testing.B) {
	body := recordedFrames(b)["snapshot"][0]
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := DecodeSnapshot(body); err != nil {
			b.Fatal(err)
		}
	}
}
