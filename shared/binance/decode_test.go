package binance

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"tapedeck/shared/market"
)

const recv = market.Time(42)

func dec(s string) market.Decimal {
	d, err := market.ParseDecimal(s)
	if err != nil {
		panic(err)
	}
	return d
}

// lv makes levels of "price quantity" pairs.
func lv(pairs ...string) []market.Level {
	levels := []market.Level{}
	for _, pair := range pairs {
		price, quantity, _ := strings.Cut(pair, " ")
		levels = append(levels, market.Level{Price: dec(price), Quantity: dec(quantity)})
	}
	return levels
}

func wrap(data string) string { return `{"stream":"btcusdt@x","data":` + data + `}` }

const (
	depthFrame  = `{"e":"depthUpdate","E":1723161255208,"s":"BTCUSDT","U":5,"u":9,"b":[["61737.63000000","0.00000000"]],"a":[]}`
	tradeFrame  = `{"e":"trade","E":1723161255343,"s":"BTCUSDT","t":3735683259,"p":"61837.63000000","q":"0.02000000","T":1723161255342,"m":true,"M":true}`
	tickerFrame = `{"u":50093239212,"s":"BTCUSDT","b":"61837.63000000","B":"3.78826000","a":"61837.64000000","A":"1.54698000"}`
)

func depthEvent() Event {
	return Event{Symbol: "BTCUSDT", Depth: &market.DepthUpdate{
		FirstID: 5, LastID: 9, PrevID: 4, EventTime: 1723161255208e6, RecvTime: recv,
		Bids: lv("61737.63 0"), Asks: lv(),
	}}
}

func tradeEvent() Event {
	return Event{Symbol: "BTCUSDT", Trade: &market.Trade{
		ID: 3735683259, EventTime: 1723161255342e6, SentTime: 1723161255343e6, RecvTime: recv,
		Price: dec("61837.63"), Quantity: dec("0.02"), Side: market.Sell, Flags: market.TradeFlagM,
	}}
}

func tickerEvent() Event {
	return Event{Symbol: "BTCUSDT", Ticker: &market.Ticker{
		UpdateID: 50093239212, Bid: lv("61837.63 3.78826")[0], Ask: lv("61837.64 1.54698")[0],
	}}
}

func edit(event Event, edit func(*Event)) Event {
	edit(&event)
	return event
}

