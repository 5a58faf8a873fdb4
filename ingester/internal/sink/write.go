package sink

import (
	"context"
	"math/rand/v2"
	"time"

	"tapedeck/shared/market"
)

const (
	// Bounds of one write.
	maxBatchRecords = 500
	maxBatchBytes   = 4 << 20
	writeTimeout    = 30 * time.Second

	// Delays between tries.
	minRetryDelay = 100 * time.Millisecond
	maxRetryDelay = 5 * time.Second
)

// group takes items off the queue, as many as make one write: at least one.
func (s *Sink) group() []item {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, records, bytes := 0, 0, 0
	for n < len(s.queue) {
		records += s.queue[n].batch.Len()
		bytes += s.queue[n].bytes
		if n > 0 && (records > maxBatchRecords || bytes > maxBatchBytes) {
			break
		}
		n++
	}
	group := make([]item, n)
	copy(group, s.queue)
	clear(s.queue[:n])
	if s.queue = s.queue[n:]; len(s.queue) == 0 {
		s.queue = nil
	}
	return group
}

// write writes a group until the store takes it or ctx ends.
func (s *Sink) write(ctx context.Context, group []item) {
	batch := merge(group)
	for tries := 0; ; tries++ {
		err := s.tryWrite(ctx, batch)
		switch {
		case err == nil:
			s.written(group)
			return
		case permanent(err):
			s.writeEach(ctx, group, err)
			return
		}
		if tries == 0 {
			s.log.Warn("the store does not take records; trying on", "error", err, "records", batch.Len())
		}
		if !pause(ctx, tries) {
			return
		}
	}
}

// tryWrite writes a batch once.
func (s *Sink) tryWrite(ctx context.Context, batch *market.Batch) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	begin := time.Now()
	err := s.store.Write(ctx, batch)
	s.meter.writeSeconds.Observe(time.Since(begin).Seconds())
	if err != nil {
		s.meter.writeErrors.WithLabelValues(market.KindOf(err).String()).Inc()
	}
	if !permanent(err) { // a refused record says nothing of the store
		s.answered(err)
	}
	return err
}

// writeEach writes the halves of a group, of which the store refused a record for good, on their own, and so on, until
// that record is found. It is given up; there is no way to store it.
func (s *Sink) writeEach(ctx context.Context, group []item, refusal error) {
	if len(group) > 1 {
		half := len(group) / 2
		s.write(ctx, group[:half])
		if ctx.Err() == nil {
			s.write(ctx, group[half:])
		}
		return
	}
	s.log.Error("the store refuses records for good; they are lost", "error", refusal, "records", group[0].batch.Len())
	s.meter.refused.Add(float64(group[0].batch.Len()))
	s.done(group)
}

// written takes a group off the account and notes how long it took from the receipt of its events.
func (s *Sink) written(group []item) {
	now := market.TimeOf(time.Now())
	for i := range group {
		s.meter.written.Add(float64(group[i].batch.Len()))
		if group[i].received != 0 {
			s.meter.storeLag.Observe(now.Sub(group[i].received).Seconds())
		}
	}
	s.done(group)
}

// permanent reports whether trying again is of no use.
func permanent(err error) bool {
	kind := market.KindOf(err)
	return kind == market.KindInvalid || kind == market.KindTooLarge
}

// pause waits before the next try, the longer the more there were. It returns false when ctx ended.
func pause(ctx context.Context, tries int) bool {
	delay := min(minRetryDelay<<min(tries, 16), maxRetryDelay)
	select {
	case <-time.After(delay/2 + rand.N(delay/2)):
		return true
	case <-ctx.Done():
		return false
	}
}

// spanKey identifies a span; see market.Span.
type spanKey struct {
	series  market.Series
	firstID int64
}

// merge makes one batch of a group. Of the states of one span one is made, as a store would.
func merge(group []item) *market.Batch {
	batch := &market.Batch{}
	spans := make(map[spanKey]int)
	for i := range group {
		b := &group[i].batch
		batch.Blocks = append(batch.Blocks, b.Blocks...)
		batch.Keyframes = append(batch.Keyframes, b.Keyframes...)
		batch.Gaps = append(batch.Gaps, b.Gaps...)
		batch.Listings = append(batch.Listings, b.Listings...)
		batch.Statuses = append(batch.Statuses, b.Statuses...)
		for _, span := range b.Spans {
			key := spanKey{span.Series, span.FirstID}
			if at, ok := spans[key]; ok {
				merged := &batch.Spans[at]
				merged.LastID = max(merged.LastID, span.LastID)
				merged.Start, merged.End = min(merged.Start, span.Start), max(merged.End, span.End)
				continue
			}
			spans[key] = len(batch.Spans)
			batch.Spans = append(batch.Spans, span)
		}
	}
	return batch
}
