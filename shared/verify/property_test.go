package verify_test

import (
	"bytes"
	"encoding/json"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"tapedeck/shared/market"
	"tapedeck/shared/tape"
	"tapedeck/shared/verify"
)

func run(tb testing.TB, reader verify.Reader, opts verify.Options) verify.Report {
	tb.Helper()
	if len(opts.Markets) == 0 {
		opts.Markets = []market.Market{btcusdt}
	}
	report, err := verify.Run(tb.Context(), reader, opts)
	if err != nil || !report.Complete {
		tb.Fatalf("complete %v: %v", report.Complete, err)
	}
	return report
}

func text(r verify.Report) string {
	b, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func TestGoodHistoriesHold(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		batch := record(rt, rapid.Bool().Draw(rt, "second"))
		report := run(t, store(t, batch), verify.Options{})
		if report.Problems != 0 {
			rt.Fatalf("%s", text(report))
		}
	})
}

// mutations change one record of a history so that it no longer holds. They return false where they cannot.
var mutations = map[string]func(*rapid.T, *market.Batch) bool{
	"drop a block": func(t *rapid.T, b *market.Batch) bool {
		i := pick(t, len(b.Blocks))
		b.Blocks = slices.Delete(b.Blocks, i, i+1)
		return true
	},
	"alter a byte of a block": func(t *rapid.T, b *market.Batch) bool {
		alter(t, b.Blocks[pick(t, len(b.Blocks))].Data)
		return true
	},
	"alter a number of a block": func(t *rapid.T, b *market.Batch) bool {
		block := &b.Blocks[pick(t, len(b.Blocks))]
		number := rapid.SampledFrom([]*int64{&block.FirstID, &block.LastID, &block.PrevID, (*int64)(&block.Start), (*int64)(&block.End)})
		*number.Draw(t, "number") += rapid.SampledFrom([]int64{-2, -1, 1, 2}).Draw(t, "by")
		return true
	},
	"alter the count of a block": func(t *rapid.T, b *market.Batch) bool {
		b.Blocks[pick(t, len(b.Blocks))].Events++
		return true
	},
	"alter the span of a block": func(t *rapid.T, b *market.Batch) bool {
		block := &b.Blocks[pick(t, len(b.Blocks))]
		block.SpanID += rapid.SampledFrom([]int64{-100, -2, -1, 1, 2}).Draw(t, "by")
		// A recorder that began with another block may have been the first to write this one.
		return !slices.ContainsFunc(b.Blocks, func(first market.Block) bool {
			return first.Series == block.Series && first.FirstID == block.SpanID
		})
	},
	"move a block into the span before": func(t *rapid.T, b *market.Batch) bool {
		block := &b.Blocks[pick(t, len(b.Blocks))]
		i := slices.IndexFunc(b.Spans, func(p market.Span) bool {
			return p.Series == block.Series && p.LastID < block.SpanID-1
		})
		if i < 0 {
			return false
		}
		block.SpanID = b.Spans[i].FirstID
		// What is missing between the two may have been fetched again.
		return slices.ContainsFunc(b.Gaps, func(g market.Gap) bool {
			return g.Series == block.Series && g.Repair != market.RepairBackfilled &&
				block.SpanID < g.FirstID && g.LastID < block.FirstID
		})
	},
	"drop a span": func(t *rapid.T, b *market.Batch) bool {
		i := pick(t, len(b.Spans))
		b.Spans = slices.Delete(b.Spans, i, i+1)
		return true
	},
	"shift a span": func(t *rapid.T, b *market.Batch) bool {
		p := &b.Spans[pick(t, len(b.Spans))]
		by := rapid.SampledFrom([]int64{-3, -1, 1, 3}).Draw(t, "by")
		p.FirstID, p.PrevID, p.LastID = p.FirstID+by, p.PrevID+by, p.LastID+by
		return true
	},
	"alter a number of a span": func(t *rapid.T, b *market.Batch) bool {
		p := &b.Spans[pick(t, len(b.Spans))]
		before := slices.Clone(b.Spans)
		first, last := p.FirstID, p.LastID
		number := rapid.SampledFrom([]*int64{&p.FirstID, &p.LastID, &p.PrevID, (*int64)(&p.Start), (*int64)(&p.End)})
		*number.Draw(t, "number") += rapid.SampledFrom([]int64{-2, -1, 1, 2}).Draw(t, "by")
		// It may reach into spans beside it, and then claims no more than all of them did.
		return p.FirstID >= first && p.LastID <= last || !spanned(before, p)
	},
	"shift a span in time": func(t *rapid.T, b *market.Batch) bool {
		p := &b.Spans[pick(t, len(b.Spans))]
		p.Start, p.End = p.Start.Add(time.Hour), p.End.Add(time.Hour)
		return true
	},
	"drop an entry": func(t *rapid.T, b *market.Batch) bool {
		i, ok := explaining(t, b)
		if ok {
			b.Gaps = slices.Delete(b.Gaps, i, i+1)
		}
		return ok
	},
	"shift an entry": func(t *rapid.T, b *market.Batch) bool {
		i, ok := explaining(t, b)
		if ok {
			by := rapid.SampledFrom([]int64{-1, 1}).Draw(t, "by")
			b.Gaps[i].FirstID, b.Gaps[i].LastID = b.Gaps[i].FirstID+by, b.Gaps[i].LastID+by
		}
		return ok
	},
	"shift an entry in time": func(t *rapid.T, b *market.Batch) bool {
		i, ok := explaining(t, b)
		if ok {
			by := rapid.SampledFrom([]time.Duration{-time.Hour, time.Hour}).Draw(t, "by")
			b.Gaps[i].Start, b.Gaps[i].End = b.Gaps[i].Start.Add(by), b.Gaps[i].End.Add(by)
		}
		return ok
	},
	"alter the cause of an entry": func(t *rapid.T, b *market.Batch) bool {
		i, ok := explaining(t, b)
		if ok {
			b.Gaps[i].Cause = rapid.SampledFrom([]market.Cause{market.CauseClock, market.CauseAudit}).Draw(t, "cause")
		}
		return ok
	},
	"alter the repair of an entry": func(t *rapid.T, b *market.Batch) bool {
		i, ok := explaining(t, b)
		if ok {
			b.Gaps[i].Repair = rapid.SampledFrom([]market.Repair{"", market.RepairBackfilled}).Draw(t, "repair")
		}
		return ok
	},
	"take the end of an entry": func(t *rapid.T, b *market.Batch) bool {
		i, ok := explaining(t, b)
		if ok {
			b.Gaps[i].End = 0
		}
		return ok
	},
	"alter a byte of a keyframe": func(t *rapid.T, b *market.Batch) bool {
		alter(t, b.Keyframes[pick(t, len(b.Keyframes))].Data)
		return true
	},
	"alter a level of a keyframe": func(t *rapid.T, b *market.Batch) bool {
		k := &b.Keyframes[pick(t, len(b.Keyframes))]
		if k.UpdatesApplied == 0 {
			return false // nothing to hold it against, unless updates before it are recorded
		}
		bids, asks, err := new(tape.Decoder).Book(k.Data)
		if err != nil {
			t.Fatal(err)
		}
		side := rapid.SampledFrom([][]market.Level{bids, asks}).Draw(t, "side")
		if len(side) == 0 {
			return false
		}
		side[pick(t, len(side))].Quantity++
		k.Data = tape.EncodeBook(bids, asks)
		return true
	},
	"alter a number of a keyframe": func(t *rapid.T, b *market.Batch) bool {
		k := &b.Keyframes[pick(t, len(b.Keyframes))]
		if k.UpdatesApplied == 0 {
			return false
		}
		number := rapid.SampledFrom([]*int64{&k.UpdateID, (*int64)(&k.EventTime), &k.UpdatesApplied, &k.FirstUpdateID})
		*number.Draw(t, "number") += rapid.SampledFrom([]int64{-1, 1}).Draw(t, "by")
		// In a hole there may be one: where a block was refused, the book goes on from a keyframe behind it.
		return !slices.ContainsFunc(b.Gaps, func(g market.Gap) bool {
			return g.Series == depth && g.FirstID <= k.UpdateID && k.UpdateID <= g.LastID
		})
	},
	"shift a snapshot in time": func(t *rapid.T, b *market.Batch) bool {
		k := &b.Keyframes[pick(t, len(b.Keyframes))]
		if k.UpdatesApplied != 0 || k.UpdateID == 100 || k.UpdateID == lastID(b, depth) {
			return false // one with updates on both sides
		}
		k.EventTime = k.EventTime.Add(rapid.SampledFrom([]time.Duration{-time.Hour, time.Hour}).Draw(t, "by"))
		return true
	},
	"swap the data of keyframes": func(t *rapid.T, b *market.Batch) bool {
		var replayed []*market.Keyframe
		for i := range b.Keyframes {
			if b.Keyframes[i].UpdatesApplied > 0 {
				replayed = append(replayed, &b.Keyframes[i])
			}
		}
		if len(replayed) < 2 {
			return false
		}
		i := pick(t, len(replayed)-1)
		x, y := replayed[i], replayed[i+1]
		x.Data, y.Data = y.Data, x.Data
		return !bytes.Equal(x.Data, y.Data)
	},
}

