package exchange

import (
	"bytes"
	"cmp"
	"slices"
	"strings"
	"time"
)

// promptly is how late an event may go out and still count as unharmed: a client that asks over REST meanwhile does not
// take the stream for mute.
const promptly = 500 * time.Millisecond

// Receipt says that a client has read events of a stream, each as the source made it, in time, and whole: it echoed a
// ping that was sent behind them. Only the times that a fault of the clock changed may be other ones. What a client read
// just before its connection ended has no receipt.
type Receipt struct {
	Conn            int // of all connections, by age
	Stream          string
	FirstID, LastID int64     // of the first and the last of them; none between is missing
	Asked, Echoed   time.Time // when the ping was queued, and when its echo came
}

// WithReceipts tells of all depth updates and trades that clients have read. tell is called by one goroutine for each
// connection and must not block or call the Server. What a FrameFilter changes is not known to it.
func WithReceipts(tell func(Receipt)) Option { return func(c *config) { c.receipts = tell } }

// note is what is remembered of an event on its way to a connection until there is a receipt; the zero value when there
// will be none.
type note struct {
	stream      string
	first, last int64
	made        time.Time
}

// noteOf returns the note of an event that the source has just made.
func (s *Server) noteOf(f Frame) note {
	_, kind, _ := bytes.Cut(f.Stream, []byte("@"))
	if s.receipts == nil || !bytes.HasPrefix(kind, []byte("depth")) && string(kind) != "trade" {
		return note{}
	}
	n := note{stream: string(f.Stream), made: time.Now()}
	n.first, n.last = idsOf(f.Raw)
	return n
}

// noteQueued remembers an event that was just queued as it is.
func (c *conn) noteQueued(n note) {
	if n.stream == "" || time.Since(n.made) > promptly {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.mute() {
		c.notes = append(c.notes, n)
	}
}

// takeNotes returns the notes of what was queued before a ping that was echoed, and forgets them. The caller holds mu.
func (c *conn) takeNotes(p sentPing) []note {
	n := max(p.behind-c.noted, 0)
	taken := c.notes[:n:n]
	c.notes, c.noted = c.notes[n:], c.noted+n
	return taken
}

// receipts returns what the echo of a ping says of the events queued before it: runs of ids without a gap.
func (c *conn) receipts(notes []note, p sentPing, now time.Time) []Receipt {
	slices.SortFunc(notes, func(a, b note) int {
		return cmp.Or(strings.Compare(a.stream, b.stream), cmp.Compare(a.first, b.first), cmp.Compare(a.last, b.last))
	})
	var list []Receipt
	for _, n := range notes {
		if k := len(list); k > 0 && list[k-1].Stream == n.stream && n.first <= list[k-1].LastID+1 {
			list[k-1].LastID = max(list[k-1].LastID, n.last)
			continue
		}
		list = append(list, Receipt{c.number, n.stream, n.first, n.last, p.at, now})
	}
	return list
}
