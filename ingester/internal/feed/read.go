package feed

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/gorilla/websocket"

	"tapedeck/shared/binance"
	"tapedeck/shared/market"
)

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
		l.note(&l.heard[stream], recv, frame)
	}
	l.group.meter.frame(to.stream)
	if !to.inbox.Frame(ctx, to.stream, recv, frame) {
		l.group.meter.dropped.Inc()
	}
}

// note notes the ids of a frame. One that cannot be read is left to its market to complain of.
func (l *link) note(h *heard, recv market.Time, frame []byte) {
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
				l.log.Warn("a frame of no stream that was asked for", "symbol", clip(event.Symbol), "event", clip(event.Other))
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

// clip returns the beginning of a text of the exchange, for a log.
func clip(text string) string { return text[:min(len(text), 200)] }
