package binance

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tapedeck/shared/market"
)

// tape is an exchange's memory of trades: aggregates of one or more trades each, from trade 0 on.
type tape struct {
	t       *testing.T
	sizes   []int // of the aggregates, by id; repeated for ever
	last    int64 // trade id
	refusal http.HandlerFunc
	asked   []string // requests, without the symbol
}

// aggregateOf returns the aggregate that holds a trade.
func (x *tape) aggregateOf(trade int64) (id, first, last int64) {
	cycle := int64(0)
	for _, n := range x.sizes {
		cycle += int64(n)
	}
	id, first = trade/cycle*int64(len(x.sizes)), trade/cycle*cycle
	for _, n := range x.sizes {
		if trade < first+int64(n) {
			return id, first, min(first+int64(n)-1, x.last)
		}
		id, first = id+1, first+int64(n)
	}
	panic("unreachable")
}

// firstOf returns the first trade of an aggregate.
func (x *tape) firstOf(id int64) int64 {
	n := int64(len(x.sizes))
	cycle := int64(0)
	for _, size := range x.sizes {
		cycle += int64(size)
	}
	first := id / n * cycle
	for _, size := range x.sizes[:id%n] {
		first += int64(size)
	}
	return first
}

func tradeTime(id int64) int64 { return 1723161254000 + id }

func (x *tape) trades(from, to int64) string {
	var items []string
	for id := from; id <= to; id++ {
		items = append(items, fmt.Sprintf(
			`{"id":%d,"price":"61837.63000000","qty":"0.02000000","quoteQty":"1236.75","time":%d,"isBuyerMaker":%v,"isBestMatch":true}`,
			id, tradeTime(id), id%2 == 1))
	}
	return "[" + strings.Join(items, ",") + "]"
}

func (x *tape) aggregates(fromTrade int64, limit int) string {
	var items []string
	for trade := fromTrade; trade <= x.last && len(items) < limit; {
		id, first, last := x.aggregateOf(trade)
		items = append(items, fmt.Sprintf(
			`{"a":%d,"p":"61837.63000000","q":"0.02000000","f":%d,"l":%d,"T":%d,"m":%v,"M":true}`,
			id, first, last, tradeTime(first), first%2 == 1))
		trade = last + 1
	}
	return "[" + strings.Join(items, ",") + "]"
}

// serve starts the exchange and returns a client.
func (x *tape) serve() *REST {
	number := func(r *http.Request, key string, or int64) int64 {
		if v, err := strconv.ParseInt(r.URL.Query().Get(key), 10, 64); err == nil {
			return v
		}
		return or
	}
	note := func(r *http.Request) {
		if symbol := r.URL.Query().Get("symbol"); symbol != "BTCUSDT" {
			x.t.Errorf("symbol %q in %s", symbol, r.URL)
		}
		x.asked = append(x.asked, strings.TrimPrefix(r.URL.Path, "/api/v3/"))
	}
	return serve(x.t, map[string]http.HandlerFunc{
		"/api/v3/historicalTrades": func(w http.ResponseWriter, r *http.Request) {
			note(r)
			if x.refusal != nil {
				x.refusal(w, r)
				return
			}
			from := number(r, "fromId", -1)
			text(200, x.trades(from, min(x.last, from+number(r, "limit", 500)-1)))(w, r)
		},
		"/api/v3/trades": func(w http.ResponseWriter, r *http.Request) {
			note(r)
			text(200, x.trades(max(x.last-number(r, "limit", 500)+1, 0), x.last))(w, r)
		},
		"/api/v3/aggTrades": func(w http.ResponseWriter, r *http.Request) {
			note(r)
			limit := number(r, "limit", 500)
			id := number(r, "fromId", -1)
			if id < 0 {
				last, _, _ := x.aggregateOf(max(x.last, 0))
				id = max(last-limit+1, 0)
			}
			text(200, x.aggregates(x.firstOf(id), int(limit)))(w, r)
		},
	})
}

