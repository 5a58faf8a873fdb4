package sink

import (
	"context"
	"fmt"

	"tapedeck/shared/market"
)

// maxReads is how many questions of recorders the store is asked at a time.
const maxReads = 4

// Settled returns nil once the store has all that was put before, by this process and earlier ones. It waits as long as
// ctx lasts; the recorders report so often that there is always more to deliver, which shows that what was put before is
// done with.
func (s *Sink) Settled(ctx context.Context) error {
	last := s.spool.Last()
	for {
		s.mu.Lock()
		settled, progress := s.resumed && s.account.settled >= last, s.progress
		s.mu.Unlock()
		if settled {
			return nil
		}
		select {
		case <-progress:
		case <-ctx.Done():
			return fmt.Errorf("wait for what was recorded to be stored: %w", ctx.Err())
		}
	}
}

// Gaps returns entries of the ledger as the store has them: those on their way are not among them.
func (s *Sink) Gaps(ctx context.Context, query market.GapQuery) (gaps []market.Gap, err error) {
	err = s.read(ctx, func(ctx context.Context) (err error) {
		gaps, err = s.store.Gaps(ctx, query)
		return err
	})
	return gaps, err
}

// Spans returns spans as the store has them: what is on its way is not in them.
func (s *Sink) Spans(
	ctx context.Context, series market.Series, from, to market.Time, limit int,
) (spans []market.Span, err error) {
	err = s.read(ctx, func(ctx context.Context) (err error) {
		spans, err = s.store.Spans(ctx, series, from, to, limit)
		return err
	})
	return spans, err
}

// read asks the store until it answers, when it is its turn: all markets ask at once when a process has settled.
func (s *Sink) read(ctx context.Context, question func(context.Context) error) error {
	select {
	case s.reading <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("wait for a turn to read: %w", ctx.Err())
	}
	defer func() { <-s.reading }()
	_, err := insist(ctx, s, func(ctx context.Context) (struct{}, error) { return struct{}{}, question(ctx) })
	return err
}
