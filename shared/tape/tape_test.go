package tape

import (
	"bytes"
	"encoding/binary"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"tapedeck/shared/market"
)

var sameEvents = cmpopts.EquateEmpty()

func encodeDepth(updates []market.DepthUpdate) market.Block {
	var b DepthBuilder
	for i := range updates {
		b.Append(&updates[i])
	}
	return b.Finish()
}

func encodeTrades(trades []market.Trade) market.Block {
	var b TradeBuilder
	for i := range trades {
		b.Append(&trades[i])
	}
	return b.Finish()
}

// price draws prices as they come: mostly on a tick, now and then finer, rarely extreme.
var price = rapid.OneOf(
	rapid.Map(rapid.Int64Range(1, 2000), func(v int64) market.Decimal { return market.Decimal(v * 1_000_000) }),
	rapid.Map(rapid.Int64Range(1, 2000), func(v int64) market.Decimal { return market.Decimal(v * 1_000_000) }),
	rapid.Map(rapid.Int64Range(1, 4e9), func(v int64) market.Decimal { return market.Decimal(v) }),
	rapid.SampledFrom([]market.Decimal{0, 1, math.MaxInt64, math.MaxInt64 - 1, 1e18}),
)

var quantity = rapid.OneOf(
	rapid.Just(market.Decimal(0)),
	rapid.Map(rapid.Int64Range(1, 1e6), func(v int64) market.Decimal { return market.Decimal(v * 1000) }),
	price,
)

var level = rapid.Custom(func(t *rapid.T) market.Level {
	return market.Level{Price: price.Draw(t, "price"), Quantity: quantity.Draw(t, "quantity")}
})

func drawTime(t *rapid.T, label string) market.Time {
	unit := rapid.SampledFrom([]int64{1, 1e3, 1e6, 1e6, 1e6}).Draw(t, label+" unit")
	return market.Time(rapid.Int64Range(0, 4e18/unit).Draw(t, label) * unit)
}

// TestDepthRoundTrip draws updates in any order of ids, times and levels, with equal prices and odd numbers: what goes
// in comes out, whether or not an exchange would send it.
func TestDepthRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		updates := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) market.DepthUpdate {
			id := rapid.Int64Range(0, math.MaxInt64-1000).Draw(t, "id")
			return market.DepthUpdate{
				FirstID: id, LastID: id + rapid.Int64Range(0, 1000).Draw(t, "span"),
				PrevID:    id - rapid.SampledFrom([]int64{1, 1, 1, 0, 77}).Draw(t, "prev"),
				EventTime: drawTime(t, "event"), RecvTime: drawTime(t, "recv"),
				Bids: rapid.SliceOfN(level, 0, 20).Draw(t, "bids"),
				Asks: rapid.SliceOfN(level, 0, 20).Draw(t, "asks"),
			}
		}), 1, 12).Draw(t, "updates")
		var d Decoder
		var b DepthBuilder
		for range 2 { // the second time with used memory
			for i := range updates {
				b.Append(&updates[i])
			}
			block := b.Finish()
			got, err := d.Depth(block.Data)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(updates, got, sameEvents); diff != "" {
				t.Fatalf("(-in +out)\n%s", diff)
			}
		}
	})
}

func TestTradesRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		trades := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) market.Trade {
			return market.Trade{
				ID:        rapid.Int64Range(0, math.MaxInt64).Draw(t, "id"),
				EventTime: drawTime(t, "event"), RecvTime: drawTime(t, "recv"),
				SentTime: rapid.SampledFrom([]market.Time{0, 1, 1723161255343e6}).Draw(t, "sent"),
				Price:    price.Draw(t, "price"), Quantity: quantity.Draw(t, "quantity"),
				Side:  rapid.SampledFrom([]market.Side{market.Buy, market.Sell}).Draw(t, "side"),
				Flags: rapid.Uint8().Draw(t, "flags"),
			}
		}), 1, 40).Draw(t, "trades")
		var d Decoder
		got, err := d.Trades(encodeTrades(trades).Data)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(trades, got, sameEvents); diff != "" {
			t.Fatalf("(-in +out)\n%s", diff)
		}
	})
}

func TestBookRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bids := rapid.SliceOfN(level, 0, 60).Draw(t, "bids")
		asks := rapid.SliceOfN(level, 0, 60).Draw(t, "asks")
		var d Decoder
		gotBids, gotAsks, err := d.Book(EncodeBook(bids, asks))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([][]market.Level{bids, asks}, [][]market.Level{gotBids, gotAsks}, sameEvents); diff != "" {
			t.Fatalf("(-in +out)\n%s", diff)
		}
	})
}

// TestLargestBook: what the bounds of package market allow to be written can be read.
func TestLargestBook(t *testing.T) {
	bids := make([]market.Level, market.MaxBookLevels)
	asks := make([]market.Level, market.MaxBookLevels)
	for i := range bids {
		quantity := market.Decimal(1 + (i*i*7919)%1e12)
		bids[i] = market.Level{Price: market.Decimal(len(bids) - i), Quantity: quantity}
		asks[i] = market.Level{Price: market.Decimal(len(bids) + 1 + i), Quantity: quantity}
	}
	data := EncodeBook(bids, asks)
	if len(data) > market.MaxBlockBytes {
		t.Fatalf("%d bytes", len(data))
	}
	var d Decoder
	gotBids, gotAsks, err := d.Book(data)
	if err != nil || !slices.Equal(gotBids, bids) || !slices.Equal(gotAsks, asks) {
		t.Errorf("%d bids and %d asks of %d, %v", len(gotBids), len(gotAsks), len(bids), err)
	}
}

func TestBlockSaysWhatItHolds(t *testing.T) {
	block := encodeDepth([]market.DepthUpdate{
		{FirstID: 11, LastID: 14, PrevID: 9, EventTime: 5000},
		{FirstID: 15, LastID: 15, PrevID: 14, EventTime: 4000},
		{FirstID: 16, LastID: 20, PrevID: 15, EventTime: 7000},
	})
	block.Data = nil
	want := market.Block{FirstID: 11, LastID: 20, PrevID: 9, Start: 4000, End: 7000, Events: 3}
	if diff := cmp.Diff(want, block); diff != "" {
		t.Error(diff)
	}
	block = encodeTrades([]market.Trade{{ID: 5, EventTime: 9}, {ID: 6, EventTime: 8}})
	block.Data = nil
	want = market.Block{FirstID: 5, LastID: 6, PrevID: 4, Start: 8, End: 9, Events: 2}
	if diff := cmp.Diff(want, block); diff != "" {
		t.Error(diff)
	}
}

// samples returns one block of each kind, with every kind of column in use.
func samples() map[string][]byte {
	var levels []market.Level
	for i := range 3000 {
		levels = append(levels, market.Level{Price: market.Decimal((9000 - i) * 1_000_000), Quantity: market.Decimal(i%97) * 1000})
	}
	levels[7].Quantity++ // finer than the lot
	updates := make([]market.DepthUpdate, 12)
	for i := range updates {
		id := int64(100 + 10*i)
		updates[i] = market.DepthUpdate{
			FirstID: id, LastID: id + 9, PrevID: id - 1, EventTime: 1723161255343e6, RecvTime: 1723161254000000123 + market.Time(i)*1e8,
			Bids: levels[i*10 : 400+i*20], Asks: []market.Level{levels[3], levels[2], levels[2]},
		}
	}
	trades := make([]market.Trade, 300)
	for i := range trades {
		trades[i] = market.Trade{ID: int64(i), EventTime: 1e18, SentTime: 1e18 + 1e6, RecvTime: market.Time(i), Price: 5e8, Quantity: market.Decimal(i) * 1e5, Side: market.Sell, Flags: 1}
	}
	return map[string][]byte{
		"depth": encodeDepth(updates).Data, "trades": encodeTrades(trades).Data, "book": EncodeBook(levels, levels[:0]),
	}
}

// decodeAny tries all three decoders and returns the errors.
func decodeAny(d *Decoder, data []byte) [3]error {
	_, depth := d.Depth(data)
	_, trades := d.Trades(data)
	_, _, book := d.Book(data)
	return [3]error{depth, trades, book}
}

