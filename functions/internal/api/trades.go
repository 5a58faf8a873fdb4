package api

import (
	"context"
	"math"
	"strconv"

	"tapedeck/functions/internal/query"
	"tapedeck/shared/market"
)

// Bounds of pages and ids.
const (
	defaultLimit = 1000
	maxLimit     = 10_000
	maxID        = math.MaxInt64 - 1 // so that the id behind it is one too
)

const tradesRoute = "trades"

// Trades answers GET /v1/markets/{exchange}/{symbol}/trades.
func Trades(ctx context.Context, s *query.Service, r *Request) (*Reply, error) {
	m, marketErr := r.Market()
	q, c, err := tradesQuery(newParams(r), m)
	if err != nil {
		return nil, err
	}
	if marketErr != nil {
		return nil, marketErr
	}
	page, err := s.Trades(ctx, q)
	if err != nil {
		return nil, err
	}
	return tradesReply(page, c, maxPageBytes), nil
}

// tradesQuery reads the parameters. The cursor it returns holds the query, for the next page.
func tradesQuery(p *params, m market.Market) (query.TradesQuery, cursor, error) {
	given := cursor{Route: tradesRoute, Market: m.String(), Strict: p.boolean("strict")}
	start, end := p.timeRange()
	given.Start, given.End = int64(start), int64(end)
	given.FromID = p.integer("from_id", 0, 0, maxID)
	given.Limit = int(p.integer("limit", defaultLimit, 1, maxLimit))
	for _, name := range []string{"start", "end"} {
		if p.has(name) && p.has("from_id") {
			p.fail(name, "excludes from_id")
		}
	}
	c, ok := p.cursor(tradesRoute, m)
	if ok {
		continues(p, "start", given.Start, c.Start)
		continues(p, "end", given.End, c.End)
		continues(p, "from_id", given.FromID, c.FromID)
		continues(p, "strict", given.Strict, c.Strict)
		if p.has("limit") {
			c.Limit = given.Limit
		}
	} else {
		c = given
		c.NextID = given.FromID
	}
	return query.TradesQuery{
		Market: m,
		Start:  market.Time(c.Start),
		End:    market.Time(c.End),
		FromID: c.NextID,
		Limit:  c.Limit,
		Strict: c.Strict,
	}, c, p.err()
}

// tradesReply encodes a page, cut to most bytes.
func tradesReply(page *query.TradesPage, c cursor, most int) *Reply {
	data, n := appendPage(make([]byte, 0, 1024), page.Trades, most, appendTrade)
	c.NextID = page.NextID
	if n < len(page.Trades) {
		c.NextID = page.Trades[n].ID
	}
	reply := &Reply{Data: data, Gaps: page.Gaps}
	if c.NextID != 0 {
		reply.Next = c.encode()
	}
	return reply
}

func appendTrade(dst []byte, t *market.Trade) []byte {
	dst = append(dst, `{"id":`...)
	dst = strconv.AppendInt(dst, t.ID, 10)
	dst = append(dst, `,"ts_event":`...)
	dst = appendTime(dst, t.EventTime)
	dst = append(dst, `,"ts_recv":`...)
	dst = appendTime(dst, t.RecvTime)
	dst = append(dst, `,"price":`...)
	dst = appendDecimal(dst, t.Price)
	dst = append(dst, `,"quantity":`...)
	dst = appendDecimal(dst, t.Quantity)
	dst = append(dst, `,"side":"`...)
	dst = append(dst, t.Side.String()...)
	dst = append(dst, '"')
	if t.Flags&market.TradeFlagBackfilled != 0 {
		dst = append(dst, `,"backfilled":true`...)
	}
	return append(dst, '}')
}
