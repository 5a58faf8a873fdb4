package feed

import (
	"context"
	"time"
)

const (
	// muteTimeout is how long, after the overlap, a new link may not bring a stream that the old one brings, and the old
	// one may be behind.
	muteTimeout = time.Minute
	// quietTimeout is how long, after the overlap, it may be unknown whether the old link has brought all that the new one
	// has not. Markets that are quiet tell nothing, however long they are waited for.
	quietTimeout = 10 * time.Second
	// watchInterval is how often the streams of two links are compared.
	watchInterval = 100 * time.Millisecond
)

// outcome is how an attempt to replace a link ended.
type outcome string

// The outcomes.
const (
	outcomeReplaced       outcome = "replaced"        // without a loss that ids show
	outcomeReplacedBehind outcome = "replaced_behind" // with one: the old link had to go, and was behind to the end
	outcomeBehind         outcome = "behind"          // the old link is behind, and stays
	outcomeOldLost        outcome = "old_lost"        // the old link ended first; the new one took its place
	outcomeUnreachable    outcome = "unreachable"     // no new link
	outcomeNewLost        outcome = "new_lost"        // the new link ended before it had proven itself
	outcomeFaulty         outcome = "faulty"          // the new link has a fault of its own
	outcomeMute           outcome = "mute"            // the new link did not bring every stream that the old one brought
)

// replace opens a second link beside the old one, and puts it into its place when it has proven itself or the old one
// is gone. It returns the link only then. Links of one market are replaced one at a time. An old link that has a fault
// has to go, even if that costs what it has not brought yet; one that is only old can stay.
func (s *slot) replace(ctx context.Context, old *link, hasFault bool) (*link, outcome) {
	if !s.group.turn.take(old.done) {
		return nil, outcomeOldLost
	}
	defer s.group.turn.giveBack()
	old.track()
	defer old.tracking.Store(false)
	next, err := s.open(ctx)
	if err != nil {
		s.unreachable(ctx, err)
		return nil, s.count(outcomeUnreachable)
	}
	how := s.count(s.overlap(old, next, hasFault))
	switch how {
	case outcomeReplaced, outcomeReplacedBehind:
		old.close()
		<-old.done // what was under way is handed on
		s.log.Info("connection replaced", "result", string(how), "after", old.age())
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
func (s *slot) overlap(old, next *link, hasFault bool) outcome {
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
		brings, ids := compare(next.heard, old.heard, before)
		switch {
		case brings && (ids == joined || ids == unknown && over >= quietTimeout):
			return outcomeReplaced
		case over < muteTimeout:
		case !brings:
			return outcomeMute
		case hasFault:
			return outcomeReplacedBehind
		default:
			return outcomeBehind
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

// junction is what ids tell of the place where an old link's events end and a new one's begin.
type junction int

const (
	unknown junction = iota // nothing: a stream is quiet, or one of the links does not bring it
	joined                  // no id is missing
	behind                  // the old link has not come to where the new one began
)

// compare reports whether a new link brings every stream that an old one has brought since before, and whether an id is
// missing between what the old one has brought so far and what the new one began with. A connection may be behind
// another one by any time; the ids alone tell. Where one stream shows that none is missing, the others of the connection
// have come as far, as one connection keeps its order; but not those that the new link alone brings.
func compare(next, old []heard, before []uint32) (brings bool, ids junction) {
	brings = true
	joins, alone := false, false
	for i := range old {
		if next[i].frames.Load() == 0 {
			brings = brings && old[i].frames.Load() == before[i]
		}
		first, last := next[i].first.Load(), old[i].last.Load()
		switch {
		case first == 0:
		case last == 0:
			alone = true
		case first > last+1:
			ids = behind
		default:
			joins = true
		}
	}
	if ids == unknown && joins && !alone {
		ids = joined
	}
	return brings, ids
}
