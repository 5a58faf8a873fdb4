package sink_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"tapedeck/ingester/internal/sink"
	"tapedeck/ingester/internal/spool"
	"tapedeck/shared/market"
	"tapedeck/shared/storetest"
)

var series = market.Series{Market: market.Market{Exchange: market.Binance, Symbol: "BTCUSDT"}, Stream: market.Trades}

// errDown is what a store says that is away.
var errDown = market.Errorf(market.KindUnavailable, "no primary")

// fakeStore is a store in memory that fails as it is told, and notes the blocks in the order in which they come.
type fakeStore struct {
	*storetest.Memory
	mu      sync.Mutex
	err     error
	tailErr error
	refuse  func(b *market.Batch) bool // whether a batch is refused for good
	gate    chan struct{}              // closed to let writes through; nil: they go through
	pace    time.Duration              // that each record of a write takes
	reads   chan struct{}              // closed to answer questions for gaps and spans; nil: they are answered
	asked   atomic.Int32               // such questions
	writes  int
	ids     []int64
	spans   []int64 // last ids of those written
	largest int     // records of the largest write
}

func newStore() *fakeStore { return &fakeStore{Memory: storetest.NewMemory()} }

func (s *fakeStore) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

func (s *fakeStore) fail(err error) { s.set(func() { s.err = err }) }

