package exchange

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"tapedeck/localstack/faults"
	"tapedeck/shared/market"
)

// fault reads one fault of the text form.
func fault(tb testing.TB, text string) faults.Fault {
	tb.Helper()
	s, err := faults.Parse(text)
	if err != nil || len(s.Faults) != 1 {
		tb.Fatal(text, err)
	}
	return s.Faults[0]
}

func inject(tb testing.TB, s *Server, text string) {
	tb.Helper()
	if err := s.Inject(fault(tb, text)); err != nil {
		tb.Fatal(err)
	}
}

// tradeFrame is trade n of AAAUSDT, in the tenth millisecond after the one before.
func tradeFrame(n int) string {
	at := 1_700_000_000_000 + 10*n
	return fmt.Sprintf(`{"stream":"aaausdt@trade","data":{"e":"trade","E":%d,"s":"AAAUSDT","t":%d,"p":"2.50000000","q":"%d.00000000","T":%d,"m":false,"M":true}}`, at, n, n, at)
}

// tradesOf is a recording of n trades and, between them, n depth updates.
func tradesOf(tb testing.TB, n int) Source {
	frames := []string{snapshotFrame(0, "")}
	for i := range n {
		frames = append(frames, tradeFrame(i+1), depthFrame("AAAUSDT", int64(3*i+1), int64(3*i+3), ""))
	}
	return newReplay(tb, record(tb, frames...))
}

// waiting starts a stand-in whose source waits until the returned function is called, and then for n connections.
func waiting(tb testing.TB, source Source, opts ...Option) (s *Server, release func(n int)) {
	s = start(tb, source, append([]Option{WithStartStreams("go@go"), WithSnapshotHold(0)}, opts...)...)
	return s, func(n int) {
		connected(tb, s, n)
		dial(tb, s, "/ws/go@go")
	}
}

// connected waits until n connections listen to something: the handshake is over before the stand-in has noted them.
func connected(tb testing.TB, s *Server, n int) {
	tb.Helper()
	poll(tb, fmt.Sprint(n, " connections"), func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		listening := 0
		for c := range s.conns {
			if len(c.streams) > 0 {
				listening++
			}
		}
		return listening == n
	})
}

// seen is what a client of trades saw: ids, and what else there was.
func seen(tb testing.TB, ws *websocket.Conn) string {
	tb.Helper()
	var list []string
	for {
		ws.SetReadDeadline(time.Now().Add(20 * time.Second))
		kind, message, err := ws.ReadMessage()
		var e struct {
			Result *[]string
			Symbol string `json:"s"`
			ID     int64  `json:"t"`
			Time   int64  `json:"T"` // declared because names that differ in case alone are mistaken for each other
			Update int64  `json:"U"`
		}
		switch {
		case err != nil:
			return strings.Join(append(list, "end"), " ")
		case kind == websocket.BinaryMessage:
			list = append(list, "binary")
		case json.Unmarshal(message, &e) != nil:
			list = append(list, "broken")
		case e.Result != nil:
			return strings.Join(list, " ")
		case e.Symbol != "AAAUSDT":
			list = append(list, e.Symbol)
		case len(message) > 1<<20:
			list = append(list, fmt.Sprint(len(message)))
		case e.Update > 0:
			list = append(list, fmt.Sprintf("u%d", e.Update))
		default:
			list = append(list, fmt.Sprint(e.ID))
		}
	}
}

