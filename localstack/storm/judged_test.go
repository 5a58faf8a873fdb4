package storm

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"tapedeck/localstack/exchange"
	"tapedeck/localstack/faults"
	"tapedeck/shared/book"
	"tapedeck/shared/market"
	"tapedeck/shared/tape"
)

// fakeStore holds one series.
type fakeStore struct {
	blocks    []market.Block
	told      int // of them
	gaps      []market.Gap
	keyframes []market.Keyframe
}

func (f *fakeStore) Blocks(_ context.Context, q market.BlockQuery) ([]market.Block, error) {
	page := f.blocks[f.told:min(f.told+q.Limit, len(f.blocks))]
	f.told += len(page)
	return page, nil
}

func (f *fakeStore) Gaps(context.Context, market.GapQuery) ([]market.Gap, error) { return f.gaps, nil }
func (f *fakeStore) Close(context.Context) error                                 { return nil }

func (f *fakeStore) Keyframe(_ context.Context, _ market.Market, at market.Time) (market.Keyframe, error) {
	for _, k := range slices.Backward(f.keyframes) {
		if k.EventTime <= at {
			return k, nil
		}
	}
	return market.Keyframe{}, market.Errorf(market.KindNotFound, "there is none")
}

const fakeEvents = 1000

// fake is what a judge is shown: a series of 1000 events with one id each. A test leaves some of them out of what is held
// or of what was read.
type fake struct {
	stream     market.Stream
	missing    idRange // not held; the ledger says so, with the cause
	cause      market.Cause
	unread     idRange // nobody had them
	backfilled idRange
	fault      string        // at work all the time
	killed     time.Duration // after the last event; 0 = the process was asked to stop in the end
	bookless   bool          // no book was ever stored
}

func (i idRange) has(id int64) bool { return i.first <= id && id <= i.last }

func (f *fake) judge(t *testing.T) []string {
	t.Helper()
	dir := t.TempDir()
	w, err := newWeather(filepath.Join(dir, "weather"))
	if err != nil {
		t.Fatal(err)
	}
	truth, err := newTruth(dir)
	if err != nil {
		t.Fatal(err)
	}
	series := market.Series{Market: market.Market{Exchange: market.Binance, Symbol: "SYN001USDT"}, Stream: f.stream}
	store, read := &fakeStore{}, &receipts{series: map[market.Series][]receipt{}}
	l := life{from: time.Now()}
	base := milliseconds(l.from.UnixMilli())
	if f.stream == market.Depth && !f.bookless {
		store.keyframes = []market.Keyframe{{
			Market: series.Market, UpdateID: 0, EventTime: base, RecvTime: market.TimeOf(time.Now()), Data: tape.EncodeBook(nil, nil),
		}}
	}
	for id := int64(1); id <= fakeEvents; id++ {
		at := base.Add(time.Duration(id) * time.Millisecond)
		text := fmt.Sprintf(`{"data":{"e":"trade","E":%d,"T":%[1]d,"t":%d,"p":"1","q":"1","m":true}}`, at/1e6, id)
		if f.stream == market.Depth {
			text = fmt.Sprintf(`{"data":{"e":"depthUpdate","E":%d,"U":%d,"u":%[2]d,"b":[["1","1"]],"a":[]}}`, at/1e6, id)
		}
		truth.observe(streamOf(series), []byte(text))
		var e event
		if err := e.parse([]byte(text)); err != nil {
			t.Fatal(err)
		}
		if !f.missing.has(id) {
			store.blocks = append(store.blocks, blockOf(series, &e, f.backfilled.has(id)))
		}
		if !f.unread.has(id) {
			read.note(exchange.Receipt{Stream: streamOf(series), FirstID: id, LastID: id, Asked: time.Now(), Echoed: time.Now()})
		}
	}
	l.to, l.killed = time.Now().Add(f.killed), f.killed > 0
	if f.cause != "" {
		store.gaps = []market.Gap{{
			Series: series, Cause: f.cause, FirstID: f.missing.first, LastID: f.missing.last,
			DetectedAt: market.TimeOf(l.to), RepairedAt: market.TimeOf(l.to), Repair: market.RepairResumed,
		}}
	}
	if f.fault != "" {
		script, err := faults.Parse(f.fault)
		if err != nil {
			t.Fatal(err)
		}
		w.fault(script.Faults[0], nil)
	}
	if err := truth.seal(); err != nil {
		t.Fatal(err)
	}
	j := &judge{
		t: t, store: store, truth: truth, weather: w, receipts: read, lives: []life{l},
		books:  map[string]market.Snapshot{series.Market.Symbol: {}},
		inREST: func(string, int64) (bool, error) { return false, nil },
		counts: counts{Entries: map[market.Cause]int{}},
	}
	if err := j.series(series, fakeEvents); err != nil {
		t.Fatal(err)
	}
	return j.problems
}

