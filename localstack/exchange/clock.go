package exchange

import (
	"bytes"
	"time"

	"tapedeck/shared/market"
)

// maxClockSteps bounds the steps that are remembered; the oldest that are over are forgotten.
const maxClockSteps = 1024

// clockSteps are steps of the exchange's clock. What carries a time of the true clock carries the same wrong one wherever
// it is told, on every connection and over REST: the machines that match orders stamp it, and it is stamped once. A step
// forward leaves a hole in time and a step back lets it pass twice; ids and the pace of events go on as ever.
type clockSteps []*clockStep

// clockStep is one step and, unless it is for good, the step back.
type clockStep struct {
	by       time.Duration
	from, to market.Time // of the true clock; to is exclusive, 0 while the step lasts
}

// begin lets the clock step for what happens after now.
func (c *clockSteps) begin(by time.Duration, now market.Time) *clockStep {
	if len(*c) == maxClockSteps {
		*c = (*c)[1:]
	}
	step := &clockStep{by: by, from: now.Add(time.Millisecond)}
	*c = append(*c, step)
	return step
}

func (s *clockStep) end(now market.Time) { s.to = now.Add(time.Millisecond) }

// now returns by how much the clock is wrong now.
func (c clockSteps) now() (by time.Duration) {
	for _, s := range c {
		if s.to == 0 {
			by += s.by
		}
	}
	return by
}

// shown returns what the clock showed when it should have shown t.
func (c clockSteps) shown(t market.Time) market.Time {
	by := time.Duration(0)
	for _, s := range c {
		if t >= s.from && (s.to == 0 || t < s.to) {
			by += s.by
		}
	}
	return t.Add(by)
}

// concerns reports whether what happens at t, or is told of then, may carry a wrong time.
func (c clockSteps) concerns(t market.Time) bool {
	for _, s := range c {
		if s.to == 0 || t < s.to.Add(time.Minute) {
			return true
		}
	}
	return false
}

// rewrite returns a frame with the times that the clock showed.
func (c clockSteps) rewrite(f Frame) Frame {
	change := func(ms int64) int64 { return milliseconds(c.shown(market.Time(ms) * market.Time(time.Millisecond))) }
	raw := f.Raw
	if bytes.Contains(raw[:min(len(raw), 64)], eventTimeKey) {
		raw = replaceNumber(raw, `"E":`, change)
	}
	if bytes.HasSuffix(f.Stream, []byte("@trade")) {
		raw = replaceNumber(raw, `"T":`, change)
	}
	if bytes.Equal(raw, f.Raw) {
		return f
	}
	return combine(f.Stream, raw)
}
