// Package api is the one place where gateway events become typed requests, and answers become replies: parameters,
// cursors, the envelope, and problems (RFC 9457). docs/openapi.yaml is its contract. Use cases are in package query.
package api

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"

	"tapedeck/functions/internal/query"
	"tapedeck/shared/market"
)

// Store gives the reader to ask. Opening one that was not there before is its business; an error means that this
// request cannot be answered.
type Store interface {
	Reader(ctx context.Context) (query.Reader, error)
}

// Endpoint answers the requests of one route.
type Endpoint func(ctx context.Context, s *query.Service, r *Request) (*Reply, error)

// Reply is a successful answer.
type Reply struct {
	Data  []byte // JSON
	Gaps  []market.Gap
	Next  string    // cursor of the next page; "" when there is none
	Book  *bookMeta // only of /book
	Fixed bool      // the same question will hardly ever be answered differently: it may be cached for a while
}

// Handler turns the gateway's events into calls of an endpoint. It implements lambda.Handler and is safe for concurrent
// use. It never returns an error: whatever goes wrong becomes a problem.
type Handler struct {
	endpoint Endpoint
	store    Store
	now      func() time.Time
}

// NewHandler returns the handler of one route.
func NewHandler(endpoint Endpoint, store Store) *Handler {
	return &Handler{endpoint: endpoint, store: store, now: time.Now}
}

// Bounds of a reply. Lambda takes 6 MB of response, in which the body stands as a JSON string, with every quotation
// mark escaped; that adds less than a third to anything that this API says.
const (
	maxResponseBytes = 6_000_000
	maxPageBytes     = 4 << 20
)

// deadlineMargin is how long before Lambda would end the process a request is given up, so that the reply still gets
// out.
const deadlineMargin = 300 * time.Millisecond

// Invoke answers one event.
func (h *Handler) Invoke(ctx context.Context, payload []byte) ([]byte, error) {
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline.Add(-min(deadlineMargin, time.Until(deadline)/4)))
		defer cancel()
	}
	request, err := parseEvent(ctx, payload)
	var reply *Reply
	if err == nil {
		reply, err = h.serve(ctx, request)
	}
	if err == nil {
		response := encodeReply(reply, request.ID)
		if len(response) <= maxResponseBytes {
			return response, nil
		}
		err = market.Errorf(market.KindTooLarge, "response of %d bytes", len(response))
	}
	problem := problemOf(err, request.ID)
	if problem.Status >= http.StatusInternalServerError {
		slog.ErrorContext(ctx, "request failed", "request_id", request.ID, "code", string(problem.Code), "error", err)
	}
	return encodeProblem(problem), nil
}

// serve calls the endpoint. A panic becomes an error without a kind.
func (h *Handler) serve(ctx context.Context, r *Request) (reply *Reply, err error) {
	defer func() {
		if v := recover(); v != nil {
			slog.ErrorContext(ctx, "panic in endpoint", "request_id", r.ID, "panic", v, "stack", string(debug.Stack()))
			err = errors.New("panic in endpoint")
		}
	}()
	reader, err := h.store.Reader(ctx)
	if err != nil {
		return nil, market.Errorf(market.KindUnavailable, "open store: %w", err)
	}
	return h.endpoint(ctx, query.New(reader, h.now), r)
}

// meta is the second half of the envelope.
type meta struct {
	RequestID  string    `json:"request_id"`
	Gaps       []gapItem `json:"gaps"`
	NextCursor *string   `json:"next_cursor"`
	*bookMeta
}

// encodeReply returns the response that the gateway expects of a successful function.
func encodeReply(r *Reply, requestID string) []byte {
	m := meta{RequestID: requestID, Gaps: gapItems(r.Gaps), bookMeta: r.Book}
	if r.Next != "" {
		m.NextCursor = &r.Next
	}
	cache := "no-store"
	if r.Fixed {
		cache = "private, max-age=60"
	}
	body := make([]byte, 0, len(r.Data)+1024)
	body = append(body, `{"data":`...)
	body = append(body, r.Data...)
	body = append(body, `,"meta":`...)
	body = append(body, mustMarshal(m)...)
	body = append(body, '}')
	return encodeResponse(http.StatusOK, body, "application/json", "Cache-Control", cache)
}

func encodeProblem(p *Problem) []byte {
	headers := []string{"Cache-Control", "no-store"}
	if p.Status == http.StatusServiceUnavailable {
		headers = append(headers, "Retry-After", retryAfter)
	}
	return encodeResponse(p.Status, mustMarshal(p), "application/problem+json", headers...)
}

// mustMarshal encodes one of this package's own types, which cannot fail.
func mustMarshal(v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return text
}
