package feed

import (
	"math/rand/v2"
	"time"
)

// The longest delay between two attempts. That of a reconnect keeps it within five seconds of the exchange's return; a
// replacement can wait, as the old link lives.
const (
	minDelay        = 250 * time.Millisecond
	maxConnectDelay = 4 * time.Second
	maxReplaceDelay = 30 * time.Second
)

// backoff says how long to wait before the next attempt: not at all at first, then ever longer.
type backoff struct {
	longest  time.Duration
	failures int
}

// next counts a failure and returns the delay until the next attempt.
func (b *backoff) next() time.Duration {
	failures := b.failures
	b.failures++
	if failures == 0 {
		return 0
	}
	delay := min(minDelay<<min(failures-1, 16), b.longest)
	return delay/2 + rand.N(delay/2)
}

// reset forgets the failures.
func (b *backoff) reset() { b.failures = 0 }

// wait waits for d, and returns false at once when done is closed before.
func wait(done <-chan struct{}, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-done:
		return false
	default:
	}
	select {
	case <-timer.C:
		return true
	case <-done:
		return false
	}
}

// turn is held by one slot at a time.
type turn chan struct{}

func newTurn() turn { return make(turn, 1) }

// take waits for the turn; false when done is closed before. The holder gives it back.
func (t turn) take(done <-chan struct{}) bool {
	select {
	case t <- struct{}{}:
		return true
	case <-done:
		return false
	}
}

func (t turn) giveBack() { <-t }
