package storm

import (
	"fmt"
	"slices"
	"time"

	"tapedeck/shared/market"
)

// duty looks, event by event of a series, whether what the ingester has read is held. It has to be, whatever the weather,
// but for three circumstances, each of which is looked into: the process was killed before the event could be durable; it
// ended, or had just begun, while there was no book; the spool was too full.
type duty struct {
	*judge
	series  market.Series
	coming  []receipt // for ids that are not seen yet, by first id
	present []receipt // those that may speak of the ids that are seen now
	entries []entry
	books   []bookStart // by time
	gone    int64       // the last id that is missing and that no process has read
	begun   []bool      // of each life, whether it has read anything
}

// bookStart is a book that was built from a snapshot.
type bookStart struct {
	id int64 // of the snapshot
	at time.Time
}

func (j *judge) newDuty(series market.Series, entries []entry, keyframes []market.Keyframe) *duty {
	d := &duty{
		judge: j, series: series, coming: j.receipts.of(series), entries: entries, begun: make([]bool, len(j.lives)),
	}
	for i := range keyframes {
		if k := &keyframes[i]; k.UpdatesApplied == 0 {
			d.books = append(d.books, bookStart{k.UpdateID, k.RecvTime.Std()})
		}
	}
	slices.SortFunc(d.books, func(a, b bookStart) int { return a.at.Compare(b.at) })
	return d
}

// see takes the next event that was made; is says whether it is held, as stored.
func (d *duty) see(made, stored *event, is bool) {
	at, life := d.read(made)
	if life < 0 {
		if !is {
			d.gone = made.lastID
		}
		return
	}
	d.counts.Read++
	first := !d.begun[life]
	d.begun[life] = true
	recorded, ok := d.recorded(made, at, life, first)
	if !ok {
		return
	}
	if l := &d.lives[life]; l.killed {
		if left := l.to.Sub(recorded) - d.weather.stood(recorded, l.to); left < durable {
			if !is {
				d.counts.Oldest = max(d.counts.Oldest, left)
			}
			return
		}
	}
	d.counts.Owed++
	switch {
	case !is && !d.overflowed(made):
		d.lost(d.series, made, fmt.Sprintf("were read by process %d, and are missing", life+1))
	case first && d.weather.explains(market.CauseSequence, d.series, made.made):
		// The second one may have overtaken it. What is before the first trade that comes is fetched again at once.
	case is && stored.trade.Flags&market.TradeFlagBackfilled != 0 && !d.overflowed(made):
		d.lost(d.series, made, fmt.Sprintf("were read by process %d, and had to be fetched again", life+1))
	}
}

// read returns which process read an event, and when at the latest; -1 when that is not certain of any.
func (d *duty) read(made *event) (at time.Time, life int) {
	for len(d.coming) > 0 && d.coming[0].firstID <= made.firstID {
		d.present = append(d.present, d.coming[0])
		d.coming = d.coming[1:]
	}
	d.present = slices.DeleteFunc(d.present, func(r receipt) bool { return r.lastID < made.firstID })
	life = -1
	for _, r := range d.present {
		if r.lastID < made.lastID {
			continue
		}
		if i := d.lifeAt(r.at); i >= 0 && (life < 0 || i < life || i == life && r.at.Before(at)) {
			at, life = r.at, i
		}
	}
	return at, life
}

// lifeAt returns which process lived at a time; -1 when none did.
func (j *judge) lifeAt(at time.Time) int {
	return slices.IndexFunc(j.lives, func(l life) bool { return !at.Before(l.from) && !at.After(l.to) })
}

// recorded returns when at the latest a process could record an event that it had read at a time, as the first one of the
// series or not; false when perhaps it never could.
func (d *duty) recorded(made *event, at time.Time, life int, first bool) (time.Time, bool) {
	l := &d.lives[life]
	if d.series.Stream == market.Trades {
		if first {
			at = at.Add(alone)
		}
		return at, true
	}
	i := slices.IndexFunc(d.books, func(b bookStart) bool {
		return b.id >= d.gone && !b.at.Before(l.from) && !b.at.After(l.to)
	})
	if i < 0 { // what comes without a book waits for it in memory
		return at, !l.killed && !l.unrecorded
	}
	if b := d.books[i]; made.made.Before(b.at) { // it waited
		at = later(at, b.at)
		// Without knowing what earlier processes stored, a process begins with its first snapshot.
		if made.lastID <= b.id && !slices.ContainsFunc(d.books[:i], func(b bookStart) bool { return !b.at.Before(l.from) }) {
			return at, false
		}
	}
	return at, true
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// overflowed reports whether the ledger says that an event was given up as there was no room, and the store was away.
func (d *duty) overflowed(made *event) bool {
	return d.weather.explains(market.CauseOverflow, d.series, made.made) &&
		slices.ContainsFunc(d.entries, func(e entry) bool {
			return e.Cause == market.CauseOverflow && e.FirstID <= made.firstID && made.lastID <= e.LastID
		})
}

// enough looks whether a series was worth to be judged: from where on it is held, and how much of it was looked at, by
// what was counted before and after.
func (j *judge) enough(series market.Series, before, after counts, first idRange) {
	if first.last >= 0 && (first.first < 0 || first.first > first.last) {
		j.problem("%v: the first id that is held is %d; %d was made while all was well", series, first.first, first.last)
	}
	made, owed, held := after.Made-before.Made, after.Owed-before.Owed, after.Held-before.Held
	if made >= fewEvents && owed == 0 {
		j.problem("%v: it is known of none of %d events that the ingester must have it", series, made)
	}
	if series.Stream != market.Depth {
		return
	}
	books := after.Books - before.Books
	if float64(books) < leastBooks*float64(held) {
		j.problem("%v: only %d books were compared, of %d updates held", series, books, held)
	}
	if n := after.Keyframes - before.Keyframes; n == 0 {
		j.problem("%v: no book is stored", series)
	}
	if n := after.Asked - before.Asked; n == 0 && j.asked != nil {
		j.problem("%v: the API was asked for no book", series)
	}
}

const (
	// leastOwed is of which share of all events it must be known that the ingester has to hold them.
	leastOwed = 0.1
	// fewEvents may all be made while something is wrong.
	fewEvents = 100
	// leastBooks is the share of the depth updates held behind which the book must be known, and right. On a busy machine
	// snapshots come late, so that it is less than half of a short storm at times.
	leastBooks = 0.2
)
