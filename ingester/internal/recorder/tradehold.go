package recorder

import (
	"cmp"
	"context"
	"slices"
	"time"

	"tapedeck/shared/market"
)

const (
	// maxHeldTrades bounds the trades that wait for those before them: some seconds' worth of the busiest market
	// (measured: 1,362 messages in a second), 400 kB.
	maxHeldTrades = 4096

	// maxJump is how far ids may jump from one event to the next before more is asked for as evidence: trades of half a
	// day of the busiest market, or minutes of its depth updates.
	maxJump = 1_000_000
)

// heldTrade is a trade that waits for those before it.
type heldTrade struct {
	market.Trade
	at       time.Time
	doubt    market.Cause // that stood when it came
	believed bool         // the exchange is as far
	denied   int          // answers that it is not, or no answers
}

func (h heldTrade) order(id int64) int { return cmp.Compare(h.ID, id) }

// hold keeps a trade for a short time, until those before it are here: frames may come out of order, or over the other
// connection only.
func (t *trades) hold(ctx context.Context, tr *market.Trade, now time.Time) {
	if !t.certain && tr.ID-t.lastID <= maxJump {
		t.believeFirst(ctx)
	}
	at, found := slices.BinarySearchFunc(t.held, tr.ID, heldTrade.order)
	if found {
		t.meter.duplicate.Inc()
		return
	}
	t.held = slices.Insert(t.held, at, heldTrade{Trade: *tr, at: now, doubt: t.doubt})
	t.doubt = ""
	switch {
	case len(t.held) >= maxHeldTrades:
		t.giveUpHold(ctx, now)
	case t.credible():
		t.watch.judgeAt = time.Time{}
	}
}

// holdDeadline returns when to wait no longer.
func (t *trades) holdDeadline() time.Time {
	switch {
	case len(t.held) == 0:
		return time.Time{}
	case !t.watch.judgeAt.IsZero():
		return t.watch.judgeAt
	default:
		return t.held[0].at.Add(holdTime)
	}
}

// release records what follows lastID by now.
func (t *trades) release(ctx context.Context, now time.Time) {
	n := 0
	for ; n < len(t.held) && t.held[n].ID <= t.lastID+1; n++ {
		if t.held[n].ID == t.lastID+1 {
			t.take(ctx, &t.held[n].Trade, now)
		} else {
			t.meter.duplicate.Inc()
		}
	}
	if n == 0 {
		return
	}
	t.watch.judgeAt = time.Time{}
	if t.held = slices.Delete(t.held, 0, n); len(t.held) == 0 {
		t.held = nil // gives the memory back: holes are rare
	}
}

// near reports whether two ids are so close that neither makes the other hard to believe.
func near(a, b int64) bool { return a-b <= maxJump && b-a <= maxJump }

// credible reports whether the first trade held is believed to follow lastID: ids that are well-formed may be nonsense
// all the same. A far one is believed when the next one follows it, or the exchange says that it is as far.
func (t *trades) credible() bool {
	first := &t.held[0]
	return first.believed || first.ID-t.lastID <= maxJump || len(t.held) > 1 && t.held[1].ID == first.ID+1
}

// endHold makes a hole of what is missing before the first trade held. Where that is hard to believe, the exchange is
// asked first.
func (t *trades) endHold(ctx context.Context, now time.Time) {
	if !t.credible() {
		t.watch.judgeAt = now.Add(quietTime)
		t.ask(now)
		return
	}
	t.pass(ctx, now)
}

// pass makes the hole, and records what is behind it.
func (t *trades) pass(ctx context.Context, now time.Time) {
	if t.held[0].ID <= t.lastID+1 {
		t.release(ctx, now)
		return
	}
	if !t.certain && t.held[0].ID-t.lastID > maxJump {
		t.replaceFirst(ctx, now)
		return
	}
	cause := market.Cause("")
	for i := range t.held { // the doubt came with whichever of them came first
		if doubt := t.held[i].doubt; doubt != "" {
			cause, t.held[i].doubt = doubt, ""
			break
		}
	}
	t.missed(ctx, &t.held[0], t.links.cause(cause, now))
	t.release(ctx, now)
}

// giveUpHold ends the wait of all trades held at once. What is hard to believe is dropped.
func (t *trades) giveUpHold(ctx context.Context, now time.Time) {
	for len(t.held) > 0 {
		if t.credible() {
			t.pass(ctx, now)
		} else {
			t.dropHeld()
		}
	}
}

// dropHeld drops the first trade held.
func (t *trades) dropHeld() {
	t.complain("its id is far beyond the exchange's", t.held[0].Trade)
	if t.doubt == "" {
		t.doubt = t.held[0].doubt // which stands for the next one
	}
	if t.held = slices.Delete(t.held, 0, 1); len(t.held) == 0 {
		t.held = nil
	}
}

// judgeHeld takes the exchange's word on the first trades held, as far as they are hard to believe: its last id, asked
// for at the given time, or no answer.
func (t *trades) judgeHeld(ctx context.Context, id int64, asked, now time.Time) {
	for len(t.held) > 0 && !t.credible() {
		first := &t.held[0]
		if id >= first.ID {
			first.believed = true
			t.watch.judgeAt = time.Time{}
			t.pass(ctx, now)
			continue
		}
		if !first.at.Before(asked) {
			return // it came after the question
		}
		if first.denied++; first.denied < maxDenied {
			return
		}
		t.watch.judgeAt = time.Time{}
		t.dropHeld()
	}
}