// want is a trade as the tape has it.
func (x *tape) want(id int64, recv market.Time) market.Trade {
	side := market.Buy
	if id%2 == 1 {
		side = market.Sell
	}
	return market.Trade{
		ID: id, EventTime: market.Time(tradeTime(id)) * 1e6, RecvTime: recv, Price: dec("61837.63"), Quantity: dec("0.02"),
		Side: side, Flags: market.TradeFlagM | market.TradeFlagBackfilled,
	}
}

func TestTradesByID(t *testing.T) {
	x := &tape{t: t, sizes: []int{1}, last: 5000}
	r := x.serve()
	for _, c := range []struct {
		from        int64
		limit       int
		first, last int64
	}{{100, 1000, 100, 1099}, {4990, 1000, 4990, 5000}, {0, 1, 0, 0}, {5001, 10, 0, -1}, {1 << 50, 10, 0, -1}} {
		before := market.TimeOf(time.Now())
		got, err := r.TradesFrom(t.Context(), btcusdt, c.from, c.limit)
		if err != nil || len(got) != int(c.last-c.first+1) {
			t.Fatalf("from %d: %d trades, %v", c.from, len(got), err)
		}
		for i := range got {
			if want := x.want(c.first+int64(i), got[0].RecvTime); got[i] != want {
				t.Errorf("from %d: %+v, want %+v", c.from, got[i], want)
			}
			if got[i].RecvTime < before || got[i].RecvTime > market.TimeOf(time.Now()) {
				t.Errorf("received at %v", got[i].RecvTime)
			}
		}
	}
	for _, c := range []struct {
		from  int64
		limit int
	}{{-1, 10}, {0, 0}, {0, MaxTradesPage + 1}} {
		if _, err := r.TradesFrom(t.Context(), btcusdt, c.from, c.limit); market.KindOf(err) != market.KindInvalid {
			t.Errorf("from %d, %d: %v, want invalid", c.from, c.limit, err)
		}
	}
	if len(x.asked) != 5 {
		t.Errorf("asked %v", x.asked)
	}
}

// TestTradesWithoutHistory: where the exchange does not give trades by id, the others serve, and that is remembered.
func TestTradesWithoutHistory(t *testing.T) {
	refusals := map[string]http.HandlerFunc{
		"404": text(404, "<html>not found"), "403": text(403, "<html>"), "401": text(401, `{"code":-2015,"msg":"Invalid API-key."}`),
		"400": text(400, `{"code":-1100,"msg":"Illegal characters"}`),
	}
	for name, refusal := range refusals {
		t.Run(name, func(t *testing.T) {
			x := &tape{t: t, sizes: []int{1, 3, 1, 1, 7}, last: 1_000_000, refusal: refusal}
			r := x.serve()
			for _, from := range []int64{999_001, 999_500, 1_000_000} {
				x.asked = nil
				got, err := r.Background().TradesFrom(t.Context(), btcusdt, from, 1000)
				if err != nil || len(got) != int(x.last-from+1) || got[0] != x.want(from, got[0].RecvTime) {
					t.Fatalf("the latest, from %d: %d trades, %v", from, len(got), err)
				}
				if n := len(x.asked); x.asked[n-1] != "trades" || n > 3 || from > 999_001 && n > 2 {
					t.Errorf("asked %v", x.asked)
				}
			}
			if got, err := r.TradesFrom(t.Context(), btcusdt, x.last+1, 1000); err != nil || len(got) != 0 {
				t.Errorf("beyond the last: %v, %v", got, err)
			}
		})
	}
	for name, status := range map[string]int{"unavailable": 503, "overloaded": 500, "too many": 429} {
		t.Run(name, func(t *testing.T) {
			x := &tape{t: t, sizes: []int{1}, last: 5000, refusal: text(status, "")}
			r := x.serve()
			if _, err := r.TradesFrom(t.Context(), btcusdt, 1, 10); market.KindOf(err) != market.KindUnavailable || len(x.asked) != 1 {
				t.Errorf("%v, asked %v", err, x.asked)
			}
		})
	}
	t.Run("unknown market", func(t *testing.T) {
		x := &tape{t: t, sizes: []int{1}, last: 5000, refusal: text(400, `{"code":-1121,"msg":"Invalid symbol."}`)}
		r := x.serve()
		if _, err := r.TradesFrom(t.Context(), btcusdt, 1, 10); market.KindOf(err) != market.KindNotFound || len(x.asked) != 1 {
			t.Errorf("%v, asked %v", err, x.asked)
		}
	})
}

