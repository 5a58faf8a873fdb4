package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"tapedeck/shared/market"
)

// maxReplyBytes is the most that the API answers.
const maxReplyBytes = 6 << 20

// get fetches a URL within a bounded time.
func get(ctx context.Context, address string) (status int, body []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return 0, nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // read to its end or given up
	body, err = io.ReadAll(io.LimitReader(resp.Body, maxReplyBytes))
	return resp.StatusCode, body, err
}

// recorded is what /v1/markets says of a market, as far as devstack tells it on.
type recorded struct {
	Exchange     string       `json:"exchange"`
	Symbol       string       `json:"symbol"`
	LastEvent    *market.Time `json:"last_event"`
	LastUpdateID *int64       `json:"last_update_id"`
}

// markets asks the API which markets are recorded.
func (s *stack) markets(ctx context.Context) ([]recorded, error) {
	status, body, err := get(ctx, s.apiURL+"/v1/markets")
	if err != nil {
		return nil, err
	}
	if status != http.StatusOK {
		return nil, fmt.Errorf("GET /v1/markets: status %d", status)
	}
	var reply struct{ Data []recorded }
	if err := json.Unmarshal(body, &reply); err != nil {
		return nil, fmt.Errorf("GET /v1/markets: %w", err)
	}
	return reply.Data, nil
}

// market returns the market of that symbol once some of its book is recorded.
func (s *stack) market(ctx context.Context, symbol string) (recorded, bool) {
	list, err := s.markets(ctx)
	if err != nil {
		return recorded{}, false
	}
	for _, m := range list {
		if m.Symbol == symbol && m.LastEvent != nil && m.LastUpdateID != nil {
			return m, true
		}
	}
	return recorded{}, false
}

// synced reports whether the API gives the market's present book, and the recorder vouches for it.
func (s *stack) synced(ctx context.Context, m *recorded) bool {
	status, _, err := get(ctx, s.apiURL+m.path()+"/book?depth=1&strict=true")
	return err == nil && status == http.StatusOK
}

// moment returns an instant in the middle of the last stretch that is recorded of a market without a hole; of one that
// cannot be found, the last event's.
func (s *stack) moment(ctx context.Context, m *recorded) market.Time {
	status, body, err := get(ctx, s.apiURL+m.path()+"/coverage?stream=depth")
	var reply struct {
		Data []struct{ Start, End market.Time }
	}
	if err != nil || status != http.StatusOK || json.Unmarshal(body, &reply) != nil || len(reply.Data) == 0 {
		return *m.LastEvent
	}
	last := reply.Data[len(reply.Data)-1] // a hole is never the last
	return last.Start + (last.End-last.Start)/2
}

// path returns the path of a market in the API.
func (m *recorded) path() string {
	return "/v1/markets/" + url.PathEscape(m.Exchange) + "/" + url.PathEscape(m.Symbol)
}
