package gateway

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-lambda-go/events"
)

// functionBinary and rawBinary are the programs of testdata, built once.
var functionBinary, rawBinary string

func TestMain(m *testing.M) {
	if binary := os.Getenv("GATEWAY_TEST_PARENT"); binary != "" {
		serveUntilKilled(binary)
	}
	os.Exit(buildAndRun(m))
}

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "gateway")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	functionBinary, rawBinary = filepath.Join(dir, "function"), filepath.Join(dir, "raw")
	for binary, pkg := range map[string]string{functionBinary: "./testdata/function", rawBinary: "./testdata/raw"} {
		if err := build(context.Background(), ".", binary, pkg); err != nil {
			panic(err)
		}
	}
	return m.Run()
}

// setup describes a gateway with one function, which answers GET and POST /v1/{item}.
type setup struct {
	binary                 string // functionBinary if empty
	timeout                time.Duration
	environment            map[string]string
	maxProcesses, maxQueue int
	logger                 *slog.Logger
}

func start(t testing.TB, s setup) *Gateway {
	t.Helper()
	if s.binary == "" {
		s.binary = functionBinary
	}
	if s.timeout == 0 {
		s.timeout = 20 * time.Second
	}
	if s.logger == nil {
		s.logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	g, err := Start(Config{
		Template: &Template{Stage: "test", Functions: []Function{{
			LogicalID: "EchoFunction", Handler: "bootstrap", Timeout: s.timeout, MemoryMB: 128,
			Environment: s.environment,
			Routes:      []Route{{Method: "GET", Path: "/v1/{item}"}, {Method: "POST", Path: "/v1/{item}"}},
		}}},
		Bootstrap:    func(string) string { return s.binary },
		MaxProcesses: s.maxProcesses,
		MaxQueue:     s.maxQueue,
		Logger:       s.logger,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(context.Background()); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return g
}

// get makes a call without a network between.
func get(ctx context.Context, g *Gateway, target string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	g.ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodGet, target, nil))
	return w
}

func wantStatus(t *testing.T, w *httptest.ResponseRecorder, want int) {
	t.Helper()
	if w.Code != want {
		t.Fatalf("status %d, want %d; body %.300s", w.Code, want, w.Body)
	}
}

// echoed is what the echo function answers.
type echoed struct {
	Event       events.APIGatewayProxyRequest `json:"event"`
	Environment []string                      `json:"environment"`
	PID         int                           `json:"pid"`
	RequestID   string                        `json:"request_id"`
	ARN         string                        `json:"arn"`
	Deadline    time.Time                     `json:"deadline"`
}

func decodeEcho(t *testing.T, body []byte) echoed {
	t.Helper()
	var e echoed
	if err := json.Unmarshal(body, &e); err != nil {
		t.Fatalf("%v in %.300s", err, body)
	}
	return e
}

// rendezvous is where functions in the mode "meet" or "hang" report and wait.
type rendezvous struct {
	net.Listener
}

func newRendezvous(t *testing.T) rendezvous {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return rendezvous{l}
}

func (r rendezvous) target(do string) string {
	return "/v1/x?do=" + do + "&address=" + url.QueryEscape(r.Addr().String())
}

// await returns the connection of the next function that reports.
func (r rendezvous) await(t *testing.T) net.Conn {
	t.Helper()
	conn, err := r.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func release(t *testing.T, conn net.Conn) {
	t.Helper()
	if _, err := conn.Write([]byte{1}); err != nil {
		t.Fatal(err)
	}
}

// awaitEnd returns when the process at the other end is gone.
func awaitEnd(t *testing.T, conn net.Conn) {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	_, err := conn.Read(make([]byte, 1))
	if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("the process still lives: %v", err)
	}
}

func TestEventMapping(t *testing.T) {
	t.Parallel()
	g := start(t, setup{environment: map[string]string{"STORE": "somewhere"}})
	server := httptest.NewServer(g)
	defer server.Close()
	r, err := http.NewRequest(http.MethodPost,
		server.URL+"/v1/a%2Fb%20c?at=1&at=2&and=%26&plus=a+b&empty=&bare", strings.NewReader("čaj"))
	if err != nil {
		t.Fatal(err)
	}
	r.Header["X-Many"] = []string{"one", "two"}
	r.Header.Set("X-Forwarded-For", "192.0.2.1")
	r.Header.Set("User-Agent", "tests")
	before := time.Now()
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatal(resp.Status, err, string(body))
	}
	got := decodeEcho(t, body)
	e, rc := got.Event, got.Event.RequestContext
	serverURL, _ := url.Parse(server.URL)
	for _, c := range []struct {
		name      string
		got, want any
	}{
		{"resource", e.Resource, "/v1/{item}"},
		{"path", e.Path, "/v1/a%2Fb%20c"},
		{"method", e.HTTPMethod, "POST"},
		{"path parameters", e.PathParameters, map[string]string{"item": "a/b c"}},
		{
			"query", e.QueryStringParameters,
			map[string]string{"at": "2", "and": "&", "plus": "a b", "empty": "", "bare": ""},
		},
		{"repeated query", e.MultiValueQueryStringParameters["at"], []string{"1", "2"}},
		{"header", e.Headers["X-Many"], "two"},
		{"repeated header", e.MultiValueHeaders["X-Many"], []string{"one", "two"}},
		{"Host", e.Headers["Host"], serverURL.Host},
		{"X-Forwarded-For", e.Headers["X-Forwarded-For"], "192.0.2.1, 127.0.0.1"},
		{"X-Forwarded-Port", e.Headers["X-Forwarded-Port"], serverURL.Port()},
		{"X-Forwarded-Proto", e.Headers["X-Forwarded-Proto"], "http"},
		{"body", e.Body, "čaj"},
		{"base64", e.IsBase64Encoded, false},
		{"stage", rc.Stage, "test"},
		{"resource path", rc.ResourcePath, "/v1/{item}"},
		{"context method", rc.HTTPMethod, "POST"},
		{"source", rc.Identity.SourceIP, "127.0.0.1"},
		{"user agent", rc.Identity.UserAgent, "tests"},
		{"domain", rc.DomainName, "127.0.0.1"},
		{"request id", rc.RequestID, resp.Header.Get("X-Amzn-Requestid")},
		{"invocation's id", got.RequestID, rc.RequestID},
		{"trace id", e.Headers["X-Amzn-Trace-Id"], resp.Header.Get("X-Amzn-Trace-Id")},
		{"arn", got.ARN, "arn:aws:lambda:us-east-1:000000000000:function:EchoFunction"},
	} {
		if fmt.Sprint(c.got) != fmt.Sprint(c.want) {
			t.Errorf("%s: %v, want %v", c.name, c.got, c.want)
		}
	}
	if at := time.UnixMilli(rc.RequestTimeEpoch); at.Before(before.Add(-time.Second)) || time.Since(at) > time.Minute {
		t.Errorf("request time %v", at)
	}
	if left := got.Deadline.Sub(before); left < 19*time.Second || left > 25*time.Second {
		t.Errorf("the deadline leaves %v of 20s", left)
	}
}

