package sink

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tapedeck/shared/market"
)

// What became of a dead letter.
const (
	letterKept = "kept"
	letterLost = "lost" // the folder is full or cannot be written to
)

// Metrics counts what a sink does.
type Metrics struct {
	registry     prometheus.Registerer
	written      prometheus.Counter
	dropped      prometheus.Counter
	deadLetters  *prometheus.CounterVec
	entered      *prometheus.CounterVec
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
		dropped:  counter("tapedeck_records_dropped_total", "Records that the spool refused as it was full. Ledger entries and keyframes are offered again."),
		deadLetters: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tapedeck_dead_letters_total", Help: "Records that can never be stored, by what became of them: kept in the folder of dead letters, or lost.",
		}, []string{"result"}),
		entered: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tapedeck_ledger_entries_total", Help: "Entries of the ledger for what was lost between recorder and store, or missed before a start, by cause.",
		}, []string{"cause"}),
		storeLag: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "tapedeck_receive_store_lag_seconds", Help: "From the receipt of a block's first event until the block was stored.",
			Buckets: []float64{.05, .1, .25, .5, 1, 1.5, 2, 2.5, 5, 10, 30, 60, 300, 900, 3600, 14400, 86400},
		}),
		writeSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "tapedeck_store_write_seconds", Help: "Duration of one write to the store.", Buckets: prometheus.DefBuckets,
		}),
		writeErrors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tapedeck_store_write_errors_total", Help: "Writes that failed, by the kind of error.",
		}, []string{"kind"}),
	}
	m.deadLetters.WithLabelValues(letterKept) // so that a first one is a change from 0
	m.deadLetters.WithLabelValues(letterLost)
	for _, cause := range []market.Cause{market.CauseOverflow, market.CauseDamaged, market.CauseRefused, market.CauseRestart} {
		m.entered.WithLabelValues(string(cause))
	}
	r.MustRegister(m.written, m.dropped, m.deadLetters, m.entered, m.storeLag, m.writeSeconds, m.writeErrors)
	return m
}

// observe shows the state of s and of its spool.
func (m *Metrics) observe(s *Sink) {
	m.registry.MustRegister(collector{s})
}

// collector shows the state of a sink and its spool at the moment of a scrape.
type collector struct{ sink *Sink }

func desc(name, help string) *prometheus.Desc { return prometheus.NewDesc(name, help, nil, nil) }

var (
	storeWritable    = desc("tapedeck_store_writable", "1 while the store is writable, by its last answer.")
	deadLetterFiles  = desc("tapedeck_dead_letter_files", "Files in the folder of dead letters.")
	spoolRecords     = desc("tapedeck_spool_records", "Batches of records that wait for the store.")
	spoolAge         = desc("tapedeck_spool_oldest_seconds", "Age of the oldest batch that waits for the store; 0 when none does.")
	spoolDiskBytes   = desc("tapedeck_spool_disk_bytes", "Bytes of the spool on disk.")
	spoolLimitBytes  = desc("tapedeck_spool_limit_bytes", "Bytes that the spool may have on disk.")
	spoolBufferBytes = desc("tapedeck_spool_buffer_bytes", "Bytes in memory that are not on disk yet.")
	spoolDiskOK      = desc("tapedeck_spool_disk_writable", "1 while the spool can be written to disk.")
	spoolDropped     = desc("tapedeck_spool_dropped_batches_total", "Batches refused or given up because the spool was full.")
	spoolDamaged     = desc("tapedeck_spool_damaged_batches_total", "Batches that were on disk and could not be read, as far as they can be counted.")
	spoolSetAside    = desc("tapedeck_spool_damaged_segments", "Damaged files of the spool, with those that were there at the start; the last 8 that were set aside are kept as *.damaged.")
)

// Describe implements prometheus.Collector.
func (c collector) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

// Collect implements prometheus.Collector.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	stats := c.sink.spool.Stats()
	gauge := func(d *prometheus.Desc, v float64) { ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v) }
	count := func(d *prometheus.Desc, v int64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v))
	}
	age := 0.0
	if !stats.Oldest.IsZero() {
		age = max(0, time.Since(stats.Oldest).Seconds())
	}
	gauge(storeWritable, oneIf(c.sink.StoreProblem() == nil))
	gauge(deadLetterFiles, float64(c.sink.deadLetters.count()))
	gauge(spoolRecords, float64(stats.DiskRecords+int64(stats.BufferedRecords)))
	gauge(spoolAge, age)
	gauge(spoolDiskBytes, float64(stats.DiskBytes))
	gauge(spoolLimitBytes, float64(c.sink.cfg.SpoolBytes))
	gauge(spoolBufferBytes, float64(stats.BufferedBytes))
	gauge(spoolDiskOK, oneIf(stats.DiskError == nil))
	count(spoolDropped, stats.DroppedRecords)
	count(spoolDamaged, stats.DamagedRecords)
	gauge(spoolSetAside, float64(stats.DamagedSegments))
}

func oneIf(ok bool) float64 {
	if ok {
		return 1
	}
	return 0
}
