package api

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-lambda-go/lambda"

	"tapedeck/functions/internal/historytest"
	"tapedeck/functions/internal/query"
	"tapedeck/shared/market"
	"tapedeck/shared/storetest"
)

var _ lambda.Handler = (*Handler)(nil)

var update = flag.Bool("update", false, "write the golden replies anew")

// routes are the paths of the API under the names that tests give them.
var routes = map[string]struct {
	path     string
	endpoint Endpoint
}{
	"status":   {"/v1/status", Status},
	"markets":  {"/v1/markets", Markets},
	"book":     {"/v1/markets/{exchange}/{symbol}/book", Book},
	"trades":   {"/v1/markets/{exchange}/{symbol}/trades", Trades},
	"coverage": {"/v1/markets/{exchange}/{symbol}/coverage", Coverage},
	"gaps":     {"/v1/markets/{exchange}/{symbol}/gaps", Gaps},
}

// opened is a Store that is open, or cannot be opened.
type opened struct {
	reader query.Reader
	err    error
}

// Reader implements Store.
func (o opened) Reader(context.Context) (query.Reader, error) { return o.reader, o.err }

// reply is a response as the gateway passes it on.
type reply struct {
	StatusCode int               `json:"statusCode"`
	Headers    map[string]string `json:"headers"`
	Body       string            `json:"body"`
	Base64     bool              `json:"isBase64Encoded"`
}

func (r *reply) problem(t *testing.T) Problem {
	t.Helper()
	var p Problem
	if err := json.Unmarshal([]byte(r.Body), &p); err != nil {
		t.Fatalf("%v: %s", err, r.Body)
	}
	return p
}

func (r *reply) meta(t *testing.T) (m struct {
	RequestID  string           `json:"request_id"`
	NextCursor string           `json:"next_cursor"`
	Gaps       []map[string]any `json:"gaps"`
	State      string           `json:"state"`
},
) {
	t.Helper()
	envelope := struct{ Meta any }{&m}
	if err := json.Unmarshal([]byte(r.Body), &envelope); err != nil || r.StatusCode != http.StatusOK {
		t.Fatalf("%v: %d %s", err, r.StatusCode, r.Body)
	}
	return m
}

// server answers requests from a store, at a fixed time.
type server struct {
	t     *testing.T
	store Store
	now   time.Time
}

// get asks as a REST API would (payload 1.0), and checks the reply against the OpenAPI document.
func (s *server) get(route, query string) *reply {
	s.t.Helper()
	return s.getMarket(route, "binance", "BTCUSDT", query)
}

func (s *server) getMarket(route, exchange, symbol, query string) *reply {
	s.t.Helper()
	values, err := url.ParseQuery(query)
	if err != nil {
		s.t.Fatal(err)
	}
	single := map[string]string{}
	for name, v := range values {
		single[name] = v[len(v)-1]
	}
	r := s.send(route, map[string]any{
		"httpMethod":                      "GET",
		"queryStringParameters":           single,
		"multiValueQueryStringParameters": values,
		"pathParameters":                  map[string]string{"exchange": exchange, "symbol": symbol},
		"requestContext":                  map[string]any{"requestId": "request-1"},
		"body":                            nil,
	})
	checkContract(s.t, routes[route].path, r)
	return r
}

func (s *server) send(route string, event map[string]any) *reply {
	s.t.Helper()
	payload, err := json.Marshal(event)
	if err != nil {
		s.t.Fatal(err)
	}
	return s.invoke(routes[route].endpoint, payload)
}

func (s *server) invoke(endpoint Endpoint, payload []byte) *reply {
	s.t.Helper()
	h := NewHandler(endpoint, s.store)
	h.now = func() time.Time { return s.now }
	out, err := h.Invoke(s.t.Context(), payload)
	if err != nil {
		s.t.Fatalf("Invoke returned %v; Lambda would call that a failure of the function", err)
	}
	var r reply
	if err := json.Unmarshal(out, &r); err != nil {
		s.t.Fatalf("%v: %s", err, out)
	}
	return &r
}