func TestProcessSeesDeclaredEnvironmentOnly(t *testing.T) {
	t.Setenv("GATEWAY_TEST_SECRET", "of the gateway")
	g := start(t, setup{environment: map[string]string{"STORE": "somewhere", "EMPTY": ""}})
	w := get(t.Context(), g, "/v1/x")
	wantStatus(t, w, http.StatusOK)
	environment := decodeEcho(t, w.Body.Bytes()).Environment
	for _, want := range []string{
		"STORE=somewhere", "EMPTY=", "AWS_LAMBDA_FUNCTION_NAME=EchoFunction", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE=128",
		"AWS_REGION=us-east-1", "_HANDLER=bootstrap", "TZ=:UTC", "LAMBDA_TASK_ROOT=" + filepath.Dir(functionBinary),
	} {
		if !slices.Contains(environment, want) {
			t.Errorf("%q is missing in %q", want, environment)
		}
	}
	for _, variable := range environment {
		if strings.HasPrefix(variable, "GATEWAY_TEST_SECRET") || strings.HasPrefix(variable, "HOME=") {
			t.Errorf("the gateway's own %q leaks", variable)
		}
	}
}

func TestBodies(t *testing.T) {
	t.Parallel()
	g := start(t, setup{maxProcesses: 1})
	binary := []byte{0xff, 0, 1}
	for _, c := range []struct {
		name   string
		body   []byte
		status int
		sent   string // in the event
		base64 bool
	}{
		{"none", nil, 200, "", false},
		{"text", []byte("text"), 200, "text", false},
		{"binary", binary, 200, base64.StdEncoding.EncodeToString(binary), true},
		{"too large", make([]byte, maxRequestBytes+1), 413, "", false},
	} {
		w := httptest.NewRecorder()
		g.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/v1/x", bytes.NewReader(c.body)))
		if w.Code != c.status {
			t.Errorf("%s: status %d, want %d", c.name, w.Code, c.status)
			continue
		}
		if w.Code != http.StatusOK {
			continue
		}
		if e := decodeEcho(t, w.Body.Bytes()).Event; e.Body != c.sent || e.IsBase64Encoded != c.base64 {
			t.Errorf("%s: body %q, base64 %v", c.name, e.Body, e.IsBase64Encoded)
		}
	}
}

