package recorder

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tapedeck/shared/binance"
	"tapedeck/shared/market"
)

// maxFetches is how many snapshots are fetched at a time, of a few hundred kilobytes each.
const maxFetches = 4

// rushLimits are the levels a side of a snapshot while many markets wait for theirs, deepest first. What lies deeper is
// learnt from updates and, later, from the snapshots of audits.
var rushLimits = []int{1000, 500}

// Snapshots fetches what recorders start from. It is safe for concurrent use.
//
// A full snapshot costs so much of the budget that a minute has room for 21 (see binance.Budget), and 200 markets that
// start at once would take nine minutes to sync. So a snapshot is only as deep as all that wait can have theirs within
// the minute, but not less deep than the last of rushLimits: then 200 markets take 65 seconds, and 100 three.
type Snapshots struct {
	source     Source
	background Source
	limit      int
	slots      chan struct{}
	audits     chan struct{} // holds a token for each audit under way
	results    *prometheus.CounterVec

	mu      sync.Mutex
	waiting int       // fetches that have not begun
	spent   int       // weight since minute
	minute  time.Time // when the first of it was spent; it ends when it is over and no other fetch waits or runs
}

// NewSnapshots returns Snapshots that asks source for books of limit levels a side. Recorders ask background, which
// may be the same, for what can wait.
func NewSnapshots(source, background Source, limit int, metrics *Metrics) *Snapshots {
	return &Snapshots{
		source: source, background: background, limit: limit, results: metrics.snapshots,
		slots: make(chan struct{}, maxFetches), audits: make(chan struct{}, maxAudits),
	}
}

// fetch waits for its turn and fetches the book of m.
func (s *Snapshots) fetch(ctx context.Context, m market.Market) (market.Snapshot, error) {
	s.count(1)
	select {
	case s.slots <- struct{}{}:
	case <-ctx.Done():
		s.count(-1)
		return market.Snapshot{}, ctx.Err()
	}
	defer func() { <-s.slots }()
	snapshot, err := s.source.Snapshot(ctx, m, s.depth())
	result := "ok"
	if _, limited := errors.AsType[*binance.RateLimitError](err); limited {
		result = "rate_limited"
	} else if err != nil {
		result = "error"
	}
	s.results.WithLabelValues(result).Inc()
	return snapshot, err
}

// count counts fetches that wait.
func (s *Snapshots) count(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting += n
}

// depth returns how many levels a side the next fetch asks for, and counts it as begun.
func (s *Snapshots) depth() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	alone := s.waiting == 1 && len(s.slots) == 1
	if now := time.Now(); alone && now.Sub(s.minute) >= time.Minute {
		s.minute, s.spent = now, 0
	}
	limit := s.limit
	for _, shallow := range rushLimits {
		if s.spent+s.waiting*snapshotWeight(limit) > binance.WeightPerMinute {
			limit = min(limit, shallow)
		}
	}
	s.waiting--
	s.spent += snapshotWeight(limit)
	return limit
}

func snapshotWeight(limit int) int { return binance.SnapshotWeight(limit) + binance.ServerTimeWeight }