func TestFaultsOfEvents(t *testing.T) {
	t.Parallel()
	const all = "1 2 3 4 5 6"
	absurd := fmt.Sprint("-1 0 ", int64(math.MaxInt64), " 4 5 6")
	for _, c := range []struct{ fault, first, second string }{
		{"drop count=2", "3 4 5 6", "3 4 5 6"},
		{"drop count=2 conn=1", "3 4 5 6", all},
		{"drop count=2 conn=2", all, "3 4 5 6"},
		{"drop count=2 conn=4", all, "3 4 5 6"}, // counted round
		{"drop for=1h stream=AAAUSDT@trade", "", ""},
		{"drop for=1h count=4 symbol=AAAUSDT", "3 4 5 6", "3 4 5 6"},
		{"drop count=9 stream=@depth", all, all},
		{"drop count=9 symbol=BBBUSDT", all, all},
		{"double count=2", "1 1 2 2 3 4 5 6", "1 1 2 2 3 4 5 6"},
		{"reorder count=2", "2 1 4 3 5 6", "2 1 4 3 5 6"},
		{"reorder for=1h conn=2", all, "2 1 4 3 6 5"},
		{"stall for=1h", "", ""},
		{"stall for=1h stream=@trade conn=1", "", all},
		{"stall for=1h stream=@depth", all, all},
		{"gap count=2", "3 4 5 6", "3 4 5 6"},
		{"frame-malformed count=2", "broken broken 3 4 5 6", "broken broken 3 4 5 6"},
		{"frame-malformed count=2 keep=true conn=1", "broken 1 broken 2 3 4 5 6", all},
		{"frame-truncated", "broken 2 3 4 5 6", "broken 2 3 4 5 6"},
		{"frame-binary conn=2", all, "binary 2 3 4 5 6"},
		{"frame-huge keep=true", "10485760 1 2 3 4 5 6", "10485760 1 2 3 4 5 6"},
		{"frame-symbol", "WRONGUSDT 2 3 4 5 6", "WRONGUSDT 2 3 4 5 6"},
		{"frame-ids count=3", absurd, absurd},
		{"frame-torn count=1 conn=1", "end", all},
	} {
		t.Run(c.fault, func(t *testing.T) {
			t.Parallel()
			s, release := waiting(t, tradesOf(t, 6))
			var clients []*websocket.Conn
			for n := range 2 {
				clients = append(clients, dial(t, s, "/ws/aaausdt@trade"))
				connected(t, s, n+1)
			}
			f := fault(t, c.fault)
			if f.Stream == "" && f.Symbol == "" {
				f.Stream = "@trade" // the recording has other events, too
			}
			if err := s.Inject(f); err != nil {
				t.Fatal(err)
			}
			release(2)
			poll(t, "the end", func() bool { return s.Progress().Done })
			for i, want := range []string{c.first, c.second} {
				clients[i].WriteMessage(websocket.TextMessage, []byte(`{"method":"LIST_SUBSCRIPTIONS","id":1}`))
				if got := seen(t, clients[i]); got != want {
					t.Errorf("client %d saw %q, want %q", i+1, got, want)
				}
			}
			// Whatever was sent, it happened.
			if kept, err := s.Trades("AAAUSDT", 0, 100); err != nil || len(kept) != 6 || kept[5].ID != 6 {
				t.Errorf("the truth has %d trades (%v), want all 6", len(kept), err)
			}
			if truth, err := s.Book("AAAUSDT"); err != nil || truth.LastID != 18 {
				t.Errorf("the book is at %d (%v), want 18", truth.LastID, err)
			}
		})
	}
}

// A gap is counted in ids, and what vanished is nowhere to be had; what was dropped is.
func TestGapIsAHoleForEverybody(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]struct{ depth, trades string }{
		"gap count=4 stream=@depth":  {"u7 u10", "[1 2 3 4]"},
		"gap count=2 stream=@trade":  {"u1 u4 u7 u10", "[3 4]"},
		"drop count=2 stream=@trade": {"u1 u4 u7 u10", "[1 2 3 4]"},
	} {
		s, release := waiting(t, tradesOf(t, 4))
		ws := dial(t, s, "/stream?streams=aaausdt@depth@100ms")
		inject(t, s, text)
		release(1)
		wait(t, "the end", s.Done())
		var got []string
		for range strings.Fields(want.depth) {
			_, e := decode(t, []byte(receive(t, ws)))
			got = append(got, fmt.Sprintf("u%d", e.FirstID))
		}
		if strings.Join(got, " ") != want.depth {
			t.Errorf("%s: saw %v, want %s", text, got, want.depth)
		}
		for _, endpoint := range []string{"trades?symbol=AAAUSDT", "historicalTrades?symbol=AAAUSDT&fromId=0"} {
			_, _, body := get(t, s, "/api/v3/"+endpoint)
			var list []struct{ ID int }
			json.Unmarshal([]byte(body), &list)
			ids := []int{}
			for _, e := range list {
				ids = append(ids, e.ID)
			}
			if fmt.Sprint(ids) != want.trades {
				t.Errorf("%s: %s gives %v, want %s", text, endpoint, ids, want.trades)
			}
		}
	}
}