// goodFrames are frames with what they decode to.
func goodFrames() []struct {
	name, frame string
	want        Event
} {
	return []struct {
		name, frame string
		want        Event
	}{
		{"depth", depthFrame, depthEvent()},
		{"trade", tradeFrame, tradeEvent()},
		{"ticker", tickerFrame, tickerEvent()},
		{"depth, wrapped", wrap(depthFrame), depthEvent()},
		{"trade, wrapped", wrap(tradeFrame), tradeEvent()},
		{"ticker, wrapped", wrap(tickerFrame), tickerEvent()},
		{"wrapper the other way round", `{"data":` + tradeFrame + `,"stream":"btcusdt@trade"}`, tradeEvent()},
		{"wrapper with more in it", `{"stream":"x","data":` + tradeFrame + `,"more":{"e":1}}`, tradeEvent()},
		{"escaped stream name", `{"stream":"\u0062\"","data":` + tradeFrame + `}`, tradeEvent()},
		{"white space", strings.NewReplacer(":", " :\t", ",", " ,\r\n ", "[", "[ ", "}", " }\n").Replace(wrap(depthFrame)), depthEvent()},
		{"keys in another order", `{"a":[],"b":[["61737.63000000","0.00000000"]],"u":9,"U":5,"s":"BTCUSDT","E":1723161255208,"e":"depthUpdate"}`, depthEvent()},
		{"unknown scalars", depthFrame[:len(depthFrame)-1] + `,"st":1,"ps":"BTC","x":null,"y":true,"Q":"-1","":0,"n":-1.5e3}`, depthEvent()},
		{"unknown nested values", `{"k":{"e":"trade","b":[[1,{}]]},"l":[{"U":1}],` + depthFrame[1:], depthEvent()},
		{"letters of other events", depthFrame[:len(depthFrame)-1] + `,"t":"not an id","p":[],"q":{},"m":"yes","T":false}`, depthEvent()},
		{"escapes", strings.NewReplacer("depthUpdate", `depth\u0055pdate`, `"s"`, `"\u0073"`, "BTC", `\u0042TC`, ".63", `\u002e63`).Replace(depthFrame), depthEvent()},
		{"the last of two counts", `{"U":1,"b":[["1","1"]],` + depthFrame[1:], depthEvent()},
		{"microseconds", strings.NewReplacer("1723161255342", "1723161255342789", "1723161255343", "1723161255343001").Replace(tradeFrame), edit(tradeEvent(), func(e *Event) {
			e.Trade.EventTime, e.Trade.SentTime = 1723161255342789e3, 1723161255343001e3
		})},
		{"non-ASCII symbol", strings.Replace(tickerFrame, "BTC", "币安人生", 1), edit(tickerEvent(), func(e *Event) { e.Symbol = "币安人生USDT" })},
		{"escaped non-ASCII symbol", strings.Replace(tickerFrame, "BTC", `\u5e01\ud83d\ude80`, 1), edit(tickerEvent(), func(e *Event) { e.Symbol = "币🚀USDT" })},
		{"futures", strings.Replace(depthFrame, `"u":9`, `"T":1723161255200,"u":9,"pu":2`, 1), edit(depthEvent(), func(e *Event) { e.Depth.PrevID = 2 })},
		{"first id of all", strings.Replace(depthFrame, `"U":5`, `"U":0`, 1), edit(depthEvent(), func(e *Event) { e.Depth.FirstID, e.Depth.PrevID = 0, -1 })},
		{"many kinds of decimals", strings.Replace(depthFrame, `"a":[]`, `"a":[["5","0"],["0.00000001","1.5"],["9999999.12345678","1234567.00000001"],["12345678.1","99999999.99999999"],["92233720367.99999999","10000000000.0"],["00012.50","1.000000000000"]]`, 1), edit(depthEvent(), func(e *Event) {
			e.Depth.Asks = lv("5 0", "0.00000001 1.5", "9999999.12345678 1234567.00000001", "12345678.1 99999999.99999999", "92233720367.99999999 10000000000.0", "12.5 1")
		})},
		{"many units", strings.Replace(depthFrame, `0.00000000`, `92233720367.99999999`, 1), edit(depthEvent(), func(e *Event) { e.Depth.Bids = lv("61737.63 92233720367.99999999") })},
		{"taker bought, no M", strings.Replace(tradeFrame, `"m":true,"M":true`, `"m":false`, 1), edit(tradeEvent(), func(e *Event) { e.Trade.Side, e.Trade.Flags = market.Buy, 0 })},
		{"trade with order ids, as before June 2024", strings.Replace(tradeFrame, `"T"`, `"b":88,"a":50,"T"`, 1), tradeEvent()},
		{"futures trade", strings.Replace(tradeFrame, `"m"`, `"X":"MARKET","m"`, 1), tradeEvent()},
		{"futures ticker", `{"e":"bookTicker","T":1721347022507,"E":1721347022507,` + tickerFrame[1:], tickerEvent()},
		{"ticker of an empty book", `{"u":1,"s":"X","b":"0.00000000","B":"0.00000000","a":"0.00000000","A":"0.00000000"}`, Event{Symbol: "X", Ticker: &market.Ticker{UpdateID: 1}}},
		{"subscribed", `{"result":null,"id":1}`, Event{Reply: &Reply{ID: 1, Result: []byte("null")}}},
		{"subscriptions", `{"id":9223372036854775807, "result":["btcusdt@trade"]}`, Event{Reply: &Reply{ID: 9223372036854775807, Result: []byte(`["btcusdt@trade"]`)}}},
		{"reply to an id that is text", `{"result":true,"id":"abc"}`, Event{Reply: &Reply{Result: []byte("true")}}},
		{"refused", `{"code":2,"msg":"Invalid request: too many parameters"}`, Event{Reply: &Reply{Code: 2, Message: "Invalid request: too many parameters"}}},
		{"refused with id", `{"code":0,"msg":"Unknown property","id":5}`, Event{Reply: &Reply{ID: 5, Message: "Unknown property"}}},
		{"refused in an object", `{"error":{"code":-1,"msg":"no"},"id":5}`, Event{Reply: &Reply{ID: 5, Code: -1, Message: "no"}}},
		{"refused without a word", `{"error":{},"id":null}`, Event{Reply: &Reply{Message: "no message"}}},
		{"shutdown", `{"e":"serverShutdown","E":1770123456789}`, Event{Notice: &Shutdown{EventTime: 1770123456789e6}}},
		{"shutdown, wrapped", `{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1770123456789}}`, Event{Notice: &Shutdown{EventTime: 1770123456789e6}}},
		{"shutdown without a time", `{"e":"serverShutdown"}`, Event{Notice: &Shutdown{}}},
		{"partial depth", `{"lastUpdateId":160,"bids":[["0.0024","10"]],"asks":[]}`, Event{Other: OtherPartialDepth}},
		{"partial depth, wrapped", wrap(`{"lastUpdateId":160,"bids":[["0.0024","10"]],"asks":[]}`), Event{Other: OtherPartialDepth}},
		{"kline", wrap(`{"e":"kline","E":1,"s":"BNBBTC","k":{"t":1,"x":false}}`), Event{Symbol: "BNBBTC", Other: "kline"}},
		{"24 h ticker", `{"e":"24hrTicker","E":1,"s":"BNBBTC","p":"-0.0015","b":"1","B":"1","a":"1","A":"1","u":1}`, Event{Symbol: "BNBBTC", Other: "24hrTicker"}},
		{"all markets", wrap(`[{"e":"24hrMiniTicker"}]`), Event{Other: OtherArray}},
		{"all markets, raw", ` []`, Event{Other: OtherArray}},
	}
}

