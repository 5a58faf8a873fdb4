package binance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"tapedeck/shared/market"
)

var btcusdt = market.Market{Exchange: market.Binance, Symbol: "BTCUSDT"}

const (
	timeReply  = `{"serverTime":1723161254000}`
	depthReply = `{"lastUpdateId":7,"bids":[["2.0","1"]],"asks":[["3.0","1"]]}`
)

// serve starts an exchange that answers each path with its handler, and returns a client for it.
func serve(t *testing.T, handlers map[string]http.HandlerFunc) *REST {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handler, ok := handlers[r.URL.Path]
		if !ok || r.Method != http.MethodGet {
			t.Errorf("unexpected request %s %s", r.Method, r.URL)
			w.WriteHeader(http.StatusNotFound)
			return
		}
		handler(w, r)
	}))
	t.Cleanup(server.Close)
	return NewREST(server.URL+"/", server.Client(), nil)
}

// text answers with a status and a body.
func text(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}
}

func TestSnapshot(t *testing.T) {
	var asked []string
	r := serve(t, map[string]http.HandlerFunc{
		"/api/v3/time": func(w http.ResponseWriter, r *http.Request) {
			asked = append(asked, r.URL.String())
			text(200, timeReply)(w, r)
		},
		"/api/v3/depth": func(w http.ResponseWriter, r *http.Request) {
			asked = append(asked, r.URL.String())
			w.Header().Set("x-mbx-used-weight-1m", "57")
			text(200, depthReply)(w, r)
		},
	})
	var told []Request
	r.budget.observe = func(request Request) { told = append(told, request) }
	before := market.TimeOf(time.Now())
	got, err := r.Snapshot(t.Context(), btcusdt, 1000)
	if err != nil {
		t.Fatal(err)
	}
	after := market.TimeOf(time.Now())
	if got.RecvTime < before || got.RecvTime > after {
		t.Errorf("received at %v, want between %v and %v", got.RecvTime, before, after)
	}
	want := market.Snapshot{
		LastID: 7, EventTime: 1723161254000e6, RecvTime: got.RecvTime, Bids: lv("2 1"), Asks: lv("3 1"),
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if want := []string{"/api/v3/time", "/api/v3/depth?limit=1000&symbol=BTCUSDT"}; !slices.Equal(asked, want) {
		t.Errorf("asked %q, want %q", asked, want)
	}
	for i := range told {
		told[i].Waited = 0
	}
	if want := []Request{
		{Endpoint: "time", Result: ResultOK, UsedWeight: -1}, {Endpoint: "depth", Result: ResultOK, UsedWeight: 57},
	}; !slices.Equal(told, want) {
		t.Errorf("told %+v, want %+v", told, want)
	}
	for _, limit := range []int{-1, 0, MaxSnapshotLimit + 1} {
		if _, err := r.Snapshot(t.Context(), btcusdt, limit); market.KindOf(err) != market.KindInvalid {
			t.Errorf("limit %d: %v, want invalid", limit, err)
		}
	}
}

func TestRepliesThatAreNoGood(t *testing.T) {
	refusal := func(code int) string { return fmt.Sprintf(`{"code":%d,"msg":"the reason"}`, code) }
	for _, c := range []struct {
		name, body string
		status     int
		kind       market.Kind
		says       string
	}{
		{"HTML", "<html>\n<b>maintenance", 200, market.KindCorrupt, "<html>?<b>"},
		{"empty", "", 200, market.KindCorrupt, "of 0 bytes"},
		{"another shape", `[]`, 200, market.KindCorrupt, "[]"},
		{"refusal with status 200", refusal(-1000), 200, market.KindCorrupt, "the reason"},
		{"oversize", strings.Repeat(" ", MaxReplyBytes+1), 200, market.KindTooLarge, "larger than"},
		{"no content", "", 204, market.KindCorrupt, "204"},
		{"unknown symbol", refusal(-1121), 400, market.KindNotFound, "code -1121: the reason"},
		{"refused", refusal(-1100), 400, market.KindInvalid, "code -1100: the reason"},
		{"refused at length", refusal(-1100)[:28] + strings.Repeat("x", 5000) + `"}`, 400, market.KindInvalid, "xxx…"},
		{"not there", "404 page not found", 404, market.KindInvalid, "404 page not found"},
		{"firewall", "<html>", 403, market.KindUnavailable, "403"},
		{"server error", refusal(-1000), 500, market.KindUnavailable, "code -1000"},
		{"bad gateway", "<html>", 502, market.KindUnavailable, "502"},
		{"overload", "", 503, market.KindUnavailable, "503"},
	} {
		t.Run(c.name, func(t *testing.T) {
			bad := text(c.status, c.body)
			r := serve(t, map[string]http.HandlerFunc{
				"/api/v3/time": text(200, timeReply), "/api/v3/depth": bad, "/api/v3/exchangeInfo": bad,
			})
			_, err := r.Snapshot(t.Context(), btcusdt, 5)
			check := func(err error) {
				t.Helper()
				if market.KindOf(err) != c.kind || err != nil && !strings.Contains(err.Error(), c.says) {
					t.Errorf("%.300v (%v), want kind %v and %q", err, market.KindOf(err), c.kind, c.says)
				}
				if err != nil && (len(err.Error()) > 600 || strings.Contains(err.Error(), "\n")) {
					t.Errorf("error is not fit for a log: %q", err)
				}
			}
			check(err)
			if !strings.HasPrefix(err.Error(), "Snapshot(binance/BTCUSDT, 5): ") {
				t.Errorf("error does not say what was asked: %v", err)
			}
			r = serve(t, map[string]http.HandlerFunc{"/api/v3/time": bad})
			_, err = r.ServerTime(t.Context())
			check(err)
		})
	}
	for _, body := range []string{`{"serverTime":0}`, `{"serverTime":"x"}`, `{}`} {
		r := serve(t, map[string]http.HandlerFunc{"/api/v3/time": text(200, body)})
		if at, err := r.ServerTime(t.Context()); market.KindOf(err) != market.KindCorrupt {
			t.Errorf("time %s: %v, %v, want corrupt", body, at, err)
		}
	}
}

func TestRateLimits(t *testing.T) {
	for _, c := range []struct {
		status int
		header string
		want   RateLimitError
	}{
		{429, "7", RateLimitError{RetryAfter: 7 * time.Second}},
		{418, "600", RateLimitError{RetryAfter: 10 * time.Minute, Banned: true}},
		{429, "", RateLimitError{RetryAfter: time.Minute}},
		{418, "", RateLimitError{RetryAfter: 2 * time.Minute, Banned: true}},
		{429, "-5", RateLimitError{RetryAfter: time.Minute}},
		{429, "soon", RateLimitError{RetryAfter: time.Minute}},
		{429, time.Now().Add(100 * time.Hour).UTC().Format(http.TimeFormat), RateLimitError{RetryAfter: 72 * time.Hour}},
		{418, "99999999", RateLimitError{RetryAfter: 72 * time.Hour, Banned: true}},
	} {
		r := serve(t, map[string]http.HandlerFunc{"/api/v3/time": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-MBX-USED-WEIGHT-1M", "6001")
			if c.header != "" {
				w.Header().Set("Retry-After", c.header)
			}
			text(c.status, `{"code":-1003,"msg":"Too many requests."}`)(w, r)
		}})
		var told Request
		r.budget.observe = func(request Request) { told = request }
		_, err := r.Snapshot(t.Context(), btcusdt, 5)
		c.want.Message = "Too many requests."
		limited, ok := errors.AsType[*RateLimitError](err)
		if !ok || *limited != c.want || market.KindOf(err) != market.KindUnavailable {
			t.Errorf("status %d, Retry-After %q: %v, want %+v", c.status, c.header, err, c.want)
		}
		if told.Result != ResultRateLimited || told.UsedWeight != 6001 {
			t.Errorf("told %+v, want a rate limit and the weight 6001", told)
		}
	}
}

