package storm

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"math"
	"slices"
	"testing"
	"time"

	"tapedeck/shared/market"
	"tapedeck/shared/tape"
)

// reader is the part of a store that is judged.
type reader interface {
	Blocks(ctx context.Context, query market.BlockQuery) ([]market.Block, error)
	Keyframe(ctx context.Context, m market.Market, at market.Time) (market.Keyframe, error)
	Gaps(ctx context.Context, query market.GapQuery) ([]market.Gap, error)
	Close(ctx context.Context) error
}

const forever = market.Time(math.MaxInt64)

// life is one process of the ingester.
type life struct {
	from, to   time.Time
	killed     bool
	unrecorded bool // asked to stop, it said that it had frames which it could not record
	last       bool // it ended when all was over
}

// judge compares what a store holds with the truth.
type judge struct {
	t       *testing.T
	store   reader
	truth   *truth
	weather *weather

	receipts *receipts
	lives    []life
	books    map[string]market.Snapshot // the whole book of each market before the first event
	// inREST reports whether the exchange still tells of a trade.
	inREST func(symbol string, id int64) (bool, error)
	// asked is called with each depth update that is held, and the true book after it. It may be nil.
	asked func(s *sample) error

	problems []string
	run      stretch
	counts   counts
}

// stretch are missing events of which the same is to be said.
type stretch struct {
	series          market.Series
	what            string
	firstID, lastID int64
	from, to        time.Time
}

// counts says how much was compared.
type counts struct {
	Made, Held, Missing, Backfilled int // events
	Read, Owed                      int // of them the ingester has certainly read, or must even hold

	Oldest                    time.Duration // how long before a kill something was recorded that died with the process
	Entries                   map[market.Cause]int
	Books, Keyframes, Unknown int // compared; events held without a book
	Asked                     int
}

func (j *judge) problem(format string, args ...any) {
	j.problems = append(j.problems, fmt.Sprintf(format, args...))
}

// lost says something of an event that is missing. What it says of several in a row, it says once.
func (j *judge) lost(series market.Series, e *event, what string) {
	r := &j.run
	if r.series == series && r.what == what && e.firstID == r.lastID+1 {
		r.lastID, r.to = e.lastID, e.made
		return
	}
	j.flush()
	j.run = stretch{series, what, e.firstID, e.lastID, e.made, e.made}
}

// flush says what lost has gathered.
func (j *judge) flush() {
	if r := &j.run; r.what != "" {
		j.problem("%v: ids %d to %d, made from %s to %s, %s. The weather then: %s", r.series, r.firstID, r.lastID,
			j.since(r.from), j.since(r.to), r.what, j.weather.around(r.series, r.from))
	}
	j.run = stretch{}
}

// allow is how many problems are told in full.
const allow = 40

// since returns a time as the log of the weather has it.
func (j *judge) since(at time.Time) string {
	return fmt.Sprintf("%.3f", at.Sub(j.weather.start).Seconds())
}

// judge judges everything. lasts are ids that must be held, or have a successor that is.
func (j *judge) judge(symbols []string, lasts map[market.Series]int64) error {
	j.counts.Entries = map[market.Cause]int{}
	for _, symbol := range symbols {
		for _, stream := range []market.Stream{market.Depth, market.Trades} {
			series := market.Series{Market: market.Market{Exchange: market.Binance, Symbol: symbol}, Stream: stream}
			if err := j.series(series, lasts[series]); err != nil {
				return fmt.Errorf("judge %v: %w", series, err)
			}
		}
	}
	if c := &j.counts; float64(c.Owed) < leastOwed*float64(c.Made) {
		j.problem("it is known of only %d of %d events that the ingester must have them", c.Owed, c.Made)
	}
	return nil
}