func (s *fakeStore) written() []int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.ids)
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
	pace := s.pace
	s.mu.Unlock()
	if pace > 0 {
		select {
		case <-time.After(time.Duration(b.Len()) * pace):
		case <-ctx.Done():
			return market.Errorf(market.KindUnavailable, "%w", ctx.Err())
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writes++
	if s.err != nil {
		return s.err
	}
	if s.refuse != nil && s.refuse(b) {
		return market.Errorf(market.KindTooLarge, "a record of %d is too large", b.Len())
	}
	for i := range b.Blocks {
		s.ids = append(s.ids, b.Blocks[i].FirstID)
	}
	for i := range b.Spans {
		s.spans = append(s.spans, b.Spans[i].LastID)
	}
	s.largest = max(s.largest, b.Len())
	return s.Memory.Write(ctx, b)
}

func (s *fakeStore) Tail(ctx context.Context, of market.Series) (market.Block, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil || s.tailErr != nil {
		return market.Block{}, errors.Join(s.err, s.tailErr)
	}
	return s.Memory.Tail(ctx, of)
}

func (s *fakeStore) BlockByID(ctx context.Context, of market.Series, id int64) (market.Block, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil || s.tailErr != nil {
		return market.Block{}, errors.Join(s.err, s.tailErr)
	}
	return s.Memory.BlockByID(ctx, of, id)
}

func (s *fakeStore) Gaps(ctx context.Context, query market.GapQuery) ([]market.Gap, error) {
	if err := s.ask(); err != nil {
		return nil, err
	}
	return s.Memory.Gaps(ctx, query)
}

func (s *fakeStore) Spans(ctx context.Context, of market.Series, from, to market.Time, limit int) ([]market.Span, error) {
	if err := s.ask(); err != nil {
		return nil, err
	}
	return s.Memory.Spans(ctx, of, from, to, limit)
}

func (s *fakeStore) ask() error {
	s.asked.Add(1)
	if s.reads != nil {
		<-s.reads
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// gaps returns the whole ledger of the series.
func gaps(t *testing.T, s *fakeStore) []market.Gap {
	t.Helper()
	found, err := s.Memory.Gaps(t.Context(), market.GapQuery{Market: series.Market, Stream: series.Stream, To: 1 << 62, Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// spans returns first and last ids of the spans of the series.
func spans(t *testing.T, s *fakeStore) [][2]int64 {
	t.Helper()
	found, err := s.Memory.Spans(t.Context(), series, 0, 1<<62, 1000)
	if err != nil {
		t.Fatal(err)
	}
	var ids [][2]int64
	for _, span := range found {
		ids = append(ids, [2]int64{span.FirstID, span.LastID})
	}
	return ids
}

// fakeSpool is a spool in memory. It outlives the sinks that use it, as the folder of a real one does: see reopen.
type fakeSpool struct {
	mu       sync.Mutex
	limit    int // of records
	records  []spool.Record
	next     int // index of the first record that Next did not return
	acked    spool.Position
	durable  spool.Position // acked at the last checkpoint
	sealed   bool
	lost     spool.Loss
	changed  chan struct{} // closed and replaced when anything changes
	note     func() []byte
	saved    []byte
	crashed  bool // no checkpoint is taken any more
	atOpen   []spool.Record
	stats    spool.Stats
	position spool.Position
}

func newSpool() *fakeSpool { return &fakeSpool{limit: 1 << 20, changed: make(chan struct{})} }

// reopen returns the spool as the next process finds it.
func (s *fakeSpool) reopen() *fakeSpool {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := newSpool()
	n.limit, n.saved, n.acked, n.durable, n.position = s.limit, s.saved, s.durable, s.durable, s.position
	for _, r := range s.records {
		if r.Position > s.durable {
			n.records = append(n.records, r)
		}
	}
	n.atOpen = slices.Clone(n.records)
	return n
}

func (s *fakeSpool) notify() {
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *fakeSpool) waiting() int {
	n := 0
	for _, r := range s.records {
		if r.Position > s.acked {
			n++
		}
	}
	return n
}

func (s *fakeSpool) Append(record []byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sealed || s.waiting() >= s.limit {
		if !s.sealed {
			s.lost = spool.LossDropped
		}
		return false
	}
	s.position++
	s.records = append(s.records, spool.Record{Data: record, Position: s.position, Appended: time.Now(), Lost: s.lost})
	s.lost = spool.LossNone
	s.notify()
	return true
}

func (s *fakeSpool) acknowledged() spool.Position {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.acked
}

func (s *fakeSpool) Offer(record []byte) bool {
	s.mu.Lock()
	room := 2*s.waiting() < s.limit
	s.mu.Unlock()
	return room && s.Append(record)
}

func (s *fakeSpool) AppendWait(ctx context.Context, record []byte) bool {
	for {
		s.mu.Lock()
		full, sealed, changed := s.waiting() >= s.limit, s.sealed, s.changed
		s.mu.Unlock()
		if sealed || !full {
			return s.Append(record)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

func (s *fakeSpool) Next(ctx context.Context, maxRecords, _ int) ([]spool.Record, error) {
	for {
		s.mu.Lock()
		n, sealed, changed := min(maxRecords, len(s.records)-s.next), s.sealed, s.changed
		group := slices.Clone(s.records[s.next : s.next+n])
		s.next += n
		s.mu.Unlock()
		switch {
		case n > 0:
			return group, nil
		case sealed:
			return nil, io.EOF
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (s *fakeSpool) Ack(p spool.Position) {
	s.mu.Lock()
	s.acked = p
	crashed, note := s.crashed, s.note
	s.notify()
	s.mu.Unlock()
	if crashed {
		return
	}
	saved := note()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.durable, s.saved = p, saved
}

func (s *fakeSpool) Recovered() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for _, r := range s.atOpen {
			if !yield(r.Data) {
				return
			}
		}
	}
}

func (s *fakeSpool) Note() []byte               { return s.saved }
func (s *fakeSpool) SetNote(note func() []byte) { s.note = note }
func (s *fakeSpool) Sync(context.Context) error { return nil }

func (s *fakeSpool) Seal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sealed = true
	s.notify()
}

func (s *fakeSpool) Last() spool.Position {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.position
}

func (s *fakeSpool) Stats() spool.Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	stats := s.stats
	stats.DiskRecords = int64(s.waiting())
	return stats
}

// block is a batch of one block of the ids first to last.
func block(first, last int64) *market.Batch {
	return &market.Batch{Blocks: []market.Block{{
		Series: series, FirstID: first, LastID: last, PrevID: first - 1, Start: market.Time(first), End: market.Time(last),
		Events: int(last - first + 1), Data: fmt.Appendf(nil, "%d to %d", first, last),
	}}}
}

type harness struct {
	*sink.Sink
	t        *testing.T
	store    *fakeStore
	registry *prometheus.Registry
	dir      string // of dead letters
	cancel   context.CancelFunc
	done     chan struct{}
}

// start runs a sink until the test ends or stops it.
func start(t *testing.T, store *fakeStore, log sink.Spool, cfg sink.Config) *harness {
	t.Helper()
	if cfg.DeadLetters == "" {
		cfg.DeadLetters = filepath.Join(t.TempDir(), "dead-letters")
	}
	if cfg.Series == nil {
		cfg.Series = []market.Series{series}
	}
	if cfg.SpoolBytes == 0 {
		cfg.SpoolBytes = 1000
	}
	h := &harness{t: t, store: store, registry: prometheus.NewRegistry(), dir: cfg.DeadLetters, done: make(chan struct{})}
	var err error
	h.Sink, err = sink.New(store, log, cfg, sink.NewMetrics(h.registry), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	var ctx context.Context
	ctx, h.cancel = context.WithCancel(t.Context())
	t.Cleanup(h.cancel)
	go func() {
		defer close(h.done)
		h.Run(ctx)
	}()
	return h
}

func (h *harness) put(batches ...*market.Batch) {
	h.t.Helper()
	for _, b := range batches {
		if !h.Put(h.t.Context(), b, market.TimeOf(time.Now())) {
			h.t.Fatal("refused")
		}
	}
}

// drain closes the sink and waits until all is written.
func (h *harness) drain() {
	h.Close(h.t.Context())
	<-h.done
}

// kill ends the sink at once, without a stop.
func (h *harness) kill() {
	h.cancel()
	<-h.done
}

// metric returns the sum of all samples of a counter or gauge.
func (h *harness) metric(name string) (sum float64) {
	h.t.Helper()
	families, err := h.registry.Gather()
	if err != nil {
		h.t.Fatal(err)
	}
	found := false
	for _, f := range families {
		if f.GetName() == name {
			found = true
			for _, m := range f.GetMetric() {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	if !found {
		h.t.Fatalf("there is no metric %s", name)
	}
	return sum
}

// pass lets d pass on the clock of the bubble, and then waits until nothing moves.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func count(first, last int64) (ids []int64) {
	for id := first; id <= last; id++ {
		ids = append(ids, id)
	}
	return ids
}

func TestWritesInOrderAndInGroups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, newStore(), newSpool(), sink.Config{})
		h.store.gate = make(chan struct{})
		for id := range int64(1200) {
			h.put(block(id+1, id+1))
		}
		close(h.store.gate)
		h.drain()
		if !slices.Equal(h.store.ids, count(1, 1200)) {
			t.Errorf("%d blocks written, not 1200 in order", len(h.store.ids))
		}
		if h.store.largest > 501 || h.store.writes > 10 {
			t.Errorf("%d writes, the largest of %d records: not grouped, or beyond the bound", h.store.writes, h.store.largest)
		}
		if got := spans(t, h.store); !cmp.Equal(got, [][2]int64{{1, 1200}}) || len(gaps(t, h.store)) != 0 {
			t.Errorf("spans %v", got)
		}
		if h.Put(t.Context(), block(1, 1), 0) {
			t.Error("a closed sink took a record")
		}
		if h.metric("tapedeck_spool_records") != 0 || h.metric("tapedeck_records_written_total") != 1200 ||
			h.metric("tapedeck_receive_store_lag_seconds") != 1200 {
			t.Error("the metrics do not say that all is written")
		}
	})
}

// TestBatchesOfManyRecords: a write is bounded in records, however few batches they come in.
func TestBatchesOfManyRecords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, newStore(), newSpool(), sink.Config{})
		h.store.gate = make(chan struct{})
		h.put(block(1, 1))
		for i := range 30 {
			b := &market.Batch{}
			for j := range 60 {
				b.Listings = append(b.Listings, market.Listing{Market: series.Market, UpdatedAt: market.Time(60*i + j)})
			}
			h.put(b)
		}
		close(h.store.gate)
		h.drain()
		if h.store.largest > 501 || h.store.writes < 4 {
			t.Errorf("%d writes, the largest of %d records", h.store.writes, h.store.largest)
		}
	})
}

func TestStoreDownAtTheStartAndLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, down := range []error{errDown, errors.New("nobody knows"), market.Errorf(market.KindUnavailable, "read-only")} {
			h := start(t, newStore(), newSpool(), sink.Config{})
			h.store.fail(down)
			if err := h.StoreProblem(); err == nil {
				t.Error("no problem before the first answer")
			}
			for id := range int64(10) {
				h.put(block(id+1, id+1))
			}
			pass(10 * time.Minute)
			if err := h.StoreProblem(); !errors.Is(err, down) {
				t.Errorf("StoreProblem() = %v", err)
			}
			h.store.fail(nil)
			if _, err := h.Tail(t.Context(), series); market.KindOf(err) != market.KindNotFound {
				t.Errorf("Tail() = %v: not what the store held before the first write", err)
			}
			pass(6 * time.Second)
			if got := h.store.written(); !slices.Equal(got, count(1, 10)) {
				t.Errorf("written after the store was back: %v", got)
			}
			if err := h.StoreProblem(); err != nil {
				t.Errorf("StoreProblem() = %v with the store back", err)
			}

			h.store.fail(down)
			h.put(block(11, 11))
			pass(time.Hour)
			if tries := h.store.writes; tries < 600 || tries > 3600 {
				t.Errorf("%d tries in an hour", tries)
			}
			h.put(block(12, 12), block(13, 13))
			h.store.fail(nil)
			pass(6 * time.Second)
			if got := h.store.written(); !slices.Equal(got, count(1, 13)) {
				t.Errorf("written after the second outage: %v", got)
			}
			if h.metric("tapedeck_store_write_errors_total") == 0 {
				t.Error("no write error counted")
			}
			pass(time.Minute)
			if err := h.StoreProblem(); err == nil || h.metric("tapedeck_store_writable") != 0 {
				t.Error("a store that has long said nothing counts as writable")
			}
			h.kill()
		}
	})
}

