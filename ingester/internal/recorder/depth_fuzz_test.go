package recorder

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tapedeck/shared/book"
	"tapedeck/shared/market"
	"tapedeck/shared/storetest"
	"tapedeck/shared/tape"
)

// world is an exchange of one market that remembers all it ever showed, two connections to it that lose, double, delay
// and reorder what they carry, and a depth that records it.
type world struct {
	t      *testing.T
	script []byte
	rng    *rand.Rand
	now    time.Time
	skew   time.Duration // of the exchange's clock
	depth  *depth

	registry *prometheus.Registry
	links    links

	events []market.DepthUpdate // all of them, without a hole
	books  []*book.Book         // after each event; the first is the book before all
	wires  [2][]int             // events on their way
	up     [2]bool
	lies   int64 // ids that never were

	snapshots []snapshotKey // that the exchange gave out

	fetching, asking, turn, auditing bool
	sink                             memorySink
}

// snapshotKey is which snapshot it was, and when.
type snapshotKey struct {
	id int64
	at market.Time
}

// memorySink keeps records, but for those that it refuses. It is asked for none.
type memorySink struct {
	Sink
	batch    market.Batch
	saved    *market.Block // that is to come whole
	refusals int           // so many batches more are refused
}

func (s *memorySink) Save(b market.Block, _ market.Time) bool {
	s.saved = &b
	return true
}

func (s *memorySink) Put(_ context.Context, b *market.Batch, _ market.Time) bool {
	if err := b.Validate(); err != nil {
		panic(err)
	}
	if s.saved != nil && len(b.Blocks) > 0 {
		if whole := &b.Blocks[0]; whole.FirstID != s.saved.FirstID || whole.LastID < s.saved.LastID {
			panic(fmt.Sprintf("block %d to %d was saved, and %d to %d was put", s.saved.FirstID, s.saved.LastID, whole.FirstID, whole.LastID))
		}
		s.saved = nil
	}
	if s.refusals > 0 {
		s.refusals--
		return false
	}
	s.batch.Blocks = append(s.batch.Blocks, b.Blocks...)
	s.batch.Keyframes = append(s.batch.Keyframes, b.Keyframes...)
	s.batch.Gaps = append(s.batch.Gaps, b.Gaps...)
	return true
}

const (
	fuzzLevels   = 12 // of each side of the exchange's book
	fuzzSnapshot = 6  // of each side of a snapshot
	fuzzUpdates  = 2000
	fuzzAgo      = 8 // how old a snapshot may be, in events
)

func newWorld(t *testing.T, script []byte) *world {
	w := &world{
		t: t, script: script, rng: rand.New(rand.NewPCG(uint64(len(script)), 1)), now: time.Unix(1_700_000_000, 0),
		registry: prometheus.NewRegistry(),
	}
	m := market.Market{Exchange: market.Binance, Symbol: "BTCUSDT"}
	cfg := &Config{FlushInterval: time.Second, KeyframeBlocks: 3, AuditInterval: 2 * time.Second}
	meter := newMeter(NewMetrics(w.registry), m)
	w.depth = &depth{
		cfg: cfg, log: slog.New(slog.DiscardHandler), meter: meter, links: &w.links, book: book.New(),
		writer:  writer{sink: &w.sink, series: market.Series{Market: m, Stream: market.Depth}, meter: meter},
		pending: pending{account: account{memory: NewMemory(1<<20, 1)}},
		fetch:   func() { w.fetching = true },
		inquire: func() { w.asking = true },
		reaudit: func() { w.turn = true },
		trading: func() bool { return true },
		// Old answers may deny what is true: then the ledger has to tell of it.
		complain: func(string, *market.DepthUpdate) {},
	}
	first := book.New()
	var bids, asks []market.Level
	for i := range fuzzLevels {
		bids = append(bids, market.Level{Price: market.Decimal(100-i) * 1e8, Quantity: 1e8})
		asks = append(asks, market.Level{Price: market.Decimal(101+i) * 1e8, Quantity: 1e8})
	}
	first.Reset(1000, bids, asks)
	w.books = append(w.books, first)
	w.happen()
	return w
}

// clock is the exchange's.
func (w *world) clock() market.Time { return market.TimeOf(w.now.Add(w.skew)) }