func TestExchangeThatDoesNotAnswer(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	r := serve(t, map[string]http.HandlerFunc{"/api/v3/time": func(http.ResponseWriter, *http.Request) { <-release }})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := r.ServerTime(ctx); market.KindOf(err) != market.KindUnavailable || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("mute exchange: %v, want unavailable for the deadline", err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	cancel()
	if _, err := r.ServerTime(ctx); market.KindOf(err) != market.KindUnavailable || !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v, want unavailable for the cancellation", err)
	}
	r = serve(t, map[string]http.HandlerFunc{"/api/v3/time": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = w.Write([]byte(timeReply)) // and the connection is closed
	}})
	if _, err := r.ServerTime(t.Context()); market.KindOf(err) != market.KindUnavailable {
		t.Errorf("cut off reply: %v, want unavailable", err)
	}
	for base, kind := range map[string]market.Kind{
		"http://127.0.0.1:1": market.KindUnavailable, "http://\x7f": market.KindInvalid, "": market.KindUnavailable,
	} {
		if _, err := NewREST(base, nil, nil).ServerTime(t.Context()); market.KindOf(err) != kind {
			t.Errorf("base %q: %v, want %v", base, err, kind)
		}
	}
}

// exchangeInfo answers for the symbols that do not begin with UNKNOWN, as the exchange does: it refuses duplicates and
// any unknown one without naming it. It counts its requests.
func exchangeInfo(t *testing.T, requests *int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		*requests++
		var symbols []string
		if err := json.Unmarshal([]byte(r.URL.Query().Get("symbols")), &symbols); err != nil || len(symbols) == 0 {
			t.Errorf("symbols of %s: %v", r.URL, err)
		}
		if len(r.URL.String()) > 8000 {
			t.Errorf("address of %d bytes", len(r.URL.String()))
		}
		seen := map[string]bool{}
		list := []string{`{"symbol":"UNASKED","status":"TRADING","filters":[]}`}
		for _, s := range symbols {
			if seen[s] || strings.HasPrefix(s, "UNKNOWN") {
				text(400, `{"code":-1121,"msg":"Invalid symbol."}`)(w, r)
				return
			}
			seen[s] = true
			if s != "FORGOTTEN" {
				list = append(list, fmt.Sprintf(`{"symbol":%q,"status":"TRADING","baseAsset":"X","filters":[
					{"filterType":"PRICE_FILTER","minPrice":"0.01","maxPrice":"1000000.00","tickSize":"0.01000000"},
					{"filterType":"LOT_SIZE","minQty":"0.00001","maxQty":"9000","stepSize":"0.00001000"},
					{"filterType":"MARKET_LOT_SIZE","stepSize":"7.0"},{"filterType":"ICEBERG_PARTS","limit":10}]}`, s))
			}
		}
		slices.Reverse(list) // the order is not promised
		text(200, `{"timezone":"UTC","symbols":[`+strings.Join(list, ",")+`]}`)(w, r)
	}
}

