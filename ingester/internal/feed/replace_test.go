package feed_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"tapedeck/ingester/internal/feed"
	"tapedeck/shared/market"
)

var (
	trade    = eventFrame("btcusdt@trade", 5)
	depth    = eventFrame("btcusdt@depth@100ms", 5)
	shutdown = `{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1700000000000}}`
)

// talk sends frames every second.
func (p *peer) talk(frames ...string) {
	for p.stayFor(time.Second) {
		p.send(frames...)
	}
}

// closedAt waits until the client says goodbye.
func (p *peer) closedAt() time.Time {
	for s := range p.said {
		if s.kind == websocket.CloseMessage {
			return s.at
		}
	}
	return time.Time{}
}

// TestRotation: an old link is replaced by one that has proven itself beside it, and what it still brings after the
// close frame is taken.
func TestRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newPipeStand(t, func(p *peer) {
			if p.n > 1 {
				p.talk(trade)
				return
			}
			go p.talk(trade)
			p.closedAt()
			p.send(depth, depth)
			p.control(websocket.CloseMessage, "")
		})
		s.deaf = true
		begin := time.Now()
		h := start(t, s, feed.Config{RotateAfter: 10 * time.Minute}, btcusdt)
		var entries []string
		for entry := range h.got {
			if entries = append(entries, entry); entry == "BTCUSDT disconnected" {
				break
			}
		}
		took := time.Since(begin)
		if took < 9*time.Minute || took > 10*time.Minute+5*time.Second {
			t.Errorf("replaced after %v", took)
		}
		if late := strings.Count(strings.Join(entries, ""), "depth"); late != 2 {
			t.Errorf("%d frames came after the close frame, want 2", late)
		}
		if overlap := s.peer(2).at.Sub(begin) + feed.DefaultOverlap; took < overlap || took > overlap+time.Second {
			t.Errorf("replaced after %v, with the second link opened %v before", took, s.peer(2).at)
		}
		if links, most, zero := h.inboxes[0].counts(); links != 1 || most != 2 || zero != 0 {
			t.Errorf("%d links, at the most %d, none %d times", links, most, zero)
		}
		h.wantMetrics(map[string]int{"rotations_total": 1, "rotations_total replaced": 1, "reconnects_total": 0, "links 0": 1})
	})
}

// TestRotationWaitsForEveryStream: as long as the old link brings what the new one does not, it stays.
func TestRotationWaitsForEveryStream(t *testing.T) {
	for _, c := range []struct {
		name     string
		old, new []string
		closed   bool
	}{
		{"all", []string{trade, depth}, []string{depth, trade}, true},
		{"new one is mute", []string{trade}, nil, false},
		{"one stream is missing", []string{trade, depth}, []string{trade}, false},
		{"old one is mute", nil, []string{trade}, true},
		{"old one has lost a stream", []string{depth}, []string{trade, depth}, true},
		{"both are quiet", nil, nil, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newPipeStand(t, func(p *peer) {
					if p.n == 1 {
						p.talk(c.old...)
					} else {
						p.talk(c.new...)
					}
				})
				h := start(t, s, feed.Config{RotateAfter: time.Hour}, btcusdt)
				q := h.inboxes[0]
				go func() {
					for range h.got {
					}
				}()
				defer func() { h.stop(); close(h.got) }()
				pass(time.Hour + 50*time.Second)
				if c.closed {
					h.wantMetrics(map[string]int{"rotations_total replaced": 1})
					if links, most, zero := q.counts(); links != 1 || most != 2 || zero != 0 {
						t.Errorf("%d links, at the most %d, none %d times", links, most, zero)
					}
					return
				}
				pass(4 * time.Minute) // a new one is given a minute, and then another one is tried
				h.wantMetrics(map[string]int{"rotations_total replaced": 0, "reconnects_total": 0})
				if mute := h.metric("tapedeck_rotations_total", "mute"); mute < 2 || mute > 11 {
					t.Errorf("%d links were mute", mute)
				}
				if _, most, zero := q.counts(); most != 2 || zero != 0 {
					t.Errorf("at the most %d links, none %d times", most, zero)
				}
				if n := len(texts(s.peer(1).heard(), websocket.CloseMessage)); n > 0 {
					t.Error("the old link was closed")
				}
			})
		})
	}
}