// happen lets the exchange show one more event.
func (w *world) happen() {
	last := w.books[len(w.books)-1]
	u := market.DepthUpdate{FirstID: last.LastID() + 1, PrevID: last.LastID()}
	u.LastID = u.FirstID + int64(w.rng.IntN(4))
	u.EventTime = w.clock()
	for range 1 + w.rng.IntN(3) {
		l := market.Level{Quantity: market.Decimal(w.rng.IntN(4)) * 1e8}
		if i := w.rng.IntN(fuzzLevels); w.rng.IntN(2) == 0 {
			l.Price = market.Decimal(100-i) * 1e8
			u.Bids = append(u.Bids, l)
		} else {
			l.Price = market.Decimal(101+i) * 1e8
			u.Asks = append(u.Asks, l)
		}
	}
	next := book.New()
	next.Reset(last.LastID(), last.AppendBids(nil, -1), last.AppendAsks(nil, -1))
	next.Apply(&u)
	w.events, w.books = append(w.events, u), append(w.books, next)
	for i := range w.wires {
		if w.up[i] {
			w.wires[i] = append(w.wires[i], len(w.events)-1)
		}
	}
}

// snapshot returns what the exchange shows so many events ago. within asks for an id inside the event after that, of
// which each level may or may not have come to pass: always the same ones.
func (w *world) snapshot(ago int, within bool) *market.Snapshot {
	at := max(len(w.events)-ago, 0)
	shown, id := w.books[at], w.books[at].LastID()
	if within && at < len(w.events) && w.events[at].LastID > w.events[at].FirstID {
		part := w.events[at]
		part.LastID--
		chance := rand.New(rand.NewPCG(uint64(part.LastID), 2))
		half := func(levels []market.Level) []market.Level {
			return slices.DeleteFunc(slices.Clone(levels), func(market.Level) bool { return chance.IntN(2) == 0 })
		}
		part.Bids, part.Asks = half(part.Bids), half(part.Asks)
		b := book.New()
		b.Reset(id, shown.AppendBids(nil, -1), shown.AppendAsks(nil, -1))
		b.Apply(&part)
		shown, id = b, part.LastID
	}
	w.snapshots = append(w.snapshots, snapshotKey{id, w.clock()})
	return &market.Snapshot{
		LastID: id, EventTime: w.clock(), RecvTime: market.TimeOf(w.now),
		Bids: shown.AppendBids(nil, fuzzSnapshot), Asks: shown.AppendAsks(nil, fuzzSnapshot),
	}
}

// pass lets time pass, and what is due happen.
func (w *world) pass(d time.Duration) {
	until := w.now.Add(d)
	for steps := 0; ; steps++ {
		if steps > 1000 {
			w.t.Fatal("what is due stays due")
		}
		next := w.depth.deadline()
		if next.IsZero() || next.After(until) {
			w.now = until
			return
		}
		if next.After(w.now) {
			w.now = next
		}
		w.depth.expire(context.Background(), w.now)
	}
}

func (w *world) connect(i int) {
	if w.up[i] {
		return
	}
	w.up[i] = true
	if w.links.connected(w.now) {
		w.depth.online(w.now)
	}
}

func (w *world) disconnect(i int) {
	if !w.up[i] {
		return
	}
	w.up[i], w.wires[i] = false, nil
	if w.links.disconnected(w.now) {
		w.depth.offline(w.now)
	}
}

// deliver hands the first event of a wire over.
func (w *world) deliver(i int) {
	if len(w.wires[i]) == 0 {
		return
	}
	u := w.events[w.wires[i][0]]
	w.wires[i] = w.wires[i][1:]
	u.RecvTime = market.TimeOf(w.now)
	w.depth.update(context.Background(), &u, w.now)
}

// answer answers what was asked of the exchange, as well as it can, or with an old, partial or no snapshot.
func (w *world) answer(how byte) {
	err := errors.New("no answer")
	old := int(how/4) % fuzzAgo
	s := w.snapshot(old, how%4 == 1)
	if how%4 == 0 && how > 200 {
		s = &market.Snapshot{}
	} else {
		err = nil
	}
	w.reply(s, err)
	if w.turn {
		w.turn = false
		w.auditing = w.depth.beginAudit(w.now)
	}
}

// reply answers all that was asked of the exchange.
func (w *world) reply(s *market.Snapshot, err error) {
	ctx := context.Background()
	if w.fetching {
		w.fetching = false
		w.depth.receive(ctx, s, err, w.now)
	}
	if w.asking {
		w.asking = false
		w.depth.answered(ctx, s.LastID, err, w.now)
	}
	if w.auditing {
		w.auditing = false
		w.depth.audited(ctx, s, err, w.now)
	}
}

