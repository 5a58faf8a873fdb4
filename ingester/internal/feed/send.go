package feed

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"tapedeck/shared/binance"
)

const (
	writeTimeout = 5 * time.Second
	// sendInterval is the least time between two messages. With the close frame, which does not wait, a second holds
	// no more than the exchange allows.
	sendInterval = time.Second / (binance.MaxMessagesPerSecond - 2)
)

// message is what a link says: a pong, a request (a text message) or the close frame.
type message struct {
	kind    int // of the WebSocket protocol
	payload []byte
}

// outbox holds what a link is going to say, however much it is asked for: the latest ping to be answered, the requests
// of its own subscriptions, each stream to be subscribed anew once.
type outbox struct {
	wake chan struct{} // holds a token when there is something new to send

	mu       sync.Mutex
	ping     *string   // to be echoed
	ponged   bool      // the last message was a pong; a request comes before the next one
	requests []message // in order
	mute     []int     // streams to be subscribed anew
	closing  bool
}

func newOutbox() outbox { return outbox{wake: make(chan struct{}, 1)} }

// pong has a ping's payload echoed. It returns whether that of an earlier ping gives way: the exchange takes the echo
// of the latest for all (RFC 6455, 5.5.3).
func (o *outbox) pong(payload string) (suppressed bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	suppressed = o.ping != nil
	o.ping = &payload
	o.notify(!suppressed)
	return suppressed
}

// request adds requests to be sent in order.
func (o *outbox) request(payloads ...[]byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, p := range payloads {
		o.requests = append(o.requests, message{websocket.TextMessage, p})
	}
	o.notify(true)
}

// resubscribe has a stream subscribed anew.
func (o *outbox) resubscribe(stream int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, waiting := range o.mute {
		if waiting == stream {
			return
		}
	}
	o.mute = append(o.mute, stream)
	o.notify(true)
}

// takeMute returns some streams to be subscribed anew, and forgets them; none as long as other requests wait.
func (o *outbox) takeMute() (streams []int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.requests) > 0 || len(o.mute) == 0 {
		return nil
	}
	n := min(len(o.mute), maxURLStreams)
	streams, o.mute = o.mute[:n:n], o.mute[n:]
	return streams
}

// close has the close frame sent, and nothing after it.
func (o *outbox) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closing = true
	o.notify(true)
}

// take returns what to send next; only a close frame goes when it is not yet time for another message.
func (o *outbox) take(inTime bool) (message, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.closing:
		return message{websocket.CloseMessage, goodbye}, true
	case !inTime:
		return message{}, false
	case o.ping != nil && (!o.ponged || len(o.requests) == 0):
		m := message{websocket.PongMessage, []byte(*o.ping)}
		o.ping, o.ponged = nil, true
		return m, true
	case len(o.requests) > 0:
		m := o.requests[0]
		o.requests, o.ponged = o.requests[1:], false
		return m, true
	}
	return message{}, false
}

// notify wakes the sender if there is news for it. The lock is held.
func (o *outbox) notify(news bool) {
	if !news {
		return
	}
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// send sends what is in the outbox, at the pace that the exchange allows, until ctx ends.
func (l *link) send(ctx context.Context) {
	next := time.Now() // not before the next message
	for {
		l.requestMute()
		delay := time.Until(next)
		m, ok := l.outbox.take(delay <= 0)
		if !ok {
			if !l.await(ctx, delay) {
				return
			}
			continue
		}
		err := l.write(m)
		switch {
		case m.kind == websocket.CloseMessage || errors.Is(err, websocket.ErrCloseSent):
			return // the reader, or close, sees to the rest
		case err != nil:
			l.fault(faultUnwritable)
			return
		}
		next = time.Now().Add(sendInterval)
	}
}

// await waits for news in the outbox, or for the delay, if there is one, to be over; false when ctx ended.
func (l *link) await(ctx context.Context, delay time.Duration) bool {
	var over <-chan time.Time
	if delay > 0 {
		timer := time.NewTimer(delay)
		defer timer.Stop()
		over = timer.C
	}
	select {
	case <-l.outbox.wake:
	case <-over:
	case <-ctx.Done():
		return false
	}
	return true
}

// write sends one message. After an error nothing more can be sent.
func (l *link) write(m message) error {
	deadline := time.Now().Add(writeTimeout)
	if m.kind != websocket.TextMessage {
		return l.ws.WriteControl(m.kind, m.payload, deadline)
	}
	if err := l.ws.SetWriteDeadline(deadline); err != nil {
		return err
	}
	return l.ws.WriteMessage(m.kind, m.payload)
}
