package recorder

import "time"

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