// nonsense is an update that never was: its ids, or the last one only, are far beyond the exchange's.
func (w *world) nonsense(whole bool) *market.DepthUpdate {
	last := w.books[len(w.books)-1].LastID()
	u := market.DepthUpdate{
		FirstID: last + 1, LastID: last + w.far(), EventTime: w.clock(), RecvTime: market.TimeOf(w.now),
		Bids: []market.Level{{Price: 100e8, Quantity: 1e8}},
	}
	if whole {
		u.FirstID = u.LastID - 3
	}
	u.PrevID = u.FirstID - 1
	return &u
}

// far is a distance of ids that is hard to believe, another one each time.
func (w *world) far() int64 {
	w.lies++
	return 5 * maxJump * w.lies
}

// lie answers what was asked of the exchange with an id far beyond it, or with an empty book.
func (w *world) lie(far bool) {
	s := w.snapshot(0, false)
	if far && w.depth.need() == 0 || !far && w.depth.hollow.answers > 0 {
		return // nothing contradicts it, or it was said before, and so would be believed
	}
	if far {
		s.LastID += w.far()
	} else {
		s.Bids, s.Asks = nil, nil
	}
	w.reply(s, nil)
}

// play carries the script out: two bytes a step.
func (w *world) play() {
	for step := range slices.Chunk(w.script, 2) {
		if len(step) < 2 || len(w.events) > fuzzUpdates {
			return
		}
		arg := step[1]
		i := int(arg) % 2
		switch wire := w.wires[i]; step[0] % 26 {
		default: // mostly all is well
			w.happen()
			w.deliver(0)
			w.deliver(1)
			w.pass(time.Duration(arg) * time.Millisecond / 4)
		case 8:
			w.happen()
		case 9:
			w.deliver(i)
		case 10: // lost
			if len(wire) > 0 {
				w.wires[i] = wire[1:]
			}
		case 11: // out of order
			if len(wire) > 1 {
				wire[0], wire[1] = wire[1], wire[0]
			}
		case 12: // twice
			if len(wire) > 0 {
				w.wires[i] = slices.Insert(wire, 0, wire[0])
			}
		case 13: // much later
			if len(wire) > 0 && len(wire) < 100 {
				w.wires[i] = append(wire[1:], wire[0])
			}
		case 14:
			w.pass(time.Duration(arg) * 10 * time.Millisecond)
		case 15:
			w.connect(i)
		case 16:
			w.disconnect(i)
		case 17, 18:
			w.answer(arg)
		case 19: // a frame that cannot be read, or found no room
			if len(wire) > 0 {
				w.wires[i] = wire[1:]
				w.depth.doubtful(market.CauseMalformed, w.now)
			}
		case 20: // in place of the next event, or beside it
			u := w.nonsense(arg%3 == 0)
			if w.happen(); len(wire) > 0 && arg%2 == 0 {
				w.wires[i] = wire[1:]
			}
			if w.up[i] {
				w.depth.update(context.Background(), u, w.now)
			}
		case 21, 22:
			w.lie(arg%3 > 0)
		case 23:
			w.sink.refusals = int(arg) % 8
		case 24, 25:
			w.skew = time.Duration(arg) * time.Second / 4
		}
	}
}

// end lets everything come to rest: the stream is whole again and questions are answered.
func (w *world) end() {
	w.wires, w.sink.refusals = [2][]int{}, 0
	w.connect(0)
	for rounds := range 100 {
		w.happen()
		w.deliver(0)
		w.answer(2)
		w.pass(time.Second)
		if rounds > 5 && w.depth.state() == market.StateSynced && !w.fetching {
			w.happen()
			w.deliver(0)
			w.depth.flush(context.Background())
			if a := &w.depth.audits; a.at.IsZero() && a.running == nil && !w.turn && !w.auditing {
				w.t.Fatal("no audit is planned")
			}
			return
		}
	}
	w.t.Fatalf("not synced: state %s, %d wait, recorded up to %d of %d",
		w.depth.state(), len(w.depth.pending.updates), w.depth.lastID, w.events[len(w.events)-1].LastID)
}

// index returns which event has that last id, or -1.
func (w *world) index(lastID int64) int {
	i, ok := slices.BinarySearchFunc(w.events, lastID, func(u market.DepthUpdate, id int64) int { return cmp.Compare(u.LastID, id) })
	if !ok {
		return -1
	}
	return i
}