func TestDelayKeepsTheOrder(t *testing.T) {
	t.Parallel()
	bubble(t, tradesOf(t, 50), func(s *Server, p *pipes) {
		late := p.dial(t, "/ws/aaausdt@trade")
		synctest.Wait()
		prompt := p.dial(t, "/ws/aaausdt@trade")
		if err := s.Inject(fault(t, "delay by=300ms for=350ms conn=1")); err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		ws := p.dial(t, "/ws/go@go")
		var delays []time.Duration
		arrivals := map[*websocket.Conn][]time.Duration{}
		for i := range 50 {
			for _, c := range []*websocket.Conn{prompt, late} {
				if got := receive(t, c); !strings.Contains(got, fmt.Sprintf(`"t":%d,`, i+1)) {
					t.Fatalf("event %d: %s", i+1, got)
				}
				arrivals[c] = append(arrivals[c], time.Since(begun))
			}
			delays = append(delays, arrivals[late][i])
		}
		// Lines are a millisecond apart: 0.1 s in all. The first ones come 300 ms late, all others at the end.
		if first, last := delays[0], delays[49]; first < 300*time.Millisecond || first > 303*time.Millisecond || last != 350*time.Millisecond {
			t.Errorf("delayed events came after %v to %v, want 300ms to 350ms", first, last)
		}
		ws.Close()
		late.Close()
		prompt.Close()
	}, WithSpeed(1), WithStartStreams("go@go"), WithSnapshotHold(0))
}

// A stall that lasts until a stream is subscribed to anew ends with that, or with a new connection.
func TestStallUntil(t *testing.T) {
	t.Parallel()
	const again = `{"method":"SUBSCRIBE","params":["syn001usdt@trade"],"id":2}`
	for until, want := range map[string]bool{"subscribe": true, "connect": false, "time": false} {
		s := start(t, newSynthetic(t, SyntheticConfig{Symbols: SymbolNames(1), Levels: minLevels}), WithSpeed(50))
		ws := dial(t, s, "/stream?streams=syn001usdt@trade/syn001usdt@depth@100ms")
		receive(t, ws)
		inject(t, s, "stall for=1h stream=@trade until="+until)
		ws.WriteMessage(websocket.TextMessage, []byte(`{"method":"UNSUBSCRIBE","params":["syn001usdt@trade"],"id":1}`))
		for !strings.HasPrefix(receive(t, ws), `{"result":null,"id":1`) {
		}
		ws.WriteMessage(websocket.TextMessage, []byte(again))
		trades := func(ws *websocket.Conn) bool {
			for depths := 0; depths < 100; {
				switch message := receive(t, ws); {
				case strings.Contains(message, `"e":"trade"`):
					return true
				case strings.Contains(message, `"e":"depthUpdate"`):
					depths++
				}
			}
			return false
		}
		if got := trades(ws); got != want {
			t.Errorf("until %s: subscribed anew, trades come = %v", until, got)
		}
		fresh := dial(t, s, "/stream?streams=syn001usdt@trade/syn001usdt@depth@100ms")
		if got := trades(fresh); got != (until != "time") {
			t.Errorf("until %s: connected anew, trades come = %v", until, got)
		}
	}
}