// TestSlowStore: a store that is too slow for a whole write takes smaller ones, and larger ones again when it is quicker.
func TestSlowStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newStore()
		store.pace = time.Second
		h := start(t, store, newSpool(), sink.Config{})
		var many []market.Listing
		for i := range 100 {
			many = append(many, market.Listing{Market: series.Market, UpdatedAt: market.Time(i)})
		}
		h.put(&market.Batch{Listings: many}) // of one Put
		for id := range int64(600) {
			h.put(block(id+1, id+1))
		}
		pass(25 * time.Minute)
		if got := store.written(); !slices.Equal(got, count(1, 600)) {
			t.Fatalf("%d blocks written, the largest write of %d records", len(got), store.largest)
		}
		store.set(func() { store.pace = time.Millisecond })
		for id := range int64(1400) {
			h.put(block(id+601, id+601))
		}
		h.drain()
		if !slices.Equal(store.ids, count(1, 2000)) || store.largest < 250 {
			t.Errorf("%d blocks written, the largest write of %d records", len(store.ids), store.largest)
		}
		if got := spans(t, store); !cmp.Equal(got, [][2]int64{{1, 2000}}) || len(gaps(t, store)) != 0 {
			t.Errorf("spans %v", got)
		}
	})
}

func TestUnreadableTailDoesNotStopWriting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newStore()
		store.tailErr = market.Errorf(market.KindCorrupt, "bad document")
		h := start(t, store, newSpool(), sink.Config{})
		h.put(block(1, 1))
		if _, err := h.Tail(t.Context(), series); market.KindOf(err) != market.KindCorrupt {
			t.Errorf("Tail() = %v", err)
		}
		h.drain()
		if !slices.Equal(h.store.ids, count(1, 1)) {
			t.Errorf("written: %v", h.store.ids)
		}
	})
}

func TestFullSpoolRefusesAndExplains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newSpool()
		log.limit = 3
		h := start(t, newStore(), log, sink.Config{})
		h.store.fail(errDown)
		for id := range int64(10) {
			if taken := h.Put(t.Context(), block(id+1, id+1), 1); taken != (id < 3) {
				t.Errorf("block %d taken: %v", id+1, taken)
			}
		}
		if got := h.metric("tapedeck_records_dropped_total"); got != 7 {
			t.Errorf("%v records counted as dropped", got)
		}
		h.store.fail(nil)
		pass(6 * time.Second)
		h.put(block(11, 12))
		h.drain()
		want := []market.Gap{{
			Series: series, Cause: market.CauseOverflow, FirstID: 4, LastID: 10, Start: 3, End: 11, Repair: market.RepairResumed,
		}}
		got := gaps(t, h.store)
		for i := range got {
			if got[i].RecvStart == 0 || got[i].RecvEnd <= got[i].RecvStart || got[i].DetectedAt != got[i].RecvEnd || got[i].RepairedAt == 0 {
				t.Errorf("the receiver's clock in %+v", got[i])
			}
			got[i].RecvStart, got[i].RecvEnd, got[i].DetectedAt, got[i].RepairedAt = 0, 0, 0, 0
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("ledger (-want +got):\n%s", diff)
		}
	})
}

func TestBackpressureWaitsForRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newSpool()
		log.limit = 10
		h := start(t, newStore(), log, sink.Config{Wait: true})
		h.store.gate = make(chan struct{})
		put := make(chan struct{})
		go func() {
			defer close(put)
			for id := range int64(100) {
				if !h.Put(t.Context(), block(id+1, id+1), 1) {
					t.Errorf("block %d refused", id+1)
				}
			}
		}()
		synctest.Wait()
		select {
		case <-put:
			t.Error("100 blocks went into a spool of 10")
		default:
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if h.Put(ctx, block(200, 200), 1) || h.metric("tapedeck_records_dropped_total") != 1 {
			t.Error("taken without room, or not counted")
		}
		close(h.store.gate)
		<-put
		h.drain()
		if !slices.Equal(h.store.ids, count(1, 100)) {
			t.Errorf("%d blocks written", len(h.store.ids))
		}
	})
}

