package binance

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"tapedeck/shared/market"
)

// APIError is a refusal that the exchange explains: {"code":-1121,"msg":"Invalid symbol."} (errors.md).
type APIError struct {
	Code    int
	Message string // its beginning, when it is long
}

// Error returns code and message.
func (e *APIError) Error() string { return fmt.Sprintf("code %d: %s", e.Code, e.Message) }

// RateLimitError says that the exchange answers nothing before RetryAfter has passed; asking earlier makes the ban
// longer (rest-api.md, "IP Limits").
type RateLimitError struct {
	RetryAfter time.Duration // since the reply
	Banned     bool          // 418: this IP address is banned; otherwise 429: slow down
	Message    string        // the exchange's words, if any
}

// Error says how long to wait.
func (e *RateLimitError) Error() string {
	state := "rate limit reached"
	if e.Banned {
		state = "IP address banned"
	}
	if e.Message != "" {
		return fmt.Sprintf("%s, retry after %v: %s", state, e.RetryAfter, e.Message)
	}
	return fmt.Sprintf("%s, retry after %v", state, e.RetryAfter)
}

// httpStatus is the status of a reply that is not 200.
type httpStatus int

// Error returns code and name.
func (s httpStatus) Error() string {
	return strings.TrimSpace(fmt.Sprintf("%d %s", int(s), http.StatusText(int(s))))
}

// statusError makes the error of a reply that is not 200.
func statusError(address string, reply *http.Response, body []byte) error {
	refusal := parseRefusal(body)
	kind, status := market.KindInvalid, reply.StatusCode
	said := httpStatus(status)
	switch {
	case status == http.StatusTooManyRequests, status == http.StatusTeapot:
		limited := &RateLimitError{RetryAfter: RetryAfter(reply, time.Now()), Banned: status == http.StatusTeapot}
		if refusal != nil {
			limited.Message = refusal.Message
		}
		return market.Errorf(market.KindUnavailable, "GET %s: %w: %w", address, said, limited)
	case status >= http.StatusInternalServerError,
		status == http.StatusForbidden, // the web application firewall (rest-api.md, "HTTP Return Codes")
		status == http.StatusRequestTimeout:
		kind = market.KindUnavailable
	case refusal != nil && refusal.Code == codeUnknownSymbol:
		kind = market.KindNotFound
	case refusal == nil && status < http.StatusBadRequest:
		kind = market.KindCorrupt
	}
	if refusal == nil {
		return market.Errorf(kind, "GET %s: %w: %s", address, said, excerpt(body))
	}
	return market.Errorf(kind, "GET %s: %w: %w", address, said, refusal)
}

// parseRefusal reads {"code":…,"msg":…}; nil when the body is something else.
func parseRefusal(body []byte) *APIError {
	var reply struct {
		Code    *int    `json:"code"`
		Message *string `json:"msg"`
	}
	err := json.Unmarshal(body, &reply)
	if ok := err == nil && reply.Code != nil && reply.Message != nil; !ok {
		return nil
	}
	return &APIError{Code: *reply.Code, Message: excerpt([]byte(*reply.Message))}
}
