package recorder_test

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tapedeck/ingester/internal/recorder"
	"tapedeck/shared/binance"
	"tapedeck/shared/market"
	"tapedeck/shared/storetest"
	"tapedeck/shared/tape"
)

var (
	btcusdt = market.Market{Exchange: market.Binance, Symbol: "BTCUSDT"}
	depthOf = market.Series{Market: btcusdt, Stream: market.Depth}
	tradeOf = market.Series{Market: btcusdt, Stream: market.Trades}
)

// TestMain makes the codec's compressor, which all of a process shares, begin its life outside the bubbles of synctest.
func TestMain(m *testing.M) {
	levels := make([]market.Level, 5000)
	for i := range levels {
		levels[i] = market.Level{Price: market.Decimal(i * i), Quantity: market.Decimal(i)}
	}
	var decoder tape.Decoder
	if _, _, err := decoder.Book(tape.EncodeBook(nil, levels)); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// millis is the exchange's clock in the tests: so many milliseconds after a round second.
func millis(ms int) market.Time {
	return market.Time(1_700_000_000_000+ms) * market.Time(time.Millisecond)
}

// recorded is a Sink that keeps everything, in order.
type recorded struct {
	mu      sync.Mutex
	batch   market.Batch
	saved   []market.Block
	full    bool // nothing more is saved
	refuse  func(*market.Batch) bool
	tailErr error
	tails   map[market.Series]market.Block

	tailWait time.Duration // until Tail answers

	ledger    []market.Gap // of earlier processes, oldest first
	old       int          // so many of them are not of the last days
	ledgerErr error
	spans     []market.Span

	live bool // ledger and spans are those of what was put
}

func (s *recorded) Put(_ context.Context, b *market.Batch, _ market.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refuse != nil && s.refuse(b) {
		return false
	}
	if err := b.Validate(); err != nil {
		panic(err) // a store would refuse it for good
	}
	s.batch.Blocks = append(s.batch.Blocks, b.Blocks...)
	s.batch.Keyframes = append(s.batch.Keyframes, b.Keyframes...)
	if len(b.Spans) > 0 {
		panic("spans are the sink's")
	}
	s.batch.Gaps = append(s.batch.Gaps, b.Gaps...)
	s.batch.Statuses = append(s.batch.Statuses, b.Statuses...)
	s.batch.Listings = append(s.batch.Listings, b.Listings...)
	return true
}

func (s *recorded) Save(b market.Block, _ market.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.full {
		return false
	}
	s.saved = append(s.saved, b)
	return true
}

// setRefuse decides from now on what is refused; nil refuses nothing.
func (s *recorded) setRefuse(refuse func(*market.Batch) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuse = refuse
}

func (s *recorded) Tail(_ context.Context, of market.Series) (market.Block, error) {
	<-time.After(s.tailWait)
	if s.tailErr != nil {
		return market.Block{}, s.tailErr
	}
	if b, ok := s.tails[of]; ok {
		return b, nil
	}
	return market.Block{}, market.Errorf(market.KindNotFound, "empty")
}

func (s *recorded) Settled(context.Context) error { return nil }

func (s *recorded) Gaps(ctx context.Context, q market.GapQuery) ([]market.Gap, error) {
	if s.live {
		s.mu.Lock()
		defer s.mu.Unlock()
		store := storetest.NewMemory()
		if err := store.Write(ctx, &market.Batch{Gaps: s.batch.Gaps}); err != nil {
			return nil, err
		}
		q.From, q.To = 0, math.MaxInt64 // the recorder's clock in the tests is not the exchange's
		return store.Gaps(ctx, q)
	}
	entries := s.ledger
	if q.From > market.TimeOf(time.Now().Add(-4*24*time.Hour)) {
		entries = entries[s.old:]
	}
	return slices.Clone(entries[:min(len(entries), q.Limit)]), s.ledgerErr
}

func (s *recorded) Spans(_ context.Context, of market.Series, from, to market.Time, limit int) ([]market.Span, error) {
	if !s.live {
		return slices.Clone(s.spans), nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var spans []market.Span
	for _, b := range s.batch.Blocks { // each is one
		if b.Series == of && b.Start < to && b.End >= from && len(spans) < limit {
			spans = append(spans, market.Span{
				Series: of, FirstID: b.FirstID, PrevID: b.PrevID, LastID: b.LastID, Start: b.Start, End: b.End,
			})
		}
	}
	return spans, nil
}

// describe returns the records of one kind, shortly: blocks "1-5", keyframes "@5", gaps "cause 6-9 repair".
func (s *recorded) describe(kind string, stream market.Stream) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var words []string
	switch kind {
	case "blocks", "saved":
		blocks := s.batch.Blocks
		if kind == "saved" {
			blocks = s.saved
		}
		for _, b := range blocks {
			if b.Series.Stream == stream {
				words = append(words, fmt.Sprintf("%d-%d", b.FirstID, b.LastID))
			}
		}
	case "keyframes":
		for _, k := range s.batch.Keyframes {
			words = append(words, fmt.Sprintf("@%d", k.UpdateID))
		}
	case "gaps":
		for _, g := range s.batch.Gaps {
			if g.Series.Stream == stream {
				words = append(words, strings.TrimSpace(fmt.Sprintf("%s %d-%d %s", g.Cause, g.FirstID, g.LastID, g.Repair)))
			}
		}
	}
	return strings.Join(words, ", ")
}

// entries returns the ledger of a stream as a store merges it.
func (s *recorded) entries(t *testing.T, stream market.Stream) []market.Gap {
	t.Helper()
	store := storetest.NewMemory()
	if err := store.Write(t.Context(), &market.Batch{Gaps: s.batch.Gaps}); err != nil {
		t.Fatal(err)
	}
	entries, err := store.Gaps(t.Context(), market.GapQuery{Market: btcusdt, Stream: stream, To: math.MaxInt64, Limit: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	return entries
}

// asked is a request for a snapshot that waits for its answer.
type asked struct {
	market market.Market
	answer chan answer
}

type answer struct {
	snapshot market.Snapshot
	err      error
}

// noTrades is the part of a Source that most tests have no use for.
type noTrades struct{}

var errNotHere = market.Errorf(market.KindUnavailable, "not in this test")

func (noTrades) LastUpdateID(context.Context, market.Market) (int64, error) { return 0, errNotHere }
func (noTrades) LastTradeID(context.Context, market.Market) (int64, error)  { return 0, errNotHere }
func (noTrades) TradesFrom(context.Context, market.Market, int64, int) ([]market.Trade, error) {
	return nil, errNotHere
}

// source is a Source that a test answers.
type source struct {
	noTrades
	asked chan asked

	trades tradeSource // nil when there is none

	mu     sync.Mutex
	lastID int64         // what LastUpdateID says; 0 = nothing
	probes int           // how often it was asked
	slow   chan struct{} // what its answers, of the time of the question, wait for; nil = nothing
}

// tradeSource is the part of a Source that knows trades.
type tradeSource interface {
	LastTradeID(ctx context.Context, m market.Market) (int64, error)
	TradesFrom(ctx context.Context, m market.Market, fromID int64, limit int) ([]market.Trade, error)
}

func (s *source) LastTradeID(ctx context.Context, m market.Market) (int64, error) {
	if s.trades == nil {
		return s.noTrades.LastTradeID(ctx, m)
	}
	return s.trades.LastTradeID(ctx, m)
}

func (s *source) TradesFrom(ctx context.Context, m market.Market, fromID int64, limit int) ([]market.Trade, error) {
	if s.trades == nil {
		return s.noTrades.TradesFrom(ctx, m, fromID, limit)
	}
	return s.trades.TradesFrom(ctx, m, fromID, limit)
}

func (s *source) LastUpdateID(ctx context.Context, m market.Market) (int64, error) {
	s.mu.Lock()
	s.probes++
	id, slow := s.lastID, s.slow
	s.mu.Unlock()
	if slow != nil {
		<-slow
	}
	if id == 0 {
		return s.noTrades.LastUpdateID(ctx, m)
	}
	return id, nil
}

// at makes the exchange's last update id known. It returns how often it was asked for up to now.
func (s *source) at(id int64) (probes int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastID = id
	return s.probes
}

func (s *source) Snapshot(ctx context.Context, m market.Market, _ int) (market.Snapshot, error) {
	a := asked{m, make(chan answer, 1)}
	select {
	case s.asked <- a:
	case <-ctx.Done():
		return market.Snapshot{}, ctx.Err()
	}
	select {
	case r := <-a.answer:
		return r.snapshot, r.err
	case <-ctx.Done():
		return market.Snapshot{}, ctx.Err()
	}
}

// deck is one recorder at work. The clock of the bubble stands still unless a test lets time pass.
type deck struct {
	t        *testing.T
	inbox    *recorder.Inbox
	recorder *recorder.Recorder
	sink     *recorded
	source   *source
	registry *prometheus.Registry
	done     chan int
	waiting  []asked
}

type options struct {
	config recorder.Config
	memory int // bytes of the budget
	sink   *recorded
	trades tradeSource
}

// start runs a recorder; it is connected already.
func start(t *testing.T, o options) *deck {
	t.Helper()
	if o.config.FlushInterval == 0 {
		o.config.FlushInterval = time.Second
	}
	if o.config.KeyframeBlocks == 0 {
		o.config.KeyframeBlocks = 128
	}
	if o.memory == 0 {
		o.memory = 4 << 20
	}
	if o.sink == nil {
		o.sink = &recorded{}
	}
	d := &deck{
		t: t, sink: o.sink, source: &source{asked: make(chan asked, 16), trades: o.trades},
		registry: prometheus.NewRegistry(), done: make(chan int, 1),
		inbox: recorder.NewInbox(recorder.NewMemory(o.memory, 1), o.config.Wait),
	}
	metrics := recorder.NewMetrics(d.registry)
	snapshots := recorder.NewSnapshots(d.source, d.source, 100, metrics)
	d.recorder = recorder.New(btcusdt, d.inbox, d.sink, snapshots, o.config, metrics, slog.New(slog.DiscardHandler))
	d.registry.MustRegister(recorder.NewCollector([]*recorder.Recorder{d.recorder}))
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	go func() { d.done <- d.recorder.Run(ctx) }()
	d.inbox.Connected(1)
	synctest.Wait()
	return d
}

// pass lets time pass.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// stop closes the inbox and returns how many frames could not be recorded.
func (d *deck) stop() int {
	d.inbox.Close()
	return <-d.done
}

// depth sends an update of the ids first to last at ms, with one bid of that quantity.
func (d *deck) depth(first, last int64, ms int) {
	d.frame(market.Depth, depthFrame("BTCUSDT", first, last, ms, "99.00000000"))
}

func depthFrame(symbol string, first, last int64, ms int, bid string) string {
	return fmt.Sprintf(`{"stream":"%s@depth@100ms","data":{"e":"depthUpdate","E":%d,"s":"%s","U":%d,"u":%d,"b":[["%s","%d.00000000"]],"a":[]}}`,
		strings.ToLower(symbol), millis(ms)/1e6, symbol, first, last, bid, last)
}

// trade sends a trade at ms.
func (d *deck) trade(id int64, ms int) {
	d.frame(market.Trades, fmt.Sprintf(
		`{"stream":"btcusdt@trade","data":{"e":"trade","E":%d,"s":"BTCUSDT","t":%d,"p":"100.00000000","q":"1.00000000","T":%d,"m":true,"M":true}}`,
		millis(ms)/1e6, id, millis(ms)/1e6))
}

// frame sends a frame and waits until it is handled.
func (d *deck) frame(stream market.Stream, text string) {
	d.inbox.Frame(d.t.Context(), stream, market.TimeOf(time.Now()), []byte(text))
	synctest.Wait()
}

// collect gathers the requests for snapshots that were made.
func (d *deck) collect() int {
	for {
		select {
		case a := <-d.source.asked:
			d.waiting = append(d.waiting, a)
		default:
			return len(d.waiting)
		}
	}
}

// answer answers the oldest request for a snapshot, which must be there.
func (d *deck) answer(id int64, ms int) {
	d.t.Helper()
	d.reply(answer{snapshot: snapshot(id, ms)})
}

func (d *deck) reply(a answer) {
	d.t.Helper()
	if d.collect() == 0 {
		d.t.Fatal("no snapshot was asked for")
	}
	d.waiting[0].answer <- a
	d.waiting = d.waiting[1:]
	synctest.Wait()
}

// answerNext waits for a request, however long it is put off, and answers it.
func (d *deck) answerNext(id int64, ms int) {
	d.t.Helper()
	d.waitForRequest()
	d.answer(id, ms)
}

// waitForRequest waits for a request for a snapshot, for a minute at most.
func (d *deck) waitForRequest() {
	for range 60 {
		if d.collect() > 0 {
			return
		}
		pass(time.Second)
	}
}

func snapshot(id int64, ms int) market.Snapshot {
	return market.Snapshot{
		LastID: id, EventTime: millis(ms), RecvTime: market.TimeOf(time.Now()),
		Bids: []market.Level{{Price: 99e8, Quantity: 1e8}, {Price: 98e8, Quantity: 1e8}},
		Asks: []market.Level{{Price: 101e8, Quantity: 1e8}, {Price: 103e8, Quantity: 1e8}},
	}
}

// empty is a snapshot without levels.
func empty(id int64) market.Snapshot {
	return market.Snapshot{LastID: id, EventTime: millis(50), RecvTime: market.TimeOf(time.Now())}
}

// want compares what was recorded with pairs of "kind stream" and description.
func (d *deck) want(pairs ...string) {
	d.t.Helper()
	for pair := range slices.Chunk(pairs, 2) {
		kind, stream, _ := strings.Cut(pair[0], " ")
		if got := d.sink.describe(kind, market.Stream(stream)); got != pair[1] {
			d.t.Errorf("%s: %q, want %q", pair[0], got, pair[1])
		}
	}
}

// wantState checks how the recorder says it stands.
func (d *deck) wantState(want market.MarketState) {
	d.t.Helper()
	if got := d.recorder.Status().State; got != want {
		d.t.Errorf("state %s, want %s", got, want)
	}
}

// events returns how many events of the stream had the result.
func (d *deck) events(stream market.Stream, result string) int {
	return d.metric("tapedeck_events_total", map[string]string{"stream": string(stream), "result": result})
}

// metric returns the sum of the samples that carry the labels.
func (d *deck) metric(name string, labels map[string]string) (sum int) {
	families, err := d.registry.Gather()
	if err != nil {
		d.t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.GetMetric() {
			matching := 0
			for _, pair := range m.GetLabel() {
				if labels[pair.GetName()] == pair.GetValue() {
					matching++
				}
			}
			if matching == len(labels) {
				sum += int(m.GetCounter().GetValue() + m.GetGauge().GetValue())
			}
		}
	}
	return sum
}

// rateLimited is the exchange's refusal to answer for a while.
func rateLimited(d time.Duration) error {
	return market.Errorf(market.KindUnavailable, "snapshot: %w", &binance.RateLimitError{RetryAfter: d})
}
