package exchange

import (
	"strings"
	"time"

	"tapedeck/shared/market"
)

// burstSteps bounds how many steps the publisher takes before subscriptions and snapshots get their turn.
const burstSteps = 1024

// pacer maps the source's clock to ours.
type pacer struct {
	speed float64
	wall  time.Time
	at    market.Time
}

// until returns how long to wait from now until the source's clock shows due.
func (p *pacer) until(due market.Time, now time.Time) time.Duration {
	if p.speed == 0 {
		return 0
	}
	return p.wall.Add(time.Duration(float64(due.Sub(p.at)) / p.speed)).Sub(now)
}

// rest lets the source's clock stand still for d.
func (p *pacer) rest(d time.Duration) { p.wall = p.wall.Add(d) }

// burst is why a run of steps ended.
type burst struct {
	hold string        // the source reached the snapshot of this symbol
	wait time.Duration // the next step is due only then
	over bool
}

// publish takes the source's steps until it is over or the server is closed.
func (s *Server) publish() {
	if !s.waitUntil(0, s.startable) {
		return
	}
	if s.plan != nil {
		s.running.Go(s.runPlan)
	}
	p := pacer{speed: s.speed, wall: time.Now()}
	first := true
	for s.ctx.Err() == nil {
		if s.speed == 0 && !s.waitUntil(0, s.writable) {
			return
		}
		s.mu.Lock()
		if first {
			p.at, _ = s.source.Due() // an error comes again in the burst
			s.started, first = true, false
		}
		b := s.burst(&p)
		s.flush()
		s.mu.Unlock()
		switch {
		case b.over:
			if s.waitUntil(0, s.drained) {
				close(s.done)
			}
			return
		case b.hold != "":
			begun := time.Now()
			if !s.holdFor(b.hold) {
				return
			}
			p.rest(time.Since(begun))
		case b.wait > 0:
			if !s.sleep(b.wait) {
				return
			}
		}
	}
}

// burst takes the steps that are due, until a queue is full or a snapshot is reached. The caller holds mu.
func (s *Server) burst(p *pacer) burst {
	now := time.Now()
	s.full = false
	for range burstSteps {
		due, err := s.source.Due()
		if err != nil {
			s.finish(err)
			return burst{over: true}
		}
		if wait := p.until(due, now); wait > 0 {
			return burst{wait: wait}
		}
		if symbol := s.source.Step(s.emit); symbol != "" {
			s.arrive(symbol)
			return burst{hold: symbol}
		}
		if s.full {
			break
		}
	}
	return burst{}
}

// emit hands a frame to those who subscribed to its stream. The caller holds mu.
func (s *Server) emit(f Frame) {
	s.frames++
	if s.observer != nil {
		s.observer(string(f.Stream), f.Combined)
	}
	n := s.noteOf(f)
	if !s.faults.idle() {
		s.emitFaulty(f, n)
		return
	}
	if len(f.Stream) == 0 { // a broken frame of a recording: the exchange sent it on the socket
		for c := range s.conns {
			if len(c.streams) > 0 {
				s.deliver(c, f)
			}
		}
		return
	}
	for _, c := range s.topics[string(f.Stream)] {
		s.deliver(c, f)
		c.noteQueued(n)
	}
}

// deliver queues a frame for one connection. The caller holds mu.
func (s *Server) deliver(c *conn, f Frame) {
	data := f.Raw
	if c.combined {
		data = f.Combined
	}
	if s.filter == nil {
		s.enqueue(c, data)
		return
	}
	for _, data := range s.filter(string(f.Stream), data) {
		s.enqueue(c, data)
	}
}

// enqueue queues a text message for a connection and deals with a queue that is full. The caller holds mu.
func (s *Server) enqueue(c *conn, data []byte) {
	queued := c.queueText(data)
	switch {
	case s.speed == 0:
		s.full = s.full || queued >= backpressureBytes
	case queued > s.queueBytes:
		s.slow++
		s.log.Warn("client of the exchange stand-in reads too slowly", "remote", c.remote, "queued_bytes", queued)
		c.cut()
	}
}

// flush wakes the senders. The caller holds mu.
func (s *Server) flush() {
	for c := range s.conns {
		c.flush()
	}
}

// arrive notes that the source has reached the snapshot of a symbol. The caller holds mu.
func (s *Server) arrive(symbol string) {
	delete(s.fetched, symbol)
	if arrived, ok := s.arrivals[symbol]; ok {
		close(arrived)
		delete(s.arrivals, symbol)
	}
}

// holdFor lets the source stand at the snapshot of a symbol until it was fetched, as long as somebody follows the
// depth of the symbol and no longer than holdTimeout. It returns false when the server is closed.
func (s *Server) holdFor(symbol string) bool {
	if s.holdTimeout <= 0 {
		return true
	}
	prefix := strings.ToLower(symbol) + "@depth"
	return s.waitUntil(s.holdTimeout, func() bool {
		return s.fetched[symbol] || len(s.topics[prefix])+len(s.topics[prefix+"@100ms"]) == 0
	})
}

// startable says whether the subscriptions are in place that the source waits for. The caller holds mu.
func (s *Server) startable() bool {
	for _, stream := range s.startStreams {
		if len(s.topics[stream]) == 0 {
			return false
		}
	}
	return len(s.topics) > 0
}

// writable says whether somebody is subscribed and no queue is full. The caller holds mu.
func (s *Server) writable() bool {
	for c := range s.conns {
		if c.queued() >= backpressureBytes {
			return false
		}
	}
	return len(s.topics) > 0
}

// drained says whether everything queued has been written. The caller holds mu.
func (s *Server) drained() bool {
	for c := range s.conns {
		if !c.idle() {
			return false
		}
	}
	return true
}

// waitUntil waits until ok, called with mu held, returns true, or until the timeout is over if there is one. It
// returns false when the server is closed.
func (s *Server) waitUntil(timeout time.Duration, ok func() bool) bool {
	var expired <-chan time.Time
	if timeout > 0 {
		timer := time.NewTimer(timeout)
		defer timer.Stop()
		expired = timer.C
	}
	for {
		s.mu.Lock()
		met := ok()
		s.mu.Unlock()
		if met {
			return s.ctx.Err() == nil
		}
		select {
		case <-s.wake:
		case <-expired:
			return true
		case <-s.ctx.Done():
			return false
		}
	}
}

// sleep waits for d; it returns false when the server is closed.
func (s *Server) sleep(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-s.ctx.Done():
		return false
	}
}