func TestListings(t *testing.T) {
	requests := 0
	r := serve(t, map[string]http.HandlerFunc{"/api/v3/exchangeInfo": exchangeInfo(t, &requests)})
	markets := []market.Market{btcusdt, {Exchange: market.Binance, Symbol: "币安人生USDT"}, btcusdt}
	for i := range 248 {
		markets = append(markets, market.Market{Exchange: market.Binance, Symbol: "SYNTHETIC" + strconv.Itoa(i) + "USDT"})
	}
	got, err := r.Listings(t.Context(), markets)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(markets) || requests != 3 {
		t.Fatalf("%d listings by %d requests, want %d by 3", len(got), requests, len(markets))
	}
	for i, m := range markets {
		want := market.Listing{Market: m, Status: "TRADING", TickSize: dec("0.01"), LotSize: dec("0.00001"), UpdatedAt: got[i].UpdatedAt}
		if got[i] != want || got[i].UpdatedAt == 0 {
			t.Errorf("listing %d: %+v, want %+v", i, got[i], want)
		}
	}
	if got, err := r.Listings(t.Context(), nil); err != nil || len(got) != 0 || requests != 3 {
		t.Errorf("no markets: %v, %v, %d requests", got, err, requests)
	}

	requests = 0
	markets[177].Symbol = "UNKNOWNUSDT"
	got, err = r.Listings(t.Context(), markets)
	if market.KindOf(err) != market.KindNotFound || !strings.HasSuffix(err.Error(), ": binance/UNKNOWNUSDT") {
		t.Errorf("unknown market: %v, want not found and its name", err)
	}
	if len(got) != len(markets)-1 || got[176].Market != markets[176] || got[177].Market != markets[178] {
		t.Errorf("unknown market: %d listings of %d others", len(got), len(markets)-1)
	}
	if requests > 20 {
		t.Errorf("%d requests were spent on finding the unknown market", requests)
	}
	markets[177].Symbol = "FORGOTTEN"
	if _, err := r.Listings(t.Context(), markets); market.KindOf(err) != market.KindNotFound || !strings.HasSuffix(err.Error(), ": binance/FORGOTTEN") {
		t.Errorf("market missing in the reply: %v, want not found and its name", err)
	}
}

