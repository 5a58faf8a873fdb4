package exchange

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"
)

// quietSource returns a source that has markets but is over at once.
func quietSource(tb testing.TB) Source {
	return newSynthetic(tb, SyntheticConfig{Symbols: SymbolNames(2), Levels: minLevels, Duration: 1})
}

func TestControlMessages(t *testing.T) {
	t.Parallel()
	s := start(t, quietSource(t), WithMessageLimit(100))
	raw, combined := dial(t, s, "/ws"), dial(t, s, "/stream")
	const variants = "expected one of `SUBSCRIBE`, `UNSUBSCRIBE`, `LIST_SUBSCRIPTIONS`, `SET_PROPERTY`, `GET_PROPERTY` at line 1 column 28"
	for _, c := range []struct {
		ws            *websocket.Conn
		message, want string
	}{
		{raw, `{"method":"LIST_SUBSCRIPTIONS","id":1}`, `{"result":[],"id":1}`},
		{raw, `{"method":"SUBSCRIBE","params":["b@trade","a@depth"],"id":"a1"}`, `{"result":null,"id":"a1"}`},
		{raw, `{"method":"SUBSCRIBE","params":["b@trade","no such"],"id":null}`, `{"result":null,"id":null}`},
		{raw, `{"method":"LIST_SUBSCRIPTIONS","id":-9223372036854775808}`, `{"result":["b@trade","a@depth","no such"],"id":-9223372036854775808}`},
		{raw, `{"method":"UNSUBSCRIBE","params":["b@trade","never"],"id":2}`, `{"result":null,"id":2}`},
		{raw, `{"method":"LIST_SUBSCRIPTIONS","id":3}`, `{"result":["a@depth","no such"],"id":3}`},
		{combined, `{"method":"LIST_SUBSCRIPTIONS","id":3}`, `{"result":[],"id":3}`},

		{raw, `{"method":"GET_PROPERTY","params":["combined"],"id":4}`, `{"result":false,"id":4}`},
		{combined, `{"method":"GET_PROPERTY","params":["combined"],"id":4}`, `{"result":true,"id":4}`},
		{raw, `{"method":"SET_PROPERTY","params":["combined",true],"id":5}`, `{"result":null,"id":5}`},
		{raw, `{"method":"GET_PROPERTY","params":["combined"],"id":6}`, `{"result":true,"id":6}`},

		{raw, `{"method":"GET_PROPERTY","params":["x"],"id":7}`, `{"code":0,"msg":"Unknown property","id":7}`},
		{raw, `{"method":"SET_PROPERTY","params":["x",true],"id":7}`, `{"code":0,"msg":"Unknown property","id":7}`},
		{raw, `{"method":"SET_PROPERTY","params":["combined","true"],"id":8}`, `{"code":1,"msg":"Invalid value type: expected Boolean","id":8}`},
		{raw, `{"method":"SET_PROPERTY","params":["combined",null],"id":8}`, `{"code":1,"msg":"Invalid value type: expected Boolean","id":8}`},
		{raw, `{"method":"SET_PROPERTY","params":["combined"],"id":8}`, `{"code":1,"msg":"Invalid value type: expected Boolean","id":8}`},
		{raw, `{"method":"GET_PROPERTY","params":[1],"id":9}`, `{"code":2,"msg":"Invalid request: property name must be a string","id":9}`},
		{raw, `{"method":"GET_PROPERTY","id":9}`, `{"code":2,"msg":"Invalid request: property name must be a string","id":9}`},
		{raw, `{"method":"GET_PROPERTY","params":["combined",1],"id":9}`, `{"code":2,"msg":"Invalid request: too many parameters","id":9}`},
		{raw, `{"method":"LIST_SUBSCRIPTIONS","params":["x"],"id":9}`, `{"code":2,"msg":"Invalid request: too many parameters","id":9}`},
		{raw, `{"method":"SUBSCRIBE","params":[1],"id":9}`, `{"code":2,"msg":"Invalid request: stream name must be a string","id":9}`},
		{raw, `{"method":"SUBSCRIBE","id":9}`, "{\"code\":2,\"msg\":\"Invalid request: missing field `params`\",\"id\":9}"},
		{raw, `{"method":"subscribe","id":10}`, "{\"code\":2,\"msg\":\"Invalid request: unknown variant `subscribe`, " + variants + "\",\"id\":10}"},
		{raw, `{"id":11}`, "{\"code\":2,\"msg\":\"Invalid request: missing field `method` at line 1 column 9\",\"id\":11}"},
		{raw, `{"method":"LIST_SUBSCRIPTIONS"}`, `{"code":2,"msg":"Invalid request: request ID must be an unsigned integer"}`},
		{raw, `{"method":"LIST_SUBSCRIPTIONS","id":1.5}`, `{"code":2,"msg":"Invalid request: request ID must be an unsigned integer"}`},
		{raw, `{"method":"LIST_SUBSCRIPTIONS","id":9223372036854775808}`, `{"code":2,"msg":"Invalid request: request ID must be an unsigned integer"}`},
		{raw, `{"method":"LIST_SUBSCRIPTIONS","id":"` + strings.Repeat("x", 37) + `"}`, `{"code":2,"msg":"Invalid request: request ID must be an unsigned integer"}`},
		{raw, `{"method":`, `{"code":3,"msg":"Invalid JSON: expected value at line 1 column 10"}`},
		{raw, ``, `{"code":3,"msg":"Invalid JSON: expected value at line 1 column 0"}`},
	} {
		if got := ask(t, c.ws, c.message); got != c.want {
			t.Errorf("%s\ngot  %s\nwant %s", c.message, got, c.want)
		}
	}
	if got := ask(t, raw, `{"method":5,"id":1}`); !strings.HasPrefix(got, `{"code":2,`) {
		t.Errorf("method of a wrong type: %s", got)
	}
}