func TestDecode(t *testing.T) {
	var d Decoder // one for all: nothing may be left over from the frame before
	for _, c := range goodFrames() {
		t.Run(c.name, func(t *testing.T) {
			got, err := d.Decode([]byte(c.frame), recv)
			if err != nil {
				t.Fatal(err)
			}
			if show(got) != show(c.want) {
				t.Errorf("%s\n got %s\nwant %s", c.frame, show(got), show(c.want))
			}
		})
	}
}

// show prints an event with all that its pointers lead to, exactly. Whether an empty side is nil does not matter.
func show(e Event) string {
	return fmt.Sprintf("%q %+v %+v %+v %+v %+v %q", e.Symbol, e.Depth, e.Trade, e.Ticker, e.Reply, e.Notice, e.Other)
}

// badFrames are frames that cannot be decoded, with a part of what the error says.
func badFrames() []struct{ name, frame, want string } {
	depth := func(old, now string) string { return strings.Replace(depthFrame, old, now, 1) }
	trade := func(old, now string) string { return strings.Replace(tradeFrame, old, now, 1) }
	ticker := func(old, now string) string { return strings.Replace(tickerFrame, old, now, 1) }
	return []struct{ name, frame, want string }{
		{"empty", "", "frame of 0 bytes"},
		{"HTML", "<html><body>502</body></html>", "<html>"},
		{"cut off", depthFrame[:60], "frame of 60 bytes"},
		{"two frames", tickerFrame + tickerFrame, "after top-level value"},
		{"a number", "17", "17"},
		{"null", "null", "no object"},
		{"nothing known", `{}`, "neither an event nor a reply"},
		{"null data", `{"stream":"x","data":null}`, "neither an event nor a reply"},
		{"not UTF-8", ticker("BTC", "\xff"), "not UTF-8"},
		{"control character", ticker("BTC", "\x01"), "invalid character"},
		{"broken array", `[1,`, "unexpected end"},
		{"e is a number", depth(`"depthUpdate"`, `5`), "field e"},
		{"e is empty", depth(`depthUpdate`, ``), "empty name"},
		{"no event time", depth(`"E":1723161255208,`, ``), "depth update without E"},
		{"event time null", depth(`1723161255208`, `null`), "depth update without E"},
		{"event time 0", depth(`1723161255208`, `0`), "time 0 is"},
		{"event time negative", depth(`1723161255208`, `-5`), "time -5 is"},
		{"event time in seconds' fraction", depth(`1723161255208`, `1723161255.208`), "field E"},
		{"event time in nanoseconds", depth(`1723161255208`, `1723161255208000000`), "time 1723161255208000000 is"},
		{"event time of 14 digits", depth(`1723161255208`, `17231612552080`), "time 17231612552080 is"},
		{"event time is text", depth(`1723161255208`, `"1723161255208"`), "field E"},
		{"no symbol", depth(`"s":"BTCUSDT",`, ``), "without s"},
		{"empty symbol", depth(`BTCUSDT`, ``), "empty symbol"},
		{"only u", depth(`"U":5,`, ``), "without U"},
		{"only U", depth(`"u":9,`, ``), "without u"},
		{"no sides", depth(`"b":[["61737.63000000","0.00000000"]],"a":[]`, `"x":1`), "without b, a"},
		{"side is null", depth(`"a":[]`, `"a":null`), "without a"},
		{"ids the wrong way round", depth(`"U":5`, `"U":10`), "from id 10 down to 9"},
		{"negative id", depth(`"U":5`, `"U":-5`), "negative id"},
		{"id with leading zero", depth(`"U":5`, `"U":05`), "invalid character"},
		{"id too large", depth(`"u":9`, `"u":9223372036854775808`), "field u"},
		{"pu behind u", depth(`"u":9`, `"u":9,"pu":9`), "to id 9 behind 9"},
		{"negative pu", depth(`"u":9`, `"u":9,"pu":-1`), "negative id"},
		{"side is no array", depth(`"a":[]`, `"a":{}`), "levels"},
		{"level is a string", depth(`"a":[]`, `"a":["1"]`), "levels"},
		{"level of one", depth(`"a":[]`, `"a":[["1"]]`), "level 0 has 1 parts"},
		{"level of three", depth(`"a":[]`, `"a":[["1","2"],["1","2","3"]]`), "level 1 has 3 parts"},
		{"level null", depth(`"a":[]`, `"a":[null]`), "level 0 has 0 parts"},
		{"level of numbers", depth(`"a":[]`, `"a":[[1.5,2]]`), "levels"},
		{"level without price", depth(`"a":[]`, `"a":[[null,"2"]]`), "level 0: decimal of 0 bytes"},
		{"levels end in a comma", depth(`"a":[]`, `"a":[["1","2"],]`), "invalid character"},
		{"price 0", depth(`61737.63000000`, `00000.00000000`), "price is zero"},
		{"negative price", depth(`61737.63000000`, `-1737.63000000`), `"-1737.63000000" is negative`},
		{"negative quantity", depth(`0.00000000`, `-0.00000001`), "negative"},
		{"nine decimals", depth(`0.00000000`, `0.000000001`), "more than 8 decimals"},
		{"quantity out of range", depth(`0.00000000`, `92233720368547.00000000`), "out of range"},
		{"exponent", depth(`0.00000000`, `1e8`), "decimal"},
		{"point at the end", depth(`61737.63000000`, `61737.`), "decimal"},
		{"point at the start", depth(`61737.63000000`, `.63000000`), "decimal"},
		{"two points", depth(`61737.63000000`, `61.37.63000000`), "decimal"},
		{"letter before the point", depth(`61737.63000000`, `6173x.63000000`), "decimal"},
		{"letter behind the point", depth(`61737.63000000`, `61737.6300000x`), "decimal"},
		{"spaced decimal", depth(`61737.63000000`, ` 61737.6300000`), "decimal"},
		{"plus sign", depth(`61737.63000000`, `+1737.63000000`), "decimal"},
		{"non-ASCII digit", depth(`61737.63000000`, `٦1737.63000000`), "decimal"},
		{"trade without id", trade(`"t":3735683259,`, ``), "trade without t"},
		{"trade with negative id", trade(`3735683259`, `-3735683259`), "negative id"},
		{"trade without price and side", trade(`"p":"61837.63000000",`, ``)[:90] + `}`, "trade without"},
		{"trade without side", trade(`"m":true,`, ``), "trade without m"},
		{"trade's side is text", trade(`"m":true`, `"m":"true"`), "field m"},
		{"trade of nothing", trade(`0.02000000`, `0.00000000`), "of 0.00000000 at"},
		{"trade for nothing", trade(`61837.63000000`, `0.00000000`), "at 0.00000000"},
		{"trade without its time", trade(`"T":1723161255342`, `"T":0`), "time 0 is"},
		{"trade without sent time", trade(`"E":1723161255343`, `"E":0`), "time 0 is"},
		{"ticker that is half there", ticker(`"A"`, `"x"`), "neither an event nor a reply"},
		{"named ticker that is half there", `{"e":"bookTicker",` + ticker(`"A"`, `"x"`)[1:], "book ticker without A"},
		{"ticker with levels", ticker(`"b":"61837.63000000"`, `"b":[]`), "field b"},
		{"ticker with a negative price", ticker(`61837.63000000`, `-1.0`), "negative"},
		{"ticker with a negative id", ticker(`50093239212`, `-1`), "negative id"},
		{"refusal with a broken code", `{"code":"x","msg":"y"}`, "field code"},
		{"refusal with a broken message", `{"code":1,"msg":[]}`, "field msg"},
		{"refusal that is no object", `{"error":"x"}`, "cannot unmarshal"},
		{"shutdown in the year 56000", `{"e":"serverShutdown","E":1770123456789000000}`, "is neither"},
		{"other with a broken symbol", `{"e":"kline","s":7}`, "field s"},
		{"nested beyond reason", strings.Repeat(`{"a":`, 20000), "exceeded max depth"},
	}
}

