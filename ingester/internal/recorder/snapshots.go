package recorder

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"tapedeck/shared/binance"
	"tapedeck/shared/market"
)

// snapshotTimeout bounds one request, so that a market whose requests hang holds its slot for a bounded time.
const snapshotTimeout = 15 * time.Second

// Pace is how fast snapshots may be asked for.
type Pace struct {
	Concurrent      int // requests at a time
	WeightPerMinute int // of all requests
	WeightBurst     int // of requests at once
}

// DefaultPace stays below the exchange's budget in every minute (burst and rate together), with some left for others
// behind the same address.
func DefaultPace() Pace {
	burst := 4 * snapshotWeight(binance.MaxSnapshotLimit)
	return Pace{Concurrent: 4, WeightPerMinute: binance.MaxWeightPerMinute*9/10 - burst, WeightBurst: burst}
}

func snapshotWeight(limit int) int { return binance.SnapshotWeight(limit) + binance.ServerTimeWeight }

// Snapshots fetches snapshots for all recorders at a pace that the exchange allows. It is safe for concurrent use.
type Snapshots struct {
	source  Source
	limit   int
	slots   chan struct{}
	weight  *rate.Limiter
	results *prometheus.CounterVec

	mu          sync.Mutex
	pausedUntil time.Time
}

// NewSnapshots returns Snapshots that asks source for books of limit levels a side.
func NewSnapshots(source Source, limit int, pace Pace, metrics *Metrics) *Snapshots {
	return &Snapshots{
		source: source, limit: limit, results: metrics.snapshots,
		slots:  make(chan struct{}, pace.Concurrent),
		weight: rate.NewLimiter(rate.Limit(float64(pace.WeightPerMinute)/60), max(pace.WeightBurst, snapshotWeight(limit))),
	}
}

// fetch waits for its turn and fetches the book of m.
func (s *Snapshots) fetch(ctx context.Context, m market.Market) (market.Snapshot, error) {
	if err := s.weight.WaitN(ctx, snapshotWeight(s.limit)); err != nil {
		return market.Snapshot{}, err
	}
	select {
	case s.slots <- struct{}{}:
	case <-ctx.Done():
		return market.Snapshot{}, ctx.Err()
	}
	defer func() { <-s.slots }()
	if err := s.waitForPause(ctx); err != nil {
		return market.Snapshot{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, snapshotTimeout)
	defer cancel()
	snapshot, err := s.source.Snapshot(ctx, m, s.limit)
	result := "ok"
	if limited, ok := errors.AsType[*binance.RateLimitError](err); ok {
		result = "rate_limited"
		s.pause(limited.RetryAfter)
	} else if err != nil {
		result = "error"
	}
	s.results.WithLabelValues(result).Inc()
	return snapshot, err
}

// pause keeps all requests back for d.
func (s *Snapshots) pause(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if until := time.Now().Add(d); until.After(s.pausedUntil) {
		s.pausedUntil = until
	}
}

// waitForPause waits until the exchange may be asked again.
func (s *Snapshots) waitForPause(ctx context.Context) error {
	for {
		s.mu.Lock()
		left := time.Until(s.pausedUntil)
		s.mu.Unlock()
		if left <= 0 {
			return nil
		}
		select {
		case <-time.After(left):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