// TestRotationWaitsForALinkThatIsBehind: what it has not brought yet would be lost. A link that is only old stays when that
// takes too long; one that has to go is replaced in the end.
func TestRotationWaitsForALinkThatIsBehind(t *testing.T) {
	const lifetime = 10 * time.Minute
	for _, c := range []struct {
		name    string
		notice  bool          // by a serverShutdown; otherwise the link is only old
		behind  int64         // ids, one a second
		closed  time.Duration // after the new link began, or up to a second later; 0 = never
		outcome string
	}{
		{"not behind", true, 0, 3 * time.Second, "replaced"},
		{"a little", true, 2, 3 * time.Second, "replaced"},
		{"more than the overlap", true, 8, 8 * time.Second, "replaced"},
		{"much", true, 50, 50 * time.Second, "replaced"},
		{"too much", true, 100, 63 * time.Second, "replaced_behind"},
		{"much, and only old", false, 50, 49 * time.Second, "replaced"},
		{"too much, and only old", false, 100, 0, "behind"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begin := time.Now()
				s := newPipeStand(t, func(p *peer) {
					for p.stayFor(time.Second) {
						id := 1000 + int64(time.Since(begin)/time.Second)
						if p.n == 1 {
							id -= c.behind
						}
						p.send(eventFrame("btcusdt@trade", id), eventFrame("btcusdt@depth@100ms", id))
						if c.notice && p.n == 1 && time.Since(begin) == lifetime {
							p.send(shutdown)
						}
					}
				})
				cfg := feed.Config{RotateAfter: lifetime}
				if c.notice {
					cfg.RotateAfter = 24 * time.Hour
				}
				h := start(t, s, cfg, btcusdt)
				go func() {
					for range h.got {
					}
				}()
				defer func() { h.stop(); close(h.got) }()
				pass(lifetime + 70*time.Second)
				if c.closed == 0 {
					pass(5 * time.Minute) // it is tried again, ever less often
					if n := h.metric("tapedeck_rotations_total", c.outcome); n < 3 || n > 7 {
						t.Errorf("%d attempts", n)
					}
					if n := len(texts(s.peer(1).heard(), websocket.CloseMessage)); n > 0 {
						t.Error("the old link was closed")
					}
					h.wantMetrics(map[string]int{"rotations_total replaced": 0, "rotations_total replaced_behind": 0, "reconnects_total": 0})
					return
				}
				if closed := s.peer(1).closedAt().Sub(s.peer(2).at); closed < c.closed || closed > c.closed+1200*time.Millisecond {
					t.Errorf("closed after %v, want %v", closed, c.closed)
				}
				h.wantMetrics(map[string]int{"rotations_total": 1, "rotations_total " + c.outcome: 1, "reconnects_total": 0})
			})
		})
	}
}

// TestRotationOfALinkThatLosesAStream: what it does not bring any more cannot be waited for.
func TestRotationOfALinkThatLosesAStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rotateAfter = 10 * time.Minute
		begin := time.Now()
		s := newPipeStand(t, func(p *peer) {
			for p.stayFor(time.Second) {
				id := 1000 + int64(time.Since(begin)/time.Second)
				p.send(eventFrame("btcusdt@depth@100ms", id))
				if at := p.stand.connects(); p.n > 1 || len(at) == 1 {
					p.send(eventFrame("btcusdt@trade", id))
				} else if time.Since(at[1]) < 2*time.Second {
					p.send(eventFrame("btcusdt@trade", id-5)) // the last ones do not reach those of the new link
				}
			}
		})
		h := start(t, s, feed.Config{RotateAfter: rotateAfter}, btcusdt)
		go func() {
			for range h.got {
			}
		}()
		defer func() { h.stop(); close(h.got) }()
		pass(rotateAfter + 90*time.Second)
		h.wantMetrics(map[string]int{"rotations_total": 2, "rotations_total behind": 1, "rotations_total replaced": 1})
		if closed := s.peer(1).closedAt().Sub(s.peer(3).at); closed < 13*time.Second || closed > 13500*time.Millisecond {
			t.Errorf("closed %v after the third link began", closed)
		}
	})
}

