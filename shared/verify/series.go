package verify

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"tapedeck/shared/market"
)

// nearby is how far from a hole or a step of the clock, in event time, its entry in the ledger may lie. Snapshots carry
// a time of their own, which on a quiet market is not that of an event.
const nearby = time.Minute

// Bounds of one question to the store. More records than that at one place are more than a reader could use as well.
const (
	maxSpans = 10_000
	maxGaps  = 10_000
)

// series is the verification of the blocks of one series.
type series[E any] struct {
	*verifier
	task  *task
	codec codec[E]
	walk  *walk[E]

	until     market.Time // greatest event time of the blocks read
	unread    idSet       // ids of blocks that could not be decoded
	before    event       // the last event
	reached   int64       // greatest id held so far, or that of the book that the walk began with; -1 for none
	reachedAt market.Time
}

// newSeries returns the verification of the blocks from a time on that reach above the id base.
func newSeries[E any](r *verifier, t *task, codec codec[E], from market.Time, base int64) *series[E] {
	s := &series[E]{verifier: r, task: t, codec: codec, reached: base, reachedAt: from}
	to := t.tail.Start + 1
	if r.opts.End != 0 {
		to = min(to, r.opts.End)
	}
	s.walk = newWalk(r.reader, t.series, from, to, base, codec, observer[E]{
		page:  s.page,
		ahead: func(context.Context, market.Time) error { return nil },
		block: s.block,
		copy:  s.copy,
		lost:  func(b *market.Block) { s.unread.add(ids{b.PrevID + 1, b.LastID}) },
		stray: func(b *market.Block) {
			s.problem(DuplicateDiffers, ids{b.FirstID, b.LastID}, b.Start, "the same ids are held at another time")
		},
	})
	return s
}

func (s *series[E]) problem(code Code, at ids, when market.Time, format string, args ...any) {
	s.task.stream.problem(code, Place{at.first, at.last, when, fmt.Sprintf(format, args...)})
}

func (s *series[E]) note(code Code, at ids, when market.Time, format string, args ...any) {
	s.task.stream.note(code, Place{at.first, at.last, when, fmt.Sprintf(format, args...)})
}

// page takes a page of blocks as read.
func (s *series[E]) page(ctx context.Context, blocks []market.Block) error {
	if len(blocks) == 0 {
		return nil
	}
	for i := range blocks {
		s.until = max(s.until, blocks[i].End)
		s.task.stream.Blocks++
		s.task.stream.Bytes += int64(len(blocks[i].Data))
		s.progress.Bytes += int64(len(blocks[i].Data))
	}
	if err := s.inSpans(ctx, blocks); err != nil {
		return err
	}
	s.progress.At = blocks[len(blocks)-1].Start
	if s.opts.Progress != nil {
		s.opts.Progress(s.progress)
	}
	return ctx.Err()
}

// block compares what stands beside a block's data with the data.
func (s *series[E]) block(b *market.Block, events []E, err error) {
	held := ids{b.FirstID, b.LastID}
	if err != nil {
		s.problem(Checksum, held, b.Start, "%v", err)
		return
	}
	first := s.codec.event(&events[0])
	start, end, last := first.time, first.time, first.last
	var wrong []string
	differs := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	for i := 1; i < len(events); i++ {
		e := s.codec.event(&events[i])
		switch {
		case e.prev > last:
			s.problem(HoleInBlock, ids{last + 1, e.prev}, e.time, "")
		case e.first <= last:
			differs("id %d follows id %d", e.first, last)
		}
		start, end, last = min(start, e.time), max(end, e.time), max(last, e.last)
	}
	if got := (ids{first.first, last}); got != held {
		differs("the record says ids %d to %d, the data %d to %d", held.first, held.last, got.first, got.last)
	}
	if first.prev != b.PrevID {
		differs("the record says that id %d is before it, the data %d", b.PrevID, first.prev)
	}
	if start != b.Start || end != b.End {
		differs("the record says %v to %v, the data %v to %v", b.Start, b.End, start, end)
	}
	if start.Truncate(market.BlockWindow) != end.Truncate(market.BlockWindow) {
		differs("its events, %v to %v, are not in one window of %v", start, end, market.BlockWindow)
	}
	if len(events) != b.Events {
		differs("the record says %d events, the data %d", b.Events, len(events))
	}
	if len(wrong) > 0 {
		s.problem(BlockDiffers, held, b.Start, "%s", strings.Join(wrong, "; "))
	}
}

// copy takes an event that was there before.
func (s *series[E]) copy(e event, same bool) {
	if same {
		s.task.stream.Copies++
		return
	}
	s.problem(DuplicateDiffers, e.ids, e.time, "")
}

// event takes the next event, in the order of ids. It returns false when ids are missing before it.
func (s *series[E]) event(ctx context.Context, e event) (bool, error) {
	out := &s.task.stream
	whole := true
	if s.reached >= 0 && e.prev > s.reached {
		whole = false
		if err := s.hole(ctx, ids{s.reached + 1, e.prev}, s.reachedAt, e.time); err != nil {
			return false, err
		}
	} else if s.before.last != 0 && e.time < s.before.time {
		if err := s.stepBack(ctx, e); err != nil {
			return false, err
		}
	}
	if out.Events == 0 {
		out.FirstID, out.Start = e.first, e.time
	}
	out.Events++
	out.IDs += ids{max(e.first, s.reached+1), e.last}.count()
	out.LastID, out.End = e.last, max(out.End, e.time)
	s.progress.Events++
	s.before, s.reached, s.reachedAt = e, e.last, e.time
	return whole, nil
}

