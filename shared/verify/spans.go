package verify

import (
	"context"
	"math"
	"slices"

	"tapedeck/shared/market"
)

// spans verifies that both ends of every span are those of blocks. What lies between the ends the walk over the blocks
// verifies.
func (r *verifier) spans(ctx context.Context, t *task) error {
	first := true
	return inWindows(r.opts.Start, r.end(), func(from, to market.Time) (bool, error) {
		spans, err := r.reader.Spans(ctx, t.series, from, to, maxSpans)
		if err != nil || len(spans) == maxSpans {
			return err == nil, err
		}
		for i := range spans {
			p := &spans[i]
			if p.Start < from && !first { // verified with an earlier window
				continue
			}
			t.stream.Spans++
			if err := r.span(ctx, t, p); err != nil {
				return false, err
			}
		}
		first = false
		return false, nil
	})
}

// span verifies the ends of one span.
func (r *verifier) span(ctx context.Context, t *task, p *market.Span) error {
	head, err := r.holder(ctx, t.series, p.FirstID, p)
	if err != nil {
		return err
	}
	tail, err := r.holder(ctx, t.series, p.LastID, p)
	if err != nil {
		return err
	}
	wrong := func(code Code, at ids, detail string) {
		t.stream.problem(code, Place{at.first, at.last, p.Start, detail})
	}
	whole := ids{p.FirstID, p.LastID}
	switch {
	case !head.found && !tail.found:
		wrong(SpanWithoutBlocks, whole, "neither its first nor its last id is held")
		return nil
	case !head.found:
		wrong(SpanWithoutBlocks, ids{p.FirstID, min(p.LastID, head.next-1)}, "at its beginning")
		return nil
	case !tail.found:
		wrong(SpanWithoutBlocks, ids{tail.after(p), p.LastID}, "at its end")
		return nil
	}
	if !head.begins {
		wrong(SpanDiffers, whole, "no block begins with its first id, behind the id before it, at or after its start")
	}
	if !tail.ends {
		wrong(SpanDiffers, whole, "no block ends with its last id, at or before its end")
	}
	// Where the clock stepped within the span, another block of it may be the first or the last in time.
	if !head.starts {
		if head.starts, err = r.bounds(ctx, p, p.Start); err != nil {
			return err
		}
	}
	if !tail.stops {
		if tail.stops, err = r.bounds(ctx, p, p.End); err != nil {
			return err
		}
	}
	if head.begins && !head.starts || tail.ends && !tail.stops {
		wrong(SpanDiffers, whole, "no block of it begins at its start, or none ends at its end")
	}
	return nil
}

// holder tells of the blocks that hold one id.
type holder struct {
	found  bool
	begins bool  // one begins with the id, behind the span's previous id, at or after the span's start
	ends   bool  // one ends with the id, at or before the span's end
	starts bool  // such a one begins at the span's start
	stops  bool  // one that ends with the id ends at the span's end
	next   int64 // where not found: the first id of the next block
	before int64 // where not found: the last id of the block before, as far as known
}

// after returns the first id behind the blocks that hold a span, of which the last id is not held.
func (h *holder) after(p *market.Span) int64 {
	if h.before < p.FirstID {
		return p.LastID
	}
	return h.before + 1
}

// holder looks for the blocks of a span that hold an end of it.
func (r *verifier) holder(ctx context.Context, series market.Series, id int64, p *market.Span) (h holder, err error) {
	h.next = math.MaxInt64
	look := func(window market.Time) error {
		return eachBlock(ctx, r.reader, series, window.Truncate(market.BlockWindow), func(b *market.Block) {
			switch {
			case b.LastID < id:
				h.before = max(h.before, b.LastID)
			case b.FirstID > id:
				h.next = min(h.next, b.FirstID)
			default:
				h.found = true
				begins := b.FirstID == id && b.PrevID == p.PrevID && b.Start >= p.Start
				ends := b.LastID == id && b.End <= p.End
				h.begins, h.ends = h.begins || begins, h.ends || ends
				h.starts, h.stops = h.starts || begins && b.Start == p.Start, h.stops || ends && b.End == p.End
			}
		})
	}
	nearest, err := r.reader.BlockByID(ctx, series, id)
	switch {
	case err == nil:
		err = look(nearest.Start)
	case isNotFound(err):
		err = nil
	}
	if err == nil && !h.found && id == p.LastID {
		err = look(p.End) // tells how far the blocks reach
	}
	return h, err
}

// bounds reports whether a block of the span begins or ends at an instant.
func (r *verifier) bounds(ctx context.Context, p *market.Span, at market.Time) (found bool, err error) {
	err = eachBlock(ctx, r.reader, p.Series, at.Truncate(market.BlockWindow), func(b *market.Block) {
		inside := ids{p.FirstID, p.LastID}.holds(ids{b.FirstID, b.LastID})
		found = found || inside && (b.Start == at && at == p.Start || b.End == at && at == p.End)
	})
	return found, err
}

