package exchange

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"tapedeck/shared/book"
	"tapedeck/shared/market"
	"tapedeck/shared/recording"
)

const bundledStreams = "btcusdt@depth@100ms/btcusdt@trade/btcusdt@bookTicker"

func newReplay(tb testing.TB, names ...string) *Replay {
	tb.Helper()
	r, err := NewReplay(names...)
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

// record writes a recording of the given frames, one a millisecond.
func record(tb testing.TB, frames ...string) string {
	tb.Helper()
	var b strings.Builder
	for i, f := range frames {
		fmt.Fprintf(&b, "%d %s\n", 1_700_000_000_000+i, f)
	}
	path := filepath.Join(tb.TempDir(), "recording")
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		tb.Fatal(err)
	}
	return path
}

func depthFrame(symbol string, first, last int64, bids string) string {
	return fmt.Sprintf(`{"stream":"%s@depth@100ms","data":{"e":"depthUpdate","E":%d,"s":"%s","U":%d,"u":%d,"b":[%s],"a":[]}}`,
		strings.ToLower(symbol), 1_700_000_000_000+last, symbol, first, last, bids)
}

func snapshotFrame(id int64, bids string) string {
	return fmt.Sprintf(`{"lastUpdateId":%d,"bids":[%s],"asks":[]}`, id, bids)
}

// The whole of both recordings, byte for byte and from the first line, for a client that takes the snapshot when it
// sees its first depth update; its book at the end is the known one.
func TestReplayIsTheRecording(t *testing.T) {
	t.Parallel()
	frames, snapshots := recorded(t, recording.Bundled()...)
	s := start(t, newReplay(t, recording.Bundled()...))
	ws := dial(t, s, "/stream?streams="+bundledStreams)
	b := book.New()
	var early []*market.DepthUpdate
	applied, synced := 0, false
	for i, want := range frames {
		got := receive(t, ws)
		if got != want {
			t.Fatalf("frame %d is\n%.200s\nwant\n%.200s", i, got, want)
		}
		if !strings.HasPrefix(got, `{"stream":"btcusdt@depth@100ms"`) {
			continue
		}
		_, e := decode(t, []byte(got))
		if early = append(early, e.update()); !synced {
			synced = true
			_, _, body := get(t, s, "/api/v3/depth?symbol=BTCUSDT&limit=5000")
			if body != snapshots[0] {
				t.Fatalf("snapshot is %.60s…, want the recorded one, %.60s…", body, snapshots[0])
			}
			snapshot := snapshotIn(t, body)
			b.Reset(snapshot.LastID, snapshot.Bids, snapshot.Asks)
		}
		for _, u := range early {
			switch b.Apply(u) {
			case book.Applied:
				applied++
			case book.Gap:
				t.Fatalf("gap at update %d, book at %d", u.FirstID, b.LastID())
			case book.Stale:
			}
		}
		early = early[:0]
	}
	wait(t, "the end of the replay", s.Done())
	if bids, asks := b.Len(); applied != 6493 || b.LastID() != 50093696318 || bids != 1971 || asks != 2962 ||
		b.Digest(1000) != "a64978904a861c8d" {
		t.Errorf("client's book: %d applied, id %d, %d/%d levels, digest %s", applied, b.LastID(), bids, asks, b.Digest(1000))
	}
	truth, err := s.Book("BTCUSDT")
	if err != nil || truth.LastID != b.LastID() || !slices.Equal(truth.Bids, b.AppendBids(nil, -1)) ||
		!slices.Equal(truth.Asks, b.AppendAsks(nil, -1)) {
		t.Errorf("stand-in's book at %d (%v) differs from the client's at %d", truth.LastID, err, b.LastID())
	}
	p := s.Progress()
	if p.Frames != int64(len(frames)) || p.Total != int64(len(frames)) || !p.Done || p.Skipped != 0 ||
		p.EventTime.String() != "2024-08-09T00:05:05.809Z" {
		t.Errorf("progress %+v", p)
	}
}