// series judges one series.
func (j *judge) series(series market.Series, last int64) error {
	blocks, err := j.blocks(series)
	if err != nil {
		return err
	}
	entries, err := j.entries(series)
	if err != nil {
		return err
	}
	var keyframes []market.Keyframe
	var books *bookWalk
	if series.Stream == market.Depth {
		if keyframes, err = j.keyframes(series.Market); err != nil {
			return err
		}
		books = j.newBookWalk(series.Market, keyframes)
	}
	duty, started := j.newDuty(series, entries, keyframes), j.counts
	var first idRange // held, and made while all was well
	first.first, first.last = -1, -1
	next, stop := iter.Pull(j.stored(series, blocks))
	defer stop()
	stored, more := next()
	if !more {
		j.problem("%v: nothing is held", series)
		return nil
	}
	steps := stepsOf(entries)
	var held, late idRanges // late came behind the back of an entry that says they are missing
	passed := 0             // entries that lie below
	var before time.Time    // when the last event that is held was made
	for made, err := range j.truth.events(series) {
		if err != nil {
			return err
		}
		for more && stored.lastID < made.firstID {
			j.problem("%v: ids %d to %d are held and were never made", series, stored.firstID, stored.lastID)
			stored, more = next()
		}
		is := more && stored.firstID <= made.lastID
		if is {
			if first.first < 0 {
				first.first = made.firstID
			}
			j.compare(series, made, stored)
			held.add(made.firstID, made.lastID)
			for passed < len(entries) && entries[passed].LastID < made.firstID {
				passed++
			}
			for i := passed; i < len(entries) && entries[i].FirstID <= made.lastID; i++ {
				if entries[i].lateFor(stored) {
					late.add(made.firstID, made.lastID)
					break
				}
			}
		} else if len(held) > 0 && more {
			if err := j.missing(series, made, entries); err != nil {
				return err
			}
		}
		if first.last < 0 && j.weather.sheltered(made.made) {
			first.last = made.firstID
		}
		duty.see(made, stored, is)
		for id := made.firstID; id <= made.lastID; id++ { // a snapshot's id may lie within an event
			if step := steps[id]; step != nil { // the clock was wrong before a hole, or is behind it
				step.explained = j.weather.explains(market.CauseClock, series, before) ||
					j.weather.explains(market.CauseClock, series, made.made)
			}
		}
		j.counts.Made++
		if books != nil {
			if err := books.see(made, stored, is); err != nil {
				return err
			}
		}
		if is {
			before = made.made
			stored, more = next()
		}
	}
	for ; more; stored, more = next() {
		j.problem("%v: ids %d to %d are held and were never made", series, stored.firstID, stored.lastID)
	}
	if n := len(held); n == 0 || held[n-1].last < last {
		j.problem("%v: held up to id %v; id %d was made while all was well", series, held[max(n-1, 0):], last)
	}
	j.flush()
	j.ledger(series, entries, held, late)
	j.enough(series, started, j.counts, first)
	return nil
}

// blocks returns all blocks of a series, by id.
func (j *judge) blocks(series market.Series) ([]market.Block, error) {
	q := market.BlockQuery{Series: series, To: forever, Limit: 500}
	var all []market.Block
	for {
		page, err := j.store.Blocks(j.t.Context(), q)
		if err != nil {
			return nil, err
		}
		all = append(all, page...)
		if len(page) < q.Limit {
			break
		}
		end := &page[len(page)-1]
		q.After, q.From = end.Key(), end.Start
	}
	slices.SortFunc(all, func(a, b market.Block) int {
		return cmp.Or(cmp.Compare(a.FirstID, b.FirstID), cmp.Compare(a.LastID, b.LastID))
	})
	return all, nil
}

// entry is an entry of the ledger, and what was found of it.
type entry struct {
	market.Gap
	missing   bool // some of its ids are
	explained bool // something of the kind went wrong when one of its ids was made, or that which stands behind it
}

// stepsOf returns the entries of steps of the clock, by the event that they stand before.
func stepsOf(entries []entry) map[int64]*entry {
	steps := map[int64]*entry{}
	for i := range entries {
		if e := &entries[i]; e.Cause == market.CauseClock {
			steps[e.FirstID] = e
		}
	}
	return steps
}

// lateFor reports whether an event of the entry came after all, behind its back.
func (e *entry) lateFor(held *event) bool {
	return e.FirstID <= held.lastID && held.firstID <= e.LastID && held.received > e.DetectedAt
}

