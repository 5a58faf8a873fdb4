package feed

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"
)

// slot keeps one link of a group alive. One goroutine runs it.
type slot struct {
	group     *group
	log       *slog.Logger
	firstLife time.Duration // of the first link
	links     sync.WaitGroup

	connects backoff
	delay    time.Duration // before the next attempt to connect
	replaces backoff
}

// run keeps a link until ctx ends, and returns when all of its links are gone.
func (s *slot) run(ctx context.Context) {
	defer s.links.Wait()
	s.connects.longest, s.replaces.longest = maxConnectDelay, maxReplaceDelay
	var l *link
	for life := s.firstLife; ctx.Err() == nil; life = s.group.cfg.RotateAfter {
		if l == nil {
			if l = s.connect(ctx); l == nil {
				return
			}
		}
		l = s.keep(ctx, l, life-rand.N(life/10+1))
	}
}

// open dials once and runs the link.
func (s *slot) open(ctx context.Context) (*link, error) {
	ws, err := s.group.dial(ctx)
	if err != nil {
		return nil, err
	}
	l := newLink(s.group, ws, s.log)
	ctx, cancel := context.WithCancelCause(ctx)
	l.cancel = cancel
	s.links.Go(func() { l.run(ctx) })
	s.log.Info("connected", "streams", len(s.group.streams))
	return l, nil
}

// connect tries until there is a link; nil when ctx ended.
func (s *slot) connect(ctx context.Context) *link {
	for wait(ctx.Done(), s.delay) {
		l, err := s.open(ctx)
		if err == nil {
			return l
		}
		s.unreachable(ctx, err)
		s.delay = s.connects.next()
	}
	return nil
}

// unreachable notes that an attempt to connect failed.
func (s *slot) unreachable(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	reason := "unreachable"
	if _, ok := errors.AsType[*refusedError](err); ok {
		reason = "refused"
	}
	s.group.meter.reconnects.WithLabelValues(reason).Inc()
	s.log.Warn("no connection", "reason", reason, "error", err)
}

// lost notes the end of a link that was to live.
func (s *slot) lost(ctx context.Context, l *link) {
	if ctx.Err() != nil {
		return
	}
	reason := ending(l.err)
	s.group.meter.reconnects.WithLabelValues(reason).Inc()
	s.log.Warn("connection lost", "reason", reason, "error", l.err, "after", l.age())
	if l.calm {
		s.connects.reset()
	}
	s.delay = s.connects.next()
}

// keep waits until the link is gone or, when it is old or has a fault, another one has taken its place. It returns the
// link that lives then; nil when there is none.
func (s *slot) keep(ctx context.Context, l *link, life time.Duration) *link {
	l.tracking.Store(false)
	due := time.NewTimer(life)
	defer due.Stop()
	faults := l.faults
	aged := false
	var aging turn // to be waited for by a link that is only old
	for {
		select {
		case <-l.done:
			s.lost(ctx, l)
			return nil
		case f := <-faults:
			s.log.Warn("connection has to be replaced", "reason", string(f), "after", l.age())
			if s.group.calm(l.opened) {
				s.replaces.reset()
			}
			faults, aging = nil, nil // one is enough, and does not wait for links that are only old
			due.Reset(s.replaces.next())
			continue
		case <-due.C:
			if faults != nil {
				if !aged && s.group.calm(l.opened) {
					s.replaces.reset()
				}
				aged, aging = true, s.group.aging
				continue
			}
		case aging <- struct{}{}:
		}
		next, result := s.replace(ctx, l, faults == nil)
		if aging != nil {
			aging.giveBack()
			aging = nil
		}
		if next != nil || ctx.Err() != nil {
			return next
		}
		s.log.Warn("connection is not replaced yet", "result", result, "after", l.age())
		due.Reset(s.replaces.next())
	}
}