func TestReplyMapping(t *testing.T) {
	t.Parallel()
	g := start(t, setup{maxProcesses: 1})
	for _, c := range []struct {
		name, reply string
		status      int
		header      http.Header // those that are looked at
		body        string
	}{
		{
			name:   "plain",
			reply:  `{"statusCode": 404, "headers": {"content-type": "application/problem+json"}, "body": "{}"}`,
			status: 404, header: http.Header{"Content-Type": {"application/problem+json"}}, body: "{}",
		},
		{
			name:   "type by default",
			reply:  `{"statusCode": 200, "body": "{}"}`,
			status: 200, header: http.Header{"Content-Type": {"application/json"}}, body: "{}",
		},
		{
			name: "many values win",
			reply: `{"statusCode": 200, "headers": {"X-A": "single", "X-B": "b"},
				"multiValueHeaders": {"x-a": ["1", "2"]}, "body": ""}`,
			status: 200, header: http.Header{"X-A": {"1", "2"}, "X-B": {"b"}},
		},
		{
			name:   "base64",
			reply:  `{"statusCode": 200, "isBase64Encoded": true, "body": "/wAB"}`,
			status: 200, body: "\xff\x00\x01",
		},
		{
			name:   "a wrong length",
			reply:  `{"statusCode": 200, "headers": {"Content-Length": "1"}, "body": "{}"}`,
			status: 200, body: "{}",
		},
		{name: "no body", reply: `{"statusCode": 204}`, status: 204},
		{name: "broken base64", reply: `{"statusCode": 200, "isBase64Encoded": true, "body": "?"}`, status: 502},
		{name: "not JSON", reply: `nonsense`, status: 502},
		{name: "nothing", reply: ``, status: 502},
		{name: "null", reply: `null`, status: 502},
		{name: "text", reply: `"text"`, status: 502},
		{name: "no status", reply: `{"body": "{}"}`, status: 502},
		{name: "status 99", reply: `{"statusCode": 99}`, status: 502},
		{name: "status 101", reply: `{"statusCode": 101}`, status: 502},
		{name: "status 600", reply: `{"statusCode": 600}`, status: 502},
		{name: "a body that is no text", reply: `{"statusCode": 200, "body": {}}`, status: 502},
		{name: "a body with 204", reply: `{"statusCode": 204, "body": "{}"}`, status: 502},
	} {
		w := httptest.NewRecorder()
		g.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/v1/x?do=reply",
			strings.NewReader(c.reply)))
		if c.status == http.StatusBadGateway {
			c.body = "{\"message\":\"Internal server error\"}\n"
		}
		if w.Code != c.status || w.Body.String() != c.body {
			t.Errorf("%s: %d %q, want %d %q", c.name, w.Code, w.Body, c.status, c.body)
		}
		for key, want := range c.header {
			if got := w.Header().Values(key); !slices.Equal(got, want) {
				t.Errorf("%s: %s %q, want %q", c.name, key, got, want)
			}
		}
	}
}

