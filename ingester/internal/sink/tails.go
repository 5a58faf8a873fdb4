package sink

import (
	"context"
	"errors"
	"math"
	"slices"
	"sync"
	"time"

	"tapedeck/shared/market"
)

const (
	tailReaders = 8 // that ask the store at once

	// maxTries bounds how often a question is asked that the store answers with an error which trying again will hardly
	// mend. With other errors it is asked for as long as it takes.
	maxTries = 5

	// spooledTailWait is how long Tail waits for the store where the spool knows a last block.
	spooledTailWait = 5 * time.Second
)

// tails holds the last blocks of series at the start: what is missing since then is found by them.
type tails struct {
	scanned chan struct{} // closed when spooled is complete
	spooled map[market.Series]market.Block
	stored  map[market.Series]*storedTail
}

// storedTail is the last block of a series that the store had before this process wrote anything.
type storedTail struct {
	ready chan struct{} // closed when the rest is set
	block market.Block
	err   error
}

func newTails(series []market.Series) tails {
	t := tails{
		scanned: make(chan struct{}), spooled: make(map[market.Series]market.Block),
		stored: make(map[market.Series]*storedTail),
	}
	for _, s := range series {
		t.stored[s] = &storedTail{ready: make(chan struct{})}
	}
	return t
}

// scan finds the last blocks of all series that were handed to the spool before this process started.
func (s *Sink) scan(ctx context.Context) {
	defer close(s.tails.scanned)
	newest := s.tails.spooled
	note := func(b market.Block) {
		if old, ok := newest[b.Series]; !ok || b.LastID > old.LastID {
			newest[b.Series] = b
		}
	}
	for series, standing := range s.remembered.standings {
		note(market.Block{Series: series, LastID: standing.Front.LastID, End: standing.Front.End})
	}
	for data := range s.spool.Recovered() {
		if ctx.Err() != nil {
			return
		}
		for _, b := range decodeKeys(data) {
			note(b)
		}
	}
}

// readTails asks the store for the last blocks of Config.Series, for as long as it takes, and opens the account with
// them. It returns false when ctx ended.
func (s *Sink) readTails(ctx context.Context) bool {
	todo := make(chan market.Series)
	var readers sync.WaitGroup
	for range min(tailReaders, len(s.cfg.Series)) {
		readers.Go(func() {
			for series := range todo {
				s.readTail(ctx, series)
			}
		})
	}
	for _, series := range s.cfg.Series {
		todo <- series
	}
	close(todo)
	readers.Wait()
	return ctx.Err() == nil
}

// readTail finds out where a series stands in the store.
func (s *Sink) readTail(ctx context.Context, series market.Series) {
	var tail *market.Block
	block, err := s.lastBlock(ctx, series)
	if err == nil {
		tail = &block
	}
	if asked, ok := s.tails.stored[series]; ok {
		asked.block, asked.err = block, err
		close(asked.ready)
	}
	remembered := s.recall(ctx, series)
	var spans []market.Span
	if tail != nil {
		spans = s.unwrittenSpans(ctx, tail)
	}
	if ctx.Err() != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.account.open(series, remembered, tail)
	s.opened[series] = true
	s.healing = append(s.healing, spans...)
}

// What is in doubt when the store does not answer.
const (
	doubtfulHole = "a hole before this start may be missing in the ledger"
	doubtfulSpan = "spans may tell of less than is stored"
)

// lastBlock returns the block of a series with the greatest LastID. The newest by time is another one where the
// exchange's clock stepped back.
func (s *Sink) lastBlock(ctx context.Context, series market.Series) (market.Block, error) {
	newest, err := ask(ctx, s, series, doubtfulHole, func(ctx context.Context) (market.Block, error) {
		return s.store.Tail(ctx, series)
	})
	if err != nil {
		return market.Block{}, err
	}
	return s.climb(ctx, newest, math.MaxInt64), nil
}

// climb returns the block of a series with the greatest LastID below a bound, which from is below already: the ids that
// are tried lie twice as far beyond from each time, until there is nothing, and then half as far.
func (s *Sink) climb(ctx context.Context, from market.Block, below int64) market.Block {
	growing := true
	for step := int64(1); step > 0; {
		block, err := from, error(nil)
		if step < below-from.LastID {
			block, err = s.blockFrom(ctx, from.Series, from.LastID+step)
		}
		switch {
		case err != nil && market.KindOf(err) != market.KindNotFound:
			return from
		case err != nil || block.LastID >= below || block.LastID == from.LastID:
			growing, step = false, step/2
		case growing:
			from, step = block, 2*step
		default:
			from = block
		}
	}
	return from
}

// blockBefore returns the block of a series with the greatest LastID below id.
func (s *Sink) blockBefore(ctx context.Context, series market.Series, id int64) (market.Block, error) {
	for step := int64(1); ; step *= 2 {
		from := max(id-step, 0)
		block, err := s.blockFrom(ctx, series, from)
		switch {
		case err != nil:
			return market.Block{}, err
		case block.LastID < id:
			return s.climb(ctx, block, id), nil
		case from == 0:
			return market.Block{}, market.Errorf(market.KindNotFound, "no block of %v before id %d", series, id)
		}
	}
}

// blockFrom returns the block of a series with the least LastID at or above id.
func (s *Sink) blockFrom(ctx context.Context, series market.Series, id int64) (market.Block, error) {
	return ask(ctx, s, series, doubtfulSpan, func(ctx context.Context) (market.Block, error) {
		return s.store.BlockByID(ctx, series, id)
	})
}

