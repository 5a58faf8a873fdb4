package feed_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"tapedeck/ingester/internal/feed"
)

// TestBackOff: a link that is lost is tried again at once, then ever more slowly, until a book has been in sync for a
// minute on a link that lived as long.
func TestBackOff(t *testing.T) {
	const long, short = 61 * time.Second, 10 * time.Second
	least := []int64{0, 125, 250, 500, 1000, 2000, 2000, 2000} // ms; twice as much at the most
	for _, c := range []struct {
		name         string
		life, synced time.Duration
		reset        bool
	}{
		{"in sync for a minute", long, time.Minute, true},
		{"never in sync", long, 0, false},
		{"in sync for less than a minute", long, 59 * time.Second, false},
		{"in sync over another link", short, time.Hour, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newPipeStand(t, func(p *peer) {
					if p.n > len(least) {
						p.stayFor(c.life)
					}
				})
				startSynced(t, s, feed.Config{}, func() time.Duration { return c.synced }, btcusdt)
				pass(2 * time.Minute)
				at := s.connects()
				for i, least := range least {
					delay := at[i+1].Sub(at[i])
					if ms := delay.Milliseconds(); ms < least || ms > 2*least {
						t.Errorf("attempt %d came after %v, want %d to %d ms", i+2, delay, least, 2*least)
					}
				}
				n := len(least)
				if idle := at[n+1].Sub(at[n]) - c.life; c.reset != (idle == 0) {
					t.Errorf("after a life of %v the next attempt came %v later", c.life, idle)
				}
			})
		})
	}
}

// TestConnectsAreBounded lets many slots meet everything that makes them connect again, for hours.
func TestConnectsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var attempts []time.Time
		s := newPipeStand(t, func(p *peer) {
			switch p.n % 4 {
			case 0: // cut at once
			case 1:
				p.send(`{"e":"serverShutdown","E":1700000000000}`)
				p.stayFor(10 * time.Second)
			case 2:
				p.control(websocket.CloseMessage, "")
			case 3:
				p.stayFor(70 * time.Second) // long enough for the back-off to begin anew
			}
		})
		s.refuse = func(n int, w http.ResponseWriter) bool {
			switch n % 7 {
			case 0:
				w.WriteHeader(http.StatusForbidden)
			case 1:
				w.WriteHeader(http.StatusServiceUnavailable)
			case 2:
				if n%97 > 0 {
					return false
				}
				w.Header().Set("Retry-After", "120")
				w.WriteHeader(http.StatusTooManyRequests)
			default:
				return false
			}
			return true
		}
		pipe := s.dial
		s.dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			mu.Lock()
			attempts = append(attempts, time.Now())
			n := len(attempts)
			mu.Unlock()
			if n%5 == 0 {
				return nil, &net.OpError{Op: "dial", Err: io.ErrUnexpectedEOF}
			}
			return pipe(ctx, network, address)
		}
		h := start(t, s, feed.Config{MaxStreams: 2, Connections: 2, RotateAfter: 30 * time.Second}, symbols(15)...)
		go func() {
			for range h.got {
			}
		}()
		pass(2 * time.Hour)
		h.stop()
		close(h.got)
		// As many as there may be are made, or this would prove nothing.
		if most := mostWithin(attempts, 5*time.Minute); most > 300 || most < 200 {
			t.Errorf("%d attempts within five minutes", most)
		}
		if len(attempts) < 4000 {
			t.Errorf("only %d attempts", len(attempts))
		}
		if h.metric("tapedeck_connects_limited_total", "") == 0 {
			t.Error("no attempt had to wait")
		}
	})
}

// TestRefusedHandshakes: what a refusal asks for holds for all slots.
func TestRefusedHandshakes(t *testing.T) {
	start0 := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) // when a bubble begins
	const soon = 300 * time.Millisecond                   // back-off
	for _, c := range []struct {
		status      int
		header      string
		least, most time.Duration
	}{
		{http.StatusForbidden, "", 0, soon},
		{http.StatusForbidden, "30", 30 * time.Second, 30*time.Second + soon},
		{http.StatusTooManyRequests, "7", 7 * time.Second, 7*time.Second + soon},
		{http.StatusTooManyRequests, "", time.Minute, time.Minute + soon},
		{http.StatusTooManyRequests, "soon", time.Minute, time.Minute + soon},
		{http.StatusTooManyRequests, "0", time.Minute, time.Minute + soon}, // at once is what it was refused for
		{http.StatusTeapot, "180", 3 * time.Minute, 3*time.Minute + soon},
		{http.StatusTeapot, "", 2 * time.Minute, 2*time.Minute + soon},
		{http.StatusTeapot, "259200", 72 * time.Hour, 72*time.Hour + soon}, // the longest ban; asking earlier makes it longer
		{http.StatusTeapot, "999999", 72 * time.Hour, 72*time.Hour + soon},
		{http.StatusTeapot, "-5", 2 * time.Minute, 2*time.Minute + soon},
		{http.StatusServiceUnavailable, start0.Add(40 * time.Second).Format(http.TimeFormat), 40 * time.Second, 40*time.Second + soon},
		{http.StatusServiceUnavailable, start0.Add(-time.Hour).Format(http.TimeFormat), 0, soon},
		{http.StatusServiceUnavailable, "99999999999999999999", 0, soon},
		{http.StatusMovedPermanently, "", 0, soon},
		{http.StatusOK, "", 0, soon},
	} {
		t.Run(fmt.Sprintf("%d %s", c.status, c.header), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newPipeStand(t, func(p *peer) {
					if p.n == 2 {
						p.stayFor(time.Second) // and then its slot has to heed what the other one was told
						return
					}
					p.stay()
				})
				s.refuse = func(n int, w http.ResponseWriter) bool {
					if n > 1 {
						return false
					}
					if c.header != "" {
						w.Header().Set("Retry-After", c.header)
					}
					w.WriteHeader(c.status)
					return true
				}
				h := start(t, s, feed.Config{Connections: 2}, btcusdt)
				pass(c.least + 2*time.Hour)
				at := s.connects()
				if len(at) != 4 {
					t.Fatalf("%d attempts", len(at))
				}
				for _, at := range at[2:] {
					if after := at.Sub(start0); after < c.least || after > c.most+time.Second {
						t.Errorf("next attempt after %v, want %v to %v", after, c.least, c.most)
					}
				}
				h.wantMetrics(map[string]int{"connects_total refused": 1, "connects_total ok": 3, "reconnects_total refused": 1})
			})
		})
	}
}