// TestTradesFromAggregates finds old trades among aggregates, whose ids are others, by few requests; and only those that
// are alone in theirs.
func TestTradesFromAggregates(t *testing.T) {
	for _, sizes := range [][]int{{1}, {1, 3, 1, 1, 7}, append(slices.Repeat([]int{1}, 3000), slices.Repeat([]int{50}, 3000)...)} {
		x := &tape{t: t, sizes: sizes, last: 4_000_000_000, refusal: text(404, "")}
		r := x.serve()
		requests := 0
		for _, from := range []int64{0, 123_456, 2_000_000_000, 3_999_990_000} {
			x.asked = nil
			got, err := r.TradesFrom(t.Context(), btcusdt, from, 500)
			if err != nil || len(got) == 0 || len(got) > 500 {
				t.Fatalf("from %d: %d trades, %v", from, len(got), err)
			}
			wanted := from
			for i := range got {
				for {
					if _, first, last := x.aggregateOf(wanted); first == last {
						break
					}
					wanted++
				}
				if got[i] != x.want(wanted, got[i].RecvTime) {
					t.Fatalf("from %d: %+v, want %d", from, got[i], wanted)
				}
				wanted++
			}
			requests = max(requests, len(x.asked))
		}
		if requests > 20 {
			t.Errorf("%d requests for one page", requests)
		}
	}
	x := &tape{t: t, sizes: []int{2}, last: 100_000, refusal: text(404, "")}
	if got, err := x.serve().TradesFrom(t.Context(), btcusdt, 10, 10); market.KindOf(err) != market.KindNotFound {
		t.Errorf("no aggregate is of one trade: %v, %v", got, err)
	}
}

// TestRefusalIsForgotten after an hour.
func TestRefusalIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h history
		h.refuse()
		if !h.refused() {
			t.Error("not remembered")
		}
		<-time.After(refusalMemory)
		if h.refused() {
			t.Error("not forgotten")
		}
	})
}

func TestLastIDs(t *testing.T) {
	x := &tape{t: t, sizes: []int{1, 3}, last: 101}
	r := x.serve()
	if id, err := r.LastTradeID(t.Context(), btcusdt); err != nil || id != 101 {
		t.Errorf("last trade %d, %v", id, err)
	}
	x.last = -1
	if id, err := r.LastTradeID(t.Context(), btcusdt); market.KindOf(err) != market.KindNotFound {
		t.Errorf("last trade of a new market: %d, %v", id, err)
	}
	var asked string
	r = serve(t, map[string]http.HandlerFunc{"/api/v3/depth": func(w http.ResponseWriter, r *http.Request) {
		asked = r.URL.String()
		text(200, depthReply)(w, r)
	}})
	chinese := market.Market{Exchange: market.Binance, Symbol: "币安人生USDT"}
	if id, err := r.LastUpdateID(t.Context(), chinese); err != nil || id != 7 {
		t.Errorf("last update %d, %v", id, err)
	}
	if want := "/api/v3/depth?limit=1&symbol=%E5%B8%81%E5%AE%89%E4%BA%BA%E7%94%9FUSDT"; asked != want {
		t.Errorf("asked %q, want %q", asked, want)
	}
}