func TestWhatNoFunctionAnswers(t *testing.T) {
	t.Parallel()
	g := start(t, setup{})
	for _, c := range []struct {
		method, target string
		status         int
		code           string
	}{
		{"GET", "/", 404, "not_found"},
		{"GET", "/v1", 404, "not_found"},
		{"GET", "/v1/", 404, "not_found"},
		{"GET", "/v1/x/", 404, "not_found"},
		{"GET", "//v1/x", 404, "not_found"},
		{"GET", "/v1/x/y", 404, "not_found"},
		{"GET", "/V1/x", 404, "not_found"},
		{"GET", "/v1%2Fx", 404, "not_found"},
		{"DELETE", "/v1/x", 405, "method_not_allowed"},
		{"HEAD", "/v1/x", 405, "method_not_allowed"},
		{"GET", "/v1/x?a=%zz", 400, "invalid_parameter"},
	} {
		w := httptest.NewRecorder()
		g.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), c.method, c.target, nil))
		var p problem
		if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
			t.Errorf("%s %s: %v", c.method, c.target, err)
		}
		if w.Code != c.status || p.Code != c.code || p.Status != c.status {
			t.Errorf("%s %s: %d %+v, want %d %s", c.method, c.target, w.Code, p, c.status, c.code)
		}
		if got := w.Header().Get("Content-Type"); got != "application/problem+json" {
			t.Errorf("%s %s: Content-Type %q", c.method, c.target, got)
		}
		if p.RequestID == "" || p.RequestID != w.Header().Get("X-Amzn-Requestid") {
			t.Errorf("%s %s: request id %q", c.method, c.target, p.RequestID)
		}
		if allow := w.Header().Get("Allow"); c.status == 405 && allow != "GET, POST" {
			t.Errorf("%s %s: Allow %q", c.method, c.target, allow)
		}
	}
}

func TestFailedCallsAreBadGatewayAndTheNextCallWorks(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		query   string
		another bool // another process answers the next call
	}{
		{"do=error", false},
		{"do=crash", true},
		{"do=panic", true},
		{fmt.Sprint("do=big&bytes=", maxReplyBytes), true},
	} {
		t.Run(c.query, func(t *testing.T) {
			t.Parallel()
			g := start(t, setup{maxProcesses: 1})
			w := get(t.Context(), g, "/v1/x")
			wantStatus(t, w, http.StatusOK)
			before := decodeEcho(t, w.Body.Bytes()).PID
			for range 3 { // not only once
				wantStatus(t, get(t.Context(), g, "/v1/x?"+c.query), http.StatusBadGateway)
			}
			w = get(t.Context(), g, "/v1/x")
			wantStatus(t, w, http.StatusOK)
			if after := decodeEcho(t, w.Body.Bytes()).PID; (after != before) != c.another {
				t.Errorf("process %d before and %d after", before, after)
			}
		})
	}
}

func TestBigReplyBelowTheLimit(t *testing.T) {
	t.Parallel()
	g := start(t, setup{})
	n := maxReplyBytes - 100
	w := get(t.Context(), g, fmt.Sprint("/v1/x?do=big&bytes=", n))
	wantStatus(t, w, http.StatusOK)
	if w.Body.Len() != n {
		t.Errorf("%d bytes, want %d", w.Body.Len(), n)
	}
}

func TestTimeoutKillsTheProcess(t *testing.T) {
	t.Parallel()
	meeting := newRendezvous(t)
	g := start(t, setup{timeout: 500 * time.Millisecond, maxProcesses: 1})
	w := get(t.Context(), g, meeting.target("hang"))
	wantStatus(t, w, http.StatusGatewayTimeout)
	if want := "{\"message\":\"Endpoint request timed out\"}\n"; w.Body.String() != want {
		t.Errorf("body %q, want %q", w.Body, want)
	}
	awaitEnd(t, meeting.await(t))
	wantStatus(t, get(t.Context(), g, "/v1/x"), http.StatusOK)
}

func TestConcurrentCallsRunInParallelUpToTheBound(t *testing.T) {
	t.Parallel()
	meeting := newRendezvous(t)
	const processes, queue = 3, 2
	g := start(t, setup{maxProcesses: processes, maxQueue: queue})
	statuses := make(chan int)
	for range processes + queue + 1 {
		go func() { statuses <- get(t.Context(), g, meeting.target("meet")).Code }()
	}
	// One call too many is refused while the others are still in progress or waiting.
	if status := <-statuses; status != http.StatusTooManyRequests {
		t.Fatalf("the first answer is %d, want 429", status)
	}
	var conns []net.Conn
	for range processes { // all at once
		conns = append(conns, meeting.await(t))
	}
	for i := range processes + queue {
		release(t, conns[i])
		if status := <-statuses; status != http.StatusOK {
			t.Errorf("status %d", status)
		}
		if i < queue { // its turn has come
			conns = append(conns, meeting.await(t))
		}
	}
}