func TestFaultsOfConnections(t *testing.T) {
	t.Parallel()
	s := start(t, newSynthetic(t, SyntheticConfig{Symbols: SymbolNames(1), Levels: minLevels}), WithSpeed(10))
	const path = "/ws/syn001usdt@trade"
	if err := s.Inject(fault(t, "cut")); market.KindOf(err) != market.KindNotFound {
		t.Errorf("nobody to cut: %v", err)
	}
	read := func(ws *websocket.Conn) error {
		ws.SetReadDeadline(time.Now().Add(20 * time.Second))
		for {
			if _, _, err := ws.ReadMessage(); err != nil {
				return err
			}
		}
	}

	ws := dial(t, s, path)
	connected(t, s, 1)
	other := dial(t, s, path)
	connected(t, s, 2)
	inject(t, s, "cut conn=1")
	if err := read(ws); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("cut: %v", err)
	}
	receive(t, other)
	inject(t, s, "close status=1008")
	if code, _ := closeCode(t, other); code != 1008 {
		t.Errorf("close: %d", code)
	}

	ws = dial(t, s, "/stream?streams=syn001usdt@trade")
	connected(t, s, 1)
	inject(t, s, "shutdown for=200ms")
	begun := time.Now()
	for {
		message := receive(t, ws)
		if strings.HasPrefix(message, `{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":17`) {
			break
		}
	}
	if err := read(ws); !errors.Is(err, syscall.ECONNRESET) || time.Since(begun) < 100*time.Millisecond {
		t.Errorf("shutdown: %v after %v", err, time.Since(begun))
	}

	ws = dial(t, s, path)
	connected(t, s, 1)
	inject(t, s, "ping-flood rate=200 for=10s")
	pings := 0
	ws.SetPingHandler(func(string) error {
		if pings++; pings == 20 {
			return errors.New("enough")
		}
		return nil
	})
	read(ws)
	if pings != 20 {
		t.Errorf("%d pings", pings)
	}
}

// On a half-open connection nothing moves in either direction, and nobody says so.
func TestHalfOpen(t *testing.T) {
	t.Parallel()
	bubble(t, newSynthetic(t, SyntheticConfig{Symbols: SymbolNames(1), Levels: minLevels}), func(s *Server, p *pipes) {
		ws := p.dial(t, "/ws/syn001usdt@trade")
		receive(t, ws)
		if err := s.Inject(fault(t, "half-open for=5m")); err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		ws.SetPongHandler(func(string) error { t.Error("a pong came"); return nil })
		go ws.WriteControl(websocket.PingMessage, []byte("x"), time.Now().Add(time.Hour))
		ws.SetReadDeadline(time.Time{})
		received := 0
		for {
			_, _, err := ws.ReadMessage()
			if err != nil {
				if _, graceful := errors.AsType[*websocket.CloseError](err); graceful && websocket.IsCloseError(err, 1000, 1001, 1008) {
					t.Errorf("ended with %v", err)
				}
				break
			}
			received++
		}
		if received > 1 || time.Since(begun) != 5*time.Minute { // one may have been under way
			t.Errorf("%d events, ended after %v, want 5m", received, time.Since(begun))
		}
	}, WithSpeed(1))
}

func TestSlowPings(t *testing.T) {
	t.Parallel()
	bubble(t, quietSource(t), func(s *Server, p *pipes) {
		ws := p.dial(t, "/ws")
		begun := time.Now()
		synctest.Wait()
		if err := s.Inject(fault(t, "ping-slow for=90s")); err != nil {
			t.Fatal(err)
		}
		first := time.Duration(0)
		echo := ws.PingHandler()
		ws.SetPingHandler(func(payload string) error {
			if first == 0 {
				first = time.Since(begun)
				time.AfterFunc(10*time.Minute, func() { ws.Close() })
			}
			return echo(payload)
		})
		ws.SetReadDeadline(time.Time{})
		_, _, err := ws.ReadMessage()
		if age := time.Since(begun); first != 100*time.Second || age < 10*time.Minute {
			t.Errorf("first ping after %v, ended after %v with %v", first, age, err)
		}
	})
}

