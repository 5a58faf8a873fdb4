package sink

import (
	"context"
	"errors"
	"sync"
	"time"

	"tapedeck/shared/market"
)

const (
	tailReaders = 8 // that ask the store at once

	// maxTailTries bounds the tries at a last block while the store answers with an error that trying again will
	// hardly mend. Others are tried at for as long as it takes.
	maxTailTries = 5

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
	block, err := s.ask(ctx, series, func(ctx context.Context) (market.Block, error) { return s.store.Tail(ctx, series) })
	if err == nil {
		tail = &block
	}
	if asked, ok := s.tails.stored[series]; ok {
		asked.block, asked.err = block, err
		close(asked.ready)
	}
	remembered := s.recall(ctx, series)
	var span market.Span
	if tail != nil {
		span = s.spanBehind(ctx, series, tail)
	}
	if ctx.Err() != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.account.open(series, remembered, tail)
	s.opened[series] = true
	if tail != nil {
		s.healing = append(s.healing, span)
	}
}

// spanBehind returns the span that ends with the store's last block. Where it is not in the store yet, its beginning is
// what it will be known by: that of its first block, which a crash may have left there without it.
func (s *Sink) spanBehind(ctx context.Context, series market.Series, tail *market.Block) market.Span {
	span := spanOfTail(tail)
	if tail.FirstID == tail.SpanID {
		return span
	}
	first, err := s.ask(ctx, series, func(ctx context.Context) (market.Block, error) {
		return s.store.BlockByID(ctx, series, tail.SpanID)
	})
	if err == nil && first.FirstID == tail.SpanID {
		span.PrevID, span.Start = first.PrevID, min(span.Start, first.Start)
		span.End = max(span.End, first.End)
	}
	return span
}

// recall returns where the series stood at the spool's checkpoint, if that is known and the store holds the block with
// which it ends: it may be another store, or one that was set back.
func (s *Sink) recall(ctx context.Context, series market.Series) *standing {
	remembered, ok := s.remembered.standings[series]
	if !ok {
		return nil
	}
	last := remembered.Front.LastID
	block, err := s.ask(ctx, series, func(ctx context.Context) (market.Block, error) {
		return s.store.BlockByID(ctx, series, last)
	})
	if err != nil || block.LastID != last || block.SpanID != remembered.Front.FirstID {
		return nil
	}
	return &remembered
}

// ask asks the store for a block until it answers.
func (s *Sink) ask(
	ctx context.Context, series market.Series, question func(context.Context) (market.Block, error),
) (market.Block, error) {
	for tries := 0; ; tries++ {
		block, err := s.tryAsk(ctx, question)
		kind := market.KindOf(err)
		if err == nil || kind == market.KindNotFound {
			return block, err
		}
		if lasting := kind != market.KindUnavailable && kind != market.KindUnknown; lasting && tries+1 >= maxTailTries {
			s.log.Error("what is stored is not known; a hole before this start may be missing in the ledger",
				"series", series.String(), "error", err)
			return market.Block{}, err
		}
		if ctx.Err() != nil {
			return market.Block{}, ctx.Err()
		}
		s.answered(err)
		s.complain.Do(func() { s.log.Warn("the store does not answer; trying on", "error", err) })
		if !pause(ctx, tries) {
			return market.Block{}, ctx.Err()
		}
	}
}

func (s *Sink) tryAsk(ctx context.Context, question func(context.Context) (market.Block, error)) (market.Block, error) {
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
