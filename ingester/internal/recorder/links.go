package recorder

import (
	"time"

	"tapedeck/shared/market"
)

// linkChangeTime is for how long a connection that was lost, or begun, beside another one explains a hole: what came over
// the lost one may be what the other did not bring, and one that has to be replaced may have died before the new one began.
const linkChangeTime = 5 * time.Second

// links counts the connections over which a market's frames come: two of them while one takes the place of the other,
// or all the time.
type links struct {
	live      int
	changedAt time.Time // when the last one was lost, or begun beside another
}

// connected counts a connection. It reports whether there was none.
func (l *links) connected(now time.Time) (first bool) {
	if l.live++; l.live > 1 {
		l.changedAt = now
	}
	return l.live == 1
}

// disconnected counts a connection off. It reports whether there is none left.
func (l *links) disconnected(now time.Time) (last bool) {
	l.live, l.changedAt = max(l.live-1, 0), now
	return l.live == 0
}

// cause returns why ids are missing, given the doubt that stood before: a jump of ids within a connection is the
// exchange's unless connections just changed.
func (l *links) cause(doubt market.Cause, now time.Time) market.Cause {
	switch {
	case doubt != "":
		return doubt
	case !l.changedAt.IsZero() && now.Sub(l.changedAt) < linkChangeTime:
		return market.CauseDisconnect
	default:
		return market.CauseSequence
	}
}
