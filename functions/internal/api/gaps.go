package api

import (
	"context"
	"strings"

	"tapedeck/functions/internal/query"
	"tapedeck/shared/market"
)

// gapItem is an entry of the ledger.
type gapItem struct {
	Stream     market.Stream          `json:"stream"`
	Cause      optional[market.Cause] `json:"cause"` // null: a hole that the ledger does not explain
	FirstID    int64                  `json:"first_update_id"`
	LastID     optional[int64]        `json:"last_update_id"`
	Start      instant                `json:"start"`
	End        instant                `json:"end"`
	DetectedAt instant                `json:"detected_at"`
	RepairedAt instant                `json:"repaired_at"`
	Repair     optional[string]       `json:"repair"`
}

// gapItems returns the items of a reply, never nil.
func gapItems(gaps []market.Gap) []gapItem {
	items := make([]gapItem, len(gaps))
	for i, g := range gaps {
		items[i] = gapItem{
			Stream:     g.Series.Stream,
			Cause:      optional[market.Cause]{g.Cause},
			FirstID:    g.FirstID,
			Start:      instant(g.Start),
			End:        instant(g.End),
			DetectedAt: instant(g.DetectedAt),
			RepairedAt: instant(g.RepairedAt),
			Repair:     optional[string]{string(g.Repair)},
		}
		if g.LastID >= g.FirstID { // else no id is known yet to be missing
			items[i].LastID.v = g.LastID
		}
	}
	return items
}

// What is accepted, as error texts say it.
var (
	knownStreams = list([]market.Stream{market.Depth, market.Trades})
	knownCauses  = list(market.Causes())
)

// list returns the names, separated by commas.
func list[T ~string](names []T) string {
	var text strings.Builder
	for i, name := range names {
		if i > 0 {
			text.WriteString(", ")
		}
		text.WriteString(string(name))
	}
	return text.String()
}

const gapsRoute = "gaps"

// Gaps answers GET /v1/markets/{exchange}/{symbol}/gaps.
func Gaps(ctx context.Context, s *query.Service, r *Request) (*Reply, error) {
	m, marketErr := r.Market()
	q, c, err := gapsQuery(newParams(r), m)
	if err != nil {
		return nil, err
	}
	if marketErr != nil {
		return nil, marketErr
	}
	gaps, next, err := s.Gaps(ctx, q)
	if err != nil {
		return nil, err
	}
	reply := &Reply{Data: mustMarshal(gapItems(gaps))} // at most maxLimit items of less than 400 bytes
	if next != nil {
		c.After = next
		reply.Next = c.encode()
	}
	return reply, nil
}

// gapsQuery reads the parameters. The cursor it returns holds the query, for the next page.
func gapsQuery(p *params, m market.Market) (query.GapsQuery, cursor, error) {
	start, end := p.timeRange()
	given := cursor{
		Route:  gapsRoute,
		Market: m.String(),
		Start:  int64(start),
		End:    int64(end),
		Limit:  int(p.integer("limit", defaultLimit, 1, maxLimit)),
		Stream: oneOf(p, "stream", market.ParseStream, knownStreams),
		Cause:  oneOf(p, "cause", market.ParseCause, knownCauses),
	}
	c, ok := p.cursor(gapsRoute, m)
	if ok {
		continues(p, "start", given.Start, c.Start)
		continues(p, "end", given.End, c.End)
		continues(p, "stream", given.Stream, c.Stream)
		continues(p, "cause", given.Cause, c.Cause)
		if p.has("limit") {
			c.Limit = given.Limit
		}
	} else {
		c = given
	}
	return query.GapsQuery{
		RangeQuery: query.RangeQuery{
			Market: m, Stream: c.Stream, Start: market.Time(c.Start), End: market.Time(c.End),
		},
		Cause: c.Cause,
		After: c.After,
		Limit: c.Limit,
	}, c, p.err()
}