func TestListingsRepliesThatAreNoGood(t *testing.T) {
	listing := func(filters string) string {
		return `{"symbols":[{"symbol":"BTCUSDT","filters":[` + filters + `]}]}`
	}
	for body, kind := range map[string]market.Kind{
		"<html>": market.KindCorrupt, "": market.KindCorrupt, "[]": market.KindCorrupt,
		listing(`{"filterType":"PRICE_FILTER","tickSize":"x"}`):    market.KindCorrupt,
		listing(`{"filterType":"PRICE_FILTER","tickSize":"-1.0"}`): market.KindCorrupt,
		listing(`{"filterType":"LOT_SIZE","stepSize":0.1}`):        market.KindCorrupt,
		`{}`:        market.KindNotFound,
		listing(``): market.KindUnknown, // all filters are optional, and so is the status
	} {
		r := serve(t, map[string]http.HandlerFunc{"/api/v3/exchangeInfo": text(200, body)})
		got, err := r.Listings(t.Context(), []market.Market{btcusdt})
		if market.KindOf(err) != kind || (kind == market.KindUnknown) != (err == nil) {
			t.Errorf("%s: %+v, %v, want kind %v", body, got, err, kind)
		}
	}
	r := serve(t, map[string]http.HandlerFunc{"/api/v3/exchangeInfo": text(400, `{"code":-1100,"msg":"Illegal characters"}`)})
	bad := market.Market{Exchange: market.Binance, Symbol: "B-D"}
	if _, err := r.Listings(t.Context(), []market.Market{btcusdt, bad}); market.KindOf(err) != market.KindNotFound {
		t.Errorf("illegal characters: %v, want not found", err)
	}
}

