package feed

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	"tapedeck/shared/binance"
	"tapedeck/shared/market"
)

const (
	// closeTimeout bounds the closing handshake, during which frames are still taken.
	closeTimeout = 2 * time.Second
	// goodbyeTimeout bounds the close frame of a link that is cut.
	goodbyeTimeout = 500 * time.Millisecond
)

// errCut ends a link whose closing handshake took too long.
var errCut = errors.New("the exchange did not answer the close frame in time")

// heard is what a link has brought of one stream. The link writes it, others read it.
type heard struct {
	frames      atomic.Uint32
	first, last atomic.Int64 // ids, of the frames that were tracked; 0 = none
}

// fault is why a link that still lives has to be replaced.
type fault string

// The faults.
const (
	faultShutdown   fault = "shutdown"   // the server announced that it goes away
	faultRefused    fault = "refused"    // a subscription was refused
	faultUnanswered fault = "unanswered" // a subscription was not acknowledged
	faultMute       fault = "mute"       // a stream stayed mute after it was subscribed anew
	faultUnwritable fault = "unwritable" // nothing can be sent, pongs included
)

// link is one WebSocket session. Three goroutines serve it: one reads, one sends, and one cuts it at its end.
type link struct {
	group  *group
	ws     *websocket.Conn
	log    *slog.Logger
	opened time.Time
	cancel context.CancelCauseFunc

	heard    []heard     // of each stream, by its index in the group
	tracking atomic.Bool // whether ids are noted, while this link or another one is being replaced
	outbox   outbox
	requests requests

	faults chan fault    // the first that was not dealt with
	done   chan struct{} // closed when nothing more is handed on
	// Valid once done is closed.
	err  error // why the link ended
	calm bool  // whether it lived, and a book followed the stream, for long

	// The reader's own.
	decoder  binance.Decoder
	frame    []byte // reused
	extended time.Time
}

// newLink returns a link that has joined its group. It is to be run.
func newLink(g *group, ws *websocket.Conn, log *slog.Logger) *link {
	l := &link{
		group: g, ws: ws, log: log, opened: time.Now(),
		heard: make([]heard, len(g.streams)), outbox: newOutbox(),
		faults: make(chan fault, 1), done: make(chan struct{}), frame: make([]byte, readBufferBytes),
	}
	l.tracking.Store(true)
	l.requests.init(func() { l.fault(faultUnanswered) })
	l.subscribe()
	g.join(l)
	return l
}

// run reads until the link or ctx ends, and then closes done.
func (l *link) run(ctx context.Context) {
	defer close(l.done)
	var running sync.WaitGroup
	running.Go(func() { l.send(ctx) })
	running.Go(func() { // ends the read below
		<-ctx.Done()
		_ = l.ws.WriteControl(websocket.CloseMessage, goodbye, time.Now().Add(goodbyeTimeout)) // a courtesy
		_ = l.ws.Close()
	})
	l.cancel(l.read(ctx))
	running.Wait()
	l.requests.stop()
	l.err = context.Cause(ctx)
	l.calm = l.group.calm(l.opened) // asked before the market hears of it
	l.group.leave(l)
}

// goodbye is the payload of a close frame.
var goodbye = websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")

// close ends the link with a closing handshake, and cuts it when that takes too long. It returns at once.
func (l *link) close() {
	l.outbox.close()
	time.AfterFunc(closeTimeout, func() { l.cancel(errCut) })
}

// fault says that the link has to be replaced.
func (l *link) fault(f fault) {
	select {
	case l.faults <- f:
	default: // it has to be anyway
	}
}

// age returns for how long the link has lived.
func (l *link) age() time.Duration { return time.Since(l.opened).Round(time.Millisecond) }

// ending names the kind of end that a link came to, for metrics.
func ending(err error) string {
	if end, ok := errors.AsType[*websocket.CloseError](err); ok {
		if end.Code == websocket.CloseAbnormalClosure { // the library's word for no close frame at all
			return "cut"
		}
		return "closed"
	}
	if broken, ok := errors.AsType[net.Error](err); ok {
		if broken.Timeout() {
			return "silent"
		}
		return "cut"
	}
	if errors.Is(err, websocket.ErrReadLimit) {
		return "oversized"
	}
	return "protocol"
}

// silence is how long a link may bring nothing, not even a ping: three were missed.
const silence = 3*binance.PingInterval + binance.PingInterval/4

