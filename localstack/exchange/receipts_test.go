package exchange

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// What a client has read gets a receipt, but for what a fault struck.
func TestReceipts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ fault, want string }{
		{"ping-slow for=1ms", "1-6"},
		{"drop count=2 stream=@trade", "3-6"},
		{"drop count=2 stream=@trade conn=2", "1-6"},
		{"double count=2 stream=@trade", "1-6"},
		{"reorder count=2 stream=@trade", "1-6"},
		{"gap count=2 stream=@trade", "3-6"},
		{"clock by=1s", "1-6"},
		{"stall for=1h stream=@depth", "1-6"},
		{"frame-malformed count=2 stream=@trade", "3-6"},
		{"frame-malformed count=2 keep=true stream=@trade", "1-6"},
		{"frame-symbol stream=@trade", "2-6"},
		{"frame-ids stream=@trade", "2-6"},
		{"frame-huge stream=@trade keep=true size=100000", "1-6"},
	} {
		t.Run(c.fault, func(t *testing.T) {
			t.Parallel()
			var mu sync.Mutex
			var got []Receipt
			s, release := waiting(t, tradesOf(t, 6), WithReceipts(func(r Receipt) {
				mu.Lock()
				defer mu.Unlock()
				if r.Conn == 1 && r.Stream == "aaausdt@trade" {
					got = append(got, r)
				}
			}))
			ws := dial(t, s, "/stream?streams=aaausdt@trade/aaausdt@depth")
			connected(t, s, 1)
			dial(t, s, "/stream?streams=aaausdt@trade/aaausdt@depth")
			connected(t, s, 2)
			inject(t, s, c.fault)
			release(2)
			<-s.Done()
			mu.Lock()
			if len(got) > 0 {
				t.Errorf("there are receipts before anything was read: %v", got)
			}
			mu.Unlock()
			go func() { // answers pings
				for {
					if _, _, err := ws.ReadMessage(); err != nil {
						return
					}
				}
			}()
			inject(t, s, "ping-flood for=1h rate=4 conn=1")
			text := ""
			poll(t, "receipts", func() bool {
				mu.Lock()
				defer mu.Unlock()
				var list []string
				for _, r := range got {
					list = append(list, fmt.Sprintf("%d-%d", r.FirstID, r.LastID))
					if r.Asked.After(r.Echoed) || r.Echoed.After(time.Now()) {
						t.Errorf("asked at %v, echoed at %v", r.Asked, r.Echoed)
					}
				}
				text = strings.Join(list, " ")
				return len(list) > 0
			})
			if text != c.want {
				t.Errorf("receipts for %s, want %s", text, c.want)
			}
		})
	}
}

// A ping's echo speaks of what went out before it alone, and never of what went out late.
func TestReceiptsOfAConnection(t *testing.T) {
	t.Parallel()
	now := time.Now()
	c := &conn{}
	event := func(id int64, made time.Time) note { return note{stream: "a@trade", first: id, last: id, made: made} }
	c.noteQueued(event(1, now))
	c.noteQueued(note{}) // nobody wants to know
	c.noteQueued(event(2, now.Add(-2*promptly)))
	c.noteQueued(event(3, now))
	early := sentPing{behind: c.noted + len(c.notes)}
	c.noteQueued(event(5, now))
	c.noteQueued(event(4, now))
	late := sentPing{behind: c.noted + len(c.notes)}
	c.noteQueued(event(6, now))
	text := func(p sentPing) string {
		var list []string
		for _, r := range c.receipts(c.takeNotes(p), p, now) {
			list = append(list, fmt.Sprintf("%d-%d", r.FirstID, r.LastID))
		}
		return strings.Join(list, " ")
	}
	for _, want := range []struct {
		ping sentPing
		text string
	}{{early, "1-1 3-3"}, {early, ""}, {late, "4-5"}, {early, ""}} {
		if got := text(want.ping); got != want.text {
			t.Errorf("receipts for %q, want %q", got, want.text)
		}
	}
	if len(c.notes) != 1 {
		t.Errorf("%d notes are left, want 1", len(c.notes))
	}
}

// A handshake may be refused with how long to wait; who does not is counted, but not who came later.
func TestRefusedHandshakeAsksPatience(t *testing.T) {
	t.Parallel()
	s := start(t, quietSource(t))
	inject(t, s, "handshake-refused status=429 retry=7s for=1h count=2")
	for range 2 {
		_, resp, err := websocket.DefaultDialer.DialContext(t.Context(), s.StreamURL()+"/ws", nil)
		if err == nil || resp == nil || resp.StatusCode != 429 || resp.Header.Get("Retry-After") != "7" {
			t.Fatalf("%v (%v), want 429 and Retry-After: 7", resp, err)
		}
		resp.Body.Close()
	}
	if n := s.Stats().IgnoredRetryAfter; n != 0 {
		t.Errorf("%d ignored at once, want none", n)
	}
	var c counters
	now := time.Now()
	c.waitConnecting(now, 7*time.Second)
	c.request(now.Add(2 * time.Second)) // was not told to wait
	c.connect(now.Add(retryGrace), 9)
	c.connect(now.Add(2*time.Second), 9)
	c.connect(now.Add(7*time.Second), 9)
	if c.stats.IgnoredRetryAfter != 1 {
		t.Errorf("%d ignored, want 1", c.stats.IgnoredRetryAfter)
	}
	own := &Server{}
	own.stats.wait(now, time.Hour)
	own.stats.waitConnecting(now, time.Hour)
	own.ForgetRetryAfter()
	own.stats.request(now.Add(time.Minute))
	own.stats.connect(now.Add(time.Minute), 9)
	if n := own.Stats().IgnoredRetryAfter; n != 0 {
		t.Errorf("%d ignored by who was never told, want none", n)
	}
}
