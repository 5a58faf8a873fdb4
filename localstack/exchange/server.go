package exchange

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"tapedeck/shared/market"
)

// Server is the stand-in. Its methods may be called from any goroutine.
type Server struct {
	config
	source Source
	weight weightMeter
	stats  counters

	listener net.Listener
	http     *http.Server
	restAddr string // of the port for REST alone; "" when it shares that of the streams
	upgrader websocket.Upgrader
	ctx      context.Context //nolint:containedctx // the server's own life, which Close ends
	cancel   context.CancelFunc
	running  sync.WaitGroup // the publisher, the HTTP servers, requests, faults, and two goroutines a connection

	wake chan struct{} // tells the publisher that something it may wait for has changed
	done chan struct{}

	// mu makes a step of the source, a subscription and a snapshot exclude each other. It comes before conn.mu.
	mu        sync.Mutex
	closed    bool
	restHTTP  *http.Server // serves restAddr; nil when there is none
	conns     map[*conn]struct{}
	connected int                // connections so far
	topics    map[string][]*conn // stream -> its subscribers
	faults    injection
	started   bool
	over      bool
	err       error
	frames    int64
	slow      int64
	fetched   map[string]bool          // symbols whose book was fetched since the source reached their snapshot
	arrivals  map[string]chan struct{} // closed when the source reaches the snapshot of a symbol
	full      bool                     // a queue filled up in the current burst
}

// Progress is how far a Server has come.
type Progress struct {
	Started     bool
	Done        bool
	Frames      int64       // made by the source, whether anybody subscribed to them or not
	Total       int64       // frames that the source will have made in the end; 0 when not known
	EventTime   market.Time // the exchange's clock
	Skipped     int64       // frames that are in no book of the source's because they are broken
	SlowClients int64       // clients that were disconnected because they read too slowly
	Connections int
}

// New returns a server of the given source, which it owns from now on.
func New(source Source, opts ...Option) *Server {
	s := &Server{
		config: defaults(), source: source,
		wake: make(chan struct{}, 1), done: make(chan struct{}),
		conns: map[*conn]struct{}{}, topics: map[string][]*conn{},
		fetched: map[string]bool{}, arrivals: map[string]chan struct{}{},
		faults: injection{
			hidden: map[string][]int64{}, breaks: map[string]int{}, books: map[string][]*market.Snapshot{},
		},
	}
	for _, o := range opts {
		o(&s.config)
	}
	s.weight.limit = s.weightPerMinute
	s.upgrader = websocket.Upgrader{
		ReadBufferSize: 4 << 10, WriteBufferSize: 1 << 10,
		CheckOrigin: func(*http.Request) bool { return true },
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.http = &http.Server{Handler: s.routes(), ReadHeaderTimeout: 10 * time.Second}
	return s
}

// Start listens on addr ("127.0.0.1:0" for a free port) and, for REST, on a free port of the same host, as the exchange
// has REST and streams on hosts of their own. It serves in the background until Close.
func (s *Server) Start(addr string) (err error) {
	defer market.Wrap(&err, "start the exchange stand-in on %s", addr)
	l, err := new(net.ListenConfig).Listen(s.ctx, "tcp", addr)
	if err != nil {
		return err
	}
	host, _, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		return errors.Join(err, l.Close())
	}
	rest, err := new(net.ListenConfig).Listen(s.ctx, "tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return errors.Join(err, l.Close())
	}
	s.restAddr = rest.Addr().String()
	s.serveREST(rest)
	s.StartOn(l)
	return nil
}

// StartOn serves streams and REST on l in the background until Close, which closes l. It is called once, or Start is.
func (s *Server) StartOn(l net.Listener) {
	s.listener = l
	s.running.Go(func() {
		if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("exchange stand-in stopped serving", "err", err)
		}
	})
	s.running.Go(s.publish)
}

// URL returns the base of the REST interface, "http://host:port".
func (s *Server) URL() string {
	if s.restAddr != "" {
		return "http://" + s.restAddr
	}
	return "http://" + s.listener.Addr().String()
}

// StreamURL returns the base of the streams, "ws://host:port"; paths are /ws and /stream.
func (s *Server) StreamURL() string { return "ws://" + s.listener.Addr().String() }

// Close ends everything and waits for it: the source, REST requests under way, and connections, which get a close
// frame. When ctx ends first, sockets are cut, and Close still waits for what is left.
func (s *Server) Close(ctx context.Context) error {
	s.mu.Lock()
	s.closed = true
	for c := range s.conns {
		c.closeWith(websocket.CloseGoingAway, "server is going away")
	}
	servers := []*http.Server{s.http}
	if s.restHTTP != nil {
		servers = append(servers, s.restHTTP)
	}
	s.mu.Unlock()
	s.cancel()
	var err error
	for _, server := range servers {
		if e := server.Shutdown(ctx); e != nil {
			err = errors.Join(err, e, server.Close())
		}
	}
	stop := context.AfterFunc(ctx, func() { s.CutConnections() })
	s.running.Wait()
	stop()
	return errors.Join(err, s.source.Close())
}

// CutConnections cuts all WebSocket connections without a closing handshake and returns how many there were. What is
// still queued for them is lost.
func (s *Server) CutConnections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.cut()
	}
	return len(s.conns)
}

// Done is closed when the source is over and its last frame has been written to every connection.
func (s *Server) Done() <-chan struct{} { return s.done }

// Err returns why the source ended, if not because it was over.
func (s *Server) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Progress returns how far the server has come.
func (s *Server) Progress() Progress {
	s.mu.Lock()
	defer s.mu.Unlock()
	stats := s.source.Stats()
	return Progress{
		Started: s.started, Done: s.over, Frames: s.frames, Total: stats.Total, EventTime: s.source.Time(),
		Skipped: stats.Skipped, SlowClients: s.slow, Connections: len(s.conns),
	}
}

// Book returns the stand-in's own book of a market at its present position, with all levels: the truth, for tests.
// It does not count as a fetched snapshot. Errors are those of Source.Book.
func (s *Server) Book(symbol string) (market.Snapshot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.source.Book(symbol, -1)
}

// enter counts something that Close waits for, until running.Done; false when the server is closed.
func (s *Server) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.running.Add(1)
	}
	return !s.closed
}

// poke wakes the publisher.
func (s *Server) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// finish ends the source. The caller holds mu.
func (s *Server) finish(err error) {
	s.over = true
	if !errors.Is(err, io.EOF) {
		s.err = err
		s.log.Error("source of the exchange stand-in failed", "err", err)
	}
	for _, arrived := range s.arrivals {
		close(arrived)
	}
	clear(s.arrivals)
}
