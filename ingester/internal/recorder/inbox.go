package recorder

import (
	"context"
	"encoding/binary"
	"sync"

	"tapedeck/shared/market"
)

// markKind says what an entry of an Inbox is.
type markKind uint8

const (
	markDepth        markKind = iota // a frame of the depth stream
	markTrades                       // a frame of the trade stream
	markOther                        // a frame whose loss leaves no hole, such as a bookTicker
	markConnected                    // there is one more connection
	markDisconnected                 // there is one connection less
	markLost                         // frames were dropped here, as the inbox was full
)

// entryHeaderBytes is the room before each frame: kind, receive time, length.
const entryHeaderBytes = 1 + 8 + 4

const (
	minInboxBytes = 4 << 10 // what the memory of an inbox begins with
	// spareBytes is how much of what a burst made it grow to an inbox keeps when it is used less.
	spareBytes = 1 << 20
	// idleBytes is how much it keeps once nothing has come for a while: half of what it is guaranteed.
	idleBytes = maxFloor / 2
)

// Inbox is the bounded queue between the feed and the recorder of one market. Frames are copied into one run of
// memory, which the recorder takes whole and gives back, so that neither side allocates and the lock is held for a
// copy. Marks of connections travel in the same order as the frames. Any number of goroutines may put; one takes.
//
// Both runs of memory, the one that is filled and the one that is read, are charged to the budget of the process, with
// what they could hold; only a run that has to grow asks it.
type Inbox struct {
	wait  bool
	ready chan struct{} // holds a token when there is something to take
	space chan struct{} // holds a token when the entries were taken; for wait

	mu      sync.Mutex
	account account
	filled  []byte
	lost    bool // whether frames were dropped since the last mark of it
	closed  bool
}

// NewInbox returns an inbox within the budget of memory. When there is no room it drops frames, or, with wait, makes
// Frame wait.
func NewInbox(memory *Memory, wait bool) *Inbox {
	return &Inbox{
		wait: wait, ready: make(chan struct{}, 1), space: make(chan struct{}, 1), account: account{memory: memory},
	}
}

// Frame puts a copy of a frame of the given stream, received at recv. Any stream but depth and trades is one of which
// a lost frame leaves no hole. It returns false when the frame was dropped, as the inbox was full; the recorder learns
// in the frame's place that something is missing. A frame that waits when ctx ends, at a stop, is let in beyond the
// bound.
func (q *Inbox) Frame(ctx context.Context, stream market.Stream, recv market.Time, frame []byte) bool {
	kind := markOther
	switch stream {
	case market.Depth:
		kind = markDepth
	case market.Trades:
		kind = markTrades
	}
	for {
		if q.tryPut(kind, recv, frame) {
			return true
		}
		if !q.wait {
			return false
		}
		select {
		case <-q.space:
		case <-ctx.Done():
			q.force(kind, recv, frame)
			return true
		}
	}
}

// tryPut puts a frame if there is room for it. A frame too large for an empty inbox is let in: it is bounded by the
// feed's read limit, and would otherwise wait for ever.
func (q *Inbox) tryPut(kind markKind, recv market.Time, frame []byte) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.grow(2*entryHeaderBytes+len(frame), len(q.filled) == 0) { // with a mark of what was lost before
		q.lost = q.lost || !q.wait
		return false
	}
	q.appendAfterLoss(kind, recv, frame)
	return true
}

// grow makes room for n bytes, or returns false when the budget does not have them; with force it always does. The
// lock is held.
func (q *Inbox) grow(n int, force bool) bool {
	need := len(q.filled) + n
	if need <= cap(q.filled) {
		return true
	}
	size := max(need, 2*cap(q.filled), minInboxBytes)
	if !q.account.take(size - cap(q.filled)) {
		// Half of what is left at a time: so the last steps, of which each copies the whole, are few.
		size = max(need, cap(q.filled)+q.account.left()/2)
		switch {
		case q.account.take(size - cap(q.filled)):
		case force:
			size = need
			q.account.force(size - cap(q.filled))
		default:
			return false
		}
	}
	grown := make([]byte, len(q.filled), size)
	copy(grown, q.filled)
	q.filled = grown
	return true
}

