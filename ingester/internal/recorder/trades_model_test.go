package recorder_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"tapedeck/ingester/internal/recorder"
	"tapedeck/shared/market"
	"tapedeck/shared/tape"
)

// badHistory is a history whose answers fail, come late, hold little, or leave trades out, at random.
type badHistory struct {
	history
	random                 *rand.Rand
	failing, partial, late int  // in percent
	dead                   bool // no answer at all
}

func (h *badHistory) LastTradeID(ctx context.Context, m market.Market) (int64, error) {
	if fail, _ := h.mood(); fail {
		return 0, errNotHere
	}
	return h.history.LastTradeID(ctx, m)
}

func (h *badHistory) TradesFrom(ctx context.Context, m market.Market, fromID int64, limit int) ([]market.Trade, error) {
	fail, most := h.mood()
	if fail {
		return nil, errNotHere
	}
	return h.history.TradesFrom(ctx, m, fromID, min(limit, most))
}

// mood decides about one answer: whether it fails, and how many trades it may have.
func (h *badHistory) mood() (fail bool, limit int) {
	h.mu.Lock()
	fail, limit = h.dead || h.random.IntN(100) < h.failing, 1000
	if h.random.IntN(100) < h.partial {
		limit = 1 + h.random.IntN(5)
	}
	wait := time.Duration(0)
	if h.random.IntN(100) < h.late {
		wait = time.Duration(h.random.IntN(3000)) * time.Millisecond
	}
	h.mu.Unlock()
	if wait > 0 {
		<-time.After(wait)
	}
	return fail, limit
}

// tradeWorld is one run of the model: what two links do with the trades of an exchange.
type tradeWorld struct {
	t       *testing.T
	random  *rand.Rand
	deck    *deck
	history *badHistory
	links   [2]bool
	delayed [2][]int64
	sent    map[int64]bool // frames that the inbox got
}

// play lets some hundred trades happen and returns the first id that the recorder must account for.
func (w *tradeWorld) play(trades int64) {
	loss, doubling, delay := w.random.IntN(20), w.random.IntN(20), w.random.IntN(30)
	cut, mute := w.random.IntN(4), w.random.IntN(3)
	muted := [2]int{}
	for id := int64(1); id <= trades; id++ {
		w.history.to(id)
		for link := range 2 {
			switch chance := w.random.IntN(100); {
			case !w.links[link]:
				if chance < 30 {
					w.links[link] = true
					w.deck.inbox.Connected(1)
				}
				continue
			case chance < cut:
				w.links[link], w.delayed[link] = false, nil
				w.deck.inbox.Disconnected(1)
				continue
			case chance < cut+mute:
				muted[link] = w.random.IntN(40)
			}
			if muted[link]--; muted[link] > 0 || w.random.IntN(100) < loss {
				continue
			}
			w.delayed[link] = append(w.delayed[link], id)
			if w.random.IntN(100) < delay && len(w.delayed[link]) < 4 {
				continue
			}
			w.deliver(link)
			if w.random.IntN(100) < doubling {
				w.send(id)
			}
		}
		if w.random.IntN(100) < 2 {
			w.deck.frame(market.Trades, "nonsense")
		}
		if w.random.IntN(200) == 0 {
			w.deck.trade(id+5_000_000+w.random.Int64N(1<<40), w.history.times[id])
		}
		pause := time.Duration(w.random.IntN(60)) * time.Millisecond
		if w.random.IntN(100) == 0 {
			pause = time.Duration(w.random.IntN(90)) * time.Second
		}
		pass(pause)
	}
}

// deliver sends what a link holds back, in any order.
func (w *tradeWorld) deliver(link int) {
	w.random.Shuffle(len(w.delayed[link]), func(i, j int) {
		w.delayed[link][i], w.delayed[link][j] = w.delayed[link][j], w.delayed[link][i]
	})
	for _, id := range w.delayed[link] {
		w.send(id)
	}
	w.delayed[link] = nil
}

func (w *tradeWorld) send(id int64) {
	w.sent[id] = true
	w.deck.trade(id, w.history.times[id])
}

// makeTimes makes the times of trades, by a clock that steps at times.
func (h *badHistory) makeTimes(random *rand.Rand, trades int64, steps int) {
	h.times = map[int64]int{}
	ms := 1_000_000
	for id := int64(1); id <= trades; id++ {
		ms += random.IntN(30)
		if random.IntN(1000) < steps {
			ms += random.IntN(60_000) - 45_000
		}
		h.times[id] = ms
	}
}

// check holds what was recorded against what happened: every trade from the first recorded one on, up to the last that
// the recorder knows of, is recorded as it was or in the ledger as missing, and the ledger claims no more than was
// handed over.
func (w *tradeWorld) check(trades int64, complete bool) {
	recorded, ledger := tradesOf(w.t, w.deck.sink), w.deck.sink.entries(w.t, market.Trades)
	w.checkFetched()
	w.checkClock(recorded, ledger)
	told := map[int64]bool{}
	for _, g := range ledger {
		if g.LastID > trades {
			w.t.Fatalf("only %d trades happened: %+v", trades, g)
		}
		for id := g.FirstID; id <= g.LastID; id++ {
			told[id] = told[id] || g.Cause != market.CauseClock && g.Repair != market.RepairBackfilled
			if _, ok := recorded[id]; !ok && g.Repair == market.RepairBackfilled {
				w.t.Fatalf("trade %d is said to be fetched again: %+v", id, g)
			}
		}
	}
	first, last := int64(0), int64(0)
	for id := range recorded {
		if id > trades {
			w.t.Fatalf("trade %d never happened", id)
		}
		if first == 0 || id < first {
			first = id
		}
		last = max(last, id)
	}
	for id := first; id <= trades && first > 0; id++ {
		_, ok := recorded[id]
		switch {
		case !ok && !told[id] && (id < last || w.sent[id] || complete):
			w.t.Fatalf("trade %d of %d to %d is neither recorded nor in the ledger", id, first, trades)
		case !ok && complete:
			w.t.Fatalf("trade %d was never fetched again", id)
		}
	}
}