// TestOldLinkEndsWhileItIsReplaced: the new link takes its place, without another attempt.
func TestOldLinkEndsWhileItIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newPipeStand(t, func(p *peer) {
			if p.n == 1 {
				p.send(shutdown)
				p.stayFor(time.Second) // less than the overlap
				return
			}
			p.stay()
		})
		h := start(t, s, feed.Config{}, btcusdt)
		h.want("BTCUSDT connected", "BTCUSDT connected", "BTCUSDT disconnected")
		pass(time.Hour)
		if n := len(s.connects()); n != 2 {
			t.Errorf("%d attempts to connect", n)
		}
		h.wantMetrics(map[string]int{"rotations_total": 1, "rotations_total old_lost": 1, "reconnects_total cut": 1, "links 0": 1})
	})
}

// TestNewLinkFails: the old link stays, however often its replacement fails, and the attempts become fewer.
func TestNewLinkFails(t *testing.T) {
	for name, fail := range map[string]func(p *peer){
		"new_lost": func(*peer) {},
		"faulty":   func(p *peer) { p.send(shutdown); p.stay() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const failures = 12
				s := newPipeStand(t, func(p *peer) {
					switch {
					case p.n == 1:
						if p.stayFor(2 * time.Minute) {
							for range 1000 { // which is as good as one
								p.send(shutdown)
							}
						}
						p.talk(trade)
					case p.n < failures+2:
						fail(p)
					default:
						p.talk(trade)
					}
				})
				h := start(t, s, feed.Config{}, btcusdt)
				q := h.inboxes[0]
				go func() {
					for range h.got {
					}
				}()
				defer func() { h.stop(); close(h.got) }()
				pass(20 * time.Minute)
				at := s.connects()
				if len(at) != failures+2 {
					t.Fatalf("%d attempts, want %d", len(at), failures+2)
				}
				if first := at[1].Sub(at[0]); first != 2*time.Minute {
					t.Errorf("first attempt after %v, want at once", first)
				}
				least := 125 * time.Millisecond // twice as much at the most
				for i := 1; i <= failures; i++ {
					if delay := at[i+1].Sub(at[i]); delay < least || delay > 2*least {
						t.Errorf("attempt %d came %v after the one before, want %v to %v", i+1, delay, least, 2*least)
					}
					least = min(2*least, 15*time.Second)
				}
				if links, most, zero := q.counts(); links != 1 || most != 2 || zero != 0 {
					t.Errorf("%d links, at the most %d, none %d times", links, most, zero)
				}
				h.wantMetrics(map[string]int{"rotations_total " + name: failures, "rotations_total replaced": 1, "reconnects_total": 0})
			})
		})
	}
}

// TestUnreachableWhileReplacing: no connection can be made; the old link stays.
func TestUnreachableWhileReplacing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newPipeStand(t, (*peer).stay)
		s.refuse = func(n int, w http.ResponseWriter) bool {
			if n > 1 && n < 5 {
				w.WriteHeader(http.StatusForbidden)
				return true
			}
			return false
		}
		h := start(t, s, feed.Config{RotateAfter: time.Hour}, btcusdt)
		pass(time.Hour + time.Minute)
		h.want("BTCUSDT connected", "BTCUSDT connected", "BTCUSDT disconnected")
		h.wantMetrics(map[string]int{"rotations_total unreachable": 3, "rotations_total replaced": 1, "links 0": 1})
	})
}

// TestPeerDoesNotClose: an old link whose peer does not answer the close frame is cut in the end.
func TestPeerDoesNotClose(t *testing.T) {
	for name, serve := range map[string]func(p *peer){
		"stays": func(p *peer) { <-p.stand.over },
		"talks on": func(p *peer) {
			for {
				select {
				case <-p.stand.over:
					return
				case <-time.After(100 * time.Millisecond):
					p.send(trade)
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newPipeStand(t, serve)
				s.deaf = true
				h := start(t, s, feed.Config{RotateAfter: time.Hour}, btcusdt)
				var closed, gone time.Time
				go func() {
					for entry := range h.got {
						if entry == "BTCUSDT disconnected" && gone.IsZero() {
							gone = time.Now()
						}
					}
				}()
				defer func() { h.stop(); close(h.got) }()
				pass(time.Hour + 10*time.Second)
				closed = s.peer(1).closedAt()
				if took := gone.Sub(closed); took < 0 || took > 3*time.Second {
					t.Errorf("cut %v after the close frame", took)
				}
				h.wantMetrics(map[string]int{"rotations_total replaced": 1, "reconnects_total": 0})
			})
		})
	}
}

