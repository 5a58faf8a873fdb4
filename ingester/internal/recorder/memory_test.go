package recorder

import (
	"sync"
	"testing"

	"tapedeck/shared/market"
)

// TestMemoryIsShared: a market in a storm gets all but what the others are guaranteed, and all of it comes back.
func TestMemoryIsShared(t *testing.T) {
	const limit, markets = 1 << 20, 8
	memory := NewMemory(limit, markets)
	inboxes := make([]*Inbox, markets)
	for i := range inboxes {
		inboxes[i] = NewInbox(memory, false)
	}
	frame := make([]byte, 1000)
	put := func(q *Inbox) bool { return q.Frame(t.Context(), market.Depth, 1, frame) }
	frames := 0
	for put(inboxes[0]) {
		frames++
	}
	if held := inboxes[0].account.held; held < limit/2 || held > limit || int64(frames*len(frame)) > held {
		t.Errorf("a market in a storm got %d of %d bytes for %d frames", held, limit, frames)
	}
	for i, q := range inboxes[1:] {
		if !put(q) {
			t.Errorf("market %d got nothing", i+1)
		}
	}
	// Both runs of memory count: the one that is read, and the one that is filled meanwhile.
	entries, _ := inboxes[0].take(nil)
	inboxes[0].Connected(1)
	if held := inboxes[0].account.held; held != int64(cap(entries)+cap(inboxes[0].filled)) {
		t.Errorf("%d bytes are charged for %d and %d", held, cap(entries), cap(inboxes[0].filled))
	}
	second, _ := inboxes[0].take(entries)
	inboxes[0].shrink(second)
	for i, q := range inboxes {
		entries, _ := q.take(nil)
		q.account.give(cap(entries))
		if i > 0 && q.account.held != 0 {
			t.Errorf("market %d still holds %d bytes", i, q.account.held)
		}
	}
	if left := memory.shared.Load(); left != 0 {
		t.Errorf("%d bytes are still taken", left)
	}
}

// TestMemoryIsNeverOverdrawn takes and gives from many goroutines.
func TestMemoryIsNeverOverdrawn(t *testing.T) {
	memory := NewMemory(100_000, 4)
	var running sync.WaitGroup
	for i := range 8 {
		running.Go(func() {
			a := account{memory: memory}
			for n := range 10_000 {
				if size := 1 + (n*7+i)%5000; a.take(size) {
					if memory.shared.Load() > memory.limit+8*5000 { // what others have just tried to take counts for an instant
						t.Error("overdrawn")
					}
					a.give(size)
				}
			}
			if a.held != 0 {
				t.Errorf("%d bytes held at the end", a.held)
			}
		})
	}
	running.Wait()
	if left := memory.shared.Load(); left != 0 {
		t.Errorf("%d bytes are still taken", left)
	}
}

// TestMemoryOfAFewBytes: whatever the budget, each market can hold a frame.
func TestMemoryOfAFewBytes(t *testing.T) {
	memory := NewMemory(10, 3)
	for range 3 {
		q := NewInbox(memory, false)
		if !q.Frame(t.Context(), market.Depth, 1, make([]byte, 5000)) || q.Frame(t.Context(), market.Depth, 1, make([]byte, 5000)) {
			t.Error("an empty inbox takes one frame, and no second beyond the budget")
		}
	}
}

// TestFramesAreCountedByStream: what leaves no hole does not count.
func TestFramesAreCountedByStream(t *testing.T) {
	q := NewInbox(NewMemory(1<<20, 1), false)
	q.Connected(1)
	for _, stream := range []market.Stream{market.Depth, market.Trades, "", market.Depth, market.Depth, market.Trades} {
		q.Frame(t.Context(), stream, 1, []byte("{}"))
	}
	q.Disconnected(1)
	entries, _ := q.take(nil)
	if depth, trades := countFrames(entries); depth != 3 || trades != 2 {
		t.Errorf("%d updates and %d trades, want 3 and 2", depth, trades)
	}
}