// blockOf returns a block of one event.
func blockOf(series market.Series, e *event, backfilled bool) (b market.Block) {
	if series.Stream == market.Depth {
		var builder tape.DepthBuilder
		e.update.RecvTime = e.time
		builder.Append(&e.update)
		b = builder.Finish()
	} else {
		var builder tape.TradeBuilder
		e.trade.RecvTime = e.time
		if backfilled {
			e.trade.Flags |= market.TradeFlagBackfilled
			e.trade.SentTime = 0
		}
		builder.Append(&e.trade)
		b = builder.Finish()
	}
	b.Series = series
	return b
}

// The judge sees each loss, whatever else goes wrong, and nothing where there is none.
func TestJudge(t *testing.T) {
	t.Parallel()
	some := idRange{first: 500, last: 510}
	early := idRange{first: 1, last: 20}
	const cut, other = "cut", "drop count=1 stream=syn002usdt@depth"
	for name, c := range map[string]struct {
		fake fake
		want string // "" = no problem
	}{
		"all is held":                 {fake{}, ""},
		"lost on a bad day":           {fake{missing: some, cause: market.CauseDisconnect, fault: cut}, "were read by process 1, and are missing"},
		"lost in silence":             {fake{missing: some, fault: cut}, "the ledger does not say so"},
		"never came":                  {fake{missing: some, unread: some, cause: market.CauseDisconnect, fault: cut}, ""},
		"never came, in fair weather": {fake{missing: some, unread: some, cause: market.CauseDisconnect}, "nothing went wrong then"},
		"never came, and the weather was bad elsewhere": {
			fake{missing: some, unread: some, cause: market.CauseSequence, fault: other}, "nothing went wrong then",
		},
		"never came, for another reason": {
			fake{missing: some, unread: some, cause: market.CauseMalformed, fault: cut}, "nothing went wrong that this could come of",
		},
		"its connection ended by another stream's fault": {
			fake{missing: some, unread: some, cause: market.CauseDisconnect, fault: "frame-torn stream=syn002usdt@depth"}, "",
		},
		"swapped is no reason": {
			fake{missing: some, unread: some, cause: market.CauseSequence, fault: "reorder for=250ms"}, "nothing went wrong then",
		},
		"lost before the first one": {fake{missing: early, fault: cut}, "were read by process 1, and are missing"},
		"died with the process": {
			fake{missing: idRange{first: 990, last: 999}, cause: market.CauseDisconnect, fault: cut, killed: durable / 2}, "",
		},
		"died too late": {
			fake{missing: idRange{first: 990, last: 999}, cause: market.CauseDisconnect, fault: cut, killed: 2 * alone},
			"were read by process 1, and are missing",
		},
	} {
		for _, stream := range []market.Stream{market.Depth, market.Trades} {
			t.Run(name+", "+string(stream), func(t *testing.T) {
				t.Parallel()
				f := c.fake
				f.stream = stream
				if f.killed > 0 { // too little of it is owed
					expect(t, slices.DeleteFunc(f.judge(t), isOfLittle), c.want)
					return
				}
				expect(t, f.judge(t), c.want)
			})
		}
	}
	backfilled := fake{stream: market.Trades, backfilled: some, fault: cut}
	expect(t, backfilled.judge(t), "had to be fetched again")
	backfilled.unread = some
	expect(t, backfilled.judge(t), "")
	overtaken := fake{stream: market.Trades, backfilled: idRange{first: 1, last: 1}, fault: "reorder count=1000"}
	expect(t, overtaken.judge(t), "")
	overtaken.fault = cut
	expect(t, overtaken.judge(t), "had to be fetched again")
	overtaken.backfilled.last, overtaken.fault = 2, "reorder count=1000"
	expect(t, overtaken.judge(t), "had to be fetched again")
	bookless := fake{stream: market.Depth, bookless: true}
	expect(t, bookless.judge(t), "no book is stored")
}