// TestShutdownOnBothLinks: of two links that are to go, one is replaced after the other, at once, and each only once.
func TestShutdownOnBothLinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newPipeStand(t, func(p *peer) {
			if p.n <= 2 && p.stayFor(10*time.Minute) {
				for range 100 {
					p.send(shutdown)
				}
			}
			p.talk(trade, depth)
		})
		h := start(t, s, feed.Config{Connections: 2}, btcusdt)
		q := h.inboxes[0]
		go func() {
			for range h.got {
			}
		}()
		defer func() { h.stop(); close(h.got) }()
		pass(10*time.Minute + 20*time.Second)
		if links, most, zero := q.counts(); links != 2 || most != 3 || zero != 0 {
			t.Errorf("%d links, at the most %d, none %d times", links, most, zero)
		}
		at := s.connects()
		if len(at) != 4 {
			t.Fatalf("%d connections", len(at))
		}
		if first := at[2].Sub(at[0]); first != 10*time.Minute {
			t.Errorf("the first replacement came after %v", first)
		}
		h.wantMetrics(map[string]int{"rotations_total": 2, "rotations_total replaced": 2, "reconnects_total": 0})
	})
}

// TestSlotsRotateOneAtATime: links that are only old are replaced one after another, over the whole feed and for good.
func TestSlotsRotateOneAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newPipeStand(t, func(p *peer) { p.talk(eventFrame(p.streams[1], 5)) })
		h := start(t, s, feed.Config{Connections: 2, MaxStreams: 2, RotateAfter: time.Minute, Overlap: 5 * time.Second}, btcusdt, ethusdt)
		go func() {
			for range h.got {
			}
		}()
		defer func() { h.stop(); close(h.got) }()
		ticker := time.NewTicker(500 * time.Millisecond)
		defer ticker.Stop()
		for range 3600 {
			<-ticker.C
			synctest.Wait()
			if links := h.metric("tapedeck_links", ""); links < 4 || links > 5 {
				t.Fatalf("%d links at the same time", links)
			}
		}
		if n := h.metric("tapedeck_rotations_total", "replaced"); n < 4*25 || n > 4*40 {
			t.Errorf("%d rotations in half an hour", n)
		}
	})
}

// TestAgeIsStaggered: the first links of two slots do not become old together.
func TestAgeIsStaggered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newPipeStand(t, (*peer).stay)
		start(t, s, feed.Config{Connections: 2}, btcusdt)
		pass(24 * time.Hour)
		at := s.connects()
		if len(at) != 4 {
			t.Fatalf("%d connections in a day", len(at))
		}
		if first, second := at[2].Sub(at[0]), at[3].Sub(at[0]); first > 12*time.Hour || second < 20*time.Hour || second > 23*time.Hour {
			t.Errorf("replaced after %v and %v", first, second)
		}
	})
}

// TestShutdownDoesNotWaitForAge: a link that has to go does not wait for one that is only old, though it did when it was
// only old itself.
func TestShutdownDoesNotWaitForAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// The first link of BTCUSDT is old after 41 to 45 s and is replaced in vain for 63 s; that of ETHUSDT is old
		// after 81 to 90 s.
		const rotateAfter, notice = 90 * time.Second, 95 * time.Second
		s := newPipeStand(t, func(p *peer) {
			switch {
			case slices.Contains(p.streams, "ethusdt@trade") && p.n > 2:
				p.talk(eventFrame("ethusdt@trade", 5))
			case slices.Contains(p.streams, "ethusdt@trade"):
				if p.stayFor(notice) {
					p.send(shutdown)
				}
				p.talk(eventFrame("ethusdt@trade", 5))
			case p.n <= 2:
				p.talk(trade)
			default:
				p.stay() // mute
			}
		})
		h := start(t, s, feed.Config{MaxStreams: 2, RotateAfter: rotateAfter}, btcusdt, ethusdt)
		pass(notice + 5*time.Second)
		at := s.connects()
		if len(at) != 4 || at[3].Sub(at[0]) != notice {
			t.Errorf("connections at %v", at)
		}
		h.wantMetrics(map[string]int{"rotations_total": 1, "rotations_total replaced": 1})
	})
}

