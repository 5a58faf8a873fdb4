package query

import (
	"cmp"
	"context"
	"slices"

	"tapedeck/shared/market"
)

// TradesQuery asks for trades in the order of their ids, with Start <= event time < End, from FromID on. Without bounds of
// time it goes by id alone: no trade is left out, whatever the exchange's clock showed.
type TradesQuery struct {
	Market     market.Market
	Start, End market.Time // End 0: no bound
	FromID     int64       // 0: no bound
	Limit      int         // at least 1
	Strict     bool        // what is not known to be complete is an error of type DataGap
}

// TradesPage is a page of trades.
type TradesPage struct {
	Trades []market.Trade
	NextID int64        // where the next page begins; 0 when there is none
	Gaps   []market.Gap // the ledger's entries that the page reaches over
}

// byID reports whether no time bounds q, whose End is set.
func (q *TradesQuery) byID() bool { return q.Start == 0 && q.End == endOfTime }

// Trades answers q. The same trade recorded twice is given once.
func (s *Service) Trades(ctx context.Context, q TradesQuery) (page *TradesPage, err error) {
	defer market.Wrap(&err, "Trades(%v)", q.Market)
	if q.End == 0 {
		q.End = endOfTime
	}
	series := market.Series{Market: q.Market, Stream: market.Trades}
	var tail market.Block
	if q.Strict { // before the page, which then holds all up to it
		if tail, err = s.reader.Tail(ctx, series); err != nil && !isNotFound(err) {
			return nil, err
		}
	}
	page = &TradesPage{}
	from, ok, err := s.tradesFrom(ctx, q, series)
	if err != nil {
		return nil, err
	}
	if ok {
		if err := s.collect(ctx, q, series, from, page); err != nil {
			return nil, err
		}
	}
	if len(page.Trades) == 0 {
		if err := s.known(ctx, q.Market); err != nil {
			return nil, err
		}
	}
	reach, err := s.tradeGaps(ctx, q, series, page)
	if err != nil || !q.Strict {
		return page, err
	}
	w := &wholeness{s, q, series, page, reach, tail}
	return page, w.refuse(ctx)
}

// tradesFrom returns the time from which blocks are to be read for q; false when none holds what is asked for.
func (s *Service) tradesFrom(ctx context.Context, q TradesQuery, series market.Series) (market.Time, bool, error) {
	from := q.Start.Truncate(market.BlockWindow)
	if q.FromID == 0 && !q.byID() {
		return from, true, nil
	}
	block, err := s.reader.BlockByID(ctx, series, q.FromID)
	if isNotFound(err) {
		return 0, false, nil
	}
	return max(from, aroundBlock(&block)), true, err
}

// collect fills the page from the blocks from a time on. Where a market is so quiet that the page would be made of too
// many blocks, or so full of holes that too many would be looked into, it ends before.
func (s *Service) collect(ctx context.Context, q TradesQuery, series market.Series, from market.Time, page *TradesPage) error {
	last := q.FromID - 1
	read := func(from market.Time) *merge[market.Trade] {
		return newMerge(s.reader, series, from, q.End, firstPage, tradeCodec,
			func(b *market.Block) bool { return b.LastID > last && b.End >= q.Start })
	}
	events := read(from)
	for sought, seeks := last, 0; ; {
		t, err := events.next(ctx)
		if market.KindOf(err) == market.KindTooLarge && len(page.Trades) > 0 {
			page.NextID = last + 1
			return nil
		}
		switch {
		case err != nil:
			return err
		case t != nil && (t.ID <= last || t.EventTime < q.Start || t.EventTime >= q.End):
			continue
		case q.byID() && sought != last && (t == nil || t.ID > last+1):
			if seeks++; seeks > maxSeeks {
				page.NextID = last + 1
				return nil
			}
			sought = last
			elsewhere, err := nearer(ctx, s.reader, series, last, t, tradeCodec)
			if err != nil {
				return err
			}
			if elsewhere != nil {
				events = read(aroundBlock(elsewhere))
				continue
			}
		}
		if t == nil {
			return nil
		}
		if len(page.Trades) == q.Limit {
			page.NextID = t.ID
			return nil
		}
		page.Trades = append(page.Trades, *t)
		last = t.ID
	}
}

// tradeGaps adds the ledger's entries that the page reaches over: from where it was asked to begin (its first trade,
// where it continues another page) to its last trade, or to the end of what was asked for when no page follows. That is
// the reach it returns. Before more entries than a page may have, the page ends.
func (s *Service) tradeGaps(
	ctx context.Context, q TradesQuery, series market.Series, page *TradesPage,
) (reach market.GapQuery, err error) {
	reach = page.reach(q)
	if q.byID() && len(page.Trades) == 0 { // behind all that is stored
		tail, err := s.reader.Tail(ctx, series)
		if err != nil && !isNotFound(err) {
			return reach, err
		}
		reach.From = tail.End
	}
	if page.Gaps, err = s.reader.Gaps(ctx, reach); err != nil {
		return reach, err
	}
	if len(page.Gaps) > maxNearGaps {
		if !page.endBefore(&page.Gaps[maxNearGaps]) {
			return reach, tooWide(maxNearGaps, "gaps side by side")
		}
		reach = page.reach(q)
	}
	return reach, nil
}

// reach returns the question for the ledger's entries that the page reaches over.
func (p *TradesPage) reach(q TradesQuery) market.GapQuery {
	reach := market.GapQuery{Market: q.Market, Stream: market.Trades, From: q.Start, To: q.End, Limit: maxNearGaps + 1}
	if len(p.Trades) == 0 {
		return reach
	}
	first, last := endOfTime, market.Time(0) // the exchange's clock may have stepped back
	for i := range p.Trades {
		first, last = min(first, p.Trades[i].EventTime), max(last, p.Trades[i].EventTime)
	}
	if q.FromID > 0 {
		reach.From = max(q.Start, first)
	}
	if p.NextID != 0 {
		reach.To = last + 1
	}
	return reach
}

// endBefore ends the page before the trades behind g, the first entry that is too many for it. It returns false when
// that leaves no trade, or g lies behind the last trade of all.
func (p *TradesPage) endBefore(g *market.Gap) bool {
	n, _ := slices.BinarySearchFunc(p.Trades, g.FirstID, func(t market.Trade, id int64) int { return cmp.Compare(t.ID, id) })
	if n < len(p.Trades) {
		p.NextID = p.Trades[n].ID
	}
	if n == 0 || p.NextID == 0 {
		return false
	}
	last := p.Trades[n-1].EventTime
	p.Trades = p.Trades[:n]
	p.Gaps = slices.DeleteFunc(p.Gaps[:maxNearGaps], func(g market.Gap) bool { return g.Start > last })
	return true
}
