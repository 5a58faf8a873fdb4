package api

import (
	"context"

	"tapedeck/functions/internal/query"
	"tapedeck/shared/market"
)

// coverageItem is a stretch of time of one stream. The ids are those held, or missing, within the whole stretch that
// it is a part of; null where not known.
type coverageItem struct {
	Stream  market.Stream       `json:"stream"`
	Start   instant             `json:"start"`
	End     instant             `json:"end"`
	State   query.CoverageState `json:"state"`
	FirstID optional[int64]     `json:"first_update_id"`
	LastID  optional[int64]     `json:"last_update_id"`
}

// Coverage answers GET /v1/markets/{exchange}/{symbol}/coverage.
func Coverage(ctx context.Context, s *query.Service, r *Request) (*Reply, error) {
	p := newParams(r)
	start, end := p.timeRange()
	stream := oneOf(p, "stream", market.ParseStream, knownStreams)
	if err := p.err(); err != nil {
		return nil, err
	}
	m, err := r.Market()
	if err != nil {
		return nil, err
	}
	spans, gaps, err := s.Coverage(ctx, query.RangeQuery{Market: m, Stream: stream, Start: start, End: end})
	if err != nil {
		return nil, err
	}
	items := make([]coverageItem, len(spans))
	for i, c := range spans {
		items[i] = coverageItem{
			Stream:  c.Stream,
			Start:   instant(c.Start),
			End:     instant(c.End),
			State:   c.State,
			FirstID: optional[int64]{c.FirstID},
			LastID:  optional[int64]{c.LastID},
		}
	}
	return &Reply{Data: mustMarshal(items), Gaps: gaps}, nil
}
