package recorder

import "time"

// How long a stream may be silent before the exchange is asked whether anything is missing: silenceFactor times the
// longest silence that was usual of late, within bounds. Each answer that nothing is missing doubles it, up to
// maxPatience; that is also the pace for a market that does not trade.
const (
	minSilence    = 5 * time.Second
	maxSilence    = time.Minute
	maxPatience   = 10 * time.Minute
	silenceFactor = 4
	silenceMemory = 1024 // events after which a long silence counts for little
)

// silence notices that a stream says nothing for longer than is usual. It measures the longest pause between events
// and not the mean, as a market talks in bursts. It belongs to one goroutine. The zero value is stopped: it is never
// due.
type silence struct {
	longest  time.Duration // pause of late
	patience time.Duration // how long nothing is to be asked; 0 = as long as is usual
	since    time.Time     // the last event, or the last answer; zero = stopped
}

// start begins to wait for an event, unless it does already.
func (s *silence) start(now time.Time) {
	if s.since.IsZero() {
		s.since, s.patience = now, 0
	}
}

// stop waits for nothing: the stream is not connected, or is known to be mute.
func (s *silence) stop() { s.since = time.Time{} }

// heard notes an event. It is cheap: it belongs on the way of every event.
func (s *silence) heard(now time.Time) {
	if !s.since.IsZero() {
		s.longest = max(s.longest-s.longest/silenceMemory, now.Sub(s.since))
	}
	s.since, s.patience = now, 0
}

// answered notes that nothing is missing, or that there was no answer: the next question waits for twice as long.
func (s *silence) answered(now time.Time) {
	s.patience = min(2*s.limit(), maxPatience)
	s.since = now
}

// deadline returns when the exchange is to be asked; zero for never.
func (s *silence) deadline(trading bool) time.Time {
	switch {
	case s.since.IsZero():
		return time.Time{}
	case !trading:
		return s.since.Add(maxPatience)
	}
	return s.since.Add(s.limit())
}

// limit returns how long a silence is nothing to ask about.
func (s *silence) limit() time.Duration {
	if s.patience > 0 {
		return s.patience
	}
	return min(max(silenceFactor*s.longest, minSilence), maxSilence)
}
