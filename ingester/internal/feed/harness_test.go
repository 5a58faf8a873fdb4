package feed_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
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

// stand is a server that a test scripts.
type stand struct {
	t     *testing.T
	url   string
	dial  func(ctx context.Context, network, address string) (net.Conn, error) // nil = the network
	serve func(p *peer)                                                        // the connection is cut when it returns
	// refuse may answer a handshake otherwise; it returns whether it did.
	refuse func(n int, w http.ResponseWriter) bool
	// answer returns the reply to a request; nil acknowledges it.
	answer func(p *peer, r request) string
	deaf   bool          // peers do not answer a close frame
	silent bool          // peers do not ping
	over   chan struct{} // closed at the end of the test

	running sync.WaitGroup // what serves connections

	mu    sync.Mutex
	peers []*peer
}

// peer is the server's side of a connection.
type peer struct {
	*websocket.Conn
	stand   *stand
	n       int // from 1
	at      time.Time
	streams []string // of the address
	said    chan saying
	gone    chan struct{} // closed when the client is not heard any more

	mu sync.Mutex // for writing
}

// saying is something that a client said.
type saying struct {
	at   time.Time
	kind int
	text string
}

// request is a control frame of a client.
type request struct {
	Method string
	Params []string
	ID     int64
}

// newStand returns a server on a socket of this machine.
func newStand(t *testing.T, serve func(p *peer)) *stand {
	s := &stand{t: t, serve: serve, over: make(chan struct{})}
	server := httptest.NewServer(s)
	s.url = "ws" + strings.TrimPrefix(server.URL, "http")
	t.Cleanup(server.Close)
	t.Cleanup(func() { close(s.over) })
	return s
}

// newPipeStand returns a server behind pipes, which a bubble of testing/synctest can hold.
func newPipeStand(t *testing.T, serve func(p *peer)) *stand {
	s := &stand{t: t, serve: serve, over: make(chan struct{}), url: "ws://exchange"}
	l := pipeListener{make(chan net.Conn), make(chan struct{})}
	s.dial = l.dial
	server := &http.Server{Handler: s}
	done := make(chan struct{})
	go func() {
		defer close(done)
		server.Serve(l)
	}()
	t.Cleanup(func() {
		close(s.over)
		server.Close()
		<-done
		s.running.Wait()
	})
	return s
}

// pipeListener accepts pipes.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (l pipeListener) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case l.conns <- server:
		return client, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l pipeListener) Close() error {
	close(l.closed)
	return nil
}

func (l pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

// ServeHTTP serves a connection.
func (s *stand) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p := &peer{
		stand: s, at: time.Now(), streams: strings.Split(r.URL.Query().Get("streams"), "/"),
		said: make(chan saying, 10_000), gone: make(chan struct{}),
	}
	s.mu.Lock()
	s.peers = append(s.peers, p)
	p.n = len(s.peers)
	s.mu.Unlock()
	if s.refuse != nil && s.refuse(p.n, w) {
		return
	}
	var upgrader websocket.Upgrader
	ws, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return // the client was gone before
	}
	p.Conn = ws
	s.running.Add(1)
	defer s.running.Done()
	defer ws.Close()
	s.running.Go(p.listen)
	if !s.silent {
		s.running.Go(p.ping)
	}
	s.serve(p)
}

// ping pings as the exchange does.
func (p *peer) ping() {
	for p.stayFor(20 * time.Second) {
		p.control(websocket.PingMessage, "1700000000000")
	}
}

