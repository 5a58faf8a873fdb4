package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"tapedeck/localstack/exchange"
	"tapedeck/shared/binance"
	"tapedeck/shared/market"
	"tapedeck/shared/sqlitestore"
	"tapedeck/shared/verify"
)

// buildIngester builds the program as it is shipped.
func buildIngester(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "ingester")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", binary, ".")
	if output, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, output)
	}
	return binary
}

// process is an ingester that runs on its own, so that it can be killed.
type process struct {
	cmd     *exec.Cmd
	opsURL  string        // known when started
	started chan struct{} // closed when it serves operators
	ended   chan struct{} // closed when its log ended
}

// launch starts a process, whose log is passed on to the test's where it warns.
func launch(t *testing.T, binary string, env []string) *process {
	t.Helper()
	p := &process{started: make(chan struct{}), ended: make(chan struct{})}
	p.cmd = exec.CommandContext(t.Context(), binary)
	p.cmd.Env = env
	stderr, err := p.cmd.StderrPipe()
	if err == nil {
		err = p.cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	go p.follow(t, stderr)
	return p
}

func (p *process) follow(t *testing.T, stderr io.Reader) {
	defer close(p.ended)
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		var entry struct{ Level, Address string }
		if err := json.Unmarshal(lines.Bytes(), &entry); err != nil || entry.Level == "ERROR" {
			t.Errorf("the ingester says: %s", lines.Text())
		}
		if entry.Address != "" {
			p.opsURL = "http://" + entry.Address
			close(p.started)
		}
	}
}

// end sends a signal and returns how the process ended.
func (p *process) end(t *testing.T, signal syscall.Signal) error {
	t.Helper()
	if err := p.cmd.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
	<-p.ended
	return p.cmd.Wait()
}

// TestKill kills an ingester at random moments with a signal that it cannot catch. What the store holds in the end is
// whole: no event twice, none torn, and what is missing, as nobody recorded, is in the ledger.
func TestKill(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	symbols := exchange.SymbolNames(3)
	source, err := exchange.NewSynthetic(exchange.SyntheticConfig{Symbols: symbols, Seed: 7, Levels: 200})
	server := startExchange(t, source, err, exchange.WithSpeed(3))
	binary, dir := buildIngester(t), t.TempDir()
	path := filepath.Join(dir, "tapedeck.db")
	env := append(os.Environ(),
		"EXCHANGE_WS_URL="+server.StreamURL(), "EXCHANGE_REST_URL="+server.URL(), "OPS_ADDR=127.0.0.1:0",
		"SYMBOLS="+strings.Join(symbols, ","), "SNAPSHOT_LIMIT=1000", "RECORDER_NAME=test", "FLUSH_INTERVAL=100ms",
		"SQLITE_PATH="+path, "SPOOL_DIR="+filepath.Join(dir, "spool"), "SPOOL_BYTES=64MiB", "KEYFRAME_BLOCKS=8",
	)
	for range 5 {
		p := launch(t, binary, env)
		<-p.started
		select {
		case <-time.After(time.Duration(random.Int64N(int64(2 * time.Second)))):
		case <-p.ended:
			t.Fatal("the ingester ended by itself")
		}
		p.end(t, syscall.SIGKILL)
	}
	p := launch(t, binary, env)
	<-p.started
	<-time.After(2 * time.Second)
	store := stopped(t, p, path)
	report, err := verify.Run(t.Context(), store, verify.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if !report.Holds() {
		text, _ := json.MarshalIndent(report, "", "  ")
		t.Errorf("what is stored does not hold: %s", text)
	}
	restarts := 0
	for _, m := range report.Markets {
		for _, s := range m.Streams {
			if s.Copies > 0 || s.Events == 0 {
				t.Errorf("%s %s: %d events, %d of them again", m.Market, s.Stream, s.Events, s.Copies)
			}
			for _, h := range s.Holes {
				if h.Cause != market.CauseRestart {
					t.Errorf("%s %s: holes of cause %s: %+v", m.Market, s.Stream, h.Cause, h.Listed)
				}
				restarts += h.Count
			}
		}
	}
	if restarts == 0 {
		t.Error("nothing is missing, though the ingester was down several times")
	}
}

// TestKillCostsTheLastMomentOnly kills an ingester that works as it does by default, and has books: what the exchange had
// sent a while before is stored.
func TestKillCostsTheLastMomentOnly(t *testing.T) {
	const while = 3 * time.Second // far more than is promised, as machines may be busy with other tests
	symbols := exchange.SymbolNames(5)
	source, err := exchange.NewSynthetic(exchange.SyntheticConfig{Symbols: symbols, Seed: 8, Levels: 200})
	server := startExchange(t, source, err, exchange.WithSpeed(.1)) // so slow that no later event ends a block
	binary, dir := buildIngester(t), t.TempDir()
	path := filepath.Join(dir, "tapedeck.db")
	env := append(os.Environ(),
		"EXCHANGE_WS_URL="+server.StreamURL(), "EXCHANGE_REST_URL="+server.URL(), "OPS_ADDR=127.0.0.1:0",
		"SYMBOLS="+strings.Join(symbols, ","), "SNAPSHOT_LIMIT=1000", "RECORDER_NAME=test",
		"SQLITE_PATH="+path, "SPOOL_DIR="+filepath.Join(dir, "spool"), "SPOOL_BYTES=64MiB",
	)
	p := launch(t, binary, env)
	<-p.started
	r := &running{t: t, opsURL: p.opsURL}
	r.until("books and events of all markets", func() bool {
		talking := r.metricBy("tapedeck_events_total", "market", "depth", "applied")
		maps.DeleteFunc(talking, func(_ string, events float64) bool { return events == 0 })
		return len(talking) == len(symbols) && r.ready()
	})
	sent := lastIDs(t, server, symbols)
	select {
	case <-time.After(while):
	case <-p.ended:
		t.Fatal("the ingester ended by itself")
	}
	p.end(t, syscall.SIGKILL)
	p = launch(t, binary, env) // writes what the first one left in the spool
	<-p.started
	store := stopped(t, p, path)
	for m, last := range sent {
		b, err := store.BlockByID(t.Context(), market.Series{Market: m, Stream: market.Depth}, last)
		if err != nil || b.PrevID >= last {
			t.Errorf("%v: update %d, sent %v before the kill, is not stored: the next block is %d to %d (%v)",
				m, last, while, b.FirstID, b.LastID, err)
		}
	}
}

// lastIDs returns the ids of the updates that the exchange sent last.
func lastIDs(t *testing.T, server *exchange.Server, symbols []string) map[market.Market]int64 {
	t.Helper()
	rest := binance.NewREST(server.URL(), nil, binance.NewBudget(nil))
	ids := make(map[market.Market]int64)
	for _, symbol := range symbols {
		m := market.Market{Exchange: market.Binance, Symbol: symbol}
		id, err := rest.LastUpdateID(t.Context(), m)
		if err != nil {
			t.Fatal(err)
		}
		ids[m] = id
	}
	return ids
}

// stopped ends an ingester in order, and returns what it stored.
func stopped(t *testing.T, p *process, path string) *sqlitestore.Store {
	t.Helper()
	if err := p.end(t, syscall.SIGTERM); err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}
	store, err := sqlitestore.Open(t.Context(), path, sqlitestore.ReadOnly)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return store
}
