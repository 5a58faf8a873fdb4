package feed_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/prometheus/client_golang/prometheus"

	"tapedeck/ingester/internal/feed"
)

func TestFramesAreRouted(t *testing.T) {
	var asked []string
	depth := `{"stream":"btcusdt@depth@100ms","data":{}}`
	trade := `{"stream":"btcusdt@trade","data":{}}`
	ticker := `{"stream":"btcusdt@bookTicker","data":{}}`
	raw := `{"e":"trade","E":1700000000000,"s":"ETHUSDT","t":5,"p":"1.0","q":"1.0","T":1700000000000,"m":true,"M":true}`
	big := `{"stream":"btcusdt@trade","data":{}` + strings.Repeat(" ", 300_000) + `}`
	s := newStand(t, func(p *peer) {
		asked = p.streams
		p.send(
			depth, `{"result":null,"id":1}`, trade, ticker,
			`garbage`, ``, `{"stream":"xrpusdt@trade","data":{"e":"trade","E":1700000000000,"s":"XRPUSDT","t":5,"p":"1.0","q":"1.0","T":1700000000000,"m":true}}`,
			`{"e":"kline","E":1700000000000,"s":"BTCUSDT","k":{}}`)
		p.WriteMessage(websocket.BinaryMessage, []byte(depth))
		p.send(raw, big, depth)
		p.stay()
	})
	h := start(t, s, feed.Config{Witness: true}, btcusdt, ethusdt)
	h.want("BTCUSDT connected", "ETHUSDT connected",
		fmt.Sprintf("BTCUSDT depth %d bytes", len(depth)), fmt.Sprintf("BTCUSDT trades %d bytes", len(trade)),
		fmt.Sprintf("BTCUSDT  %d bytes", len(ticker)), fmt.Sprintf("ETHUSDT trades %d bytes", len(raw)),
		fmt.Sprintf("BTCUSDT trades %d bytes", len(big)), fmt.Sprintf("BTCUSDT depth %d bytes", len(depth)))
	h.wantMetrics(map[string]int{"links 0": 1, "links_wanted 0": 1})
	h.stop()
	h.want("BTCUSDT disconnected", "ETHUSDT disconnected")
	if want := strings.Fields("btcusdt@depth@100ms btcusdt@trade btcusdt@bookTicker ethusdt@depth@100ms ethusdt@trade ethusdt@bookTicker"); !slices.Equal(asked, want) {
		t.Errorf("subscribed to %v", asked)
	}
	h.wantMetrics(map[string]int{
		"frames_total depth": 2, "frames_total trades": 3, "frames_total other": 1, "frames_total malformed": 3,
		"frames_total control": 1, "frames_total unknown": 2, "frames_dropped_total": 1, "links 0": 0, "reconnects_total": 0,
	})
}

func TestReconnects(t *testing.T) {
	oversized := strings.Repeat("x", 10<<20)
	for _, c := range []struct {
		name, reason string
		end          func(p *peer)
	}{
		{"cut", "cut", func(p *peer) { p.NetConn().Close() }},
		{"closed", "closed", func(p *peer) { p.control(websocket.CloseMessage, ""); p.stay() }},
		{"closed for a reason", "closed", func(p *peer) {
			p.control(websocket.CloseMessage, string(websocket.FormatCloseMessage(websocket.ClosePolicyViolation, "Too many requests")))
		}},
		{"oversized frame", "oversized", func(p *peer) { p.send(oversized); p.stay() }},
		{"oversized binary frame", "oversized", func(p *peer) { p.WriteMessage(websocket.BinaryMessage, []byte(oversized)) }},
		{"not a frame at all", "protocol", func(p *peer) { p.NetConn().Write([]byte("\xff\xff\xff\xff\xff\xff")); p.stay() }},
		{"frame is interrupted", "cut", func(p *peer) { p.NetConn().Write([]byte{0x81, 100, 'a'}) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStand(t, func(p *peer) {
				if p.n == 1 {
					c.end(p)
					return
				}
				p.stay()
			})
			h := start(t, s, feed.Config{}, btcusdt)
			h.want("BTCUSDT connected", "BTCUSDT disconnected", "BTCUSDT connected")
			h.wantMetrics(map[string]int{
				"reconnects_total": 1, "reconnects_total " + c.reason: 1, "connects_total ok": 2, "rotations_total": 0,
			})
		})
	}
}

// TestManyStreams subscribes to more streams than an address carries, over as many connections as are needed.
func TestManyStreams(t *testing.T) {
	var mu sync.Mutex
	perConnection := map[*peer][]string{}
	total := make(chan int, 100)
	add := func(p *peer, streams []string) {
		mu.Lock()
		defer mu.Unlock()
		perConnection[p] = append(perConnection[p], streams...)
		sum := 0
		for _, list := range perConnection {
			sum += len(list)
		}
		total <- sum
	}
	s := newStand(t, func(p *peer) {
		add(p, p.streams)
		p.stay()
	})
	s.answer = func(p *peer, r request) string {
		if r.Method != "SUBSCRIBE" {
			t.Errorf("request %+v", r)
		}
		add(p, r.Params)
		return fmt.Sprintf(`{"result":null,"id":%d}`, r.ID)
	}
	start(t, s, feed.Config{MaxStreams: 251}, symbols(200)...)
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

// TestPasswordIsNotTold: a URL may hold one.
func TestPasswordIsNotTold(t *testing.T) {
	for _, url := range []string{"ws://u:hunter2@127.0.0.1:1", "http://u:hunter2@127.0.0.1:1", "ws://u:hunter2%@127.0.0.1:1"} {
		var log bytes.Buffer
		ctx, cancel := context.WithCancel(t.Context())
		refused := writerFunc(func(line []byte) (int, error) {
			cancel()
			return log.Write(line)
		})
		target := feed.Target{Market: btcusdt, Inbox: &inbox{}}
		feed.New([]feed.Target{target}, feed.Config{URL: url}, feed.NewMetrics(prometheus.NewRegistry()),
			slog.New(slog.NewTextHandler(refused, nil))).Run(ctx)
		if got := log.String(); !strings.Contains(got, "no connection") || strings.Contains(got, "hunter2") {
			t.Errorf("%s: logged %s", url, got)
		}
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

func TestStopsWhileTheServerIsNotThere(t *testing.T) {
	h := start(t, nil, feed.Config{URL: "ws://127.0.0.1:1"}, btcusdt)
	h.stop()
	if len(h.got) != 0 {
		t.Errorf("got %q", <-h.got)
	}
}
