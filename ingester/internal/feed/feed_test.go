package feed_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/prometheus/client_golang/prometheus"

	"tapedeck/ingester/internal/feed"
	"tapedeck/shared/market"
)

var (
	btcusdt = market.Market{Exchange: market.Binance, Symbol: "BTCUSDT"}
	ethusdt = market.Market{Exchange: market.Binance, Symbol: "ETHUSDT"}
)

// inbox tells everything that it takes, in order.
type inbox struct {
	name string
	got  chan<- string
	full bool
}

func (q *inbox) Frame(_ context.Context, stream market.Stream, recv market.Time, frame []byte) bool {
	if recv == 0 {
		panic("a frame without a receive time")
	}
	q.got <- fmt.Sprintf("%s %s %d bytes", q.name, stream, len(frame))
	return !q.full
}

func (q *inbox) Connected(market.Time) { q.got <- q.name + " connected" }

func (q *inbox) Disconnected(market.Time) { q.got <- q.name + " disconnected" }

// stand is a server that a test scripts: serve is called with each connection and the streams of its address.
type stand struct {
	*httptest.Server
	mu       sync.Mutex
	connects []time.Time
}

func newStand(t *testing.T, serve func(n int, ws *websocket.Conn, streams []string)) *stand {
	s := &stand{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.connects = append(s.connects, time.Now())
		n := len(s.connects)
		s.mu.Unlock()
		var upgrader websocket.Upgrader
		ws, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer ws.Close()
		serve(n, ws, strings.Split(r.URL.Query().Get("streams"), "/"))
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *stand) url() string { return "ws" + strings.TrimPrefix(s.URL, "http") }

// read reads until the client goes away.
func read(ws *websocket.Conn) {
	for {
		if _, _, err := ws.ReadMessage(); err != nil {
			return
		}
	}
}

func send(ws *websocket.Conn, frames ...string) {
	for _, f := range frames {
		_ = ws.WriteMessage(websocket.TextMessage, []byte(f))
	}
}

// harness is a feed at work.
type harness struct {
	t        *testing.T
	got      chan string
	registry *prometheus.Registry
	stop     func()
}

func start(t *testing.T, cfg feed.Config, markets ...market.Market) *harness {
	t.Helper()
	h := &harness{t: t, got: make(chan string, 1000), registry: prometheus.NewRegistry()}
	var targets []feed.Target
	for _, m := range markets {
		targets = append(targets, feed.Target{Market: m, Inbox: &inbox{name: m.Symbol, got: h.got, full: m == ethusdt}})
	}
	h.run(feed.New(targets, cfg, feed.NewMetrics(h.registry), slog.New(slog.DiscardHandler)))
	return h
}

// run runs a feed until the test ends or stops it.
func (h *harness) run(f *feed.Feed) {
	ctx, cancel := context.WithCancel(h.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		f.Run(ctx)
	}()
	h.stop = func() {
		cancel()
		<-done
	}
	h.t.Cleanup(h.stop)
}

// startImpatient runs a feed of BTCUSDT that cuts a connection after so long a silence. Its inbox makes every entry
// wait until the test takes it.
func startImpatient(t *testing.T, url string, silence time.Duration) *harness {
	h := &harness{t: t, got: make(chan string), registry: prometheus.NewRegistry()}
	f := feed.New([]feed.Target{{Market: btcusdt, Inbox: &inbox{name: "BTCUSDT", got: h.got}}}, feed.Config{URL: url},
		feed.NewMetrics(h.registry), slog.New(slog.DiscardHandler))
	f.SetReadTimeout(silence)
	h.run(f)
	t.Cleanup(func() {
		go func() {
			for range h.got { // lets the feed end
			}
		}()
		h.stop()
		close(h.got)
	})
	return h
}

// want waits for exactly these entries, in order.
func (h *harness) want(entries ...string) {
	h.t.Helper()
	for _, want := range entries {
		select {
		case got := <-h.got:
			if got != want {
				h.t.Fatalf("got %q, want %q", got, want)
			}
		case <-time.After(10 * time.Second):
			h.t.Fatalf("nothing came, want %q", want)
		}
	}
}

func (h *harness) metric(name, label string) (sum int) {
	h.t.Helper()
	families, err := h.registry.Gather()
	if err != nil {
		h.t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			if family.GetName() == name && (label == "" || m.GetLabel()[0].GetValue() == label) {
				sum += int(m.GetCounter().GetValue())
			}
		}
	}
	return sum
}

