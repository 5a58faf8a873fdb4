package query

import (
	"cmp"
	"context"
	"slices"

	"tapedeck/shared/market"
)

// TradesQuery asks for trades in the order of their ids, with Start <= event time < End, from FromID on.
type TradesQuery struct {
	Market     market.Market
	Start, End market.Time // End 0: no bound
	FromID     int64       // 0: no bound
	Limit      int         // at least 1
	Strict     bool        // a hole in what the page reaches over is an error of type DataGap
}

// TradesPage is a page of trades.
type TradesPage struct {
	Trades []market.Trade
	NextID int64        // where the next page begins; 0 when there is none
	Gaps   []market.Gap // the ledger's entries that the page reaches over
}

// firstTradePage is how many blocks are read at first.
const firstTradePage = 8

// Trades answers q. The same trade recorded twice is given once.
func (s *Service) Trades(ctx context.Context, q TradesQuery) (page *TradesPage, err error) {
	defer market.Wrap(&err, "Trades(%v)", q.Market)
	if q.End == 0 {
		q.End = endOfTime
	}
	series := market.Series{Market: q.Market, Stream: market.Trades}
	from := q.Start.Truncate(market.BlockWindow)
	page = &TradesPage{}
	if q.FromID > 0 {
		block, err := s.reader.BlockByID(ctx, series, q.FromID)
		if isNotFound(err) {
			return page, s.known(ctx, q.Market)
		}
		if err != nil {
			return nil, err
		}
		// Another block that holds the id, or one of the next, may begin a little earlier.
		from = max(from, block.Start.Truncate(market.BlockWindow).Add(-clockSlack))
	}
	if err := s.collect(ctx, q, newMerge(s.reader, series, from, q.End, firstTradePage, tradeCodec,
		func(b *market.Block) bool { return b.LastID >= q.FromID && b.End >= q.Start }), page); err != nil {
		return nil, err
	}
	if len(page.Trades) == 0 {
		if err := s.known(ctx, q.Market); err != nil {
			return nil, err
		}
	}
	return page, s.tradeGaps(ctx, q, series, page)
}

// collect fills the page from the merged events. Where a market is so quiet that the page would be made of too many
// blocks, it ends before.
func (s *Service) collect(ctx context.Context, q TradesQuery, events *merge[market.Trade], page *TradesPage) error {
	last := q.FromID - 1
	for {
		t, err := events.next(ctx)
		if market.KindOf(err) == market.KindTooLarge && len(page.Trades) > 0 {
			page.NextID = last + 1
			return nil
		}
		if t == nil || err != nil {
			return err
		}
		if t.ID <= last || t.EventTime < q.Start || t.EventTime >= q.End {
			continue
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
// where it continues another page) to its last trade, or to the end of what was asked for when no page follows. Before
// more entries than a page may have, the page ends.
func (s *Service) tradeGaps(ctx context.Context, q TradesQuery, series market.Series, page *TradesPage) (err error) {
	reach := market.GapQuery{Market: q.Market, Stream: market.Trades, From: q.Start, To: q.End, Limit: maxNearGaps + 1}
	if n := len(page.Trades); n > 0 {
		if q.FromID > 0 {
			reach.From = max(q.Start, page.Trades[0].EventTime)
		}
		if page.NextID != 0 {
			reach.To = page.Trades[n-1].EventTime + 1
		}
	}
	if page.Gaps, err = s.reader.Gaps(ctx, reach); err != nil {
		return err
	}
	if page.Gaps, err = s.withClockSteps(ctx, page.Gaps, series, reach.From, reach.To); err != nil {
		return err
	}
	if len(page.Gaps) > maxNearGaps {
		if !page.endBefore(&page.Gaps[maxNearGaps]) {
			return tooWide(maxNearGaps, "gaps side by side")
		}
		reach.To = page.Trades[len(page.Trades)-1].EventTime + 1
	}
	if !q.Strict {
		return nil
	}
	return s.refuseTrades(ctx, series, page, reach)
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

// refuseTrades returns the error DataGap when something is missing from what the page reaches over: an entry of the
// ledger that stays open, or a break between two spans that none explains.
func (s *Service) refuseTrades(ctx context.Context, series market.Series, page *TradesPage, reach market.GapQuery) error {
	missing, err := s.unsettled(ctx, series, page.Gaps)
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		return market.Errorf(market.KindNotFound, "%w", &DataGap{Before: missing[0].Start, After: missing[0].End, Gaps: missing})
	}
	stretches, err := s.stretches(ctx, series, reach.From, reach.To)
	if err != nil || len(stretches) <= 1 {
		return err
	}
	return market.Errorf(market.KindNotFound, "%w", &DataGap{Before: stretches[0].End, After: stretches[1].Start})
}
