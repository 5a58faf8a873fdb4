package query

import (
	"context"
	"slices"
	"time"

	"tapedeck/shared/market"
)

const (
	// vouchWindow is how old a recorder's last word may be to count. Recorders speak every few seconds.
	vouchWindow = 15 * time.Second
	// settleTime is how long an event may be on its way from a recorder to the store: about a second until its block is
	// cut, and the write.
	settleTime = 3 * time.Second
)

// Bounds of what explains one state.
const (
	maxNearSpans = 256
	maxNearGaps  = 256
)

// judge sets the state of an answer that no later event confirmed: until lies beyond the last event that was replayed.
// at is the instant asked for, nil for the latest book.
func (s *Service) judge(ctx context.Context, r *replay, answer *Book, until market.Time, at *market.Time) error {
	series := market.Series{Market: answer.Market, Stream: market.Depth}
	spans, err := s.reader.Spans(ctx, series, answer.EventTime, endOfTime, maxNearSpans)
	if err != nil {
		return err
	}
	if r.hole == 0 && slices.ContainsFunc(spans, func(p market.Span) bool {
		return p.PrevID <= answer.LastID && answer.LastID < p.LastID
	}) {
		answer.State = Synced // the stretch goes on beyond until
		return nil
	}
	gaps, err := s.gapsBehind(ctx, answer.Market, r, until)
	if err != nil {
		return err
	}
	next := firstBehind(spans, answer.LastID)
	if r.hole != 0 || next != nil || len(gaps) > 0 {
		answer.State, answer.Gaps = Gap, nearest(gaps)
		if len(gaps) == 0 {
			answer.Gaps = []market.Gap{unexplained(series, answer, r.hole, next)}
		}
		return nil
	}
	return s.vouch(ctx, answer, at)
}

// explainHole puts the hole behind the answer into its gaps: the ledger's entries, or else what the spans show.
func (s *Service) explainHole(ctx context.Context, r *replay, answer *Book, until market.Time) error {
	gaps, err := s.gapsBehind(ctx, answer.Market, r, until)
	if err != nil {
		return err
	}
	if len(gaps) == 0 { // where the exchange's clock stepped back, what lies behind by id may lie before by time
		series := market.Series{Market: answer.Market, Stream: market.Depth}
		steps, err := s.clockSteps(ctx, series, min(until, answer.EventTime), max(until, answer.EventTime))
		if err != nil {
			return err
		}
		gaps = slices.DeleteFunc(steps, func(g market.Gap) bool { return g.FirstID <= answer.LastID })
	}
	if len(gaps) == 0 {
		series := market.Series{Market: answer.Market, Stream: market.Depth}
		spans, err := s.reader.Spans(ctx, series, answer.EventTime, endOfTime, maxNearSpans)
		if err != nil {
			return err
		}
		gaps = []market.Gap{unexplained(series, answer, r.hole, firstBehind(spans, answer.LastID))}
	}
	answer.Gaps = nearest(gaps)
	return nil
}

// gapsBehind returns the ledger's entries, up to until, that speak of ids behind r's.
func (s *Service) gapsBehind(ctx context.Context, m market.Market, r *replay, until market.Time) ([]market.Gap, error) {
	gaps, err := s.ledger(ctx, market.GapQuery{Market: m, Stream: market.Depth, From: r.eventTime, To: until.Add(1)})
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(gaps, func(g market.Gap) bool {
		open := g.End == 0 && g.FirstID > r.book.LastID()
		return g.LastID <= r.book.LastID() && !open
	}), nil
}

// firstBehind returns the first of the spans that does not continue id but begins beyond it.
func firstBehind(spans []market.Span, id int64) *market.Span {
	for i := range spans {
		if spans[i].PrevID > id {
			return &spans[i]
		}
	}
	return nil
}

// unexplained describes a hole that the ledger does not know of. Its cause is empty.
func unexplained(series market.Series, answer *Book, hole int64, next *market.Span) market.Gap {
	g := market.Gap{Series: series, FirstID: answer.LastID + 1, LastID: max(hole, answer.LastID), Start: answer.EventTime}
	if next != nil {
		g.End = next.Start
		if hole == 0 {
			g.LastID = next.PrevID
		}
	}
	return g
}

// vouch sets the state of a book behind which nothing is stored: synced when a recorder vouches for it. A quiet market is
// not stale.
func (s *Service) vouch(ctx context.Context, answer *Book, at *market.Time) error {
	series := market.Series{Market: answer.Market, Stream: market.Depth}
	ok, err := s.vouched(ctx, series, edge{answer.LastID, answer.EventTime}, at)
	answer.State = Stale
	if ok {
		answer.State = Synced
	}
	return err
}

// edge is the last event of a series that is stored.
type edge struct {
	lastID int64
	at     market.Time
}

// vouched reports whether a recorder that is alive follows the streams of a market and has nothing of the series behind
// the edge, up to an instant; where that is nil, up to now: then it may have got a little beyond what is stored.
//
// Nobody vouches for an instant that has yet to come, nor for one so recent that an event at or before it may still be
// on its way to the store. What the exchange's clock shows now is not known, and in a replay it is years behind; but
// since the last event it has gone on for about as long as the recorder's since the last frame.
func (s *Service) vouched(ctx context.Context, series market.Series, stored edge, at *market.Time) (bool, error) {
	recorders, err := s.reader.Recorders(ctx)
	if err != nil {
		return false, err
	}
	now := s.clock()
	for _, r := range recorders {
		if r.Stopped || now.Sub(r.UpdatedAt) > vouchWindow {
			continue
		}
		for _, m := range r.Markets {
			lastID := m.LastUpdateID
			if series.Stream == market.Trades {
				lastID = m.LastTradeID
			}
			ahead := lastID > stored.lastID // it has what is not stored yet
			doubtful := ahead && m.EventTime.Sub(stored.at) > vouchWindow
			if at != nil {
				doubtful = ahead || at.Sub(m.EventTime) > now.Sub(m.RecvTime)-settleTime
			}
			if m.Market == series.Market && m.State == market.StateSynced && !doubtful {
				return true, nil
			}
		}
	}
	return false, nil
}

// refuse returns the error DataGap when q is strict and the answer is not synced.
func (s *Service) refuse(ctx context.Context, q BookQuery, answer *Book) error {
	if !q.Strict || answer.State == Synced {
		return nil
	}
	e := &DataGap{Before: answer.EventTime, Gaps: answer.Gaps}
	if answer.State == Gap {
		after, err := s.goodAfter(ctx, answer)
		if err != nil {
			return err
		}
		e.After = after
	}
	return market.Errorf(market.KindNotFound, "%w", e)
}

// goodAfter returns the first instant behind the hole at which a book is held; 0 when there is none.
func (s *Service) goodAfter(ctx context.Context, answer *Book) (market.Time, error) {
	var candidates []market.Time
	for _, g := range answer.Gaps {
		if g.End != 0 {
			candidates = append(candidates, g.End)
		}
	}
	series := market.Series{Market: answer.Market, Stream: market.Depth}
	spans, err := s.reader.Spans(ctx, series, answer.EventTime, endOfTime, maxNearSpans)
	if err != nil {
		return 0, err
	}
	if next := firstBehind(spans, answer.LastID); next != nil {
		candidates = append(candidates, next.Start)
	}
	slices.Sort(candidates)
	for _, at := range candidates {
		k, err := s.reader.Keyframe(ctx, answer.Market, at)
		if err != nil && !isNotFound(err) {
			return 0, err
		}
		if err == nil && k.UpdateID > answer.LastID {
			return k.EventTime, nil
		}
	}
	return 0, nil
}
