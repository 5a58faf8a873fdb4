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

// settle returns, once both sides are known, once, the ledger entries of what happened while nobody recorded: that ids
// are missing, and that the exchange's clock stepped back; nil where that is not so.
func (r *restart) settle(series market.Series, repair market.Repair) (hole, step *market.Gap) {
	if r.done || !r.begun || r.tail == nil {
		return nil, nil
	}
	r.done = true
	if r.last > r.tail.LastID {
		hole = &market.Gap{
			Series: series, Cause: market.CauseRestart, FirstID: r.tail.LastID + 1, LastID: r.last,
			Start: r.tail.End, End: r.event, RecvEnd: r.recv, DetectedAt: r.recv, RepairedAt: r.recv, Repair: repair,
		}
	}
	if r.last >= r.tail.LastID && stepsBack(r.tail.End, r.event) {
		step = clockStep(series, r.last+1, moment{event: r.tail.End}, moment{r.event, r.recv})
	}
	return hole, step
}

// before returns when the event before an id was, as far as what is stored tells, or a moment earlier; 0 when that is not
// known.
func (r *restart) before(id int64) market.Time {
	switch {
	case r.tail == nil || r.tail.FirstID >= id:
		return 0
	case r.tail.LastID >= id:
		return r.tail.Start
	default:
		return r.tail.End
	}
}

// contradicts reports whether an event shows that the exchange's ids began again lower since the tail was stored: it is
// older by id, and newer by time. What is played again from a recording is older by both.
func (r *restart) contradicts(id int64, event market.Time) bool {
	return r.tail != nil && id < r.tail.LastID && event > r.tail.End
}