// entries returns the ledger of a series, by id.
func (j *judge) entries(series market.Series) (entries []entry, err error) {
	gaps, err := j.store.Gaps(j.t.Context(), market.GapQuery{
		Market: series.Market, Stream: series.Stream, To: forever, Limit: math.MaxInt32,
	})
	slices.SortFunc(gaps, func(a, b market.Gap) int { return cmp.Compare(a.FirstID, b.FirstID) })
	for _, g := range gaps {
		entries = append(entries, entry{Gap: g})
	}
	return entries, err
}

// stored yields the events that blocks hold, by id. What is held twice is a problem, and yielded once.
func (j *judge) stored(series market.Series, blocks []market.Block) iter.Seq[*event] {
	return func(yield func(*event) bool) {
		var decoder tape.Decoder
		last := int64(-1)
		give := func(e *event) bool {
			if e.firstID <= last {
				j.problem("%v: ids %d to %d are held twice", series, e.firstID, min(e.lastID, last))
				return true
			}
			last = e.lastID
			return yield(e)
		}
		for i := range blocks {
			b := &blocks[i]
			var err error
			if series.Stream == market.Depth {
				var updates []market.DepthUpdate
				updates, err = decoder.Depth(b.Data)
				for i := range updates {
					u := &updates[i]
					if !give(&event{firstID: u.FirstID, lastID: u.LastID, time: u.EventTime, received: u.RecvTime, update: *u}) {
						return
					}
				}
			} else {
				var trades []market.Trade
				trades, err = decoder.Trades(b.Data)
				for i := range trades {
					t := &trades[i]
					if !give(&event{firstID: t.ID, lastID: t.ID, time: t.EventTime, received: t.RecvTime, trade: *t}) {
						return
					}
				}
			}
			if err != nil {
				j.problem("%v: block %d to %d: %v", series, b.FirstID, b.LastID, err)
			}
		}
	}
}

// compare compares an event as it is held with how it was made. Only the exchange's clock may have been wrong.
func (j *judge) compare(series market.Series, made, held *event) {
	j.counts.Held++
	same := made.firstID == held.firstID && made.lastID == held.lastID
	if off := held.time.Sub(made.time); off != 0 && !slices.Contains(j.weather.clockErrors(made.made), off) {
		j.problem("%v: id %d, made at %s, is held with the time %v, not %v", series, made.lastID, j.since(made.made), held.time, made.time)
	}
	if series.Stream == market.Depth {
		m, h := &made.update, &held.update
		same = same && m.PrevID == h.PrevID && slices.Equal(m.Bids, h.Bids) && slices.Equal(m.Asks, h.Asks) && h.RecvTime > 0
	} else {
		m, h := made.trade, held.trade
		if h.Flags&market.TradeFlagBackfilled != 0 {
			j.counts.Backfilled++
			h.Flags &^= market.TradeFlagBackfilled
			m.SentTime = 0
		} else {
			m.SentTime = m.SentTime.Add(held.time.Sub(made.time))
		}
		same = same && h.RecvTime > 0
		m.EventTime, h.EventTime, h.RecvTime = 0, 0, 0
		same = same && m == h
	}
	if !same {
		j.problem("%v: held is %+v, made was %+v", series, *held, *made)
	}
}

// missing looks for the ledger's word on an event that is not held, though one before and one behind it are. Something
// must have gone wrong when it was made.
func (j *judge) missing(series market.Series, made *event, entries []entry) error {
	j.counts.Missing++
	rest := idRanges{{first: made.firstID, last: made.lastID}}
	fetch := true // a process missed it, and had the time to fetch it again
	for i := range entries {
		g := &entries[i]
		if g.Cause.IsDoubt() || g.LastID < made.firstID || g.FirstID > made.lastID {
			continue
		}
		rest = rest.without(g.FirstID, g.LastID)
		at := g.DetectedAt.Std()
		fetch = fetch && (g.Cause != market.CauseOverflow && j.lived(at, backfillTime) || j.inherited(at))
		g.missing = true
		g.explained = g.explained || j.weather.explains(g.Cause, series, made.made)
	}
	if len(rest) > 0 {
		j.lost(series, made, "are missing, and the ledger does not say so")
	}
	if !j.weather.explains("", series, made.made) {
		j.lost(series, made, "are missing, and nothing went wrong then")
	}
	if series.Stream == market.Trades && fetch {
		told, err := j.inREST(series.Market.Symbol, made.firstID)
		if err != nil {
			return err
		}
		if told {
			j.lost(series, made, "were not fetched again")
		}
	}
	return nil
}

