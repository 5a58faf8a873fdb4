package feed

import (
	"context"
	"sync/atomic"
	"time"
)

const (
	// muteTimeout is how long a new link may not bring a stream that the old one brings.
	muteTimeout = time.Minute
	// watchInterval is how often the streams of two links are compared.
	watchInterval = 100 * time.Millisecond
)

// outcome is how an attempt to replace a link ended.
type outcome string

// The outcomes.
const (
	outcomeReplaced    outcome = "replaced"    // without a loss
	outcomeOldLost     outcome = "old_lost"    // the old link ended first; the new one took its place
	outcomeUnreachable outcome = "unreachable" // no new link
	outcomeNewLost     outcome = "new_lost"    // the new link ended before it had proven itself
	outcomeFaulty      outcome = "faulty"      // the new link has a fault of its own
	outcomeMute        outcome = "mute"        // the new link did not bring every stream that the old one brought
)

// replace opens a second link beside the old one, and puts it into its place when it has proven itself or the old one
// is gone. It returns the link only then. Links of one market are replaced one at a time.
func (s *slot) replace(ctx context.Context, old *link) (*link, outcome) {
	if !s.group.turn.take(old.done) {
		return nil, outcomeOldLost
	}
	defer s.group.turn.giveBack()
	next, err := s.open(ctx)
	if err != nil {
		s.unreachable(ctx, err)
		return nil, s.count(outcomeUnreachable)
	}
	how := s.count(s.overlap(old, next))
	switch how {
	case outcomeReplaced:
		old.close()
		<-old.done // what was under way is handed on
		s.log.Info("connection replaced", "after", old.age())
		return next, how
	case outcomeOldLost:
		s.lost(ctx, old)
		return next, how
	default:
		next.close()
		<-next.done
		return nil, how
	}
}

// count counts an attempt to replace a link.
func (s *slot) count(how outcome) outcome {
	s.group.meter.rotations.WithLabelValues(string(how)).Inc()
	return how
}

// overlap waits until the old link is not needed any more: the new one is subscribed to everything, both have brought
// frames for a while since, and every stream that the old one brought in this time came over the new one too.
func (s *slot) overlap(old, next *link) outcome {
	select {
	case <-next.requests.acknowledged:
	case <-next.faults:
		return outcomeFaulty
	case <-next.done:
		return outcomeNewLost
	case <-old.done:
		return outcomeOldLost
	}
	before := counts(old.heard)
	passed := time.After(s.group.cfg.Overlap)
	watch := time.NewTicker(min(watchInterval, s.group.cfg.Overlap))
	defer watch.Stop()
	mute := time.After(s.group.cfg.Overlap + muteTimeout)
	for over := false; ; {
		select {
		case <-passed:
			over = true
		case <-watch.C:
		case <-mute:
			return outcomeMute
		case <-next.faults:
			return outcomeFaulty
		case <-next.done:
			return outcomeNewLost
		case <-old.done:
			return outcomeOldLost
		}
		if over && covers(next.heard, old.heard, before) {
			return outcomeReplaced
		}
	}
}

// counts returns how many frames of each stream a link has brought.
func counts(heard []atomic.Uint32) []uint32 {
	n := make([]uint32, len(heard))
	for i := range heard {
		n[i] = heard[i].Load()
	}
	return n
}

// covers reports whether a new link has brought every stream that an old one has brought since before.
func covers(next, old []atomic.Uint32, before []uint32) bool {
	for i := range old {
		if old[i].Load() != before[i] && next[i].Load() == 0 {
			return false
		}
	}
	return true
}
