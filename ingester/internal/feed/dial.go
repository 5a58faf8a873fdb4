package feed

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
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
		g.connects.hold(binance.RetryAfter(reply, time.Now()))
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