// A process must have lived on so long for the trades that it missed to be fetched again, or those that earlier ones
// missed.
const (
	backfillTime = time.Minute
	inheritTime  = 90 * time.Second
)

// ledger looks for entries that should not be there, or give a wrong cause. Of the ids that are held, some came late.
func (j *judge) ledger(series market.Series, entries []entry, held, late idRanges) {
	for i := range entries {
		g := &entries[i]
		j.counts.Entries[g.Cause]++
		at := g.DetectedAt.Std()
		switch {
		case g.Cause == market.CauseClock:
			if !g.explained && !j.weather.explains(g.Cause, series, at) { // it may be found late
				j.problem("%v: the clock went well: %+v", series, g.Gap)
			}
			continue
		case g.Cause.IsDoubt():
			j.problem("%v: the book was never wrong: %+v", series, g.Gap)
			continue
		case g.Repair == "" && j.lived(at, time.Minute):
			j.problem("%v: the hole was never closed: %+v", series, g.Gap)
		case g.missing && !g.explained:
			j.problem("%v: nothing went wrong that this could come of: %+v. The weather then: %s", series, g.Gap, j.weather.around(series, at))
		}
		all, within := g.LastID-g.FirstID+1, held.within(g.FirstID, g.LastID)
		switch {
		case g.Repair == market.RepairBackfilled && within < all:
			j.problem("%v: %d of %d ids are said to be fetched again and are not held: %+v", series, all-within, all, g.Gap)
		case g.Repair != market.RepairBackfilled && within > late.within(g.FirstID, g.LastID) && !held.straddles(g.FirstID, g.LastID):
			j.problem("%v: %d of %d ids are held, and the ledger says that they are missing: %+v", series, within, all, g.Gap)
		}
	}
}

// lived reports whether the process of a time lived on for at least d.
func (j *judge) lived(at time.Time, d time.Duration) bool {
	for _, l := range j.lives {
		if !at.After(l.to) {
			return l.last || l.to.Sub(at) >= d
		}
	}
	return true
}

// inherited reports whether a process that began later than at had the time to take up what was left then.
func (j *judge) inherited(at time.Time) bool {
	return slices.ContainsFunc(j.lives, func(l life) bool { return l.from.After(at) && l.to.Sub(l.from) >= inheritTime })
}

// idRange are the ids first to last.
type idRange struct {
	first, last int64
	head        int64 // the last id of the first event
}

// idRanges are ordered and apart.
type idRanges []idRange

// add appends ids above all others.
func (r *idRanges) add(first, last int64) {
	if n := len(*r); n > 0 && (*r)[n-1].last == first-1 {
		(*r)[n-1].last = last
		return
	}
	*r = append(*r, idRange{first, last, last})
}

// without returns the ranges but for the ids first to last.
func (r idRanges) without(first, last int64) (rest idRanges) {
	for _, have := range r {
		if have.first < first {
			rest = append(rest, idRange{first: have.first, last: min(have.last, first-1)})
		}
		if have.last > last {
			rest = append(rest, idRange{first: max(have.first, last+1), last: have.last})
		}
	}
	return rest
}

// within returns how many of the ids first to last are in the ranges.
func (r idRanges) within(first, last int64) (n int64) {
	for _, have := range r {
		n += max(0, min(have.last, last)-max(have.first, first)+1)
	}
	return n
}

// straddles reports whether the ids first to last end within the first event of a range, and none before it is in any.
// So far does an entry reach that a snapshot ended whose id lies within the event that follows it.
func (r idRanges) straddles(first, last int64) bool {
	for _, have := range r {
		if have.last >= first {
			return have.first > first && last <= have.head
		}
	}
	return false
}