const start = market.Time(1_700_000_000 * time.Second)

func seconds(n int) market.Time { return start.Add(time.Duration(n) * time.Second) }

// newServer has a market with a hole from second 3 to second 6 in both streams.
func newServer(t *testing.T) (*server, *storetest.Memory) {
	t.Helper()
	store := storetest.NewMemory()
	w := historytest.NewWriter(t, store, historytest.BTCUSDT)
	level := func(price, quantity int) market.Level {
		return market.Level{Price: market.Decimal(price) * market.DecimalOne, Quantity: market.Decimal(quantity)}
	}
	updates := func(first, last int64, at int) {
		for id := first; id <= last; id++ {
			when := seconds(at + int(id-first))
			w.Depth(&market.DepthUpdate{
				FirstID: id, LastID: id, PrevID: id - 1, EventTime: when, RecvTime: when.Add(7 * time.Microsecond),
				Bids: []market.Level{level(int(id), 5)},
			})
			w.Trade(&market.Trade{
				ID: 1000 + id, EventTime: when, RecvTime: when + 1, Price: level(int(id), 0).Price, Quantity: 1,
				Side: market.Side(1 + id%2),
			})
		}
		w.CutDepth()
		w.BreakTrades()
	}
	w.Snapshot(&market.Snapshot{
		LastID: 100, EventTime: start, RecvTime: start + 1,
		Bids: []market.Level{level(90, 1), level(80, 2)}, Asks: []market.Level{level(200, 3)},
	})
	updates(101, 103, 1)
	w.Snapshot(&market.Snapshot{
		LastID: 110, EventTime: seconds(6), RecvTime: seconds(6),
		Bids: []market.Level{level(110, 1)}, Asks: []market.Level{level(200, 3)},
	})
	updates(111, 113, 7)
	gap := market.Gap{
		Series: market.Series{Market: historytest.BTCUSDT, Stream: market.Depth}, Cause: market.CauseDisconnect,
		FirstID: 104, LastID: 110, Start: seconds(3), End: seconds(6), DetectedAt: seconds(5), RepairedAt: seconds(6),
		Repair: "snapshot",
	}
	lost := gap
	lost.Series.Stream, lost.FirstID, lost.LastID, lost.Repair = market.Trades, 1104, 1110, ""
	lost.RepairedAt = 0
	batch := &market.Batch{
		Gaps: []market.Gap{gap, lost},
		Listings: []market.Listing{
			{Market: historytest.BTCUSDT, Status: "TRADING", TickSize: 1e6, LotSize: 1000, UpdatedAt: start},
			{Market: market.Market{Exchange: market.Binance, Symbol: "币安人生USDT"}},
		},
		Statuses: []market.RecorderStatus{{
			Recorder: "one", Version: "v0", StartedAt: start, UpdatedAt: seconds(20), Markets: []market.MarketStatus{{
				Market: historytest.BTCUSDT, State: market.StateSynced, LastUpdateID: 113, LastTradeID: 1113,
				EventTime: seconds(9), RecvTime: seconds(10),
			}, {Market: market.Market{Exchange: market.Binance, Symbol: "币安人生USDT"}, State: market.StateSyncing}},
		}},
	}
	if err := store.Write(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	return &server{t: t, store: opened{reader: store}, now: seconds(25).Std()}, store
}

// TestGoldenReplies holds one reply of each kind, to the letter, in testdata.
func TestGoldenReplies(t *testing.T) {
	s, store := newServer(t)
	for name, c := range map[string]struct{ route, query string }{
		"status":            {"status", ""},
		"markets":           {"markets", ""},
		"book_latest":       {"book", ""},
		"book_at":           {"book", "at=2023-11-14T22:13:22.5Z&depth=2"},
		"book_in_gap":       {"book", "update_id=105&depth=1"},
		"trades":            {"trades", "limit=4"},
		"coverage":          {"coverage", ""},
		"gaps":              {"gaps", "limit=1"},
		"invalid_parameter": {"book", "depth=0&at=yesterday&update_id=1&strict=maybe&dpeth=3&max_age_ms=0&max_age_ms=1"},
		"no_data":           {"book", "at=1000"},
		"data_gap":          {"book", "at=2023-11-14T22:13:24Z&strict=true"},
	} {
		golden(t, name, s.get(c.route, c.query))
	}
	golden(t, "unknown_market", s.getMarket("book", "binance", "NOPE", ""))
	store.Fail(market.Errorf(market.KindUnavailable, "secret: mongodb://user:password@host"))
	golden(t, "storage_unavailable", s.get("book", ""))
	store.Fail(errors.New("secret"))
	golden(t, "internal", s.get("book", ""))
}

// TestDoubtAndBackfill has an audit that doubts a book of which every id is held, and trades that were fetched again.
func TestDoubtAndBackfill(t *testing.T) {
	s, store := newServer(t)
	w := historytest.NewWriter(t, store, historytest.BTCUSDT)
	for id := int64(1104); id <= 1110; id++ {
		w.Trade(&market.Trade{ID: id, EventTime: seconds(4), RecvTime: seconds(9), Price: 1, Quantity: 1, Side: market.Buy, Flags: market.TradeFlagBackfilled})
	}
	w.CutTrades()
	w.Gap(market.Gap{
		Series: market.Series{Stream: market.Depth}, Cause: market.CauseAudit, FirstID: 112, LastID: 113,
		Start: seconds(8), End: seconds(9), RepairedAt: seconds(9), Repair: market.RepairSnapshot,
	})
	if r := s.get("book", "update_id=113"); r.meta(t).State != "gap" || r.meta(t).Gaps[0]["cause"] != "audit" {
		t.Errorf("%s", r.Body)
	}
	if r := s.get("book", "update_id=113&strict=true"); r.StatusCode != http.StatusConflict || !strings.Contains(r.Body, `"cause":"audit"`) {
		t.Errorf("%d %s", r.StatusCode, r.Body)
	}
	r := s.get("trades", "strict=true")
	if n := strings.Count(r.Body, `"side":"buy","backfilled":true}`); n != 7 || len(r.meta(t).Gaps) != 1 {
		t.Errorf("%d trades are said to be fetched again: %s", n, r.Body)
	}
}

func golden(t *testing.T, name string, r *reply) {
	t.Helper()
	var got bytes.Buffer
	fmt.Fprintf(&got, "%d %s\nCache-Control: %s\nContent-Type: %s\n", r.StatusCode, http.StatusText(r.StatusCode),
		r.Headers["Cache-Control"], r.Headers["Content-Type"])
	if retry := r.Headers["Retry-After"]; retry != "" {
		fmt.Fprintf(&got, "Retry-After: %s\n", retry)
	}
	fmt.Fprintf(&got, "\n%s\n", r.Body)
	file := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(file, got.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil || !bytes.Equal(got.Bytes(), want) {
		t.Errorf("%s: got\n%s\nwant\n%s (%v)", name, &got, want, err)
	}
}

// TestBadParameters lists what was tried. Every parameter named must be complained of, and no other.
func TestBadParameters(t *testing.T) {
	s, _ := newServer(t)
	for _, c := range []struct{ route, query, wrong string }{
		{"book", "depth=0", "depth"},
		{"book", "depth=999999", "depth"},
		{"book", "depth=5001", "depth"},
		{"book", "depth=-1", "depth"},
		{"book", "depth=", "depth"},
		{"book", "depth=1e2", "depth"},
		{"book", "depth=99999999999999999999", "depth"},
		{"book", "depth=1&depth=1", "depth"},
		{"book", "at=yesterday", "at"},
		{"book", "at=", "at"},
		{"book", "at=-1", "at"},
		{"book", "at=1969-12-31T23:59:59Z", "at"},
		{"book", "at=2200-01-01T00:00:00Z", "at"},
		{"book", "at=99999999999999999", "at"},
		{"book", "at=2024-08-09T00:00:00", "at"},
		{"book", "at=2024-08-09T00:00:00+00:00", "at"}, // the plus sign is a space in a URL
		{"book", "at=1.5", "at"},
		{"book", "at=1700000001000&update_id=101", "at update_id"},
		{"book", "update_id=abc", "update_id"},
		{"book", "update_id=-5", "update_id"},
		{"book", "update_id=9223372036854775807", "update_id"},
		{"book", "strict=yes", "strict"},
		{"book", "strict=TRUE", "strict"},
		{"book", "max_age_ms=0", "max_age_ms"},
		{"book", "max_age_ms=-1", "max_age_ms"},
		{"book", "max_age_ms=9223372036854775807", "max_age_ms"},
		{"book", "At=1700000001000", "At"},
		{"book", "limit=5", "limit"},
		{"book", "depth=0&at=yesterday&strict=2&bogus=1", "at bogus depth strict"},
		{"trades", "limit=0", "limit"},
		{"trades", "limit=10001", "limit"},
		{"trades", "start=x&end=y", "end start"},
		{"trades", "start=1700000002000&end=1700000001000", "end"},
		{"trades", "start=1700000002000&end=1700000002000", "end"},
		{"trades", "start=1700000002000&from_id=5", "start"},
		{"trades", "end=1700000002000&from_id=5", "end"},
		{"trades", "from_id=-1", "from_id"},
		{"trades", "cursor=", "cursor"},
		{"trades", "cursor=garbage", "cursor"},
		{"trades", "cursor=" + strings.Repeat("A", 2000), "cursor"},
		{"trades", "cursor=" + cursor{Route: gapsRoute, Market: "binance/BTCUSDT", Limit: 1}.encode(), "cursor"},
		{"trades", "cursor=" + cursor{Route: tradesRoute, Market: "binance/ETHUSDT", Limit: 1}.encode(), "cursor"},
		{"trades", "cursor=" + cursor{Route: tradesRoute, Market: "binance/BTCUSDT", Limit: 1 << 20}.encode(), "cursor"},
		{"trades", "start=1700000002000&cursor=" + cursor{Route: tradesRoute, Market: "binance/BTCUSDT", Limit: 1}.encode(), "start"},
		{"coverage", "stream=bookTicker", "stream"},
		{"coverage", "cursor=x", "cursor"},
		{"coverage", "start=1700000002000&end=1", "end"},
		{"gaps", "cause=weather&stream=x", "cause stream"},
		{"gaps", "cursor=x&limit=x", "cursor limit"},
		{"markets", "limit=5", "limit"},
		{"status", "verbose=1", "verbose"},
	} {
		r := s.get(c.route, c.query)
		p := r.problem(t)
		var wrong []string
		for _, e := range p.Errors {
			wrong = append(wrong, e.Parameter)
		}
		if r.StatusCode != http.StatusBadRequest || p.Code != codeInvalidParameter || strings.Join(wrong, " ") != c.wrong {
			t.Errorf("%s?%s: %d %s", c.route, c.query, r.StatusCode, r.Body)
		}
	}
}

func TestGoodParameters(t *testing.T) {
	s, _ := newServer(t)
	for _, c := range []struct {
		route, query, want string
	}{
		{"book", "at=1700000002000&depth=1", `"last_update_id":102`},
		{"book", "at=2023-11-14T23:13:22%2B01:00&depth=1", `"last_update_id":102`},
		{"book", "update_id=113&strict=true", `"state":"synced"`},
		{"book", "strict=1", `"state":"synced"`},
		{"book", "strict=0&max_age_ms=1", `"state":"stale"`},
		{"book", "depth=5000", `"bids":[["113.00000000","0.00000005"],`},
		{"trades", "from_id=1102&limit=1", `{"data":[{"id":1102,`},
		{"trades", "start=1700000002000&end=1700000002001", `{"data":[{"id":1102,`},
		{"coverage", "stream=trades&end=1700000002000", `"end":"2023-11-14T22:13:22Z","state":"available"`},
		{"gaps", "stream=trades&cause=disconnect", `{"data":[{"stream":"trades"`},
		{"gaps", "cause=restart", `{"data":[],`},
	} {
		if r := s.get(c.route, c.query); r.StatusCode != http.StatusOK || !strings.Contains(r.Body, c.want) {
			t.Errorf("%s?%s: %d %s\nwant %s", c.route, c.query, r.StatusCode, r.Body, c.want)
		}
	}
}

// TestMarketsInPaths has markets that are found whatever the case, and paths that lead nowhere.
func TestMarketsInPaths(t *testing.T) {
	s, _ := newServer(t)
	for _, c := range []struct {
		exchange, symbol string
		status           int
		code             code
	}{
		{"binance", "BTCUSDT", 200, ""},
		{"Binance", "btcusdt", 200, ""},
		{"binance", "%E5%B8%81%E5%AE%89%E4%BA%BA%E7%94%9FUSDT", 404, codeNoData}, // listed, nothing recorded yet
		{"binance", "币安人生USDT", 404, codeNoData},
		{"binance", "ETHUSDT", 404, codeUnknownMarket},
		{"kraken", "BTCUSDT", 404, codeUnknownMarket},
		{"binance", "BTC/USDT", 404, codeUnknownMarket},
		{"binance", "BTC%", 404, codeUnknownMarket},
		{"binance", "", 404, codeUnknownMarket},
		{"", "", 404, codeUnknownMarket},
		{"binance", strings.Repeat("A", 1000), 404, codeUnknownMarket},
	} {
		r := s.getMarket("book", c.exchange, c.symbol, "")
		if p := r.problem(t); r.StatusCode != c.status || p.Code != c.code {
			t.Errorf("%s/%s: %d %s", c.exchange, c.symbol, r.StatusCode, r.Body)
		}
		for _, route := range []string{"trades", "coverage", "gaps"} {
			if r := s.getMarket(route, c.exchange, c.symbol, ""); c.code == codeUnknownMarket && r.problem(t).Code != c.code {
				t.Errorf("%s of %s/%s: %d %s", route, c.exchange, c.symbol, r.StatusCode, r.Body)
			}
		}
	}
}

// TestPayloadVersions asks the same in every form that a gateway may use.
func TestPayloadVersions(t *testing.T) {
	s, _ := newServer(t)
	path := map[string]string{"exchange": "binance", "symbol": "BTCUSDT"}
	id := map[string]any{"requestId": "request-1"}
	want := s.get("book", "update_id=102&depth=1").Body
	for name, event := range map[string]map[string]any{
		"1.0, single values": {"pathParameters": path, "requestContext": id, "queryStringParameters": map[string]string{"update_id": "102", "depth": "1"}},
		"2.0":                {"version": "2.0", "pathParameters": path, "requestContext": id, "rawQueryString": "update_id=102&depth=1", "queryStringParameters": map[string]string{"update_id": "102", "depth": "1"}},
		"2.0 with a body":    {"version": "2.0", "pathParameters": path, "requestContext": id, "rawQueryString": "update_id=10%32&depth=1", "body": base64.StdEncoding.EncodeToString([]byte("x")), "isBase64Encoded": true},
	} {
		if got := s.send("book", event); got.Body != want {
			t.Errorf("%s: %s", name, got.Body)
		}
	}
	for name, event := range map[string]map[string]any{
		"repeated in 2.0":   {"version": "2.0", "pathParameters": path, "rawQueryString": "depth=1&depth=2", "queryStringParameters": map[string]string{"depth": "1,2"}},
		"broken query, 2.0": {"version": "2.0", "pathParameters": path, "rawQueryString": "depth=%zz"},
		"broken base64":     {"pathParameters": path, "body": "%%%", "isBase64Encoded": true},
	} {
		if got := s.send("book", event); got.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %d %s", name, got.StatusCode, got.Body)
		}
	}
	for _, payload := range []string{"", "null", "[]", `"text"`, `{"pathParameters":5}`} {
		if got := s.invoke(Book, []byte(payload)); got.StatusCode/100 != 4 {
			t.Errorf("payload %q: %d %s", payload, got.StatusCode, got.Body)
		}
	}
}

// TestTradesPageByPage follows cursors alone, and beside the parameters they continue.
func TestTradesPageByPage(t *testing.T) {
	s, _ := newServer(t)
	for _, first := range []string{"limit=2", "limit=2&start=1700000002000&end=1700000009000", "limit=2&from_id=1102"} {
		for _, repeat := range []bool{false, true} {
			var ids []int64
			for q := first; ; {
				r := s.get("trades", q)
				var page struct{ Data []struct{ ID int64 } }
				if err := json.Unmarshal([]byte(r.Body), &page); err != nil || len(page.Data) > 2 {
					t.Fatal(err, r.Body)
				}
				for _, d := range page.Data {
					ids = append(ids, d.ID)
				}
				next := r.meta(t).NextCursor
				if next == "" {
					break
				}
				q = "cursor=" + next
				if repeat {
					q += "&" + first
				}
			}
			want := map[byte]string{'2': "[1101 1102 1103 1111 1112 1113]", '0': "[1102 1103 1111 1112]"}[first[len(first)-1]]
			if strings.Contains(first, "end=") {
				want = "[1102 1103 1111 1112]"
			}
			if strings.Contains(first, "from_id") {
				want = "[1102 1103 1111 1112 1113]"
			}
			if got := fmt.Sprint(ids); got != want {
				t.Errorf("%s: %s, want %s", first, got, want)
			}
		}
	}
}

func TestGapsPageByPage(t *testing.T) {
	s, _ := newServer(t)
	r := s.get("gaps", "limit=1&start=1700000000000")
	next := r.meta(t).NextCursor
	second := s.get("gaps", "cursor="+next)
	if !strings.Contains(r.Body, `"stream":"depth"`) || !strings.Contains(second.Body, `"stream":"trades"`) ||
		second.meta(t).NextCursor != "" {
		t.Errorf("%s\n%s", r.Body, second.Body)
	}
}

// TestGarbledCursors changes every byte of a cursor in turn.
func TestGarbledCursors(t *testing.T) {
	good := cursor{Route: tradesRoute, Market: "binance/BTCUSDT", Limit: 10, NextID: 77}.encode()
	if c, ok := decodeCursor(good); !ok || c.NextID != 77 {
		t.Fatalf("%+v, %v", c, ok)
	}
	for i := range good {
		garbled := []byte(good)
		garbled[i] ^= 1
		if c, ok := decodeCursor(string(garbled)); ok {
			t.Errorf("byte %d: %+v", i, c)
		}
	}
}

// TestPagesAreCutByBytes gives a page fewer bytes than its trades need.
func TestPagesAreCutByBytes(t *testing.T) {
	page := &query.TradesPage{NextID: 99}
	for id := range 10 {
		page.Trades = append(page.Trades, market.Trade{ID: int64(1 + id), EventTime: start, Side: market.Buy})
	}
	for _, most := range []int{1, 500, 1000, maxPageBytes} {
		r := tradesReply(page, cursor{Limit: 10, Route: tradesRoute}, most)
		var got []struct{ ID int64 }
		if err := json.Unmarshal(r.Data, &got); err != nil || len(got) == 0 {
			t.Fatal(err, string(r.Data))
		}
		next, _ := decodeCursor(r.Next)
		want := got[len(got)-1].ID + 1
		if len(got) == 10 {
			want = 99
		}
		if next.NextID != want || (len(r.Data) > most && len(got) > 1) || (most == maxPageBytes) != (len(got) == 10) {
			t.Errorf("%d bytes: %d trades in %d, next %d", most, len(got), len(r.Data), next.NextID)
		}
	}
}

// TestLargestReplies has the most that may be asked for.
func TestLargestReplies(t *testing.T) {
	s, _ := newServer(t)
	big := func(size int) Endpoint {
		return func(context.Context, *query.Service, *Request) (*Reply, error) {
			return &Reply{Data: []byte(`"` + strings.Repeat("x", size) + `"`)}, nil
		}
	}
	if r := s.invoke(big(5<<20), []byte("{}")); r.StatusCode != http.StatusOK {
		t.Errorf("%d", r.StatusCode)
	}
	r := s.invoke(big(6<<20), []byte("{}"))
	if r.StatusCode != http.StatusRequestEntityTooLarge || r.problem(t).Code != codeRangeTooLarge {
		t.Errorf("%d %s", r.StatusCode, r.Body)
	}
}

// TestNothingInternalLeaks has everything go wrong that can, and looks for what must not be seen.
func TestNothingInternalLeaks(t *testing.T) {
	var logged bytes.Buffer
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&logged, nil)))
	defer slog.SetDefault(before)
	s, store := newServer(t)
	const secret = "mongodb://user:secret@host"
	for _, c := range []struct {
		err    error
		status int
		code   code
	}{
		{market.Errorf(market.KindUnavailable, secret), 503, codeStorageUnavailable},
		{fmt.Errorf("%s: %w", secret, context.DeadlineExceeded), 503, codeStorageUnavailable},
		{market.Errorf(market.KindCorrupt, secret), 500, codeInternal},
		{market.Errorf(market.KindTooLarge, secret), 413, codeRangeTooLarge},
		{errors.New(secret), 500, codeInternal},
	} {
		logged.Reset()
		store.Fail(c.err)
		for route := range routes {
			r := s.get(route, "")
			if p := r.problem(t); r.StatusCode != c.status || p.Code != c.code || p.RequestID != "request-1" {
				t.Errorf("%s, %v: %d %s", route, c.err, r.StatusCode, r.Body)
			}
			if strings.Contains(r.Body, "secret") {
				t.Errorf("%s leaks: %s", route, r.Body)
			}
		}
		if got := strings.Count(logged.String(), secret); got != len(routes) && c.status >= 500 {
			t.Errorf("%v: logged %d times for %d requests", c.err, got, len(routes))
		}
	}
	s.store = opened{err: errors.New(secret)}
	if r := s.get("book", ""); r.StatusCode != 503 || r.Headers["Retry-After"] == "" || strings.Contains(r.Body, "secret") {
		t.Errorf("store cannot be opened: %d %s", r.StatusCode, r.Body)
	}
	logged.Reset()
	s.store = opened{reader: store}
	r := s.invoke(func(context.Context, *query.Service, *Request) (*Reply, error) { panic(secret) }, []byte("{}"))
	if r.StatusCode != 500 || strings.Contains(r.Body, "secret") || !strings.Contains(logged.String(), "TestNothingInternalLeaks") {
		t.Errorf("panic: %d %s\n%s", r.StatusCode, r.Body, &logged)
	}
}

// TestDeadline leaves an endpoint a little less time than Lambda leaves the function.
func TestDeadline(t *testing.T) {
	s, _ := newServer(t)
	lambda := time.Now().Add(time.Hour)
	ctx, cancel := context.WithDeadline(t.Context(), lambda)
	defer cancel()
	var got time.Time
	endpoint := func(ctx context.Context, _ *query.Service, _ *Request) (*Reply, error) {
		got, _ = ctx.Deadline()
		return &Reply{Data: []byte("null")}, nil
	}
	if _, err := NewHandler(endpoint, s.store).Invoke(ctx, []byte("{}")); err != nil || lambda.Sub(got) != deadlineMargin {
		t.Errorf("%v, %v before Lambda's", err, lambda.Sub(got))
	}
}
