package api

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"

	"github.com/aws/aws-lambda-go/lambdacontext"

	"tapedeck/shared/market"
)

// Request is a request as an endpoint sees it, whichever form of event the gateway sent.
type Request struct {
	ID    string
	Path  map[string]string // path parameters, unescaped
	Query url.Values
	Body  []byte
}

// event is what API Gateway sends: payload format 1.0 (REST APIs) or 2.0 (HTTP APIs). The two share the names below;
// each leaves out some.
type event struct {
	Version        string            `json:"version"` // "2.0"; REST APIs send none
	PathParameters map[string]string `json:"pathParameters"`

	QueryStringParameters           map[string]string   `json:"queryStringParameters"`
	MultiValueQueryStringParameters map[string][]string `json:"multiValueQueryStringParameters"` // 1.0 only
	RawQueryString                  string              `json:"rawQueryString"`                  // 2.0 only

	Body            string `json:"body"`
	IsBase64Encoded bool   `json:"isBase64Encoded"`

	RequestContext struct {
		RequestID string `json:"requestId"`
	} `json:"requestContext"`
}

// parseEvent reads a gateway's event. The request is never nil and carries an id also when there is an error, which is
// of kind KindInvalid.
func parseEvent(ctx context.Context, payload []byte) (*Request, error) {
	r := &Request{}
	if lc, ok := lambdacontext.FromContext(ctx); ok {
		r.ID = lc.AwsRequestID
	}
	var e event
	if err := json.Unmarshal(payload, &e); err != nil {
		return r, market.Errorf(market.KindInvalid, "event of %d bytes: %w", len(payload), err)
	}
	if e.RequestContext.RequestID != "" {
		r.ID = e.RequestContext.RequestID
	}
	var err error
	if r.Query, err = e.query(); err != nil {
		return r, market.Errorf(market.KindInvalid, "query string: %w", err)
	}
	r.Body = []byte(e.Body)
	if e.IsBase64Encoded {
		if r.Body, err = base64.StdEncoding.DecodeString(e.Body); err != nil {
			return r, market.Errorf(market.KindInvalid, "body: %w", err)
		}
	}
	r.Path = make(map[string]string, len(e.PathParameters))
	for name, value := range e.PathParameters {
		// REST APIs pass path parameters as they stand in the URL, HTTP APIs unescaped. No symbol holds a percent sign.
		if unescaped, err := url.PathUnescape(value); err == nil {
			value = unescaped
		}
		r.Path[name] = value
	}
	return r, nil
}

// query returns the query parameters with all their values.
func (e *event) query() (url.Values, error) {
	switch {
	case e.Version == "2.0" && e.RawQueryString != "":
		// queryStringParameters of 2.0 joins repeated values with commas, so the raw string is the better source.
		return url.ParseQuery(e.RawQueryString)
	case len(e.MultiValueQueryStringParameters) > 0:
		return e.MultiValueQueryStringParameters, nil
	}
	values := make(url.Values, len(e.QueryStringParameters))
	for name, value := range e.QueryStringParameters {
		values.Set(name, value)
	}
	return values, nil
}

// Market returns the market that the path names. The error is the one for an unknown market: a path that cannot be a
// market leads nowhere.
func (r *Request) Market() (market.Market, error) {
	m, err := market.New(market.Exchange(strings.ToLower(r.Path["exchange"])), r.Path["symbol"])
	if err != nil {
		return m, &problemError{code: codeUnknownMarket, err: fmt.Errorf("path: %w", err)}
	}
	return m, nil
}