// TestRefusedRecordsBecomeDeadLetters: of a batch with a record that the store refuses for good, the rest is stored.
func TestRefusedRecordsBecomeDeadLetters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, newStore(), newSpool(), sink.Config{})
		h.store.gate = make(chan struct{})
		h.store.refuse = func(b *market.Batch) bool {
			return slices.ContainsFunc(b.Blocks, func(b market.Block) bool { return b.FirstID == 37 }) ||
				slices.ContainsFunc(b.Listings, func(l market.Listing) bool { return l.Status == "bad" })
		}
		for id := range int64(100) {
			batch := block(id+1, id+1)
			if id == 36 {
				batch.Listings = []market.Listing{
					{Market: series.Market, Status: "good", UpdatedAt: 1}, {Market: series.Market, Status: "bad", UpdatedAt: 2},
				}
			}
			h.put(batch)
		}
		close(h.store.gate)
		h.drain()
		want := slices.DeleteFunc(count(1, 100), func(id int64) bool { return id == 37 })
		if !slices.Equal(h.store.ids, want) {
			t.Errorf("written: %v", h.store.ids)
		}
		if got := spans(t, h.store); !cmp.Equal(got, [][2]int64{{1, 36}, {38, 100}}) {
			t.Errorf("spans %v", got)
		}
		ledger := gaps(t, h.store)
		if len(ledger) != 1 || ledger[0].Cause != market.CauseRefused || ledger[0].FirstID != 37 || ledger[0].LastID != 37 {
			t.Errorf("ledger %+v", ledger)
		}
		if h.metric("tapedeck_ledger_entries_total") != 1 {
			t.Error("the entry is not counted")
		}
		if listings, _ := h.store.Listings(t.Context()); len(listings) != 1 || listings[0].Status != "good" {
			t.Errorf("listings %+v", listings)
		}
		if h.metric("tapedeck_dead_letters_total") != 2 || h.metric("tapedeck_dead_letter_files") != 2 {
			t.Error("the dead letters are not counted")
		}
		if err := h.StoreProblem(); err != nil {
			t.Errorf("StoreProblem() = %v", err)
		}
		files, err := filepath.Glob(filepath.Join(h.dir, "*-block-*.json"))
		if err != nil || len(files) != 1 {
			t.Fatalf("dead letters of blocks: %v, %v", files, err)
		}
		var letter struct {
			Error, Kind string
			Record      market.Block
		}
		data, err := os.ReadFile(files[0])
		if err == nil {
			err = json.Unmarshal(data, &letter)
		}
		if err != nil || letter.Kind != "block" || letter.Error == "" || string(letter.Record.Data) != "37 to 37" || letter.Record.FirstID != 37 {
			t.Errorf("dead letter %s: %v", data, err)
		}
	})
}

// TestRecordThatCannotBeDecoded: whatever it was, the hole that it leaves is explained.
func TestRecordThatCannotBeDecoded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newSpool()
		h := start(t, newStore(), log, sink.Config{})
		h.put(block(1, 10))
		log.Append([]byte("not CBOR"))
		h.put(block(15, 20))
		h.drain()
		ledger := gaps(t, h.store)
		if len(ledger) != 1 || ledger[0].Cause != market.CauseDamaged || ledger[0].FirstID != 11 || ledger[0].LastID != 14 {
			t.Errorf("ledger %+v", ledger)
		}
		if h.metric("tapedeck_dead_letter_files") != 1 {
			t.Error("it is no dead letter")
		}
	})
}

// TestRecordOfANewerVersion: a version that was set back leaves alone what it does not know, and all behind it.
func TestRecordOfANewerVersion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, store := newSpool(), newStore()
		h := start(t, store, log, sink.Config{})
		h.put(block(1, 10))
		log.Append([]byte{0xa2, 0x00, 0x03, 0x03, 0x61, 'x'}) // version 3, with something else for blocks
		h.put(block(15, 20))
		pass(time.Second)
		if err := h.StoreProblem(); err == nil || !strings.Contains(err.Error(), "version 3") {
			t.Errorf("StoreProblem() = %v", err)
		}
		h.put(block(21, 30)) // recording goes on
		h.drain()
		if got := store.written(); !slices.Equal(got, []int64{1}) || h.metric("tapedeck_dead_letter_files") != 0 {
			t.Errorf("written: %v, or it is a dead letter", got)
		}
		if left := log.reopen().records; len(left) != 3 || left[0].Position != 2 {
			t.Errorf("%d records are left", len(left))
		}
	})
	log := newSpool()
	log.saved = []byte{0xa1, 0x00, 0x03}
	_, err := sink.New(newStore(), log, sink.Config{}, sink.NewMetrics(prometheus.NewRegistry()), slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), "version 3") {
		t.Errorf("begun behind a newer version: %v", err)
	}
}

// TestStopAndRestartDeliverWhatWasLeft: a stop while the store is away leaves records in the spool; the next process
// writes them, knows from the spool where the last one ended, and what it did not see is a restart.
func TestStopAndRestartDeliverWhatWasLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, store := newSpool(), newStore()
		h := start(t, store, log, sink.Config{})
		h.put(block(1, 10))
		synctest.Wait()
		store.fail(errDown)
		h.put(block(11, 20), block(21, 30))
		h.Close(t.Context())
		pass(30 * time.Second)
		h.kill()

		log = log.reopen()
		h = start(t, store, log, sink.Config{})
		begin := time.Now()
		tail, err := h.Tail(t.Context(), series)
		if err != nil || tail.LastID != 30 || tail.End != 30 {
			t.Errorf("Tail() = %+v, %v with the store away", tail, err)
		}
		if took := time.Since(begin); took != 5*time.Second {
			t.Errorf("it took %v", took)
		}
		h.put(block(41, 50))
		store.fail(nil)
		h.drain()
		if got := store.written(); !slices.Equal(got, []int64{1, 11, 21, 41}) {
			t.Errorf("written: %v", got)
		}
		if got := spans(t, store); !cmp.Equal(got, [][2]int64{{1, 30}, {41, 50}}) {
			t.Errorf("spans %v", got)
		}
		ledger := gaps(t, store)
		if len(ledger) != 1 || ledger[0].Cause != market.CauseRestart || ledger[0].FirstID != 31 || ledger[0].LastID != 40 {
			t.Errorf("ledger %+v", ledger)
		}
	})
}

