package api

import (
	"context"
	"errors"
	"net/http"

	"tapedeck/functions/internal/query"
	"tapedeck/shared/market"
)

// code names a problem for programs.
type code string

const (
	codeInvalidParameter   code = "invalid_parameter"
	codeUnknownMarket      code = "unknown_market"
	codeNoData             code = "no_data"
	codeDataGap            code = "data_gap"
	codeRangeTooLarge      code = "range_too_large"
	codeStorageUnavailable code = "storage_unavailable"
	codeInternal           code = "internal"
)

// kinds is the one place where the kind of an error becomes an answer. Errors that say more have a code of their own;
// see codeOf.
var kinds = map[market.Kind]code{
	market.KindUnknown:     codeInternal,
	market.KindInvalid:     codeInvalidParameter,
	market.KindNotFound:    codeNoData,
	market.KindUnavailable: codeStorageUnavailable,
	market.KindCorrupt:     codeInternal,
	market.KindTooLarge:    codeRangeTooLarge,
}

// problems holds the fixed part of every problem. What an error says inside is never shown.
var problems = map[code]struct {
	status        int
	title, detail string
}{
	codeInvalidParameter:   {http.StatusBadRequest, "Invalid parameter", "One or more parameters are wrong; errors names each."},
	codeUnknownMarket:      {http.StatusNotFound, "Unknown market", "This market is not recorded; /v1/markets lists those that are."},
	codeNoData:             {http.StatusNotFound, "No data", "Nothing is held for that moment; earliest and latest are the first and last event times held."},
	codeDataGap:            {http.StatusConflict, "Data gap", "The recording is not complete, or not known to be complete, there; nearest_before and nearest_after are the nearest instants with a complete answer."},
	codeRangeTooLarge:      {http.StatusRequestEntityTooLarge, "Range too large", "The answer would be too large; ask for a shorter range or fewer items."},
	codeStorageUnavailable: {http.StatusServiceUnavailable, "Storage unavailable", "The store does not answer now; try again later."},
	codeInternal:           {http.StatusInternalServerError, "Internal error", "The request could not be answered; the log has more under its request_id."},
}

// retryAfter is the Retry-After of a store that does not answer, in seconds.
const retryAfter = "5"

// problemError is an error whose code the adapter itself decided.
type problemError struct {
	code   code
	fields []FieldError
	err    error // for the log; may be nil
}

// Error implements error.
func (e *problemError) Error() string {
	if e.err != nil {
		return string(e.code) + ": " + e.err.Error()
	}
	return string(e.code)
}

// Unwrap returns the cause.
func (e *problemError) Unwrap() error { return e.err }

// Problem is an error reply (RFC 9457). The last four members belong to single codes and are left out elsewhere.
type Problem struct {
	Type      string       `json:"type"`
	Title     string       `json:"title"`
	Status    int          `json:"status"`
	Detail    string       `json:"detail"`
	Code      code         `json:"code"`
	RequestID string       `json:"request_id"`
	Errors    []FieldError `json:"errors"`

	Earliest *instant   `json:"earliest,omitempty"`
	Latest   *instant   `json:"latest,omitempty"`
	Before   *instant   `json:"nearest_before,omitempty"`
	After    *instant   `json:"nearest_after,omitempty"`
	Gaps     *[]gapItem `json:"gaps,omitempty"`
}

// codeOf returns the code of an error.
func codeOf(err error) code {
	if e, ok := errors.AsType[*problemError](err); ok {
		return e.code
	}
	if _, ok := errors.AsType[*query.UnknownMarket](err); ok {
		return codeUnknownMarket
	}
	if _, ok := errors.AsType[*query.DataGap](err); ok {
		return codeDataGap
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return codeStorageUnavailable // only stores are waited for
	}
	return kinds[market.KindOf(err)]
}

// problemOf returns what a caller is told of an error.
func problemOf(err error, requestID string) *Problem {
	code := codeOf(err)
	fixed := problems[code]
	p := &Problem{
		Type:      "urn:tapedeck:problem:" + string(code),
		Title:     fixed.title,
		Status:    fixed.status,
		Detail:    fixed.detail,
		Code:      code,
		RequestID: requestID,
		Errors:    []FieldError{},
	}
	if e, ok := errors.AsType[*problemError](err); ok && len(e.fields) > 0 {
		p.Errors = e.fields
	}
	if e, ok := errors.AsType[*query.NoData](err); ok {
		p.Earliest, p.Latest = new(instant(e.Earliest)), new(instant(e.Latest))
	}
	if e, ok := errors.AsType[*query.DataGap](err); ok {
		p.Before, p.After = new(instant(e.Before)), new(instant(e.After))
		p.Gaps = new(gapItems(e.Gaps))
	}
	return p
}
