package sink_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"tapedeck/ingester/internal/sink"
	"tapedeck/shared/market"
)

var series = market.Series{Market: market.Market{Exchange: market.Binance, Symbol: "BTCUSDT"}, Stream: market.Trades}

// fakeStore keeps the ids of written blocks in order, and fails as it is told.
type fakeStore struct {
	mu      sync.Mutex
	err     error
	tailErr error
	refuse  int64 // FirstID of a block that is refused for good
	writes  int
	ids     []int64
	spans   []market.Span
	largest int // records of the largest write
	gate    chan struct{}
}

func (s *fakeStore) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

func (s *fakeStore) Write(ctx context.Context, b *market.Batch) error {
	if s.gate != nil {
		select {
		case <-s.gate:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writes++
	if s.err != nil {
		return s.err
	}
	for i := range b.Blocks {
		if s.refuse != 0 && b.Blocks[i].FirstID == s.refuse {
			return market.Errorf(market.KindTooLarge, "block %d", s.refuse)
		}
	}
	for i := range b.Blocks {
		s.ids = append(s.ids, b.Blocks[i].FirstID)
	}
	s.spans = append(s.spans, b.Spans...)
	s.largest = max(s.largest, b.Len())
	return nil
}

func (s *fakeStore) Tail(_ context.Context, of market.Series) (market.Block, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.err != nil:
		return market.Block{}, s.err
	case s.tailErr != nil:
		return market.Block{}, s.tailErr
	case len(s.ids) > 0:
		return market.Block{Series: of, LastID: s.ids[len(s.ids)-1]}, nil
	}
	return market.Block{}, market.Errorf(market.KindNotFound, "empty")
}

// block is a batch of one block with the state of its span.
func block(id int64, bytes int) *market.Batch {
	return &market.Batch{
		Blocks: []market.Block{{Series: series, FirstID: id, LastID: id, Data: make([]byte, bytes)}},
		Spans:  []market.Span{{Series: series, FirstID: 1, LastID: id}},
	}
}

type harness struct {
	*sink.Sink
	store    *fakeStore
	registry *prometheus.Registry
	done     chan error
}

// start runs a sink until the test ends or stops it.
func start(t *testing.T, store *fakeStore, cfg sink.Config) *harness {
	t.Helper()
	if cfg.MaxBytes == 0 {
		cfg.MaxBytes = 1 << 20
	}
	registry := prometheus.NewRegistry()
	h := &harness{store: store, registry: registry, done: make(chan error, 1)}
	h.Sink = sink.New(store, cfg, sink.NewMetrics(registry), slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	go func() {
		h.Run(ctx)
		h.done <- h.Unwritten()
	}()
	return h
}

// metric returns the sum of all samples of a counter or gauge.
func (h *harness) metric(t *testing.T, name string) (sum float64) {
	t.Helper()
	families, err := h.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

// pass lets d pass on the clock of the bubble, and then waits until nothing moves.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func count(n int64) (ids []int64) {
	for id := range n {
		ids = append(ids, id+1)
	}
	return ids
}

func TestRecordsArriveInOrderAndCloseDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, &fakeStore{gate: make(chan struct{})}, sink.Config{})
		for id := range int64(1200) {
			if !h.Put(t.Context(), block(id+1, 10), 1) {
				t.Fatalf("block %d refused", id+1)
			}
		}
		close(h.store.gate)
		h.Close()
		if err := <-h.done; err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(h.store.ids, count(1200)) {
			t.Errorf("%d blocks written, not 1200 in order", len(h.store.ids))
		}
		if h.store.largest > 500 || h.store.writes > 10 {
			t.Errorf("%d writes, the largest of %d records: not grouped, or beyond the bound", h.store.writes, h.store.largest)
		}
		if got := h.store.spans[len(h.store.spans)-1].LastID; got != 1200 {
			t.Errorf("the span was last written up to %d", got)
		}
		if len(h.store.spans) != h.store.writes {
			t.Errorf("%d states of one span in %d writes", len(h.store.spans), h.store.writes)
		}
		if h.Put(t.Context(), block(1, 1), 0) {
			t.Error("a closed sink took a record")
		}
		if h.metric(t, "tapedeck_sink_queue_bytes") != 0 || h.metric(t, "tapedeck_sink_queue_records") != 0 {
			t.Error("the queue is not accounted as empty")
		}
	})
}

func TestStoreDownAtTheStartAndLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down := market.Errorf(market.KindUnavailable, "no primary")
		h := start(t, &fakeStore{err: down}, sink.Config{Series: []market.Series{series}})
		if err := h.Problem(); err == nil {
			t.Error("no problem before the first answer")
		}
		for id := range int64(10) {
			h.Put(t.Context(), block(id+1, 10), 0)
		}
		pass(10 * time.Minute)
		if err := h.Problem(); !errors.Is(err, down) {
			t.Errorf("Problem() = %v", err)
		}
		h.store.fail(nil)
		if _, err := h.Tail(t.Context(), series); market.KindOf(err) != market.KindNotFound {
			t.Errorf("Tail() = %v: not what the store held before the first write", err)
		}
		pass(6 * time.Second)
		if !slices.Equal(h.store.ids, count(10)) {
			t.Errorf("written after the store was back: %v", h.store.ids)
		}
		if err := h.Problem(); err != nil {
			t.Errorf("Problem() = %v with the store back", err)
		}

		h.store.fail(down)
		h.Put(t.Context(), block(11, 10), 0)
		pass(time.Hour)
		if tries := h.store.writes; tries < 600 || tries > 3600 {
			t.Errorf("%d tries in an hour", tries)
		}
		h.store.fail(nil)
		pass(6 * time.Second)
		if !slices.Equal(h.store.ids, count(11)) {
			t.Errorf("written after the second outage: %v", h.store.ids)
		}
		if h.metric(t, "tapedeck_store_write_errors_total") == 0 {
			t.Error("no write error counted")
		}
		pass(time.Minute)
		if err := h.Problem(); err == nil {
			t.Error("a store that has long said nothing counts as writable")
		}
	})
}

func TestUnreadableTailDoesNotStopWriting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, &fakeStore{tailErr: market.Errorf(market.KindCorrupt, "bad document")}, sink.Config{Series: []market.Series{series}})
		h.Put(t.Context(), block(1, 10), 0)
		if _, err := h.Tail(t.Context(), series); market.KindOf(err) != market.KindCorrupt {
			t.Errorf("Tail() = %v", err)
		}
		h.Close()
		if err := <-h.done; err != nil || len(h.store.ids) != 1 {
			t.Errorf("Unwritten() = %v, %d blocks written", err, len(h.store.ids))
		}
	})
}

func TestFullQueueRefusesAndCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, &fakeStore{gate: make(chan struct{})}, sink.Config{MaxBytes: 10_000})
		taken := 0
		for id := range int64(100) {
			if h.Put(t.Context(), block(id+1, 500), 0) {
				taken++
			}
		}
		if taken == 0 || taken > 10_000/500 {
			t.Errorf("%d blocks of 500 bytes taken into 10000 bytes", taken)
		}
		if got := h.metric(t, "tapedeck_records_dropped_total"); got != float64(2*(100-taken)) {
			t.Errorf("%v records counted as dropped, want %d", got, 2*(100-taken))
		}
		close(h.store.gate)
		synctest.Wait()
		if !h.Put(t.Context(), block(101, 20_000), 0) {
			t.Error("an empty queue refused a record larger than the bound")
		}
		h.Close()
		if err := <-h.done; err != nil || len(h.store.ids) != taken+1 {
			t.Errorf("Unwritten() = %v, %d blocks written, want %d", err, len(h.store.ids), taken+1)
		}
	})
}

func TestBackpressureWaitsForRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, &fakeStore{gate: make(chan struct{})}, sink.Config{MaxBytes: 10_000, Wait: true})
		put := make(chan struct{})
		go func() {
			defer close(put)
			for id := range int64(100) {
				if !h.Put(t.Context(), block(id+1, 500), 0) {
					t.Errorf("block %d refused", id+1)
				}
			}
		}()
		synctest.Wait()
		select {
		case <-put:
			t.Error("100 blocks of 500 bytes went into 10000 bytes")
		default:
		}
		if bytes := h.metric(t, "tapedeck_sink_queue_bytes"); bytes > 10_000 {
			t.Errorf("%v bytes queued", bytes)
		}
		close(h.store.gate)
		<-put
		h.Close()
		if err := <-h.done; err != nil || !slices.Equal(h.store.ids, count(100)) {
			t.Errorf("Unwritten() = %v, %d blocks written", err, len(h.store.ids))
		}
	})
}

func TestWaitingPutGivesUpWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, &fakeStore{gate: make(chan struct{})}, sink.Config{MaxBytes: 1000, Wait: true})
		h.Put(t.Context(), block(1, 900), 0)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if h.Put(ctx, block(2, 900), 0) {
			t.Error("taken without room")
		}
		if got := h.metric(t, "tapedeck_records_dropped_total"); got != 2 {
			t.Errorf("%v records counted as dropped", got)
		}
		close(h.store.gate)
	})
}

func TestRefusedRecordIsGivenUpAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, &fakeStore{refuse: 37, gate: make(chan struct{})}, sink.Config{})
		for id := range int64(100) {
			h.Put(t.Context(), block(id+1, 10), 0)
		}
		close(h.store.gate)
		h.Close()
		if err := <-h.done; err != nil {
			t.Fatal(err)
		}
		want := slices.DeleteFunc(count(100), func(id int64) bool { return id == 37 })
		if !slices.Equal(h.store.ids, want) {
			t.Errorf("written: %v", h.store.ids)
		}
		if got := h.metric(t, "tapedeck_records_refused_total"); got != 2 {
			t.Errorf("%v records counted as refused, want the block and its span", got)
		}
	})
}

func TestStopTellsWhatIsUnwritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &fakeStore{err: market.Errorf(market.KindUnavailable, "no primary")}
		s := sink.New(store, sink.Config{MaxBytes: 1 << 20}, sink.NewMetrics(prometheus.NewRegistry()), slog.New(slog.DiscardHandler))
		s.Put(t.Context(), block(1, 100), 0)
		s.Put(t.Context(), block(2, 100), 0)
		s.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		s.Run(ctx)
		err := s.Unwritten()
		if err == nil || !strings.Contains(err.Error(), "4 records") || !strings.Contains(err.Error(), "no primary") {
			t.Errorf("Unwritten() = %v", err)
		}
	})
}

func TestStoreLag(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, &fakeStore{}, sink.Config{})
		h.Put(t.Context(), block(1, 10), market.TimeOf(time.Now().Add(-3*time.Second)))
		h.Put(t.Context(), &market.Batch{Statuses: []market.RecorderStatus{{Recorder: "r"}}}, 0)
		h.Close()
		<-h.done
		if n, err := testutil.GatherAndCount(h.registry, "tapedeck_receive_store_lag_seconds"); err != nil || n != 1 {
			t.Fatal(n, err)
		}
		families, _ := h.registry.Gather()
		for _, f := range families {
			if f.GetName() == "tapedeck_receive_store_lag_seconds" {
				if got := f.GetMetric()[0].GetHistogram(); got.GetSampleCount() != 1 || got.GetSampleSum() != 3 {
					t.Errorf("lag histogram: %v", got)
				}
			}
		}
	})
}

// TestSpanNeverShrinks: at its start a recorder writes the span of the last stored block again, and a recording that is
// played once more begins that span from its first block.
func TestSpanNeverShrinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, &fakeStore{gate: make(chan struct{})}, sink.Config{})
		h.Put(t.Context(), block(1, 10), 0) // is being written while the others gather
		synctest.Wait()
		for _, span := range []market.Span{
			{Series: series, FirstID: 1, LastID: 90, Start: 80, End: 90},
			{Series: series, FirstID: 1, LastID: 2, Start: 1, End: 2},
		} {
			h.Put(t.Context(), &market.Batch{Spans: []market.Span{span}}, 0)
		}
		close(h.store.gate)
		h.Close()
		if err := <-h.done; err != nil {
			t.Fatal(err)
		}
		want := market.Span{Series: series, FirstID: 1, LastID: 90, Start: 1, End: 90}
		if got := h.store.spans[1:]; len(got) != 1 || got[0] != want {
			t.Errorf("written: %+v, want %+v", got, want)
		}
	})
}
