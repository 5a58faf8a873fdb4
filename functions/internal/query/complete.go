package query

import (
	"context"
	"math"
	"slices"
	"time"

	"tapedeck/shared/market"
)

// wholeness is what a strict question for trades is judged by.
type wholeness struct {
	*Service
	q      TradesQuery
	series market.Series
	page   *TradesPage
	reach  market.GapQuery // what the page reaches over
	tail   market.Block    // what was stored last before the page was read; no Events when nothing was
}

// refuse returns the error DataGap when the page is not known to be complete: an entry of the ledger stays open in what
// it reaches over, ids are not held that no entry explains, or it reaches beyond what was recorded.
func (w *wholeness) refuse(ctx context.Context) error {
	for _, incomplete := range []func(context.Context) (*DataGap, error){
		w.openEntries, w.brokenIDs, w.brokenTimes, w.beyondTail,
	} {
		if gap, err := incomplete(ctx); err != nil {
			return err
		} else if gap != nil {
			return market.Errorf(market.KindNotFound, "%w", gap)
		}
	}
	return nil
}

// openEntries looks for entries of the page that speak of something missing. By id those of the clock do not, nor do
// those whose ids lie elsewhere.
func (w *wholeness) openEntries(ctx context.Context) (*DataGap, error) {
	missing, err := w.unsettled(ctx, w.series, w.page.Gaps, w.reach.From, w.reach.To)
	if err != nil {
		return nil, err
	}
	if w.q.byID() {
		first, last := w.q.FromID, int64(math.MaxInt64)
		if first == 0 && len(w.page.Trades) > 0 {
			first = w.page.Trades[0].ID
		}
		if w.page.NextID != 0 {
			last = w.page.NextID - 1
		}
		missing = slices.DeleteFunc(missing, func(g market.Gap) bool {
			return g.Cause.MissesNothing() || g.FirstID > last || max(g.FirstID, g.LastID) < first
		})
	}
	if len(missing) == 0 {
		return nil, nil
	}
	gap := &DataGap{Before: begin(&missing[0]), Gaps: missing}
	if missing[0].End != 0 {
		gap.After = end(&missing[0])
	}
	return gap, nil
}

// brokenIDs looks for ids that are not held between the trades of the page, before the next one, and, by id, before the
// first.
func (w *wholeness) brokenIDs(ctx context.Context) (*DataGap, error) {
	n := len(w.page.Trades)
	if n == 0 {
		return nil, nil
	}
	if w.q.byID() {
		want, before := w.q.FromID, market.Time(0)
		for i := range w.page.Trades {
			t := &w.page.Trades[i]
			switch {
			case t.ID == want || want == 0:
			case i == 0:
				before, err := w.heldBefore(ctx, w.series, t.EventTime)
				return &DataGap{Before: before, After: t.EventTime}, err
			default:
				return &DataGap{Before: before, After: t.EventTime}, nil
			}
			want, before = t.ID+1, t.EventTime
		}
	}
	last := &w.page.Trades[n-1]
	if w.page.NextID <= last.ID+1 {
		return nil, nil
	}
	block, err := w.reader.BlockByID(ctx, w.series, last.ID+1)
	if err != nil || block.FirstID <= last.ID+1 { // by time, trades between may lie outside of the range
		return nil, err
	}
	return &DataGap{Before: last.EventTime, After: block.Start}, nil
}

// brokenTimes looks, where a question goes by time, for breaks between the stretches that are held in its range, and
// between the range and what is held around it: time that nobody recorded.
func (w *wholeness) brokenTimes(ctx context.Context) (*DataGap, error) {
	if w.q.byID() {
		return nil, nil
	}
	stretches, err := w.stretches(ctx, w.series, w.reach.From, w.reach.To)
	if err != nil {
		return nil, err
	}
	if len(stretches) > 1 {
		return &DataGap{Before: stretches[0].End, After: stretches[1].Start}, nil
	}
	next, err := w.reader.Spans(ctx, w.series, w.reach.To, endOfTime, 1)
	if err != nil {
		return nil, err
	}
	var late []market.Span // they begin later than the range, or behind it, and may continue what came before
	if len(stretches) > 0 && w.reach.From > 0 && stretches[0].Start > w.reach.From {
		late = append(late, stretches[0])
	}
	if len(next) > 0 && w.page.NextID == 0 && next[0].Start >= w.reach.To {
		late = append(late, next[0])
	}
	for _, p := range late {
		if held, err := w.holds(ctx, w.series, p.PrevID); err != nil {
			return nil, err
		} else if !held {
			before, err := w.heldBefore(ctx, w.series, p.Start)
			return &DataGap{Before: before, After: p.Start}, err
		}
	}
	return nil, nil
}

// beyondTail looks whether the last page reaches beyond what is stored, and nobody vouches that there is no more: the
// ledger tells of a hole only when somebody records again.
func (w *wholeness) beyondTail(ctx context.Context) (*DataGap, error) {
	if w.page.NextID != 0 {
		return nil, nil
	}
	none, stored, until := w.tail.Events == 0, edge{w.tail.LastID, w.tail.End}, new(w.reach.To-1)
	switch n := len(w.page.Trades); {
	case w.q.byID() && n > 0:
		stored = edge{w.page.Trades[n-1].ID, w.page.Trades[n-1].EventTime}
	case w.q.byID():
		stored.lastID = max(0, w.q.FromID-1) // all that is stored lies before
	case none && w.reach.From > 0:
		return &DataGap{}, nil // whoever records now may have begun later
	case !none && w.reach.To <= w.tail.End:
		return nil, nil
	}
	if w.reach.To > w.clock() {
		until = nil
	}
	ok, err := w.vouched(ctx, w.series, stored, until)
	if ok || err != nil {
		return nil, err
	}
	return &DataGap{Before: stored.at}, nil
}

// holds reports whether a block holds an id.
func (s *Service) holds(ctx context.Context, series market.Series, id int64) (bool, error) {
	block, err := s.reader.BlockByID(ctx, series, id)
	if isNotFound(err) {
		return false, nil
	}
	return err == nil && block.FirstID <= id, err
}

// heldBefore returns the last instant before a time for which something is held; 0 when there is none.
func (s *Service) heldBefore(ctx context.Context, series market.Series, at market.Time) (last market.Time, err error) {
	for back := time.Hour; ; back *= 8 { // a history may have more spans than are read at once
		from := max(0, at.Add(-back))
		spans, err := s.stretches(ctx, series, from, at)
		for i := range spans {
			last = max(last, min(spans[i].End, at))
		}
		if err != nil || len(spans) > 0 || from == 0 {
			return last, err
		}
	}
}
