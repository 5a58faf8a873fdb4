package exchange

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"tapedeck/shared/book"
	"tapedeck/shared/market"
)

func newSynthetic(tb testing.TB, cfg SyntheticConfig) *Synthetic {
	tb.Helper()
	s, err := NewSynthetic(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// run takes all steps of a source.
func run(tb testing.TB, s Source, emit func(Frame)) {
	tb.Helper()
	last := market.Time(0)
	for {
		due, err := s.Due()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			tb.Fatal(err)
		}
		if due < last {
			tb.Fatalf("time goes back from %v to %v", last, due)
		}
		last = due
		s.Step(emit)
	}
}

// witness follows all frames of one market and checks all that must hold between them.
type witness struct {
	tb           testing.TB
	start        market.Snapshot
	book         *book.Book
	seconds      *book.Book // kept from @depth
	lastID       int64
	lastSecondID int64
	lastTradeID  int64
	last         int64 // event time
	lastDepth    int64
	depths       int
	tickers      int
	trades       int
	changes      []int
	removals     int
	bytes        []int
	levels       [2]int // least and most of a side
}

func newWitness(tb testing.TB, s Source, symbol string) *witness {
	start, err := s.Book(symbol, -1)
	if err != nil {
		tb.Fatal(err)
	}
	w := &witness{
		tb: tb, start: start, book: book.New(), seconds: book.New(), lastID: start.LastID, lastSecondID: start.LastID,
		levels: [2]int{len(start.Bids), len(start.Bids)},
	}
	w.book.Reset(start.LastID, start.Bids, start.Asks)
	w.seconds.Reset(start.LastID, start.Bids, start.Asks)
	return w
}

func (w *witness) see(stream string, e *event, size int) {
	if e.EventTime != 0 {
		if e.EventTime < w.last {
			w.tb.Fatalf("event time goes back from %d to %d", w.last, e.EventTime)
		}
		w.last = e.EventTime
	}
	switch {
	case strings.HasSuffix(stream, "@depth@100ms"):
		w.depth(e, size)
	case strings.HasSuffix(stream, "@depth"):
		if e.FirstID != w.lastSecondID+1 || w.seconds.Apply(e.update()) != book.Applied {
			w.tb.Fatalf("@depth: update %d follows %d", e.FirstID, w.lastSecondID)
		}
		w.lastSecondID = e.LastID
		if w.lastID == w.lastSecondID && w.seconds.Digest(-1) != w.book.Digest(-1) {
			w.tb.Fatalf("@depth and @depth@100ms make different books at %d", w.lastID)
		}
	case strings.HasSuffix(stream, "@trade"):
		w.trades++
		if w.lastTradeID != 0 && e.TradeID != w.lastTradeID+1 {
			w.tb.Fatalf("trade %d follows %d", e.TradeID, w.lastTradeID)
		}
		w.lastTradeID = e.TradeID
		if e.Price <= 0 || e.Quantity <= 0 || e.TradeTime > e.EventTime || !e.Ignore {
			w.tb.Fatalf("trade %+v", e)
		}
	case strings.HasSuffix(stream, "@bookTicker"):
		w.tickers++
		var bid, ask market.Decimal
		if bid.UnmarshalText(bytes.Trim(e.Bids, `"`)) != nil || ask.UnmarshalText(bytes.Trim(e.Asks, `"`)) != nil ||
			bid >= ask || e.BidSize <= 0 || e.AskSize <= 0 {
			w.tb.Fatalf("ticker %+v", e)
		}
	}
}

func (w *witness) depth(e *event, size int) {
	if e.FirstID != w.lastID+1 || w.book.Apply(e.update()) != book.Applied {
		w.tb.Fatalf("update %d follows %d", e.FirstID, w.lastID)
	}
	if w.book.Crossed() {
		w.tb.Fatalf("crossed at %d", e.LastID)
	}
	if w.lastDepth != 0 && (e.EventTime-w.lastDepth)%100 != 0 {
		w.tb.Fatalf("updates at %d and %d", w.lastDepth, e.EventTime)
	}
	w.lastDepth = e.EventTime
	w.lastID = e.LastID
	w.depths++
	w.bytes = append(w.bytes, size)
	w.changes = append(w.changes, len(e.BidLevels)+len(e.AskLevels))
	for _, l := range slices.Concat(e.BidLevels, e.AskLevels) {
		if l[1] == 0 {
			w.removals++
		}
	}
	bids, asks := w.book.Len()
	w.levels = [2]int{min(w.levels[0], bids, asks), max(w.levels[1], bids, asks)}
}

func mean(v []int) int {
	sum := 0
	for _, n := range v {
		sum += n
	}
	return sum / max(len(v), 1)
}

// Two minutes of a busy market beside what the recordings of BTCUSDT show: updates ten times a second, 46 levels in an
// update on average, 22 in the median and 1076 in the greatest, 48% removals, 1.6 kB on average and 0.8 kB in the
// median, 3 trades an update.
func TestSyntheticMarketIsLikeARealOne(t *testing.T) {
	t.Parallel()
	s := newSynthetic(t, SyntheticConfig{Symbols: []string{"BTCUSDT"}, Seed: 1, Duration: 2 * time.Minute})
	s.Watch("btcusdt@depth", true)
	w := newWitness(t, s, "BTCUSDT")
	listing := s.Listings()[0]
	run(t, s, func(f Frame) {
		if !bytes.HasPrefix(f.Combined, []byte(`{"stream":"`+string(f.Stream)+`","data":{`)) || !bytes.Contains(f.Combined, f.Raw) {
			t.Fatalf("frame %.200s of %s", f.Combined, f.Stream)
		}
		stream, e := decode(t, f.Combined)
		w.see(stream, &e, len(f.Combined))
		for _, l := range slices.Concat(e.BidLevels, e.AskLevels) {
			if l[0] <= 0 || l[0]%listing.TickSize != 0 || l[1]%listing.LotSize != 0 {
				t.Fatalf("level %v does not fit tick %v and lot %v", l, listing.TickSize, listing.LotSize)
			}
		}
	})
	truth, err := s.Book("BTCUSDT", -1)
	if err != nil || truth.LastID != w.lastID || !slices.Equal(truth.Bids, w.book.AppendBids(nil, -1)) ||
		!slices.Equal(truth.Asks, w.book.AppendAsks(nil, -1)) {
		t.Errorf("at the end the source is at %d, the witness at %d, or their books differ (%v)", truth.LastID, w.lastID, err)
	}
	if w.lastSecondID < w.lastID-2000 {
		t.Errorf("@depth ended at %d, @depth@100ms at %d", w.lastSecondID, w.lastID)
	}
	slices.Sort(w.changes)
	slices.Sort(w.bytes)
	total := mean(w.changes) * len(w.changes)
	for _, band := range []struct {
		name           string
		got, low, high int
	}{
		{"updates", w.depths, 1190, 1200},
		{"mean changes", mean(w.changes), 38, 54},
		{"median changes", w.changes[len(w.changes)/2], 15, 30},
		{"99th percentile of changes", w.changes[len(w.changes)*99/100], 200, 600},
		{"most changes", w.changes[len(w.changes)-1], 400, 1500},
		{"mean bytes", mean(w.bytes), 1200, 2000},
		{"median bytes", w.bytes[len(w.bytes)/2], 600, 1000},
		{"removals in a hundred changes", w.removals * 100 / total, 43, 53},
		{"trades", w.trades, 1200, 4800},
		{"tickers", w.tickers, 1200, 12_000},
		{"least levels of a side", w.levels[0], 1500, 2500},
		{"most levels of a side", w.levels[1], 2500, 5000},
	} {
		t.Logf("%s: %d", band.name, band.got)
		if band.got < band.low || band.got > band.high {
			t.Errorf("%s: %d, not in %d to %d", band.name, band.got, band.low, band.high)
		}
	}
	if bid, _ := w.book.BestBid(); bid.Price == w.start.Bids[0].Price {
		t.Error("the price stands still")
	}
}

// digestOf returns a digest of all frames of a configuration.
func digestOf(t *testing.T, cfg SyntheticConfig) [sha256.Size]byte {
	h := sha256.New()
	run(t, newSynthetic(t, cfg), func(f Frame) { h.Write(append(f.Combined[:len(f.Combined):len(f.Combined)], '\n')) })
	return [sha256.Size]byte(h.Sum(nil))
}

func TestSyntheticMarketsAreDeterministic(t *testing.T) {
	t.Parallel()
	cfg := SyntheticConfig{Symbols: SymbolNames(5), Busy: 1, Seed: 7, Duration: 10 * time.Second}
	first := digestOf(t, cfg)
	if digestOf(t, cfg) != first {
		t.Error("the same configuration made other frames")
	}
	other := cfg
	other.Seed++
	if digestOf(t, other) == first {
		t.Error("another seed made the same frames")
	}
	// Who listens makes no difference to what happens.
	heard := newSynthetic(t, cfg)
	heard.Watch("syn003usdt@depth", true)
	plain := newSynthetic(t, cfg)
	run(t, heard, func(Frame) {})
	run(t, plain, func(Frame) {})
	for _, symbol := range cfg.Symbols {
		a, _ := heard.Book(symbol, -1)
		b, _ := plain.Book(symbol, -1)
		if a.LastID != b.LastID || !slices.Equal(a.Bids, b.Bids) || !slices.Equal(a.Asks, b.Asks) {
			t.Errorf("%s differs when somebody listens", symbol)
		}
	}
}

func TestSyntheticMarketsContinueAboveAnEarlierRun(t *testing.T) {
	t.Parallel()
	cfg := SyntheticConfig{Symbols: SymbolNames(1), Start: 1_700_000_000_000 * 1e6, Duration: time.Minute}
	s := newSynthetic(t, cfg)
	var trade, lastTrade int64
	see := func(f Frame) {
		if _, e := decode(t, f.Combined); e.TradeID > 0 {
			trade = e.TradeID
		}
	}
	run(t, s, see)
	before, _ := s.Book("SYN001USDT", 1)
	lastTrade = trade
	cfg.Start = cfg.Start.Add(cfg.Duration)
	s = newSynthetic(t, cfg)
	after, _ := s.Book("SYN001USDT", 1)
	run(t, s, func(f Frame) {
		if trade == lastTrade {
			see(f)
		}
	})
	if after.LastID <= before.LastID || trade <= lastTrade {
		t.Errorf("second run begins at update %d and trade %d, the first ended at %d and %d",
			after.LastID, trade, before.LastID, lastTrade)
	}
}

// 200 markets of all degrees of activity keep every rule, and each busy class does more than the quieter one.
func TestSyntheticManyMarkets(t *testing.T) {
	t.Parallel()
	symbols := SymbolNames(200)
	s := newSynthetic(t, SyntheticConfig{Symbols: symbols, Busy: 4, Levels: 300, Duration: 5 * time.Second, Seed: 3})
	witnesses := map[string]*witness{}
	for _, symbol := range symbols {
		witnesses[strings.ToLower(symbol)] = newWitness(t, s, symbol)
		s.Watch(strings.ToLower(symbol)+"@depth", true)
	}
	run(t, s, func(f Frame) {
		stream, e := decode(t, f.Combined)
		name, _, _ := strings.Cut(stream, "@")
		if !strings.EqualFold(name, e.Symbol) {
			t.Fatalf("frame of %s on %s", e.Symbol, stream)
		}
		witnesses[name].see(stream, &e, len(f.Combined))
	})
	quiet := 0
	for _, symbol := range symbols {
		w := witnesses[strings.ToLower(symbol)]
		truth, err := s.Book(symbol, -1)
		if err != nil || truth.LastID != w.lastID || !slices.Equal(truth.Bids, w.book.AppendBids(nil, -1)) {
			t.Errorf("%s: source at %d, witness at %d, or their books differ (%v)", symbol, truth.LastID, w.lastID, err)
		}
		if w.depths < 45 {
			quiet++
		}
	}
	busy := mean(witnesses["syn001usdt"].changes)
	if least := mean(witnesses["syn200usdt"].changes); quiet < 100 || quiet > 196 || busy < 5*least {
		t.Errorf("%d quiet markets; %d changes in a busy market's update, %d in a quiet one's", quiet, busy, least)
	}
}

func TestSyntheticSnapshotFitsTheStreamAnywhere(t *testing.T) {
	t.Parallel()
	source := newSynthetic(t, SyntheticConfig{Symbols: SymbolNames(2), Duration: time.Minute})
	s := start(t, source, WithWeightLimit(1e6))
	ws := dial(t, s, "/stream?streams=syn001usdt@depth@100ms")
	follow(t, s, func() []byte { return []byte(receive(t, ws)) }, "SYN001USDT", 600, 12)
}

// A snapshot taken between two updates lies inside the ids of the second one.
func TestSyntheticSnapshotMayFallIntoAnUpdate(t *testing.T) {
	t.Parallel()
	s := newSynthetic(t, SyntheticConfig{Symbols: SymbolNames(1), Duration: 10 * time.Second})
	var open []market.Snapshot
	inside, last := 0, int64(0)
	run(t, s, func(f Frame) {
		if _, e := decode(t, f.Combined); e.Type == "depthUpdate" {
			for _, snapshot := range open {
				if e.FirstID <= snapshot.LastID && snapshot.LastID < e.LastID {
					inside++
				}
			}
			open, last = open[:0], e.LastID
		} else if snapshot, err := s.Book("SYN001USDT", 1); err != nil || snapshot.LastID < last {
			t.Fatalf("snapshot %d after update %d (%v)", snapshot.LastID, last, err)
		} else {
			open = append(open, snapshot)
		}
	})
	if inside == 0 {
		t.Error("no snapshot fell into an update")
	}
}

func TestSyntheticConfigErrors(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]SyntheticConfig{
		"no symbol":   {},
		"bad symbol":  {Symbols: []string{"A/B"}},
		"twice":       {Symbols: []string{"AAAUSDT", "aaausdt"}},
		"few levels":  {Symbols: SymbolNames(1), Levels: 1},
		"many levels": {Symbols: SymbolNames(1), Levels: 1e6},
	} {
		if _, err := NewSynthetic(cfg); market.KindOf(err) != market.KindInvalid {
			t.Errorf("%s: %v, want invalid", name, err)
		}
	}
}