func TestDecodeRefuses(t *testing.T) {
	var d Decoder
	for _, c := range badFrames() {
		t.Run(c.name, func(t *testing.T) {
			for _, frame := range []string{c.frame, wrap(c.frame)} {
				got, err := d.Decode([]byte(frame), recv)
				if market.KindOf(err) != market.KindInvalid || !reflect.DeepEqual(got, Event{}) {
					t.Fatalf("%.200s: %v, error %v", frame, got, err)
				}
				if frame == c.frame && !strings.Contains(err.Error(), c.want) {
					t.Errorf("%.200s: error %q does not say %q", frame, err, c.want)
				}
				if len(err.Error()) > 400 || !utf8.ValidString(err.Error()) || strings.ContainsAny(err.Error(), "\n\x01") {
					t.Errorf("error is not fit for a log: %q", err)
				}
			}
		})
	}
	// After all that the decoder still works.
	if got, err := d.Decode([]byte(depthFrame), recv); err != nil || show(got) != show(depthEvent()) {
		t.Errorf("got %s, %v", show(got), err)
	}
}

func TestDecodeBounds(t *testing.T) {
	levels := func(n int, level string) string {
		return strings.Replace(depthFrame, `"a":[]`, `"a":[`+strings.TrimSuffix(strings.Repeat(level+",", n), ",")+`]`, 1)
	}
	padded := func(n int) string { return depthFrame + strings.Repeat(" ", n-len(depthFrame)) }
	for _, c := range []struct {
		name, frame string
		kind        market.Kind
	}{
		{"most levels", levels(MaxLevels, `["61837.64000000","1.54698000"]`), market.KindUnknown},
		{"a level too many", levels(MaxLevels+1, `["61837.64000000","1.54698000"]`), market.KindTooLarge},
		{"most levels, slowly", levels(MaxLevels, ` ["1","1"]`), market.KindUnknown},
		{"a level too many, slowly", levels(MaxLevels+1, ` ["1","1"]`), market.KindTooLarge},
		{"longest frame", padded(MaxFrameBytes), market.KindUnknown},
		{"a byte too many", padded(MaxFrameBytes + 1), market.KindTooLarge},
	} {
		var d Decoder
		if _, err := d.Decode([]byte(c.frame), recv); market.KindOf(err) != c.kind || (c.kind == market.KindUnknown) != (err == nil) {
			t.Errorf("%s: %v, want kind %v", c.name, err, c.kind)
		}
	}
}

