package storm

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestKillsAtTheRealPace kills the ingester time and again while it records markets as fast as they really are, when blocks are
// about to be whole: all but the last moment must be held, and once.
func TestKillsAtTheRealPace(t *testing.T) {
	t.Parallel()
	s := plan{
		seed: cmp.Or(*seedFlag, 1), length: cmp.Or(*duration, 35*time.Second), markets: 6, speed: 1,
		weight: 30_000, sunshine: 4 * time.Second, violent: true,
		during: func(ctx context.Context, s *trial) {
			for !s.wait(ctx, sheltered+durable) {
				// Of most blocks something is saved, but the next second has not begun to show.
				s.waitUntil(ctx, 910*time.Millisecond+time.Duration(s.dice.Int64N(int64(80*time.Millisecond))))
				s.crash(ctx, "killed")
			}
		},
	}.run(t)
	log, err := os.ReadFile(filepath.Join(s.dir, "ingester.log"))
	if err != nil {
		t.Fatal(err)
	}
	n := bytes.Count(log, []byte("never finished"))
	t.Logf("%d blocks were cut short by kills", n)
	if n == 0 {
		t.Error("no block was, and the test shows nothing")
	}
}

// waitUntil waits until the exchange's clock is so far into a second.
func (s *trial) waitUntil(ctx context.Context, into time.Duration) {
	_, body, err := get(ctx, s.exchange.URL()+"/api/v3/time")
	var answer struct{ ServerTime int64 }
	if err != nil || json.Unmarshal(body, &answer) != nil {
		s.weather.note("the exchange does not say what time it is: %v", err)
		return
	}
	now := time.Duration(answer.ServerTime%1000) * time.Millisecond
	s.wait(ctx, (into-now+time.Second)%time.Second)
}