// extendInterval bounds how often a frame puts the read deadline off.
const extendInterval = time.Second

// extend puts the read deadline off.
func (l *link) extend() {
	if time.Since(l.extended) > extendInterval {
		l.extended = time.Now()
		_ = l.ws.SetReadDeadline(l.extended.Add(silence)) // fails only on a closed socket, as the read does
	}
}

// read hands on frames until the link ends.
func (l *link) read(ctx context.Context) error {
	l.ws.SetReadLimit(binance.MaxFrameBytes)
	l.ws.SetPingHandler(func(payload string) error {
		l.extend()
		if l.outbox.pong(payload) {
			l.group.meter.suppressed.Inc()
		}
		return nil
	})
	for {
		l.extend() // counted from here, as an inbox may have made the last frame wait
		kind, r, err := l.ws.NextReader()
		if err != nil {
			return err
		}
		arrival := market.TimeOf(time.Now()) // before anything of the frame is looked at
		if kind != websocket.TextMessage {
			l.malformed("kind", kind)
			continue // the library skips the rest
		}
		frame, err := l.readFrame(r)
		if err != nil {
			return err
		}
		l.handle(ctx, arrival, frame)
	}
}

// readFrame reads a whole frame into the memory that all frames of the link share.
func (l *link) readFrame(r io.Reader) ([]byte, error) {
	n := 0
	for {
		if n == len(l.frame) {
			l.frame = append(l.frame, make([]byte, len(l.frame))...) // bounded by the read limit
		}
		k, err := r.Read(l.frame[n:])
		n += k
		if errors.Is(err, io.EOF) {
			return l.frame[:n], nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// handle hands a frame to its market.
func (l *link) handle(ctx context.Context, recv market.Time, frame []byte) {
	g := l.group
	g.meter.bytes.Add(float64(len(frame)))
	if i, ok := g.index[string(binance.Route(frame))]; ok {
		l.deliver(ctx, i, recv, frame)
		return
	}
	l.handleUnrouted(ctx, recv, frame)
}

// deliver puts a frame of a stream into its inbox.
func (l *link) deliver(ctx context.Context, stream int, recv market.Time, frame []byte) {
	to := &l.group.routes[stream]
	l.heard[stream].frames.Add(1)
	if l.tracking.Load() && to.stream != "" {
		l.track(&l.heard[stream], recv, frame)
	}
	l.group.meter.frame(to.stream)
	if !to.inbox.Frame(ctx, to.stream, recv, frame) {
		l.group.meter.dropped.Inc()
	}
}

// track notes the ids of a frame. One that cannot be read is left to its market to complain of.
func (l *link) track(h *heard, recv market.Time, frame []byte) {
	event, err := l.decoder.Decode(frame, recv)
	if err != nil {
		return
	}
	first, last := int64(0), int64(0)
	switch {
	case event.Depth != nil:
		first, last = event.Depth.PrevID+1, event.Depth.LastID
	case event.Trade != nil:
		first, last = event.Trade.ID, event.Trade.ID
	}
	if h.first.Load() == 0 {
		h.first.Store(first)
	}
	h.last.Store(last)
}

// handleUnrouted reads a frame whose stream does not stand where it should: a reply, a notice, an event that must be
// parsed to be routed, or something unusable.
func (l *link) handleUnrouted(ctx context.Context, recv market.Time, frame []byte) {
	event, err := l.decoder.Decode(frame, recv)
	switch {
	case err != nil:
		l.malformed("error", err)
	case event.Reply != nil:
		l.group.meter.control.Inc()
		l.answered(event.Reply)
	case event.Notice != nil:
		l.group.meter.control.Inc()
		l.fault(faultShutdown)
	default:
		i, ok := l.group.indexOf(&event)
		if !ok {
			l.group.meter.unknown.Inc()
			l.group.meter.complain.Do(func() {
				l.log.Warn("a frame of no stream that was asked for", "symbol", event.Symbol, "event", event.Other)
			})
			return
		}
		l.deliver(ctx, i, recv, frame)
	}
}

// malformed counts a frame of which nobody knows what it held. The ids of what comes next will tell whether anything
// is missing.
func (l *link) malformed(key string, value any) {
	l.group.meter.malformed.Inc()
	l.group.meter.complain.Do(func() { l.log.Warn("malformed frame", key, value) })
}
