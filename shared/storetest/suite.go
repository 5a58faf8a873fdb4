package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"tapedeck/shared/market"
)

// Fresh makes a new, empty store and returns a function that opens it; each call opens it once more, as another process
// would. The suite closes what it opens.
type Fresh func(t *testing.T) (open func(t *testing.T) Store)

// Run runs the conformance suite.
func Run(t *testing.T, fresh Fresh) {
	for name, test := range map[string]func(*testing.T, func() Store){
		"EmptyStore":          testEmpty,
		"RoundTrip":           testRoundTrip,
		"ExtremeValues":       testExtremeValues,
		"BigData":             testBigData,
		"BigBatch":            testBigBatch,
		"InvalidRecords":      testInvalidRecords,
		"OrderAndPaging":      testOrderAndPaging,
		"TailAndBlockByID":    testTailAndBlockByID,
		"KeyframeAt":          testKeyframeAt,
		"PrefixedNames":       testPrefixedNames,
		"SpansMerge":          testSpansMerge,
		"SpanBorders":         testSpanBorders,
		"GapsMerge":           testGapsMerge,
		"GapsHeld":            testGapsHeld,
		"GapsBeside":          testGapsBeside,
		"GapBorders":          testGapBorders,
		"GapTurnedRound":      testGapTurnedRound,
		"NewerListingStays":   testNewerListingStays,
		"TwoWritersShuffled":  testTwoWritersShuffled,
		"SeenByOthersAtOnce":  testSeenByOthers,
		"StaysAfterClose":     testStaysAfterClose,
		"ClosedIsUnavailable": testClosed,
		"CancelledContext":    testCancelled,
		"LimitBelowOne":       testLimitBelowOne,
		"BehavesLikeTheModel": testModel,
		"BatchIsTheCallers":   testBatchIsNotChanged,
	} {
		t.Run(name, func(t *testing.T) {
			open := fresh(t)
			test(t, func() Store {
				s := open(t)
				t.Cleanup(func() { s.Close(context.WithoutCancel(t.Context())) }) //nolint:errcheck // may be closed
				return s
			})
		})
	}
}

const (
	second = market.Time(1e9)
	t0     = 1_723_000_000 * second // some moment in August 2024, at a block window's border
	always = market.Time(math.MaxInt64)
)

var (
	btc     = market.Series{Market: market.Market{Exchange: market.Binance, Symbol: "BTC"}, Stream: market.Depth}
	btcusdt = market.Series{Market: market.Market{Exchange: market.Binance, Symbol: "BTCUSDT"}, Stream: market.Depth}
	trades  = market.Series{Market: btcusdt.Market, Stream: market.Trades}
	chinese = market.Series{Market: market.Market{Exchange: market.Binance, Symbol: "币安人生USDT"}, Stream: market.Depth}
)

func block(series market.Series, start market.Time, first, last int64) market.Block {
	return market.Block{
		Series: series, FirstID: first, LastID: last, PrevID: first - 1, SpanID: min(first, 7),
		Start: start, End: start.Truncate(market.BlockWindow) + second - 1, Events: 10,
		Data: fmt.Appendf(nil, "%v %d %d-%d", series, start, first, last),
	}
}

func keyframe(m market.Market, at market.Time, id int64) market.Keyframe {
	return market.Keyframe{
		Market: m, UpdateID: id, EventTime: at, RecvTime: at + 3, SnapshotID: id / 2, UpdatesApplied: id / 3,
		FirstUpdateID: id/2 + 1, VerifiedBid: 5_900_000_000_001, VerifiedAsk: 6_100_000_000_001,
		Data: fmt.Appendf(nil, "%v %d %d", m, at, id),
	}
}

func span(series market.Series, start, end market.Time, first, last int64) market.Span {
	return market.Span{Series: series, FirstID: first, PrevID: first - 1, LastID: last, Start: start, End: end}
}

func gap(series market.Series, start, end market.Time, first, last int64) market.Gap {
	return market.Gap{
		Series: series, Cause: market.CauseDisconnect, FirstID: first, LastID: last, Start: start, End: end,
		RecvStart: start + 1, RecvEnd: end, DetectedAt: start + 2,
	}
}

func repaired(g market.Gap, end market.Time) market.Gap {
	g.End, g.RecvEnd, g.RepairedAt, g.Repair = end, end+1, end+2, "snapshot"
	return g
}

func listing(m market.Market, at market.Time, status string) market.Listing {
	return market.Listing{Market: m, Status: status, TickSize: 1_000_000, LotSize: 1_000, UpdatedAt: at}
}

func status(name string, at market.Time, markets ...market.Market) market.RecorderStatus {
	s := market.RecorderStatus{Recorder: name, Version: "v1", StartedAt: t0, UpdatedAt: at, Stopped: at%2 == 1}
	for _, m := range markets {
		s.Markets = append(s.Markets, market.MarketStatus{
			Market: m, State: market.StateSynced, LastUpdateID: 50093696318, LastTradeID: 3716063440,
			EventTime: at - 2, RecvTime: at - 1,
		})
	}
	return s
}

func mustWrite(t *testing.T, s Store, batches ...*market.Batch) {
	t.Helper()
	for _, b := range batches {
		if err := s.Write(t.Context(), b); err != nil {
			t.Fatalf("Write: %v", err)
		}
	}
}

func wantKind(t *testing.T, err error, kind market.Kind) {
	t.Helper()
	if err == nil || market.KindOf(err) != kind {
		t.Errorf("error %v is of kind %q, want %q", err, market.KindOf(err), kind)
	}
}

