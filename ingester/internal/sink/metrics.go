package sink

import "github.com/prometheus/client_golang/prometheus"

// Metrics counts what a sink does.
type Metrics struct {
	registry     prometheus.Registerer
	written      prometheus.Counter
	dropped      prometheus.Counter
	refused      prometheus.Counter
	storeLag     prometheus.Histogram
	writeSeconds prometheus.Histogram
	writeErrors  *prometheus.CounterVec
}

// NewMetrics returns metrics registered with r, for one sink.
func NewMetrics(r prometheus.Registerer) *Metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	m := &Metrics{
		registry: r,
		written:  counter("tapedeck_records_written_total", "Records that the store took."),
		dropped:  counter("tapedeck_records_dropped_total", "Records that the queue before the store refused as it was full. Ledger entries and keyframes are offered again."),
		refused:  counter("tapedeck_records_refused_total", "Records that the store refused for good."),
		storeLag: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "tapedeck_receive_store_lag_seconds", Help: "From the receipt of a block's first event until the block was stored.",
			Buckets: []float64{.05, .1, .25, .5, 1, 1.5, 2, 2.5, 5, 10, 30, 60, 300, 900, 3600},
		}),
		writeSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "tapedeck_store_write_seconds", Help: "Duration of one write to the store.", Buckets: prometheus.DefBuckets,
		}),
		writeErrors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tapedeck_store_write_errors_total", Help: "Writes that failed, by the kind of error.",
		}, []string{"kind"}),
	}
	r.MustRegister(m.written, m.dropped, m.refused, m.storeLag, m.writeSeconds, m.writeErrors)
	return m
}

// observeQueue shows the depth of the queue of s.
func (m *Metrics) observeQueue(s *Sink) {
	gauge := func(name, help string, value func() float64) {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value))
	}
	gauge("tapedeck_sink_queue_records", "Records that wait for the store.", func() float64 {
		records, _ := s.queued()
		return float64(records)
	})
	gauge("tapedeck_sink_queue_bytes", "Memory of the records that wait for the store.", func() float64 {
		_, bytes := s.queued()
		return float64(bytes)
	})
	gauge("tapedeck_store_writable", "1 while the store is writable, by its last answer.", func() float64 {
		if s.Problem() != nil {
			return 0
		}
		return 1
	})
}