func TestFaultsOfHandshakes(t *testing.T) {
	t.Parallel()
	s := start(t, quietSource(t))
	for _, status := range []int{503, 429, 403} {
		inject(t, s, fmt.Sprintf("handshake-refused status=%d count=2", status))
		for range 2 {
			_, resp, err := websocket.DefaultDialer.DialContext(t.Context(), s.StreamURL()+"/ws", nil)
			if err == nil || resp == nil || resp.StatusCode != status {
				t.Fatalf("want %d, got %v (%v)", status, resp, err)
			}
			resp.Body.Close()
		}
		dial(t, s, "/ws")
	}
	inject(t, s, "handshake-mute for=300ms")
	raw, err := net.Dial("tcp", strings.TrimPrefix(s.StreamURL(), "ws://"))
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	fmt.Fprintf(raw, "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")
	begun := time.Now()
	raw.SetReadDeadline(begun.Add(20 * time.Second))
	if n, err := raw.Read(make([]byte, 1)); n > 0 || err == nil || time.Since(begun) < 100*time.Millisecond {
		t.Errorf("mute: %d bytes, %v after %v", n, err, time.Since(begun))
	}
	if st := s.Stats(); st.ConnectsRefused != 0 || st.Connects != 10 {
		t.Errorf("%+v", st)
	}
}

func TestFaultsOfREST(t *testing.T) {
	t.Parallel()
	const depth = "/api/v3/depth?symbol=SYN001USDT&limit=5"
	for _, c := range []struct {
		fault  string
		path   string
		status int // 0 = no whole answer
		header string
		body   string // what it begins with
		atOnce bool
	}{
		{"rest-html", depth, 200, "text/html", "<!DOCTYPE html>", true},
		{"rest-empty count=1", depth, 200, "application/json", "", true},
		{"rest-truncated", depth, 0, "", "", true},
		{"rest-status", depth, 503, "", `{"code":-1000,`, true},
		{"rest-status status=429 retry=1500ms", depth, 429, "2", `{"code":-1003,`, true},
		{"rest-status status=418 retry=120s", depth, 418, "120", `{"code":-1003,`, true},
		{"rest-status status=500 symbol=SYN002USDT", depth, 200, "", `{"lastUpdateId":`, true},
		{"rest-status status=500 endpoint=time", depth, 200, "", `{"lastUpdateId":`, true},
		{"rest-status status=500 endpoint=time", "/api/v3/time", 500, "", `{"code":`, true},
		{"rest-late by=200ms", depth, 200, "", `{"lastUpdateId":`, false},
	} {
		t.Run(c.fault+" "+c.path, func(t *testing.T) {
			t.Parallel()
			s := start(t, quietSource(t))
			inject(t, s, c.fault)
			begun := time.Now()
			resp, err := http.Get(s.URL() + c.path)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			var body bytes.Buffer
			_, err = body.ReadFrom(resp.Body)
			if c.status == 0 {
				if err == nil || body.Len() == 0 {
					t.Errorf("%d bytes, %v: want a part of an answer", body.Len(), err)
				}
				return
			}
			if resp.StatusCode != c.status || !strings.HasPrefix(body.String(), c.body) || c.body == "" && body.Len() > 0 {
				t.Errorf("%d %s", resp.StatusCode, body.String())
			}
			if !strings.HasPrefix(resp.Header.Get("Content-Type"), c.header) && resp.Header.Get("Retry-After") != c.header {
				t.Errorf("header %v, want %s", resp.Header, c.header)
			}
			if late := time.Since(begun) >= 200*time.Millisecond; !c.atOnce && !late {
				t.Errorf("after %v", time.Since(begun))
			}
		})
	}
}

