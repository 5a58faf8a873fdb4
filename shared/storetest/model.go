package storetest

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"tapedeck/shared/market"
)

// testModel writes random batches to the store and to the model, and asks both the same random questions.
func testModel(t *testing.T, open func() Store) {
	s, round := open(), 0
	rapid.Check(t, func(rt *rapid.T) {
		round++ // each round has markets of its own, so that one store serves all
		g := generator{T: rt, prefix: fmt.Sprintf("X%dX", round)}
		model := NewMemory()
		for range rapid.IntRange(1, 4).Draw(rt, "batches") {
			batch := g.batch()
			for range rapid.IntRange(1, 2).Draw(rt, "times") {
				if err := s.Write(t.Context(), batch); err != nil {
					rt.Fatalf("Write: %v", err)
				}
			}
			if err := model.Write(t.Context(), batch); err != nil {
				rt.Fatalf("the model refuses the batch: %v", err)
			}
		}
		for range 10 {
			g.ask(s, model)
		}
		g.compareListings(s, model)
	})
}

type generator struct {
	*rapid.T
	prefix string
}

func (g generator) market() market.Market {
	return market.Market{
		Exchange: market.Binance,
		Symbol:   g.prefix + rapid.SampledFrom([]string{"", "USDT", "人"}).Draw(g.T, "symbol"),
	}
}

func (g generator) series() market.Series {
	return market.Series{Market: g.market(), Stream: g.stream()}
}

func (g generator) stream() market.Stream {
	return rapid.SampledFrom([]market.Stream{market.Depth, market.Trades}).Draw(g.T, "stream")
}

// time draws from few instants, so that many are equal, with some around a window's border and at the end of time.
func (g generator) time() market.Time {
	return rapid.SampledFrom([]market.Time{1, 2, second - 1, second, t0, t0 + 1, always - 1, always}).Draw(g.T, "time")
}

func (g generator) id() int64 {
	return rapid.SampledFrom([]int64{0, 1, 2, 9, 15, 16, 17, 255, 256, 1 << 40, 1<<63 - 2, 1<<63 - 1}).Draw(g.T, "id")
}

func (g generator) ids() (first, last int64) {
	a, b := g.id(), g.id()
	return min(a, b), max(a, b)
}

func (g generator) batch() *market.Batch {
	var b market.Batch
	count := func(record string) int { return rapid.IntRange(0, 4).Draw(g.T, record) }
	for range count("blocks") {
		first, last := g.ids()
		record := block(g.series(), g.time(), first, last)
		record.End, record.SpanID = record.Start, last
		b.Blocks = append(b.Blocks, record)
	}
	for range count("keyframes") {
		b.Keyframes = append(b.Keyframes, keyframe(g.market(), g.time(), g.id()))
		b.Keyframes[len(b.Keyframes)-1].RecvTime = g.time()
	}
	for range count("spans") {
		first, last := g.ids()
		start, end := g.time(), g.time()
		b.Spans = append(b.Spans, span(g.series(), min(start, end), max(start, end), first, last))
	}
	for range count("gaps") {
		b.Gaps = append(b.Gaps, g.gap())
	}
	for range count("listings") {
		b.Listings = append(b.Listings, listing(g.market(), g.time(), rapid.SampledFrom([]string{"", "HALT"}).Draw(g.T, "status")))
	}
	for range count("statuses") {
		b.Statuses = append(b.Statuses, status(g.prefix+rapid.SampledFrom([]string{"a", "b"}).Draw(g.T, "recorder"), g.time(), g.market()))
	}
	return &b
}

func (g generator) gap() market.Gap {
	first, last := g.ids()
	v := gap(g.series(), 0, 0, first, last)
	v.Cause = rapid.SampledFrom([]market.Cause{market.CauseRestart, market.CauseMalformed, market.CauseClock}).Draw(g.T, "cause")
	zeroOr := func(what string) market.Time {
		if rapid.Bool().Draw(g.T, what) {
			return g.time()
		}
		return 0
	}
	v.Start, v.End, v.RepairedAt, v.DetectedAt = zeroOr("start"), zeroOr("end"), zeroOr("repaired"), g.time()
	if v.RepairedAt != 0 {
		v.Repair = rapid.SampledFrom([]market.Repair{"", market.RepairResumed, market.RepairBackfilled}).Draw(g.T, "repair")
	}
	return v
}

