package storm

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tapedeck/localstack/exchange"
	"tapedeck/localstack/faults"
	"tapedeck/localstack/internal/child"
	"tapedeck/shared/market"
	"tapedeck/shared/mongostore/mongotest"
	"tapedeck/shared/verify"
)

var (
	duration = flag.Duration("duration", 0, "how long a test lasts, instead of some seconds")
	seedFlag = flag.Uint64("seed", 0, "the seed of what is random; 0 = three seeds, or a random one with -duration")
	keep     = flag.Bool("keep", false, "keep the folder of a test also when nothing was found")
)

const (
	// shelter is how long all is well before the first fault.
	shelter = 2 * time.Second
	// sheltered is for how long events are certainly recorded: a fault may strike what was made a little earlier.
	sheltered = time.Second
	// clearing bounds the time that the ingester may take to recover when all faults are over.
	clearing = 2 * time.Minute
	// fast is how fast the made-up markets are as a rule, 1 being as a busy market really is.
	fast = 10

	// day is longer than what passes in a trial on the exchange's clock.
	day = 24 * time.Hour

	stopTimeout = 30 * time.Second

	// questions is about how many books of each market the API is asked for.
	questions       = 100
	eventsPerSecond = 10 // depth updates of a busy market

	// mostMissing is which share of events a storm may cost.
	mostMissing = 0.5

	// Bounds of one ingester with a few markets. What it holds is bounded by configuration; see docs/design.md.
	mostMemory     = 512 << 20
	mostGoroutines = 500
)

// plan says what a trial is made of.
type plan struct {
	seed    uint64
	length  time.Duration
	markets int
	script  faults.Script     // of the exchange and the store; counted from when all is well for the first time
	env     []string          // of the ingester, beside what every trial has
	mongo   *mongotest.Server // where to record; nil = in a SQLite file
	// during runs while the trial lasts; ctx ends after length. What it does wrong is over when it returns, or soon will be.
	// nil: nothing but the script.
	during   func(ctx context.Context, t *trial)
	lossless bool // nothing at all may be missing
	violent  bool // it has faults, and kills of the ingester

	speed    float64       // of the markets; 0 = fast
	weight   int           // of requests that the exchange admits in a minute; 0 = as many as the real one
	sunshine time.Duration // for how long all is well before the end; 0 = 3 s
}

// trial is one run: a stand-in for the exchange, an ingester that may be killed and started again, and a store. In the
// end what is held is compared with what happened.
type trial struct {
	*testing.T
	plan
	dir     string
	symbols []string
	dice    *rand.Rand

	store    store
	exchange *exchange.Server
	books    map[string]market.Snapshot // with which the markets began
	truth    *truth
	receipts *receipts
	weather  *weather
	launcher launcher
	process  *process
	lives    []life
	told     map[string]*told // by symbol
	counts   counts
	stats    exchange.Stats // of the ingester's manners

	watched atomic.Pointer[process]
	high    metrics // the greatest values seen of each metric
	samples []sampled
}

// run runs a trial.
func (p plan) run(t *testing.T) *trial {
	p.speed = cmp.Or(p.speed, fast)
	s := &trial{
		T: t, plan: p, symbols: exchange.SymbolNames(p.markets),
		dice: rand.New(rand.NewPCG(p.seed, 1)), high: metrics{}, told: map[string]*told{},
		receipts: &receipts{series: map[market.Series][]receipt{}},
	}
	var err error
	if s.dir, err = os.MkdirTemp("", "tapedeck-storm-"); err != nil { //nolint:usetesting // t.TempDir cannot be kept
		t.Fatal(err)
	}
	test, _, _ := strings.Cut(t.Name(), "/")
	t.Cleanup(func() {
		switch {
		case t.Failed():
			t.Logf("to repeat it: go test -run '^%s$' -timeout 2h ./localstack/storm -args -seed %d -duration %v\n"+
				"its folder: %s (weather.log, script.txt, ingester.log, truth, store, spool)", test, p.seed, p.length, s.dir)
		case *keep:
			t.Logf("its folder: %s", s.dir)
		default:
			_ = os.RemoveAll(s.dir)
		}
	})
	t.Logf("seed %d, %d markets, %v", p.seed, p.markets, p.length)
	if _, err := binaries(); err != nil {
		t.Fatal(err)
	}
	if s.weather, err = newWeather(filepath.Join(s.dir, "weather.log")); err != nil {
		t.Fatal(err)
	}
	if p.mongo != nil {
		s.store = newMongoServer(s, p.mongo)
	} else {
		s.store = sqliteFile{filepath.Join(s.dir, "tapedeck.db")}
	}
	s.act()
	s.verify()
	return s
}