// isOfLittle reports whether a problem is that too little was judged.
func isOfLittle(problem string) bool { return strings.Contains(problem, "it is known of none") }

// expect looks for a problem; for "" there must be none.
func expect(t *testing.T, problems []string, want string) {
	t.Helper()
	if want == "" && len(problems) > 0 || want != "" && !strings.Contains(strings.Join(problems, "\n"), want) {
		t.Errorf("the judge says\n%s\nwant %q", strings.Join(problems, "\n"), want)
	}
}

// An answer of the API is compared whatever the exchange's clock does, but for questions by a time that it showed twice.
func TestAnswersAreCompared(t *testing.T) {
	t.Parallel()
	right := [][2]string{{"1", "1"}}
	wrong := [][2]string{{"2", "2"}}
	for name, c := range map[string]struct {
		id        int64
		bids      [][2]string
		ambiguous bool
		want      string
	}{
		"right":                       {id: 700, bids: right},
		"wrong levels":                {id: 700, bids: wrong, want: "gives a wrong book"},
		"wrong levels, ambiguous":     {id: 700, bids: wrong, ambiguous: true, want: "gives a wrong book"},
		"of another event":            {id: 12, bids: right, want: "gives the book up to id 12"},
		"of another event, ambiguous": {id: 12, bids: wrong, ambiguous: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			j := &judge{t: t}
			b := book.New()
			b.Reset(700, []market.Level{{Price: market.DecimalOne, Quantity: market.DecimalOne}}, nil)
			e := &event{firstID: 700, lastID: 700}
			var got answer
			got.Meta.State, got.Meta.Verified.Bids = "synced", 1
			got.Data.LastID, got.Data.Bids = c.id, c.bids
			(&api{t: t, judge: j}).compare(&sample{made: e, held: e, book: b, known: true}, "update_id=700", 700, c.ambiguous, got)
			expect(t, j.problems, c.want)
		})
	}
}

// TestMachineThatStoodStill has a trouble last longer by the time in which nothing ran.
func TestMachineThatStoodStill(t *testing.T) {
	t.Parallel()
	second := func(n int) time.Time { return time.Unix(int64(n), 0) }
	w := &weather{stills: []still{{second(20), second(30)}, {second(40), second(50)}}}
	for _, c := range []struct {
		from, to, at int
		want         bool
	}{
		{15, 25, 35, true},  // ten seconds of it were none
		{15, 25, 36, false}, // the machine ran for eleven
		{15, 35, 55, true},  // both
		{35, 45, 20, true},  // just before the first
		{35, 45, 19, false}, // more than before
		{60, 70, 71, false},
	} {
		if got := w.covers(&trouble{from: second(c.from), to: second(c.to)}, second(c.at)); got != c.want {
			t.Errorf("trouble from %d to %d, at %d: %v", c.from, c.to, c.at, got)
		}
	}
}