func TestFramesAreRouted(t *testing.T) {
	var asked []string
	depth := `{"stream":"btcusdt@depth@100ms","data":{}}`
	trade := `{"stream":"btcusdt@trade","data":{}}`
	ticker := `{"stream":"btcusdt@bookTicker","data":{}}`
	raw := `{"e":"trade","E":1700000000000,"s":"ETHUSDT","t":5,"p":"1.0","q":"1.0","T":1700000000000,"m":true,"M":true}`
	big := `{"stream":"btcusdt@trade","data":{}` + strings.Repeat(" ", 300_000) + `}`
	s := newStand(t, func(_ int, ws *websocket.Conn, streams []string) {
		asked = streams
		send(ws,
			depth, `{"result":null,"id":1}`, trade, ticker,
			`garbage`, ``, `{"stream":"xrpusdt@trade","data":{"e":"trade","E":1700000000000,"s":"XRPUSDT","t":5,"p":"1.0","q":"1.0","T":1700000000000,"m":true}}`,
			raw, big, depth)
		read(ws)
	})
	h := start(t, feed.Config{URL: s.url(), Witness: true}, btcusdt, ethusdt)
	h.want("BTCUSDT connected", "ETHUSDT connected",
		fmt.Sprintf("BTCUSDT depth %d bytes", len(depth)), fmt.Sprintf("BTCUSDT trades %d bytes", len(trade)),
		fmt.Sprintf("BTCUSDT  %d bytes", len(ticker)), fmt.Sprintf("ETHUSDT trades %d bytes", len(raw)),
		fmt.Sprintf("BTCUSDT trades %d bytes", len(big)), fmt.Sprintf("BTCUSDT depth %d bytes", len(depth)))
	h.stop()
	h.want("BTCUSDT disconnected", "ETHUSDT disconnected")
	if want := strings.Fields("btcusdt@depth@100ms btcusdt@trade btcusdt@bookTicker ethusdt@depth@100ms ethusdt@trade ethusdt@bookTicker"); !slices.Equal(asked, want) {
		t.Errorf("subscribed to %v", asked)
	}
	for label, want := range map[string]int{"depth": 2, "trades": 3, "other": 1, "malformed": 2, "control": 1, "unknown": 1} {
		if got := h.metric("tapedeck_frames_total", label); got != want {
			t.Errorf("%d frames counted as %s, want %d", got, label, want)
		}
	}
	if h.metric("tapedeck_frames_dropped_total", "") != 1 {
		t.Error("a frame that the inbox dropped is not counted")
	}
}

func TestReconnects(t *testing.T) {
	oversized := strings.Repeat("x", 5<<20)
	for name, end := range map[string]func(ws *websocket.Conn){
		"cut":                  func(ws *websocket.Conn) { ws.NetConn().Close() },
		"closed":               func(ws *websocket.Conn) { ws.WriteControl(websocket.CloseMessage, nil, time.Now().Add(time.Second)) },
		"oversized frame":      func(ws *websocket.Conn) { send(ws, oversized); read(ws) },
		"shutdown announced":   func(ws *websocket.Conn) { send(ws, `{"e":"serverShutdown","E":1700000000000}`); read(ws) },
		"not a frame at all":   func(ws *websocket.Conn) { ws.NetConn().Write([]byte("\xff\xff\xff\xff\xff\xff")); read(ws) },
		"frame is interrupted": func(ws *websocket.Conn) { ws.NetConn().Write([]byte{0x81, 100, 'a'}); ws.NetConn().Close() },
	} {
		t.Run(name, func(t *testing.T) {
			s := newStand(t, func(n int, ws *websocket.Conn, _ []string) {
				if n == 1 {
					end(ws)
					return
				}
				read(ws)
			})
			h := start(t, feed.Config{URL: s.url()}, btcusdt)
			h.want("BTCUSDT connected", "BTCUSDT disconnected", "BTCUSDT connected")
			if h.metric("tapedeck_reconnects_total", "") != 1 || h.metric("tapedeck_connects_total", "ok") != 2 {
				t.Error("not counted")
			}
		})
	}
}

func TestRefusedConnectionsAreTriedEverMoreSlowly(t *testing.T) {
	s := newStand(t, func(n int, ws *websocket.Conn, _ []string) {
		if n > 4 {
			read(ws)
		}
	})
	h := start(t, feed.Config{URL: s.url()}, btcusdt)
	for range 4 {
		h.want("BTCUSDT connected", "BTCUSDT disconnected")
	}
	h.want("BTCUSDT connected")
	s.mu.Lock()
	defer s.mu.Unlock()
	// No connection lives for long, so that the delays are within 125-250, 250-500, 500-1000 and 1000-2000 ms.
	for i, least := range []int64{125, 250, 500, 1000} {
		if delay := s.connects[i+1].Sub(s.connects[i]); delay.Milliseconds() < least || delay > 5*time.Second {
			t.Errorf("attempt %d came after %v", i+2, delay)
		}
	}
}

