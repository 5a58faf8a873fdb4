package storm

import (
	"bytes"
	"cmp"
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestKillsAtTheRealPace kills the ingester time and again while it records markets as fast as they really are: of blocks that
// last for a second, all but the last moment must be held, and once.
func TestKillsAtTheRealPace(t *testing.T) {
	t.Parallel()
	s := plan{
		seed: cmp.Or(*seedFlag, 1), length: cmp.Or(*duration, 25*time.Second), markets: 6, speed: 1,
		weight: 30_000, sunshine: 4 * time.Second, violent: true, during: func(ctx context.Context, s *trial) { s.crashes(ctx) },
	}.run(t)
	log, err := os.ReadFile(filepath.Join(s.dir, "ingester.log"))
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(log, []byte("never finished")); n == 0 {
		t.Error("no block was cut short by a kill, and the test shows nothing")
	} else {
		t.Logf("%d blocks were cut short by kills", n)
	}
}
