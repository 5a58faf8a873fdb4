package feed

import (
	"github.com/prometheus/client_golang/prometheus"

	"tapedeck/shared/market"
)

// Metrics counts what all connections of a process do.
type Metrics struct {
	frames     *prometheus.CounterVec
	bytes      prometheus.Counter
	dropped    prometheus.Counter
	connects   *prometheus.CounterVec
	reconnects prometheus.Counter
}

// NewMetrics returns metrics registered with r.
func NewMetrics(r prometheus.Registerer) *Metrics {
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
		r.MustRegister(c)
		return c
	}
	vector := func(name, help, label string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{label})
		r.MustRegister(c)
		return c
	}
	return &Metrics{
		frames:     vector("tapedeck_frames_total", "Frames received, by stream.", "stream"),
		bytes:      counter("tapedeck_frame_bytes_total", "Bytes of the frames received."),
		dropped:    counter("tapedeck_frames_dropped_total", "Frames dropped as the inbox of their market was full."),
		connects:   vector("tapedeck_connects_total", "Attempts to connect to the exchange.", "result"),
		reconnects: counter("tapedeck_reconnects_total", "Connections that were lost, or could not be made."),
	}
}

// meter is Metrics with what every frame needs looked up once.
type meter struct {
	*Metrics
	depth, trades, tickers prometheus.Counter
}

func newMeter(m *Metrics) *meter {
	return &meter{
		Metrics: m,
		depth:   m.frames.WithLabelValues(string(market.Depth)),
		trades:  m.frames.WithLabelValues(string(market.Trades)),
		tickers: m.frames.WithLabelValues("other"),
	}
}

// frame counts a frame that was routed.
func (m *meter) frame(stream market.Stream) {
	switch stream {
	case market.Depth:
		m.depth.Inc()
	case market.Trades:
		m.trades.Inc()
	default:
		m.tickers.Inc()
	}
}