// ask puts one random question of each kind to both stores.
func (g generator) ask(s, model Store) {
	ctx, series, from, to, id := g.Context(), g.series(), g.time(), g.time(), g.id()
	limit := rapid.IntRange(1, 6).Draw(g.T, "limit")

	q := market.BlockQuery{Series: series, From: from, To: to, Limit: limit}
	if rapid.Bool().Draw(g.T, "after") {
		first, last := g.ids()
		q.After = market.BlockKey{Start: g.time(), FirstID: first, LastID: last}
	}
	want, _ := model.Blocks(ctx, q)
	got, err := s.Blocks(ctx, q)
	agree(g.T, fmt.Sprintf("Blocks %+v", q), want, got, nil, err)

	wantTail, wantErr := model.Tail(ctx, series)
	tail, err := s.Tail(ctx, series)
	agree(g.T, fmt.Sprintf("Tail %v", series), wantTail, tail, wantErr, err)

	// Any of several blocks with one LastID will do.
	wantByID, wantErr := model.BlockByID(ctx, series, id)
	byID, err := s.BlockByID(ctx, series, id)
	agree(g.T, fmt.Sprintf("BlockByID %v %d", series, id), wantByID.LastID, byID.LastID, wantErr, err)

	wantFrame, wantErr := model.Keyframe(ctx, series.Market, from)
	frame, err := s.Keyframe(ctx, series.Market, from)
	agree(g.T, fmt.Sprintf("Keyframe %v %d", series.Market, from), wantFrame, frame, wantErr, err)

	wantSpans, _ := model.Spans(ctx, series, from, to, limit)
	spans, err := s.Spans(ctx, series, from, to, limit)
	agree(g.T, fmt.Sprintf("Spans %v %d %d %d", series, from, to, limit), wantSpans, spans, nil, err)

	gq := market.GapQuery{
		Market: series.Market, From: from, To: to, Limit: limit,
		Stream: rapid.SampledFrom([]market.Stream{"", market.Depth, market.Trades}).Draw(g.T, "stream"),
		Cause:  rapid.SampledFrom([]market.Cause{"", market.CauseRestart, market.CauseOverflow}).Draw(g.T, "cause"),
	}
	wantGaps, _ := model.Gaps(ctx, gq)
	gaps, err := s.Gaps(ctx, gq)
	agree(g.T, fmt.Sprintf("Gaps %+v", gq), wantGaps, gaps, nil, err)
}

// compareListings compares those listings and recorders that are of this round.
func (g generator) compareListings(s, model Store) {
	ctx := g.Context()
	wantListings, _ := model.Listings(ctx)
	listings, err := s.Listings(ctx)
	listings = slices.DeleteFunc(listings, func(l market.Listing) bool {
		return !slices.ContainsFunc(wantListings, func(w market.Listing) bool { return w.Market == l.Market })
	})
	agree(g.T, "Listings", wantListings, listings, nil, err)
	wantRecorders, _ := model.Recorders(ctx)
	recorders, err := s.Recorders(ctx)
	recorders = slices.DeleteFunc(recorders, func(r market.RecorderStatus) bool {
		return !slices.ContainsFunc(wantRecorders, func(w market.RecorderStatus) bool { return w.Recorder == r.Recorder })
	})
	agree(g.T, "Recorders", wantRecorders, recorders, nil, err)
}

func agree[T any](t *rapid.T, question string, want, got T, wantErr, err error) {
	if market.KindOf(wantErr) != market.KindOf(err) || (wantErr == nil) != (err == nil) {
		t.Fatalf("%s: error %v, want %v", question, err, wantErr)
	}
	if diff := cmp.Diff(want, got, equality); diff != "" {
		t.Fatalf("%s (-want +got):\n%s", question, diff)
	}
}
