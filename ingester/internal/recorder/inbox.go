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
	markConnected                    // frames from here on come over a new connection
	markDisconnected                 // the connection is gone
	markLost                         // frames were dropped here, as the inbox was full
)

// entryHeaderBytes is the room before each frame: kind, receive time, length.
const entryHeaderBytes = 1 + 8 + 4

// spareBytes is how much memory an idle inbox keeps of what a burst made it grow to.
const spareBytes = 1 << 20

// Inbox is the bounded queue between the feed and the recorder of one market. Frames are copied into one run of
// memory, which the recorder takes whole and gives back, so that neither side allocates and the lock is held for a
// copy. Marks of connections travel in the same order as the frames. Any number of goroutines may put; one takes.
type Inbox struct {
	limit int
	wait  bool
	ready chan struct{} // holds a token when there is something to take
	space chan struct{} // holds a token when the entries were taken; for wait

	mu     sync.Mutex
	filled []byte
	lost   int // frames dropped since the last mark of it
	closed bool
}

// NewInbox returns an inbox of at most limit bytes. When it is full it drops frames, or, with wait, makes Frame wait.
func NewInbox(limit int, wait bool) *Inbox {
	return &Inbox{limit: limit, wait: wait, ready: make(chan struct{}, 1), space: make(chan struct{}, 1)}
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
	if len(q.filled) > 0 && len(q.filled)+2*entryHeaderBytes+len(frame) > q.limit {
		if !q.wait {
			q.lost++
		}
		return false
	}
	q.appendAfterLoss(kind, recv, frame)
	return true
}

// Connected marks that the frames put from here on come over a new connection. Marks are let in beyond the bound:
// connections are made at a bounded rate, and a mark has 13 bytes.
func (q *Inbox) Connected(recv market.Time) { q.force(markConnected, recv, nil) }

// Disconnected marks that the connection is gone.
func (q *Inbox) Disconnected(recv market.Time) { q.force(markDisconnected, recv, nil) }

// force puts an entry, whether there is room or not.
func (q *Inbox) force(kind markKind, recv market.Time, frame []byte) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.appendAfterLoss(kind, recv, frame)
}

// appendAfterLoss adds an entry, behind a mark of what was dropped before it. The lock is held.
func (q *Inbox) appendAfterLoss(kind markKind, recv market.Time, frame []byte) {
	if q.lost > 0 {
		q.append(markLost, recv, nil)
		q.lost = 0
	}
	q.append(kind, recv, frame)
}

// append adds an entry. The lock is held.
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
	if cap(spare) > spareBytes && len(spare) < cap(spare)/4 {
		spare = nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	entries, q.filled = q.filled, spare[:0]
	notify(q.space)
	return entries, q.closed
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

// countFrames returns the number of frames among the entries.
func countFrames(entries []byte) (frames int) {
	for len(entries) > 0 {
		var e entry
		if e, entries = nextEntry(entries); e.kind <= markOther {
			frames++
		}
	}
	return frames
}

// notify leaves a token in ch unless there is one.
func notify(ch chan<- struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
