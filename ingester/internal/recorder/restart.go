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

// hole returns the ledger entry once both sides are known, once, if anything is missing, or the exchange's clock stepped
// back while nobody recorded.
func (r *restart) hole(series market.Series, repair market.Repair) (market.Gap, bool) {
	if r.done || !r.begun || r.tail == nil {
		return market.Gap{}, false
	}
	r.done = true
	if r.last <= r.tail.LastID {
		step := clockStep(series, r.last+1, moment{event: r.tail.End}, moment{r.event, r.recv})
		return step, r.last == r.tail.LastID && stepsBack(r.tail.End, r.event)
	}
	return market.Gap{
		Series: series, Cause: market.CauseRestart, FirstID: r.tail.LastID + 1, LastID: r.last,
		Start: r.tail.End, End: r.event, RecvEnd: r.recv, DetectedAt: r.recv, RepairedAt: r.recv, Repair: repair,
	}, true
}