// badTradeLists are replies that are not what the exchange documents, beside the first one.
func badTradeLists() []string {
	const good = `{"id":1,"price":"2.0","qty":"3.0","time":1723161254000,"isBuyerMaker":true,"isBestMatch":true}`
	with := func(part, other string) string { return "[" + strings.Replace(good, part, other, 1) + "]" }
	return []string{
		"[" + good + "]", "", "<html>", "null", "{}", `{"code":-1121,"msg":"Invalid symbol."}`, "[null]", "[[]]", `["x"]`,
		with(`"id":1`, `"id":-1`), with(`"id":1,`, ``), with(`"id":1`, `"id":"1"`), with(`"id":1`, `"id":1e3`), with(`"id":1`, `"id":99999999999999999999`),
		with(`"price":"2.0"`, `"price":"0.0"`), with(`"price":"2.0"`, `"price":"-2.0"`), with(`"price":"2.0"`, `"price":2.0`), with(`"price":"2.0",`, ``),
		with(`"price":"2.0"`, `"price":"NaN"`), with(`"price":"2.0"`, `"price":"999999999999999"`),
		with(`"qty":"3.0"`, `"qty":"0"`), with(`"qty":"3.0",`, ``),
		with(`1723161254000`, `0`), with(`1723161254000`, `-5`), with(`1723161254000`, `99999999999999`), with(`"time":1723161254000,`, ``),
		with(`"isBuyerMaker":true,`, ``), with(`"isBuyerMaker":true`, `"isBuyerMaker":"true"`), with(`"isBestMatch":true`, `"isBestMatch":1`),
		"[" + good + "," + good + "]", "[" + good + ",",
		"[" + strings.Replace(good, `"id":1`, `"id":2`, 1) + "," + good + "]",
	}
}

func TestTradesRepliesThatAreNoGood(t *testing.T) {
	for i, body := range badTradeLists() {
		r := serve(t, map[string]http.HandlerFunc{"/api/v3/historicalTrades": text(200, body)})
		got, err := r.TradesFrom(t.Context(), btcusdt, 1, 2)
		if i == 0 {
			if err != nil || len(got) != 1 {
				t.Errorf("a good reply: %v, %v", got, err)
			}
			continue
		}
		if market.KindOf(err) != market.KindCorrupt || len(got) != 0 {
			t.Errorf("%s: %v, %v, want corrupt", body, got, err)
		}
	}
	x := &tape{t: t}
	// Trades that the exchange itself does not have leave no hole in the answer's worth.
	skipping := strings.TrimSuffix(x.trades(1, 2), "]") + "," + strings.TrimPrefix(x.trades(4, 4), "[")
	r := serve(t, map[string]http.HandlerFunc{"/api/v3/historicalTrades": text(200, skipping)})
	if got, err := r.TradesFrom(t.Context(), btcusdt, 1, 4); err != nil || len(got) != 3 || got[2].ID != 4 {
		t.Errorf("a reply that skips an id: %v, %v", got, err)
	}
	for body, c := range map[string]struct {
		from  int64
		limit int
	}{x.trades(5, 9): {6, 10}, x.trades(1, 4): {1, 3}} {
		r := serve(t, map[string]http.HandlerFunc{"/api/v3/historicalTrades": text(200, body)})
		if got, err := r.TradesFrom(t.Context(), btcusdt, c.from, c.limit); market.KindOf(err) != market.KindCorrupt {
			t.Errorf("%+v: %v, %v, want corrupt", c, got, err)
		}
	}
	const aggregate = `{"a":5,"p":"2.0","q":"3.0","f":10,"l":11,"T":1723161254000,"m":true,"M":true}`
	for old, replacement := range map[string]string{
		`"a":5,`: ``, `"a":5`: `"a":-5`, `"f":10`: `"f":12`, `"l":11`: `"l":-1`, `"p":"2.0"`: `"p":"0.0"`, `"T":1723161254000,`: ``,
		aggregate: aggregate + "," + aggregate,
	} {
		body := "[" + strings.Replace(aggregate, old, replacement, 1) + "]"
		r := serve(t, map[string]http.HandlerFunc{"/api/v3/aggTrades": text(200, body)})
		if id, err := r.LastTradeID(t.Context(), btcusdt); market.KindOf(err) != market.KindCorrupt {
			t.Errorf("%s: %d, %v, want corrupt", body, id, err)
		}
	}
}

