package exchange

import (
	"encoding/binary"
	"errors"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

const (
	// maxStreams is how many streams one connection may listen to.
	maxStreams = 1024
	// maxMessageBytes bounds a client's message; 1024 stream names take about 30 kB.
	maxMessageBytes = 128 << 10
	// backpressureBytes is when the queue of a connection counts as full at speed 0.
	backpressureBytes = 256 << 10
	// maxSpareBytes bounds the buffer that a connection keeps after a burst.
	maxSpareBytes = 1 << 20
	// maxPings bounds the pings that are remembered until they are answered.
	maxPings = 1024
	// closeTimeout bounds the closing handshake.
	closeTimeout = time.Second
)

// errTorn ends a connection within a frame.
var errTorn = errors.New("a frame was torn")

// conn is one WebSocket connection. One goroutine reads, another one writes everything, in the order in which it was
// queued. Frames are built in the queue itself, so that a burst goes out in one write.
type conn struct {
	server *Server
	ws     *websocket.Conn // for reading only
	net    net.Conn
	remote string
	wake   chan struct{} // tells the sender that there is something to do
	gone   chan struct{} // closed by cut
	sent   chan struct{} // closed when the sender has ended

	// Guarded by Server.mu.
	number   int // of all connections, by age
	combined bool
	streams  []string // in the order of subscription
	stages   []*stage // the faults that strike this connection alone

	recent []time.Time // of the messages received within the last second; the reader's own
	pong   *time.Timer // disconnects unless it is reset

	mu      sync.Mutex
	pending []byte // queued, as WebSocket frames
	exempt  int    // how many bytes of pending do not count: a client cannot help a huge frame
	spare   []byte // the other buffer
	writing bool
	closing bool       // a close frame is queued; nothing more may be
	closed  bool       // the socket is closed
	frozen  bool       // half-open: nothing is sent or heard any more
	last    bool       // what is queued ends within a frame; then the socket is cut
	pings   []sentPing // that no pong has echoed yet
	calm    time.Time  // no ping is sent before
	notes   []note     // of what was queued and has no receipt yet
	noted   int        // how many notes were there before those
}

// sentPing is a ping that was queued.
type sentPing struct {
	payload string
	at      time.Time
	behind  int // how many notes were made before it
}

// serveStream upgrades a request on /ws or /stream and serves it until the connection ends.
func (s *Server) serveStream(w http.ResponseWriter, r *http.Request, combined bool, streams []string) {
	if !s.admitHandshake(w, r) {
		return
	}
	ws, err := s.upgrader.Upgrade(w, r, nil)
	if err != nil {
		return // Upgrade has replied
	}
	c := &conn{
		server: s, ws: ws, net: ws.NetConn(), remote: r.RemoteAddr, combined: combined,
		wake: make(chan struct{}, 1), gone: make(chan struct{}), sent: make(chan struct{}),
	}
	if !s.add(c, streams) {
		c.cut()
		return
	}
	defer s.running.Done()
	c.read()
	if !c.isClosing() {
		c.cut()
	}
	<-c.sent
	c.cut()
	s.remove(c)
}

// add registers a connection with its first streams and starts its sender; false when the server is closed.
func (s *Server) add(c *conn, streams []string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.running.Add(1)
	s.connected++
	c.number = s.connected
	s.conns[c] = struct{}{}
	c.pong = time.AfterFunc(s.pongTimeout, func() { c.closeWith(websocket.ClosePolicyViolation, "Pong timeout") })
	s.running.Go(c.send)
	s.subscribe(c, streams)
	s.log.Debug("client connected to the exchange stand-in", "remote", c.remote, "streams", len(c.streams))
	return true
}

// remove forgets a connection.
func (s *Server) remove(c *conn) {
	s.mu.Lock()
	c.pong.Stop()
	s.unsubscribe(c, slices.Clone(c.streams))
	s.heal(c)
	delete(s.conns, c)
	s.mu.Unlock()
	s.poke()
}

// subscribe adds streams to a connection. Names that nothing is known of are accepted and stay silent, as on the
// exchange. A connection that asks for too many is disconnected. The caller holds mu.
func (s *Server) subscribe(c *conn, streams []string) {
	for _, stream := range streams {
		if slices.Contains(c.streams, stream) {
			continue
		}
		if len(c.streams) == maxStreams {
			s.stats.tooManyStreams()
			c.closeWith(websocket.ClosePolicyViolation, "Too many streams")
			return
		}
		c.streams = append(c.streams, stream)
		s.stats.streams(len(c.streams))
		c.subscribedAnew(stream)
		s.topics[stream] = append(s.topics[stream], c)
		if len(s.topics[stream]) == 1 {
			s.source.Watch(stream, true)
		}
	}
	s.poke()
}

// unsubscribe takes streams from a connection. The caller holds mu.
func (s *Server) unsubscribe(c *conn, streams []string) {
	for _, stream := range streams {
		i := slices.Index(c.streams, stream)
		if i < 0 {
			continue
		}
		c.streams = slices.Delete(c.streams, i, i+1)
		s.topics[stream] = slices.DeleteFunc(s.topics[stream], func(other *conn) bool { return other == c })
		if len(s.topics[stream]) == 0 {
			delete(s.topics, stream)
			s.source.Watch(stream, false)
		}
	}
	s.poke()
}

// read handles what the client sends until the connection ends.
func (c *conn) read() {
	c.ws.SetReadLimit(maxMessageBytes)
	c.ws.SetPingHandler(func(payload string) error {
		if c.admit() {
			c.queueFrame(websocket.PongMessage, []byte(payload))
		}
		return nil
	})
	c.ws.SetPongHandler(func(payload string) error {
		if c.admit() {
			c.echoed(payload)
		}
		return nil
	})
	c.ws.SetCloseHandler(func(code int, _ string) error {
		if code == websocket.CloseNoStatusReceived {
			code = websocket.CloseNormalClosure
		}
		c.closeWith(code, "")
		return nil
	})
	for {
		kind, message, err := c.ws.ReadMessage()
		if c.isFrozen() {
			<-c.gone
			return
		}
		if err != nil {
			return // after a breach of the protocol ReadMessage has sent a close frame
		}
		if c.admit() && kind == websocket.TextMessage {
			c.server.control(c, message)
		}
	}
}

// admit counts a message of the client against the limit, and disconnects the client when it is over it: "a connection
// that goes beyond the limit will be disconnected". It returns false when the message is not to be handled.
func (c *conn) admit() bool {
	if c.isClosing() || c.isFrozen() {
		return false
	}
	now := time.Now()
	c.recent = slices.DeleteFunc(c.recent, func(t time.Time) bool { return now.Sub(t) >= time.Second })
	c.recent = append(c.recent, now)
	tooMany := len(c.recent) > c.server.messagesPerSecond
	c.server.stats.message(len(c.recent), tooMany)
	if tooMany {
		c.closeWith(websocket.ClosePolicyViolation, "Too many requests")
	}
	return !tooMany
}

// echoed takes a pong. Only one that carries the payload of a ping keeps the connection alive.
func (c *conn) echoed(payload string) {
	now := time.Now()
	c.mu.Lock()
	i := slices.IndexFunc(c.pings, func(p sentPing) bool { return p.payload == payload })
	if i < 0 {
		c.mu.Unlock()
		return
	}
	p := c.pings[i]
	c.pings = c.pings[i+1:] // a later ping answers for the earlier ones
	notes := c.takeNotes(p)
	c.mu.Unlock()
	c.pong.Reset(c.server.pongTimeout)
	for _, r := range c.receipts(notes, p, now) {
		c.server.receipts(r)
	}
}

// ping queues a ping with the time as its payload, as the exchange does it.
func (c *conn) ping() {
	now := time.Now()
	payload := strconv.FormatInt(now.UnixMilli(), 10)
	c.mu.Lock()
	if now.Before(c.calm) {
		c.mu.Unlock()
		return
	}
	if len(c.pings) == maxPings {
		c.pings = c.pings[1:]
	}
	c.pings = append(c.pings, sentPing{payload, now, c.noted + len(c.notes)})
	c.mu.Unlock()
	c.queueFrame(websocket.PingMessage, []byte(payload))
}

// send writes what is queued until the connection is closed.
func (c *conn) send() {
	defer close(c.sent)
	ticker := time.NewTicker(c.server.pingInterval)
	defer ticker.Stop()
	for {
		last, err := c.writePending()
		if err != nil {
			c.cut()
			return
		}
		if last {
			return // the reader waits for the client's part of the handshake
		}
		select {
		case <-c.wake:
		case <-ticker.C:
			c.ping()
		case <-c.gone:
			return
		}
	}
}

// writePending writes what is queued, if anything, and returns whether nothing more will be.
func (c *conn) writePending() (last bool, err error) {
	c.mu.Lock()
	out, last := c.pending, c.closing
	torn := c.last
	if len(out) == 0 {
		c.mu.Unlock()
		return last, nil
	}
	c.pending, c.spare, c.exempt, c.writing = c.spare[:0], nil, 0, true
	c.mu.Unlock()
	c.server.poke() // there is room again
	_, err = c.net.Write(out)
	c.mu.Lock()
	c.writing = false
	if cap(out) <= maxSpareBytes {
		c.spare = out
	}
	c.mu.Unlock()
	c.server.poke() // this much is written
	if torn && err == nil {
		err = errTorn
	}
	return last, err
}

// queueText queues a text message without waking the sender and returns how many bytes are queued.
func (c *conn) queueText(message []byte) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mute() {
		return 0
	}
	c.pending = appendFrame(c.pending, websocket.TextMessage, message)
	return len(c.pending) - c.exempt
}

