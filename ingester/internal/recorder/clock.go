package recorder

import (
	"time"

	"tapedeck/shared/market"
)

// maxClockStep is how far the exchange's clock may step back from one event to the next before readers, who look for
// events by that clock, are told of it.
const maxClockStep = time.Second

// moment is when an event was, by the exchange's clock and by the receiver's.
type moment struct{ event, recv market.Time }

// stepsBack reports whether the exchange's clock stepped back from one event to the next so far that readers are told.
func stepsBack(from, to market.Time) bool { return from.Sub(to) > maxClockStep }

// clockStep returns the ledger entry of a step back of the exchange's clock from one moment to the next: no id is
// missing, but by time the events from id on stand among older ones.
func clockStep(series market.Series, id int64, from, to moment) *market.Gap {
	return &market.Gap{
		Series: series, Cause: market.CauseClock, FirstID: id, LastID: id - 1,
		Start: from.event, End: to.event, RecvStart: from.recv, RecvEnd: to.recv,
		DetectedAt: to.recv, RepairedAt: to.recv, Repair: market.RepairResumed,
	}
}

// clockOffset is how far the receiver's clock is ahead of the exchange's, smoothed. It holds the way of the frame as
// well: what tells of a wrong clock is an offset below zero, or of seconds.
type clockOffset struct {
	seconds float64
	known   bool
}

// note takes the offset of one event.
func (c *clockOffset) note(offset time.Duration) {
	if !c.known {
		c.seconds, c.known = offset.Seconds(), true
		return
	}
	c.seconds += (offset.Seconds() - c.seconds) / 64
}
