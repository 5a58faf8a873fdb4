package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"math"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"tapedeck/ingester/internal/sink"
	"tapedeck/localstack/exchange"
	"tapedeck/shared/book"
	"tapedeck/shared/market"
	"tapedeck/shared/recording"
	"tapedeck/shared/sqlitestore"
	"tapedeck/shared/tape"
)

// running is an ingester at work against the exchange stand-in.
type running struct {
	t      testing.TB
	cfg    Config
	opsURL string
	cancel context.CancelFunc
	done   chan error
}

// addressLog passes on the address that the ingester logs.
type addressLog struct{ found chan string }

func (w addressLog) Write(line []byte) (int, error) {
	var entry struct{ Address string }
	if err := json.Unmarshal(line, &entry); err == nil && entry.Address != "" {
		w.found <- entry.Address
	}
	return len(line), nil
}

// startExchange starts the stand-in until the test ends.
func startExchange(t testing.TB, source exchange.Source, err error, opts ...exchange.Option) *exchange.Server {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	server := exchange.New(source, opts...)
	if err := server.Start("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close(context.Background()) })
	return server
}

// start starts an ingester whose environment has the given additions.
func start(t testing.TB, server *exchange.Server, env map[string]string) *running {
	t.Helper()
	values := map[string]string{
		"EXCHANGE_WS_URL": server.StreamURL(), "EXCHANGE_REST_URL": server.URL(), "OPS_ADDR": "127.0.0.1:0",
		"RECORDER_NAME": "test", "SYMBOLS": "BTCUSDT", "BACKPRESSURE": "true",
	}
	if env["SPOOL_DIR"] == "" {
		values["SPOOL_DIR"] = t.TempDir()
	}
	if env["MONGODB_URI"] == "" {
		values["SQLITE_PATH"] = filepath.Join(t.TempDir(), "tapedeck.db")
	}
	for name, value := range env {
		values[name] = value
	}
	r := &running{t: t, done: make(chan error, 1)}
	var err error
	if r.cfg, err = parseConfig(environment(values)); err != nil {
		t.Fatal(err)
	}
	address := addressLog{make(chan string, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	r.cancel = cancel
	go func() { r.done <- Run(ctx, &r.cfg, slog.New(slog.NewJSONHandler(address, nil))) }()
	select {
	case found := <-address.found:
		r.opsURL = "http://" + found
	case err := <-r.done:
		t.Fatalf("did not start: %v", err)
	}
	return r
}

// stop ends the ingester as a signal does, and returns what Run returned.
func (r *running) stop() error {
	r.cancel()
	return <-r.done
}

// get fetches a page for operators.
func (r *running) get(path string) (int, []byte) {
	r.t.Helper()
	reply, err := http.Get(r.opsURL + path)
	if err != nil {
		r.t.Fatal(err)
	}
	defer reply.Body.Close()
	body, err := io.ReadAll(reply.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return reply.StatusCode, body
}

// patience is how long until waits: far longer than anything takes, as machines may be busy with other tests.
const patience = 4 * time.Minute

// until polls until ok, or fails the test.
func (r *running) until(what string, ok func() bool) {
	r.t.Helper()
	deadline := time.After(patience)
	for !ok() {
		select {
		case <-time.After(50 * time.Millisecond):
		case err := <-r.done:
			r.t.Fatalf("ended while waiting for %s: %v", what, err)
		case <-deadline:
			_, body := r.get("/readyz")
			r.t.Fatalf("no %s within %v: %s", what, patience, body)
		}
	}
}

func (r *running) ready() bool {
	status, _ := r.get("/readyz")
	return status == http.StatusOK
}

// metric returns the sum of all samples of a metric.
func (r *running) metric(name string) (sum float64) {
	r.t.Helper()
	for _, v := range r.metricBy(name, "") {
		sum += v
	}
	return sum
}

// metricBy returns the sums of the samples of a metric for each value of a label. Samples must carry the values with.
func (r *running) metricBy(name, label string, with ...string) map[string]float64 {
	r.t.Helper()
	_, body := r.get("/metrics")
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	sums := map[string]float64{}
	for _, m := range families[name].GetMetric() {
		value, matching := "", 0
		for _, pair := range m.GetLabel() {
			if pair.GetName() == label {
				value = pair.GetValue()
			}
			if slices.Contains(with, pair.GetValue()) {
				matching++
			}
		}
		if matching < len(with) {
			continue
		}
		sums[value] += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
	}
	return sums
}

// stored is what a store holds of one market.
type stored struct {
	book    *book.Book
	updates int
	trades  int
	spans   []market.Span
	gaps    []market.Gap
	status  []market.RecorderStatus
	listed  []market.Listing
}

// open opens the store anew, for reading.
func (r *running) open() *sqlitestore.Store {
	r.t.Helper()
	s, err := sqlitestore.Open(r.t.Context(), r.cfg.Store.SQLitePath, sqlitestore.ReadOnly)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { s.Close(context.Background()) })
	return s
}

// read rebuilds the book of a market at the end of what is stored.
func read(t *testing.T, s *sqlitestore.Store, m market.Market) *stored {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ctx := t.Context()
	all := func(stream market.Stream) []market.Block {
		blocks, err := s.Blocks(ctx, market.BlockQuery{
			Series: market.Series{Market: m, Stream: stream}, To: math.MaxInt64, Limit: math.MaxInt32,
		})
		check(err)
		return blocks
	}
	out := &stored{book: book.New()}
	var decoder tape.Decoder
	depth := all(market.Depth)
	if len(depth) == 0 {
		t.Fatalf("nothing of %v is stored", m)
	}
	keyframe, err := s.Keyframe(ctx, m, depth[0].Start)
	check(err)
	bids, asks, err := decoder.Book(keyframe.Data)
	check(err)
	out.book.Reset(keyframe.UpdateID, bids, asks)
	for _, b := range depth {
		updates, err := decoder.Depth(b.Data)
		check(err)
		for i := range updates {
			if out.book.Apply(&updates[i]) == book.Applied {
				out.updates++
			}
		}
	}
	for _, b := range all(market.Trades) {
		trades, err := decoder.Trades(b.Data)
		check(err)
		out.trades += len(trades)
	}
	out.spans, err = s.Spans(ctx, market.Series{Market: m, Stream: market.Depth}, 0, math.MaxInt64, 100)
	check(err)
	out.gaps, err = s.Gaps(ctx, market.GapQuery{Market: m, To: math.MaxInt64, Limit: 100})
	check(err)
	out.status, err = s.Recorders(ctx)
	check(err)
	out.listed, err = s.Listings(ctx)
	check(err)
	return out
}

var btcusdt = market.Market{Exchange: market.Binance, Symbol: "BTCUSDT"}

// TestReplay records both bundled recordings as fast as they go and stops at their end, when much is still under way.
func TestReplay(t *testing.T) {
	source, err := exchange.NewReplay(recording.Bundled()...)
	server := startExchange(t, source, err, exchange.WithStartStreams("btcusdt@depth@100ms", "btcusdt@trade", "btcusdt@bookTicker"))
	r := start(t, server, map[string]string{"WITNESS": "true", "QUEUE_BYTES": "256KiB", "SPOOL_BYTES": "4MiB", "SPOOL_BUFFER_BYTES": "1MiB"})
	<-server.Done()
	r.until("market in sync", r.ready)
	r.until("last frame", func() bool {
		return int64(r.metric("tapedeck_frames_total")) == server.Progress().Frames
	})
	for _, name := range []string{
		"tapedeck_frames_total", "tapedeck_frame_bytes_total", "tapedeck_events_total", "tapedeck_event_receive_lag_seconds",
		"tapedeck_receive_record_lag_seconds", "tapedeck_receive_store_lag_seconds", "tapedeck_book_levels", "tapedeck_best_bid",
		"tapedeck_best_ask", "tapedeck_connects_total", "tapedeck_snapshot_requests_total", "tapedeck_store_write_seconds",
		"tapedeck_records_written_total", "tapedeck_build_info", "tapedeck_store_writable", "tapedeck_market_synced",
	} {
		if r.metric(name) == 0 {
			t.Errorf("the metric %s is not there, or 0", name)
		}
	}
	for _, name := range []string{"tapedeck_gaps_total", "tapedeck_frames_dropped_total", "tapedeck_records_dropped_total", "tapedeck_reconnects_total"} {
		if v := r.metric(name); v != 0 {
			t.Errorf("the metric %s is %v", name, v)
		}
	}
	idle, err := net.Dial("tcp", strings.TrimPrefix(r.opsURL, "http://")) // who says nothing is no reason to fail
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	got := read(t, r.open(), btcusdt)
	if got.updates != 6493 || got.trades != 19904 || got.book.LastID() != 50093696318 || got.book.Digest(1000) != "a64978904a861c8d" {
		t.Errorf("stored: %d updates up to %d, digest %s, %d trades", got.updates, got.book.LastID(), got.book.Digest(1000), got.trades)
	}
	if len(got.spans) != 1 || len(got.gaps) != 0 {
		t.Errorf("spans %+v, gaps %+v", got.spans, got.gaps)
	}
	if len(got.status) != 1 || !got.status[0].Stopped || got.status[0].Markets[0].LastUpdateID != 50093696318 {
		t.Errorf("status %+v", got.status)
	}
	if len(got.listed) != 1 || got.listed[0].Market != btcusdt {
		t.Errorf("listings %+v", got.listed)
	}
}

// TestCutConnections cuts every socket while markets are busy: the ingester is back within five seconds, and what the
// store holds in the end is the exchange's own book, with each hole in the ledger.
func TestCutConnections(t *testing.T) {
	symbols := exchange.SymbolNames(4)
	source, err := exchange.NewSynthetic(exchange.SyntheticConfig{Symbols: symbols, Seed: 1, Levels: 200})
	server := startExchange(t, source, err, exchange.WithSpeed(2))
	r := start(t, server, map[string]string{
		"SYMBOLS": strings.Join(symbols, ","), "STREAMS_PER_CONNECTION": "4", "SNAPSHOT_LIMIT": "1000", "FLUSH_INTERVAL": "50ms",
	})
	r.until("start", r.ready)
	for range 2 {
		before := r.metric("tapedeck_reconnects_total")
		if cut := server.CutConnections(); cut != 2 {
			t.Fatalf("%d connections cut, want 2 for 8 streams", cut)
		}
		r.until("notice of the cut", func() bool { return r.metric("tapedeck_reconnects_total") == before+2 })
		r.until("reconnect", r.ready)
	}
	if got := r.metric("tapedeck_reconnects_total"); got != 4 {
		t.Errorf("%v reconnects counted, want 4", got)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	store := r.open()
	for _, symbol := range symbols {
		m := market.Market{Exchange: market.Binance, Symbol: symbol}
		got := read(t, store, m)
		for _, g := range got.gaps {
			if g.Cause != market.CauseDisconnect || g.RepairedAt == 0 {
				t.Errorf("%s: gap %+v", symbol, g)
			}
		}
		for i, span := range got.spans[1:] { // each hole between two spans is in the ledger
			missing := got.spans[i].LastID + 1
			for _, g := range got.gaps { // by time, and hence by id
				if g.Series.Stream == market.Depth && g.FirstID == missing {
					missing = g.LastID + 1
				}
			}
			if missing <= span.PrevID {
				t.Errorf("%s: of the hole from %d to %d, %d is in no ledger entry: %+v", symbol, got.spans[i].LastID, span.FirstID, missing, got.gaps)
			}
		}
	}
}

// TestManyMarkets records 200 markets over several connections, with most streams subscribed by messages.
func TestManyMarkets(t *testing.T) {
	symbols := exchange.SymbolNames(200)
	var streams []string
	for _, s := range symbols {
		streams = append(streams, strings.ToLower(s)+"@depth@100ms", strings.ToLower(s)+"@trade")
	}
	source, err := exchange.NewSynthetic(exchange.SyntheticConfig{Symbols: symbols, Seed: 2, Levels: 100, Busy: 10})
	server := startExchange(t, source, err, exchange.WithSpeed(2), exchange.WithStartStreams(streams...))
	r := start(t, server, map[string]string{
		"SYMBOLS": strings.Join(symbols, ","), "STREAMS_PER_CONNECTION": "250", "SNAPSHOT_LIMIT": "100",
	})
	recorded := map[string]bool{} // a quiet market may show nothing new for half a minute
	r.until("sync of all markets and updates of most", func() bool {
		for name, updates := range r.metricBy("tapedeck_events_total", "market", "applied") {
			recorded[name] = updates > 0
		}
		maps.DeleteFunc(recorded, func(_ string, some bool) bool { return !some })
		return len(recorded) >= 120 && r.metric("tapedeck_market_synced") == 200
	})
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	store := r.open()
	for _, symbol := range symbols {
		m := market.Market{Exchange: market.Binance, Symbol: symbol}
		if !recorded[m.String()] {
			continue
		}
		got := read(t, store, m)
		i := slices.IndexFunc(got.status[0].Markets, func(s market.MarketStatus) bool { return s.Market == m })
		if last := got.status[0].Markets[i].LastUpdateID; got.book.LastID() != last || len(got.gaps) != 0 || len(got.spans) != 1 {
			t.Errorf("%s: stored up to %d of %d; gaps %+v; spans %+v", symbol, got.book.LastID(), last, got.gaps, got.spans)
		}
	}
}

// TestStoreIsNotThere starts against a MongoDB that does not answer: the ingester lives, records, says so, and leaves in
// the spool what it could not write, all of it, in time; the next one, which has a store, writes it.
func TestStoreIsNotThere(t *testing.T) {
	symbols := exchange.SymbolNames(1)
	source, err := exchange.NewSynthetic(exchange.SyntheticConfig{Symbols: symbols, Seed: 3, Levels: 100})
	server := startExchange(t, source, err, exchange.WithSpeed(5))
	dir := t.TempDir()
	r := start(t, server, map[string]string{
		"SYMBOLS": symbols[0], "MONGODB_URI": "mongodb://u:hunter2@127.0.0.1:1/?serverSelectionTimeoutMS=200", "SHUTDOWN_TIMEOUT": "1s",
		"SPOOL_DIR": dir,
	})
	r.until("book", func() bool { return r.metric("tapedeck_market_synced") == 1 })
	events := func() bool {
		return r.metricBy("tapedeck_events_total", "result", "depth")["applied"] > 20 &&
			r.metricBy("tapedeck_events_total", "result", "trades")["recorded"] > 0
	}
	r.until("events", events)
	r.until("records in the spool", func() bool { return r.metric("tapedeck_spool_records") > 3 })
	status, body := r.get("/readyz")
	if status != http.StatusServiceUnavailable || !strings.Contains(string(body), `"component":"store"`) || strings.Contains(string(body), "hunter2") {
		t.Errorf("/readyz: %d %s", status, body)
	}
	if status, _ := r.get("/healthz"); status != http.StatusOK {
		t.Errorf("/healthz: %d", status)
	}
	begin := time.Now()
	if err := r.stop(); err != nil {
		t.Errorf("Run() = %v", err)
	}
	if took := time.Since(begin); took > 20*time.Second { // of 1 s that is configured: far less than until patience ends
		t.Errorf("the stop took %v", took)
	}
	m := market.Market{Exchange: market.Binance, Symbol: symbols[0]}
	spooledToTheEnd(t, dir, m)

	r = start(t, server, map[string]string{"SYMBOLS": symbols[0], "SPOOL_DIR": dir})
	r.until("events", events)
	r.until("written spool", func() bool { return r.ready() && r.metric("tapedeck_spool_records") == 0 })
	if err := r.stop(); err != nil {
		t.Errorf("Run() = %v", err)
	}
	got := read(t, r.open(), m)
	if len(got.spans) != 2 || len(got.gaps) == 0 {
		t.Errorf("stored of two processes: spans %+v, gaps %+v", got.spans, got.gaps)
	}
	for _, g := range got.gaps {
		if g.Cause != market.CauseRestart || g.RepairedAt == 0 {
			t.Errorf("gap %+v", g)
		}
	}
}

// spooledToTheEnd checks that a spool which a stopped ingester left holds everything up to the last event that it saw.
func spooledToTheEnd(t *testing.T, dir string, m market.Market) {
	t.Helper()
	aside := filepath.Join(t.TempDir(), "spool")
	if err := os.CopyFS(aside, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	cfg, err := parseConfig(environment(map[string]string{
		"SYMBOLS": m.Symbol, "SQLITE_PATH": filepath.Join(t.TempDir(), "tapedeck.db"), "SPOOL_DIR": aside,
	}))
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	queue, err := openSpool(&cfg, log)
	if err != nil {
		t.Fatal(err)
	}
	defer queue.Close()
	store, err := openStore(t.Context(), &cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close(context.Background())
	records, err := sink.New(store, queue, sinkConfig(&cfg), sink.NewMetrics(prometheus.NewRegistry()), log)
	if err != nil {
		t.Fatal(err)
	}
	records.Close(t.Context())
	records.Run(t.Context())
	said, err := store.(*sqlitestore.Store).Recorders(t.Context())
	if err != nil || len(said) != 1 || !said[0].Stopped {
		t.Fatalf("what the recorder said last: %+v, %v", said, err)
	}
	for stream, last := range map[market.Stream]int64{
		market.Depth: said[0].Markets[0].LastUpdateID, market.Trades: said[0].Markets[0].LastTradeID,
	} {
		tail, err := store.Tail(t.Context(), market.Series{Market: m, Stream: stream})
		if err != nil || tail.LastID != last || last == 0 {
			t.Errorf("the spool holds %s up to %d (%v), and %d was recorded", stream, tail.LastID, err, last)
		}
	}
}

// TestStoreComesLater starts where SQLite has no place to write to yet: what is recorded waits in the spool until it has.
func TestStoreComesLater(t *testing.T) {
	symbols := exchange.SymbolNames(1)
	source, err := exchange.NewSynthetic(exchange.SyntheticConfig{Symbols: symbols, Seed: 3, Levels: 100})
	server := startExchange(t, source, err, exchange.WithSpeed(5))
	dir := filepath.Join(t.TempDir(), "volume")
	r := start(t, server, map[string]string{"SYMBOLS": symbols[0], "SQLITE_PATH": filepath.Join(dir, "tapedeck.db")})
	r.until("records in the spool", func() bool { return r.metric("tapedeck_spool_records") > 3 })
	if status, body := r.get("/readyz"); status != http.StatusServiceUnavailable || !strings.Contains(string(body), `"component":"store"`) {
		t.Errorf("/readyz: %d %s", status, body)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	r.until("written spool", func() bool { return r.ready() && r.metric("tapedeck_spool_records") == 0 })
	if err := r.stop(); err != nil {
		t.Errorf("Run() = %v", err)
	}
	got := read(t, r.open(), market.Market{Exchange: market.Binance, Symbol: symbols[0]})
	if len(got.spans) == 0 || len(got.gaps) != 0 {
		t.Errorf("stored: spans %+v, gaps %+v", got.spans, got.gaps)
	}
}

// TestSpoolIsTaken starts a second ingester on the spool of a running one: it gives up before it connects to anything.
func TestSpoolIsTaken(t *testing.T) {
	source, err := exchange.NewSynthetic(exchange.SyntheticConfig{Symbols: exchange.SymbolNames(1), Seed: 5, Levels: 100})
	server := startExchange(t, source, err, exchange.WithSpeed(1))
	r := start(t, server, map[string]string{"SYMBOLS": exchange.SymbolNames(1)[0]})
	second := r.cfg
	second.Store.SQLitePath = filepath.Join(t.TempDir(), "second.db")
	err = Run(t.Context(), &second, slog.New(slog.DiscardHandler))
	if market.KindOf(err) != market.KindUnavailable || !strings.Contains(err.Error(), second.Spool.Dir) {
		t.Errorf("the second Run() = %v", err)
	}
	if _, err := os.Stat(second.Store.SQLitePath); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the second one opened its store: %v", err)
	}
	if err := r.stop(); err != nil {
		t.Errorf("the first Run() = %v", err)
	}
}

func TestStartFails(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"store that is none":            func(c *Config) { c.Store.SQLitePath = "run_test.go" },
		"address that cannot be served": func(c *Config) { c.OpsAddr = "256.0.0.1:8000" },
		"spool where a file is":         func(c *Config) { c.Spool.Dir = "run_test.go" },
	} {
		t.Run(name, func(t *testing.T) {
			cfg, err := parseConfig(environment(map[string]string{
				"SYMBOLS": "BTCUSDT", "SQLITE_PATH": filepath.Join(t.TempDir(), "tapedeck.db"), "SPOOL_DIR": t.TempDir(),
			}))
			if err != nil {
				t.Fatal(err)
			}
			change(&cfg)
			if err := Run(t.Context(), &cfg, slog.New(slog.DiscardHandler)); err == nil {
				t.Error("no error")
			}
		})
	}
}

// TestRestart stops an ingester and starts another: what the exchange showed in between is in the ledger.
func TestRestart(t *testing.T) {
	const missed = 500 // ids, which is several updates
	symbols := exchange.SymbolNames(1)
	dir := t.TempDir()
	path := filepath.Join(dir, "tapedeck.db")
	source, err := exchange.NewSynthetic(exchange.SyntheticConfig{Symbols: symbols, Seed: 4, Levels: 100})
	server := startExchange(t, source, err, exchange.WithSpeed(5))
	m := market.Market{Exchange: market.Binance, Symbol: symbols[0]}
	var r *running
	for n := range 2 {
		for last := lastIDs(t, server, symbols)[m]; n > 0 && lastIDs(t, server, symbols)[m] < last+missed; {
			<-time.After(time.Millisecond)
		}
		r = start(t, server, map[string]string{"SYMBOLS": symbols[0], "SQLITE_PATH": path, "SPOOL_DIR": dir, "SNAPSHOT_LIMIT": "1000"})
		r.until("ready", r.ready)
		r.until("some events", func() bool { return r.metric("tapedeck_events_total") > 100 })
		if err := r.stop(); err != nil {
			t.Fatal(err)
		}
	}
	got := read(t, r.open(), m)
	for _, g := range got.gaps {
		if g.Cause != market.CauseRestart || g.RepairedAt == 0 {
			t.Errorf("gap %+v", g)
		}
	}
	depthGaps := slices.DeleteFunc(slices.Clone(got.gaps), func(g market.Gap) bool { return g.Series.Stream != market.Depth })
	if len(depthGaps) != 1 || len(got.spans) != 2 || depthGaps[0].FirstID != got.spans[0].LastID+1 {
		t.Errorf("gaps %+v, spans %+v", depthGaps, got.spans)
	}
}