// check holds what was recorded against what happened: each id is either recorded, once and in order, or in a ledger
// entry, but not both; and each book that follows from the records is the exchange's.
func (w *world) check() {
	var decoder tape.Decoder
	var recorded []market.DepthUpdate
	last := int64(0)
	missing, lastWord := w.missing()
	for i := range w.sink.batch.Blocks {
		updates, err := decoder.Depth(w.sink.batch.Blocks[i].Data)
		if err != nil {
			w.t.Fatal(err)
		}
		for _, u := range updates {
			if w.index(u.LastID) < 0 || u.PrevID < last {
				w.t.Fatalf("update %d to %d stands behind %d", u.FirstID, u.LastID, last)
			}
			for id := last + 1; last != 0 && id < u.FirstID; id++ {
				if !missing[id] {
					w.t.Fatalf("%d is missing, and no ledger entry says so", id)
				}
			}
			for id := u.FirstID; id <= u.LastID; id++ {
				if lastWord[id] && !w.shown(id, u.LastID) {
					w.t.Fatalf("%d is recorded, and said to be missing", id)
				}
			}
			last = u.LastID
			u.Bids, u.Asks = slices.Clone(u.Bids), slices.Clone(u.Asks)
			recorded = append(recorded, u)
		}
	}
	if want := w.events[len(w.events)-1].LastID; last != want {
		w.t.Fatalf("recorded up to %d of %d", last, want)
	}
	for i := range w.sink.batch.Keyframes {
		w.replay(&w.sink.batch.Keyframes[i], recorded)
	}
	w.checkClock(recorded)
}

// shown reports whether the exchange gave out a snapshot with an id in [first, end): it may have ended a hole before the
// update within which it stands came after all.
func (w *world) shown(first, end int64) bool {
	return slices.ContainsFunc(w.snapshots, func(s snapshotKey) bool { return first <= s.id && s.id < end })
}

// checkClock holds what the ledger says of the exchange's clock against what happened: a step back between two updates
// that follow each other in the records is told of between them, be it by the entry of the hole there, which ends earlier
// than it begins; and no step is told that was none, nor one twice.
func (w *world) checkClock(recorded []market.DepthUpdate) {
	ledger := w.ledger()
	for i := 1; i < len(recorded); i++ {
		before, u := &recorded[i-1], &recorded[i]
		told, dated, holes := 0, 0, 0
		for _, g := range ledger {
			switch {
			case g.FirstID <= before.LastID || g.FirstID > u.LastID:
			case g.Cause == market.CauseClock && w.dated(&g): // by a snapshot that turned out to be older
				dated++
			case g.Cause == market.CauseClock:
				told++
			case stepsBack(g.Start, g.End):
				holes++
			}
		}
		if told+dated+holes == 0 && stepsBack(before.EventTime, u.EventTime) {
			w.t.Fatalf("the clock stepped from %v to %v before %d, and nobody says so", before.EventTime, u.EventTime, u.LastID)
		}
		if happened := w.stepsBetween(before, u); told > happened {
			w.t.Fatalf("the clock stepped back %d times, %d are told of before %d", happened, told, u.LastID)
		}
	}
	steps := slices.DeleteFunc(ledger, func(g market.Gap) bool { return g.Cause != market.CauseClock })
	if counted := w.counted(market.CauseClock); counted != len(steps) {
		w.t.Fatalf("%d steps counted, %d in the ledger", counted, len(steps))
	}
}

// dated reports whether a step starts not at the time of an event before it but at that of a snapshot, which may be as
// early as the first update beyond it.
func (w *world) dated(step *market.Gap) bool {
	before := func(u market.DepthUpdate) bool { return u.LastID < step.FirstID && u.EventTime == step.Start }
	behind := func(u market.DepthUpdate) bool { return u.LastID >= step.FirstID && u.EventTime == step.Start }
	given := func(s snapshotKey) bool { return s.at == step.Start }
	return !slices.ContainsFunc(w.events, before) &&
		(slices.ContainsFunc(w.snapshots, given) || slices.ContainsFunc(w.events, behind))
}

// stepsBetween returns how often the exchange's clock stepped back, be it in several strides, from one event to another,
// or to what a snapshot was dated by: it may be older than its time.
func (w *world) stepsBetween(before, u *market.DepthUpdate) (n int) {
	latest := before.EventTime
	for at := w.index(before.LastID) + 1; at <= min(w.index(u.LastID)+fuzzAgo, len(w.events)-1); at++ {
		shown := w.events[at].EventTime
		if latest = max(latest, shown); stepsBack(latest, shown) {
			n, latest = n+1, shown
		}
	}
	return n
}

