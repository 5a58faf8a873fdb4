package gateway

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/aws/aws-lambda-go/events"
)

// newEvent maps a request to the event of a Lambda proxy integration, payload version 1.0:
// https://docs.aws.amazon.com/apigateway/latest/developerguide/set-up-lambda-proxy-integrations.html
func newEvent(r *http.Request, m match, query url.Values, body []byte, c callInfo) *events.APIGatewayProxyRequest {
	headers := eventHeaders(r, c)
	e := &events.APIGatewayProxyRequest{
		Resource:                        m.resource,
		Path:                            r.URL.EscapedPath(),
		HTTPMethod:                      r.Method,
		Headers:                         lastValues(headers),
		MultiValueHeaders:               headers,
		QueryStringParameters:           lastValues(query),
		MultiValueQueryStringParameters: nonEmpty(query),
		PathParameters:                  nonEmpty(m.parameters),
		RequestContext: events.APIGatewayProxyRequestContext{
			AccountID:         accountID,
			APIID:             "local",
			ResourceID:        "local",
			ResourcePath:      m.resource,
			HTTPMethod:        r.Method,
			Path:              r.URL.EscapedPath(),
			Stage:             c.stage,
			DomainName:        hostname(r.Host),
			DomainPrefix:      "local",
			RequestID:         c.requestID,
			ExtendedRequestID: c.requestID,
			Protocol:          r.Proto,
			RequestTime:       c.time.UTC().Format("02/Jan/2006:15:04:05 -0700"),
			RequestTimeEpoch:  c.time.UnixMilli(),
			Identity: events.APIGatewayRequestIdentity{
				SourceIP:  hostname(r.RemoteAddr),
				UserAgent: r.UserAgent(),
			},
		},
	}
	if utf8.Valid(body) {
		e.Body = string(body)
	} else {
		e.Body, e.IsBase64Encoded = base64.StdEncoding.EncodeToString(body), true
	}
	return e
}

// callInfo is what the gateway itself knows of a call.
type callInfo struct {
	requestID string
	traceID   string
	stage     string
	time      time.Time
}

// eventHeaders returns the request's headers with those that API Gateway adds.
func eventHeaders(r *http.Request, c callInfo) http.Header {
	h := r.Header.Clone()
	h.Set("Host", r.Host)
	h.Set("X-Amzn-Trace-Id", c.traceID)
	h.Set("X-Forwarded-Proto", "http")
	if _, port, err := net.SplitHostPort(r.Host); err == nil {
		h.Set("X-Forwarded-Port", port)
	}
	forwarded := append(h.Values("X-Forwarded-For"), hostname(r.RemoteAddr))
	h.Set("X-Forwarded-For", strings.Join(forwarded, ", "))
	return h
}

// lastValues keeps of each key the last value, as API Gateway does. Nothing at all is null in the event.
func lastValues(values map[string][]string) map[string]string {
	if len(values) == 0 {
		return nil
	}
	last := make(map[string]string, len(values))
	for key, v := range values {
		if len(v) > 0 {
			last[key] = v[len(v)-1]
		}
	}
	return last
}

func nonEmpty[M ~map[string]V, V any](m M) M {
	if len(m) == 0 {
		return nil
	}
	return m
}

func hostname(hostport string) string {
	if host, _, err := net.SplitHostPort(hostport); err == nil {
		return host
	}
	return hostport
}

// reply is a function's proxy response, checked.
type reply struct {
	status int
	header http.Header
	body   []byte
}

// droppedHeaders concern the connection, which is the gateway's business.
var droppedHeaders = []string{
	"Connection", "Content-Length", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
}

// parseReply reads a proxy response. Anything else that a function may return is an error.
func parseReply(payload []byte) (reply, error) {
	var response events.APIGatewayProxyResponse
	if err := json.Unmarshal(payload, &response); err != nil {
		return reply{}, fmt.Errorf("malformed proxy response: %w", err)
	}
	// An informational status would leave the client waiting for another one.
	if response.StatusCode < 200 || response.StatusCode > 599 {
		return reply{}, fmt.Errorf("malformed proxy response: status code %d", response.StatusCode)
	}
	r := reply{status: response.StatusCode, header: replyHeader(response), body: []byte(response.Body)}
	if response.IsBase64Encoded {
		var err error
		if r.body, err = base64.StdEncoding.DecodeString(response.Body); err != nil {
			return reply{}, fmt.Errorf("malformed proxy response: body: %w", err)
		}
	}
	if len(r.body) > 0 && (r.status == http.StatusNoContent || r.status == http.StatusNotModified) {
		return reply{}, errors.New("malformed proxy response: a body with a status that has none")
	}
	return r, nil
}

// replyHeader merges the two kinds of headers; a key's multiple values win over its single one.
func replyHeader(response events.APIGatewayProxyResponse) http.Header {
	h := http.Header{}
	for key, value := range response.Headers {
		h.Set(key, value)
	}
	for key, values := range response.MultiValueHeaders {
		h.Del(key)
		for _, value := range values {
			h.Add(key, value)
		}
	}
	for _, key := range droppedHeaders {
		h.Del(key)
	}
	if h.Get("Content-Type") == "" {
		h.Set("Content-Type", "application/json")
	}
	return h
}

func (r reply) write(w http.ResponseWriter) {
	for key, values := range r.header {
		w.Header()[key] = values
	}
	w.WriteHeader(r.status)
	// A client that has gone needs no answer.
	_, _ = w.Write(r.body)
}
