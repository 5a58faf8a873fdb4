package feed

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	"tapedeck/shared/binance"
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
	l.track()
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

// track begins to note ids. What was noted long ago is forgotten: it would say that a stream is behind which the link
// does not bring any more.
func (l *link) track() {
	for i := range l.heard {
		l.heard[i].first.Store(0)
		l.heard[i].last.Store(0)
	}
	l.tracking.Store(true)
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