func TestAnswersReachTheirCallers(t *testing.T) {
	t.Parallel()
	g := start(t, setup{maxProcesses: 3, maxQueue: 100})
	var wg sync.WaitGroup
	pids := make(chan int, 100)
	for i := range 100 {
		wg.Go(func() {
			w := get(t.Context(), g, fmt.Sprint("/v1/", i))
			e := decodeEcho(t, w.Body.Bytes())
			if want := fmt.Sprint(i); w.Code != 200 || e.Event.PathParameters["item"] != want {
				t.Errorf("call %d: %d %v", i, w.Code, e.Event.PathParameters)
			}
			pids <- e.PID
		})
	}
	wg.Wait()
	close(pids)
	seen := map[int]bool{}
	for pid := range pids {
		seen[pid] = true
	}
	if len(seen) > 3 {
		t.Errorf("%d processes served, want at most 3", len(seen))
	}
}

func TestCallerThatGoesAwayLeavesTheQueue(t *testing.T) {
	t.Parallel()
	meeting := newRendezvous(t)
	g := start(t, setup{maxProcesses: 1, maxQueue: 1})
	first := make(chan int)
	go func() { first <- get(t.Context(), g, meeting.target("meet")).Code }()
	conn := meeting.await(t)
	for range 3 { // each finds the queue's one place free
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if w := get(ctx, g, "/v1/x"); w.Code == http.StatusTooManyRequests {
			t.Fatal("a place in the queue was not given back")
		}
	}
	release(t, conn)
	if status := <-first; status != http.StatusOK {
		t.Errorf("status %d", status)
	}
}

func TestProtocol(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		mode     string
		statuses []int // of calls one after the other
	}{
		{"answer-then-exit", []int{200, 200, 200}},
		{"answer-twice", []int{200, 200}},
		{"answer-another", []int{200, 200}},
		{"never-answer", []int{502, 502}},
		{"init-exit", []int{502, 502, 502}},
		{"init-error", []int{502, 502}},
		{"init-exit-once", []int{502, 200, 200}},
	} {
		t.Run(c.mode, func(t *testing.T) {
			t.Parallel()
			starts := filepath.Join(t.TempDir(), "starts")
			g := start(t, setup{
				binary: rawBinary, maxProcesses: 1, environment: map[string]string{"MODE": c.mode, "STARTS": starts},
			})
			for i, want := range c.statuses {
				if w := get(t.Context(), g, "/v1/x"); w.Code != want {
					t.Errorf("call %d: %d, want %d", i, w.Code, want)
				}
			}
			info, err := os.Stat(starts)
			if err != nil {
				t.Fatal(err)
			}
			// A function that cannot start is tried once a call, never in a loop of its own.
			if limit := int64(len(c.statuses)) + 1; info.Size() > limit {
				t.Errorf("%d starts, want at most %d", info.Size(), limit)
			}
		})
	}
}