// TestSubscriptionFails: a link whose subscriptions were refused, or not acknowledged, is replaced.
func TestSubscriptionFails(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer func(r request) string
	}{
		{"refused", func(r request) string { return fmt.Sprintf(`{"code":2,"msg":"Invalid request","id":%d}`, r.ID) }},
		{"refused without an id", func(request) string { return `{"code":3,"msg":"Invalid JSON"}` }},
		{"refused in an object", func(r request) string {
			return fmt.Sprintf(`{"error":{"code":2,"msg":"Invalid request"},"id":%d}`, r.ID)
		}},
		{"reply is lost", func(request) string { return "" }},
		{"reply to another request", func(request) string { return `{"result":null,"id":77}` }},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newPipeStand(t, (*peer).stay)
				s.answer = func(p *peer, r request) string {
					if p.n <= 2 {
						return c.answer(r)
					}
					return fmt.Sprintf(`{"result":null,"id":%d}`, r.ID)
				}
				h := start(t, s, feed.Config{}, symbols(60)...)
				go func() {
					for range h.got {
					}
				}()
				defer func() { h.stop(); close(h.got) }()
				pass(time.Minute)
				h.wantMetrics(map[string]int{"rotations_total faulty": 1, "rotations_total replaced": 1, "reconnects_total": 0})
				if links, _, zero := h.inboxes[0].counts(); links != 1 || zero != 0 {
					t.Errorf("%d links, none %d times", links, zero)
				}
			})
		})
	}
}

// TestUnknownReplies: what answers nothing is counted and does no harm.
func TestUnknownReplies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newPipeStand(t, func(p *peer) {
			p.send(`{"result":null,"id":1}`, `{"code":2,"msg":"Invalid request: unknown stream","id":1}`, `{"code":3,"msg":"x"}`,
				`{"result":["a"],"id":"text"}`, `{"result":null,"id":null}`)
			p.stay()
		})
		h := start(t, s, feed.Config{}, btcusdt)
		pass(30 * time.Minute)
		h.want("BTCUSDT connected")
		h.wantMetrics(map[string]int{"rotations_total": 0, "reconnects_total": 0, "frames_total control": 5, "links 0": 1})
	})
}

// TestRestore: a mute stream is subscribed anew on all links; a link on which that did not help is replaced.
func TestRestore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newPipeStand(t, (*peer).stay)
		h := start(t, s, feed.Config{Connections: 2}, btcusdt, ethusdt)
		h.feed.Restore(btcusdt, market.Trades) // there is no link yet
		pass(time.Minute)
		requests := func(n int) []string { return texts(s.peer(n).heard(), websocket.TextMessage) }
		for n := range 2 {
			if got := requests(n + 1); len(got) > 0 {
				t.Errorf("requests %q", got)
			}
		}
		for range 3 { // the first two do not belong together
			h.feed.Restore(btcusdt, market.Trades)
			h.feed.Restore(btcusdt, "")
			h.feed.Restore(market.Market{Exchange: market.Binance, Symbol: "XRPUSDT"}, market.Trades)
			pass(61 * time.Second)
		}
		for n := range 2 {
			want := []string{}
			for id := range 3 {
				want = append(
					want, fmt.Sprintf(`{"method":"UNSUBSCRIBE","params":["btcusdt@trade"],"id":%d}`, 2*id+1),
					fmt.Sprintf(`{"method":"SUBSCRIBE","params":["btcusdt@trade"],"id":%d}`, 2*id+2))
			}
			if got := requests(n + 1); !slices.Equal(got, want) {
				t.Errorf("requests %q, want %q", got, want)
			}
		}
		h.wantMetrics(map[string]int{"rotations_total": 0, "resubscribes_total": 6})

		h.feed.Restore(ethusdt, market.Depth)
		pass(30 * time.Second)
		h.feed.Restore(ethusdt, market.Trades) // another stream
		pass(10 * time.Second)
		h.wantMetrics(map[string]int{"rotations_total": 0, "resubscribes_total": 10})
		for range 5 {
			h.feed.Restore(ethusdt, market.Depth)
		}
		pass(30 * time.Second)
		h.wantMetrics(map[string]int{"rotations_total": 2, "rotations_total replaced": 2, "resubscribes_total": 10, "links 0": 2})
		if _, _, zero := h.inboxes[1].counts(); zero != 0 {
			t.Errorf("no link %d times", zero)
		}
	})
}