func pick(t *rapid.T, n int) int { return rapid.IntRange(0, n-1).Draw(t, "which") }

func alter(t *rapid.T, data []byte) {
	data[pick(t, len(data))] ^= byte(rapid.IntRange(1, 255).Draw(t, "bits"))
}

// explaining picks an entry of ids that are missing before an event.
func explaining(t *rapid.T, b *market.Batch) (int, bool) {
	var found []int
	for i := range b.Gaps {
		if b.Gaps[i].Repair != market.RepairBackfilled && b.Gaps[i].LastID < lastID(b, b.Gaps[i].Series) {
			found = append(found, i)
		}
	}
	if len(found) == 0 {
		return 0, false
	}
	return rapid.SampledFrom(found).Draw(t, "entry"), true
}

// spanned reports whether spans hold all ids of p.
func spanned(spans []market.Span, p *market.Span) bool {
	for id := p.FirstID; id <= p.LastID; id++ {
		if !slices.ContainsFunc(spans, func(s market.Span) bool {
			return s.Series == p.Series && s.FirstID <= id && id <= s.LastID
		}) {
			return false
		}
	}
	return true
}

func lastID(b *market.Batch, series market.Series) (last int64) {
	for i := range b.Blocks {
		if b.Blocks[i].Series == series {
			last = max(last, b.Blocks[i].LastID)
		}
	}
	return last
}

// TestEveryMutationIsFound changes one record of a good history. A note is not enough: with it, all holds.
func TestEveryMutationIsFound(t *testing.T) {
	for name, mutate := range mutations {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) {
				batch := record(rt, false)
				if !mutate(rt, batch) || batch.Validate() != nil {
					rt.Skip("not here")
				}
				report, err := verify.Run(t.Context(), store(t, batch), verify.Options{Markets: []market.Market{btcusdt}})
				if market.KindOf(err) == market.KindNotFound && len(batch.Blocks) == 0 {
					return
				}
				if err != nil || report.Problems == 0 {
					rt.Fatalf("%v %s", err, text(report))
				}
			})
		})
	}
}