func TestOldSnapshot(t *testing.T) {
	t.Parallel()
	s := start(t, newSynthetic(t, SyntheticConfig{Symbols: SymbolNames(2), Levels: minLevels}), WithSpeed(100))
	ws := dial(t, s, "/ws/syn001usdt@trade")
	receive(t, ws)
	inject(t, s, "rest-old symbol=SYN001USDT for=1h")
	old := fetchBook(t, s, "SYN001USDT", "5")
	before := fetchBook(t, s, "SYN002USDT", "5")
	poll(t, "a later book", func() bool { return fetchBook(t, s, "SYN002USDT", "1").LastID > before.LastID })
	if again := fetchBook(t, s, "SYN001USDT", "5"); again.LastID != old.LastID || len(again.Bids) != 5 || again.Bids[0] != old.Bids[0] {
		t.Errorf("got %d, want the old %d", again.LastID, old.LastID)
	}
	if truth, err := s.Book("SYN001USDT"); err != nil || truth.LastID <= old.LastID {
		t.Errorf("the truth is at %d, the old book at %d (%v)", truth.LastID, old.LastID, err)
	}
}

// The port is closed for a while, also to who is connected, and then open again.
func TestRESTRefused(t *testing.T) {
	t.Parallel()
	s := start(t, quietSource(t))
	get(t, s, "/api/v3/ping") // leaves an idle connection
	ws := dial(t, s, "/ws")
	inject(t, s, "rest-refused for=300ms")
	ping := func(base string) error {
		resp, err := http.Get(base + "/api/v3/ping")
		if err == nil {
			resp.Body.Close()
		}
		return err
	}
	if err := ping(s.URL()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("REST: %v", err)
	}
	if err := ping(strings.Replace(s.StreamURL(), "ws:", "http:", 1)); err == nil {
		t.Error("the port of the streams answers REST")
	}
	ask(t, ws, `{"method":"LIST_SUBSCRIPTIONS","id":1}`)
	poll(t, "REST again", func() bool { return ping(s.URL()) == nil })
}

// The clock steps for all that happens after, and REST tells of an event what the stream told.
func TestClockSteps(t *testing.T) {
	t.Parallel()
	for text, by := range map[string]int64{"clock by=2s": 2000, "clock by=-1500ms": -1500} {
		s, release := waiting(t, tradesOf(t, 4))
		ws := dial(t, s, "/stream?streams=aaausdt@trade/aaausdt@depth@100ms")
		_, _, before := get(t, s, "/api/v3/time")
		inject(t, s, text)
		_, _, after := get(t, s, "/api/v3/time")
		var was, is struct{ ServerTime int64 }
		json.Unmarshal([]byte(before), &was)
		json.Unmarshal([]byte(after), &is)
		if is.ServerTime-was.ServerTime != by {
			t.Errorf("%s: time goes from %d to %d", text, was.ServerTime, is.ServerTime)
		}
		release(1)
		wait(t, "the end", s.Done())
		var told []int64
		for range 8 {
			if _, e := decode(t, []byte(receive(t, ws))); e.Type == "trade" {
				want := 1_700_000_000_000 + 10*e.TradeID
				if e.TradeID > 1 { // the first is of the very instant of the step
					want += by
				}
				if e.EventTime != want || e.TradeTime != want {
					t.Errorf("%s: trade %d of %d, sent at %d, want %d", text, e.TradeID, e.TradeTime, e.EventTime, want)
				}
				told = append(told, e.TradeTime)
			}
		}
		_, _, body := get(t, s, "/api/v3/historicalTrades?symbol=AAAUSDT&fromId=0")
		var list []struct{ Time int64 }
		json.Unmarshal([]byte(body), &list)
		for i, e := range list {
			if e.Time != told[i] {
				t.Errorf("%s: REST says %d of trade %d, the stream said %d", text, e.Time, i+1, told[i])
			}
		}
		if kept, _ := s.Trades("AAAUSDT", 4, 1); len(kept) != 1 || milliseconds(kept[0].EventTime) != 1_700_000_000_040 {
			t.Errorf("%s: the truth is %+v", text, kept)
		}
	}
	if err := start(t, tradesOf(t, 1)).Inject(fault(t, "clock by=1s for=1s")); err != nil {
		t.Error(err)
	}
}

