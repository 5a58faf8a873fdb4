package feed

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/time/rate"

	"tapedeck/shared/binance"
	"tapedeck/shared/market"
)

const (
	readBufferBytes  = 64 << 10
	handshakeTimeout = 4 * time.Second
	writeTimeout     = 5 * time.Second

	// readTimeout cuts a connection that is open but mute: three pings were missed.
	readTimeout = 3*binance.PingInterval + binance.PingInterval/4
	// extendInterval bounds how often a frame puts the read deadline off.
	extendInterval = time.Second

	// A cut connection is tried again at once, then after ever longer delays, until one has lived for calmTime. The
	// longest keeps a reconnect within five seconds of the exchange's return.
	minDelay = 250 * time.Millisecond
	maxDelay = 4 * time.Second
	calmTime = time.Minute

	// maxURLStreams bounds what is subscribed by the address itself; a request line of more is refused by proxies. The
	// rest follows in messages.
	maxURLStreams = 100
	// subscribeInterval leaves room for pongs under the exchange's bound on messages.
	subscribeInterval = time.Second / (binance.MaxMessagesPerSecond - 2)
)

// connection keeps one socket and hands on what comes through it.
type connection struct {
	targets  []Target
	streams  []string
	routes   map[string]route // by stream name
	bySymbol map[string]Inbox
	cfg      Config
	attempts *rate.Limiter // shared by all connections
	meter    *meter
	log      *slog.Logger
	complain rate.Sometimes // about frames

	readTimeout time.Duration

	decoder  binance.Decoder
	frame    []byte // reused
	extended time.Time
}

func newConnection(targets []Target, cfg Config, attempts *rate.Limiter, metrics *Metrics, log *slog.Logger) *connection {
	c := &connection{
		targets: targets, cfg: cfg, attempts: attempts, meter: newMeter(metrics), log: log,
		routes: make(map[string]route), bySymbol: make(map[string]Inbox),
		complain:    rate.Sometimes{First: 3, Interval: time.Minute},
		readTimeout: readTimeout,
		frame:       make([]byte, readBufferBytes),
	}
	for _, t := range targets {
		for _, stream := range []market.Stream{market.Depth, market.Trades} {
			c.add(binance.StreamName(market.Series{Market: t.Market, Stream: stream}), route{t.Inbox, stream})
		}
		if cfg.Witness {
			c.add(binance.TickerStreamName(t.Market), route{t.Inbox, ""})
		}
		c.bySymbol[t.Market.Symbol] = t.Inbox
	}
	return c
}

func (c *connection) add(stream string, to route) {
	c.streams = append(c.streams, stream)
	c.routes[stream] = to
}

// run keeps the connection until ctx ends.
func (c *connection) run(ctx context.Context) {
	for failures := 0; ; failures++ {
		if !c.wait(ctx, failures) {
			return
		}
		begin := time.Now()
		err := c.session(ctx)
		if ctx.Err() != nil {
			return
		}
		c.log.Warn("connection lost", "error", err, "after", time.Since(begin).Round(time.Millisecond))
		c.meter.reconnects.Inc()
		if time.Since(begin) >= calmTime {
			failures = -1
		}
	}
}

// wait waits before the next attempt, the longer the more failed. It returns false when ctx ended.
func (c *connection) wait(ctx context.Context, failures int) bool {
	if failures > 0 {
		delay := min(minDelay<<min(failures-1, 16), maxDelay)
		select {
		case <-time.After(delay/2 + rand.N(delay/2)):
		case <-ctx.Done():
			return false
		}
	}
	return c.attempts.Wait(ctx) == nil
}

// session dials, subscribes, and hands on what comes until the connection or ctx ends. The error says why.
func (c *connection) session(ctx context.Context) error {
	ws, err := c.dial(ctx)
	if err != nil {
		c.meter.connects.WithLabelValues("error").Inc()
		return err
	}
	c.meter.connects.WithLabelValues("ok").Inc()
	c.log.Info("connected", "streams", len(c.streams))
	ctx, cancel := context.WithCancelCause(ctx)
	for _, t := range c.targets {
		t.Inbox.Connected(now())
	}
	closed := make(chan struct{})
	go func() { // ends the read below
		defer close(closed)
		<-ctx.Done()
		bye := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")
		_ = ws.WriteControl(websocket.CloseMessage, bye, time.Now().Add(writeTimeout/10)) // a courtesy
		_ = ws.Close()
	}()
	subscribed := make(chan struct{})
	go func() {
		defer close(subscribed)
		if err := c.subscribe(ctx, ws); err != nil {
			cancel(err)
		}
	}()
	err = c.read(ctx, ws)
	cancel(err)
	<-closed
	<-subscribed
	for _, t := range c.targets {
		t.Inbox.Disconnected(now())
	}
	return context.Cause(ctx)
}

