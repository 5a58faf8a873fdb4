package recorder

import (
	"github.com/prometheus/client_golang/prometheus"

	"tapedeck/shared/market"
)

// Metrics counts what all recorders of a process do.
type Metrics struct {
	events    *prometheus.CounterVec
	gaps      *prometheus.CounterVec
	witnesses *prometheus.CounterVec
	snapshots *prometheus.CounterVec
	eventLag  prometheus.Histogram
	recordLag prometheus.Histogram
	rest      *restMetrics
}

// lagBuckets are the bounds of the lag histograms in seconds. The first two are for clocks that differ: a lag across
// the exchange's and our clock may be negative.
var lagBuckets = []float64{-1, 0, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 60}

// NewMetrics returns metrics registered with r.
func NewMetrics(r prometheus.Registerer) *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
		r.MustRegister(c)
		return c
	}
	histogram := func(name, help string) prometheus.Histogram {
		h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: lagBuckets})
		r.MustRegister(h)
		return h
	}
	return &Metrics{
		events:    counter("tapedeck_events_total", "Events by what was done with them.", "market", "stream", "result"),
		gaps:      counter("tapedeck_gaps_total", "Holes in what was recorded.", "market", "stream", "cause"),
		witnesses: counter("tapedeck_witness_mismatches_total", "Updates after which the book's best bid or ask was not the exchange's own.", "market"),
		snapshots: counter("tapedeck_snapshot_requests_total", "Requests for a snapshot of a book.", "result"),
		eventLag: histogram("tapedeck_event_receive_lag_seconds",
			"From the exchange's time of an event to its receipt, across two clocks."),
		recordLag: histogram("tapedeck_receive_record_lag_seconds",
			"From the receipt of a block's first event until the block was handed to the sink."),
		rest: newRESTMetrics(r),
	}
}

// What was done with an event.
const (
	resultApplied   = "applied"
	resultRecorded  = "recorded"
	resultStale     = "stale"     // the book was ahead of the update already
	resultDuplicate = "duplicate" // the trade was recorded already
	resultDropped   = "dropped"   // the update did not fit the buffer that waits for a snapshot
	resultUnwritten = "unwritten" // no snapshot came for the update before the recorder stopped
	resultMalformed = "malformed" // the frame could not be decoded, or is of another market
	resultOther     = "other"     // of a kind that is not recorded
)

// meter is the part of Metrics that belongs to one market, looked up once.
type meter struct {
	*Metrics
	name       string
	applied    prometheus.Counter
	stale      prometheus.Counter
	dropped    prometheus.Counter
	unwritten  prometheus.Counter
	recorded   prometheus.Counter
	duplicate  prometheus.Counter
	mismatches prometheus.Counter
}

func newMeter(m *Metrics, of market.Market) *meter {
	name := of.String()
	event := func(stream market.Stream, result string) prometheus.Counter {
		return m.events.WithLabelValues(name, string(stream), result)
	}
	return &meter{
		Metrics:    m,
		name:       name,
		applied:    event(market.Depth, resultApplied),
		stale:      event(market.Depth, resultStale),
		dropped:    event(market.Depth, resultDropped),
		unwritten:  event(market.Depth, resultUnwritten),
		recorded:   event(market.Trades, resultRecorded),
		duplicate:  event(market.Trades, resultDuplicate),
		mismatches: m.witnesses.WithLabelValues(name),
	}
}

// gap counts a hole.
func (m *meter) gap(stream market.Stream, cause market.Cause) {
	m.gaps.WithLabelValues(m.name, string(stream), string(cause)).Inc()
}

// other counts the results that are rare.
func (m *meter) other(stream market.Stream, result string) {
	m.events.WithLabelValues(m.name, string(stream), result).Inc()
}

// collector reads what recorders published, at a scrape.
type collector struct{ recorders []*Recorder }

var (
	marketLabel    = []string{"market"}
	bookLevelsDesc = prometheus.NewDesc("tapedeck_book_levels", "Price levels in the book.", []string{"market", "side"}, nil)
	bestBidDesc    = prometheus.NewDesc("tapedeck_best_bid", "Best bid; for display, as a float is not exact.", marketLabel, nil)
	bestAskDesc    = prometheus.NewDesc("tapedeck_best_ask", "Best ask; for display, as a float is not exact.", marketLabel, nil)
	inboxBytesDesc = prometheus.NewDesc("tapedeck_inbox_bytes", "Frames that wait for the market's recorder.", marketLabel, nil)
	syncedDesc     = prometheus.NewDesc("tapedeck_market_synced", "1 while the market is connected and its book follows the stream.", marketLabel, nil)
)

// NewCollector returns the gauges of the recorders' books and inboxes.
func NewCollector(recorders []*Recorder) prometheus.Collector { return &collector{recorders} }

// Describe implements prometheus.Collector.
func (c *collector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{bookLevelsDesc, bestBidDesc, bestAskDesc, inboxBytesDesc, syncedDesc} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(to chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for _, r := range c.recorders {
		name, v := r.market.String(), r.view()
		gauge(inboxBytesDesc, float64(r.inbox.Bytes()), name)
		gauge(bookLevelsDesc, float64(v.bids), name, "bid")
		gauge(bookLevelsDesc, float64(v.asks), name, "ask")
		if v.State != market.StateSynced {
			gauge(syncedDesc, 0, name)
			continue // a price that may be stale is not shown
		}
		gauge(syncedDesc, 1, name)
		gauge(bestBidDesc, float64(v.bestBid)/float64(market.DecimalOne), name)
		gauge(bestAskDesc, float64(v.bestAsk)/float64(market.DecimalOne), name)
	}
}
