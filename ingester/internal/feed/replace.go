package feed

import (
	"context"
	"time"
)

const (
	// muteTimeout is how long, after the overlap, a new link may not bring a stream that the old one brings.
	muteTimeout = time.Minute
	// catchUpTimeout is how long, after the overlap, it may be unknown whether the old link has brought all that the
	// new one has not.
	catchUpTimeout = 10 * time.Second
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
	old.tracking.Store(true)
	defer old.tracking.Store(false)
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
// frames for a while since, and the new one brings all that the old one brings, from where the old one has come to.
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
	begin, overlap := time.Now(), s.group.cfg.Overlap
	watch := time.NewTicker(min(watchInterval, overlap))
	defer watch.Stop()
	for {
		select {
		case <-watch.C:
		case <-next.faults:
			return outcomeFaulty
		case <-next.done:
			return outcomeNewLost
		case <-old.done:
			return outcomeOldLost
		}
		over := time.Since(begin) - overlap // by how much
		if over < 0 {
			continue
		}
		brings, joins := compare(next.heard, old.heard, before)
		switch {
		case brings && (joins || over >= catchUpTimeout):
			return outcomeReplaced
		case over >= muteTimeout:
			return outcomeMute
		}
	}
}

// counts returns how many frames of each stream a link has brought.
func counts(streams []heard) []uint32 {
	n := make([]uint32, len(streams))
	for i := range streams {
		n[i] = streams[i].frames.Load()
	}
	return n
}

// compare reports whether a new link brings every stream that an old one has brought since before, and whether no id is
// missing between what the old one has brought so far and what the new one began with. A connection may be behind
// another one by any time; the ids alone tell. Where one stream shows it, the others of the connection have come as
// far, as one connection keeps its order; before the new link has brought any id, nothing is known.
func compare(next, old []heard, before []uint32) (brings, joins bool) {
	brings = true
	behind := false
	for i := range old {
		if next[i].frames.Load() == 0 {
			brings = brings && old[i].frames.Load() == before[i]
		}
		if first := next[i].first.Load(); first > 0 {
			joins = true
			behind = behind || first > old[i].last.Load()+1
		}
	}
	return brings, joins && !behind
}