// TestCrashBetweenWriteAndAcknowledgement: what the store has already comes again, and changes nothing.
func TestCrashBetweenWriteAndAcknowledgement(t *testing.T) {
	for name, forget := range map[string]bool{"with the note": false, "without": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log, store := newSpool(), newStore()
				h := start(t, store, log, sink.Config{})
				h.put(block(1, 10), block(15, 20))
				synctest.Wait()
				log.crashed = true
				h.put(block(21, 30), block(35, 40), block(41, 50))
				synctest.Wait()
				h.kill()
				wantSpans, wantGaps := spans(t, store), gaps(t, store)
				wantBlocks := len(store.written())

				log = log.reopen()
				if forget {
					log.saved = nil
				}
				h = start(t, store, log, sink.Config{})
				synctest.Wait()
				if got := len(store.written()); got != wantBlocks+3 {
					t.Fatalf("%d blocks were delivered again, which this test is about", got-wantBlocks)
				}
				if diff := cmp.Diff(wantGaps, gaps(t, store)); diff != "" {
					t.Errorf("ledger (-before +after):\n%s", diff)
				}
				// Without the note nobody knows where spans that ended began; what they claim is true all the same.
				if diff := cmp.Diff(wantSpans, spans(t, store)); diff != "" && !forget {
					t.Errorf("spans (-before +after):\n%s", diff)
				}
				h.put(block(51, 60))
				h.drain()
				if got := spans(t, store); !slices.Contains(got, [2]int64{35, 60}) {
					t.Errorf("the span was not continued: %v", got)
				}
			})
		})
	}
}

// TestAnotherStore begins with a spool that speaks of a store which is not there any more.
func TestAnotherStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newSpool()
		h := start(t, newStore(), log, sink.Config{})
		h.put(block(1, 10))
		h.drain()

		store := newStore()
		h = start(t, store, log.reopen(), sink.Config{})
		h.put(block(11, 20))
		h.drain()
		if got := spans(t, store); !cmp.Equal(got, [][2]int64{{11, 20}}) {
			t.Errorf("spans %v claim what the new store does not hold", got)
		}
	})
}

// TestTailIsTheGreaterOne: another recorder may have gone on while this one was down.
func TestTailIsTheGreaterOne(t *testing.T) {
	for name, c := range map[string]struct {
		spooled, stored, want int64
	}{
		"the spool is ahead": {30, 10, 30}, "the store is ahead": {10, 30, 30},
		"only the spool": {10, 0, 10}, "only the store": {0, 10, 10}, "neither": {0, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log, store := newSpool(), newStore()
				if c.spooled > 0 {
					down := newStore()
					down.err = errDown
					h := start(t, down, log, sink.Config{})
					h.put(block(1, c.spooled))
					h.kill()
				}
				if c.stored > 0 {
					b := block(1, c.stored)
					b.Blocks[0].SpanID = 1
					if err := store.Memory.Write(t.Context(), b); err != nil {
						t.Fatal(err)
					}
				}
				h := start(t, store, log.reopen(), sink.Config{})
				tail, err := h.Tail(t.Context(), series)
				if tail.LastID != c.want || (market.KindOf(err) == market.KindNotFound) != (c.want == 0) {
					t.Errorf("Tail() = %d, %v", tail.LastID, err)
				}
				if _, err := h.Tail(t.Context(), market.Series{}); market.KindOf(err) != market.KindInvalid {
					t.Errorf("Tail() of a series that is not recorded = %v", err)
				}
				h.drain()
			})
		})
	}
}

// TestSpanIsHealed: a crash left a block in the store whose span was not written.
func TestSpanIsHealed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newStore()
		b := block(1, 10)
		b.Blocks[0].SpanID = 1
		if err := store.Memory.Write(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		h := start(t, store, newSpool(), sink.Config{})
		h.drain()
		if got := spans(t, store); !cmp.Equal(got, [][2]int64{{1, 10}}) {
			t.Errorf("spans %v", got)
		}
	})
}

// TestSpanIsHealedFromItsFirstBlock: a crash left blocks in the store whose span was not written, and the exchange's
// clock stepped back within it.
func TestSpanIsHealedFromItsFirstBlock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newStore()
		first, tail := block(101, 110), block(111, 120)
		first.Blocks[0].SpanID, tail.Blocks[0].SpanID = 101, 101
		first.Blocks[0].PrevID = 95
		tail.Blocks[0].Start, tail.Blocks[0].End = 105, 107
		for _, b := range []*market.Batch{first, tail} {
			if err := store.Memory.Write(t.Context(), b); err != nil {
				t.Fatal(err)
			}
		}
		h := start(t, store, newSpool(), sink.Config{})
		h.drain()
		got, err := store.Spans(t.Context(), series, 0, 1<<62, 1000)
		want := []market.Span{{Series: series, FirstID: 101, PrevID: 95, LastID: 120, Start: 101, End: 110}}
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("spans, %v:\n%s", err, diff)
		}
	})
}