// Connected marks that one more connection brings frames from here on. Marks are let in beyond the bound: connections
// are made at a bounded rate, and a mark has 13 bytes.
func (q *Inbox) Connected(recv market.Time) { q.force(markConnected, recv, nil) }

// Disconnected marks that one connection is gone; it follows that connection's last frame.
func (q *Inbox) Disconnected(recv market.Time) { q.force(markDisconnected, recv, nil) }

// force puts an entry, whether there is room or not.
func (q *Inbox) force(kind markKind, recv market.Time, frame []byte) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.grow(2*entryHeaderBytes+len(frame), true)
	q.appendAfterLoss(kind, recv, frame)
}

// appendAfterLoss adds an entry, behind a mark of what was dropped before it. There is room for both; the
// lock is held.
func (q *Inbox) appendAfterLoss(kind markKind, recv market.Time, frame []byte) {
	if q.lost {
		q.append(markLost, recv, nil)
		q.lost = false
	}
	q.append(kind, recv, frame)
}

// append adds an entry, for which there is room. The lock is held.
func (q *Inbox) append(kind markKind, recv market.Time, frame []byte) {
	if len(q.filled) == 0 {
		notify(q.ready)
	}
	var header [entryHeaderBytes]byte
	header[0] = byte(kind)
	binary.LittleEndian.PutUint64(header[1:], uint64(recv))
	binary.LittleEndian.PutUint32(header[9:], uint32(len(frame)))
	q.filled = append(q.filled, header[:]...)
	q.filled = append(q.filled, frame...)
}

// Close ends the inbox: the recorder stops when it has taken what is there. Nothing may be put afterwards.
func (q *Inbox) Close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	notify(q.ready)
}

// Bytes returns how much is waiting.
func (q *Inbox) Bytes() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.filled)
}

// take returns all entries and leaves spare, the memory of an earlier take, to be filled next. closed says that no
// more will come.
func (q *Inbox) take(spare []byte) (entries []byte, closed bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if cap(spare) > spareBytes && len(spare) < cap(spare)/4 {
		q.account.give(cap(spare))
		spare = nil
	}
	entries, q.filled = q.filled, spare[:0]
	notify(q.space)
	return entries, q.closed
}

// shrink gives back what a burst made the inbox grow to, if nothing waits. spare is the memory of an earlier take that
// was handled; shrink returns what is left of it.
func (q *Inbox) shrink(spare []byte) []byte {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.filled) == 0 && cap(q.filled) > idleBytes {
		q.account.give(cap(q.filled))
		q.filled = nil
	}
	if cap(spare) > idleBytes {
		q.account.give(cap(spare))
		return nil
	}
	return spare
}

// entry is one entry of an inbox. frame is valid until the memory is given back.
type entry struct {
	kind  markKind
	recv  market.Time
	frame []byte
}

// nextEntry splits the first entry off.
func nextEntry(entries []byte) (e entry, rest []byte) {
	e.kind = markKind(entries[0])
	e.recv = market.Time(binary.LittleEndian.Uint64(entries[1:]))
	end := entryHeaderBytes + int(binary.LittleEndian.Uint32(entries[9:]))
	e.frame = entries[entryHeaderBytes:end]
	return e, entries[end:]
}

// countFrames returns how many frames of the streams that are recorded are among the entries.
func countFrames(entries []byte) (depth, trades int) {
	for len(entries) > 0 {
		var e entry
		switch e, entries = nextEntry(entries); e.kind {
		case markDepth:
			depth++
		case markTrades:
			trades++
		default: // leaves no hole
		}
	}
	return depth, trades
}

// notify leaves a token in ch unless there is one.
func notify(ch chan<- struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