func TestPingsAreEchoed(t *testing.T) {
	pongs := make(chan string, 1)
	s := newStand(t, func(_ int, ws *websocket.Conn, _ []string) {
		ws.SetPongHandler(func(payload string) error {
			pongs <- payload
			return nil
		})
		ws.WriteControl(websocket.PingMessage, []byte("1700000000000"), time.Now().Add(time.Second))
		read(ws)
	})
	start(t, feed.Config{URL: s.url()}, btcusdt)
	select {
	case got := <-pongs:
		if got != "1700000000000" {
			t.Errorf("pong %q", got)
		}
	case <-time.After(10 * time.Second):
		t.Error("no pong")
	}
}

func TestMuteConnectionIsCut(t *testing.T) {
	s := newStand(t, func(_ int, ws *websocket.Conn, _ []string) { read(ws) })
	h := startImpatient(t, s.url(), 100*time.Millisecond)
	h.want("BTCUSDT connected", "BTCUSDT disconnected", "BTCUSDT connected")
}

// TestSlowInboxIsNotAMuteConnection: an inbox that makes a frame wait for longer than the exchange may be silent costs
// no connection.
func TestSlowInboxIsNotAMuteConnection(t *testing.T) {
	const silence = 1500 * time.Millisecond
	trade := `{"stream":"btcusdt@trade","data":{}}`
	next := make(chan struct{})
	s := newStand(t, func(_ int, ws *websocket.Conn, _ []string) {
		send(ws, trade)
		<-next
		send(ws, trade) // not in the feed's memory yet when the first one is through
		read(ws)
	})
	h := startImpatient(t, s.url(), silence)
	h.want("BTCUSDT connected")
	<-time.After(silence + silence/2)
	close(next)
	handed := fmt.Sprintf("BTCUSDT trades %d bytes", len(trade))
	h.want(handed, handed)
}

// TestManyStreams subscribes to more streams than an address carries, over as many connections as are needed.
func TestManyStreams(t *testing.T) {
	var mu sync.Mutex
	perConnection := map[*websocket.Conn][]string{}
	total := make(chan int, 100)
	s := newStand(t, func(_ int, ws *websocket.Conn, streams []string) {
		add := func(streams []string) {
			mu.Lock()
			defer mu.Unlock()
			perConnection[ws] = append(perConnection[ws], streams...)
			sum := 0
			for _, list := range perConnection {
				sum += len(list)
			}
			total <- sum
		}
		add(streams)
		for {
			var request struct {
				Method string
				Params []string
				ID     int64
			}
			_, text, err := ws.ReadMessage()
			if err != nil {
				return
			}
			if err := json.Unmarshal(text, &request); err != nil || request.Method != "SUBSCRIBE" {
				t.Errorf("message %s", text)
			}
			add(request.Params)
			send(ws, fmt.Sprintf(`{"result":null,"id":%d}`, request.ID))
		}
	})
	var markets []market.Market
	for i := range 200 {
		markets = append(markets, market.Market{Exchange: market.Binance, Symbol: fmt.Sprintf("SYM%d", i)})
	}
	start(t, feed.Config{URL: s.url(), MaxStreams: 251}, markets...)
	for sum := 0; sum < 400; {
		select {
		case sum = <-total:
		case <-time.After(10 * time.Second):
			t.Fatalf("%d of 400 streams subscribed", sum)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	seen := map[string]bool{}
	for _, list := range perConnection {
		if len(list) > 250 {
			t.Errorf("%d streams on one connection", len(list))
		}
		for _, stream := range list {
			if seen[stream] {
				t.Errorf("%s twice", stream)
			}
			seen[stream] = true
		}
	}
	if len(perConnection) != 2 || len(seen) != 400 {
		t.Errorf("%d streams over %d connections", len(seen), len(perConnection))
	}
}

// TestRefusedSubscriptionEndsTheConnection: markets whose streams were refused would look quiet for ever.
func TestRefusedSubscriptionEndsTheConnection(t *testing.T) {
	s := newStand(t, func(_ int, ws *websocket.Conn, _ []string) {
		send(ws, `{"code":2,"msg":"Invalid request: unknown stream","id":1}`)
		read(ws)
	})
	h := start(t, feed.Config{URL: s.url()}, btcusdt)
	h.want("BTCUSDT connected", "BTCUSDT disconnected", "BTCUSDT connected", "BTCUSDT disconnected")
}

func TestStopsWhileTheServerIsNotThere(t *testing.T) {
	h := start(t, feed.Config{URL: "ws://127.0.0.1:1"}, btcusdt)
	h.stop()
	if len(h.got) != 0 {
		t.Errorf("got %q", <-h.got)
	}
}
