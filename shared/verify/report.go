package verify

import (
	"slices"

	"tapedeck/shared/market"
)

// Report is what a run found. Its JSON form is that of the command's -json: names in lower case with underscores, times
// in RFC 3339, ids as integers; what is zero or not known is left out.
type Report struct {
	Start    market.Time `json:"start,omitzero"` // as asked for
	End      market.Time `json:"end,omitzero"`
	Complete bool        `json:"complete"` // everything in the range was read
	Problems int         `json:"problems"` // places where something does not hold, of all markets
	Notes    int         `json:"notes"`
	Events   int64       `json:"events"`
	Bytes    int64       `json:"bytes"` // of blocks and keyframes, encoded
	Markets  []Market    `json:"markets"`
}

// Holds reports whether everything was read and nothing was found wrong.
func (r *Report) Holds() bool { return r.Complete && r.Problems == 0 }

// add adds what was found in one series.
func (r *Report) add(t *task) {
	s := t.stream
	for i := range s.Problems {
		r.Problems += s.Problems[i].Count
	}
	for i := range s.Notes {
		r.Notes += s.Notes[i].Count
	}
	r.Events += s.Events
	r.Bytes += s.Bytes
	if s.Keyframes != nil {
		r.Bytes += s.Keyframes.Bytes
	}
	n := len(r.Markets)
	if n == 0 || r.Markets[n-1].Market != t.series.Market.String() {
		r.Markets = append(r.Markets, Market{Market: t.series.Market.String()})
		n++
	}
	r.Markets[n-1].Streams = append(r.Markets[n-1].Streams, s)
}

// Market is what was found in one market.
type Market struct {
	Market  string   `json:"market"` // exchange/SYMBOL
	Streams []Stream `json:"streams"`
}

// Stream is what was found in one stream of a market.
type Stream struct {
	Stream     market.Stream `json:"stream"`
	Start      market.Time   `json:"start,omitzero"` // event time of the first event verified
	End        market.Time   `json:"end,omitzero"`   // and of the last
	FirstID    int64         `json:"first_id,omitzero"`
	LastID     int64         `json:"last_id,omitzero"`
	Events     int64         `json:"events"` // each once
	IDs        int64         `json:"ids"`    // that the events cover
	Copies     int64         `json:"copies"` // further records of the same events, found equal
	Backfilled int64         `json:"backfilled"`
	Blocks     int64         `json:"blocks"`
	Bytes      int64         `json:"bytes"`
	Spans      int64         `json:"spans"`
	Entries    int64         `json:"entries"` // of the ledger
	Holes      []Hole        `json:"holes"`   // that the ledger explains, by cause
	Keyframes  *Keyframes    `json:"keyframes,omitempty"`
	Book       *Book         `json:"book,omitempty"` // after the last event; nil when no book is known there
	Problems   []Finding     `json:"problems"`
	Notes      []Finding     `json:"notes"`

	listed int
}

func newStream(stream market.Stream, listed int) Stream {
	s := Stream{Stream: stream, Holes: []Hole{}, Problems: []Finding{}, Notes: []Finding{}, listed: listed}
	if stream == market.Depth {
		s.Keyframes = new(Keyframes)
	}
	return s
}

// Hole sums up the holes of one cause.
type Hole struct {
	Cause  market.Cause `json:"cause"`
	Count  int          `json:"count"`
	IDs    int64        `json:"ids"`
	Listed []Place      `json:"listed"`
}

// Keyframes counts the stored books that were verified, by how much of them could be.
type Keyframes struct {
	Whole     int64 `json:"whole"`     // the whole book is the one replayed
	Depth     int64 `json:"depth"`     // as deep as both snapshots reached; what they come from differs
	Corrected int64 `json:"corrected"` // the ledger says that the book before was wrong; nothing to compare with
	Begun     int64 `json:"begun"`     // the first one, or the first one behind a hole: nothing to compare with
	Bytes     int64 `json:"bytes"`
	// EventsWithoutBook counts depth updates behind a hole and before the next keyframe: the book after them is not
	// known.
	EventsWithoutBook int64 `json:"events_without_book"`
}

// Book identifies the book after the last event of the range. Two stores that hold the same have the same; those with
// the same digest have equal levels as far as it reaches, and maybe others beyond.
type Book struct {
	LastID int64  `json:"last_id"`
	Bids   int    `json:"bids"`
	Asks   int    `json:"asks"`
	Digest string `json:"digest"` // of the best 1000 levels a side; see book.Book.Digest
}

const digestLevels = 1000

// Finding is one kind of thing found in a stream, with the first places of it.
type Finding struct {
	Code    Code    `json:"code"`
	Count   int     `json:"count"`
	Meaning string  `json:"meaning"`
	Action  string  `json:"action"`
	Listed  []Place `json:"listed"`
}

// Place is where something was found.
type Place struct {
	FirstID int64       `json:"first_id"`
	LastID  int64       `json:"last_id"`
	Time    market.Time `json:"time,omitzero"` // event time
	Detail  string      `json:"detail,omitempty"`
}

// add counts a place and lists it, if there is room. One that continues the last one listed is part of it.
func (f *Finding) add(p Place, listed int) {
	if n := len(f.Listed); n > 0 && f.Count == n {
		if last := &f.Listed[n-1]; last.Detail == p.Detail && last.FirstID < p.FirstID && p.FirstID <= last.LastID+1 {
			last.LastID = max(last.LastID, p.LastID)
			return
		}
	}
	f.Count++
	if len(f.Listed) < listed {
		f.Listed = append(f.Listed, p)
	}
}

// problem notes that something does not hold.
func (s *Stream) problem(code Code, p Place) { s.Problems = found(s.Problems, code, p, s.listed) }

// note notes something worth knowing that is not wrong.
func (s *Stream) note(code Code, p Place) { s.Notes = found(s.Notes, code, p, s.listed) }

func found(findings []Finding, code Code, p Place, listed int) []Finding {
	i := slices.IndexFunc(findings, func(f Finding) bool { return f.Code == code })
	if i < 0 {
		i = len(findings)
		findings = append(findings, Finding{Code: code, Meaning: code.Meaning(), Action: code.Action()})
	}
	findings[i].add(p, listed)
	return findings
}

// hole notes a stretch of missing ids that the ledger explains.
func (s *Stream) hole(cause market.Cause, missing ids, at market.Time) {
	i := slices.IndexFunc(s.Holes, func(h Hole) bool { return h.Cause == cause })
	if i < 0 {
		i = len(s.Holes)
		s.Holes = append(s.Holes, Hole{Cause: cause, Listed: []Place{}})
	}
	h := &s.Holes[i]
	h.Count++
	h.IDs += missing.count()
	if len(h.Listed) < s.listed {
		h.Listed = append(h.Listed, Place{FirstID: missing.first, LastID: missing.last, Time: at})
	}
}
