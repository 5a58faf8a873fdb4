package feed

import (
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"tapedeck/shared/market"
)

// Metrics counts what all links of a process do.
type Metrics struct {
	frames       *prometheus.CounterVec
	bytes        prometheus.Counter
	dropped      prometheus.Counter
	connects     *prometheus.CounterVec
	limited      prometheus.Counter
	reconnects   *prometheus.CounterVec
	rotations    *prometheus.CounterVec
	resubscribes prometheus.Counter
	suppressed   prometheus.Counter
	links        *linkCollector
}

// NewMetrics returns metrics registered with r.
func NewMetrics(r prometheus.Registerer) *Metrics {
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
		r.MustRegister(c)
		return c
	}
	vector := func(name, help, label string, values ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{label})
		r.MustRegister(c)
		for _, value := range values { // shown before the first one, so that it counts as a rise
			c.WithLabelValues(value)
		}
		return c
	}
	m := &Metrics{
		frames:   vector("tapedeck_frames_total", "Frames received, by stream.", "stream"),
		bytes:    counter("tapedeck_frame_bytes_total", "Bytes of the frames received."),
		dropped:  counter("tapedeck_frames_dropped_total", "Frames dropped as the inbox of their market was full."),
		connects: vector("tapedeck_connects_total", "Attempts to connect to the exchange.", "result", "ok", "refused", "error"),
		limited:  counter("tapedeck_connects_limited_total", "Attempts to connect that had to wait for the exchange's bounds."),
		reconnects: vector("tapedeck_reconnects_total", "Connections that were lost, or could not be made.", "reason",
			"closed", "cut", "silent", "oversized", "protocol", "refused", "unreachable"),
		rotations: vector("tapedeck_rotations_total", "Attempts to replace a connection by a new one beside it.", "result",
			string(outcomeReplaced), string(outcomeReplacedBehind), string(outcomeBehind), string(outcomeOldLost),
			string(outcomeUnreachable), string(outcomeNewLost), string(outcomeFaulty), string(outcomeMute)),
		resubscribes: counter("tapedeck_resubscribes_total", "Streams subscribed anew as they were mute."),
		suppressed:   counter("tapedeck_pongs_suppressed_total", "Pings that got no pong of their own, as another followed at once."),
		links:        &linkCollector{},
	}
	r.MustRegister(m.links)
	return m
}

// meter is Metrics with what frames need looked up once.
type meter struct {
	*Metrics
	depth, trades, tickers      prometheus.Counter
	malformed, control, unknown prometheus.Counter
	complain                    rate.Sometimes // about frames
}

func newMeter(m *Metrics) *meter {
	return &meter{
		Metrics:   m,
		depth:     m.frames.WithLabelValues(string(market.Depth)),
		trades:    m.frames.WithLabelValues(string(market.Trades)),
		tickers:   m.frames.WithLabelValues("other"),
		malformed: m.frames.WithLabelValues("malformed"),
		control:   m.frames.WithLabelValues("control"),
		unknown:   m.frames.WithLabelValues("unknown"),
		complain:  rate.Sometimes{First: 3, Interval: time.Minute},
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

// linkCollector shows the links that there are at the moment.
type linkCollector struct {
	mu     sync.Mutex
	groups []*group
}

var (
	liveDesc = prometheus.NewDesc("tapedeck_links", "Connections that bring frames, by the group of markets they carry.",
		[]string{"connection"}, nil)
	wantedDesc = prometheus.NewDesc("tapedeck_links_wanted", "Connections that there should be at least.",
		[]string{"connection"}, nil)
	ageDesc = prometheus.NewDesc("tapedeck_link_age_seconds", "Age of the oldest connection.",
		[]string{"connection"}, nil)
)

// watch adds groups.
func (c *linkCollector) watch(groups []*group) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.groups = append(c.groups, groups...)
}

// Describe implements prometheus.Collector.
func (c *linkCollector) Describe(to chan<- *prometheus.Desc) {
	to <- liveDesc
	to <- wantedDesc
	to <- ageDesc
}

// Collect implements prometheus.Collector.
func (c *linkCollector) Collect(to chan<- prometheus.Metric) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, g := range c.groups {
		show := func(desc *prometheus.Desc, value float64) {
			to <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, strconv.Itoa(i))
		}
		count, oldest := g.live()
		show(liveDesc, float64(count))
		show(wantedDesc, float64(g.cfg.Connections))
		if count > 0 {
			show(ageDesc, time.Since(oldest).Seconds())
		}
	}
}