// The reply comes before the first event, an unsubscribed stream falls silent, and the wrapper follows the property.
func TestSubscriptionTakesEffect(t *testing.T) {
	t.Parallel()
	s := start(t, newSynthetic(t, SyntheticConfig{Symbols: SymbolNames(1), Levels: minLevels}))
	ws := dial(t, s, "/ws")
	if got := ask(t, ws, `{"method":"SUBSCRIBE","params":["syn001usdt@trade"],"id":1}`); got != `{"result":null,"id":1}` {
		t.Fatalf("first message: %s", got)
	}
	until := func(want string) (first string) {
		t.Helper()
		for {
			got := receive(t, ws)
			if got == want {
				return first
			}
			if first == "" {
				first = got
			}
		}
	}
	s.mu.Lock() // nothing is sent while the three messages are on their way
	for i, m := range []string{
		`{"method":"SET_PROPERTY","params":["combined",true],"id":2}`,
		`{"method":"SUBSCRIBE","params":["syn001usdt@depth@100ms"],"id":3}`,
		`{"method":"UNSUBSCRIBE","params":["syn001usdt@trade"],"id":4}`,
	} {
		if err := ws.WriteMessage(websocket.TextMessage, []byte(m)); err != nil {
			t.Fatal(i, err)
		}
	}
	s.mu.Unlock()
	if first := until(`{"result":null,"id":2}`); first != "" && !strings.HasPrefix(first, `{"e":"trade"`) {
		t.Errorf("on /ws: %.60s, want an event without a wrapper", first)
	}
	until(`{"result":null,"id":4}`)
	for range 3 {
		if got := receive(t, ws); !strings.HasPrefix(got, `{"stream":"syn001usdt@depth@100ms","data":{"e":"depthUpdate"`) {
			t.Fatalf("after the change: %.60s", got)
		}
	}
}

