package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"tapedeck/shared/book"
	"tapedeck/shared/market"
	"tapedeck/shared/mongostore/mongotest"
	"tapedeck/shared/recording/witness"
)

// startTimeout bounds a start, of which the first builds everything.
const startTimeout = 5 * time.Minute

// running is a devstack under test.
type running struct {
	t     testing.TB
	api   string
	ops   string
	lines chan string
	stop  func() error
}

// start runs devstack until the test ends, or until stop.
func start(t testing.TB, o options) *running {
	t.Helper()
	t.Chdir("../..")
	r := &running{t: t, lines: make(chan string, 1000)}
	o.apiAddr, o.opsAddr = freeAddr(t), freeAddr(t)
	r.api, r.ops = "http://"+o.apiAddr, "http://"+o.opsAddr
	ctx, cancel := context.WithCancel(t.Context())
	reader, writer := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := run(ctx, o, writer)
		_ = writer.Close() // never fails
		ended <- err
	}()
	go func() {
		defer close(r.lines)
		for scanner := bufio.NewScanner(reader); scanner.Scan(); {
			r.lines <- scanner.Text()
		}
	}()
	stopped := false
	r.stop = func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		for range r.lines { // let it say what it has to say
		}
		return <-ended
	}
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Errorf("devstack ended with: %v", err)
		}
	})
	return r
}

func freeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// wait waits for a line that begins with the prefix and returns all lines up to it.
func (r *running) wait(prefix string) []string {
	r.t.Helper()
	late := time.After(startTimeout)
	var seen []string
	for {
		select {
		case line, ok := <-r.lines:
			if !ok {
				r.t.Fatalf("devstack ended before it said %q: %q (%v)", prefix, seen, r.stop())
			}
			seen = append(seen, line)
			if strings.HasPrefix(line, prefix) {
				return seen
			}
		case <-late:
			r.t.Fatalf("devstack did not say %q: %q", prefix, seen)
		}
	}
}

// get fetches a path of the API into reply.
func (r *running) get(path string, reply any) int {
	r.t.Helper()
	status, body, err := get(r.t.Context(), r.api+path)
	if err != nil {
		r.t.Fatal(err)
	}
	if err := json.Unmarshal(body, reply); err != nil {
		r.t.Fatalf("GET %s: %v in %.200s", path, err, body)
	}
	return status
}

type bookReply struct {
	Code string
	Data struct {
		Symbol       string
		LastUpdateID int64       `json:"last_update_id"`
		TSEvent      market.Time `json:"ts_event"`
		Bids, Asks   [][2]market.Decimal
	}
	Meta struct {
		State            string
		SnapshotUpdateID int64                    `json:"snapshot_update_id"`
		UpdatesApplied   int64                    `json:"updates_applied"`
		FirstUpdateID    int64                    `json:"first_update_id"`
		LastUpdateID     int64                    `json:"last_update_id"`
		VerifiedLevels   struct{ Bids, Asks int } `json:"verified_levels"`
		Gaps             []any
	}
}