func TestPrewarm(t *testing.T) {
	t.Parallel()
	g := start(t, setup{maxProcesses: 1})
	if err := g.Prewarm(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantStatus(t, get(t.Context(), g, "/v1/x"), http.StatusOK)

	g = start(t, setup{binary: rawBinary, environment: map[string]string{"MODE": "init-error"}})
	err := g.Prewarm(t.Context())
	if err == nil || !strings.Contains(err.Error(), "no store is configured") ||
		!strings.Contains(err.Error(), "EchoFunction") {
		t.Errorf("the error of a function that cannot start is %v", err)
	}
}

func TestStartNeedsTheBinaries(t *testing.T) {
	t.Parallel()
	template := &Template{Functions: []Function{{LogicalID: "BookFunction"}}}
	_, err := Start(Config{Template: template, Bootstrap: BootstrapIn(t.TempDir())})
	if err == nil || !strings.Contains(err.Error(), "BookFunction") {
		t.Errorf("error %v", err)
	}
}

func TestCloseLetsCallsFinish(t *testing.T) {
	t.Parallel()
	meeting := newRendezvous(t)
	g := start(t, setup{})
	inFlight, closed := make(chan int), make(chan error)
	go func() { inFlight <- get(t.Context(), g, meeting.target("meet")).Code }()
	conn := meeting.await(t)
	go func() { closed <- g.Close(context.Background()) }()
	for get(t.Context(), g, "/v1/x").Code != http.StatusServiceUnavailable {
		runtime.Gosched() // until Close has begun
	}
	release(t, conn)
	if status := <-inFlight; status != http.StatusOK {
		t.Errorf("the call in flight got %d", status)
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
	awaitEnd(t, conn)
}

func TestCloseCutsOffWhatTakesTooLong(t *testing.T) {
	t.Parallel()
	meeting := newRendezvous(t)
	g := start(t, setup{})
	inFlight := make(chan int, 1)
	go func() { inFlight <- get(t.Context(), g, meeting.target("hang")).Code }()
	conn := meeting.await(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := g.Close(ctx); err == nil {
		t.Error("a call was cut off without an error")
	}
	if status := <-inFlight; status != http.StatusBadGateway {
		t.Errorf("the call in flight got %d", status)
	}
	awaitEnd(t, conn)
}

func TestCloseKillsAProcessThatIgnoresTermination(t *testing.T) {
	t.Parallel()
	meeting := newRendezvous(t)
	g := start(t, setup{})
	done := make(chan int)
	go func() { done <- get(t.Context(), g, meeting.target("ignore-term")).Code }()
	conn := meeting.await(t)
	release(t, conn)
	<-done
	if err := g.Close(t.Context()); err != nil {
		t.Error(err)
	}
	awaitEnd(t, conn)
}

// serveUntilKilled is the other half of TestChildrenDieWithTheGateway.
func serveUntilKilled(binary string) {
	g, err := Start(Config{
		Template: &Template{Functions: []Function{{
			LogicalID: "EchoFunction", Timeout: time.Hour, Routes: []Route{{Method: "GET", Path: "/v1/{item}"}},
		}}},
		Bootstrap: func(string) string { return binary },
	})
	if err != nil {
		panic(err)
	}
	get(context.Background(), g, os.Getenv("GATEWAY_TEST_TARGET")) // hangs
	panic("not reached")
}

func TestChildrenDieWithTheGateway(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("only Linux can kill a busy child with its parent")
	}
	meeting := newRendezvous(t)
	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), "GATEWAY_TEST_PARENT="+functionBinary,
		"GATEWAY_TEST_TARGET="+meeting.target("hang"))
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	conn := meeting.await(t)
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	awaitEnd(t, conn)
	_ = parent.Wait() // it was killed
}

func TestFunctionOutputIsLogged(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	g := start(t, setup{logger: slog.New(slog.NewJSONHandler(&log, nil))})
	wantStatus(t, get(t.Context(), g, "/v1/x?do=print"), http.StatusOK)
	if err := g.Close(t.Context()); err != nil { // the log is complete
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(log.String()) {
		var record struct{ Msg, Function, Line string }
		if err := json.Unmarshal([]byte(line), &record); err != nil {
			t.Fatal(err)
		}
		if record.Msg == "function output" {
			if record.Function != "EchoFunction" {
				t.Errorf("a line of %q", record.Function)
			}
			lines = append(lines, record.Line)
		}
	}
	long := strings.Repeat("x", maxLineBytes)
	want := []string{"one", "two", long, long[:70_000-maxLineBytes], "unfinished"}
	if !slices.Equal(lines, want) {
		t.Errorf("%d lines: %.100q", len(lines), lines)
	}
}

// BenchmarkWarmCall measures a call through the network and a warm function that only echoes, one call at a time.
func BenchmarkWarmCall(b *testing.B) {
	g := start(b, setup{})
	if err := g.Prewarm(b.Context()); err != nil {
		b.Fatal(err)
	}
	server := httptest.NewServer(g)
	defer server.Close()
	var took []time.Duration
	for b.Loop() {
		begin := time.Now()
		resp, err := http.Get(server.URL + "/v1/x")
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			b.Fatal(err)
		}
		resp.Body.Close()
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
}
