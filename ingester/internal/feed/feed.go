// Package feed keeps the sockets to the exchange, and hands each frame, stamped on arrival, to the inbox of its market.
//
// A link is one WebSocket session. A slot keeps one link alive: it connects again when the link ends, and replaces it
// without a loss before the exchange would cut it. A group is the markets whose streams share a connection; it has one
// slot, or two of which either may fail.
package feed

import (
	"context"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"tapedeck/shared/binance"
	"tapedeck/shared/market"
)

// Inbox takes what arrives for one market. Several links may bring the same frames, each in its own order, from a
// goroutine of its own. An inbox must not block for long: a socket serves many markets.
type Inbox interface {
	// Frame takes a copy of a frame of the stream, received at recv; stream is "" for a frame whose loss leaves no
	// hole. It returns false when it dropped the frame.
	Frame(ctx context.Context, stream market.Stream, recv market.Time, frame []byte) bool
	// Connected says that there is one more link. It comes before the link's first frame.
	Connected(recv market.Time)
	// Disconnected says that there is one link less. It comes after the link's last frame.
	Disconnected(recv market.Time)
}

// Target is a market and where its frames go.
type Target struct {
	Market market.Market
	Inbox  Inbox
	// SyncedFor returns for how long the market has had a book that follows the stream, 0 without one. It is called
	// when a link ends, from any goroutine. Where it is nil the age of the link counts alone.
	SyncedFor func() time.Duration
}

// Config is how a feed works.
type Config struct {
	URL         string        // of the streams: "wss://stream.binance.com:9443"
	Witness     bool          // whether to subscribe to bookTicker too
	MaxStreams  int           // on one connection; 0 = as many as the exchange allows
	Connections int           // that each market has at the same time; 0 = 1
	RotateAfter time.Duration // age at which a link is replaced at the latest; 0 = DefaultRotateAfter
	Overlap     time.Duration // for which both links bring frames when one replaces the other; 0 = DefaultOverlap
}

const (
	// DefaultRotateAfter leaves an hour before the exchange cuts a connection (web-socket-streams.md: "only valid for
	// 24 hours").
	DefaultRotateAfter = 23 * time.Hour
	// DefaultOverlap is well above what two connections differ in delay.
	DefaultOverlap = 3 * time.Second
)

// Feed keeps as many links as its markets need. Make one with New and start it with Run.
type Feed struct {
	groups   []*group
	slots    []*slot
	byMarket map[market.Market]*group
}

// New returns a feed of the targets. All streams of a market go over one link.
func New(targets []Target, cfg Config, metrics *Metrics, log *slog.Logger) *Feed {
	perMarket := 2
	if cfg.Witness {
		perMarket = 3
	}
	if cfg.MaxStreams == 0 {
		cfg.MaxStreams = binance.MaxStreamsPerConnection
	}
	cfg.Connections = max(cfg.Connections, 1)
	if cfg.RotateAfter == 0 {
		cfg.RotateAfter = DefaultRotateAfter
	}
	if cfg.Overlap == 0 {
		cfg.Overlap = DefaultOverlap
	}
	all := &common{
		cfg: cfg, connects: newBudget(), aging: newTurn(), meter: newMeter(metrics), netDial: new(net.Dialer).DialContext,
	}
	f := &Feed{byMarket: make(map[market.Market]*group)}
	for part := range slices.Chunk(targets, max(cfg.MaxStreams/perMarket, 1)) {
		g := newGroup(part, all, log.With("connection", len(f.groups)))
		f.groups = append(f.groups, g)
		for _, t := range part {
			f.byMarket[t.Market] = g
		}
		for i := range cfg.Connections {
			f.slots = append(f.slots, &slot{group: g, log: g.log.With("slot", i)})
		}
	}
	for i, s := range f.slots { // the first links are replaced one after another
		s.firstLife = cfg.RotateAfter / time.Duration(len(f.slots)) * time.Duration(i+1)
	}
	metrics.links.watch(f.groups)
	return f
}

// common is what all groups of a feed share.
type common struct {
	cfg      Config
	connects *budget
	aging    turn // of the slot whose link is replaced because of its age
	meter    *meter
	netDial  func(ctx context.Context, network, address string) (net.Conn, error)
}

// Run keeps the links until ctx ends. When it returns, all sockets are closed and nothing more is handed on.
func (f *Feed) Run(ctx context.Context) {
	var running sync.WaitGroup
	for _, s := range f.slots {
		running.Go(func() { s.run(ctx) })
	}
	running.Wait()
}

// Restore says that the exchange has news of a stream that no link brings. The stream is subscribed anew on all links
// of its market. A link of which that is said a second time within complaintWindow is replaced. Restore does not
// block, and may be called from any goroutine at any time.
func (f *Feed) Restore(m market.Market, stream market.Stream) {
	if g := f.byMarket[m]; g != nil {
		if i, ok := g.index[binance.StreamName(market.Series{Market: m, Stream: stream})]; ok {
			g.restore(i)
		}
	}
}

// now returns the receiver's clock.
func now() market.Time { return market.TimeOf(time.Now()) }