// TestSpansAreHealedBehindTheTail: of a write that was cut there may be several spans to heal, and ids count, not times.
func TestSpansAreHealedBehindTheTail(t *testing.T) {
	stored := func(first, last, span int64, at market.Time) market.Block {
		b := block(first, last).Blocks[0]
		b.SpanID, b.Start, b.End = span, at, at+1
		return b
	}
	far := make([]market.Block, 0, 40) // by turns ahead of the clock's step and behind it
	for n := range int64(40) {
		far = append(far, stored(1000*n+1, 1000*n+10, 1000*n+1, market.Time(5000-100*n)))
	}
	for name, c := range map[string]struct {
		blocks []market.Block
		spans  []market.Span // that are stored
		next   *market.Batch
		want   [][2]int64
		gaps   [][2]int64
	}{
		"of two spans": {
			blocks: []market.Block{stored(1, 10, 1, 1), stored(15, 20, 15, 15)},
			next:   block(21, 30), want: [][2]int64{{1, 10}, {15, 30}},
		},
		"of two spans, of which one has grown": {
			blocks: []market.Block{stored(1, 10, 1, 1), stored(11, 12, 1, 11), stored(15, 20, 15, 15)},
			spans:  []market.Span{{Series: series, FirstID: 1, LastID: 10, Start: 1, End: 2}},
			next:   block(21, 30), want: [][2]int64{{1, 12}, {15, 30}},
		},
		"of two spans far from each other": {
			blocks: []market.Block{stored(1, 10, 1, 1), stored(1_000_003, 1_000_009, 1_000_003, 15)},
			next:   block(1_000_010, 1_000_020), want: [][2]int64{{1, 10}, {1_000_003, 1_000_020}},
		},
		"the exchange's clock stepped back": {
			blocks: []market.Block{stored(101, 110, 101, 101), stored(111, 120, 101, 50)},
			next:   block(131, 140), want: [][2]int64{{101, 120}, {131, 140}}, gaps: [][2]int64{{121, 130}},
		},
		"the exchange's clock stepped back far": {
			blocks: far, next: block(39011, 39020),
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := newStore()
				if err := store.Memory.Write(t.Context(), &market.Batch{Blocks: c.blocks, Spans: c.spans}); err != nil {
					t.Fatal(err)
				}
				h := start(t, store, newSpool(), sink.Config{})
				h.put(c.next)
				h.drain()
				if c.want == nil { // of far
					for _, b := range c.blocks {
						c.want = append(c.want, [2]int64{b.FirstID, b.LastID})
					}
					c.want[len(c.want)-1][1] = c.next.Blocks[0].LastID
				}
				got := spans(t, store)
				slices.SortFunc(got, func(a, b [2]int64) int { return int(a[0] - b[0]) })
				if diff := cmp.Diff(c.want, got); diff != "" {
					t.Errorf("spans (-want +got):\n%s", diff)
				}
				var ledger [][2]int64
				for _, g := range gaps(t, store) {
					ledger = append(ledger, [2]int64{g.FirstID, g.LastID})
				}
				if diff := cmp.Diff(c.gaps, ledger); diff != "" {
					t.Errorf("ledger (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// TestSpansAreWrittenInTheOrderOfTheirEnds: so the last one of a series tells that the others of its write are there.
func TestSpansAreWrittenInTheOrderOfTheirEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newStore()
		store.gate = make(chan struct{})
		h := start(t, store, newSpool(), sink.Config{})
		h.put(block(1, 10), block(20, 30), block(11, 15))
		close(store.gate)
		h.drain()
		if !slices.Equal(store.spans, []int64{10, 15, 30}) {
			t.Errorf("spans written up to %v", store.spans)
		}
	})
}

// TestTwoRecordersOneStore: a block that the other recorder wrote first is no sign of another store.
func TestTwoRecordersOneStore(t *testing.T) {
	for name, other := range map[string]bool{"alone": false, "the other one wrote the last block": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log, store := newSpool(), newStore()
				h := start(t, store, log, sink.Config{})
				h.put(block(1, 10))
				synctest.Wait()
				if other {
					b := block(11, 20)
					b.Blocks[0].SpanID = 5
					b.Spans = []market.Span{{Series: series, FirstID: 5, PrevID: 4, LastID: 20, Start: 5, End: 20}}
					if err := store.Memory.Write(t.Context(), b); err != nil {
						t.Fatal(err)
					}
				}
				h.put(block(11, 20), &market.Batch{Gaps: []market.Gap{{
					Series: series, Cause: market.CauseDisconnect, FirstID: 21, LastID: 30, Start: 20, DetectedAt: 1,
				}}})
				h.drain()
				h = start(t, store, log.reopen(), sink.Config{})
				h.put(block(31, 40))
				h.drain()
				ledger := gaps(t, store)
				if len(ledger) != 1 || ledger[0].Cause != market.CauseDisconnect || ledger[0].FirstID != 21 || ledger[0].LastID != 30 {
					t.Errorf("ledger %+v", ledger)
				}
			})
		})
	}
}

// behind starts a sink whose store has 1 to 10 and is away now, so that 11 to 20 wait in the spool.
func behind(t *testing.T) (*harness, *fakeSpool, *fakeStore) {
	t.Helper()
	log, store := newSpool(), newStore()
	h := start(t, store, log, sink.Config{})
	h.put(block(1, 10))
	synctest.Wait()
	store.fail(errDown)
	h.put(block(11, 20))
	synctest.Wait()
	return h, log, store
}

// TestLeftoversOfAMarketThatIsNoLongerRecorded are written as any others.
func TestLeftoversOfAMarketThatIsNoLongerRecorded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, log, store := behind(t)
		h.kill()
		store.fail(nil)
		other := series
		other.Stream = market.Depth
		h = start(t, store, log.reopen(), sink.Config{Series: []market.Series{other}})
		h.drain()
		if got := spans(t, store); !cmp.Equal(got, [][2]int64{{1, 20}}) {
			t.Errorf("spans %v", got)
		}
	})
}

// TestSettled: once it returns, the store has what earlier processes put, and so what it says of them is true.
func TestSettled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, log, store := behind(t)
		h.put(&market.Batch{Gaps: []market.Gap{{Series: series, Cause: market.CauseStall, FirstID: 21, LastID: 24}}})
		h.put(block(25, 30))
		synctest.Wait()
		h.kill()

		h = start(t, store, log.reopen(), sink.Config{})
		settled := make(chan error, 1)
		go func() { settled <- h.Settled(t.Context()) }()
		brief, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := h.Settled(brief); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("while the store is away: %v", err)
		}
		store.fail(nil)
		h.put(block(31, 40))
		if err := <-settled; err != nil {
			t.Fatal(err)
		}
		spans, err := h.Spans(t.Context(), series, 0, 1<<62, 10)
		if err != nil || len(spans) != 2 || spans[0].LastID != 20 || spans[1].FirstID != 25 || spans[1].LastID < 30 {
			t.Errorf("spans %+v, %v", spans, err)
		}
		ledger, err := h.Gaps(t.Context(), market.GapQuery{Market: series.Market, Stream: series.Stream, To: 1 << 62, Limit: 10})
		if err != nil || len(ledger) != 1 || ledger[0].FirstID != 21 {
			t.Errorf("ledger %+v, %v", ledger, err)
		}
		h.drain()
	})
}

// TestSettledWithWhatThisProcessPut: as long as some of that is not in the store, what the store says is not all.
func TestSettledWithWhatThisProcessPut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newStore()
		h := start(t, store, newSpool(), sink.Config{})
		h.put(block(1, 10))
		synctest.Wait()
		if err := h.Settled(t.Context()); err != nil {
			t.Error(err)
		}
		store.fail(market.Errorf(market.KindUnavailable, "away"))
		h.put(block(11, 20))
		brief, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := h.Settled(brief); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("while the store is away: %v", err)
		}
		settled := make(chan error, 1)
		go func() { settled <- h.Settled(t.Context()) }()
		synctest.Wait()
		store.fail(nil)
		if err := <-settled; err != nil {
			t.Error(err)
		}
		if got := spans(t, store); !cmp.Equal(got, [][2]int64{{1, 20}}) {
			t.Errorf("spans %v", got)
		}
		h.drain()
	})
}

