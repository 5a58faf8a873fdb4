package sink

import (
	"context"
	"sync"

	"tapedeck/shared/market"
)

// maxTailTries bounds the tries at a last block while the store answers with something other than being unavailable.
const maxTailTries = 5

// tails holds the last blocks that the store had before this process wrote anything: what is missing since then is
// found by them, so that they must not be read any later.
type tails struct {
	ready  chan struct{} // closed when found is complete
	mu     sync.Mutex
	blocks map[market.Series]market.Block
	errs   map[market.Series]error
}

func newTails() tails {
	return tails{
		ready: make(chan struct{}), blocks: make(map[market.Series]market.Block), errs: make(map[market.Series]error),
	}
}

// read asks the store for all of them, for as long as it takes. It returns false when ctx ended.
func (t *tails) read(ctx context.Context, s *Sink) bool {
	for _, series := range s.cfg.Series {
		block, err := s.readTail(ctx, series)
		if ctx.Err() != nil {
			return false
		}
		t.mu.Lock()
		t.blocks[series], t.errs[series] = block, err
		t.mu.Unlock()
	}
	close(t.ready)
	return true
}

// readTail asks the store until it answers.
func (s *Sink) readTail(ctx context.Context, series market.Series) (market.Block, error) {
	for tries := 0; ; tries++ {
		block, err := s.tryTail(ctx, series)
		kind := market.KindOf(err)
		if err == nil || kind == market.KindNotFound || kind != market.KindUnavailable && tries >= maxTailTries-1 {
			return block, err
		}
		s.answered(err)
		if tries == 0 {
			s.log.Warn("the store does not answer; trying on", "error", err)
		}
		if !pause(ctx, tries) {
			return market.Block{}, ctx.Err()
		}
	}
}

func (s *Sink) tryTail(ctx context.Context, series market.Series) (market.Block, error) {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	return s.store.Tail(ctx, series)
}

// Tail returns the last block of one of Config.Series that the store had before the sink wrote anything, or the
// store's error: of kind KindNotFound when there was none. It waits for the store as long as ctx lasts.
func (s *Sink) Tail(ctx context.Context, series market.Series) (market.Block, error) {
	select {
	case <-s.tails.ready:
	case <-ctx.Done():
		return market.Block{}, ctx.Err()
	}
	s.tails.mu.Lock()
	defer s.tails.mu.Unlock()
	block, ok := s.tails.blocks[series]
	if !ok {
		return block, market.Errorf(market.KindInvalid, "the last block of %v was not asked for at the start", series)
	}
	return block, s.tails.errs[series]
}