// inSpans verifies that every block of a page lies in a span.
func (s *series[E]) inSpans(ctx context.Context, blocks []market.Block) error {
	outside, err := s.outside(ctx, blocks)
	if err != nil || len(outside) == 0 {
		return err
	}
	again, err := s.again(ctx)
	if err != nil {
		return err
	}
	if again {
		if outside, err = s.outside(ctx, blocks); err != nil {
			return err
		}
	}
	for _, o := range outside {
		if err := s.outsider(ctx, &o); err != nil {
			return err
		}
	}
	return nil
}

// outsider tells of a block that does not lie in the span that it names.
func (s *series[E]) outsider(ctx context.Context, o *outsider) error {
	held := ids{o.block.FirstID, o.block.LastID}
	if !o.elsewhere {
		s.problem(BlockWithoutSpan, held, o.block.Start, "")
		return nil
	}
	could, err := s.couldSpan(ctx, o.block)
	switch {
	case err != nil:
		return err
	case could:
		s.note(SpanIDDiffers, held, o.block.Start, "it names that from id %d on", o.block.SpanID)
	default:
		s.problem(SpanIDWrong, held, o.block.Start, "it names that from id %d on", o.block.SpanID)
	}
	return nil
}

// couldSpan reports whether there could be the span that a block names: a block begins with its first id, and no id is
// missing from there to the end of the block. A recorder that starts relies on it, and writes the span of a series' last
// block into the store by what that block says.
func (s *series[E]) couldSpan(ctx context.Context, b *market.Block) (bool, error) {
	nearest, err := s.reader.BlockByID(ctx, s.task.series, b.SpanID)
	if isNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	begins := false
	err = eachBlock(ctx, s.reader, s.task.series, nearest.Start.Truncate(market.BlockWindow), func(first *market.Block) {
		begins = begins || first.FirstID == b.SpanID
	})
	if err != nil || !begins {
		return false, err
	}
	missing, err := s.missing(ctx, s.task.series, ids{b.SpanID, b.LastID}, min(nearest.Start, b.Start), max(nearest.End, b.End))
	return len(missing) == 0, err
}

// outsider is a block that does not lie in the span that it names.
type outsider struct {
	block     *market.Block
	elsewhere bool // but in another one
}

func (s *series[E]) outside(ctx context.Context, blocks []market.Block) ([]outsider, error) {
	end := market.Time(0)
	for i := range blocks {
		end = max(end, blocks[i].End)
	}
	spans, err := s.reader.Spans(ctx, s.task.series, blocks[0].Start, end+1, maxSpans)
	if err == nil && len(spans) == maxSpans {
		err = market.Errorf(market.KindTooLarge, "%d spans or more between %v and %v", maxSpans, blocks[0].Start, end)
	}
	if err != nil {
		return nil, err
	}
	byID := make(map[int64]*market.Span, len(spans)) // nil where there is none
	for i := range spans {
		byID[spans[i].FirstID] = &spans[i]
	}
	var found []outsider
	for i := range blocks {
		b := &blocks[i]
		p, looked := byID[b.SpanID]
		if !looked { // the clock may have stepped within it
			if p, err = s.spanByID(ctx, b.SpanID); err != nil {
				return nil, err
			}
			byID[b.SpanID] = p
		}
		if p != nil && spanHolds(p, b) {
			continue
		}
		o := outsider{block: b}
		for j := range spans {
			o.elsewhere = o.elsewhere || spanHolds(&spans[j], b)
		}
		found = append(found, o)
	}
	return found, nil
}

// spanByID returns a span by way of its first block; nil when there is none.
func (s *series[E]) spanByID(ctx context.Context, id int64) (*market.Span, error) {
	first, err := s.reader.BlockByID(ctx, s.task.series, id)
	if isNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	spans, err := s.reader.Spans(ctx, s.task.series, first.Start, first.Start+1, maxSpans)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(spans, func(p market.Span) bool { return p.FirstID == id })
	if i < 0 {
		return nil, nil
	}
	return &spans[i], nil
}

func spanHolds(p *market.Span, b *market.Block) bool {
	return ids{p.FirstID, p.LastID}.holds(ids{b.FirstID, b.LastID})
}

// claimed looks for spans that claim missing ids between two blocks of theirs.
func (s *series[E]) claimed(ctx context.Context, missing ids, before, after market.Time) error {
	from, to := max(0, min(before, after).Add(-clockSlack)), max(before, after).Add(clockSlack)
	spans, err := s.reader.Spans(ctx, s.task.series, from, to, maxSpans)
	if err != nil {
		return err
	}
	for i := range spans {
		if p := &spans[i]; p.FirstID < missing.first && missing.last < p.LastID {
			s.problem(SpanWithoutBlocks, missing, before, "within the span from id %d to %d", p.FirstID, p.LastID)
		}
	}
	return nil
}

// inWindows calls read for windows of time that cover [from, to), one after the other. A window of which read says that
// its records fill a page is read again in parts.
func inWindows(from, to market.Time, read func(from, to market.Time) (full bool, err error)) error {
	for width := to - from; from < to; {
		end := from + min(width, to-from)
		full, err := read(from, end)
		switch {
		case err != nil:
			return err
		case full && width <= 1:
			return market.Errorf(market.KindTooLarge, "more records at %v than are ever read at once", from)
		case full:
			width = min(width, to-from) / 2
		default:
			from, width = end, min(width, (to-end)/2+1)*2
		}
	}
	return nil
}