func TestLimitsOfAConnection(t *testing.T) {
	t.Parallel()
	s := start(t, quietSource(t))
	names := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "s%d@trade/", i)
		}
		return b.String()
	}
	ws := dial(t, s, "/stream?streams="+names(1024))
	if got := ask(t, ws, `{"method":"UNSUBSCRIBE","params":["s1@trade"],"id":1}`); got != `{"result":null,"id":1}` {
		t.Errorf("1024 streams: %s", got)
	}
	ask(t, ws, `{"method":"SUBSCRIBE","params":["x@trade"],"id":1}`)
	ask(t, ws, `{"method":"SUBSCRIBE","params":["y@trade"],"id":1}`)
	if code, reason := closeCode(t, ws); code != websocket.ClosePolicyViolation {
		t.Errorf("1025 streams: closed with %d %s", code, reason)
	}
	if code, _ := closeCode(t, dial(t, s, "/ws/"+names(1025))); code != websocket.ClosePolicyViolation {
		t.Errorf("1025 streams in the path: closed with %d", code)
	}

	ws = dial(t, s, "/ws")
	for range 5 {
		if err := ws.WriteControl(websocket.PongMessage, nil, time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	ws.WriteMessage(websocket.TextMessage, []byte(`{"method":"LIST_SUBSCRIPTIONS","id":1}`))
	if code, reason := closeCode(t, ws); code != websocket.ClosePolicyViolation || reason != "Too many requests" {
		t.Errorf("six messages in a second: closed with %d %s", code, reason)
	}

	ws = dial(t, s, "/ws")
	ws.WriteMessage(websocket.TextMessage, make([]byte, maxMessageBytes+1))
	if code, reason := closeCode(t, ws); code != websocket.CloseMessageTooBig {
		t.Errorf("a message too long: closed with %d %s", code, reason)
	}

	ws = dial(t, s, "/ws")
	ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, "bye"), time.Now().Add(time.Second))
	if code, reason := closeCode(t, ws); code != websocket.CloseNormalClosure {
		t.Errorf("closed by the client: answered with %d %s", code, reason)
	}
}

func TestClientPingIsEchoed(t *testing.T) {
	t.Parallel()
	ws := dial(t, start(t, quietSource(t)), "/ws")
	echo := make(chan string, 1)
	ws.SetPongHandler(func(payload string) error { echo <- payload; return errors.New("seen") })
	ws.WriteControl(websocket.PingMessage, []byte("hello"), time.Now().Add(time.Second))
	ws.ReadMessage()
	if got := <-echo; got != "hello" {
		t.Errorf("pong %q", got)
	}
}

func TestCutConnections(t *testing.T) {
	t.Parallel()
	s := start(t, newSynthetic(t, SyntheticConfig{Symbols: SymbolNames(1), Levels: minLevels}))
	a, b := dial(t, s, "/ws/syn001usdt@trade"), dial(t, s, "/ws/syn001usdt@depth@100ms")
	receive(t, a)
	receive(t, b)
	if n := s.CutConnections(); n != 2 {
		t.Errorf("%d connections cut, want 2", n)
	}
	for _, ws := range []*websocket.Conn{a, b} {
		if code, reason := closeCode(t, ws); code != 0 && code != websocket.CloseAbnormalClosure {
			t.Errorf("cut with %d %s, want no close frame", code, reason)
		}
	}
	receive(t, dial(t, s, "/ws/syn001usdt@trade")) // the market goes on
}

// Close ends connections with a close frame, also one whose client does not read, and requests that wait.
func TestClose(t *testing.T) {
	t.Parallel()
	s := New(newReplay(t, record(t, `{"stream":"aaausdt@trade","data":{}}`)))
	if err := s.Start("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	idle := dial(t, s, "/ws")
	waiting := make(chan int)
	go func() {
		status, _, _ := get(t, s, "/api/v3/depth?symbol=AAAUSDT")
		waiting <- status
	}()
	poll(t, "the waiting request", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.arrivals) > 0
	})
	full := start(t, newSynthetic(t, SyntheticConfig{Symbols: SymbolNames(1)}))
	deaf := dial(t, full, "/ws/syn001usdt@depth@100ms")
	receive(t, deaf)
	for _, s := range []*Server{s, full} {
		begun := time.Now()
		if err := s.Close(t.Context()); err != nil || time.Since(begun) > 5*time.Second {
			t.Errorf("close: %v after %v", err, time.Since(begun))
		}
		if err := s.Close(t.Context()); err != nil {
			t.Errorf("second close: %v", err)
		}
	}
	if status := <-waiting; status != 503 {
		t.Errorf("request that waited: %d, want 503", status)
	}
	if code, reason := closeCode(t, idle); code != websocket.CloseGoingAway {
		t.Errorf("idle client: closed with %d %s", code, reason)
	}
}