// TestAggregatesThatLeadNowhere: an exchange whose answers contradict each other is not asked for ever.
func TestAggregatesThatLeadNowhere(t *testing.T) {
	const far = `[{"a":1000000,"p":"2","q":"3","f":9000000,"l":9000000,"T":1723161254000,"m":true}]`
	empty := func(int64) string { return "[]" }
	for _, c := range []struct {
		name, latest string
		answer       func(from int64) string
	}{
		{"empty", far, empty},
		{"the first one is gone", `[{"a":0,"p":"2","q":"3","f":5000,"l":9000,"T":1723161254000,"m":true}]`, empty},
		{"the next one is gone", far, func(from int64) string {
			if from > 999_000 {
				return "[]"
			}
			return `[{"a":999999,"p":"2","q":"3","f":70,"l":76,"T":1723161254000,"m":true}]`
		}},
		{"always the end", far, func(int64) string { return far }},
		{"ids from another place", far, func(from int64) string {
			return fmt.Sprintf(`[{"a":%d,"p":"2","q":"3","f":8999999,"l":8999999,"T":1723161254000,"m":true}]`, from)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			requests := 0
			r := serve(t, map[string]http.HandlerFunc{
				"/api/v3/historicalTrades": text(404, ""),
				"/api/v3/aggTrades": func(w http.ResponseWriter, r *http.Request) {
					requests++
					from, err := strconv.ParseInt(r.URL.Query().Get("fromId"), 10, 64)
					if err != nil {
						text(200, c.latest)(w, r)
						return
					}
					text(200, c.answer(from))(w, r)
				},
			})
			got, err := r.TradesFrom(t.Context(), btcusdt, 77, 10)
			if requests > 70 || err == nil && len(got) > 0 && got[0].ID < 77 {
				t.Errorf("%d requests, %v, %v", requests, got, err)
			}
			if gone := c.answer(999_999) == "[]"; gone && market.KindOf(err) != market.KindCorrupt {
				t.Errorf("%v, %v, want corrupt", got, err)
			}
		})
	}
}

// FuzzTradeLists: whatever a reply says, what is taken from it is what a recorder may record.
func FuzzTradeLists(f *testing.F) {
	for _, body := range badTradeLists() {
		f.Add([]byte(body))
	}
	f.Add([]byte(`[{"a":5,"p":"2.0","q":"3.0","f":10,"l":11,"T":1723161254000,"m":true,"M":true}]`))
	f.Fuzz(func(t *testing.T, body []byte) {
		const limit = 3
		check := func(err error, n int) {
			if kind := market.KindOf(err); err != nil && (kind != market.KindCorrupt || n > 0) || n > limit {
				t.Fatalf("%d items, error of kind %v: %v", n, kind, err)
			}
			if err == nil && !json.Valid(body) {
				t.Fatal("taken, but not JSON")
			}
		}
		trades, err := decodeTrades(body, limit, recv)
		check(err, len(trades))
		for i, tr := range trades {
			if tr.ID < 0 || i > 0 && tr.ID <= trades[i-1].ID || tr.Price <= 0 || tr.Quantity <= 0 || tr.EventTime <= 0 ||
				tr.SentTime != 0 || tr.RecvTime != recv || tr.Flags&market.TradeFlagBackfilled == 0 {
				t.Fatalf("trade %+v", tr)
			}
		}
		page, err := decodeAggregates(body, limit, recv)
		check(err, len(page))
		for i, a := range page {
			if a.id < 0 || a.first < 0 || a.last < a.first || i > 0 && (a.id <= page[i-1].id || a.first <= page[i-1].last) {
				t.Fatalf("aggregates %+v", page)
			}
		}
	})
}