// act runs the exchange and the ingester until all is over and held.
func (s *trial) act() {
	s.startExchange()
	starter := child.NewStarter()
	s.Cleanup(starter.Stop)
	s.startIngester(starter)
	stop := s.watch()
	defer stop()

	s.awaitReady("no fault has begun")
	s.weather.begun = time.Now()
	var injecting sync.WaitGroup
	defer injecting.Wait()
	ctx, cancel := context.WithCancel(s.Context())
	defer cancel()
	injecting.Go(func() { s.inject(ctx, faults.SideExchange, s.exchange.Inject) })
	if m, ok := s.store.(*mongoServer); ok {
		injecting.Go(func() { s.inject(ctx, faults.SideStore, m.proxy.Inject) })
	}
	timed, stopTime := context.WithTimeout(ctx, s.length)
	defer stopTime()
	if s.during != nil {
		s.during(timed, s)
	}
	s.wait(timed, s.length)
	injecting.Wait()
	s.wait(ctx, time.Until(s.weather.calm))
	s.weather.note("all faults are over")

	s.awaitReady("all faults are over")
	lasts, err := s.truth.lastIDs()
	if err != nil {
		s.Fatal(err)
	}
	s.wait(s.Context(), cmp.Or(s.sunshine, 3*time.Second))
	stop()
	if err := s.process.terminate(stopTimeout + 5*time.Second); err != nil {
		s.Errorf("the ingester ended with %v", err)
	}
	l := s.live()
	l.last = true
	s.stats = s.exchange.Stats()
	if err := s.truth.seal(); err != nil {
		s.Fatal(err)
	}
	if s.violent {
		s.violence()
	}
	s.judge(lasts)
	s.manners()
}

// violence looks whether the trial was one.
func (s *trial) violence() {
	planned := len(s.script.On(faults.SideExchange).Faults)
	if s.mongo != nil {
		planned = len(s.script.Faults)
	}
	if s.weather.injected < planned {
		s.Errorf("of %d faults of the script %d were injected", planned, s.weather.injected)
	}
	if !slices.ContainsFunc(s.lives, func(l life) bool { return l.killed }) {
		s.Error("the ingester was never killed")
	}
}

// awaitReady waits until the ingester says that all is well.
func (s *trial) awaitReady(although string) {
	problem := ""
	well := poll(s.Context(), clearing, func() bool {
		var ok bool
		ok, problem = s.process.ready(s.Context())
		return ok || s.process.ended()
	})
	if s.process.ended() {
		s.Fatalf("the ingester ended by itself: %v", s.process.err)
	}
	if !well {
		s.Fatalf("%s, and the ingester is not well after %v: %s", although, clearing, problem)
	}
	s.weather.note("all is well")
}

// inject carries out one side of the script to its end: on a busy machine a storm is longer, not gentler. What finds no
// connection to strike waits for one.
func (s *trial) inject(ctx context.Context, side faults.Side, do func(faults.Fault) error) {
	var waiting sync.WaitGroup
	defer waiting.Wait()
	faults.Run(ctx, s.script.On(side).Plan(), func(f faults.Fault) {
		err := do(f)
		if market.KindOf(err) != market.KindNotFound {
			s.weather.fault(f, err)
			return
		}
		waiting.Go(func() {
			deadline := time.Now().Add(clearing)
			for market.KindOf(err) == market.KindNotFound && time.Now().Before(deadline) && pause(ctx, 20*time.Millisecond) {
				err = do(f)
			}
			s.weather.fault(f, err)
		})
	})
}

// startExchange starts the markets.
func (s *trial) startExchange() {
	var err error
	if s.truth, err = newTruth(filepath.Join(s.dir, "truth")); err != nil {
		s.Fatal(err)
	}
	source, err := exchange.NewSynthetic(exchange.SyntheticConfig{
		Symbols: s.symbols, Seed: s.seed, Levels: 400, Busy: 2,
		Start: market.TimeOf(time.Now().Add(-day)), // what is long ago is not fetched again, and nothing is of the future
	})
	if err != nil {
		s.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.dir, "script.txt"), []byte(s.script.String()), 0o600); err != nil {
		s.Fatal(err)
	}
	s.exchange = exchange.New(source, exchange.WithWeightLimit(cmp.Or(s.weight, 6000)),
		exchange.WithSpeed(s.speed), exchange.WithObserver(s.truth.observe), exchange.WithReceipts(s.receipts.note),
		exchange.WithPings(pingInterval, time.Minute))
	s.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(s.Context()), 10*time.Second)
		defer cancel()
		if err := s.exchange.Close(ctx); err != nil {
			s.Errorf("close the exchange stand-in: %v", err)
		}
	})
	s.books = map[string]market.Snapshot{}
	for _, symbol := range s.symbols {
		if s.books[symbol], err = s.exchange.Book(symbol); err != nil {
			s.Fatal(err)
		}
	}
	if err := s.exchange.Start("127.0.0.1:0"); err != nil {
		s.Fatal(err)
	}
}