func TestFrameFilterAndObserver(t *testing.T) {
	t.Parallel()
	var seen, made []string // both are written while the source stands still
	s := start(t, newReplay(t, record(t,
		`{"stream":"a@trade","data":{"e":1}}`, `{"stream":"a@trade","data":{"e":2}}`, `{"stream":"b@trade","data":{"e":3}}`,
		`{"stream":"a@trade","data":{"e":4}}`)),
		WithObserver(func(stream string, combined []byte) { made = append(made, stream+" "+string(combined)) }),
		WithFrameFilter(func(stream string, frame []byte) [][]byte {
			seen = append(seen, stream+" "+string(frame))
			switch string(frame) {
			case `{"e":1}`:
				return nil
			case `{"e":2}`:
				return [][]byte{[]byte("broken"), frame}
			}
			return [][]byte{frame}
		}))
	ws := dial(t, s, "/ws")
	got := []string{ask(t, ws, `{"method":"SUBSCRIBE","params":["a@trade"],"id":1}`), receive(t, ws), receive(t, ws), receive(t, ws)}
	if want := []string{`{"result":null,"id":1}`, "broken", `{"e":2}`, `{"e":4}`}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	wait(t, "the end", s.Done())
	if want := ` {"result":null,"id":1}|a@trade {"e":1}|a@trade {"e":2}|a@trade {"e":4}`; strings.Join(seen, "|") != want {
		t.Errorf("filter saw %q", seen)
	}
	if len(made) != 4 || made[2] != `b@trade {"stream":"b@trade","data":{"e":3}}` {
		t.Errorf("observer saw %q", made)
	}
}

// A client that does not read is disconnected when the source does not wait for it.
func TestSlowClientIsDisconnected(t *testing.T) {
	t.Parallel()
	s := start(t, newSynthetic(t, SyntheticConfig{Symbols: SymbolNames(1), Levels: minLevels}),
		WithSpeed(1000), WithQueueBytes(64<<10))
	slow := dial(t, s, "/stream?streams=syn001usdt@depth@100ms")
	poll(t, "the disconnection", func() bool { return s.Progress().SlowClients > 0 })
	if code, _ := closeCode(t, slow); code != 0 && code != websocket.CloseAbnormalClosure {
		t.Errorf("closed with %d, want a cut", code)
	}
}

// The slower of two clients sets the pace at speed 0, and neither misses anything.
func TestBackpressure(t *testing.T) {
	t.Parallel()
	s := start(t, newSynthetic(t, SyntheticConfig{Symbols: SymbolNames(1), Duration: 20 * time.Minute}),
		WithStartStreams("syn001usdt@depth@100ms", "syn001usdt@trade"))
	both := []*websocket.Conn{
		dial(t, s, "/stream?streams=syn001usdt@depth@100ms"),
		dial(t, s, "/stream?streams=syn001usdt@depth@100ms/syn001usdt@trade"),
	}
	// The second client reads nothing at first; then the first one starves long before the end.
	both[0].SetReadDeadline(time.Now().Add(500 * time.Millisecond))
	read := 0
	for ; ; read++ {
		if _, _, err := both[0].ReadMessage(); err != nil {
			break
		}
	}
	if read == 12_000 {
		t.Error("the source did not wait for the slower client")
	}
	both[0].Close()
	last := int64(0)
	for {
		stream, e := decode(t, []byte(receive(t, both[1])))
		if stream != "syn001usdt@depth@100ms" {
			continue
		}
		if last != 0 && e.FirstID != last+1 {
			t.Fatalf("update %d follows %d", e.FirstID, last)
		}
		if last = e.LastID; e.EventTime > milliseconds(defaultStart)+60_000 {
			break // a minute of the twenty is enough
		}
	}
}