// TestFastReaderTakesWhatTheExchangeWrites keeps a small change of the fast reader from sending everything the slow way.
func TestFastReaderTakesWhatTheExchangeWrites(t *testing.T) {
	slow := map[string]bool{}
	for _, name := range []string{
		"wrapper the other way round", "wrapper with more in it", "escaped stream name", "white space", "unknown scalars",
		"unknown nested values", "letters of other events", "escapes", "the last of two counts", "escaped non-ASCII symbol",
		"many kinds of decimals",
	} {
		slow[name] = true
	}
	var d Decoder
	for _, c := range goodFrames() {
		used := c.want.Depth != nil || c.want.Trade != nil || c.want.Ticker != nil
		if used && d.scan([]byte(c.frame)) == slow[c.name] {
			t.Errorf("%s: read slowly: %v, want %v", c.name, !slow[c.name], slow[c.name])
		}
	}
}

func TestSymbolsAreBounded(t *testing.T) {
	var n names
	for i := range 3 * maxNames {
		want := fmt.Sprint(i)
		if got := n.intern([]byte(want)); got != want {
			t.Fatalf("interned %q as %q", want, got)
		}
		if len(n.known) > maxNames {
			t.Fatalf("%d names are kept, want at most %d", len(n.known), maxNames)
		}
	}
}