func TestHarmedBytesAreAnError(t *testing.T) {
	var d Decoder
	for name, whole := range samples() {
		failures := 0
		for _, err := range decodeAny(&d, whole) {
			if err != nil {
				failures++
			}
		}
		if failures != 2 {
			t.Fatalf("%s: %d decoders refuse it, want the other two", name, failures)
		}
		check := func(what string, data []byte) {
			t.Helper()
			for _, err := range decodeAny(&d, data) {
				if market.KindOf(err) != market.KindCorrupt {
					t.Fatalf("%s, %s: %v, want a corrupt block", name, what, err)
				}
			}
		}
		for i := 0; i < len(whole); i += 1 + len(whole)/200 {
			harmed := bytes.Clone(whole)
			harmed[i] ^= 0x10
			check("one bit turned", harmed)
			check("cut", whole[:i])
		}
		check("longer", append(bytes.Clone(whole), 0))
	}
}

// TestHostileBlocks seals what no encoder writes, so that only the decoder's own checks stand in the way.
func TestHostileBlocks(t *testing.T) {
	uvarints := func(kind byte, vs ...uint64) []byte {
		b := []byte{version, kind}
		for _, v := range vs {
			b = binary.AppendUvarint(b, v)
		}
		return b
	}
	huge := func(head []byte) []byte { // a column that says that it repeats a byte a million times
		return binary.AppendUvarint(append(head, formRepeated), maxBookColumnBytes)
	}
	for name, data := range map[string][]byte{
		"unknown version":   {version + 1, kindDepth},
		"no events":         uvarints(kindDepth, 0, 0, 0, 0, 0, 0, 1, 1, 1),
		"too many events":   uvarints(kindDepth, market.MaxBlockEvents+1),
		"too many levels":   uvarints(kindDepth, 1, market.MaxBlockLevels, 1),
		"unit out of range": uvarints(kindTrades, 1, 99, 0, 0),
		"endless number":    append([]byte{version, kindTrades}, bytes.Repeat([]byte{0xff}, 20)...),
		"book without data": uvarints(kindBook, market.MaxBookLevels, 0, 0, 0),
		"huge column":       append(huge(uvarints(kindBook, 5, 5, 0, 0)), 0),
		"column too large":  binary.AppendUvarint(append(uvarints(kindBook, 5, 5, 0, 0), formRaw), maxBookColumnBytes+1),
		"form unknown":      append(uvarints(kindBook, 5, 5, 0, 0), 99, 1, 1),
		"bad huffman":       append(uvarints(kindBook, 5, 5, 0, 0), formHuffman, 9, 3, 1, 2, 3),
		"bad zstd":          append(uvarints(kindBook, 5, 5, 0, 0), formZstd, 9, 3, 1, 2, 3),
	} {
		t.Run(name, func(t *testing.T) {
			var d Decoder
			for _, err := range decodeAny(&d, seal(data)) {
				if market.KindOf(err) != market.KindCorrupt || strings.Contains(err.Error(), "checksum") {
					t.Errorf("%v, want a corrupt block found behind its checksum", err)
				}
			}
		})
	}
}

// FuzzDecode gives the decoders any bytes, unsealed and sealed: an error or a result that encodes again to what it was,
// never a panic.
func FuzzDecode(f *testing.F) {
	for _, data := range samples() {
		f.Add(data[:len(data)-checksumBytes])
	}
	f.Add([]byte{version, kindBook, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		var d, again Decoder
		_ = decodeAny(&d, data)
		sealed := seal(bytes.Clone(data))
		if updates, err := d.Depth(sealed); err == nil {
			got, err := again.Depth(encodeDepth(updates).Data)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(updates, got, sameEvents); diff != "" {
				t.Fatal(diff)
			}
		}
		if trades, err := d.Trades(sealed); err == nil {
			got, err := again.Trades(encodeTrades(trades).Data)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(trades, got, sameEvents); diff != "" {
				t.Fatal(diff)
			}
		}
		if bids, asks, err := d.Book(sealed); err == nil {
			gotBids, gotAsks, err := again.Book(EncodeBook(bids, asks))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([][]market.Level{bids, asks}, [][]market.Level{gotBids, gotAsks}, sameEvents); diff != "" {
				t.Fatal(diff)
			}
		}
	})
}