// Clients on other connections and with other streams get those streams, whole, in order and unwrapped on /ws.
func TestReplayToEachItsStreams(t *testing.T) {
	t.Parallel()
	first := recording.Bundled()[0]
	frames, _ := recorded(t, first)
	s := start(t, newReplay(t, first), WithSnapshotHold(0),
		WithStartStreams(strings.Split(bundledStreams+"/nosuch@trade", "/")...))
	clients := []struct {
		path   string
		stream string
		raw    bool
	}{
		{"/ws/btcusdt@depth@100ms", "btcusdt@depth@100ms", true},
		{"/stream?streams=btcusdt@trade", "btcusdt@trade", false},
		{"/ws/btcusdt@bookTicker", "btcusdt@bookTicker", true},
		{"/ws/nosuch@trade", "nosuch@trade", true},
	}
	done := make(chan error, len(clients))
	for _, c := range clients {
		ws := dial(t, s, c.path)
		go func() {
			prefix := `{"stream":"` + c.stream + `","data":`
			for i, f := range frames {
				data, ok := strings.CutPrefix(f, prefix)
				if !ok {
					continue
				}
				want := f
				if c.raw {
					want = strings.TrimSuffix(data, "}")
				}
				if _, got, err := ws.ReadMessage(); err != nil || string(got) != want {
					done <- fmt.Errorf("%s: frame %d is %.100q (%w), want %.100q", c.path, i, got, err, want)
					return
				}
			}
			done <- nil
		}()
	}
	for range clients {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	wait(t, "the end of the replay", s.Done())
}

// A snapshot at any moment fits the stream: a client that applies it and what follows has the stand-in's book.
func TestReplaySnapshotFitsTheStreamAnywhere(t *testing.T) {
	t.Parallel()
	first := recording.Bundled()[0]
	frames, _ := recorded(t, first)
	s := start(t, newReplay(t, first), WithWeightLimit(1e6))
	ws := dial(t, s, "/stream?streams=btcusdt@depth@100ms")
	follow(t, s, func() []byte { return []byte(receive(t, ws)) }, "BTCUSDT",
		strings.Count(strings.Join(frames, "\n"), `"e":"depthUpdate"`), 12)
}

// follow reads n depth updates of a symbol, takes a snapshot at about the given number of random places, and checks
// that all books that began at one of them are the same from then on.
func follow(t *testing.T, s *Server, next func() []byte, symbol string, n, snapshots int) {
	t.Helper()
	rng := rand.New(rand.NewPCG(1, 2))
	var books []*book.Book
	last := int64(0)
	for i := range n {
		stream, e := decode(t, next())
		if !strings.HasPrefix(stream, strings.ToLower(symbol)+"@depth") {
			t.Fatalf("frame of %s", stream)
		}
		if last != 0 && e.FirstID != last+1 {
			t.Fatalf("update %d follows %d", e.FirstID, last)
		}
		last = e.LastID
		if i == 0 || rng.IntN(n) < snapshots {
			snapshot := fetchBook(t, s, symbol, "5000")
			if i > 0 && snapshot.LastID < e.FirstID-1 {
				t.Fatalf("snapshot %d lacks update %d, which was sent before", snapshot.LastID, e.FirstID)
			}
			b := book.New()
			b.Reset(snapshot.LastID, snapshot.Bids, snapshot.Asks)
			books = append(books, b)
		}
		u := e.update()
		for _, b := range books {
			if b.Apply(u) == book.Gap {
				t.Fatalf("gap at %d in a book at %d", u.FirstID, b.LastID())
			}
		}
	}
	if len(books) < snapshots/2 {
		t.Fatalf("only %d snapshots taken", len(books))
	}
	truth, err := s.Book(symbol)
	if err != nil {
		t.Fatal(err)
	}
	for i, b := range books {
		if b.LastID() != truth.LastID || !slices.Equal(b.AppendBids(nil, 1000), truth.Bids[:min(1000, len(truth.Bids))]) ||
			!slices.Equal(b.AppendAsks(nil, 1000), truth.Asks[:min(1000, len(truth.Asks))]) {
			t.Errorf("book %d of %d at %d differs from the stand-in's at %d", i, len(books), b.LastID(), truth.LastID)
		}
	}
}

// Until the snapshot was fetched the replay stands at it, and it is given out as recorded though a newer update was
// sent before; afterwards that update counts.
func TestReplayHoldsAtTheSnapshot(t *testing.T) {
	t.Parallel()
	path := record(t,
		depthFrame("AAAUSDT", 1, 10, `["1.00000000","1.00000000"]`),
		depthFrame("AAAUSDT", 11, 20, `["2.00000000","2.00000000"]`),
		snapshotFrame(12, `["1.00000000","5.00000000"]`),
		depthFrame("AAAUSDT", 21, 30, `["3.00000000","3.00000000"]`),
	)
	s := start(t, newReplay(t, path), WithSnapshotHold(time.Hour))
	ws := dial(t, s, "/ws/aaausdt@depth@100ms")
	receive(t, ws)
	receive(t, ws)
	if got := fetchBook(t, s, "AAAUSDT", "100"); got.LastID != 12 || len(got.Bids) != 1 {
		t.Errorf("at the snapshot: %+v, want the recorded one", got)
	}
	receive(t, ws)
	wait(t, "the end", s.Done())
	want := []market.Level{{Price: 3e8, Quantity: 3e8}, {Price: 2e8, Quantity: 2e8}, {Price: 1e8, Quantity: 5e8}}
	if got := fetchBook(t, s, "AAAUSDT", "100"); got.LastID != 30 || !slices.Equal(got.Bids, want) {
		t.Errorf("at the end: %+v, want %v", got, want)
	}
	if got := fetchBook(t, s, "AAAUSDT", "2"); len(got.Bids) != 2 {
		t.Errorf("limit=2 gives %d levels", len(got.Bids))
	}
}

func TestReplayDoesNotHoldForWhoFollowsNoDepth(t *testing.T) {
	t.Parallel()
	path := record(t, snapshotFrame(12, `["1.00000000","5.00000000"]`),
		depthFrame("AAAUSDT", 21, 30, `["3.00000000","3.00000000"]`), `{"stream":"aaausdt@trade","data":{"e":"trade"}}`)
	s := start(t, newReplay(t, path), WithSnapshotHold(time.Hour))
	ws := dial(t, s, "/ws/aaausdt@trade")
	if got := receive(t, ws); got != `{"e":"trade"}` {
		t.Errorf("got %s", got)
	}
	wait(t, "the end", s.Done())
}

// A snapshot line does not say whose it is; ids do.
func TestReplayOfSeveralMarkets(t *testing.T) {
	t.Parallel()
	for name, frames := range map[string][]string{
		"snapshots after the first updates": {
			depthFrame("AAAUSDT", 11, 20, ""), depthFrame("BBBUSDT", 9011, 9020, ""), depthFrame("CCCUSDT", 511, 520, ""),
			snapshotFrame(9015, `["9.00000000","9.00000000"]`), snapshotFrame(15, `["1.00000000","1.00000000"]`),
			depthFrame("AAAUSDT", 21, 30, ""), depthFrame("BBBUSDT", 9021, 9030, ""), depthFrame("CCCUSDT", 521, 530, ""),
		},
		"snapshots before them": {
			snapshotFrame(9015, `["9.00000000","9.00000000"]`), snapshotFrame(15, `["1.00000000","1.00000000"]`),
			depthFrame("AAAUSDT", 11, 20, ""), depthFrame("BBBUSDT", 9011, 9020, ""),
			depthFrame("AAAUSDT", 21, 30, ""), depthFrame("BBBUSDT", 9021, 9030, ""), depthFrame("CCCUSDT", 521, 530, ""),
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, newReplay(t, record(t, frames...)), WithSnapshotHold(0))
			dial(t, s, "/ws/aaausdt@depth@100ms/bbbusdt@depth@100ms/cccusdt@depth@100ms")
			wait(t, "the end", s.Done())
			a, b := fetchBook(t, s, "AAAUSDT", "5"), fetchBook(t, s, "BBBUSDT", "5")
			if a.LastID != 30 || len(a.Bids) != 1 || a.Bids[0].Price != 1e8 {
				t.Errorf("A: %+v", a)
			}
			if b.LastID != 9030 || len(b.Bids) != 1 || b.Bids[0].Price != 9e8 {
				t.Errorf("B: %+v", b)
			}
			if status, _, body := get(t, s, "/api/v3/depth?symbol=CCCUSDT"); status != http.StatusServiceUnavailable ||
				!strings.Contains(body, "No book of CCCUSDT") {
				t.Errorf("C, which has no snapshot: %d %s", status, body)
			}
		})
	}
}