// listen notes all that the client says, and answers requests.
func (p *peer) listen() {
	defer close(p.gone)
	note := func(kind int, text string) { p.said <- saying{time.Now(), kind, text} }
	p.SetPongHandler(func(payload string) error {
		note(websocket.PongMessage, payload)
		return nil
	})
	p.SetCloseHandler(func(code int, _ string) error {
		note(websocket.CloseMessage, "")
		if !p.stand.deaf {
			p.control(websocket.CloseMessage, string(websocket.FormatCloseMessage(code, "")))
		}
		return nil
	})
	for {
		_, text, err := p.ReadMessage()
		if err != nil {
			return
		}
		note(websocket.TextMessage, string(text))
		var r request
		if err := json.Unmarshal(text, &r); err != nil {
			p.stand.t.Errorf("message %s", text)
		}
		reply := fmt.Sprintf(`{"result":null,"id":%d}`, r.ID)
		if p.stand.answer != nil {
			reply = p.stand.answer(p, r)
		}
		if reply != "" {
			p.send(reply)
		}
	}
}

// send sends text frames.
func (p *peer) send(frames ...string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range frames {
		p.WriteMessage(websocket.TextMessage, []byte(f))
	}
}

// control sends a control frame.
func (p *peer) control(kind int, payload string) {
	p.WriteControl(kind, []byte(payload), time.Now().Add(time.Second))
}

// stay serves until the client goes away.
func (p *peer) stay() {
	select {
	case <-p.gone:
	case <-p.stand.over:
	}
}

// stayFor serves for d, and returns whether the client is still there.
func (p *peer) stayFor(d time.Duration) bool {
	select {
	case <-p.gone:
		return false
	case <-p.stand.over:
		return false
	case <-time.After(d):
		return true
	}
}

// connects returns the instants of all attempts to connect.
func (s *stand) connects() (at []time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.peers {
		at = append(at, p.at)
	}
	return at
}

// peer returns the nth connection, from 1.
func (s *stand) peer(n int) *peer {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.peers) < n {
		s.t.Fatalf("%d connections, want %d", len(s.peers), n)
	}
	return s.peers[n-1]
}

// heard returns what the client has said, and forgets it.
func (p *peer) heard() (all []saying) {
	for {
		select {
		case s := <-p.said:
			all = append(all, s)
		default:
			return all
		}
	}
}

// texts returns those of a kind.
func texts(all []saying, kind int) (texts []string) {
	for _, s := range all {
		if s.kind == kind {
			texts = append(texts, s.text)
		}
	}
	return texts
}

// inbox tells everything that it takes, in order, and counts links.
type inbox struct {
	name string
	got  chan<- string
	full bool

	mu    sync.Mutex
	links int
	most  int // links at the same time
	zero  int // how often the last link went
}

func (q *inbox) Frame(_ context.Context, stream market.Stream, recv market.Time, frame []byte) bool {
	if recv == 0 {
		panic("a frame without a receive time")
	}
	q.got <- fmt.Sprintf("%s %s %d bytes", q.name, stream, len(frame))
	return !q.full
}

func (q *inbox) Connected(market.Time) {
	q.count(1)
	q.got <- q.name + " connected"
}

func (q *inbox) Disconnected(market.Time) {
	q.count(-1)
	q.got <- q.name + " disconnected"
}

func (q *inbox) count(change int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.links += change
	q.most = max(q.most, q.links)
	if q.links == 0 {
		q.zero++
	}
}

// counts returns the links of now, the most there were, and how often there was none left.
func (q *inbox) counts() (links, most, zero int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.links, q.most, q.zero
}

// harness is a feed at work.
type harness struct {
	t        *testing.T
	feed     *feed.Feed
	got      chan string
	inboxes  []*inbox
	registry *prometheus.Registry
	cancel   context.CancelFunc
	done     chan struct{}
}

// start runs a feed of a stand until the test ends or stops it. The inbox of ETHUSDT is full.
func start(t *testing.T, s *stand, cfg feed.Config, markets ...market.Market) *harness {
	t.Helper()
	return startSynced(t, s, cfg, nil, markets...)
}

