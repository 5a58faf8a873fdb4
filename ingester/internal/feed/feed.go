// Package feed keeps the sockets to the exchange: it dials, subscribes, answers pings, notices silence, reconnects,
// and hands each frame, stamped on arrival, to the inbox of its market.
package feed

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"tapedeck/shared/binance"
	"tapedeck/shared/market"
)

// Inbox takes what arrives for one market, in its order. It must not block for long: a socket serves many markets.
type Inbox interface {
	// Frame takes a copy of a frame of the stream, received at recv; stream is "" for a frame whose loss leaves no
	// hole. It returns false when it dropped the frame.
	Frame(ctx context.Context, stream market.Stream, recv market.Time, frame []byte) bool
	// Connected says that what comes from here on comes over a new connection.
	Connected(recv market.Time)
	// Disconnected says that the connection is gone.
	Disconnected(recv market.Time)
}

// Target is a market and where its frames go.
type Target struct {
	Market market.Market
	Inbox  Inbox
}

// Config is how a feed works.
type Config struct {
	URL        string // of the streams: "wss://stream.binance.com:9443"
	Witness    bool   // whether to subscribe to bookTicker too
	MaxStreams int    // on one connection; 0 = as many as the exchange allows
}

// Feed keeps as many connections as its markets need. Make one with New and start it with Run.
type Feed struct {
	conns []*connection
}

// route is where the frames of one stream go.
type route struct {
	inbox  Inbox
	stream market.Stream // "" for a bookTicker
}

// New returns a feed of the targets. All streams of a market go over one connection, so that its end is one event in
// the market's order.
func New(targets []Target, cfg Config, metrics *Metrics, log *slog.Logger) *Feed {
	perMarket := 2
	if cfg.Witness {
		perMarket = 3
	}
	if cfg.MaxStreams == 0 {
		cfg.MaxStreams = binance.MaxStreamsPerConnection
	}
	// The exchange counts connections within a window: burst and rate together stay below its bound in each.
	perSecond := rate.Limit(float64(binance.MaxConnects-connectBurst-connectSpare) / binance.ConnectWindow.Seconds())
	attempts := rate.NewLimiter(perSecond, connectBurst)

	f := &Feed{}
	for group := range slices.Chunk(targets, max(cfg.MaxStreams/perMarket, 1)) {
		f.conns = append(f.conns, newConnection(group, cfg, attempts, metrics, log.With("connection", len(f.conns))))
	}
	return f
}

const (
	connectBurst = 100
	connectSpare = 50 // left for others behind the same address
)

// Run keeps the connections until ctx ends. When it returns, all sockets are closed and nothing more is handed on.
func (f *Feed) Run(ctx context.Context) {
	var running sync.WaitGroup
	for _, c := range f.conns {
		running.Go(func() { c.run(ctx) })
	}
	running.Wait()
}

// now returns the receiver's clock.
func now() market.Time { return market.TimeOf(time.Now()) }