// What was recorded is sent, whatever it is; the book does without what cannot be read.
func TestReplaySendsBrokenFrames(t *testing.T) {
	t.Parallel()
	frames := []string{
		depthFrame("AAAUSDT", 13, 20, `["2.00000000","2.00000000"]`),
		`{"stream":"aaausdt@depth@100ms","data":{"e":"depthUpdate","E":1700000000021,"s":"AAAUSDT","U":21,"u":3`,
		`{"stream":"aaausdt@depth@100ms","data":{"e":"depthUpdate","s":"AAAUSDT","U":"x"}}`,
		`{"result":null,"id":1}`,
		`garbage`,
		`{ "data": {"e":"depthUpdate","E":1,"s":"AAAUSDT","U":41,"u":50,"b":[],"a":[],"new":1}, "stream": "aaausdt@depth@100ms" }`,
		depthFrame("AAAUSDT", 51, 60, `["3.00000000","bad"]`),
		depthFrame("AAAUSDT", 61, 70, `["4.00000000","4.00000000"],["2.00000000","0.00000000"]`),
	}
	recording := append([]string{snapshotFrame(12, `["1.00000000","5.00000000"]`)}, frames...)
	s := start(t, newReplay(t, record(t, recording...)), WithSnapshotHold(0))
	ws := dial(t, s, "/stream?streams=aaausdt@depth@100ms")
	for _, want := range frames {
		if got := receive(t, ws); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	wait(t, "the end", s.Done())
	got := fetchBook(t, s, "AAAUSDT", "10")
	want := []market.Level{{Price: 4e8, Quantity: 4e8}, {Price: 1e8, Quantity: 5e8}}
	if got.LastID != 70 || !slices.Equal(got.Bids, want) {
		t.Errorf("book %+v, want %v", got, want)
	}
	if p := s.Progress(); p.Skipped != 3 {
		t.Errorf("%d frames skipped, want 3", p.Skipped)
	}
}

func TestReplayEndsAtACorruptLine(t *testing.T) {
	t.Parallel()
	path := record(t, `{"stream":"aaausdt@trade","data":{}}`)
	s := start(t, newReplay(t, path, path))
	if err := os.WriteFile(path, []byte("1700000000000 {\"stream\":\"aaausdt@trade\",\"data\":{}}\nno time"), 0o600); err != nil {
		t.Fatal(err)
	}
	ws := dial(t, s, "/ws/aaausdt@trade")
	receive(t, ws)
	wait(t, "the end", s.Done())
	if err := s.Err(); market.KindOf(err) != market.KindCorrupt {
		t.Errorf("error %v, want a corrupt recording", err)
	}
	if _, err := NewReplay(filepath.Join(t.TempDir(), "absent")); market.KindOf(err) != market.KindInvalid {
		t.Errorf("absent recording: %v", err)
	}
}

// A book is asked for before the replay has reached its snapshot: the request waits.
func TestReplayBookIsWaitedFor(t *testing.T) {
	t.Parallel()
	path := record(t, depthFrame("AAAUSDT", 1, 10, ""), snapshotFrame(12, `["1.00000000","5.00000000"]`))
	s := start(t, newReplay(t, path), WithBookTimeout(20*time.Millisecond))
	if status, _, body := get(t, s, "/api/v3/depth?symbol=AAAUSDT"); status != http.StatusServiceUnavailable ||
		!strings.Contains(body, "AAAUSDT") {
		t.Errorf("not started: %d %s, want 503", status, body)
	}
	s = start(t, newReplay(t, path))
	got := make(chan market.Snapshot)
	go func() { got <- fetchBook(t, s, "AAAUSDT", "5") }()
	dial(t, s, "/ws/aaausdt@depth@100ms")
	if snapshot := <-got; snapshot.LastID != 12 {
		t.Errorf("snapshot %d, want 12", snapshot.LastID)
	}
}

func TestReplayListings(t *testing.T) {
	t.Parallel()
	r := newReplay(t, recording.Bundled()...)
	defer r.Close()
	got := r.Listings()
	if len(got) != 1 || got[0].Market.Symbol != "BTCUSDT" || got[0].TickSize != 1e6 || got[0].LotSize != 1e3 {
		t.Errorf("listings %+v, want BTCUSDT with tick 0.01 and lot 0.00001", got)
	}
	if now := r.Time(); now != 1723161255208*1e6 {
		t.Errorf("clock begins at %v", now)
	}
}