// TestReadsTakeTurns: the markets of a process that has settled all ask at once.
func TestReadsTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newStore()
		store.reads = make(chan struct{})
		h := start(t, store, newSpool(), sink.Config{})
		answered := make(chan error, 20)
		for range 10 {
			go func() {
				_, err := h.Gaps(t.Context(), market.GapQuery{Market: series.Market, To: 1 << 62, Limit: 1})
				answered <- err
			}()
			go func() {
				_, err := h.Spans(t.Context(), series, 0, 1<<62, 1)
				answered <- err
			}()
		}
		synctest.Wait()
		if n := store.asked.Load(); n != 4 {
			t.Errorf("%d questions at once, want 4", n)
		}
		brief, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := h.Spans(brief, series, 0, 1<<62, 1); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a question that gives up its turn: %v", err)
		}
		close(store.reads)
		for range 20 {
			if err := <-answered; err != nil {
				t.Error(err)
			}
		}
		h.drain()
	})
}

// TestHistoryWaitsForTheStore: an outage just when an earlier process's holes are asked for does not lose them.
func TestHistoryWaitsForTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newStore()
		h := start(t, store, newSpool(), sink.Config{})
		h.put(block(1, 10), block(15, 20))
		synctest.Wait()
		for _, lasting := range []bool{false, true} {
			want := errDown
			if lasting {
				want = market.Errorf(market.KindCorrupt, "bad document")
			}
			store.fail(want)
			failed := make(chan error, 2)
			go func() {
				_, err := h.Gaps(t.Context(), market.GapQuery{Market: series.Market, To: 1 << 62, Limit: 10})
				failed <- err
			}()
			go func() {
				_, err := h.Spans(t.Context(), series, 0, 1<<62, 10)
				failed <- err
			}()
			pass(10 * time.Minute)
			if waiting := len(failed) == 0; waiting == lasting {
				t.Errorf("lasting %v: waiting %v", lasting, waiting)
			}
			store.fail(nil)
			for range 2 {
				if err := <-failed; errors.Is(err, want) != lasting {
					t.Errorf("lasting %v: %v", lasting, err)
				}
			}
		}
		h.drain()
	})
}

// TestHolesOfAMarketThatIsNoLongerRecorded: what explains them may come long before the block behind them.
func TestHolesOfAMarketThatIsNoLongerRecorded(t *testing.T) {
	for cause, leave := range map[market.Cause]func(*harness, *fakeSpool){
		market.CauseStall: func(h *harness, _ *fakeSpool) {
			h.put(&market.Batch{Gaps: []market.Gap{{Series: series, Cause: market.CauseStall, FirstID: 11, LastID: 14}}})
		},
		market.CauseOverflow: func(_ *harness, log *fakeSpool) { log.lost = spool.LossDropped },
	} {
		t.Run(string(cause), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log, store := newSpool(), newStore()
				h := start(t, store, log, sink.Config{})
				h.put(block(1, 10))
				synctest.Wait()
				store.fail(errDown)
				leave(h, log)
				for range 1000 { // so that the block is not read with it
					h.put(&market.Batch{Listings: []market.Listing{{Market: series.Market, UpdatedAt: 1}}})
				}
				h.put(block(15, 20))
				synctest.Wait()
				h.kill()
				store.fail(nil)
				other := series
				other.Stream = market.Depth
				h = start(t, store, log.reopen(), sink.Config{Series: []market.Series{other}})
				h.drain()
				ledger := gaps(t, store)
				if len(ledger) != 1 || ledger[0].Cause != cause || ledger[0].FirstID != 11 || ledger[0].LastID != 14 {
					t.Errorf("ledger %+v", ledger)
				}
			})
		})
	}
}

func TestSpoolProblem(t *testing.T) {
	log := newSpool()
	h := start(t, newStore(), log, sink.Config{SpoolBytes: 1000})
	for name, c := range map[string]struct {
		stats spool.Stats
		bad   bool
	}{
		"well":         {spool.Stats{DiskBytes: 900}, false},
		"nearly full":  {spool.Stats{DiskBytes: 901}, true},
		"disk is lost": {spool.Stats{DiskError: io.ErrShortWrite}, true},
	} {
		log.mu.Lock()
		log.stats = c.stats
		log.mu.Unlock()
		if err := h.SpoolProblem(); (err != nil) != c.bad {
			t.Errorf("%s: SpoolProblem() = %v", name, err)
		}
	}
	h.drain()
}

// TestSavedBlock: what was saved of a block is stored where the process was killed before the block was whole, and only
// then; the spool keeps it until that is known.
func TestSavedBlock(t *testing.T) {
	for name, c := range map[string]struct {
		whole []int64 // first and last id of what came in its place before the kill
		want  []int64 // first ids of the blocks written before it; those after it begin at 31
		ids   [][2]int64
	}{
		"killed":       {want: []int64{1}, ids: [][2]int64{{1, 15}, {31, 40}}},
		"killed later": {whole: []int64{11, 20}, want: []int64{1, 11}, ids: [][2]int64{{1, 20}, {31, 40}}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log, store := newSpool(), newStore()
				h := start(t, store, log, sink.Config{})
				h.put(block(1, 10))
				if !h.Save(block(11, 15).Blocks[0], 0) {
					t.Fatal("refused")
				}
				h.put(&market.Batch{Statuses: []market.RecorderStatus{{Recorder: "test"}}})
				if c.whole != nil {
					h.put(block(c.whole[0], c.whole[1]))
				}
				pass(time.Second)
				h.kill()
				if got := store.written(); !slices.Equal(got, c.want) {
					t.Errorf("written: %v, want %v", got, c.want)
				}
				h = start(t, store, log.reopen(), sink.Config{})
				if tail, err := h.Tail(t.Context(), series); err != nil || tail.LastID != c.ids[0][1] {
					t.Errorf("Tail() = %+v, %v", tail, err)
				}
				h.put(block(31, 40))
				h.drain()
				if got := spans(t, store); !cmp.Equal(got, c.ids) {
					t.Errorf("spans %v, want %v", got, c.ids)
				}
				if got := gaps(t, store); len(got) != 1 || got[0].FirstID != c.ids[0][1]+1 || got[0].LastID != 30 {
					t.Errorf("ledger %+v", got)
				}
			})
		})
	}
}

