package feed_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"tapedeck/ingester/internal/feed"
	"tapedeck/shared/market"
)

func TestPingsAreEchoed(t *testing.T) {
	payloads := []string{"1700000000000", "", "1700000020000"}
	echoed := make(chan saying)
	s := newStand(t, func(p *peer) {
		for _, payload := range payloads {
			p.control(websocket.PingMessage, payload)
			echoed <- <-p.said
		}
		p.stay()
	})
	h := start(t, s, feed.Config{}, btcusdt)
	h.want("BTCUSDT connected")
	for _, want := range payloads {
		if got := <-echoed; got.kind != websocket.PongMessage || got.text != want {
			t.Errorf("said %+v, want a pong of %q", got, want)
		}
	}
}

// TestMessagesAreBounded: whatever the server does and however much there is to subscribe, no second holds more
// messages of a client than the exchange allows; and all of them get through.
func TestMessagesAreBounded(t *testing.T) {
	for name, flood := range map[string]func(p *peer){
		"pings": func(p *peer) {
			for i := range 5000 {
				p.control(websocket.PingMessage, fmt.Sprint(i))
				if !p.stayFor(time.Millisecond) {
					return
				}
			}
		},
		"pings at once": func(p *peer) {
			for i := range 5000 {
				p.control(websocket.PingMessage, fmt.Sprint(i))
			}
		},
		"notices and refusals": func(p *peer) {
			for range 5000 {
				p.control(websocket.PingMessage, "4999")
				p.send(`{"code":2,"msg":"Invalid request"}`, `{"e":"serverShutdown"}`, `{"result":["x"],"id":99}`)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newPipeStand(t, func(p *peer) {
					if p.n == 1 {
						flood(p)
					}
					p.stay()
				})
				markets := symbols(512)
				h := start(t, s, feed.Config{}, markets...)
				go func() {
					for range h.got {
					}
				}()
				pass(2 * time.Second)
				for _, m := range markets { // another 11 pairs of requests
					h.feed.Restore(m, market.Depth)
					h.feed.Restore(m, market.Trades)
				}
				pass(18 * time.Second)
				h.stop()
				close(h.got)
				synctest.Wait()
				said := s.peer(1).heard()
				var at []time.Time
				for _, said := range said {
					at = append(at, said.at)
				}
				if most := mostWithin(at, time.Second); most > 5 || most < 3 {
					t.Errorf("%d messages within a second", most)
				}
				if pongs := texts(said, websocket.PongMessage); !slices.Contains(pongs, "4999") {
					t.Errorf("pongs %q: the last ping was not echoed", pongs)
				}
				subscribed := strings.Join(append(texts(said, websocket.TextMessage), s.peer(1).streams...), " ")
				for _, m := range markets {
					if name := strings.ToLower(m.Symbol) + "@trade"; !strings.Contains(subscribed, name) {
						t.Fatalf("%s was not subscribed", name)
					}
				}
				if h.metric("tapedeck_pongs_suppressed_total", "") == 0 {
					t.Error("no pong was suppressed")
				}
			})
		})
	}
}