// pipes is a listener whose connections are made of net.Pipe, which synctest understands.
type pipes struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), done: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}
func (p *pipes) Close() error   { p.once.Do(func() { close(p.done) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

func (p *pipes) dial(tb testing.TB, path string) *websocket.Conn {
	tb.Helper()
	dialer := websocket.Dialer{NetDial: func(string, string) (net.Conn, error) {
		client, server := net.Pipe()
		p.conns <- server
		return client, nil
	}}
	ws, resp, err := dialer.DialContext(tb.Context(), "ws://exchange"+path, nil)
	if err != nil {
		tb.Fatal(err)
	}
	resp.Body.Close()
	return ws
}

// bubble runs f against a stand-in in a bubble of synctest.
func bubble(t *testing.T, source Source, f func(*Server, *pipes), opts ...Option) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipes()
		s := New(source, opts...)
		s.StartOn(p)
		f(s, p)
		if err := s.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestPings(t *testing.T) {
	t.Parallel()
	bubble(t, quietSource(t), func(s *Server, p *pipes) {
		begun := time.Now()
		echoing, mute, liar := p.dial(t, "/ws"), p.dial(t, "/ws"), p.dial(t, "/ws")
		var pings []time.Duration
		echo := echoing.PingHandler()
		echoing.SetPingHandler(func(payload string) error {
			pings = append(pings, time.Since(begun))
			if payload == "" {
				t.Error("ping without a payload")
			}
			return echo(payload)
		})
		mute.SetPingHandler(func(string) error { return nil })
		liar.SetPingHandler(func(string) error {
			return liar.WriteControl(websocket.PongMessage, []byte("something else"), time.Now().Add(time.Second))
		})
		for name, ws := range map[string]*websocket.Conn{"mute": mute, "liar": liar} {
			go func() {
				code, _ := closeCodeForever(ws)
				if age := time.Since(begun); code != websocket.ClosePolicyViolation || age != time.Minute {
					t.Errorf("%s: closed with %d after %v, want 1008 after a minute", name, code, age)
				}
			}()
		}
		go closeCodeForever(echoing)
		time.AfterFunc(150*time.Second, func() { p.Close() })
		<-p.done
		synctest.Wait()
		if len(pings) != 7 || pings[0] != 20*time.Second || pings[6] != 140*time.Second {
			t.Errorf("pings after %v, want every 20 s", pings)
		}
		if n := s.Progress().Connections; n != 1 {
			t.Errorf("%d connections left, want the one that echoes", n)
		}
	})
}

func closeCodeForever(ws *websocket.Conn) (int, string) {
	for {
		if _, _, err := ws.ReadMessage(); err != nil {
			if closed, ok := errors.AsType[*websocket.CloseError](err); ok {
				return closed.Code, closed.Text
			}
			return 0, err.Error()
		}
	}
}

// Frames come when they are due by the speed, and the time spent at a snapshot does not count.
func TestSpeed(t *testing.T) {
	t.Parallel()
	var frames []string
	for i := range 5 {
		frames = append(frames, fmt.Sprintf(`{"stream":"a@depth","data":{"e":"depthUpdate","U":%d,"u":%d,"b":[],"a":[]}}`, i+1, i+1))
	}
	for speed, step := range map[float64]time.Duration{1: time.Millisecond, 0.001: time.Second, 10: 100 * time.Microsecond} {
		t.Run(fmt.Sprint(speed), func(t *testing.T) {
			path := record(t, append(frames[:3:3], append([]string{snapshotFrame(2, "")}, frames[3:]...)...)...)
			bubble(t, newReplay(t, path), func(s *Server, p *pipes) {
				const hold = 7 * time.Second
				ws := p.dial(t, "/stream?streams=a@depth")
				begun := time.Now()
				for i, want := range frames {
					_, got, err := ws.ReadMessage()
					if err != nil || string(got) != want {
						t.Fatalf("frame %d: %s (%v)", i, got, err)
					}
					due := step * time.Duration(i)
					if i >= 3 {
						due += step + hold // the snapshot's own line takes one millisecond, too
					}
					if age := time.Since(begun); age != due {
						t.Errorf("frame %d after %v, want %v", i, age, due)
					}
				}
				<-s.Done()
				ws.Close()
			}, WithSpeed(speed), WithSnapshotHold(7*time.Second))
		})
	}
}

// At speed 0 nothing passes while nobody is subscribed; at any other speed the market does not wait.
func TestNobodySubscribed(t *testing.T) {
	t.Parallel()
	for speed, want := range map[float64]bool{0: false, 1: true} {
		moves := false
		bubble(t, newSynthetic(t, SyntheticConfig{Symbols: SymbolNames(1), Levels: minLevels}), func(s *Server, p *pipes) {
			ws := p.dial(t, "/ws/syn001usdt@trade")
			for range 10 {
				ws.ReadMessage()
			}
			ws.Close()
			synctest.Wait()
			before := s.Progress().Frames
			<-time.After(time.Minute)
			moves = s.Progress().Frames > before
		}, WithSpeed(speed))
		if moves != want {
			t.Errorf("speed %v: moves = %v, want %v", speed, moves, want)
		}
	}
}