// TestSaveNeedsRoom: what only might be needed takes no room from what is, and is not missed.
func TestSaveNeedsRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, store := newSpool(), newStore()
		log.limit = 4
		store.fail(errDown)
		h := start(t, store, log, sink.Config{})
		h.put(block(1, 10), block(11, 20))
		if h.Save(block(21, 25).Blocks[0], 0) {
			t.Error("saved in a spool that is half full")
		}
		h.put(block(21, 30))
		store.fail(nil)
		h.drain()
		if got := gaps(t, store); len(got) > 0 || h.metric("tapedeck_records_dropped_total") != 0 {
			t.Errorf("ledger %+v, or something counts as dropped", got)
		}
	})
}

// crash ends the process and returns the spool as the next one finds it, of which the first records were on disk, and the
// first acked ones acknowledged.
func (h *harness) crash(log *fakeSpool, records int, acked spool.Position) *fakeSpool {
	h.t.Helper()
	log.mu.Lock()
	log.crashed = true
	log.mu.Unlock()
	h.kill()
	log.durable = min(log.durable, acked)
	n := log.reopen()
	n.records = n.records[:records]
	n.atOpen = n.records
	return n
}

// writeOther writes a block as another recorder does.
func (s *fakeStore) writeOther(t *testing.T, first, last int64) {
	t.Helper()
	batch := block(first, last)
	b := &batch.Blocks[0]
	b.SpanID = first
	batch.Spans = []market.Span{{Series: series, FirstID: first, PrevID: b.PrevID, LastID: last, Start: b.Start, End: b.End}}
	if err := s.Memory.Write(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
}

// TestSavedBlockThatIsStored: the whole block went to the store out of memory, and not to the disk. Another recorder's
// blocks do not hide it.
func TestSavedBlockThatIsStored(t *testing.T) {
	for name, beside := range map[string]bool{"alone": false, "beside another recorder": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log, store := newSpool(), newStore()
				h := start(t, store, log, sink.Config{})
				h.put(block(1, 10))
				h.Save(block(11, 15).Blocks[0], 0)
				h.put(block(11, 20))
				pass(time.Second)
				left := h.crash(log, 1, 1)
				if beside {
					store.writeOther(t, 14, 16)
				}
				h = start(t, store, left, sink.Config{})
				h.put(block(21, 30))
				h.drain()
				if got := store.written(); !slices.Equal(got, []int64{1, 11, 21}) {
					t.Errorf("written: %v", got)
				}
				if got := gaps(t, store); len(got) > 0 {
					t.Errorf("ledger %+v", got)
				}
			})
		})
	}
}

// TestSavedBlockIsKeptUntilTheWholeIsStored: the spool has saved 11 to 15, much else and the whole block, of which the store
// takes no more than the much else before the process is killed.
func TestSavedBlockIsKeptUntilTheWholeIsStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, store := newSpool(), newStore()
		store.gate = make(chan struct{})
		h := start(t, store, log, sink.Config{})
		h.put(block(1, 10))
		pass(time.Second) // its write waits at the gate
		h.Save(block(11, 15).Blocks[0], 0)
		depth := market.Series{Market: series.Market, Stream: market.Depth}
		much := &market.Batch{}
		for i := range int64(500) {
			much.Gaps = append(much.Gaps, market.Gap{Series: depth, Cause: market.CauseStall, FirstID: 2 * i, LastID: 2 * i, DetectedAt: 1})
		}
		h.put(much, block(11, 20))
		for range 2 {
			store.gate <- struct{}{}
		}
		pass(time.Second)
		left := h.crash(log, 2, 3) // the whole block was in memory alone
		store.gate = nil
		h = start(t, store, left, sink.Config{})
		h.put(block(31, 40))
		h.drain()
		if got := spans(t, store); !slices.Contains(got, [2]int64{1, 15}) {
			t.Errorf("spans %v: 11 to 15 were on disk, and are lost", got)
		}
	})
}

// TestSavedBlockThatAnotherRecorderHas: what the store holds meanwhile is not called missing, nor stored again; a part of it
// does not do.
func TestSavedBlockThatAnotherRecorderHas(t *testing.T) {
	for name, c := range map[string]struct {
		first int64 // of the other recorder's block
		want  []int64
	}{
		"all of it": {11, []int64{1, 31}}, "a part": {14, []int64{1, 11, 31}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log, store := newSpool(), newStore()
				h := start(t, store, log, sink.Config{})
				h.put(block(1, 10))
				h.Save(block(11, 15).Blocks[0], 0)
				pass(time.Second)
				h.kill()
				h = start(t, store, log.reopen(), sink.Config{})
				pass(time.Second) // the tail is read
				store.writeOther(t, c.first, 16)
				h.put(&market.Batch{Gaps: []market.Gap{{
					Series: series, Cause: market.CauseRestart, FirstID: 16, LastID: 30,
					DetectedAt: 1, RepairedAt: 1, Repair: market.RepairResumed,
				}}}, block(31, 40))
				h.drain()
				if got := gaps(t, store); len(got) != 1 || got[0].FirstID != 16 {
					t.Errorf("ledger %+v", got)
				}
				if got := store.written(); !slices.Equal(got, c.want) {
					t.Errorf("written: %v, want %v", got, c.want)
				}
			})
		})
	}
}

// TestSavedBlockOfAQuietMarket: a block that is never heard of again does not keep the spool from forgetting for ever.
func TestSavedBlockOfAQuietMarket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, store := newSpool(), newStore()
		h := start(t, store, log, sink.Config{})
		h.put(block(1, 10))
		h.Save(block(11, 15).Blocks[0], 0)
		pass(9 * time.Second)
		if acked := log.acknowledged(); acked != 1 {
			t.Errorf("the spool forgot up to %d", acked)
		}
		pass(5 * time.Second)
		if got, acked := store.written(), log.acknowledged(); !slices.Equal(got, []int64{1, 11}) || acked != 2 {
			t.Errorf("written: %v; the spool forgot up to %d", got, acked)
		}
		h.drain()
	})
}