// startIngester builds and starts the ingester, and waits until it is well.
func (s *trial) startIngester(starter *child.Starter) {
	folder, err := binaries()
	if err != nil {
		s.Fatal(err)
	}
	log, err := os.Create(filepath.Join(s.dir, "ingester.log"))
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { log.Close() })
	s.launcher = launcher{starter: starter, binary: filepath.Join(folder, "ingester"), log: log, env: append([]string{
		"SYMBOLS=" + strings.Join(s.symbols, ","),
		"EXCHANGE_WS_URL=" + s.exchange.StreamURL(), "EXCHANGE_REST_URL=" + s.exchange.URL(),
		"OPS_ADDR=127.0.0.1:0", "RECORDER_NAME=storm", "LOG_LEVEL=info", "SPOOL_DIR=" + filepath.Join(s.dir, "spool"),
		"KEYFRAME_BLOCKS=32", "SNAPSHOT_LIMIT=1000", "SHUTDOWN_TIMEOUT=" + stopTimeout.String(),
	}, slices.Concat(s.env, variables(s.store.environment(true)))...)}
	if err := s.start(); err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() {
		if s.process != nil && !s.process.ended() {
			s.process.kill()
		}
	})
}

// variables returns an environment as programs are given it.
func variables(environment map[string]string) (list []string) {
	for name, value := range environment {
		list = append(list, name+"="+value)
	}
	return list
}

// start starts the ingester, as whoever supervises it does: again when it ends at once, because the store's file is locked.
func (s *trial) start() (err error) {
	var from time.Time
	for deadline := time.Now().Add(clearing); ; {
		s.exchange.ForgetRetryAfter() // nobody told this process
		from = time.Now()
		if s.process, err = s.launcher.start(s.Context()); err == nil {
			break
		}
		s.weather.note("the ingester does not start: %v", err)
		if time.Now().After(deadline) || !pause(s.Context(), time.Second) {
			return err
		}
	}
	s.watched.Store(s.process)
	s.lives = append(s.lives, life{from: from})
	s.weather.note("the ingester is started, %s", s.process.ops)
	return nil
}

// live notes the end of the ingester, and returns what is known of its life.
func (s *trial) live() *life {
	l := &s.lives[len(s.lives)-1]
	l.to = time.Now()
	return l
}

// wait waits for d. It returns true when ctx has ended before, and fails the test when the ingester has.
func (s *trial) wait(ctx context.Context, d time.Duration) (over bool) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	exited := s.process.exited
	if s.process.ended() {
		exited = nil
	}
	select {
	case <-timer.C:
		return false
	case <-ctx.Done():
		return true
	case <-exited:
		s.Fatalf("the ingester ended by itself: %v", s.process.err)
		return true
	}
}

// watch looks at the ingester's metrics, and at the machine, until stop is called.
func (s *trial) watch() (stop func()) {
	ctx, cancel := context.WithCancel(s.Context())
	var watching sync.WaitGroup
	watching.Go(func() { s.weather.keepTime(ctx) })
	watching.Go(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			s.look(ctx)
		}
	})
	return sync.OnceFunc(func() { cancel(); watching.Wait() })
}

// look takes down the greatest values of all metrics.
func (s *trial) look(ctx context.Context) {
	seen, err := s.watched.Load().metrics(ctx)
	if err != nil {
		return // it is being killed
	}
	for name, value := range seen {
		s.high[name] = max(s.high[name], value)
	}
	s.samples = append(s.samples, sampled{
		time.Since(s.weather.start), seen["process_resident_memory_bytes"], seen["go_memstats_heap_inuse_bytes"], seen["go_goroutines"],
	})
}

