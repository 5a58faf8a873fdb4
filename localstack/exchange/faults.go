package exchange

import (
	"cmp"
	"iter"
	"slices"
	"time"

	"github.com/gorilla/websocket"

	"tapedeck/localstack/faults"
	"tapedeck/shared/market"
)

// injection is the state of the faults under way. Server.mu guards it. Faults act on what is sent and answered alone:
// the source, its books and the observer stay the truth.
type injection struct {
	stages  []*stage // what strikes events for all connections alike, in the order in which it began
	staged  int      // stages of all and of single connections
	strikes int      // frames that were broken; makes the next one broken in another way
	clock   clockSteps
	hidden  map[string][]int64 // trades that nobody is told of, by symbol, ascending
	breaks  map[string]int     // how many faults keep a market in BREAK

	handshakes []*bounded
	rest       []*bounded
	books      map[string][]*market.Snapshot // what RESTOld answers, the latest last, by symbol
	refusals   int                           // how many faults keep REST closed
}

// bounded is a fault of requests: it strikes until it ends, or so many of them.
type bounded struct {
	fault faults.Fault
	left  int // 0 = no bound
}

// use takes one request; over says that it was the last one.
func (b *bounded) use() (over bool) {
	if b.left == 0 {
		return false
	}
	b.left--
	return b.left == 0
}

// idle reports whether frames go out as the source made them.
func (i *injection) idle() bool { return i.staged == 0 && len(i.clock) == 0 }

// WithFaults injects the faults of a plan (faults.Script.Plan), counted from the first step of the source on. Faults of
// the store are passed over. tell, when not nil, hears of each fault just after it was injected, with the error of
// Server.Inject.
func WithFaults(plan iter.Seq[faults.Fault], tell func(faults.Fault, error)) Option {
	return func(c *config) {
		c.plan = plan
		if c.tell = tell; tell == nil {
			c.tell = func(faults.Fault, error) {}
		}
	}
}

// runPlan injects the faults of the plan as they fall due.
func (s *Server) runPlan() {
	faults.Run(s.ctx, s.plan, func(f faults.Fault) {
		if f.Kind.Side() == faults.SideExchange {
			s.tell(f, s.Inject(f))
		}
	})
}

// Inject makes a fault happen now, whatever its At, once. The error is of kind market.KindInvalid when f is not valid or
// the source cannot do it (a recording cannot stop), of kind market.KindNotFound when there is nothing that it could
// strike, and of kind market.KindUnavailable when the server is closed.
func (s *Server) Inject(f faults.Fault) (err error) {
	defer market.Wrap(&err, "inject %v", f)
	if f, err = f.Complete(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return market.Errorf(market.KindUnavailable, "the exchange stand-in is closed")
	}
	defer s.flush()
	switch f.Kind {
	case faults.Cut, faults.Close, faults.HalfOpen, faults.Shutdown, faults.PingFlood, faults.PingSlow:
		return s.injectConn(f)
	case faults.HandshakeRefused, faults.HandshakeMute:
		s.injectBounded(&s.faults.handshakes, f)
	case faults.Stall, faults.Drop, faults.Double, faults.Reorder, faults.Delay, faults.Gap, faults.FrameMalformed,
		faults.FrameTruncated, faults.FrameTorn, faults.FrameBinary, faults.FrameHuge, faults.FrameSymbol, faults.FrameIDs:
		return s.injectStage(f)
	case faults.RESTLate, faults.RESTHTML, faults.RESTEmpty, faults.RESTTruncated, faults.RESTStatus:
		s.injectBounded(&s.faults.rest, f)
	case faults.RESTOld:
		return s.keepBooks(f)
	case faults.RESTRefused:
		s.refuseREST(f.For)
	case faults.Clock:
		s.stepClock(f)
	case faults.MarketBreak, faults.MarketQuiet:
		return s.pauseMarkets(f)
	default:
		return market.Errorf(market.KindInvalid, "it is not the exchange's to do")
	}
	return nil
}

// after calls end, with mu held, when d is over, unless the server is closed before. d = 0 is never. The caller holds mu.
func (s *Server) after(d time.Duration, end func()) {
	if d == 0 {
		return
	}
	s.running.Go(func() {
		if s.sleep(d) {
			s.mu.Lock()
			defer s.mu.Unlock()
			if !s.closed {
				end()
				s.flush()
			}
		}
	})
}

func (s *Server) injectBounded(list *[]*bounded, f faults.Fault) {
	b := &bounded{f, f.Count}
	*list = append(*list, b)
	s.after(f.For, func() { remove(list, b) })
}

// remove takes an element from a list, if it is still there.
func remove[T comparable](list *[]T, element T) {
	if i := slices.Index(*list, element); i >= 0 {
		*list = slices.Delete(*list, i, i+1)
	}
}