func TestDecodeDoesNotAllocate(t *testing.T) {
	recorded := recordedFrames(t)
	for _, kind := range []string{"depth", "trade", "ticker"} {
		var d Decoder
		run := func() {
			for _, frame := range recorded[kind] {
				if _, err := d.Decode(frame, recv); err != nil {
					t.Fatal(err)
				}
			}
		}
		if n := testing.AllocsPerRun(1, run); n != 0 { // runs once before, to grow
			t.Errorf("%d %s frames: %v allocations, want none", len(recorded[kind]), kind, n)
		}
	}
}

func TestDecodeSnapshot(t *testing.T) {
	const good = `{"lastUpdateId":7,"bids":[["2.0","1"],["1.0","1"]],"asks":[["3.0","1"],["4.0","0.5"]]}`
	want := market.Snapshot{LastID: 7, Bids: lv("2 1", "1 1"), Asks: lv("3 1", "4 0.5")}
	for _, body := range []string{
		good, good + "\n", " " + strings.ReplaceAll(good, ",", " , "),
		strings.Replace(good, `,"bids"`, `,"E":1721347022759,"T":1721347022750,"bids"`, 1), // futures
	} {
		if got, err := DecodeSnapshot([]byte(body)); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("DecodeSnapshot(%s) = %+v, %v, want %+v", body, got, err, want)
		}
	}
	if s, err := DecodeSnapshot([]byte(`{"lastUpdateId":1,"bids":[],"asks":[]}`)); err != nil || s.LastID != 1 {
		t.Errorf("an empty book: %+v, %v", s, err)
	}
	for name, body := range map[string]string{
		"empty":              "",
		"HTML":               "<!DOCTYPE html>",
		"null":               "null",
		"cut off":            good[:40],
		"more behind":        good + "{}",
		"no id":              strings.Replace(good, "lastUpdateId", "x", 1),
		"negative id":        strings.Replace(good, ":7", ":-7", 1),
		"no bids":            strings.Replace(good, "bids", "x", 1),
		"asks null":          `{"lastUpdateId":7,"bids":[],"asks":null}`,
		"broken level":       strings.Replace(good, `"1"`, `"x"`, 1),
		"not UTF-8":          strings.Replace(good, "bids", "bids\xff", 1),
		"zero quantity bid":  strings.Replace(good, `["1.0","1"]`, `["1.0","0.0"]`, 1),
		"zero quantity ask":  strings.Replace(good, `["4.0","0.5"]`, `["4.0","0"]`, 1),
		"zero price":         strings.Replace(good, `["1.0","1"]`, `["0.0","1"]`, 1),
		"negative":           strings.Replace(good, `["1.0","1"]`, `["-1.0","1"]`, 1),
		"bids worst first":   strings.Replace(good, `["2.0","1"],["1.0","1"]`, `["1.0","1"],["2.0","1"]`, 1),
		"asks worst first":   strings.Replace(good, `["3.0","1"],["4.0","0.5"]`, `["4.0","1"],["3.0","1"]`, 1),
		"a level twice":      strings.Replace(good, `["1.0","1"]`, `["2.0","1"]`, 1),
		"crossed":            strings.Replace(good, `["2.0","1"]`, `["3.5","1"]`, 1),
		"locked":             strings.Replace(good, `["2.0","1"]`, `["3.0","1"]`, 1),
		"refusal, status OK": `{"code":-1121,"msg":"Invalid symbol."}`,
	} {
		if s, err := DecodeSnapshot([]byte(body)); market.KindOf(err) != market.KindCorrupt || s.Bids != nil {
			t.Errorf("%s: %+v, %v, want corrupt", name, s, err)
		}
	}
	many := `{"lastUpdateId":7,"bids":[],"asks":[` + strings.Repeat(`["1","1"],`, MaxLevels) + `["1","1"]]}`
	if _, err := DecodeSnapshot([]byte(many)); market.KindOf(err) != market.KindTooLarge {
		t.Errorf("too many levels: %v", err)
	}
}

