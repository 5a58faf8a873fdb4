package ops_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"tapedeck/ingester/internal/ops"
)

func get(t *testing.T, h http.Handler, path string) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return w
}

func TestReadyz(t *testing.T) {
	store, btc := "", ""
	h := ops.Handler(ops.NewRegistry("v1"), []ops.Check{
		{Name: "store", Problem: func() string { return store }},
		{Name: "binance/BTCUSDT", Problem: func() string { return btc }},
	})
	for _, test := range []struct {
		store, btc string
		wantStatus int
		wantBody   string
	}{
		{"", "", 200, `{"ready":true,"problems":[]}`},
		{"", "syncing", 503, `{"ready":false,"problems":[{"component":"binance/BTCUSDT","problem":"syncing"}]}`},
		{"down", "offline", 503, `{"ready":false,"problems":[{"component":"store","problem":"down"},{"component":"binance/BTCUSDT","problem":"offline"}]}`},
	} {
		store, btc = test.store, test.btc
		w := get(t, h, "/readyz")
		if w.Code != test.wantStatus || strings.TrimSpace(w.Body.String()) != test.wantBody {
			t.Errorf("%d %s, want %d %s", w.Code, w.Body, test.wantStatus, test.wantBody)
		}
		if !json.Valid(w.Body.Bytes()) || w.Header().Get("Content-Type") != "application/json" {
			t.Error("not JSON")
		}
		if alive := get(t, h, "/healthz"); alive.Code != 200 {
			t.Errorf("/healthz: %d", alive.Code)
		}
	}
}

func TestMetricsParse(t *testing.T) {
	w := get(t, ops.Handler(ops.NewRegistry("v1.2.3"), nil), "/metrics")
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(w.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"tapedeck_build_info", "go_goroutines", "process_start_time_seconds"} {
		if families[name] == nil {
			t.Errorf("no %s", name)
		}
	}
	if got := families["tapedeck_build_info"].GetMetric()[0].GetLabel()[1].GetValue(); got != "v1.2.3" {
		t.Errorf("version %q", got)
	}
}

func TestListenAndClose(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	var address string
	listening := slog.New(slog.NewTextHandler(writer(func(line string) {
		_, after, _ := strings.Cut(line, "address=")
		address = strings.TrimSpace(after)
	}), nil))
	s, err := ops.Listen(t.Context(), "127.0.0.1:0", ops.Handler(ops.NewRegistry("v1"), nil), listening)
	if err != nil {
		t.Fatal(err)
	}
	reply, err := http.Get("http://" + address + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(reply.Body)
	reply.Body.Close()
	if string(body) != "ok\n" {
		t.Errorf("body %q", body)
	}
	if _, err := ops.Listen(t.Context(), address, http.NotFoundHandler(), log); err == nil {
		t.Error("listening twice on one address")
	}
	idle, err := net.Dial("tcp", address) // of one who says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	stopping, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	s.Close(stopping)
	if err := idle.SetReadDeadline(time.Now().Add(2 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := idle.Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the idle connection after Close: %v", err)
	}
	if reply, err := http.Get("http://" + address + "/healthz"); err == nil {
		reply.Body.Close()
		t.Error("still served after Close")
	}
}

type writer func(string)

func (w writer) Write(p []byte) (int, error) {
	w(string(p))
	return len(p), nil
}