// hole accounts for missing ids: those of blocks that cannot be decoded were told already, others must be in the
// ledger. before and after are the event times around it.
func (s *series[E]) hole(ctx context.Context, missing ids, before, after market.Time) error {
	left := []ids{missing}
	for _, unread := range s.unread {
		left, _ = without(left, unread)
	}
	s.unread.forget(missing.last)
	if len(left) == 0 {
		return nil
	}
	from, to := min(before, after).Add(-nearby), max(before, after).Add(nearby)
	left, err := s.explained(ctx, left, from, to, before)
	if err == nil && len(left) > 0 {
		left, err = s.explainedLater(ctx, left, from, before)
	}
	if err != nil {
		return err
	}
	for _, part := range left {
		s.problem(UnexplainedHole, part, before, "")
	}
	return s.claimed(ctx, missing, before, after)
}

// explained returns what of the missing ids no entry between two instants explains, and counts the rest as holes.
func (s *series[E]) explained(ctx context.Context, missing []ids, from, to, at market.Time) ([]ids, error) {
	entries, err := s.entries(ctx, s.task.series.Stream, from, to)
	if err != nil {
		return nil, err
	}
	if len(explain(missing, entries, func(*market.Gap, ids) {})) > 0 {
		again, err := s.again(ctx)
		if err == nil && again {
			entries, err = s.entries(ctx, s.task.series.Stream, from, to)
		}
		if err != nil {
			return nil, err
		}
	}
	return explain(missing, entries, func(g *market.Gap, part ids) { s.task.stream.hole(g.Cause, part, at) }), nil
}

// explainedLater is explained for what no entry between the two instants explains: by entries of a later time, which
// readers do not find there.
func (s *series[E]) explainedLater(ctx context.Context, missing []ids, from, at market.Time) ([]ids, error) {
	entries, err := s.entries(ctx, s.task.series.Stream, from, endOfTime)
	if err != nil {
		return nil, err
	}
	return explain(missing, entries, func(g *market.Gap, part ids) {
		s.task.stream.hole(g.Cause, part, at)
		s.problem(EntryFar, part, at, "the entry begins at %v", g.Start)
	}), nil
}

// entries returns the ledger's entries that overlap a stretch of event time.
func (s *series[E]) entries(ctx context.Context, stream market.Stream, from, to market.Time) ([]market.Gap, error) {
	gaps, err := s.reader.Gaps(ctx, market.GapQuery{
		Market: s.task.series.Market, Stream: stream, From: max(0, from), To: to, Limit: maxGaps,
	})
	if err == nil && len(gaps) == maxGaps && to < endOfTime {
		err = market.Errorf(market.KindTooLarge, "%d entries of the ledger or more between %v and %v", maxGaps, from, to)
	}
	return gaps, err
}

// explain returns what of the missing ids no entry explains, and tells of each part that one does.
func explain(missing []ids, entries []market.Gap, explained func(*market.Gap, ids)) []ids {
	for i := range entries {
		g := &entries[i]
		if g.Cause.MissesNothing() {
			continue
		}
		var parts []ids
		missing, parts = without(missing, ids{g.FirstID, g.LastID})
		for _, part := range parts {
			explained(g, part)
		}
	}
	return missing
}

// stepBack takes a step back of the clock, before e. Where it is longer than readers look back, the ledger must tell of
// it. The clock is the exchange's, so that an entry of the other stream does too, as does one of a hole that ends
// earlier than it began. The stream's own cannot be demanded: a recorder knows a step only where it had the events on
// both sides of it.
func (s *series[E]) stepBack(ctx context.Context, e event) error {
	by := s.before.time.Sub(e.time)
	if by <= clockSlack {
		s.note(TimeStepsBack, e.ids, e.time, "by %v, behind id %d", by, s.before.last)
		return nil
	}
	known, err := s.told(ctx, "", e.time, s.before.time, func(g *market.Gap) bool {
		return g.Cause == market.CauseClock || g.End != 0 && g.End < g.Start
	})
	if err == nil && !known {
		s.problem(TimeStepsBack, e.ids, e.time, "by %v, behind id %d", by, s.before.last)
	}
	return err
}

// doubted reports whether the ledger has an entry of one of the causes for any of the ids. Entries of doubt need not
// name an id: such a one stands before its FirstID.
func (s *series[E]) doubted(ctx context.Context, at ids, a, b market.Time, causes ...market.Cause) (bool, error) {
	return s.told(ctx, s.task.series.Stream, a, b, func(g *market.Gap) bool {
		return slices.Contains(causes, g.Cause) && at.overlaps(ids{g.FirstID - 1, max(g.LastID, g.FirstID)})
	})
}

// told reports whether the ledger has an entry near a stretch of event time that says something; an empty stream stands
// for all.
func (s *series[E]) told(
	ctx context.Context, stream market.Stream, a, b market.Time, says func(*market.Gap) bool,
) (bool, error) {
	for tried := false; ; {
		entries, err := s.entries(ctx, stream, min(a, b).Add(-nearby), max(a, b).Add(nearby))
		if err != nil {
			return false, err
		}
		if slices.ContainsFunc(entries, func(g market.Gap) bool { return says(&g) }) {
			return true, nil
		}
		if tried {
			return false, nil
		}
		if tried, err = s.again(ctx); err != nil || !tried {
			return false, err
		}
	}
}
