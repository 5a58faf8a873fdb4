package gateway

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/google/uuid"

	"tapedeck/localstack/internal/child"
)

// maxRequestBytes is API Gateway's limit of a request body:
// https://docs.aws.amazon.com/apigateway/latest/developerguide/api-gateway-execution-service-limits-table.html
const maxRequestBytes = 10 << 20

// Defaults of Config.
const (
	DefaultMaxProcesses = 4
	DefaultMaxQueue     = 64
)

// Config describes a gateway.
type Config struct {
	Template *Template
	// Bootstrap returns the path of the binary of a function; see Build.
	Bootstrap func(logicalID string) string
	// MaxProcesses is how many processes one function has at the most, and so how many of its calls run at once.
	// 0 means DefaultMaxProcesses.
	MaxProcesses int
	// MaxQueue is how many more calls of one function may wait; beyond it calls are refused with 429.
	// 0 means DefaultMaxQueue.
	MaxQueue int
	// Logger gets the functions' output, line by line with the attribute "function", and what goes wrong with them.
	// nil means slog.Default().
	Logger *slog.Logger
}

// Gateway is an http.Handler that serves the API of a template. Its methods may be called concurrently.
type Gateway struct {
	stage   string
	router  *router
	pools   map[string]*pool // by logical id
	starter *child.Starter
	logger  *slog.Logger
	close   func(context.Context) error
}

// Start returns a gateway that is ready to serve. Processes of functions are started by the first calls, or by
// Prewarm. The caller must Close it.
func Start(c Config) (*Gateway, error) {
	r, err := newRouter(c.Template.Functions)
	if err != nil {
		return nil, err
	}
	g := &Gateway{stage: c.Template.Stage, router: r, pools: map[string]*pool{}, logger: c.Logger}
	if g.logger == nil {
		g.logger = slog.Default()
	}
	for _, f := range c.Template.Functions {
		bootstrap, err := filepath.Abs(c.Bootstrap(f.LogicalID))
		if err != nil {
			return nil, fmt.Errorf("bootstrap of %s: %w", f.LogicalID, err)
		}
		if _, err := os.Stat(bootstrap); err != nil {
			return nil, fmt.Errorf("bootstrap of %s: %w", f.LogicalID, err)
		}
		p := newPool(f, bootstrap, g.logger.With(slog.String("function", f.LogicalID)))
		if c.MaxProcesses > 0 {
			p.maxProcesses = c.MaxProcesses
		}
		if c.MaxQueue > 0 {
			p.maxQueue = c.MaxQueue
		}
		g.pools[f.LogicalID] = p
	}
	g.starter = child.NewStarter()
	for _, p := range g.pools {
		p.starter = g.starter
	}
	var once sync.Once
	g.close = func(ctx context.Context) (err error) {
		once.Do(func() { err = g.closePools(ctx) })
		return err
	}
	return g, nil
}

// Prewarm starts a process of every function and returns when all are ready, or with the errors of those that are not.
func (g *Gateway) Prewarm(ctx context.Context) error {
	return g.eachPool(func(p *pool) error { return p.prewarm(ctx) })
}

// Close refuses further calls with 503 and waits for those in progress; when ctx ends they are cut off, which is an
// error. Then it ends all processes and returns when none is left. Later calls of Close do nothing.
func (g *Gateway) Close(ctx context.Context) error { return g.close(ctx) }

func (g *Gateway) closePools(ctx context.Context) error {
	err := g.eachPool(func(p *pool) error { return p.close(ctx) })
	g.starter.Stop()
	return err
}

