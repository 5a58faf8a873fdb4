package recorder

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tapedeck/shared/market"
)

// Metrics counts what all recorders of a process do.
type Metrics struct {
	events    *prometheus.CounterVec
	gaps      *prometheus.CounterVec
	witnesses *prometheus.CounterVec
	snapshots *prometheus.CounterVec
	audits    *prometheus.CounterVec
	matched   *prometheus.CounterVec
	wrong     *prometheus.CounterVec
	regresses *prometheus.CounterVec
	eventLag  prometheus.Histogram
	recordLag prometheus.Histogram
	rest      *restMetrics

	backfilledTrades *prometheus.CounterVec
	backfills        *prometheus.CounterVec
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
		events:           counter("tapedeck_events_total", "Events by what was done with them.", "market", "stream", "result"),
		gaps:             counter("tapedeck_gaps_total", "Holes in what was recorded.", "market", "stream", "cause"),
		witnesses:        counter("tapedeck_witness_mismatches_total", "Updates after which the book's best bid or ask was not the exchange's own.", "market"),
		snapshots:        counter("tapedeck_snapshot_requests_total", "Requests for a snapshot of a book.", "result"),
		audits:           counter("tapedeck_audits_total", "Comparisons of the book with a snapshot of the exchange.", "market", "result"),
		matched:          counter("tapedeck_audit_matched_levels_total", "Levels that agreed with the exchange's snapshot.", "market"),
		wrong:            counter("tapedeck_audit_mismatched_levels_total", "Levels that did not agree with the exchange's snapshot.", "market"),
		regresses:        counter("tapedeck_id_regressions_total", "Times that the exchange's ids began again lower.", "market"),
		backfilledTrades: counter("tapedeck_backfilled_trades_total", "Trades that were fetched again and recorded.", "market"),
		backfills:        counter("tapedeck_backfills_total", "Holes of trades that were to be fetched again, by how that ended.", "market", "result"),
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
	resultUnwritten = "unwritten" // no snapshot came for the event before the recorder stopped
	resultRegressed = "regressed" // the trade is newer by its time, and older by its id, than one that was recorded
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
	recorded   prometheus.Counter
	duplicate  prometheus.Counter
	mismatches prometheus.Counter

	matchedLevels    prometheus.Counter
	mismatchedLevels prometheus.Counter
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
		recorded:   event(market.Trades, resultRecorded),
		duplicate:  event(market.Trades, resultDuplicate),
		mismatches: m.witnesses.WithLabelValues(name),

		matchedLevels:    m.matched.WithLabelValues(name),
		mismatchedLevels: m.wrong.WithLabelValues(name),
	}
}

// gap counts a hole.
func (m *meter) gap(stream market.Stream, cause market.Cause) {
	m.gaps.WithLabelValues(m.name, string(stream), string(cause)).Inc()
}

// audit counts how an audit ended.
func (m *meter) audit(result string) { m.audits.WithLabelValues(m.name, result).Inc() }

// backfill counts how the backfill of a hole ended.
func (m *meter) backfill(result string) { m.backfills.WithLabelValues(m.name, result).Inc() }

// backfilled counts trades that were fetched again.
func (m *meter) backfilled(trades int) {
	m.backfilledTrades.WithLabelValues(m.name).Add(float64(trades))
}

// regressed counts that the exchange's ids began again lower.
func (m *meter) regressed() { m.regresses.WithLabelValues(m.name).Inc() }

// unwritten counts frames that were received and could not be recorded.
func (m *meter) unwritten(stream market.Stream, frames int) {
	m.events.WithLabelValues(m.name, string(stream), resultUnwritten).Add(float64(frames))
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
	tradingDesc    = prometheus.NewDesc("tapedeck_market_trading", "1 while the exchange lists the market as TRADING, 0 in another status.", marketLabel, nil)
	auditAgeDesc   = prometheus.NewDesc("tapedeck_audit_age_seconds", "Since the book last agreed with a snapshot in an audit.", marketLabel, nil)
	offsetDesc     = prometheus.NewDesc("tapedeck_clock_offset_seconds", "How far our clock is ahead of the exchange's, with the way of a frame; smoothed.", marketLabel, nil)
	memoryDesc     = prometheus.NewDesc("tapedeck_queue_memory_bytes", "What the queues of all markets take beyond what each is guaranteed.", nil, nil)
	syncedDesc     = prometheus.NewDesc("tapedeck_market_synced", "1 while the market is connected and its book follows the stream.", marketLabel, nil)
)

// NewCollector returns the gauges of the recorders' books and inboxes.
func NewCollector(recorders []*Recorder) prometheus.Collector { return &collector{recorders} }

// Describe implements prometheus.Collector.
func (c *collector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{bookLevelsDesc, bestBidDesc, bestAskDesc, inboxBytesDesc, syncedDesc, tradingDesc, auditAgeDesc, offsetDesc, memoryDesc} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(to chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	if len(c.recorders) > 0 {
		gauge(memoryDesc, float64(c.recorders[0].inbox.account.memory.shared.Load()))
	}
	for _, r := range c.recorders {
		name, v := r.market.String(), r.view()
		if status := r.status(); status != "" {
			gauge(tradingDesc, boolGauge(status == statusTrading), name)
		}
		if !v.auditedAt.IsZero() {
			gauge(auditAgeDesc, time.Since(v.auditedAt).Seconds(), name)
		}
		if v.offset.known {
			gauge(offsetDesc, v.offset.seconds, name)
		}
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

func boolGauge(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