// counted returns how often the cause was counted.
func (w *world) counted(cause market.Cause) (n int) {
	families, err := w.registry.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			for _, label := range m.GetLabel() {
				if family.GetName() == "tapedeck_gaps_total" && label.GetValue() == string(cause) {
					n += int(m.GetCounter().GetValue())
				}
			}
		}
	}
	return n
}

// ledger returns all entries of the ledger, as a store merges them.
func (w *world) ledger() []market.Gap {
	store, ctx := storetest.NewMemory(), context.Background()
	if err := store.Write(ctx, &market.Batch{Gaps: w.sink.batch.Gaps}); err != nil {
		w.t.Fatal(err)
	}
	all := market.GapQuery{Market: w.depth.writer.series.Market, To: math.MaxInt64, Limit: math.MaxInt}
	entries, err := store.Gaps(ctx, all)
	if err != nil {
		w.t.Fatal(err)
	}
	return entries
}

// missing returns the ids that the ledger says are missing, and those that the last word on each entry does: where less
// turned out to be missing than was thought, a store still has the greater last id, of which readers subtract what is held.
func (w *world) missing() (all, lastWord map[int64]bool) {
	last := map[market.GapKey]market.Gap{}
	for _, g := range w.sink.batch.Gaps {
		last[g.Key()] = g
	}
	all, lastWord = map[int64]bool{}, map[int64]bool{}
	for _, g := range w.ledger() {
		if g.Cause == market.CauseCrossed || g.Cause == market.CauseAudit {
			w.t.Fatalf("the book was never wrong: %+v", g)
		}
		if last := w.books[len(w.books)-1].LastID(); g.LastID > last {
			w.t.Fatalf("the exchange is at %d: %+v", last, g)
		}
		if g.RepairedAt == 0 || g.End == 0 {
			w.t.Fatalf("nobody ended %+v", g)
		}
		for id := g.FirstID; id <= g.LastID; id++ {
			all[id] = true
			lastWord[id] = lastWord[id] || id <= last[g.Key()].LastID
		}
	}
	return all, lastWord
}

// replay builds the book of a keyframe and brings the recorded updates in, up to the next hole.
func (w *world) replay(k *market.Keyframe, recorded []market.DepthUpdate) {
	var decoder tape.Decoder
	bids, asks, err := decoder.Book(k.Data)
	if err != nil {
		w.t.Fatal(err)
	}
	b := book.New()
	b.Reset(k.UpdateID, bids, asks)
	w.compare(b, k)
	for i := range recorded {
		switch b.Apply(&recorded[i]) {
		case book.Gap:
			return
		case book.Applied:
			w.compare(b, k)
		case book.Stale:
		}
	}
}

// compare holds a book against the exchange's at its id, as deep as it is verified.
func (w *world) compare(b *book.Book, k *market.Keyframe) {
	at := w.index(b.LastID())
	if at < 0 { // inside an event
		return
	}
	truth := w.books[at+1]
	bids, asks := b.AppendBids(nil, b.CountBids(k.VerifiedBid)), b.AppendAsks(nil, b.CountAsks(k.VerifiedAsk))
	wantBids := truth.AppendBids(nil, truth.CountBids(k.VerifiedBid))
	wantAsks := truth.AppendAsks(nil, truth.CountAsks(k.VerifiedAsk))
	if !slices.Equal(bids, wantBids) || !slices.Equal(asks, wantAsks) {
		w.t.Fatalf("the book at %d, from the keyframe @%d of snapshot %d, is\n%v %v, want\n%v %v",
			b.LastID(), k.UpdateID, k.SnapshotID, bids, asks, wantBids, wantAsks)
	}
}

// FuzzDepth plays any order of events, losses, answers and moments against the model.
func FuzzDepth(f *testing.F) {
	add := func(rng *rand.Rand, steps int) {
		script := []byte{15, 0}
		for range steps {
			script = append(script, byte(rng.IntN(256)), byte(rng.IntN(256)))
		}
		f.Add(script)
	}
	for seed := range uint64(60) {
		add(rand.New(rand.NewPCG(seed, 7)), 400)
	}
	for range 10 { // the clock steps between a book and its loss, if delays are such
		rng := rand.New(rand.NewPCG(390, 99))
		add(rng, 200+rng.IntN(600))
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		w := newWorld(t, script)
		w.play()
		w.end()
		w.check()
	})
}