// targets returns the connections that f strikes, oldest first: those that listen to a stream that it is aimed at, or one
// of them. The error is of kind market.KindNotFound when there is none. The caller holds mu.
func (s *Server) targets(f *faults.Fault) ([]*conn, error) {
	var list []*conn
	for c := range s.conns {
		if !c.live() {
			continue
		}
		aimed := f.Symbol == "" && f.Stream == ""
		if aimed || slices.ContainsFunc(c.streams, f.Strikes) {
			list = append(list, c)
		}
	}
	if len(list) == 0 {
		return nil, market.Errorf(market.KindNotFound, "there is no connection to strike")
	}
	slices.SortFunc(list, func(a, b *conn) int { return cmp.Compare(a.number, b.number) })
	if f.Conn > 0 {
		i := (f.Conn - 1) % len(list)
		list = list[i : i+1]
	}
	return list, nil
}

// live reports whether data still goes to a connection.
func (c *conn) live() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.mute()
}

// injectConn strikes connections as such.
func (s *Server) injectConn(f faults.Fault) error {
	targets, err := s.targets(&f)
	if err != nil {
		return err
	}
	for _, c := range targets {
		switch f.Kind {
		case faults.Cut:
			c.cut()
		case faults.Close:
			c.closeWith(f.Status, "")
		case faults.HalfOpen:
			s.freeze(c)
		case faults.Shutdown:
			s.deliver(c, s.shutdownNotice())
		case faults.PingSlow:
			c.holdPings(f.For)
		default:
		}
	}
	switch f.Kind {
	case faults.HalfOpen, faults.Shutdown:
		s.after(f.For, func() {
			for _, c := range targets {
				c.cut()
			}
		})
	case faults.PingFlood:
		s.running.Go(func() { s.flood(targets, f) })
	default:
	}
	return nil
}

// shutdownNotice is what announces the end of a connection: web-socket-streams.md, "serverShutdown". On /stream it comes
// as of a stream that nobody subscribed to.
func (s *Server) shutdownNotice() Frame {
	raw := appendNumber([]byte(`{"e":"serverShutdown","E":`), milliseconds(s.time()))
	return combine([]byte("!serverShutdown"), append(raw, '}'))
}

// flood pings connections at the fault's rate until it ends.
func (s *Server) flood(targets []*conn, f faults.Fault) {
	ticker := time.NewTicker(time.Second / time.Duration(f.Rate))
	defer ticker.Stop()
	end := time.NewTimer(f.For)
	defer end.Stop()
	for {
		select {
		case <-ticker.C:
			for _, c := range targets {
				c.ping()
			}
		case <-end.C:
			return
		case <-s.ctx.Done():
			return
		}
	}
}

// freeze leaves the socket of a connection open but does nothing with it any more.
func (s *Server) freeze(c *conn) {
	c.pong.Stop()
	c.mu.Lock()
	c.frozen, c.pending, c.notes = true, nil, nil
	c.mu.Unlock()
	s.unsubscribe(c, slices.Clone(c.streams))
	s.heal(c)
}

// holdPings sends no ping for d, and waits as much longer for a pong.
func (c *conn) holdPings(d time.Duration) {
	c.mu.Lock()
	c.calm = time.Now().Add(d)
	c.mu.Unlock()
	c.pong.Reset(c.server.pongTimeout + d)
}

// tear queues the beginning of a frame, behind which the socket is cut.
func (c *conn) tear(message []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mute() {
		return
	}
	whole := appendFrame(nil, websocket.TextMessage, message)
	c.pending = append(c.pending, whole[:len(whole)-(len(message)+1)/2]...)
	c.last = true
}

// queueOdd queues a message that a client cannot help: a binary one, or one of any size.
func (c *conn) queueOdd(kind int, message []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mute() {
		return
	}
	before := len(c.pending)
	c.pending = appendFrame(c.pending, kind, message)
	c.exempt += len(c.pending) - before
}

// stepClock changes the exchange's clock for what happens from now on.
func (s *Server) stepClock(f faults.Fault) {
	step := s.faults.clock.begin(f.By, s.source.Time())
	s.after(f.For, func() { step.end(s.source.Time()) })
}

// pauseMarkets stops markets.
func (s *Server) pauseMarkets(f faults.Fault) error {
	var symbols []string
	for _, l := range s.source.Listings() {
		if f.Symbol == "" || f.Symbol == l.Market.Symbol {
			symbols = append(symbols, l.Market.Symbol)
		}
	}
	if len(symbols) == 0 {
		return market.Errorf(market.KindNotFound, "there is no market %s", f.Symbol)
	}
	for _, symbol := range symbols {
		if err := s.source.Pause(symbol, true); err != nil {
			return err
		}
		if f.Kind == faults.MarketBreak {
			s.faults.breaks[symbol]++
		}
	}
	s.after(f.For, func() {
		for _, symbol := range symbols {
			_ = s.source.Pause(symbol, false) // it could be paused
			if f.Kind == faults.MarketBreak {
				s.faults.breaks[symbol]--
			}
		}
	})
	return nil
}
