package exchange

import (
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"tapedeck/shared/market"
)

// A recording of six trades, of which 2, 3 and 5, 6 are one order's at one price each.
func tradedReplay(tb testing.TB) *Server {
	frames := []string{}
	for _, n := range []struct {
		id, ms, price int
		maker         bool
	}{{101, 10, 5, false}, {102, 20, 5, true}, {103, 20, 5, true}, {104, 20, 6, true}, {105, 30, 6, true}, {106, 30, 6, true}} {
		frames = append(frames, fmt.Sprintf(
			`{"stream":"aaausdt@trade","data":{"e":"trade","E":17000000000%d,"s":"AAAUSDT","t":%d,"p":"%d.50000000","q":"0.30000001","b":7,"a":8,"T":17000000000%d,"m":%v,"M":true}}`,
			n.ms, n.id, n.price, n.ms, n.maker))
	}
	frames = append(frames, `{"stream":"aaausdt@trade","data":{"e":"trade","broken":true}}`)
	s := start(tb, newReplay(tb, record(tb, frames...)))
	dial(tb, s, "/ws/aaausdt@trade")
	wait(tb, "the end", s.Done())
	return s
}

func TestTradesOverREST(t *testing.T) {
	t.Parallel()
	s := tradedReplay(t)
	const (
		first  = `{"id":101,"price":"5.50000000","qty":"0.30000001","quoteQty":"1.65000005","time":1700000000010,"isBuyerMaker":false,"isBestMatch":true}`
		last   = `{"id":106,"price":"6.50000000","qty":"0.30000001","quoteQty":"1.95000006","time":1700000000030,"isBuyerMaker":true,"isBestMatch":true}`
		aFirst = `{"a":101,"p":"5.50000000","q":"0.30000001","f":101,"l":101,"T":1700000000010,"m":false,"M":true}`
		aTwo   = `{"a":102,"p":"5.50000000","q":"0.60000002","f":102,"l":103,"T":1700000000020,"m":true,"M":true}`
		aThree = `{"a":103,"p":"6.50000000","q":"0.30000001","f":104,"l":104,"T":1700000000020,"m":true,"M":true}`
		aLast  = `{"a":104,"p":"6.50000000","q":"0.60000002","f":105,"l":106,"T":1700000000030,"m":true,"M":true}`
	)
	for _, c := range []struct {
		path, want string
		weight     int
	}{
		{"trades?symbol=AAAUSDT&limit=1", "[" + last + "]", 25},
		{"historicalTrades?symbol=AAAUSDT&limit=1", "[" + last + "]", 25},
		{"historicalTrades?symbol=AAAUSDT&limit=1&fromId=0", "[" + first + "]", 25}, // what is older is gone
		{"historicalTrades?symbol=AAAUSDT&fromId=106", "[" + last + "]", 25},
		{"historicalTrades?symbol=AAAUSDT&fromId=107", "[]", 25},
		{"aggTrades?symbol=AAAUSDT", "[" + aFirst + "," + aTwo + "," + aThree + "," + aLast + "]", 4},
		{"aggTrades?symbol=AAAUSDT&limit=1", "[" + aLast + "]", 4},
		{"aggTrades?symbol=AAAUSDT&limit=2&fromId=101", "[" + aFirst + "," + aTwo + "]", 4},
		{"aggTrades?symbol=AAAUSDT&limit=2&fromId=103", "[" + aThree + "," + aLast + "]", 4},
		{"aggTrades?symbol=AAAUSDT&limit=1&startTime=1700000000011", "[" + aTwo + "]", 4},
		{"aggTrades?symbol=AAAUSDT&startTime=1700000000020&endTime=1700000000020", "[" + aTwo + "," + aThree + "]", 4},
		{"aggTrades?symbol=AAAUSDT&limit=1&endTime=1700000000029", "[" + aThree + "]", 4},
		{"aggTrades?symbol=AAAUSDT&startTime=1700000000031", "[]", 4},

		{"aggTrades?symbol=AAAUSDT&fromId=1&startTime=1", `{"code":-1128,`, 4},
		{"aggTrades?symbol=AAAUSDT&fromId=x", `{"code":-1100,"msg":"Illegal characters found in parameter 'fromId'`, 4},
		{"aggTrades?symbol=AAAUSDT&endTime=-1", `{"code":-1100,"msg":"Illegal characters found in parameter 'endTime'`, 4},
		{"historicalTrades?symbol=AAAUSDT&fromId=-1", `{"code":-1100,`, 25},
		{"historicalTrades?symbol=AAAUSDT&limit=0", `{"code":-1130,`, 25},
		{"trades?symbol=NOSUCH", `{"code":-1121,`, 25},
		{"trades", `{"code":-1102,`, 25},
		{"aggTrades?symbol=a", `{"code":-1100,`, 4},
	} {
		before := s.Stats().MostWeight
		_, _, body := get(t, s, "/api/v3/"+c.path)
		if body != c.want && (c.want[0] == '[' || !strings.HasPrefix(body, c.want)) {
			t.Errorf("%s\ngot  %s\nwant %s", c.path, body, c.want)
		}
		if used := s.Stats().MostWeight - before; used != c.weight && used > 0 { // a new minute may have begun
			t.Errorf("%s: weight %d, want %d", c.path, used, c.weight)
		}
	}
}