// FuzzDecode: no frame makes the decoder panic, and what the fast reader takes the slow one reads alike.
func FuzzDecode(f *testing.F) {
	for _, c := range goodFrames() {
		f.Add([]byte(c.frame))
		f.Add([]byte(wrap(c.frame)))
	}
	for _, c := range badFrames() {
		f.Add([]byte(c.frame)[:min(len(c.frame), 1000)])
	}
	for _, frames := range recordedFrames(f) {
		for _, frame := range frames[:min(len(frames), 5)] {
			f.Add(frame[:min(len(frame), 4000)])
		}
	}
	var fast, slow Decoder
	f.Fuzz(func(t *testing.T, frame []byte) {
		before := bytes.Clone(frame)
		got, err := fast.Decode(frame, recv)
		if !bytes.Equal(frame, before) {
			t.Fatal("the frame was changed")
		}
		if kind := market.KindOf(err); err != nil && kind != market.KindInvalid && kind != market.KindTooLarge {
			t.Fatalf("error of kind %v: %v", kind, err)
		}
		want, wantErr := slow.decodeSlowly(frame, recv)
		if (err == nil) != (wantErr == nil) || show(got) != show(want) {
			t.Fatalf("read fast %s, %v; read slowly %s, %v", show(got), err, show(want), wantErr)
		}
		snapshot, err := DecodeSnapshot(frame)
		wantSnapshot, wantErr := decodeSnapshotSlowly(frame)
		if err == nil && (wantErr != nil || fmt.Sprint(snapshot) != fmt.Sprint(wantSnapshot)) {
			t.Fatalf("snapshot read fast %+v; read slowly %+v, %v", snapshot, wantSnapshot, wantErr)
		}
		if route := Route(frame); route != nil && got.Depth != nil && !json.Valid(frame) {
			t.Fatalf("routed to %q but not JSON", route)
		}
	})
}

// FuzzDecimal: the digit reader reads what market.ParseDecimal reads.
func FuzzDecimal(f *testing.F) {
	for _, text := range []string{"0.00000000", "61837.63000000", "1234567.12345678", "12345678.12345678", "92233720367.99999999", "92233720368.00000000", "00000000000000000001.5", "5", "0.1", "-1", "1.", ".5", ""} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, tail := range []string{`"`, `","0.00000000"],["1.0","2.0"]]}}`} {
			got, next := scanDecimal([]byte(text+tail), 0)
			if next < 0 || strings.Contains(text, `"`) {
				continue
			}
			if want, err := market.ParseDecimal(text); err != nil || got != want || next != len(text)+1 {
				t.Fatalf("%q: read %v up to %d; ParseDecimal %v, %v", text, got, next, want, err)
			}
		}
	})
}
