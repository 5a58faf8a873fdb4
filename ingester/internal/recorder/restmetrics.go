package recorder

import (
	"github.com/prometheus/client_golang/prometheus"

	"tapedeck/shared/binance"
)

// restMetrics counts the requests to the exchange's REST interface.
type restMetrics struct {
	weight   prometheus.Gauge
	requests *prometheus.CounterVec
	waits    prometheus.Histogram
}

// waitBuckets are the bounds of the histogram of waits in seconds: weight comes back by the minute, bans last for hours.
var waitBuckets = []float64{.001, .01, .1, 1, 5, 15, 30, 60, 120, 300, 600, 3600}

func newRESTMetrics(r prometheus.Registerer) *restMetrics {
	m := &restMetrics{
		weight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "tapedeck_rest_weight_used",
			Help: "Request weight that this IP address has used in the exchange's minute, as its last reply said.",
		}),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tapedeck_rest_requests_total", Help: "Requests to the exchange's REST interface.",
		}, []string{"endpoint", "result"}),
		waits: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "tapedeck_rest_wait_seconds", Help: "How long requests waited for the budget of request weight.",
			Buckets: waitBuckets,
		}),
	}
	r.MustRegister(m.weight, m.requests, m.waits)
	return m
}

// ObserveRequest counts a request; it is for binance.NewBudget.
func (m *Metrics) ObserveRequest(r binance.Request) {
	m.rest.requests.WithLabelValues(r.Endpoint, string(r.Result)).Inc()
	m.rest.waits.Observe(r.Waited.Seconds())
	if r.UsedWeight >= 0 {
		m.rest.weight.Set(float64(r.UsedWeight))
	}
}