// unwrittenSpans returns the spans up to a series' last block that a crash in the middle of a write left out of the
// store, or shorter than they are: one write has as many at most as it has records. As the one that ends last is written
// last (see write), the others are there where it is.
func (s *Sink) unwrittenSpans(ctx context.Context, tail *market.Block) (spans []market.Span) {
	for block := *tail; len(spans) < maxWriteRecords; {
		spanned, unknown := s.isSpanned(ctx, &block)
		if spanned {
			break
		}
		span := s.spanBehind(ctx, &block)
		spans = append(spans, span)
		before, err := s.blockBefore(ctx, block.Series, span.FirstID)
		if unknown != nil || err != nil {
			break
		}
		block = before
	}
	return spans
}

// isSpanned reports whether the store has the span of a block, as long as it is at the block.
func (s *Sink) isSpanned(ctx context.Context, block *market.Block) (bool, error) {
	spans, err := ask(ctx, s, block.Series, doubtfulSpan, func(ctx context.Context) ([]market.Span, error) {
		return s.store.Spans(ctx, block.Series, block.Start, block.End+1, maxWriteRecords)
	})
	return slices.ContainsFunc(spans, func(span market.Span) bool {
		return span.FirstID == block.SpanID && span.LastID >= block.LastID
	}), err
}

// spanBehind returns the span that ends with a block. Where it is not in the store yet, its beginning is what it will be
// known by: that of its first block, which a crash may have left there without it.
func (s *Sink) spanBehind(ctx context.Context, block *market.Block) market.Span {
	span := spanOfTail(block)
	if block.FirstID == block.SpanID {
		return span
	}
	first, err := s.blockFrom(ctx, block.Series, block.SpanID)
	if err == nil && first.FirstID == block.SpanID {
		span.PrevID, span.Start = first.PrevID, min(span.Start, first.Start)
		span.End = max(span.End, first.End)
	}
	return span
}

// recall returns where the series stood at the spool's checkpoint, if that is known and the store holds the block with
// which it ends: it may be another store, or one that was set back. Where another recorder wrote that block first, only
// what the block says of its span is known to be held.
func (s *Sink) recall(ctx context.Context, series market.Series) *standing {
	remembered, ok := s.remembered.standings[series]
	if !ok {
		return nil
	}
	last := remembered.Front.LastID
	block, err := ask(ctx, s, series, doubtfulHole, func(ctx context.Context) (market.Block, error) {
		return s.store.BlockByID(ctx, series, last)
	})
	if err != nil || block.LastID != last {
		return nil
	}
	if block.SpanID != remembered.Front.FirstID {
		remembered.Front, remembered.Back = spanOfTail(&block), market.Span{}
	}
	return &remembered
}

// ask asks the store until it answers, which at the start is the first that it is heard of. Where it cannot, doubt says
// what that may lead to.
func ask[T any](
	ctx context.Context, s *Sink, series market.Series, doubt string, question func(context.Context) (T, error),
) (T, error) {
	answer, err := insist(ctx, s, func(try context.Context) (T, error) {
		answer, err := question(try)
		if err != nil && market.KindOf(err) != market.KindNotFound && ctx.Err() == nil {
			s.answered(err)
		}
		return answer, err
	})
	if err != nil && market.KindOf(err) != market.KindNotFound && ctx.Err() == nil {
		s.log.Error("the store cannot say what it holds", "series", series.String(), "doubt", doubt, "error", err)
	}
	return answer, err
}

// insist asks the store until it answers, or says maxTries times that it cannot.
func insist[T any](ctx context.Context, s *Sink, question func(context.Context) (T, error)) (answer T, err error) {
	for tries := 0; ; tries++ {
		answer, err = tryAsk(ctx, question)
		kind := market.KindOf(err)
		lasting := kind != market.KindUnavailable && kind != market.KindUnknown
		if err == nil || kind == market.KindNotFound || lasting && tries+1 >= maxTries {
			return answer, err
		}
		if ctx.Err() != nil {
			return answer, ctx.Err()
		}
		s.complain.Do(func() { s.log.Warn("the store does not answer; trying on", "error", err) })
		if !pause(ctx, tries) {
			return answer, ctx.Err()
		}
	}
}

func tryAsk[T any](ctx context.Context, question func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	return question(ctx)
}

// Tail returns the last block of one of Config.Series that was recorded before this process, by its LastID: the
// greater one of what was handed to the spool and what the store held at the start, where another recorder may have
// written too. Of the block, Series, LastID and End are set. Where the spool knows one, the store is waited for a few
// seconds, else as long as ctx lasts. The error is the store's: of kind KindNotFound where nothing was recorded.
func (s *Sink) Tail(ctx context.Context, series market.Series) (market.Block, error) {
	stored, ok := s.tails.stored[series]
	if !ok {
		return market.Block{}, market.Errorf(market.KindInvalid, "the last block of %v was not asked for at the start", series)
	}
	select {
	case <-s.tails.scanned:
	case <-ctx.Done():
		return market.Block{}, ctx.Err()
	}
	spooled, found := s.tails.spooled[series]
	wait := ctx
	if found {
		var cancel context.CancelFunc
		wait, cancel = context.WithTimeout(ctx, spooledTailWait)
		defer cancel()
	}
	select {
	case <-stored.ready:
	case <-wait.Done():
		if !found || ctx.Err() != nil {
			return market.Block{}, ctx.Err()
		}
		return spooled, nil
	}
	switch {
	case found && (stored.err != nil || stored.block.LastID < spooled.LastID):
		return spooled, nil
	case errors.Is(stored.err, context.Canceled): // the sink stopped before the store answered
		return market.Block{}, market.Errorf(market.KindUnavailable, "the store has not answered: %w", stored.err)
	}
	return stored.block, stored.err
}