// In BREAK nothing happens, and afterwards the market goes on where it was: no id is missing.
func TestMarketBreak(t *testing.T) {
	t.Parallel()
	for kind, status := range map[string]string{"market-break": "BREAK", "market-quiet": "TRADING"} {
		bubble(t, newSynthetic(t, SyntheticConfig{Symbols: SymbolNames(2), Levels: minLevels}), func(s *Server, p *pipes) {
			told := func() string {
				w := httptest.NewRecorder()
				s.http.Handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/api/v3/exchangeInfo?symbol=SYN001USDT", nil))
				_, rest, _ := strings.Cut(w.Body.String(), `"status":"`)
				status, _, _ := strings.Cut(rest, `"`)
				return status
			}
			ws := p.dial(t, "/stream?streams=syn001usdt@depth@100ms/syn002usdt@depth@100ms")
			next := func() event {
				for {
					if stream, e := decode(t, []byte(receive(t, ws))); strings.HasPrefix(stream, "syn001") {
						return e
					}
				}
			}
			last := next()
			if err := s.Inject(fault(t, kind+" for=10s symbol=SYN001USDT")); err != nil {
				t.Fatal(err)
			}
			if got := told(); got != status {
				t.Errorf("%s: exchangeInfo says %s", kind, got)
			}
			pause := int64(0)
			for range 5 {
				e := next()
				if e.FirstID != last.LastID+1 {
					t.Errorf("%s: update %d follows %d", kind, e.FirstID, last.LastID)
				}
				pause = max(pause, e.EventTime-last.EventTime)
				last = e
			}
			if pause < 9_800 || pause > 10_300 {
				t.Errorf("%s: nothing for %d ms, want 10 s", kind, pause)
			}
			if got := told(); got != "TRADING" {
				t.Errorf("%s: afterwards exchangeInfo says %s", kind, got)
			}
			ws.Close()
		}, WithSpeed(1))
	}
	if err := start(t, tradesOf(t, 1)).Inject(fault(t, "market-break")); market.KindOf(err) != market.KindInvalid {
		t.Errorf("a recording: %v", err)
	}
	if err := start(t, quietSource(t)).Inject(fault(t, "market-break symbol=NOSUCH")); market.KindOf(err) != market.KindNotFound {
		t.Errorf("an unknown market: %v", err)
	}
}

func TestInjectRefusesWhatIsNotItsOwn(t *testing.T) {
	t.Parallel()
	s := New(quietSource(t))
	if err := s.Start("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	for _, f := range []faults.Fault{{Kind: "nonsense"}, {Kind: faults.Delay}, {Kind: faults.StoreCut}} {
		if err := s.Inject(f); market.KindOf(err) != market.KindInvalid {
			t.Errorf("%v: %v", f, err)
		}
	}
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Inject(faults.Fault{Kind: faults.Drop}); market.KindOf(err) != market.KindUnavailable {
		t.Errorf("closed: %v", err)
	}
}

// A plan begins with the source, and what is injected is told.
func TestPlanRunsFromTheStart(t *testing.T) {
	t.Parallel()
	script, err := faults.Parse("drop@1s every=2s times=2; cut@4s; store-cut@1s; market-break@5s symbol=NOSUCH")
	if err != nil {
		t.Fatal(err)
	}
	var begun time.Time
	var told []string
	tell := func(f faults.Fault, err error) {
		told = append(told, fmt.Sprint(f.Kind, " ", time.Since(begun), " ", err == nil))
	}
	bubble(t, newSynthetic(t, SyntheticConfig{Symbols: SymbolNames(1), Levels: minLevels}), func(s *Server, p *pipes) {
		<-time.After(time.Minute)
		begun = time.Now()
		ws := p.dial(t, "/ws/syn001usdt@trade")
		closeCodeForever(ws)
		if age := time.Since(begun); age != 4*time.Second {
			t.Errorf("cut after %v", age)
		}
		<-time.After(time.Minute)
		want := []string{"drop 1s true", "drop 3s true", "cut 4s true", "market-break 5s false"}
		if !slices.Equal(told, want) {
			t.Errorf("told %q, want %q", told, want)
		}
	}, WithSpeed(1), WithFaults(script.Plan(), tell))
}

