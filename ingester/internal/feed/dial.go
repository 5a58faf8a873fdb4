package feed

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/gorilla/websocket"

	"tapedeck/shared/binance"
	"tapedeck/shared/market"
)

const (
	handshakeTimeout = 4 * time.Second
	readBufferBytes  = 64 << 10

	// maxURLStreams bounds what is subscribed by the address itself; a request line of more is refused by proxies. The
	// rest follows in messages.
	maxURLStreams = 100

	// maxRetryAfter bounds how long a refusal is heeded. A ban may last for days; but a header that somebody between
	// here and the exchange made up must not end the recording.
	maxRetryAfter = time.Hour
)

// refusedError is a handshake that got another reply than an upgrade.
type refusedError struct{ status int }

func (e *refusedError) Error() string {
	return fmt.Sprintf("the handshake was refused: %d %s", e.status, http.StatusText(e.status))
}

// dial connects, with as many streams as the address carries, once the budget allows it. It ends with ctx. The error
// tells nothing of the address but the host: there may be a password in it.
func (g *group) dial(ctx context.Context) (*websocket.Conn, error) {
	base, err := url.Parse(g.cfg.URL)
	if err != nil {
		return nil, market.Errorf(market.KindInvalid, "the address of the streams is not a URL")
	}
	address, err := binance.ConnectURL(g.cfg.URL, g.streams[:min(len(g.streams), maxURLStreams)])
	if err != nil {
		return nil, market.Errorf(market.KindOf(err), "the address of the streams (host %s) is not of use", base.Host)
	}
	waited, err := g.connects.take(ctx)
	if waited {
		g.meter.limited.Inc()
	}
	if err != nil {
		return nil, err
	}
	ws, reply, err := g.handshake(ctx, address)
	if err == nil {
		g.meter.connects.WithLabelValues("ok").Inc()
		return ws, nil
	}
	result := "error"
	if reply != nil {
		_ = reply.Body.Close() // the library has read what there is
		result, err = "refused", &refusedError{reply.StatusCode}
		g.connects.hold(retryAfter(reply, time.Now()))
	}
	g.meter.connects.WithLabelValues(result).Inc()
	return nil, market.Errorf(market.KindUnavailable, "dial %s: %w", base.Host, err)
}

// handshake dials and shakes hands within handshakeTimeout.
func (g *group) handshake(ctx context.Context, address string) (*websocket.Conn, *http.Response, error) {
	release := func() bool { return true }
	dialer := websocket.Dialer{
		Proxy:            proxy,
		HandshakeTimeout: handshakeTimeout,
		ReadBufferSize:   readBufferBytes,
		NetDialContext: func(dialing context.Context, network, address string) (net.Conn, error) {
			conn, err := g.netDial(dialing, network, address)
			if err == nil { // the library ends a handshake at its deadline, but not with ctx
				release = context.AfterFunc(ctx, func() { _ = conn.Close() })
			}
			return conn, err
		},
	}
	ws, reply, err := dialer.DialContext(ctx, address, nil)
	release()
	return ws, reply, err
}

// proxy is http.ProxyFromEnvironment without the value in its errors.
func proxy(r *http.Request) (*url.URL, error) {
	u, err := http.ProxyFromEnvironment(r)
	if err != nil {
		return nil, errors.New("the proxy that the environment names is not a URL")
	}
	return u, nil
}

// retryAfter returns how long a refusal asks to be heeded (RFC 9110, 10.2.3: seconds or a date). The exchange sends it
// with 429, too many requests, and 418, a ban of at least two minutes; where it is missing there, that is assumed.
func retryAfter(reply *http.Response, now time.Time) time.Duration {
	header := reply.Header.Get("Retry-After")
	if seconds, err := strconv.ParseUint(header, 10, 31); err == nil {
		return min(time.Duration(seconds)*time.Second, maxRetryAfter)
	}
	if date, err := http.ParseTime(header); err == nil {
		return min(max(date.Sub(now), 0), maxRetryAfter)
	}
	switch reply.StatusCode {
	case http.StatusTooManyRequests:
		return time.Minute
	case http.StatusTeapot:
		return 2 * time.Minute
	}
	return 0
}
