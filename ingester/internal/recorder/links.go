package recorder

import (
	"time"

	"tapedeck/shared/market"
)

// linkLossTime is for how long the loss of a connection explains a hole, though another one lived on: what came over
// the lost one may be what the other did not bring.
const linkLossTime = 5 * time.Second

// links counts the connections over which a market's frames come: two of them while one takes the place of the other,
// or all the time.
type links struct {
	live   int
	lostAt time.Time // when the last one was lost
}

// connected counts a connection. It reports whether there was none.
func (l *links) connected() (first bool) {
	l.live++
	return l.live == 1
}

// disconnected counts a connection off. It reports whether there is none left.
func (l *links) disconnected(now time.Time) (last bool) {
	l.live, l.lostAt = max(l.live-1, 0), now
	return l.live == 0
}

// cause returns why ids are missing, given the doubt that stood before: a jump of ids within a connection is the
// exchange's unless a connection was just lost.
func (l *links) cause(doubt market.Cause, now time.Time) market.Cause {
	switch {
	case doubt != "":
		return doubt
	case !l.lostAt.IsZero() && now.Sub(l.lostAt) < linkLossTime:
		return market.CauseDisconnect
	default:
		return market.CauseSequence
	}
}
