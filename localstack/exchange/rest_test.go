package exchange

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestREST(t *testing.T) {
	t.Parallel()
	source := newSynthetic(t, SyntheticConfig{Symbols: []string{"BTCUSDT", "ETHBTC", "币安人生USDT"}, Levels: 2000, Duration: 1})
	s := start(t, source)
	for _, c := range []struct {
		path   string
		status int
		want   string // what the body holds
	}{
		{"/api/v3/ping", 200, `{}`},
		{"/api/v3/time", 200, fmt.Sprintf(`{"serverTime":%d}`, milliseconds(defaultStart))},
		{"/api/v3/depth?symbol=BTCUSDT&limit=1", 200, `"asks":[["`},
		{"/api/v3/depth?symbol=" + url.QueryEscape("币安人生USDT") + "&limit=1", 200, `"asks":[["`},
		{"/api/v3/depth", 400, `{"code":-1102,"msg":"Mandatory parameter 'symbol' was not sent, was empty/null, or malformed."}`},
		{"/api/v3/depth?symbol=btcusdt", 400, `{"code":-1100,`},
		{"/api/v3/depth?symbol=NOSUCH", 400, `{"code":-1121,"msg":"Invalid symbol."}`},
		{"/api/v3/depth?symbol=BTCUSDT&limit=x", 400, `{"code":-1100,`},
		{"/api/v3/depth?symbol=BTCUSDT&limit=-1", 400, `{"code":-1100,`},
		{"/api/v3/depth?symbol=BTCUSDT&limit=0", 400, `{"code":-1130,`},
		{"/api/v3/exchangeInfo?symbol=ETHBTC", 200, `"symbols":[{"symbol":"ETHBTC","status":"TRADING","baseAsset":"ETH",`},
		{`/api/v3/exchangeInfo?symbols=["ETHBTC","BTCUSDT"]`, 200, `"symbols":[{"symbol":"BTCUSDT",`},
		{"/api/v3/exchangeInfo?symbol=NOSUCH", 400, `{"code":-1121,"msg":"Invalid symbol."}`},
		{`/api/v3/exchangeInfo?symbols=["ETHBTC","NOSUCH"]`, 400, `{"code":-1121,"msg":"Invalid symbol."}`},
		{`/api/v3/exchangeInfo?symbols=ETHBTC`, 400, `{"code":-1100,`},
		{`/api/v3/exchangeInfo?symbols=["ETHBTC"]&symbol=ETHBTC`, 400, `{"code":-1128,`},
		{"/api/v3/nosuch", 404, ``},
	} {
		status, _, body := get(t, s, strings.ReplaceAll(c.path, `"`, "%22"))
		if status != c.status || !strings.Contains(body, c.want) {
			t.Errorf("%s: %d %.300s\nwant %d %s", c.path, status, body, c.status, c.want)
		}
	}
}

func TestDepthOfASnapshot(t *testing.T) {
	t.Parallel()
	s := start(t, newSynthetic(t, SyntheticConfig{Symbols: SymbolNames(1), Levels: maxLevels, Duration: 1}))
	truth, err := s.Book("SYN001USDT")
	if err != nil || len(truth.Bids) != maxLevels {
		t.Fatal(len(truth.Bids), err)
	}
	for query, want := range map[string]struct{ levels, weight int }{
		"": {100, 5}, "&limit=100": {100, 5}, "&limit=101": {101, 25}, "&limit=500": {500, 25}, "&limit=1000": {1000, 50},
		"&limit=1001": {1001, 250}, "&limit=5000": {5000, 250}, "&limit=99999": {5000, 250},
	} {
		before := s.weight.used
		_, header, body := get(t, s, "/api/v3/depth?symbol=SYN001USDT"+query)
		got := snapshotIn(t, body)
		if got.LastID != truth.LastID || len(got.Bids) != want.levels || len(got.Asks) != want.levels ||
			got.Bids[want.levels-1] != truth.Bids[want.levels-1] || got.Asks[0] != truth.Asks[0] {
			t.Errorf("%q: %d bids, %d asks, id %d", query, len(got.Bids), len(got.Asks), got.LastID)
		}
		used, err := strconv.Atoi(header.Get("X-Mbx-Used-Weight-1m"))
		if err != nil || used-before != want.weight && used > want.weight { // a new minute may have begun
			t.Errorf("%q: weight %d after %d, want %d more", query, used, before, want.weight)
		}
	}
}

// usedWeight returns the header of the used weight, which is not in Go's canonical form.
func usedWeight(w *httptest.ResponseRecorder) string {
	for name, values := range w.Header() {
		if name == "X-MBX-USED-WEIGHT-1M" {
			return values[0]
		}
	}
	return ""
}

func TestRateLimit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := New(quietSource(t), WithWeightLimit(60))
		ask := func() *httptest.ResponseRecorder {
			w := httptest.NewRecorder()
			s.http.Handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/api/v3/exchangeInfo", nil))
			return w
		}
		<-time.After(15 * time.Second) // the bubble begins with a minute
		for i := range 3 {
			w := ask()
			if used := usedWeight(w); w.Code != 200 || used != strconv.Itoa(20*(i+1)) {
				t.Errorf("request %d: %d, weight %s", i, w.Code, used)
			}
			if !strings.Contains(w.Body.String(), `{"rateLimitType":"REQUEST_WEIGHT","interval":"MINUTE","intervalNum":1,"limit":60}`) {
				t.Errorf("limits in %s", w.Body)
			}
		}
		w := ask()
		if w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") != "46" ||
			!strings.HasPrefix(w.Body.String(), `{"code":-1003,`) {
			t.Errorf("over the limit: %d, retry after %q, %s", w.Code, w.Header().Get("Retry-After"), w.Body)
		}
		<-time.After(46 * time.Second)
		if w := ask(); w.Code != 200 || usedWeight(w) != "20" {
			t.Errorf("a minute later: %d, weight %s", w.Code, usedWeight(w))
		}
		if err := s.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestExchangeInfoFilters(t *testing.T) {
	t.Parallel()
	s := start(t, quietSource(t))
	_, _, body := get(t, s, "/api/v3/exchangeInfo")
	var info struct {
		Symbols []struct {
			Symbol  string
			Filters []map[string]string
		}
	}
	if err := json.Unmarshal([]byte(body), &info); err != nil {
		t.Fatal(err)
	}
	if len(info.Symbols) != 2 || info.Symbols[1].Symbol != "SYN002USDT" ||
		info.Symbols[1].Filters[0]["tickSize"] != "0.10000000" || info.Symbols[1].Filters[1]["stepSize"] != "0.00010000" {
		t.Errorf("symbols %+v", info.Symbols)
	}
}

func TestRESTMiddleware(t *testing.T) {
	t.Parallel()
	s := start(t, quietSource(t), WithREST(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/api/v3/depth" {
				w.Header().Set("Content-Type", "text/html")
				fmt.Fprint(w, "<html>")
				return
			}
			next.ServeHTTP(w, r)
		})
	}))
	if _, header, body := get(t, s, "/api/v3/depth?symbol=X"); body != "<html>" || header.Get("Content-Type") != "text/html" {
		t.Errorf("depth: %s", body)
	}
	if _, _, body := get(t, s, "/api/v3/ping"); body != "{}" {
		t.Errorf("ping: %s", body)
	}
}