// checkFetched: nothing was fetched and recorded twice.
func (w *tradeWorld) checkFetched() {
	var decoder tape.Decoder
	fetched := map[int64]bool{}
	for _, b := range w.deck.sink.batch.Blocks {
		if b.Series != tradeOf {
			continue
		}
		trades, err := decoder.Trades(b.Data)
		if err != nil {
			w.t.Fatal(err)
		}
		for _, tr := range trades {
			if tr.Flags&market.TradeFlagBackfilled == 0 {
				continue
			}
			if fetched[tr.ID] {
				w.t.Fatalf("trade %d was fetched and recorded twice", tr.ID)
			}
			fetched[tr.ID] = true
		}
	}
}

// checkClock holds what the ledger says of the exchange's clock against what happened: a step back between two trades that
// follow each other in the records is told of between them, and nothing else is, nor twice.
func (w *tradeWorld) checkClock(recorded map[int64]market.Trade, ledger []market.Gap) {
	steps := slices.DeleteFunc(slices.Clone(ledger), func(g market.Gap) bool { return g.Cause != market.CauseClock })
	if got := w.deck.metric("tapedeck_gaps_total", map[string]string{"cause": "clock"}); got != len(steps) {
		w.t.Fatalf("%d steps counted, %d in the ledger", got, len(steps))
	}
	// One that was told behind a hole, when nobody knew where in it, stays there when the hole is fetched again later.
	happenedIn := func(first, last int64) (n int) {
		for id := first; id <= last; id++ {
			if w.history.times[id-1]-w.history.times[id] > 1000 {
				n++
			}
		}
		return n
	}
	ofHole := func(step market.Gap) bool {
		return slices.ContainsFunc(ledger, func(g market.Gap) bool {
			return g.Cause != market.CauseClock && g.LastID+1 == step.FirstID && happenedIn(g.FirstID, g.LastID+1) > 0
		})
	}
	held := slices.Sorted(maps.Keys(recorded))
	for i := 1; i < len(held); i++ {
		before, id := held[i-1], held[i]
		told, vague, happened := 0, 0, happenedIn(before+1, id)
		for _, g := range steps {
			if before < g.FirstID && g.FirstID <= id {
				told++
				if ofHole(g) {
					vague++
				}
			}
		}
		if told == 0 && w.history.times[before]-w.history.times[id] > 1000 {
			w.t.Fatalf("the clock stepped back between %d and %d, and nobody says so", before, id)
		}
		if told-vague > happened {
			w.t.Fatalf("the clock stepped back %d times between %d and %d, %d are told of", happened, before, id, told)
		}
	}
}

func playTrades(t *testing.T, seed uint64) {
	synctest.Test(t, func(t *testing.T) {
		random := rand.New(rand.NewPCG(seed, 3))
		h := &badHistory{random: rand.New(rand.NewPCG(seed, 4))}
		kind := random.IntN(4)
		switch kind {
		case 0: // all is well
		case 1:
			h.dead = true
		default:
			h.failing, h.partial, h.late = random.IntN(60), random.IntN(50), random.IntN(60)
		}
		if kind == 3 {
			h.absent = map[int64]bool{}
			for range 30 {
				h.absent[1+random.Int64N(300)] = true
			}
		}
		limit := int64(1_000_000)
		if random.IntN(5) == 0 {
			limit = random.Int64N(20)
		}
		const trades = 300
		refusal, steps := max(0, random.IntN(60)-30), max(0, random.IntN(60)-30)
		h.makeTimes(random, trades, steps)
		sinkRandom := rand.New(rand.NewPCG(seed, 5))
		sink := &recorded{live: true, refuse: func(*market.Batch) bool { return sinkRandom.IntN(100) < refusal }}
		retry := []time.Duration{0, 20 * time.Second, time.Hour}[rand.New(rand.NewPCG(seed, 6)).IntN(3)]
		d := start(t, options{trades: h, sink: sink, config: recorder.Config{
			BackfillTrades: limit, BackfillRetry: retry, FlushInterval: time.Second,
		}})
		w := &tradeWorld{t: t, random: random, deck: d, history: h, links: [2]bool{true, false}, sent: map[int64]bool{}}
		w.play(trades)
		settled := random.IntN(2) == 0
		if settled {
			for link := range 2 {
				w.deliver(link)
				if !w.links[link] {
					d.inbox.Connected(1)
				}
			}
			pass(2 * time.Hour)
		}
		sink.setRefuse(nil)
		d.stop()
		w.check(trades, settled && kind == 0 && limit == 1_000_000 && refusal == 0)
	})
}

// TestTradesAgainstModel plays random losses, doublings, delays, lost connections and mute streams, with an exchange
// whose answers fail and whose clock steps, and a sink that refuses, at random.
func TestTradesAgainstModel(t *testing.T) {
	for seed := range uint64(150) {
		if !t.Run(fmt.Sprint(seed), func(t *testing.T) { playTrades(t, seed) }) {
			return
		}
	}
}

// FuzzTrades is TestTradesAgainstModel with any seed.
func FuzzTrades(f *testing.F) {
	f.Add(uint64(2111)) // the entry of what the sink refuses begins where that of the mute stream does
	f.Add(uint64(2143)) // the sink refuses what a mute stream brings after all
	f.Fuzz(playTrades)
}