// digest is written out here once more, so that the test does not trust the code that it tests.
func (b *bookReply) digest() string {
	h := sha256.New()
	for _, side := range [][][2]market.Decimal{b.Data.Bids, b.Data.Asks} {
		for _, l := range side {
			fmt.Fprintf(h, "%d:%d;", int64(l[0]), int64(l[1]))
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

const btcusdt = "/v1/markets/binance/BTCUSDT"

func replayOptions(data string) options {
	o := options{feed: feedReplay, speed: speedOfFeed, data: data, mongodbDatabase: "tapedeck"}
	o.settle(nil)
	return o
}

// TestRecordAndPlayBack records the bundled recording through every layer (socket, ingester, store, functions, gateway)
// and asks for it again; then everything is started a second time on the same data, where the recording is recorded
// over what is there.
func TestRecordAndPlayBack(t *testing.T) {
	rec, err := witness.Load()
	if err != nil {
		t.Fatal(err)
	}
	recordTwice(t, rec, replayOptions(t.TempDir()))
}

// TestRecordAndPlayBackFromMongoDB does the same with a MongoDB server as the store.
func TestRecordAndPlayBackFromMongoDB(t *testing.T) {
	rec, err := witness.Load()
	if err != nil {
		t.Fatal(err)
	}
	server := mongotest.Start(t)
	o := replayOptions(t.TempDir())
	o.mongodbURI, o.mongodbDatabase = server.URI, server.Database(t)
	recordTwice(t, rec, o)
}

func recordTwice(t *testing.T, rec *witness.Events, o options) {
	t.Helper()
	for _, name := range []string{"first start", "second start on the same data"} {
		t.Run(name, func(t *testing.T) {
			r := start(t, o)
			guide := r.wait("the recording is over")
			checkGuide(t, r, guide)
			checkFinalBook(t, r)
			checkTrades(t, r, rec)
			checkCoverage(t, r, rec)
			checkPast(t, r, rec)
			checkOps(t, r)
			if err := r.stop(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// checkGuide runs the printed curl lines, as far as an HTTP client can.
func checkGuide(t *testing.T, r *running, lines []string) {
	t.Helper()
	n := 0
	for _, line := range lines {
		_, rest, ok := strings.Cut(line, "curl -s '")
		if !ok {
			continue
		}
		address, _, _ := strings.Cut(rest, "'")
		status, body, err := get(t.Context(), address)
		if err != nil || status != http.StatusOK {
			t.Errorf("%s: %d %v %.300s", address, status, err, body)
		}
		n++
	}
	if n < 5 {
		t.Errorf("only %d curl lines among %q", n, lines)
	}
}

func checkFinalBook(t *testing.T, r *running) {
	t.Helper()
	var b bookReply
	if status := r.get(btcusdt+"/book?depth=1000", &b); status != http.StatusOK {
		t.Fatalf("status %d %s", status, b.Code)
	}
	if b.Data.LastUpdateID != 50093696318 || b.digest() != "a64978904a861c8d" {
		t.Errorf("the last book has id %d and digest %s", b.Data.LastUpdateID, b.digest())
	}
	m := &b.Meta
	if m.State != "synced" || m.SnapshotUpdateID != 50093239218 || m.UpdatesApplied != 6493 || m.LastUpdateID != 50093696318 || len(m.Gaps) != 0 {
		t.Errorf("the proof is %+v", m)
	}
	var all bookReply
	r.get(btcusdt+"/book?depth=5000", &all)
	if len(all.Data.Bids) != 1971 || len(all.Data.Asks) != 2962 {
		t.Errorf("%d bids and %d asks", len(all.Data.Bids), len(all.Data.Asks))
	}
	// The snapshot's 1000 bids reached down to 61631.55, and the price has fallen below that.
	if v := m.VerifiedLevels; v.Bids != 0 || v.Asks != 1930 {
		t.Errorf("verified levels %+v, want no bids and 1930 asks", v)
	}
}

// checkTrades compares every trade with the recording, field by field.
func checkTrades(t *testing.T, r *running, rec *witness.Events) {
	t.Helper()
	n, cursor := 0, ""
	for {
		var page struct {
			Data []struct {
				ID       int64
				TSEvent  market.Time `json:"ts_event"`
				TSRecv   market.Time `json:"ts_recv"`
				Price    market.Decimal
				Quantity market.Decimal
				Side     string
			}
			Meta struct {
				NextCursor string `json:"next_cursor"`
			}
		}
		if status := r.get(btcusdt+"/trades?limit=5000"+cursor, &page); status != http.StatusOK {
			t.Fatalf("status %d", status)
		}
		for _, got := range page.Data {
			if n == len(rec.Trades) {
				t.Fatalf("more than the %d recorded trades", n)
			}
			want := &rec.Trades[n]
			if got.ID != want.ID || got.TSEvent != want.EventTime || got.Price != want.Price ||
				got.Quantity != want.Quantity || got.Side != want.Side.String() || got.TSRecv == 0 {
				t.Fatalf("trade %d is %+v, want %+v", n, got, *want)
			}
			n++
		}
		if page.Meta.NextCursor == "" {
			break
		}
		cursor = "&cursor=" + url.QueryEscape(page.Meta.NextCursor)
	}
	if n != 19904 {
		t.Errorf("%d trades, want 19904", n)
	}
}

func checkCoverage(t *testing.T, r *running, rec *witness.Events) {
	t.Helper()
	var reply struct {
		Data []struct {
			Stream, State string
			Start, End    market.Time
		}
	}
	r.get(btcusdt+"/coverage", &reply)
	if len(reply.Data) != 2 {
		t.Fatalf("coverage %+v, want one span a stream", reply.Data)
	}
	for _, span := range reply.Data {
		first, last := rec.Updates[2].EventTime, rec.Updates[len(rec.Updates)-1].EventTime
		if span.Stream == "trades" {
			first, last = rec.Trades[0].EventTime, rec.Trades[len(rec.Trades)-1].EventTime
		}
		if span.State != "available" || span.Start > first || span.End < last {
			t.Errorf("%+v does not reach from %v to %v", span, first, last)
		}
	}
	var gaps struct{ Data []any }
	if r.get(btcusdt+"/gaps", &gaps); len(gaps.Data) != 0 {
		t.Errorf("gaps %v", gaps.Data)
	}
}

// checkPast compares the book at random ids and instants with a replay of the witness's own.
func checkPast(t *testing.T, r *running, rec *witness.Events) {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	wanted := map[int]bool{2: true, 3: true, len(rec.Updates) - 1: true}
	for range 25 {
		wanted[2+random.IntN(len(rec.Updates)-2)] = true
	}
	b := book.New()
	b.Reset(rec.Snapshot.LastID, rec.Snapshot.Bids, rec.Snapshot.Asks)
	for i := range rec.Updates {
		u := &rec.Updates[i]
		b.Apply(u)
		if !wanted[i] {
			continue
		}
		inside := u.FirstID + random.Int64N(u.LastID-u.FirstID+1)
		if i == 2 {
			inside = max(inside, rec.Snapshot.LastID+1)
		}
		for _, query := range []string{
			fmt.Sprintf("update_id=%d", u.LastID),
			fmt.Sprintf("update_id=%d", inside),
			"at=" + u.EventTime.String(),
			fmt.Sprintf("at=%d", u.EventTime/1e6),
		} {
			var got bookReply
			r.get(btcusdt+"/book?depth=1000&"+query, &got)
			if got.Data.LastUpdateID != u.LastID || got.digest() != b.Digest(1000) || got.Meta.State != "synced" || got.Data.TSEvent != u.EventTime {
				t.Fatalf("%s: id %d, digest %s, state %s; want id %d, digest %s", query, got.Data.LastUpdateID, got.digest(), got.Meta.State, u.LastID, b.Digest(1000))
			}
		}
	}
}

func checkOps(t *testing.T, r *running) {
	t.Helper()
	for path, want := range map[string]string{
		"/healthz": "", "/readyz": "", "/metrics": `tapedeck_best_bid{market="binance/BTCUSDT"} 61`,
	} {
		status, body, err := get(t.Context(), r.ops+path)
		if err != nil || status != http.StatusOK || !strings.Contains(string(body), want) {
			t.Errorf("%s: %d %v, want %q in it", path, status, err, want)
		}
	}
}

// TestSyntheticMarkets records made-up markets for a moment and looks at all of them.
func TestSyntheticMarkets(t *testing.T) {
	o := options{feed: feedSynthetic, speed: 1, symbols: []string{"AAAUSDT", "BBBUSDT"}, data: t.TempDir()}
	r := start(t, o)
	r.wait("ready:")
	for _, symbol := range o.symbols {
		var b bookReply
		if status := r.get("/v1/markets/binance/"+symbol+"/book", &b); status == http.StatusNotFound && symbol != o.symbols[0] {
			continue // its first second is not stored yet
		} else if status != http.StatusOK || len(b.Data.Bids) != 100 || len(b.Data.Asks) != 100 || b.Meta.State != "synced" {
			t.Errorf("%s: status %d, %d bids, %d asks, %s", symbol, status, len(b.Data.Bids), len(b.Data.Asks), b.Meta.State)
		}
	}
}

// TestGuideAvoidsHoles starts several times on the same data: the moment that is offered as an example lies in what was
// recorded, not in a hole between.
func TestGuideAvoidsHoles(t *testing.T) {
	o := options{feed: feedSynthetic, speed: 1, symbols: []string{"AAAUSDT"}, data: t.TempDir()}
	for _, name := range []string{"first start", "second start", "third start"} {
		t.Run(name, func(t *testing.T) {
			r := start(t, o)
			lines := r.wait("  curl -s '" + r.api + "/v1/markets/binance/AAAUSDT/book?depth=5&at=")
			address, _, _ := strings.Cut(strings.TrimPrefix(lines[len(lines)-1], "  curl -s '"+r.api), "'")
			var b bookReply
			if status := r.get(address, &b); status != http.StatusOK || b.Meta.State != "synced" {
				t.Errorf("%s: %d, %s", address, status, b.Meta.State)
			}
		})
	}
}

func TestTakenAddress(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	t.Chdir("../..")
	free := freeAddr(t)
	for name, o := range map[string]options{
		"-api-addr": {apiAddr: l.Addr().String(), opsAddr: free},
		"-ops-addr": {apiAddr: free, opsAddr: l.Addr().String()},
	} {
		o.feed, o.data = feedSynthetic, t.TempDir()
		if err := run(t.Context(), o, io.Discard); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%v, want an error about %s", err, name)
		}
	}
}
