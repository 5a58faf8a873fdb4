package recorder

import (
	"testing"
	"time"
)

func TestSilence(t *testing.T) {
	steady := func(s *silence, n int, interval time.Duration, now time.Time) time.Time {
		for range n {
			now = now.Add(interval)
			s.heard(now)
		}
		return now
	}
	for _, test := range []struct {
		name    string
		live    func(s *silence, now time.Time) time.Time // returns the last instant of it
		trading bool
		want    time.Duration // from there until the exchange is asked; 0 = never
	}{
		{"never started", func(_ *silence, now time.Time) time.Time { return now }, true, 0},
		{"not a word yet", func(s *silence, now time.Time) time.Time { s.start(now); return now }, true, minSilence},
		{"busy", func(s *silence, now time.Time) time.Time { return steady(s, 100, 100*time.Millisecond, now) }, true, minSilence},
		{"slow", func(s *silence, now time.Time) time.Time { return steady(s, 10, 4*time.Second, now) }, true, 16 * time.Second},
		{"very slow", func(s *silence, now time.Time) time.Time { return steady(s, 5, time.Minute, now) }, true, maxSilence},
		{"in bursts, half a minute apart", func(s *silence, now time.Time) time.Time {
			for range 5 {
				now = steady(s, 100, time.Millisecond, now.Add(30*time.Second))
			}
			return now
		}, true, maxSilence},
		{"slow once, busy for long", func(s *silence, now time.Time) time.Time {
			return steady(s, 10*silenceMemory, 100*time.Millisecond, steady(s, 5, time.Minute, now))
		}, true, minSilence},
		{"asked twice in vain", func(s *silence, now time.Time) time.Time {
			s.start(now)
			s.answered(now.Add(5 * time.Second))
			s.answered(now.Add(15 * time.Second))
			return now.Add(15 * time.Second)
		}, true, 20 * time.Second},
		{"asked ever so often in vain", func(s *silence, now time.Time) time.Time {
			s.start(now)
			for range 100 {
				s.answered(now)
			}
			return now
		}, true, maxPatience},
		{"asked in vain, then an event", func(s *silence, now time.Time) time.Time {
			s.start(now)
			s.answered(now)
			s.answered(now)
			s.heard(now)
			return now
		}, true, minSilence},
		{"the market does not trade", func(s *silence, now time.Time) time.Time {
			return steady(s, 100, 100*time.Millisecond, now)
		}, false, maxPatience},
		{"stopped", func(s *silence, now time.Time) time.Time { s.heard(now); s.stop(); return now }, true, 0},
		{"stopped and started", func(s *silence, now time.Time) time.Time {
			s.heard(now)
			s.stop()
			now = now.Add(time.Hour) // is no silence: nothing could be heard
			s.start(now)
			return steady(s, 1, time.Second, now)
		}, true, minSilence},
		{"started again while it waits", func(s *silence, now time.Time) time.Time {
			s.start(now)
			s.start(now.Add(4 * time.Second))
			return now
		}, true, minSilence},
	} {
		t.Run(test.name, func(t *testing.T) {
			var s silence
			now := test.live(&s, time.Unix(1_700_000_000, 0))
			got := time.Duration(0)
			if at := s.deadline(test.trading); !at.IsZero() {
				got = at.Sub(now)
			}
			if got != test.want {
				t.Errorf("asked after %v, want %v", got, test.want)
			}
		})
	}
}