// Under all faults at once, to clients that come and go, the observer sees an exchange in which nothing is wrong.
func TestTruthIsUntouched(t *testing.T) {
	t.Parallel()
	script, err := faults.Parse("random seed=11 every=4ms longest=200ms side=exchange")
	if err != nil {
		t.Fatal(err)
	}
	symbols := SymbolNames(3)
	source := newSynthetic(t, SyntheticConfig{Symbols: symbols, Levels: 300, Duration: 15 * time.Second})
	witnesses := map[string]*witness{}
	for _, symbol := range symbols {
		witnesses[strings.ToLower(symbol)] = newWitness(t, source, symbol)
	}
	var mu sync.Mutex
	injected := map[faults.Kind]int{}
	var made [][]byte
	s := start(t, source, WithSpeed(5), WithWeightLimit(1e6), WithConnectLimit(1e6),
		WithObserver(func(_ string, combined []byte) { made = append(made, bytes.Clone(combined)) }),
		WithFaults(script.Plan(symbols...), func(f faults.Fault, err error) {
			if kind := market.KindOf(err); err != nil && kind != market.KindNotFound && kind != market.KindUnavailable {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			injected[f.Kind]++
		}))
	var clients sync.WaitGroup
	for range 2 {
		clients.Go(func() {
			path := "/stream?streams="
			for _, symbol := range symbols {
				path += strings.ToLower(symbol) + "@depth@100ms/" + strings.ToLower(symbol) + "@trade/"
			}
			for {
				select {
				case <-s.Done():
					return
				default:
				}
				dialer := websocket.Dialer{HandshakeTimeout: 50 * time.Millisecond}
				ws, resp, err := dialer.DialContext(t.Context(), s.StreamURL()+path, nil)
				if resp != nil {
					resp.Body.Close()
				}
				for err == nil {
					ws.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
					_, _, err = ws.ReadMessage()
				}
				if ws != nil {
					ws.Close()
				}
			}
		})
	}
	wait(t, "the end", s.Done())
	clients.Wait()
	mu.Lock()
	defer mu.Unlock()
	if len(injected) < 25 {
		t.Errorf("only %d kinds of faults were injected", len(injected))
	}
	for _, combined := range made {
		stream, e := decode(t, combined)
		name, _, _ := strings.Cut(stream, "@")
		witnesses[name].see(stream, &e, len(combined))
	}
	for _, symbol := range symbols {
		w := witnesses[strings.ToLower(symbol)]
		truth, err := s.Book(symbol)
		if err != nil || truth.LastID != w.lastID || !slices.Equal(truth.Bids, w.book.AppendBids(nil, -1)) ||
			!slices.Equal(truth.Asks, w.book.AppendAsks(nil, -1)) {
			t.Errorf("%s: the server is at %d, the observer at %d, or their books differ (%v)", symbol, truth.LastID, w.lastID, err)
		}
		kept, err := s.Trades(symbol, 0, maxTrades)
		if err != nil || len(kept) != w.trades || kept[len(kept)-1].ID != w.lastTradeID {
			t.Errorf("%s: %d trades kept, %d observed (%v)", symbol, len(kept), w.trades, err)
		}
	}
}

func TestBubblesEnd(t *testing.T) {
	t.Parallel()
	// Faults under way end with the server.
	bubble(t, newSynthetic(t, SyntheticConfig{Symbols: SymbolNames(1), Levels: minLevels}), func(s *Server, p *pipes) {
		ws := p.dial(t, "/ws/syn001usdt@trade")
		receive(t, ws)
		for _, text := range []string{
			"delay by=1h for=2h", "stall for=1h", "ping-flood for=1h", "clock by=1s for=1h", "rest-refused for=1h",
			"handshake-mute for=1h", "half-open",
		} {
			if err := s.Inject(fault(t, text)); err != nil {
				t.Error(err)
			}
		}
		go func() {
			client, server := net.Pipe()
			p.conns <- server
			fmt.Fprint(client, "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")
			client.Read(make([]byte, 1))
		}()
		synctest.Wait()
	}, WithSpeed(1))
}
