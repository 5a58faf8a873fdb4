package feed

import (
	"log/slog"
	"sync"
	"time"

	"tapedeck/shared/binance"
	"tapedeck/shared/market"
)

// calmTime is how long a link must have lived, and a book must have been in sync, for a failure to count as the first
// one again. Connecting alone proves nothing: a book that is lost over and over would hammer the exchange.
const calmTime = time.Minute

// group is the markets whose streams share a connection, and the links that carry them.
type group struct {
	*common
	targets []Target
	streams []string       // as they are subscribed
	routes  []route        // by the index in streams
	index   map[string]int // in streams, of a name
	first   map[string]int // index of the first stream of a symbol
	turn    turn           // of the slot that replaces its link
	log     *slog.Logger

	mu    sync.Mutex
	links map[*link]struct{} // that bring frames
}

// route is where the frames of one stream go.
type route struct {
	inbox  Inbox
	stream market.Stream // "" for a bookTicker
}

func newGroup(targets []Target, all *common, log *slog.Logger) *group {
	g := &group{
		common: all, targets: targets, turn: newTurn(), log: log,
		index: make(map[string]int), first: make(map[string]int), links: make(map[*link]struct{}),
	}
	for _, t := range targets {
		g.first[t.Market.Symbol] = len(g.streams)
		for _, stream := range []market.Stream{market.Depth, market.Trades} {
			g.add(binance.StreamName(market.Series{Market: t.Market, Stream: stream}), route{t.Inbox, stream})
		}
		if all.cfg.Witness {
			g.add(binance.TickerStreamName(t.Market), route{t.Inbox, ""})
		}
	}
	return g
}

func (g *group) add(stream string, to route) {
	g.index[stream] = len(g.streams)
	g.streams = append(g.streams, stream)
	g.routes = append(g.routes, to)
}

// indexOf returns the stream that an event belongs to; false when it was not asked for.
func (g *group) indexOf(e *binance.Event) (int, bool) {
	first, ok := g.first[e.Symbol]
	switch {
	case e.Depth != nil:
		return first, ok
	case e.Trade != nil:
		return first + 1, ok
	case e.Ticker != nil:
		return first + 2, ok && g.cfg.Witness
	}
	return 0, false
}

// join adds a link that is about to bring frames.
func (g *group) join(l *link) {
	g.mu.Lock()
	g.links[l] = struct{}{}
	g.mu.Unlock()
	recv := now()
	for _, t := range g.targets {
		t.Inbox.Connected(recv)
	}
}

// leave takes away a link that has brought its last frame.
func (g *group) leave(l *link) {
	g.mu.Lock()
	delete(g.links, l)
	g.mu.Unlock()
	recv := now()
	for _, t := range g.targets {
		t.Inbox.Disconnected(recv)
	}
}

// live returns the number of links and when the oldest was opened.
func (g *group) live() (count int, oldest time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for l := range g.links {
		if oldest.IsZero() || l.opened.Before(oldest) {
			oldest = l.opened
		}
	}
	return len(g.links), oldest
}

// restore has all links subscribe to a stream anew, or be replaced.
func (g *group) restore(stream int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for l := range g.links {
		l.restore(stream)
	}
}

// calm reports whether failures are over: a link that was opened then has lived for long, and so has a book.
func (g *group) calm(opened time.Time) bool {
	if time.Since(opened) < calmTime {
		return false
	}
	for _, t := range g.targets {
		if t.SyncedFor == nil || t.SyncedFor() >= calmTime {
			return true
		}
	}
	return false
}
