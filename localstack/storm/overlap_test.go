package storm

import (
	"cmp"
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"tapedeck/localstack/faults"
)

// TestRotation replaces connections all the time: not an event is lost or doubled.
func TestRotation(t *testing.T) {
	t.Parallel()
	const least = 8 // rotations
	s := plan{
		seed: cmp.Or(*seedFlag, 1), length: cmp.Or(*duration, 30*time.Second), markets: 4, lossless: true,
		env: []string{"ROTATE_AFTER=1s", "ROTATE_OVERLAP=200ms", "STREAMS_PER_CONNECTION=4"},
		during: func(ctx context.Context, s *trial) {
			s.wait(ctx, s.length/2)
			// And at once when the exchange says that a connection will end.
			for conn := range 2 {
				f := faults.Fault{Kind: faults.Shutdown, For: 10 * time.Second, Conn: 1 + conn}
				s.weather.note("%v: %v", f, s.exchange.Inject(f))
			}
		},
	}.run(t)
	if n := s.exchange.Stats().Connects - 2; n < least {
		t.Errorf("%d connections were replaced, want at least %d", n, least)
	} else {
		t.Logf("%d connections were replaced", n)
	}
}

// TestHotStandby keeps two connections and ends one of them at a time, at random moments: not an event is lost or
// doubled.
func TestHotStandby(t *testing.T) {
	t.Parallel()
	cuts := 0
	plan{
		seed: cmp.Or(*seedFlag, 1), length: cmp.Or(*duration, 30*time.Second), markets: 3, lossless: true,
		env: []string{"FEED_CONNECTIONS=2"},
		during: func(ctx context.Context, s *trial) {
			dice := rand.New(rand.NewPCG(s.seed, 3))
			for {
				// The younger connection must have begun to bring what the older one does.
				if s.wait(ctx, 500*time.Millisecond+time.Duration(dice.Int64N(int64(time.Second)))) {
					return
				}
				f := faults.Fault{Kind: faults.Cut, Conn: 1 + dice.IntN(2)}
				switch dice.IntN(3) {
				case 0:
					f.Kind = faults.Close
				case 1:
					f.Kind, f.Count = faults.FrameTorn, 1
				}
				connects := s.exchange.Stats().Connects
				s.weather.note("%v: %v", f, s.exchange.Inject(f))
				cuts++
				poll(ctx, s.length, func() bool {
					return s.exchange.Stats().Connects > connects && s.exchange.Progress().Connections == 2
				})
			}
		},
	}.run(t)
	const least = 3
	if cuts < least {
		t.Errorf("%d connections were ended, want at least %d", cuts, least)
	} else {
		t.Logf("%d connections were ended", cuts)
	}
}