// startSynced is start for markets whose books are in sync for as long as synced says.
func startSynced(t *testing.T, s *stand, cfg feed.Config, synced func() time.Duration, markets ...market.Market) *harness {
	t.Helper()
	got := make(chan string, 1000)
	var inboxes []*inbox
	var targets []feed.Target
	for _, m := range markets {
		q := &inbox{name: m.Symbol, got: got, full: m == ethusdt}
		inboxes = append(inboxes, q)
		targets = append(targets, feed.Target{Market: m, Inbox: q, SyncedFor: synced})
	}
	h := startTargets(t, s, cfg, targets...)
	h.got, h.inboxes = got, inboxes
	return h
}

// startTargets is start for targets of the test's own.
func startTargets(t *testing.T, s *stand, cfg feed.Config, targets ...feed.Target) *harness {
	t.Helper()
	h := &harness{t: t, registry: prometheus.NewRegistry(), done: make(chan struct{})}
	if cfg.URL == "" {
		cfg.URL = s.url
	}
	h.feed = feed.New(targets, cfg, feed.NewMetrics(h.registry), slog.New(slog.DiscardHandler))
	if s != nil && s.dial != nil {
		h.feed.DialWith(s.dial)
	}
	ctx, cancel := context.WithCancel(t.Context())
	h.cancel = cancel
	go func() {
		defer close(h.done)
		h.feed.Run(ctx)
	}()
	t.Cleanup(h.stop)
	return h
}

// stop ends the feed and waits for it.
func (h *harness) stop() {
	h.cancel()
	<-h.done
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
		case <-time.After(3 * time.Minute):
			h.t.Fatalf("nothing came, want %q", want)
		}
	}
}

// until polls until ok.
func (h *harness) until(what string, ok func() bool) {
	h.t.Helper()
	deadline := time.After(30 * time.Second)
	for !ok() {
		select {
		case <-time.After(5 * time.Millisecond):
		case <-deadline:
			h.t.Fatalf("waited in vain for %s", what)
		}
	}
}

// metric returns the sum of a metric, of those samples only of which a label has the value, if one is given.
func (h *harness) metric(name, label string) (sum int) {
	h.t.Helper()
	families, err := h.registry.Gather()
	if err != nil {
		h.t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			if family.GetName() == name && (label == "" || m.GetLabel()[0].GetValue() == label) {
				sum += int(m.GetCounter().GetValue() + m.GetGauge().GetValue())
			}
		}
	}
	return sum
}

// wantMetrics compares metrics, each named "name" or "name label".
func (h *harness) wantMetrics(want map[string]int) {
	h.t.Helper()
	for key, want := range want {
		name, label, _ := strings.Cut(key, " ")
		if got := h.metric("tapedeck_"+name, label); got != want {
			h.t.Errorf("the metric %s is %d, want %d", key, got, want)
		}
	}
}

// pass lets time pass in a bubble, and everything settle.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// symbols returns n markets.
func symbols(n int) (list []market.Market) {
	for i := range n {
		list = append(list, market.Market{Exchange: market.Binance, Symbol: fmt.Sprintf("SYM%d", i)})
	}
	return list
}

// eventFrame returns a frame of a stream whose event has the id.
func eventFrame(stream string, id int64) string {
	symbol, kind, _ := strings.Cut(stream, "@")
	symbol = strings.ToUpper(symbol)
	data := fmt.Sprintf(`"e":"trade","E":1700000000000,"s":"%s","t":%d,"p":"1.00","q":"1.00","T":1700000000000,"m":true,"M":true`, symbol, id)
	if kind != "trade" {
		data = fmt.Sprintf(`"e":"depthUpdate","E":1700000000000,"s":"%s","U":%d,"u":%d,"b":[],"a":[]`, symbol, id, id)
	}
	return fmt.Sprintf(`{"stream":"%s","data":{%s}}`, stream, data)
}

// mostWithin returns the most of the instants that any window of that length holds.
func mostWithin(at []time.Time, window time.Duration) (most int) {
	slices.SortFunc(at, time.Time.Compare)
	first := 0
	for i, t := range at {
		for t.Sub(at[first]) >= window {
			first++
		}
		most = max(most, i-first+1)
	}
	return most
}