// eachPool calls do for all pools at once and joins the errors.
func (g *Gateway) eachPool(do func(*pool) error) error {
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		errs []error
	)
	for _, p := range g.pools {
		wg.Go(func() {
			err := do(p)
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// ServeHTTP serves one request.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	now := time.Now()
	c := callInfo{requestID: uuid.NewString(), traceID: newTraceID(now), stage: g.stage, time: now}
	w.Header().Set("X-Amzn-Requestid", c.requestID)
	w.Header().Set("X-Amzn-Trace-Id", c.traceID)
	m, found := g.router.find(r.URL.EscapedPath())
	if !found {
		writeProblem(w, c, http.StatusNotFound, "not_found", "There is nothing at this path.")
		return
	}
	function, found := m.methods[r.Method]
	if !found {
		w.Header().Set("Allow", m.allow())
		writeProblem(w, c, http.StatusMethodNotAllowed, "method_not_allowed", "The path does not take this method.")
		return
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		writeProblem(w, c, http.StatusBadRequest, "invalid_parameter",
			"The query string is not well formed.")
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequestBytes))
	if err != nil {
		writeBodyError(w, err)
		return
	}
	rep, err := g.call(r.Context(), function, c, newEvent(r, m, query, body, c))
	if err != nil {
		g.writeCallError(w, function, c, err)
		return
	}
	rep.write(w)
}

// call has a function answer an event, within API Gateway's time.
func (g *Gateway) call(ctx context.Context, function string, c callInfo, event any) (reply, error) {
	payload, err := json.Marshal(event)
	if err != nil {
		return reply{}, fmt.Errorf("encode the event: %w", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, integrationTimeout, errTimeout)
	defer cancel()
	inv := &invocation{id: c.requestID, traceID: c.traceID, payload: payload, result: make(chan result, 1)}
	answer, err := g.pools[function].call(ctx, inv)
	if err != nil {
		return reply{}, err
	}
	return parseReply(answer)
}

// writeCallError answers a call that failed, with API Gateway's own words.
func (g *Gateway) writeCallError(w http.ResponseWriter, function string, c callInfo, err error) {
	status, message := http.StatusBadGateway, "Internal server error"
	switch {
	case errors.Is(err, context.Canceled): // the client has gone
		return
	case errors.Is(err, errThrottled):
		w.Header().Set("Retry-After", "1")
		status, message = http.StatusTooManyRequests, "Too Many Requests"
	case errors.Is(err, errClosed):
		w.Header().Set("Retry-After", "1")
		status, message = http.StatusServiceUnavailable, "Service Unavailable"
	case errors.Is(err, errTimeout):
		status, message = http.StatusGatewayTimeout, "Endpoint request timed out"
	}
	g.logger.Error("function call failed", slog.String("function", function), slog.Int("status", status),
		slog.String("request_id", c.requestID), slog.Any("error", err))
	writeJSON(w, status, map[string]string{"message": message})
}

// writeBodyError answers a request whose body could not be read whole.
func writeBodyError(w http.ResponseWriter, err error) {
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		writeJSON(w, http.StatusRequestEntityTooLarge, map[string]string{"message": "Request Too Long"})
		return
	}
	writeJSON(w, http.StatusBadRequest, map[string]string{"message": "Bad Request"})
}

// problem is an RFC 9457 problem in the form that docs/openapi.yaml lays down.
type problem struct {
	Type      string     `json:"type"`
	Title     string     `json:"title"`
	Status    int        `json:"status"`
	Detail    string     `json:"detail"`
	Code      string     `json:"code"`
	RequestID string     `json:"request_id"`
	Errors    []struct{} `json:"errors"` // always empty: only functions know parameters
}

func writeProblem(w http.ResponseWriter, c callInfo, status int, code, detail string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	// A client that has gone needs no answer.
	_ = json.NewEncoder(w).Encode(problem{
		Type: "urn:tapedeck:problem:" + code, Title: http.StatusText(status), Status: status, Detail: detail, Code: code,
		RequestID: c.requestID, Errors: []struct{}{},
	})
}

// newTraceID returns an X-Ray trace header:
// https://docs.aws.amazon.com/xray/latest/devguide/xray-concepts.html#xray-concepts-tracingheader
func newTraceID(now time.Time) string {
	var id [12]byte
	_, _ = rand.Read(id[:]) // never fails
	return fmt.Sprintf("Root=1-%08x-%x", now.Unix(), id)
}