// judge compares what is held with the truth.
func (s *trial) judge(lasts map[market.Series]int64) {
	store, err := s.store.open(s.Context())
	if err != nil {
		s.Fatal(err)
	}
	defer store.Close(s.Context())
	j := &judge{
		t: s.T, store: store, truth: s.truth, weather: s.weather, receipts: s.receipts, lives: s.lives, books: s.books,
		inREST: s.inREST,
	}
	a := startAPI(s.T, s.store.environment(false))
	a.judge, a.dice = j, s.dice
	a.every = max(1, int(s.length.Seconds()*s.speed*eventsPerSecond/questions))
	j.asked = a.ask
	if err := j.judge(s.symbols, lasts); err != nil {
		s.Fatal(err)
	}
	s.counts = j.counts
	if c := &j.counts; s.violent && float64(c.Missing) > mostMissing*float64(c.Made) {
		s.Errorf("%d of %d events are missing", c.Missing, c.Made)
	}
	if s.lossless && (j.counts.Missing > 0 || len(j.counts.Entries) > 0 || j.counts.Unknown > 0) {
		s.Errorf("nothing was to be missing; entries of the ledger: %v", j.counts.Entries)
	}
	for i, problem := range j.problems {
		if i == allow {
			s.Errorf("and %d more problems", len(j.problems)-allow)
			break
		}
		s.Error(problem)
	}
	s.Logf("judged: %+v, over %d lives of the ingester; at most %.0f MiB and %.0f goroutines", j.counts, len(s.lives),
		s.high["process_resident_memory_bytes"]/(1<<20), s.high["go_goroutines"])
	if s.high["process_resident_memory_bytes"] > mostMemory || s.high["go_goroutines"] > mostGoroutines {
		s.Errorf("the ingester had %.0f MiB and %.0f goroutines", s.high["process_resident_memory_bytes"]/(1<<20), s.high["go_goroutines"])
	}
}

// told is what the exchange told of the trades of a market: which there are from first to last.
type told struct {
	first, last int64
	ids         map[int64]bool
}

// inREST asks the exchange for a trade, and for those behind it at once.
func (s *trial) inREST(symbol string, id int64) (bool, error) {
	if known := s.told[symbol]; known != nil && known.first <= id && id <= known.last {
		return known.ids[id], nil
	}
	const limit = 1000
	address := fmt.Sprintf("%s/api/v3/historicalTrades?symbol=%s&fromId=%d&limit=%d", s.exchange.URL(), symbol, id, limit)
	var trades []struct{ ID int64 }
	for {
		status, body, err := get(s.Context(), address)
		if err != nil {
			return false, err
		}
		if status == http.StatusOK {
			if err := json.Unmarshal(body, &trades); err != nil {
				return false, fmt.Errorf("historicalTrades: %w: %s", err, body)
			}
			break
		}
		if s.wait(s.Context(), 5*time.Second) { // the ingester has used the minute's weight
			return false, s.Context().Err()
		}
	}
	now := &told{first: id, last: math.MaxInt64, ids: map[int64]bool{}}
	for _, t := range trades {
		now.ids[t.ID] = true
	}
	if len(trades) == limit {
		now.last = trades[limit-1].ID
	}
	s.told[symbol] = now
	return now.ids[id], nil
}

// manners looks at how the ingester kept the exchange's limits.
func (s *trial) manners() {
	stats := s.stats
	s.Logf("the exchange saw: %+v", stats)
	if stats.ConnectsRefused+stats.StreamLimitCuts+stats.MessageLimitCuts+stats.WeightLimitReplies+stats.Bans > 0 {
		s.Errorf("limits of the exchange were exceeded: %+v", stats)
	}
	if stats.IgnoredRetryAfter > 0 {
		s.Errorf("%d requests came before the Retry-After was over", stats.IgnoredRetryAfter)
	}
	if slow := s.exchange.Progress().SlowClients; slow > 0 {
		s.Errorf("%d connections were cut because the ingester read too slowly: the machine is too busy for this test", slow)
	}
}

// verify has the project's own verifier look at the store.
func (s *trial) verify() {
	folder, err := binaries()
	if err != nil {
		s.Fatal(err)
	}
	cmd := exec.CommandContext(s.Context(), filepath.Join(folder, "tapedeck-verify"), "-json")
	cmd.Env = append(os.Environ(), variables(s.store.environment(false))...)
	output, err := cmd.Output()
	failed, _ := errors.AsType[*exec.ExitError](err)
	if err != nil && failed == nil {
		s.Fatal(err)
	}
	var report verify.Report
	if err := json.Unmarshal(output, &report); err != nil {
		s.Fatalf("tapedeck-verify: %v: %s", err, failed.Stderr)
	}
	for _, m := range report.Markets {
		for _, stream := range m.Streams {
			for _, problem := range stream.Problems {
				s.Errorf("tapedeck-verify, %s %s: %d %s: %+v", m.Market, stream.Stream, problem.Count, problem.Code, problem.Listed)
			}
		}
	}
	if (failed == nil) != report.Holds() || !report.Complete {
		s.Errorf("tapedeck-verify ended with %v; complete: %v; %d problems", err, report.Complete, report.Problems)
	}
}

// sampled is how big the ingester was at a time.
type sampled struct {
	at                         time.Duration // since the start
	resident, heap, goroutines float64
}
