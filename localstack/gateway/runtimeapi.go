package gateway

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

// The Lambda Runtime API, as one process sees it: it asks for the next invocation, and posts its response or its error.
// https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html

const (
	runtimePath = "/2018-06-01/runtime/"
	// maxReplyBytes is the limit of a synchronous invocation's response:
	// https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html
	maxReplyBytes = 6 << 20
	// maxFailureBytes bounds what is read of an error report.
	maxFailureBytes = 256 << 10
)

// invocation is one event on its way through a process.
type invocation struct {
	id      string
	traceID string
	payload []byte

	deadline time.Time   // set when the invocation is handed to a process
	timer    *time.Timer // ends the process at the deadline
	result   chan result // buffered; exactly one result arrives once the invocation is handed to a process
}

type result struct {
	reply []byte
	err   error
}

// Why an invocation failed.
var (
	errTimeout    = errors.New("the function exceeded its timeout")
	errEnded      = errors.New("the process of the function ended before it answered")
	errUnanswered = errors.New("the function asked for the next invocation before it answered")
	errReplySize  = fmt.Errorf("the function's reply is larger than %d bytes", maxReplyBytes)
)

// runtimeError is what a function reports as its failure.
type runtimeError struct {
	Message string `json:"errorMessage"`
	Type    string `json:"errorType"`
}

func (e *runtimeError) Error() string { return fmt.Sprintf("%s: %s", e.Type, e.Message) }

func (p *process) runtimeAPI() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+runtimePath+"invocation/next", p.serveNext)
	mux.HandleFunc("POST "+runtimePath+"invocation/{id}/response", p.serveResponse)
	mux.HandleFunc("POST "+runtimePath+"invocation/{id}/error", p.serveError)
	mux.HandleFunc("POST "+runtimePath+"init/error", p.serveInitError)
	return mux
}

// serveNext holds the request until there is an invocation for the process.
func (p *process) serveNext(w http.ResponseWriter, r *http.Request) {
	if !p.pool.ready(p) {
		writeRuntimeError(w, http.StatusForbidden, "InvalidStateTransition", "the process may not ask now")
		return
	}
	select {
	case inv := <-p.invocations:
		h := w.Header()
		h.Set("Content-Type", "application/json")
		h.Set("Lambda-Runtime-Aws-Request-Id", inv.id)
		h.Set("Lambda-Runtime-Deadline-Ms", strconv.FormatInt(inv.deadline.UnixMilli(), 10))
		h.Set("Lambda-Runtime-Invoked-Function-Arn", functionARN(p.pool.function.LogicalID))
		h.Set("Lambda-Runtime-Trace-Id", inv.traceID)
		if _, err := w.Write(inv.payload); err != nil {
			p.condemn(errEnded)
		}
	case <-r.Context().Done():
		p.condemn(errEnded)
	}
}

func (p *process) serveResponse(w http.ResponseWriter, r *http.Request) {
	reply, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxReplyBytes))
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		p.finish(r.PathValue("id"), result{err: errReplySize})
		writeRuntimeError(w, http.StatusRequestEntityTooLarge, "RequestEntityTooLarge", errReplySize.Error())
		return
	}
	if err != nil {
		p.condemn(errEnded)
		return
	}
	res := result{reply: reply}
	// A function that fails in the middle of its response says so in a trailer.
	if failure := r.Trailer.Get("Lambda-Runtime-Function-Error-Type"); failure != "" {
		res = result{err: &runtimeError{Type: failure, Message: "the function failed while it answered"}}
	}
	p.accept(w, r, res)
}

func (p *process) serveError(w http.ResponseWriter, r *http.Request) {
	p.accept(w, r, result{err: readRuntimeError(w, r)})
}

// accept takes the result of the invocation that the request names, if it is the one in hand.
func (p *process) accept(w http.ResponseWriter, r *http.Request, res result) {
	if !p.finish(r.PathValue("id"), res) {
		writeRuntimeError(w, http.StatusBadRequest, "InvalidRequestID", "no such invocation is in hand")
		return
	}
	writeJSON(w, http.StatusAccepted, map[string]string{"status": "OK"})
}

// serveInitError notes why the process cannot start; the process ends by itself.
func (p *process) serveInitError(w http.ResponseWriter, r *http.Request) {
	p.note(readRuntimeError(w, r))
	writeJSON(w, http.StatusAccepted, map[string]string{"status": "OK"})
}

// readRuntimeError reads an error report. What cannot be read becomes an error of the type "Unknown".
func readRuntimeError(w http.ResponseWriter, r *http.Request) error {
	failure := &runtimeError{}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxFailureBytes))
	if err != nil || json.Unmarshal(body, failure) != nil || failure.Type == "" {
		failure.Type = "Unknown"
	}
	return failure
}

func writeRuntimeError(w http.ResponseWriter, status int, errorType, message string) {
	writeJSON(w, status, runtimeError{Type: errorType, Message: message})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// A client that has gone needs no answer.
	_ = json.NewEncoder(w).Encode(v)
}
