package exchange

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
)

// What a client may say on a stream connection, and what it hears: web-socket-streams.md, "Live Subscribing/
// Unsubscribing to streams" and "Error Messages".

type request struct {
	Method *string           `json:"method"`
	Params []json.RawMessage `json:"params"`
	ID     json.RawMessage   `json:"id"`
}

type result struct {
	Result any             `json:"result"`
	ID     json.RawMessage `json:"id"`
}

type requestError struct {
	Code int             `json:"code"`
	Msg  string          `json:"msg"`
	ID   json.RawMessage `json:"id,omitempty"`
}

// The codes of errors in replies to clients.
const (
	codeUnknownProperty  = 0
	codeInvalidValueType = 1
	codeInvalidRequest   = 2
	codeInvalidJSON      = 3
)

func (e *requestError) Error() string { return e.Msg }

func invalidRequest(format string, args ...any) *requestError {
	return &requestError{Code: codeInvalidRequest, Msg: "Invalid request: " + fmt.Sprintf(format, args...)}
}

// control handles a message of a client. Its reply is queued before any frame that the request brings about.
func (s *Server) control(c *conn, message []byte) {
	req, err := parseRequest(message)
	s.mu.Lock()
	defer s.mu.Unlock()
	var value any
	if err == nil {
		var streams []string
		streams, value, err = s.handle(c, &req)
		defer s.subscribe(c, streams) // behind the reply
	}
	reply := any(result{Result: value, ID: req.ID})
	if err != nil {
		err.ID = req.ID
		reply = err
	}
	text, marshalErr := json.Marshal(reply)
	if marshalErr != nil {
		panic("exchange: reply cannot be encoded: " + marshalErr.Error()) // it holds only what was decoded before
	}
	s.deliverReply(c, text)
}

// deliverReply queues a control reply. The caller holds mu.
func (s *Server) deliverReply(c *conn, text []byte) {
	texts := [][]byte{text}
	if s.filter != nil {
		texts = s.filter("", text)
	}
	for _, text := range texts {
		s.enqueue(c, text)
	}
	c.flush()
}

// handle carries out a request, but for the streams to be subscribed to, which it returns. The caller holds mu.
func (s *Server) handle(c *conn, req *request) (subscribe []string, value any, err *requestError) {
	switch *req.Method {
	case "SUBSCRIBE":
		subscribe, err = req.streams()
		return subscribe, nil, err
	case "UNSUBSCRIBE":
		streams, err := req.streams()
		s.unsubscribe(c, streams)
		return nil, nil, err
	case "LIST_SUBSCRIPTIONS":
		if len(req.Params) > 0 {
			return nil, nil, invalidRequest("too many parameters")
		}
		return nil, append([]string{}, c.streams...), nil
	case "GET_PROPERTY":
		err := req.property(1)
		return nil, c.combined, err
	case "SET_PROPERTY":
		if err := req.property(2); err != nil {
			return nil, nil, err
		}
		if len(req.Params) < 2 || json.Unmarshal(req.Params[1], &c.combined) != nil || string(req.Params[1]) == "null" {
			return nil, nil, &requestError{Code: codeInvalidValueType, Msg: "Invalid value type: expected Boolean"}
		}
		return nil, nil, nil
	}
	return nil, nil, invalidRequest("unknown variant `%s`, expected one of `SUBSCRIBE`, `UNSUBSCRIBE`, "+
		"`LIST_SUBSCRIPTIONS`, `SET_PROPERTY`, `GET_PROPERTY` at line 1 column 28", *req.Method)
}

// streams returns the parameters of a request as names of streams.
func (r *request) streams() ([]string, *requestError) {
	streams := make([]string, len(r.Params))
	for i, p := range r.Params {
		if json.Unmarshal(p, &streams[i]) != nil || streams[i] == "" {
			return nil, invalidRequest("stream name must be a string")
		}
	}
	if len(streams) == 0 {
		return nil, invalidRequest("missing field `params`")
	}
	return streams, nil
}

// property checks that the first parameter names the one property there is, and that there are no more than want.
func (r *request) property(want int) *requestError {
	var name string
	switch {
	case len(r.Params) > want:
		return invalidRequest("too many parameters")
	case len(r.Params) == 0 || json.Unmarshal(r.Params[0], &name) != nil || string(r.Params[0]) == "null":
		return invalidRequest("property name must be a string")
	case name != "combined":
		return &requestError{Code: codeUnknownProperty, Msg: "Unknown property"}
	}
	return nil
}

// validID matches the ids that a request may carry: a signed 64-bit integer, an alphanumeric string of at most 36
// characters, or null. Integers are checked further.
var validID = regexp.MustCompile(`^(null|-?[0-9]+|"[0-9A-Za-z_-]{0,36}")$`)

// parseRequest reads a request. The id is set when it is valid, also beside an error.
func parseRequest(message []byte) (request, *requestError) {
	var req request
	if err := json.Unmarshal(message, &req); err != nil {
		if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
			return request{}, &requestError{
				Code: codeInvalidJSON,
				Msg:  fmt.Sprintf("Invalid JSON: expected value at line 1 column %d", syntax.Offset),
			}
		}
		return request{}, invalidRequest("%s", err)
	}
	var number int64
	isNumber := len(req.ID) > 0 && req.ID[0] != '"' && req.ID[0] != 'n'
	if !validID.Match(req.ID) || isNumber && json.Unmarshal(req.ID, &number) != nil {
		req.ID = nil
		return req, invalidRequest("request ID must be an unsigned integer")
	}
	if req.Method == nil {
		return req, invalidRequest("missing field `method` at line 1 column %d", len(message))
	}
	return req, nil
}