// TestHangingHandshakeIsBounded: neither a dial nor a handshake that hangs stops the slot for long.
func TestHangingHandshakeIsBounded(t *testing.T) {
	for name, hang := range map[string]func(ctx context.Context) (net.Conn, error){
		"dial": func(ctx context.Context) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		},
		"handshake": func(context.Context) (net.Conn, error) {
			client, server := net.Pipe()
			go io.Copy(io.Discard, server)
			return client, nil
		},
		"a peer that does not even read": func(context.Context) (net.Conn, error) {
			client, _ := net.Pipe()
			return client, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newPipeStand(t, (*peer).stay)
				pipe, attempts := s.dial, 0
				s.dial = func(ctx context.Context, network, address string) (net.Conn, error) {
					if attempts++; attempts <= 2 {
						return hang(ctx)
					}
					return pipe(ctx, network, address)
				}
				begin := time.Now()
				h := start(t, s, feed.Config{}, btcusdt)
				h.want("BTCUSDT connected")
				if took := time.Since(begin); took < 8*time.Second || took > 9*time.Second {
					t.Errorf("connected after %v, with two attempts of 4 s in vain", took)
				}
			})
			synctest.Test(t, func(t *testing.T) {
				s := newPipeStand(t, (*peer).stay)
				s.dial = func(ctx context.Context, _, _ string) (net.Conn, error) { return hang(ctx) }
				h := start(t, s, feed.Config{}, btcusdt)
				pass(time.Second)
				begin := time.Now()
				h.stop()
				if took := time.Since(begin); took > 0 {
					t.Errorf("stopped after %v", took)
				}
			})
		})
	}
}

// TestMuteLinkIsCut: a link that brings nothing, as one whose other end is gone does, is cut; pings keep it.
func TestMuteLinkIsCut(t *testing.T) {
	for _, c := range []struct {
		name  string
		every time.Duration // between two pings
		cut   bool
	}{
		{"no pings", 0, true}, {"slow pings", time.Minute, false}, {"pings that are too slow", 70 * time.Second, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newPipeStand(t, func(p *peer) {
					for c.every > 0 && p.stayFor(c.every) {
						p.control(websocket.PingMessage, "1700000000000")
					}
					p.stay()
				})
				s.silent = true
				h := start(t, s, feed.Config{}, btcusdt)
				h.want("BTCUSDT connected")
				if !c.cut {
					pass(time.Hour)
					h.wantMetrics(map[string]int{"reconnects_total": 0})
					if pongs := len(texts(s.peer(1).heard(), websocket.PongMessage)); pongs < 59 {
						t.Errorf("%d pongs in an hour", pongs)
					}
					return
				}
				begin := time.Now()
				h.want("BTCUSDT disconnected")
				if took := time.Since(begin); took < time.Minute || took > 66*time.Second {
					t.Errorf("cut after %v", took)
				}
				h.want("BTCUSDT connected")
				h.wantMetrics(map[string]int{"reconnects_total silent": 1})
			})
		})
	}
}

// TestSlowInboxIsNotAMuteLink: an inbox that makes a frame wait for longer than the exchange may be silent costs no
// connection.
func TestSlowInboxIsNotAMuteLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		trade := `{"stream":"btcusdt@trade","data":{}}`
		s := newPipeStand(t, func(p *peer) {
			for range 1100 {
				p.send(trade)
			}
			p.stay()
		})
		h := start(t, s, feed.Config{}, btcusdt)
		pass(5 * time.Minute) // the inbox takes 1,000 entries
		h.want("BTCUSDT connected")
		for range 1100 {
			h.want(fmt.Sprintf("BTCUSDT trades %d bytes", len(trade)))
		}
		pass(30 * time.Second)
		h.wantMetrics(map[string]int{"reconnects_total": 0})
	})
}
