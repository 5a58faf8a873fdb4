package storm

import (
	"cmp"
	"context"
	"testing"
	"time"

	"tapedeck/shared/market"
)

// TestFullSpool has a store that is away for longer than the spool has room: what is given up is in the ledger, and only
// that. Trades of it are fetched again.
func TestFullSpool(t *testing.T) {
	t.Parallel()
	const outage = 20 * time.Second // in which twice as much comes as the spool has room for
	for _, full := range []string{"newest", "oldest"} {
		t.Run(full, func(t *testing.T) {
			t.Parallel()
			s := plan{
				seed: cmp.Or(*seedFlag, 1), length: outage + 3*time.Second, markets: 6, weight: 30_000,
				env: []string{"SPOOL_BYTES=1MiB", "SPOOL_FULL=" + full, "KEYFRAME_BLOCKS=1", "BACKFILL_RETRY_INTERVAL=1s"},
				during: func(ctx context.Context, s *trial) {
					s.wait(ctx, time.Second)
					s.weather.add(trouble{
						what: "the store is away", from: time.Now(), to: time.Now().Add(outage + afterglow),
						causes: []market.Cause{market.CauseOverflow},
					})
					s.store.(sqliteFile).lock(ctx, s, outage)
				},
			}.run(t)
			if s.counts.Entries[market.CauseOverflow] == 0 {
				t.Error("the spool was never full, and the test shows nothing")
			}
			if s.counts.Backfilled == 0 {
				t.Error("no trade was fetched again")
			}
		})
	}
}