func TestMarketDataOnly(t *testing.T) {
	t.Parallel()
	s := start(t, quietSource(t), WithMarketDataOnly())
	for path, want := range map[string]int{"historicalTrades": http.StatusNotFound, "trades": http.StatusOK, "aggTrades": http.StatusOK} {
		if status, _, _ := get(t, s, "/api/v3/"+path+"?symbol=SYN001USDT"); status != want {
			t.Errorf("%s: %d, want %d", path, status, want)
		}
	}
}

// What REST tells of a made-up market is what its stream told, in order and without a hole, and no page is too long.
func TestSyntheticTradesOverREST(t *testing.T) {
	t.Parallel()
	var streamed []event
	s := start(t, newSynthetic(t, SyntheticConfig{Symbols: SymbolNames(1), Levels: 300, Duration: 90 * time.Second}),
		WithObserver(func(stream string, combined []byte) {
			if strings.HasSuffix(stream, "@trade") {
				_, e := decode(t, combined)
				streamed = append(streamed, e)
			}
		}))
	ws := dial(t, s, "/ws/syn001usdt@trade")
	read := make(chan struct{})
	go func() {
		defer close(read)
		for {
			if _, _, err := ws.ReadMessage(); err != nil {
				return // closed below
			}
		}
	}()
	select {
	case <-s.Done():
	case <-time.After(time.Minute):
		t.Fatal("the source does not end")
	}
	ws.Close()
	<-read
	if len(streamed) < 1200 {
		t.Fatalf("%d trades, which make one page", len(streamed))
	}
	type restTrade struct {
		ID           int64
		Price, Qty   market.Decimal
		Time         int64
		IsBuyerMaker bool
	}
	var all []restTrade
	for from := streamed[0].TradeID; ; {
		_, _, body := get(t, s, fmt.Sprint("/api/v3/historicalTrades?symbol=SYN001USDT&limit=5000&fromId=", from))
		var page []restTrade
		if err := json.Unmarshal([]byte(body), &page); err != nil || len(page) > 1000 {
			t.Fatalf("page of %d: %v", len(page), err)
		}
		if len(page) == 0 {
			break
		}
		all = append(all, page...)
		from = page[len(page)-1].ID + 1
	}
	if len(all) != len(streamed) {
		t.Fatalf("%d trades over REST, %d streamed", len(all), len(streamed))
	}
	for i, e := range streamed {
		if want := (restTrade{e.TradeID, e.Price, e.Quantity, e.TradeTime, e.BuyerMaker}); all[i] != want {
			t.Fatalf("trade %d: %+v, streamed %+v", i, all[i], want)
		}
	}
	// Aggregates cover the same trades.
	var aggregates []struct{ A, F, L int64 }
	_, _, body := get(t, s, "/api/v3/aggTrades?symbol=SYN001USDT&limit=1000&fromId=0")
	if err := json.Unmarshal([]byte(body), &aggregates); err != nil || len(aggregates) < 100 {
		t.Fatal(len(aggregates), err)
	}
	for i, a := range aggregates[1:] {
		if before := aggregates[i]; a.A != before.A+1 || a.F != before.L+1 || a.L < a.F {
			t.Fatalf("aggregate %+v follows %+v", a, before)
		}
	}
}

// Only so many trades are kept, the latest ones.
func TestTradesAreBounded(t *testing.T) {
	t.Parallel()
	var kept Trades
	for i := range int64(maxTrades + 1000) {
		kept.add(trade{id: i, time: market.Time(i / 2)})
	}
	kept.add(trade{id: 5}) // played again
	at := kept.search(func(n *trade) bool { return n.id >= 0 })
	if kept.len() != maxTrades || kept.at(at).id != 1000 || kept.at(kept.len()-1).id != maxTrades+999 {
		t.Errorf("%d trades, from %d to %d", kept.len(), kept.at(at).id, kept.at(kept.len()-1).id)
	}
	shown := shownTrades{kept: &kept, hidden: []int64{maxTrades + 997}}
	var ids []int64
	for _, n := range shown.latest(3) {
		ids = append(ids, n.id)
	}
	if want := []int64{maxTrades + 996, maxTrades + 998, maxTrades + 999}; !reflect.DeepEqual(ids, want) {
		t.Errorf("latest %v, want %v", ids, want)
	}
	page := shown.aggregates(shown.latestAggregates(2), func(*trade) bool { return true })
	if len(page) != 2 || page[0].id != maxTrades+996 || page[0].last != maxTrades+996 || page[1].last != maxTrades+999 {
		t.Errorf("aggregates %+v", page)
	}
}
