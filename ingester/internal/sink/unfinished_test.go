package sink

import (
	"slices"
	"testing"
	"time"

	"tapedeck/ingester/internal/spool"
	"tapedeck/shared/market"
)

// TestUnfinished saves 11 to 15 of a block at position 3, and lets something follow.
func TestUnfinished(t *testing.T) {
	for name, c := range map[string]struct {
		next  *delivery
		want  []spool.Position // delivered
		acked spool.Position   // where all up to the next is in the store
	}{
		"the whole block":           {next: sends(4, 0, blockOf(trades, 11, 20)), want: []spool.Position{4}, acked: 4},
		"no more than what it had":  {next: sends(4, 0, blockOf(trades, 11, 15)), want: []spool.Position{4}, acked: 4},
		"more of another series":    {next: sends(4, 0, blockOf(depth, 11, 20)), want: []spool.Position{4}, acked: 2},
		"trades fetched again":      {next: sends(4, 0, blockOf(trades, 1, 10)), want: []spool.Position{4}, acked: 2},
		"the block behind":          {next: sends(4, 0, blockOf(trades, 21, 30)), want: []spool.Position{3, 4}, acked: 4},
		"another process":           {next: sends(4, 0, int64(2), blockOf(depth, 1, 2)), want: []spool.Position{3, 4}, acked: 4},
		"part of it":                {next: sends(4, 0, blockOf(trades, 11, 12)), want: []spool.Position{4}, acked: 2},
		"nobody knows which":        {next: sends(4, 0, int64(0), market.CauseDamaged), want: []spool.Position{4}, acked: 2},
		"a refusal":                 {next: sends(4, 0, hole(trades, market.CauseOverflow, 11, 20)), want: []spool.Position{4}, acked: 4},
		"a refusal of a part":       {next: sends(4, 0, hole(trades, market.CauseOverflow, 13, 20)), want: []spool.Position{4}, acked: 2},
		"a hole before":             {next: sends(4, 0, hole(trades, market.CauseStall, 1, 10)), want: []spool.Position{4}, acked: 2},
		"a step of the clock in it": {next: sends(4, 0, hole(trades, market.CauseClock, 11, 20)), want: []spool.Position{4}, acked: 2},
	} {
		t.Run(name, func(t *testing.T) {
			saved := sends(3, 0, blockOf(trades, 11, 15), market.CauseOverflow)
			saved.unfinished = true
			var u unfinished
			isStored := func(*market.Block) bool { return false }
			if got := u.sift([]delivery{*saved}, time.Time{}, isStored); len(got) > 0 || u.settled(2) != 2 || u.settled(3) != 2 {
				t.Fatalf("delivered: %+v, forgotten: %d", got, u.settled(3))
			}
			var got []spool.Position
			sifted := u.sift([]delivery{*c.next}, time.Time{}, isStored)
			if u.settled(c.next.position-1) != 2 {
				t.Error("forgotten before what takes its place is stored")
			}
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

// TestPatience: a saved block of which nothing more is heard is delivered after some time in which things went on.
func TestPatience(t *testing.T) {
	saved := sends(3, 0, blockOf(trades, 11, 15))
	saved.unfinished = true
	u := newUnfinished(5 * time.Second)
	now := time.Unix(0, 0)
	asked := func(*market.Block) bool { return true }
	u.sift([]delivery{*saved}, now, asked)
	for n := range 15 {
		now = now.Add(time.Hour) // however long the machine stood still
		if got := u.sift(nil, now, asked); len(got) > 0 {
			t.Fatalf("delivered after %d ticks", n+1)
		}
		u.sift(nil, now.Add(tick/2), asked) // which is no tick
	}
	if got := u.sift(nil, now.Add(time.Hour), asked); len(got) != 1 || got[0].position != 3 || !got[0].stored || u.settled(9) != 9 {
		t.Errorf("delivered: %+v, forgotten: %d", got, u.settled(9))
	}
}

// TestLossBehindASavedBlock: what was lost behind a saved block, and told of by another series, is not forgotten when the
// block is delivered late.
func TestLossBehindASavedBlock(t *testing.T) {
	saved := sends(3, 1, blockOf(trades, 11, 15))
	saved.unfinished = true
	fetched := hole(trades, market.CauseStall, 21, 25)
	fetched.Repair = market.RepairBackfilled
	a := newAccount(0)
	var u unfinished
	var entries []market.Gap
	for _, v := range []*delivery{
		sends(1, 1, blockOf(trades, 1, 10)), sends(2, 1, blockOf(depth, 1, 10)), saved,
		// Lost are the whole block, the entry of the hole behind it, and what was fetched again of that.
		sends(7, 1, blockOf(depth, 11, 20), market.CauseDamaged), sends(8, 1, blockOf(trades, 26, 30)), sends(9, 1, fetched),
	} {
		for _, v := range u.sift([]delivery{*v}, time.Time{}, func(*market.Block) bool { return false }) {
			entries = append(entries, book(a, &v).Gaps...)
		}
	}
	if len(entries) != 2 || entries[0].Cause != market.CauseDamaged || entries[0].FirstID != 16 || entries[0].LastID != 25 ||
		entries[1].Repair != market.RepairResumed {
		t.Errorf("ledger %+v", entries)
	}
}