// dial connects with as many streams as the address carries.
func (c *connection) dial(ctx context.Context) (*websocket.Conn, error) {
	address, err := binance.ConnectURL(c.cfg.URL, c.streams[:min(len(c.streams), maxURLStreams)])
	if err != nil {
		return nil, err
	}
	dialer := websocket.Dialer{
		Proxy:            nil,
		HandshakeTimeout: handshakeTimeout,
		ReadBufferSize:   readBufferBytes,
		NetDialContext:   (&net.Dialer{Timeout: handshakeTimeout}).DialContext,
	}
	ws, reply, err := dialer.DialContext(ctx, address, nil)
	if err != nil {
		if reply != nil {
			_ = reply.Body.Close()
			return nil, market.Errorf(market.KindUnavailable, "dial %s: %s: %w", c.cfg.URL, reply.Status, err)
		}
		return nil, market.Errorf(market.KindUnavailable, "dial %s: %w", c.cfg.URL, err)
	}
	ws.SetReadLimit(binance.MaxFrameBytes)
	ws.SetPingHandler(func(payload string) error {
		c.extend(ws)
		err := ws.WriteControl(websocket.PongMessage, []byte(payload), time.Now().Add(writeTimeout))
		if timeout, ok := errors.AsType[net.Error](err); errors.Is(err, websocket.ErrCloseSent) || ok && timeout.Timeout() {
			return nil // the read notices what is wrong
		}
		return err
	})
	c.extend(ws)
	return ws, nil
}

// extend puts the read deadline off.
func (c *connection) extend(ws *websocket.Conn) {
	c.extended = time.Now()
	_ = ws.SetReadDeadline(c.extended.Add(c.readTimeout)) // fails only on a closed socket, as the read does
}

// subscribe asks for the streams that the address did not carry, at the pace that the exchange allows.
func (c *connection) subscribe(ctx context.Context, ws *websocket.Conn) error {
	rest := c.streams[min(len(c.streams), maxURLStreams):]
	for id := int64(1); len(rest) > 0; id++ {
		select {
		case <-time.After(subscribeInterval):
		case <-ctx.Done():
			return ctx.Err()
		}
		n := min(len(rest), maxURLStreams)
		if err := ws.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
			return err
		}
		if err := ws.WriteMessage(websocket.TextMessage, binance.SubscribeRequest(id, rest[:n])); err != nil {
			return err
		}
		rest = rest[n:]
	}
	return nil
}

// read hands on frames until the connection ends.
func (c *connection) read(ctx context.Context, ws *websocket.Conn) error {
	for {
		if time.Since(c.extended) > extendInterval { // counted from here, as an inbox may have made the last frame wait
			c.extend(ws)
		}
		_, r, err := ws.NextReader()
		if err != nil {
			return err
		}
		arrival := time.Now() // before anything of the frame is looked at
		frame, err := c.readFrame(r)
		if err != nil {
			return err
		}
		if err := c.handle(ctx, market.TimeOf(arrival), frame); err != nil {
			return err
		}
	}
}

// readFrame reads a whole frame into the memory that all frames share.
func (c *connection) readFrame(r io.Reader) ([]byte, error) {
	n := 0
	for {
		if n == len(c.frame) {
			c.frame = append(c.frame, make([]byte, len(c.frame))...) // bounded by the read limit
		}
		k, err := r.Read(c.frame[n:])
		n += k
		if errors.Is(err, io.EOF) {
			return c.frame[:n], nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// handle hands a frame to its market. An error ends the connection.
func (c *connection) handle(ctx context.Context, recv market.Time, frame []byte) error {
	c.meter.bytes.Add(float64(len(frame)))
	if to, ok := c.routes[string(binance.Route(frame))]; ok {
		c.deliver(ctx, to, recv, frame)
		return nil
	}
	return c.handleUnrouted(ctx, recv, frame)
}

// deliver puts a frame into an inbox.
func (c *connection) deliver(ctx context.Context, to route, recv market.Time, frame []byte) {
	c.meter.frame(to.stream)
	if !to.inbox.Frame(ctx, to.stream, recv, frame) {
		c.meter.dropped.Inc()
	}
}

// handleUnrouted reads a frame whose stream does not stand where it should: a reply, a notice, an event that must be
// parsed to be routed, or something unusable.
func (c *connection) handleUnrouted(ctx context.Context, recv market.Time, frame []byte) error {
	event, err := c.decoder.Decode(frame, recv)
	switch {
	case err != nil:
		c.meter.frames.WithLabelValues("malformed").Inc()
		c.complain.Do(func() { c.log.Warn("malformed frame", "error", err) })
	case event.Reply != nil:
		c.meter.frames.WithLabelValues("control").Inc()
		// Streams that were refused stay silent, and their markets would look quiet: better no connection than that.
		if event.Reply.Message != "" {
			return market.Errorf(market.KindUnavailable, "the exchange refused request %d: code %d, %s",
				event.Reply.ID, event.Reply.Code, event.Reply.Message)
		}
	case event.Notice != nil:
		c.meter.frames.WithLabelValues("control").Inc()
		return market.Errorf(market.KindUnavailable, "the server announced that it shuts down")
	default:
		inbox, ok := c.bySymbol[event.Symbol]
		if !ok {
			c.meter.frames.WithLabelValues("unknown").Inc()
			c.complain.Do(func() {
				c.log.Warn("a frame of no market that was asked for", "symbol", event.Symbol, "event", event.Other)
			})
			return nil
		}
		c.deliver(ctx, route{inbox, streamOf(&event)}, recv, frame)
	}
	return nil
}

// streamOf returns the stream that an event belongs to.
func streamOf(e *binance.Event) market.Stream {
	switch {
	case e.Depth != nil:
		return market.Depth
	case e.Trade != nil:
		return market.Trades
	default:
		return ""
	}
}