// TestEveryRequestPassesTheBudget: what one call is told holds for all others of the process.
func TestEveryRequestPassesTheBudget(t *testing.T) {
	calls := map[string]func(*REST, context.Context) error{
		"time":    func(r *REST, ctx context.Context) error { _, err := r.ServerTime(ctx); return err },
		"depth":   func(r *REST, ctx context.Context) error { _, err := r.Snapshot(ctx, btcusdt, 5); return err },
		"updates": func(r *REST, ctx context.Context) error { _, err := r.LastUpdateID(ctx, btcusdt); return err },
		"trade":   func(r *REST, ctx context.Context) error { _, err := r.LastTradeID(ctx, btcusdt); return err },
		"trades":  func(r *REST, ctx context.Context) error { _, err := r.TradesFrom(ctx, btcusdt, 1, 5); return err },
		"listings": func(r *REST, ctx context.Context) error {
			_, err := r.Listings(ctx, []market.Market{btcusdt})
			return err
		},
		"background": func(r *REST, ctx context.Context) error { _, err := r.Background().ServerTime(ctx); return err },
	}
	for status, want := range map[int]string{429: "rate limit reached", 418: "IP address banned", 403: "web application firewall"} {
		requests := 0
		angry := func(w http.ResponseWriter, r *http.Request) {
			requests++
			text(status, "<html>")(w, r)
		}
		r := serve(t, map[string]http.HandlerFunc{"/api/v3/time": angry})
		unsent := 0
		r.budget.observe = func(request Request) {
			if request.Result == ResultUnsent {
				unsent++
			}
		}
		if err := calls["time"](r, t.Context()); market.KindOf(err) != market.KindUnavailable {
			t.Errorf("status %d: %v", status, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		begin := time.Now()
		for name, call := range calls {
			err := call(r, ctx)
			if limited, ok := errors.AsType[*RateLimitError](err); !ok || market.KindOf(err) != market.KindUnavailable ||
				limited.RetryAfter < 29*time.Second || !strings.Contains(err.Error(), want) {
				t.Errorf("%s after status %d: %v, want %q", name, status, err, want)
			}
		}
		if requests != 1 || unsent != len(calls) || time.Since(begin) > 4*time.Second {
			t.Errorf("status %d: %d requests, %d unsent, after %v", status, requests, unsent, time.Since(begin))
		}
	}
}

func TestListingsStateTheLimit(t *testing.T) {
	limits := func(list string) string { return `{"rateLimits":[` + list + `],"symbols":[{"symbol":"BTCUSDT"}]}` }
	for list, want := range map[string]int{
		"": MaxWeightPerMinute,
		`{"rateLimitType":"REQUEST_WEIGHT","interval":"MINUTE","intervalNum":1,"limit":1200}`:                                                                                    1200,
		`{"rateLimitType":"RAW_REQUESTS","interval":"MINUTE","intervalNum":5,"limit":61000},{"rateLimitType":"REQUEST_WEIGHT","interval":"MINUTE","intervalNum":1,"limit":9000}`: 9000,
		`{"rateLimitType":"REQUEST_WEIGHT","interval":"DAY","intervalNum":1,"limit":9}`:                                                                                          MaxWeightPerMinute,
		`{"rateLimitType":"REQUEST_WEIGHT","interval":"MINUTE","intervalNum":1,"limit":-9}`:                                                                                      MaxWeightPerMinute,
	} {
		r := serve(t, map[string]http.HandlerFunc{"/api/v3/exchangeInfo": text(200, limits(list))})
		if _, err := r.Listings(t.Context(), []market.Market{btcusdt}); err != nil || r.budget.limit != want {
			t.Errorf("%s: limit %d, %v, want %d", list, r.budget.limit, err, want)
		}
	}
}

// TestRedirectIsNotFollowed: it would be a request that nobody counts.
func TestRedirectIsNotFollowed(t *testing.T) {
	requests := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests++
		http.Redirect(w, r, "/elsewhere", http.StatusFound)
	}))
	defer server.Close()
	if _, err := NewREST(server.URL, nil, nil).ServerTime(t.Context()); market.KindOf(err) != market.KindCorrupt || requests != 1 {
		t.Errorf("%d requests, %v", requests, err)
	}
}

// TestSnapshotEndsWithABan: of two requests, the second is not sent when the exchange wants none any more by then.
func TestSnapshotEndsWithABan(t *testing.T) {
	for _, status := range []int{http.StatusTooManyRequests, http.StatusTeapot} {
		asked, release := make(chan struct{}), make(chan struct{})
		r := serve(t, map[string]http.HandlerFunc{ // and no depth
			"/api/v3/time": func(w http.ResponseWriter, r *http.Request) {
				close(asked)
				<-release
				text(200, timeReply)(w, r)
			},
			"/api/v3/aggTrades": func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Retry-After", "600")
				text(status, "")(w, r)
			},
		})
		var told []Request
		r.budget.observe = func(request Request) { told = append(told, request) }
		var err error
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, err = r.Snapshot(t.Context(), btcusdt, 100)
		}()
		<-asked
		if _, err := r.Background().LastTradeID(t.Context(), btcusdt); market.KindOf(err) != market.KindUnavailable {
			t.Errorf("status %d: %v", status, err)
		}
		close(release)
		<-done
		limited, ok := errors.AsType[*RateLimitError](err)
		if !ok || limited.Banned != (status == http.StatusTeapot) || limited.RetryAfter < 590*time.Second ||
			limited.RetryAfter > 600*time.Second || market.KindOf(err) != market.KindUnavailable {
			t.Errorf("status %d: %v, want how long it lasts", status, err)
		}
		if want := (Request{Endpoint: "depth", Result: ResultUnsent, UsedWeight: -1}); len(told) != 3 || told[2] != want {
			t.Errorf("status %d: told %+v, want %+v at last", status, told, want)
		}
		if r.budget.inFlight != 0 {
			t.Errorf("status %d: %d is still under way", status, r.budget.inFlight)
		}
	}
}
