// Package ops is what operators see of the ingester: /metrics, /healthz and /readyz.
package ops

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Check is one thing that must be well for the process to be ready.
type Check struct {
	Name    string
	Problem func() string // "" when all is well
}

// NewRegistry returns a registry with the metrics of the Go runtime, the process, and the build.
func NewRegistry(version string) *prometheus.Registry {
	registry := prometheus.NewRegistry()
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "tapedeck_build_info", Help: "1, labelled with what this process was built from.",
	}, []string{"version", "go_version"})
	build.WithLabelValues(version, runtime.Version()).Set(1)
	registry.MustRegister(build, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return registry
}

// Handler serves /metrics, /healthz (200 while the process lives) and /readyz (200 when no check has a problem, else
// 503; the body names every problem).
func Handler(registry *prometheus.Registry, checks []Check) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{Registry: registry}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { ready(w, checks) })
	return mux
}

// readiness is the body of /readyz.
type readiness struct {
	Ready    bool      `json:"ready"`
	Problems []problem `json:"problems"`
}

type problem struct {
	Component string `json:"component"`
	Problem   string `json:"problem"`
}

func ready(w http.ResponseWriter, checks []Check) {
	answer := readiness{Problems: []problem{}}
	for _, c := range checks {
		if p := c.Problem(); p != "" {
			answer.Problems = append(answer.Problems, problem{c.Name, p})
		}
	}
	answer.Ready = len(answer.Problems) == 0
	w.Header().Set("Content-Type", "application/json")
	if !answer.Ready {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(answer) // nobody is there to be told
}

// Server serves a Handler. Make one with Listen.
type Server struct {
	http *http.Server
	done chan struct{}
	addr net.Addr
	log  *slog.Logger
}

// Listen serves handler on addr in the background until Close.
func Listen(ctx context.Context, addr string, handler http.Handler, log *slog.Logger) (*Server, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen for operators: %w", err)
	}
	s := &Server{
		http: &http.Server{
			Handler: handler, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second,
			ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		},
		done: make(chan struct{}), addr: listener.Addr(), log: log,
	}
	log.Info("serving /metrics, /healthz and /readyz", "address", s.addr.String())
	go func() {
		defer close(s.done)
		if err := s.http.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			log.Error("operators are no longer served", "error", err)
		}
	}()
	return s, nil
}

// Close lets requests under way end for as long as ctx lasts, and then ends them, and connections on which none was made.
func (s *Server) Close(ctx context.Context) {
	if err := s.http.Shutdown(ctx); err != nil {
		s.log.Warn("connections of operators are cut off", "error", err)
		_ = s.http.Close() // the listener is closed already
	}
	<-s.done
}
