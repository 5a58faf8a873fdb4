package sink

import (
	"bytes"
	"encoding/hex"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"tapedeck/shared/market"
)

// TestEncodingKeepsEverything: every field of every record comes back, but for those that the sink makes itself.
func TestEncodingKeepsEverything(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := rapid.Make[market.Batch]().Draw(t, "batch")
		want := delivery{batch: b, received: rapid.Make[market.Time]().Draw(t, "received"), session: rapid.Int64().Draw(t, "session")}
		data, err := encode(&want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := decode(data)
		if err != nil {
			t.Fatal(err)
		}
		want.batch.Spans = nil
		for i := range want.batch.Blocks {
			want.batch.Blocks[i].SpanID = 0
		}
		if !equalDeliveries(&want, &got) {
			t.Fatalf("(-want +got):\n%s", cmp.Diff(want.batch, got.batch))
		}
	})
}

func equalDeliveries(a, b *delivery) bool {
	emptyIsNil := cmp.FilterValues(func(x, y []byte) bool { return len(x) == 0 && len(y) == 0 }, cmp.Ignore())
	none := func(b *market.Batch) *market.Batch {
		c := *b
		if len(c.Blocks) == 0 {
			c.Blocks = nil
		}
		if len(c.Keyframes) == 0 {
			c.Keyframes = nil
		}
		if len(c.Gaps) == 0 {
			c.Gaps = nil
		}
		if len(c.Listings) == 0 {
			c.Listings = nil
		}
		if len(c.Statuses) == 0 {
			c.Statuses = nil
		}
		for i := range c.Statuses {
			if len(c.Statuses[i].Markets) == 0 {
				c.Statuses[i].Markets = nil
			}
		}
		return &c
	}
	return a.received == b.received && a.session == b.session && a.unfinished == b.unfinished && cmp.Equal(none(&a.batch), none(&b.batch), emptyIsNil)
}

// TestEncodingIsTheOneOnDisk: what stands in the spools of those who update must be read by every later version.
func TestEncodingIsTheOneOnDisk(t *testing.T) {
	v := &delivery{received: 7, session: 9, unfinished: true}
	v.batch.Blocks = []market.Block{blockOf(depth, 11, 15)}
	v.batch.Gaps = []market.Gap{{Series: trades, Cause: market.CauseStall, FirstID: 1, LastID: 2, DetectedAt: 3}}
	const onDisk = "a60002010902070381a801836762696e616e63656742544355534454656465707468020b030f040a05192af806193a98070108410105" +
		"81aa01836762696e616e636567425443555344546674726164657302657374616c6c03010402050006000700080009030a0008f5"
	version1 := "a50001" + strings.TrimSuffix(strings.TrimPrefix(onDisk, "a60002"), "08f5")
	data, err := encode(v)
	if err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(data); got != onDisk {
		t.Errorf("encoded as\n%s, not\n%s", got, onDisk)
	}
	for _, text := range []string{version1, onDisk} {
		old, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		v.unfinished = text == onDisk
		got, err := decode(old)
		if err != nil || !equalDeliveries(v, &got) {
			t.Errorf("%s: read as %+v, %v", text, got, err)
		}
		if keys := decodeKeys(old); len(keys) != 1 || keys[0].Series != depth || keys[0].LastID != 15 || keys[0].End != at(15) {
			t.Errorf("%s: keys %+v", text, keys)
		}
	}
}

// TestMemory: all of a standing is remembered.
func TestMemory(t *testing.T) {
	want := memory{settled: 3, standings: map[market.Series]standing{depth: {
		remembered: true, Front: span(depth, 10, 11, 20), Back: span(depth, 1, 2, 3), Keyframe: 4, Received: 5, Session: 6,
		Lost: market.CauseOverflow, Hint: market.CauseStall, Missed: 21, Explained: idRanges{{22, 23}, {25, 26}},
	}}}
	all := reflect.ValueOf(want.standings[depth])
	for i := range all.NumField() {
		if all.Field(i).IsZero() {
			t.Errorf("%s is not set", all.Type().Field(i).Name)
		}
	}
	data, err := encodeMemory(&want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := decodeMemory(data)
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(memory{}, standing{}), ignoreRemembered); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

func TestGarbageIsRefused(t *testing.T) {
	whole, err := encode(sends(0, 1, blockOf(trades, 1, 2)))
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"empty": {}, "text": []byte("hello"), "cut": whole[:len(whole)-1], "more behind": append(bytes.Clone(whole), 0),
		"a version before all": {0xa1, 0x00, 0x00},
		"a huge array":         {0xa2, 0x00, 0x01, 0x03, 0x9a, 0xff, 0xff, 0xff, 0xff},
		"a huge byte string":   {0xa1, 0x03, 0x81, 0xa1, 0x08, 0x5b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
		"arrays in arrays":     bytes.Repeat([]byte{0x81}, 1000),
		"the same key twice":   {0xa2, 0x00, 0x01, 0x00, 0x01},
		"an array with no end": {0xa2, 0x00, 0x01, 0x03, 0x9f, 0xff},
	} {
		if _, err := decode(data); market.KindOf(err) != market.KindCorrupt {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := decodeMemory(data); market.KindOf(err) != market.KindCorrupt {
			t.Errorf("%s as the account: %v", name, err)
		}
		decodeKeys(data)
	}
	if _, err := decode([]byte{0xa2, 0x00, 0x02, 0x08, 0xf5}); market.KindOf(err) != market.KindCorrupt {
		t.Errorf("an unfinished block that is not there: %v", err)
	}
}

// TestNewerVersion: whatever else a newer version writes, it is known as one.
func TestNewerVersion(t *testing.T) {
	for name, data := range map[string][]byte{
		"the same otherwise":  {0xa1, 0x00, 0x03},
		"other kinds of data": {0xa3, 0x00, 0x03, 0x01, 0x61, 'x', 0x03, 0xa0},
	} {
		if _, err := decode(data); !errors.Is(err, errNewer) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := decodeMemory(data); !errors.Is(err, errNewer) {
			t.Errorf("%s as the account: %v", name, err)
		}
		if keys := decodeKeys(data); keys != nil {
			t.Errorf("%s: keys %v", name, keys)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, v := range []*delivery{
		{},
		sends(0, 1, blockOf(trades, 1, 2), hole(depth, market.CauseAudit, 3, 4)),
		{batch: market.Batch{
			Keyframes: []market.Keyframe{{Market: btcusdt, Data: []byte{1}}}, Listings: []market.Listing{{Market: btcusdt}},
			Statuses: []market.RecorderStatus{{Recorder: "r", Markets: []market.MarketStatus{{Market: btcusdt}}}},
		}},
	} {
		data, err := encode(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		decodeKeys(data)
		if m, err := decodeMemory(data); err == nil {
			if _, err := encodeMemory(&m); err != nil {
				t.Fatal(err)
			}
		}
		v, err := decode(data)
		if err != nil {
			return
		}
		again, err := encode(&v)
		if err != nil {
			t.Fatal(err)
		}
		w, err := decode(again)
		if err != nil || !equalDeliveries(&v, &w) {
			t.Fatalf("%+v was encoded and decoded as %+v, %v", v, w, err)
		}
	})
}
