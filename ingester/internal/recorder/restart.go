package recorder

import "tapedeck/shared/market"

// restart finds what is missing between what is stored already and what this process records. The two become known in
// either order, as the store may not answer for a while.
type restart struct {
	tail  *market.Block
	begun bool
	last  int64       // the last id that was missed, if the tail does not hold it
	event market.Time // of the first state
	recv  market.Time
	done  bool
}

// begin notes that recording began: ids up to and including last were not recorded by this process.
func (r *restart) begin(last int64, event, recv market.Time) {
	if !r.begun {
		r.begun, r.last, r.event, r.recv = true, last, event, recv
	}
}

// hole returns the ledger entry once both sides are known, once, if anything is missing.
func (r *restart) hole(series market.Series, repair market.Repair) (market.Gap, bool) {
	if r.done || !r.begun || r.tail == nil {
		return market.Gap{}, false
	}
	r.done = true
	if r.last <= r.tail.LastID {
		return market.Gap{}, false
	}
	return market.Gap{
		Series: series, Cause: market.CauseRestart, FirstID: r.tail.LastID + 1, LastID: r.last,
		Start: r.tail.End, End: r.event, RecvEnd: r.recv, DetectedAt: r.recv, RepairedAt: r.recv, Repair: repair,
	}, true
}
