package sink

import (
	"slices"
	"testing"

	"tapedeck/ingester/internal/spool"
	"tapedeck/shared/market"
)

// TestUnfinished saves 11 to 15 of a block at position 3, and lets something follow.
func TestUnfinished(t *testing.T) {
	for name, c := range map[string]struct {
		next   *delivery
		stored bool
		want   []spool.Position // delivered
		acked  spool.Position   // where all up to the next is
	}{
		"the whole block":           {next: sends(4, 0, blockOf(trades, 11, 20)), want: []spool.Position{4}, acked: 4},
		"no more than what it had":  {next: sends(4, 0, blockOf(trades, 11, 15)), want: []spool.Position{4}, acked: 4},
		"more of another series":    {next: sends(4, 0, blockOf(depth, 11, 20)), want: []spool.Position{4}, acked: 2},
		"trades fetched again":      {next: sends(4, 0, blockOf(trades, 1, 10)), want: []spool.Position{4}, acked: 2},
		"the block behind":          {next: sends(4, 0, blockOf(trades, 21, 30)), want: []spool.Position{3, 4}, acked: 4},
		"another process":           {next: sends(4, 0, int64(2), blockOf(depth, 1, 2)), want: []spool.Position{3, 4}, acked: 4},
		"another process, stored":   {next: sends(4, 0, int64(2)), stored: true, want: []spool.Position{4}, acked: 4},
		"nobody knows which":        {next: sends(4, 0, int64(0), market.CauseDamaged), want: []spool.Position{4}, acked: 2},
		"a refusal":                 {next: sends(4, 0, hole(trades, market.CauseOverflow, 11, 20)), want: []spool.Position{4}, acked: 4},
		"a hole before":             {next: sends(4, 0, hole(trades, market.CauseStall, 1, 10)), want: []spool.Position{4}, acked: 2},
		"a step of the clock in it": {next: sends(4, 0, hole(trades, market.CauseClock, 11, 20)), want: []spool.Position{4}, acked: 2},
		"much else":                 {next: sends(4+patience, 0), want: []spool.Position{3, 4 + patience}, acked: 4 + patience},
		"somewhat less":             {next: sends(3+patience, 0), want: []spool.Position{3 + patience}, acked: 2},
	} {
		t.Run(name, func(t *testing.T) {
			saved := sends(3, 0, blockOf(trades, 11, 15), market.CauseOverflow)
			saved.unfinished = true
			var u unfinished
			isStored := func(*market.Block) bool { return c.stored }
			if got := u.sift([]delivery{*saved}, isStored); len(got) > 0 || u.settled(2) != 2 || u.settled(3) != 2 {
				t.Fatalf("delivered: %+v, forgotten: %d", got, u.settled(3))
			}
			var got []spool.Position
			sifted := u.sift([]delivery{*c.next}, isStored)
			for _, v := range sifted {
				got = append(got, v.position)
			}
			if !slices.Equal(got, c.want) || u.settled(c.next.position) != c.acked {
				t.Errorf("delivered: %v, want %v; forgotten: %d, want %d", got, c.want, u.settled(c.next.position), c.acked)
			}
			// What was lost before the saved block is lost before whatever comes first.
			if cause := sifted[0].lost; cause == "" || len(sifted) > 1 && sifted[1].lost != "" {
				t.Errorf("lost before: %q", cause)
			}
		})
	}
}