// equality takes empty for nil, and data as one value: element by element, megabytes take minutes.
var equality = cmp.Options{
	cmpopts.EquateEmpty(),
	cmp.FilterValues(func(a, b []byte) bool { return len(a)+len(b) > 0 }, cmp.Comparer(bytes.Equal)),
}

// same fails the test unless got is want and err is nil. Empty and nil slices are the same.
func same[T any](t *testing.T, what string, want, got T, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if diff := cmp.Diff(want, got, equality); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func withoutData(b market.Block) market.Block {
	b.Data = nil
	return b
}

func testEmpty(t *testing.T, open func() Store) {
	s, ctx := open(), t.Context()
	if err := s.Ping(ctx); err != nil {
		t.Errorf("Ping: %v", err)
	}
	mustWrite(t, s, &market.Batch{})
	_, err := s.Tail(ctx, btc)
	wantKind(t, err, market.KindNotFound)
	_, err = s.BlockByID(ctx, btc, 0)
	wantKind(t, err, market.KindNotFound)
	_, err = s.Keyframe(ctx, btc.Market, always)
	wantKind(t, err, market.KindNotFound)
	blocks, err := s.Blocks(ctx, market.BlockQuery{Series: btc, To: always, Limit: 10})
	same(t, "Blocks", nil, blocks, err)
	spans, err := s.Spans(ctx, btc, 0, always, 10)
	same(t, "Spans", nil, spans, err)
	gaps, err := s.Gaps(ctx, market.GapQuery{Market: btc.Market, To: always, Limit: 10})
	same(t, "Gaps", nil, gaps, err)
	listings, err := s.Listings(ctx)
	same(t, "Listings", nil, listings, err)
	recorders, err := s.Recorders(ctx)
	same(t, "Recorders", nil, recorders, err)
}

// sample is a batch with something of everything.
func sample() *market.Batch {
	return &market.Batch{
		Blocks:    []market.Block{block(btcusdt, t0, 100, 119), block(btcusdt, t0+second, 120, 130), block(trades, t0, 5, 9)},
		Keyframes: []market.Keyframe{keyframe(btcusdt.Market, t0, 99), keyframe(btcusdt.Market, t0+second, 130)},
		Spans:     []market.Span{span(btcusdt, t0, t0+2*second, 100, 130), span(trades, t0, t0+second, 5, 9)},
		Gaps:      []market.Gap{gap(btcusdt, t0+2*second, 0, 131, 131), repaired(gap(trades, t0, 0, 10, 12), t0+second)},
		Listings:  []market.Listing{listing(btcusdt.Market, t0, "TRADING"), listing(btc.Market, t0, "")},
		Statuses:  []market.RecorderStatus{status("one", t0, btc.Market, btcusdt.Market), status("two", t0+1)},
	}
}

func testRoundTrip(t *testing.T, open func() Store) {
	s, model := open(), NewMemory()
	for range 2 { // the second time changes nothing
		mustWrite(t, s, sample())
		mustWrite(t, model, sample())
		sameContents(t, model, s, btcusdt, trades, btc)
	}
	// What the model itself is trusted for, spelt out once.
	blocks, err := s.Blocks(t.Context(), market.BlockQuery{Series: btcusdt, From: t0, To: t0 + 2*second, Limit: 10})
	same(t, "Blocks", sample().Blocks[:2], blocks, err)
	k, err := s.Keyframe(t.Context(), btcusdt.Market, t0+second-1)
	same(t, "Keyframe", sample().Keyframes[0], k, err)
	gaps, err := s.Gaps(t.Context(), market.GapQuery{Market: btcusdt.Market, To: always, Limit: 10})
	same(t, "Gaps", []market.Gap{sample().Gaps[1], sample().Gaps[0]}, gaps, err)
	statuses, err := s.Recorders(t.Context())
	same(t, "Recorders", sample().Statuses, statuses, err)
}

// sameContents compares everything that s holds of some series, and all listings and recorders, with the model.
func sameContents(t *testing.T, model, s Store, series ...market.Series) {
	t.Helper()
	sameSeries(t, model, s, series...)
	ctx := t.Context()
	wantListings, _ := model.Listings(ctx)
	listings, err := s.Listings(ctx)
	same(t, "Listings", wantListings, listings, err)
	wantRecorders, _ := model.Recorders(ctx)
	recorders, err := s.Recorders(ctx)
	same(t, "Recorders", wantRecorders, recorders, err)
}

// sameSeries compares everything that s holds of some series with the model.
func sameSeries(t *testing.T, model, s Store, series ...market.Series) {
	t.Helper()
	ctx := t.Context()
	for _, series := range series {
		q := market.BlockQuery{Series: series, To: always, Limit: 10_000}
		want, _ := model.Blocks(ctx, q)
		got, err := s.Blocks(ctx, q)
		same(t, fmt.Sprintf("Blocks of %v", series), want, got, err)
		wantSpans, _ := model.Spans(ctx, series, 0, always, 10_000)
		spans, err := s.Spans(ctx, series, 0, always, 10_000)
		same(t, fmt.Sprintf("Spans of %v", series), wantSpans, spans, err)
		gq := market.GapQuery{Market: series.Market, Stream: series.Stream, To: always, Limit: 10_000}
		wantGaps, _ := model.Gaps(ctx, gq)
		gaps, err := s.Gaps(ctx, gq)
		same(t, fmt.Sprintf("Gaps of %v", series), wantGaps, gaps, err)
		wantFrame, wantErr := model.Keyframe(ctx, series.Market, always)
		frame, err := s.Keyframe(ctx, series.Market, always)
		if wantErr != nil {
			wantKind(t, err, market.KindNotFound)
		} else {
			same(t, fmt.Sprintf("Keyframe of %v", series), wantFrame, frame, err)
		}
	}
}

func testExtremeValues(t *testing.T, open func() Store) {
	const most = math.MaxInt64
	s, model := open(), NewMemory()
	last := market.Time(most).Truncate(market.BlockWindow)
	b := block(chinese, last, 1<<62, most)
	b.End, b.SpanID, b.Events = most, most, market.MaxBlockEvents
	zero := block(trades, 1, 0, 0) // trade ids begin at 0
	g := repaired(gap(chinese, 1, 0, most, most), most-2)
	g.Start, g.End, g.RecvStart, g.RecvEnd, g.DetectedAt, g.RepairedAt = most, most, most, most, most, most
	batch := &market.Batch{
		Blocks: []market.Block{b, zero},
		Keyframes: []market.Keyframe{
			{
				Market: chinese.Market, UpdateID: most, EventTime: most, RecvTime: most, SnapshotID: most,
				UpdatesApplied: most, FirstUpdateID: most, VerifiedBid: most, VerifiedAsk: most, Data: []byte{0},
			},
			{Market: trades.Market, EventTime: 1, Data: []byte("\x00\xff")},
		},
		Spans: []market.Span{
			{Series: chinese, FirstID: most, PrevID: most - 1, LastID: most, Start: most, End: most},
			{Series: trades, FirstID: 0, PrevID: -1, LastID: 0, Start: 1, End: 1},
		},
		Gaps:     []market.Gap{g, {Series: trades, Cause: market.CauseRestart}},
		Listings: []market.Listing{{Market: chinese.Market, Status: "交易", TickSize: most, LotSize: most, UpdatedAt: most}, {Market: trades.Market}},
		Statuses: []market.RecorderStatus{status("記録 1\x00'\"$.", most, chinese.Market), {Recorder: "."}},
	}
	mustWrite(t, s, batch, batch)
	mustWrite(t, model, batch)
	sameContents(t, model, s, chinese, trades)
	tail, err := s.Tail(t.Context(), chinese)
	same(t, "Tail", withoutData(b), tail, err)
	found, err := s.BlockByID(t.Context(), chinese, most)
	same(t, "BlockByID", withoutData(b), found, err)
	found, err = s.BlockByID(t.Context(), trades, math.MinInt64)
	same(t, "BlockByID", withoutData(zero), found, err)
	_, err = s.BlockByID(t.Context(), trades, 1)
	wantKind(t, err, market.KindNotFound)
	_, err = s.Keyframe(t.Context(), trades.Market, math.MinInt64)
	wantKind(t, err, market.KindNotFound)
	blocks, err := s.Blocks(t.Context(), market.BlockQuery{Series: trades, From: math.MinInt64, To: 1, Limit: 1})
	same(t, "Blocks before the first", nil, blocks, err)
	blocks, err = s.Blocks(t.Context(), market.BlockQuery{Series: trades, From: math.MinInt64, To: always, Limit: math.MaxInt})
	same(t, "Blocks of all time", []market.Block{zero}, blocks, err)
	blocks, err = s.Blocks(t.Context(), market.BlockQuery{Series: trades, From: 2, To: 1, Limit: 1})
	same(t, "Blocks of an empty range", nil, blocks, err)
}

func testBigData(t *testing.T, open func() Store) {
	s := open()
	big := block(btcusdt, t0, 1, 2)
	big.Data = bytes.Repeat([]byte("0123456789abcdef"), market.MaxBlockBytes/16)
	frame := keyframe(btcusdt.Market, t0, 2)
	frame.Data = big.Data
	mustWrite(t, s, &market.Batch{Blocks: []market.Block{big}, Keyframes: []market.Keyframe{frame}})
	blocks, err := s.Blocks(t.Context(), market.BlockQuery{Series: btcusdt, To: always, Limit: 1})
	same(t, "Blocks", []market.Block{big}, blocks, err)
	got, err := s.Keyframe(t.Context(), btcusdt.Market, always)
	same(t, "Keyframe", frame, got, err)

	big.Data = append(big.Data, 0)
	wantKind(t, s.Write(t.Context(), &market.Batch{Blocks: []market.Block{big}}), market.KindInvalid)
}

// testBigBatch writes more than one message of a server can hold.
func testBigBatch(t *testing.T, open func() Store) {
	s := open()
	data := bytes.Repeat([]byte{7}, 3<<20)
	var batch market.Batch
	for i := range int64(20) {
		b := block(btcusdt, t0+market.Time(i)*second, 10*i, 10*i+9)
		b.Data = data
		batch.Blocks = append(batch.Blocks, b)
	}
	for i := range int64(2500) {
		batch.Blocks = append(batch.Blocks, block(trades, t0+market.Time(i)*second, i, i))
	}
	mustWrite(t, s, &batch)
	tail, err := s.Tail(t.Context(), btcusdt)
	same(t, "Tail", withoutData(batch.Blocks[19]), tail, err)
	blocks, err := s.Blocks(t.Context(), market.BlockQuery{Series: trades, To: always, Limit: 3000})
	same(t, "Blocks", batch.Blocks[20:], blocks, err)
}

func testInvalidRecords(t *testing.T, open func() Store) {
	s := open()
	bad := func(change func(*market.Block)) *market.Batch {
		b := block(btcusdt, t0+second, 10, 19)
		change(&b)
		return &market.Batch{Blocks: []market.Block{block(btcusdt, t0, 1, 9), b}}
	}
	for name, batch := range map[string]*market.Batch{
		"no data":            bad(func(b *market.Block) { b.Data = nil }),
		"ids turned round":   bad(func(b *market.Block) { b.FirstID, b.LastID = b.LastID, b.FirstID }),
		"negative id":        bad(func(b *market.Block) { b.FirstID, b.PrevID = -1, -1 }),
		"previous id ahead":  bad(func(b *market.Block) { b.PrevID = b.LastID }),
		"span ahead":         bad(func(b *market.Block) { b.SpanID = b.LastID + 1 }),
		"no start":           bad(func(b *market.Block) { b.Start = 0 }),
		"ends before start":  bad(func(b *market.Block) { b.End = b.Start - 1 }),
		"two windows":        bad(func(b *market.Block) { b.End = b.Start + second }),
		"no events":          bad(func(b *market.Block) { b.Events = 0 }),
		"too many events":    bad(func(b *market.Block) { b.Events = market.MaxBlockEvents + 1 }),
		"unknown stream":     bad(func(b *market.Block) { b.Series.Stream = "ticker" }),
		"unknown exchange":   bad(func(b *market.Block) { b.Series.Market.Exchange = "nowhere" }),
		"empty symbol":       bad(func(b *market.Block) { b.Series.Market.Symbol = "" }),
		"lower case symbol":  bad(func(b *market.Block) { b.Series.Market.Symbol = "btcusdt" }),
		"separator":          bad(func(b *market.Block) { b.Series.Market.Symbol = "BTC/USDT" }),
		"symbol not UTF-8":   bad(func(b *market.Block) { b.Series.Market.Symbol = "BTC\xff" }),
		"keyframe":           {Keyframes: []market.Keyframe{keyframe(btc.Market, 0, 1)}},
		"keyframe's data":    {Keyframes: []market.Keyframe{{Market: btc.Market, EventTime: 1}}},
		"span":               {Spans: []market.Span{span(btc, t0, t0-1, 1, 2)}},
		"gap":                {Gaps: []market.Gap{gap(btc, t0, 0, 10, 8)}},
		"gap without cause":  {Gaps: []market.Gap{{Series: btc, FirstID: 1, LastID: 1}}},
		"listing":            {Listings: []market.Listing{{}}},
		"recorder":           {Statuses: []market.RecorderStatus{{Version: "v1"}}},
		"recorder not UTF-8": {Statuses: []market.RecorderStatus{{Recorder: "\xff"}}},
	} {
		err := s.Write(t.Context(), batch)
		if market.KindOf(err) != market.KindInvalid {
			t.Errorf("%s: error %v is of kind %q", name, err, market.KindOf(err))
		}
	}
	blocks, err := s.Blocks(t.Context(), market.BlockQuery{Series: btcusdt, To: always, Limit: 10})
	same(t, "what a refused batch wrote", nil, blocks, err)
}

func testOrderAndPaging(t *testing.T, open func() Store) {
	s := open()
	// Several blocks of one start, ids whose digits grow, and ids that run against time.
	sorted := []market.Block{
		block(btcusdt, t0, 8, 9), block(btcusdt, t0, 8, 15), block(btcusdt, t0, 8, 1<<40), block(btcusdt, t0, 9, 9),
		block(btcusdt, t0, 10, 16), block(btcusdt, t0, 16, 17), block(btcusdt, t0, 255, 256), block(btcusdt, t0, 256, 4096),
		block(btcusdt, t0+1, 1, 2), block(btcusdt, t0+second, 5, 7), block(btcusdt, t0+2*second, 18, 19),
	}
	shuffled := slices.Clone(sorted)
	rand.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
	mustWrite(t, s, &market.Batch{Blocks: shuffled})

	for limit := 1; limit <= len(sorted)+1; limit++ {
		q := market.BlockQuery{Series: btcusdt, From: t0, To: t0 + 3*second, Limit: limit}
		var paged []market.Block
		for range len(sorted) + 1 {
			page, err := s.Blocks(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			if len(page) > limit {
				t.Fatalf("a page of %d blocks, limit %d", len(page), limit)
			}
			paged = append(paged, page...)
			if len(page) < limit {
				break
			}
			q.After = page[len(page)-1].Key()
		}
		same(t, fmt.Sprintf("pages of %d", limit), sorted, paged, nil)
	}
	for _, c := range []struct {
		from, to market.Time
		after    market.BlockKey
		want     []market.Block
	}{
		{t0, t0 + 1, market.BlockKey{}, sorted[:8]},           // To is exclusive
		{t0 + 1, t0 + second, market.BlockKey{}, sorted[8:9]}, // From is inclusive
		{t0 + 2, t0 + second, market.BlockKey{}, nil},
		{t0 + second, always, sorted[2].Key(), sorted[9:]},                // After lies before From
		{t0, t0 + second, sorted[9].Key(), nil},                           // After lies behind To
		{t0, t0 + 1, market.BlockKey{Start: t0, FirstID: 9}, sorted[3:8]}, // After is no block's key
	} {
		got, err := s.Blocks(t.Context(), market.BlockQuery{Series: btcusdt, From: c.from, To: c.to, After: c.after, Limit: 50})
		same(t, fmt.Sprintf("Blocks %+v", c), c.want, got, err)
	}
}

func testTailAndBlockByID(t *testing.T, open func() Store) {
	s := open()
	mustWrite(t, s, &market.Batch{Blocks: []market.Block{
		block(btcusdt, t0, 10, 19), block(btcusdt, t0+second, 20, 29), block(btcusdt, t0+second, 20, 25),
		block(btcusdt, t0+2*second, 15, 22), block(trades, t0+9*second, 1, 1000),
	}})
	tail, err := s.Tail(t.Context(), btcusdt)
	same(t, "Tail", withoutData(block(btcusdt, t0+2*second, 15, 22)), tail, err)
	for id, want := range map[int64]market.Block{
		0:  block(btcusdt, t0, 10, 19),
		19: block(btcusdt, t0, 10, 19),
		20: block(btcusdt, t0+2*second, 15, 22),
		23: block(btcusdt, t0+second, 20, 25),
		26: block(btcusdt, t0+second, 20, 29),
		29: block(btcusdt, t0+second, 20, 29),
	} {
		got, err := s.BlockByID(t.Context(), btcusdt, id)
		same(t, fmt.Sprintf("BlockByID %d", id), withoutData(want), got, err)
	}
	_, err = s.BlockByID(t.Context(), btcusdt, 30)
	wantKind(t, err, market.KindNotFound)
}

func testKeyframeAt(t *testing.T, open func() Store) {
	s, m := open(), btcusdt.Market
	frames := []market.Keyframe{keyframe(m, t0, 9), keyframe(m, t0, 10), keyframe(m, t0+5, 8)}
	mustWrite(t, s, &market.Batch{Keyframes: []market.Keyframe{frames[1], frames[2], frames[0], keyframe(btc.Market, t0+1, 3)}})
	for at, want := range map[market.Time]market.Keyframe{t0: frames[1], t0 + 4: frames[1], t0 + 5: frames[2], always: frames[2]} {
		got, err := s.Keyframe(t.Context(), m, at)
		same(t, fmt.Sprintf("Keyframe at %d", at), want, got, err)
	}
	_, err := s.Keyframe(t.Context(), m, t0-1)
	wantKind(t, err, market.KindNotFound)

	// A keyframe with a key that is there is not replaced.
	other := frames[2]
	other.Data = []byte("other")
	mustWrite(t, s, &market.Batch{Keyframes: []market.Keyframe{other}})
	got, err := s.Keyframe(t.Context(), m, always)
	same(t, "Keyframe", frames[2], got, err)
}

func testPrefixedNames(t *testing.T, open func() Store) {
	s, model := open(), NewMemory()
	all := []market.Series{btc, btcusdt, trades, chinese}
	for i, series := range all {
		at, id := t0+market.Time(i)*second, int64(100*i)
		batch := &market.Batch{
			Blocks:    []market.Block{block(series, at, id, id+9)},
			Keyframes: []market.Keyframe{keyframe(series.Market, at, id+9)},
			Spans:     []market.Span{span(series, at, at+1, id, id+9)},
			Gaps:      []market.Gap{gap(series, at, 0, id+10, id+11)},
			Listings:  []market.Listing{listing(series.Market, at, "TRADING")},
			Statuses:  []market.RecorderStatus{status("r", at, series.Market)},
		}
		mustWrite(t, s, batch)
		mustWrite(t, model, batch)
	}
	sameContents(t, model, s, all...)
	for i, series := range all {
		tail, err := s.Tail(t.Context(), series)
		same(t, "Tail", withoutData(block(series, t0+market.Time(i)*second, int64(100*i), int64(100*i+9))), tail, err)
	}
	for _, symbol := range []string{"B", "BTCUSDT2", "BTCUSD", "%", "_TC", ".*", "$ne"} {
		series := market.Series{Market: market.Market{Exchange: market.Binance, Symbol: symbol}, Stream: market.Depth}
		_, err := s.Tail(t.Context(), series)
		wantKind(t, err, market.KindNotFound)
		_, err = s.BlockByID(t.Context(), series, 0)
		wantKind(t, err, market.KindNotFound)
		_, err = s.Keyframe(t.Context(), series.Market, always)
		wantKind(t, err, market.KindNotFound)
	}
}

func testSpansMerge(t *testing.T, open func() Store) {
	s := open()
	write := func(spans ...market.Span) { mustWrite(t, s, &market.Batch{Spans: spans}) }
	write(span(btcusdt, t0, t0+5, 10, 20))
	write(span(btcusdt, t0, t0+9, 10, 15))                                  // less far, but later
	write(span(btcusdt, t0+1, t0+2, 10, 30), span(btcusdt, t0, t0, 11, 12)) // one batch, another span
	shifted := span(btcusdt, t0-3, t0, 10, 10)
	shifted.PrevID = 5
	write(shifted, shifted)
	got, err := s.Spans(t.Context(), btcusdt, 0, always, 10)
	same(t, "Spans", []market.Span{span(btcusdt, t0-3, t0+9, 10, 30), span(btcusdt, t0, t0, 11, 12)}, got, err)

	// The same span several times in one batch.
	write(span(trades, t0, t0+1, 1, 2), span(trades, t0, t0+3, 1, 4), span(trades, t0, t0+2, 1, 3))
	got, err = s.Spans(t.Context(), trades, 0, always, 10)
	same(t, "Spans", []market.Span{span(trades, t0, t0+3, 1, 4)}, got, err)
}

func testSpanBorders(t *testing.T, open func() Store) {
	s := open()
	a, b, c := span(btcusdt, 100, 200, 1, 2), span(btcusdt, 100, 150, 3, 4), span(btcusdt, 300, 400, 5, 6)
	mustWrite(t, s, &market.Batch{Spans: []market.Span{c, b, a, span(trades, 1, 1000, 1, 2)}})
	for _, q := range []struct {
		from, to market.Time
		limit    int
		want     []market.Span
	}{
		{0, 100, 9, nil},                                   // a starts where the range has ended
		{0, 101, 9, []market.Span{a, b}},                   // the last instant is a's first
		{150, 151, 9, []market.Span{a, b}},                 // both ends belong to a span
		{151, 300, 9, []market.Span{a}},                    // b is over, c has not begun
		{200, 301, 9, []market.Span{a, c}},                 // a's last instant to c's first
		{201, 300, 9, nil},                                 // between
		{400, 500, 9, []market.Span{c}},                    // c's last instant
		{401, always, 9, nil},                              // behind all
		{0, always, 2, []market.Span{a, b}},                // the limit keeps the first ones
		{120, 120, 9, []market.Span{a, b}},                 // no time at all; the rule alone decides
		{500, 0, 9, nil},                                   // turned round
		{math.MinInt64, always, 9, []market.Span{a, b, c}}, // everything
	} {
		got, err := s.Spans(t.Context(), btcusdt, q.from, q.to, q.limit)
		same(t, fmt.Sprintf("Spans from %d to %d", q.from, q.to), q.want, got, err)
	}
}

func testGapsMerge(t *testing.T, open func() Store) {
	s := open()
	first := gap(btcusdt, t0, 0, 10, 12)
	grown := gap(btcusdt, t0, 0, 10, 20)
	grown.Cause = market.CauseSequence
	closed := repaired(gap(btcusdt, t0, 0, 10, 15), t0+second)
	again := repaired(gap(btcusdt, t0, 0, 10, 11), t0+2*second)
	again.Repair = "resumed"
	withLast := func(g market.Gap, last int64) market.Gap { g.LastID = last; return g }

	for i, step := range []struct{ write, want market.Gap }{
		{first, first},
		{grown, grown},                 // later writes replace
		{first, withLast(first, 20)},   // but the last id only grows
		{closed, withLast(closed, 20)}, // repaired
		{first, withLast(closed, 20)},  // and stays so
		{gap(btcusdt, t0+5, t0+6, 10, 25), withLast(closed, 25)},        // though more ids are known to be missing
		{again, withLast(again, 25)},                                    // a repair replaces a repair
		{withLast(gap(btcusdt, t0, 0, 10, 10), 9), withLast(again, 25)}, // no id known to be missing
	} {
		for range 2 {
			mustWrite(t, s, &market.Batch{Gaps: []market.Gap{step.write}})
		}
		got, err := s.Gaps(t.Context(), market.GapQuery{Market: btcusdt.Market, To: always, Limit: 10})
		same(t, fmt.Sprintf("after step %d", i), []market.Gap{step.want}, got, err)
	}
	// All in one batch, in an order that matters.
	move := func(g market.Gap) market.Gap { g.Series = trades; return g }
	mustWrite(t, s, &market.Batch{Gaps: []market.Gap{move(first), move(grown), move(closed), move(first)}})
	got, err := s.Gaps(t.Context(), market.GapQuery{Market: trades.Market, Stream: market.Trades, To: always, Limit: 10})
	same(t, "one batch", []market.Gap{withLast(move(closed), 20)}, got, err)
}

// testGapsHeld: no id is called held (backfilled) by an entry that does not name it.
func testGapsHeld(t *testing.T, open func() Store) {
	s := open()
	missing := func(last int64) market.Gap { return gap(btcusdt, t0, 0, 10, last) }
	resumed := func(last int64) market.Gap {
		g := repaired(missing(last), t0+second)
		g.Cause, g.Repair = market.CauseOverflow, market.RepairResumed
		return g
	}
	held := func(last int64) market.Gap {
		g := repaired(missing(last), t0+2*second)
		g.Repair = market.RepairBackfilled
		return g
	}
	for i, step := range []struct{ write, want market.Gap }{
		{missing(10), missing(10)},
		{held(10), held(10)},
		{missing(10), held(10)},    // comes again
		{missing(20), missing(20)}, // names more: nobody vouches for those
		{held(10), missing(20)},
		{resumed(15), resumed(20)},
		{held(19), resumed(20)},
		{held(20), held(20)},
		{held(10), held(20)},
		{resumed(15), resumed(20)}, // a repair replaces a repair
		{held(30), held(30)},
		{resumed(40), resumed(40)},
	} {
		for range 2 {
			mustWrite(t, s, &market.Batch{Gaps: []market.Gap{step.write}})
		}
		got, err := s.Gaps(t.Context(), market.GapQuery{Market: btcusdt.Market, To: always, Limit: 10})
		same(t, fmt.Sprintf("after step %d", i), []market.Gap{step.want}, got, err)
	}
	// All in one batch, in an order that matters.
	move := func(g market.Gap) market.Gap { g.Series = trades; return g }
	mustWrite(t, s, &market.Batch{Gaps: []market.Gap{move(resumed(10)), move(missing(20)), move(held(10))}})
	got, err := s.Gaps(t.Context(), market.GapQuery{Market: trades.Market, Stream: market.Trades, To: always, Limit: 10})
	same(t, "one batch", []market.Gap{move(resumed(20))}, got, err)
}

// testGapsBeside: an entry that misses nothing stands beside that of a hole, and neither replaces the other.
func testGapsBeside(t *testing.T, open func() Store) {
	s := open()
	hole := gap(btcusdt, t0, 0, 10, 20)
	step := repaired(gap(btcusdt, t0, 0, 10, 9), t0-second)
	step.Cause, step.Repair = market.CauseClock, market.RepairResumed
	audit := repaired(gap(btcusdt, t0, 0, 10, 30), t0+second)
	audit.Cause = market.CauseAudit
	closed := repaired(hole, t0+second)
	later := step
	later.DetectedAt += second
	for i, one := range []struct {
		write market.Gap
		want  []market.Gap
	}{
		{hole, []market.Gap{hole}},
		{step, []market.Gap{step, hole}},
		{audit, []market.Gap{audit, step, hole}},
		{closed, []market.Gap{audit, step, closed}},
		{later, []market.Gap{audit, later, closed}},
	} {
		for range 2 {
			mustWrite(t, s, &market.Batch{Gaps: []market.Gap{one.write}})
		}
		got, err := s.Gaps(t.Context(), market.GapQuery{Market: btcusdt.Market, To: always, Limit: 10})
		same(t, fmt.Sprintf("after step %d", i), one.want, got, err)
	}
}

func testGapBorders(t *testing.T, open func() Store) {
	s := open()
	closed, atOnce := gap(btcusdt, 100, 200, 10, 12), gap(btcusdt, 300, 300, 20, 21)
	openGap, unknown := gap(btcusdt, 400, 0, 30, 31), gap(btcusdt, 0, 50, 1, 2)
	ofTrades := gap(trades, 100, 200, 10, 12)
	ofTrades.Cause = market.CauseOverflow
	mustWrite(t, s, &market.Batch{Gaps: []market.Gap{openGap, closed, atOnce, unknown, ofTrades, gap(btc, 1, 0, 1, 1)}})
	for _, c := range []struct {
		from, to market.Time
		stream   market.Stream
		cause    market.Cause
		limit    int
		want     []market.Gap
	}{
		{0, always, "", "", 9, []market.Gap{unknown, closed, ofTrades, atOnce, openGap}},
		{0, always, market.Depth, "", 9, []market.Gap{unknown, closed, atOnce, openGap}},
		{0, always, "", market.CauseOverflow, 9, []market.Gap{ofTrades}},
		{0, always, market.Depth, market.CauseOverflow, 9, nil},
		{0, always, "", "", 2, []market.Gap{unknown, closed}},
		{50, 100, "", "", 9, []market.Gap{unknown}},            // closed starts where the range has ended
		{51, 100, "", "", 9, nil},                              // unknown is over
		{51, 101, market.Depth, "", 9, []market.Gap{closed}},   // its first instant
		{200, 201, market.Depth, "", 9, []market.Gap{closed}},  // it is touched
		{201, 300, "", "", 9, nil},                             // between
		{300, 301, "", "", 9, []market.Gap{atOnce}},            // a hole within one instant
		{399, 400, "", "", 9, nil},                             // the open one has not begun
		{401, 402, "", "", 9, []market.Gap{openGap}},           // it overlaps everything after its start
		{always - 1, always, "", "", 9, []market.Gap{openGap}}, // for ever
		{math.MinInt64, 1, "", "", 9, []market.Gap{unknown}},   // not known when it began
		{1000, 500, "", "", 9, []market.Gap{openGap}},          // turned round: the rule alone decides
	} {
		q := market.GapQuery{Market: btcusdt.Market, Stream: c.stream, Cause: c.cause, From: c.from, To: c.to, Limit: c.limit}
		got, err := s.Gaps(t.Context(), q)
		same(t, fmt.Sprintf("Gaps %+v", q), c.want, got, err)
	}
}

// testGapTurnedRound has the exchange's clock step back: what lies behind by id lies before by time.
func testGapTurnedRound(t *testing.T, open func() Store) {
	s := open()
	before, step, after := gap(btcusdt, 500, 510, 10, 12), gap(btcusdt, 900, 400, 20, 19), gap(btcusdt, 950, 960, 30, 31)
	step.Cause = market.CauseClock
	mustWrite(t, s, &market.Batch{Gaps: []market.Gap{after, step, before}})
	for _, c := range []struct {
		from, to market.Time
		want     []market.Gap
	}{
		{0, always, []market.Gap{before, step, after}},
		{900, always, []market.Gap{step, after}}, // from its start on, as behind a page that ends with it
		{901, always, []market.Gap{after}},
		{600, 700, []market.Gap{step}}, // shown twice
		{850, 860, []market.Gap{step}},
		{400, 401, []market.Gap{step}},
		{0, 400, nil}, // it begins where the range has ended
		{510, 511, []market.Gap{before, step}},
	} {
		q := market.GapQuery{Market: btcusdt.Market, From: c.from, To: c.to, Limit: 9}
		got, err := s.Gaps(t.Context(), q)
		same(t, fmt.Sprintf("Gaps %+v", q), c.want, got, err)
	}
}

func testNewerListingStays(t *testing.T, open func() Store) {
	s := open()
	for _, at := range []market.Time{t0, t0 + 2, t0 + 1} {
		mustWrite(t, s, &market.Batch{
			Listings: []market.Listing{listing(btcusdt.Market, at, fmt.Sprint(at))},
			Statuses: []market.RecorderStatus{status("r", at, btc.Market)},
		})
	}
	listings, err := s.Listings(t.Context())
	same(t, "Listings", []market.Listing{listing(btcusdt.Market, t0+2, fmt.Sprint(t0+2))}, listings, err)
	recorders, err := s.Recorders(t.Context())
	same(t, "Recorders", []market.RecorderStatus{status("r", t0+2, btc.Market)}, recorders, err)

	// One that is as new replaces.
	same2 := listing(btcusdt.Market, t0+2, "HALT")
	mustWrite(t, s, &market.Batch{Listings: []market.Listing{same2}, Statuses: []market.RecorderStatus{status("r", t0+2)}})
	listings, err = s.Listings(t.Context())
	same(t, "Listings", []market.Listing{same2}, listings, err)
	recorders, err = s.Recorders(t.Context())
	same(t, "Recorders", []market.RecorderStatus{status("r", t0+2)}, recorders, err)
}

// testTwoWritersShuffled writes the same batches from several places at once, in different orders and each twice. What
// is read then is what one writer wrote in order.
func testTwoWritersShuffled(t *testing.T, open func() Store) {
	var batches []*market.Batch
	hole := gap(btcusdt, t0+90*second, 0, 900, 901)
	for i := range int64(40) {
		at := t0 + market.Time(i)*second
		batch := &market.Batch{
			Blocks:    []market.Block{block(btcusdt, at, 10*i, 10*i+9), block(trades, at, i, i)},
			Spans:     []market.Span{span(btcusdt, t0, at+second-1, 0, 10*i+9), span(trades, t0, at, 0, i)},
			Keyframes: []market.Keyframe{keyframe(btcusdt.Market, at, 10*i+9)},
			Gaps:      []market.Gap{gap(btcusdt, t0+90*second, 0, 900, 900+i)},
			Listings:  []market.Listing{listing(btcusdt.Market, at, fmt.Sprint(i))},
			Statuses:  []market.RecorderStatus{status("r", at, btcusdt.Market)},
		}
		if i == 20 {
			batch.Gaps[0] = repaired(hole, t0+91*second)
		}
		batches = append(batches, batch)
	}
	model := NewMemory()
	mustWrite(t, model, batches...)

	var writers sync.WaitGroup
	for _, s := range []Store{open(), open(), open()} {
		mine := append(slices.Clone(batches), batches...)
		rand.Shuffle(len(mine), func(i, j int) { mine[i], mine[j] = mine[j], mine[i] })
		writers.Go(func() {
			for _, b := range mine {
				if err := s.Write(t.Context(), b); err != nil {
					t.Errorf("Write: %v", err)
					return
				}
			}
		})
	}
	writers.Wait()
	sameContents(t, model, open(), btcusdt, trades)
}

func testSeenByOthers(t *testing.T, open func() Store) {
	writer, reader := open(), open()
	for i := range int64(5) {
		b := block(btcusdt, t0+market.Time(i)*second, i, i)
		mustWrite(t, writer, &market.Batch{Blocks: []market.Block{b}})
		tail, err := reader.Tail(t.Context(), btcusdt)
		same(t, "Tail", withoutData(b), tail, err)
	}
}

func testStaysAfterClose(t *testing.T, open func() Store) {
	first, model := open(), NewMemory()
	mustWrite(t, first, sample())
	mustWrite(t, model, sample())
	if err := first.Close(t.Context()); err != nil {
		t.Fatalf("Close: %v", err)
	}
	second := open()
	sameContents(t, model, second, btcusdt, trades)
	mustWrite(t, second, sample())
	sameContents(t, model, second, btcusdt, trades)
}

func testClosed(t *testing.T, open func() Store) {
	s := open()
	if _, ok := s.(*Memory); ok {
		t.Skip("closing the in-memory store does nothing")
	}
	if err := s.Close(t.Context()); err != nil {
		t.Fatalf("Close: %v", err)
	}
	wantKind(t, s.Write(t.Context(), sample()), market.KindUnavailable)
	_, err := s.Listings(t.Context())
	wantKind(t, err, market.KindUnavailable)
}

func testCancelled(t *testing.T, open func() Store) {
	s := open()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, tailErr := s.Tail(ctx, btc)
	_, blocksErr := s.Blocks(ctx, market.BlockQuery{Series: btc, To: 1, Limit: 1})
	_, listErr := s.Listings(ctx)
	for name, err := range map[string]error{
		"Write": s.Write(ctx, sample()), "Ping": s.Ping(ctx), "Tail": tailErr, "Blocks": blocksErr, "Listings": listErr,
	} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s with a cancelled context: %v", name, err)
		}
	}
	if err := s.Ping(t.Context()); err != nil {
		t.Errorf("Ping afterwards: %v", err)
	}
}

func testLimitBelowOne(t *testing.T, open func() Store) {
	s := open()
	_, err := s.Blocks(t.Context(), market.BlockQuery{Series: btc, To: always})
	wantKind(t, err, market.KindInvalid)
	_, err = s.Spans(t.Context(), btc, 0, always, -1)
	wantKind(t, err, market.KindInvalid)
	_, err = s.Gaps(t.Context(), market.GapQuery{Market: btc.Market, To: always})
	wantKind(t, err, market.KindInvalid)
}

func testBatchIsNotChanged(t *testing.T, open func() Store) {
	s, batch := open(), sample()
	mustWrite(t, s, batch)
	same(t, "the batch after Write", sample(), batch, nil)
	for i := range batch.Blocks { // and the store does not hold on to it
		clear(batch.Blocks[i].Data)
	}
	for i := range batch.Statuses {
		clear(batch.Statuses[i].Markets)
	}
	model := NewMemory()
	mustWrite(t, model, sample())
	sameContents(t, model, s, btcusdt, trades)
}
