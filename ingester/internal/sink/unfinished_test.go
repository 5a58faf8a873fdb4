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
			saved := saves(3, blockOf(trades, 11, 15), market.CauseOverflow)
			var u unfinished
			if got := u.sift([]delivery{*saved}, time.Time{}, asked(absent)); len(got) > 0 || u.settled(2, nil) != 2 || u.settled(3, nil) != 2 {
				t.Fatalf("delivered: %+v, forgotten: %d", got, u.settled(3, nil))
			}
			var got []spool.Position
			sifted := u.sift([]delivery{*c.next}, time.Time{}, asked(absent))
			if u.settled(c.next.position-1, nil) != 2 {
				t.Error("forgotten before what takes its place is stored")
			}
			for _, v := range sifted {
				got = append(got, v.position)
			}
			if acked := u.settled(c.next.position, got); !slices.Equal(got, c.want) || acked != c.acked {
				t.Errorf("delivered: %v, want %v; forgotten: %d, want %d", got, c.want, acked, c.acked)
			}
			// What was lost before the saved block is lost before whatever comes first.
			if cause := sifted[0].lost; cause != market.CauseOverflow && c.next.lost == "" || len(sifted) > 1 && sifted[1].lost != "" {
				t.Errorf("lost before: %q", cause)
			}
		})
	}
}

// asked says how the store holds every block.
func asked(answer presence) func(*market.Block) presence {
	return func(*market.Block) presence { return answer }
}

// saves is a delivery of a saved block.
func saves(position spool.Position, records ...any) *delivery {
	v := sends(position, 0, records...)
	v.unfinished = true
	return v
}

// TestPatience: saved blocks of which nothing more is heard are delivered after some time in which things went on, and
// forgotten when each is stored.
func TestPatience(t *testing.T) {
	u := newUnfinished(5 * time.Second)
	now := time.Unix(0, 0)
	u.sift([]delivery{*saves(3, blockOf(trades, 11, 15)), *saves(5, blockOf(depth, 1, 2))}, now, asked(inWhole))
	for n := range 15 {
		now = now.Add(time.Hour) // however long the machine stood still
		if got := u.sift(nil, now, asked(inWhole)); len(got) > 0 {
			t.Fatalf("delivered after %d ticks", n+1)
		}
		u.sift(nil, now.Add(tick/2), asked(inWhole)) // which is no tick
	}
	got := u.sift(nil, now.Add(time.Hour), asked(inWhole))
	if len(got) != 2 || got[0].position != 3 || got[1].position != 5 || got[0].stored != inWhole {
		t.Errorf("delivered: %+v", got)
	}
	for _, stored := range []struct{ position, acked spool.Position }{{0, 2}, {3, 4}, {5, 9}} {
		if acked := u.settled(9, []spool.Position{stored.position}); acked != stored.acked {
			t.Errorf("with the block at %d stored, up to %d is forgotten, want %d", stored.position, acked, stored.acked)
		}
	}
}

// TestSavedTwice: when more of a block was saved, the first part of it is kept until that is over, as the second may not be
// on disk yet.
func TestSavedTwice(t *testing.T) {
	for name, c := range map[string]struct {
		next *delivery
		want []spool.Position
	}{
		"whole":  {sends(7, 0, blockOf(trades, 11, 20)), []spool.Position{7}},
		"killed": {sends(7, 0, int64(2)), []spool.Position{5, 7}},
	} {
		t.Run(name, func(t *testing.T) {
			var u unfinished
			u.sift([]delivery{*saves(3, blockOf(trades, 11, 13)), *saves(5, blockOf(trades, 11, 15))}, time.Time{}, asked(absent))
			if acked := u.settled(6, nil); acked != 2 {
				t.Errorf("up to %d is forgotten", acked)
			}
			var got []spool.Position
			for _, v := range u.sift([]delivery{*c.next}, time.Time{}, asked(absent)) {
				got = append(got, v.position)
			}
			if acked := u.settled(7, got); !slices.Equal(got, c.want) || acked != 7 {
				t.Errorf("delivered: %v, forgotten: %d", got, acked)
			}
		})
	}
}

// TestLossBetweenSavedBlocks: what was lost behind the first one is told behind it.
func TestLossBetweenSavedBlocks(t *testing.T) {
	var u unfinished
	u.sift([]delivery{*saves(3, blockOf(trades, 11, 15)), *saves(7, blockOf(depth, 1, 2), market.CauseDamaged)}, time.Time{}, asked(absent))
	got := u.sift([]delivery{*sends(9, 0, int64(2))}, time.Time{}, asked(absent))
	if len(got) != 3 || got[0].lost != "" || got[1].lost != market.CauseDamaged || got[2].lost != "" {
		t.Errorf("delivered: %+v", got)
	}
}

// TestSavedBlockBehindAnotherRecorder: the standing that is remembered is behind a block of another recorder, which says
// nothing of the saved one.
func TestSavedBlockBehindAnotherRecorder(t *testing.T) {
	a := newAccount(5)
	a.open(trades, &standing{Front: span(trades, 1589, 1590, 1600)}, nil)
	v := saves(3, blockOf(trades, 1480, 1500))
	if got := book(a, v); len(got.Blocks) != 1 {
		t.Errorf("written: %+v", got)
	}
	v.stored = itself
	if got := book(a, v); got.Len() != 0 {
		t.Errorf("written again: %+v", got)
	}
}

// TestLossBehindASavedBlock: what was lost behind a saved block, and told of by another series, is not forgotten when the
// block is delivered late.
func TestLossBehindASavedBlock(t *testing.T) {
	saved := saves(3, blockOf(trades, 11, 15))
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
		for _, v := range u.sift([]delivery{*v}, time.Time{}, asked(absent)) {
			entries = append(entries, book(a, &v).Gaps...)
		}
	}
	if len(entries) != 2 || entries[0].Cause != market.CauseDamaged || entries[0].FirstID != 16 || entries[0].LastID != 25 ||
		entries[1].Repair != market.RepairResumed {
		t.Errorf("ledger %+v", entries)
	}
}