// mute says whether nothing more may be queued. The caller holds mu.
func (c *conn) mute() bool { return c.closing || c.closed || c.frozen || c.last }

// queueFrame queues a control frame and wakes the sender.
func (c *conn) queueFrame(kind int, payload []byte) {
	c.mu.Lock()
	if !c.mute() {
		c.pending = appendFrame(c.pending, kind, payload)
	}
	c.mu.Unlock()
	c.flush()
}

// flush wakes the sender.
func (c *conn) flush() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// closeWith queues a close frame as the last one. The closing handshake has closeTimeout.
func (c *conn) closeWith(code int, reason string) {
	if c.isFrozen() {
		c.cut()
		return
	}
	c.mu.Lock()
	if !c.mute() {
		c.pending = appendFrame(c.pending, websocket.CloseMessage, websocket.FormatCloseMessage(code, reason))
		c.closing = true
		// An error means that the socket is closed already.
		_ = c.net.SetDeadline(time.Now().Add(closeTimeout))
	}
	c.mu.Unlock()
	c.flush()
}

// cut closes the socket at once; TCP resets it.
func (c *conn) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	c.closed = true
	if tcp, ok := c.net.(*net.TCPConn); ok && !c.closing {
		_ = tcp.SetLinger(0) // fails only on a socket that is closed already
	}
	_ = c.net.Close() // nothing that was written before could be saved now
	close(c.gone)
}

// queued returns how many bytes wait to be written.
func (c *conn) queued() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return 0
	}
	return len(c.pending)
}

// idle says whether nothing is left to write.
func (c *conn) idle() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed || len(c.pending) == 0 && !c.writing
}

func (c *conn) isClosing() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closing
}

func (c *conn) isFrozen() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.frozen
}

// appendFrame appends an unfragmented, unmasked frame as a server sends it (RFC 6455, 5.2).
func appendFrame(dst []byte, kind int, payload []byte) []byte {
	const final = 0x80
	dst = append(dst, final|byte(kind))
	switch n := len(payload); {
	case n <= 125:
		dst = append(dst, byte(n))
	case n <= 0xffff:
		dst = binary.BigEndian.AppendUint16(append(dst, 126), uint16(n))
	default:
		dst = binary.BigEndian.AppendUint64(append(dst, 127), uint64(n))
	}
	return append(dst, payload...)
}

// splitStreams splits "a/b/c".
func splitStreams(s string) []string {
	return slices.DeleteFunc(strings.Split(s, "/"), func(name string) bool { return name == "" })
}