// TestRestoreOnADeadLink: a link that the exchange does not read from any more is replaced as well.
func TestRestoreOnADeadLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newPipeStand(t, (*peer).stay)
		pipe, first := s.dial, true
		s.dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := pipe(ctx, network, address)
			if first {
				first = false
				conn = &deadEnd{conn, time.Now().Add(time.Minute)}
			}
			return conn, err
		}
		h := start(t, s, feed.Config{}, btcusdt)
		pass(time.Minute)
		h.feed.Restore(btcusdt, market.Depth) // nothing more can be written from here on
		pass(30 * time.Second)
		h.want("BTCUSDT connected", "BTCUSDT connected", "BTCUSDT disconnected")
		h.wantMetrics(map[string]int{"rotations_total replaced": 1, "links 0": 1})
	})
}

// deadEnd is a connection whose writes fail at their deadline from an instant on.
type deadEnd struct {
	net.Conn
	from time.Time
}

func (c *deadEnd) Write(b []byte) (int, error) {
	if time.Now().Before(c.from) {
		return c.Conn.Write(b)
	}
	<-time.After(5 * time.Second)
	return 0, context.DeadlineExceeded
}

// TestStopsInEveryState: however things stand when the feed is stopped, it ends soon, and nothing of it stays; the
// bubble would not end otherwise.
func TestStopsInEveryState(t *testing.T) {
	for _, c := range []struct {
		name  string
		after time.Duration
		cfg   feed.Config
		stand func(s *stand)
		serve func(p *peer)
	}{
		{name: "connected", after: time.Minute},
		{name: "backing off", after: 30 * time.Second, serve: func(*peer) {}},
		{name: "held off", after: 30 * time.Second, stand: func(s *stand) {
			s.refuse = func(_ int, w http.ResponseWriter) bool {
				w.WriteHeader(http.StatusTeapot)
				return true
			}
		}},
		{name: "overlapping", after: time.Minute + time.Second, serve: func(p *peer) {
			if p.n <= 2 && p.stayFor(time.Minute) {
				p.send(shutdown)
			}
			p.stay()
		}},
		{name: "waiting for a mute stream", after: 80 * time.Second, serve: func(p *peer) {
			if p.n > 2 {
				p.stay()
			}
			if p.stayFor(time.Minute) {
				p.send(shutdown)
			}
			p.talk(trade)
		}},
		{name: "waiting for the closing handshake", after: time.Minute + 4*time.Second, stand: func(s *stand) { s.deaf = true }, serve: func(p *peer) {
			if p.n <= 2 && p.stayFor(time.Minute) {
				p.send(shutdown)
			}
			p.talk(trade)
			<-p.stand.over
		}},
		{name: "waiting for an answer", after: time.Minute, stand: func(s *stand) {
			s.answer = func(*peer, request) string { return "" }
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				serve := c.serve
				if serve == nil {
					serve = (*peer).stay
				}
				s := newPipeStand(t, serve)
				if c.stand != nil {
					c.stand(s)
				}
				cfg := c.cfg
				cfg.Connections = 2
				h := start(t, s, cfg, append(symbols(60), btcusdt)...)
				go func() {
					for range h.got {
					}
				}()
				pass(c.after)
				begin := time.Now()
				h.stop()
				if took := time.Since(begin); took > time.Second {
					t.Errorf("stopped after %v", took)
				}
				close(h.got)
				if links := h.metric("tapedeck_links", ""); links != 0 {
					t.Errorf("%d links are left", links)
				}
			})
		})
	}
}
