package sink

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"tapedeck/ingester/internal/spool"
	"tapedeck/shared/market"
)

const (
	// Bounds of one write, but for spans and for the ledger entries that the account adds. See Sink.portion.
	maxWriteRecords = 500
	maxWriteBytes   = 4 << 20

	storeTimeout = 30 * time.Second // of one call

	// A write that fails after slowWrite is tried again in smaller portions, as stores may give up a little before the
	// time is over. After one that took less than quickWrite twice as much is not slow.
	slowWrite  = storeTimeout / 2
	quickWrite = storeTimeout / 4

	// Delays between tries.
	minRetryDelay = 100 * time.Millisecond
	maxRetryDelay = 5 * time.Second
)

// Run reads where the store stands and then writes what comes out of the spool, until Close was called and everything
// is written, or ctx ends, or a record of a newer version comes: StoreProblem tells then. What is left stays in the
// spool.
func (s *Sink) Run(ctx context.Context) {
	var scanning sync.WaitGroup
	defer scanning.Wait()
	scanning.Go(func() { s.scan(ctx) })
	if !s.readTails(ctx) || !s.heal(ctx) {
		return
	}
	for {
		records, err := s.nextRecords(ctx)
		if err != nil {
			if !errors.Is(err, io.EOF) && ctx.Err() == nil {
				s.log.Error("the spool cannot be read; nothing more is written", "error", err)
			}
			return
		}
		if !s.forward(ctx, records) {
			return
		}
	}
}

// forward writes a group of records and acknowledges them. It returns false when ctx ended before all were written, or
// one of them is not for this version of the program: it stays in the spool, as does all behind it.
func (s *Sink) forward(ctx context.Context, records []spool.Record) bool {
	deliveries := make([]delivery, 0, len(records))
	var newer error
	for i := range records {
		v, err := s.unpack(&records[i])
		if newer = err; newer != nil {
			break
		}
		deliveries = append(deliveries, v)
	}
	deliveries = s.unfinished.sift(deliveries, time.Now(), func(b *market.Block) presence { return s.presenceOf(ctx, b) })
	if ctx.Err() != nil || !s.openSeries(ctx, deliveries) || !s.deliver(ctx, deliveries) {
		return false
	}
	if newer != nil {
		s.halt(newer)
	}
	return newer == nil
}

// halt notes that nothing more is written to the store, and why.
func (s *Sink) halt(reason error) {
	s.log.Error("what is in the spool cannot be read by this version; nothing more is written to the store", "error", reason)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.halted = reason
}

// unpack decodes a record. One that cannot be read becomes a delivery without records that says so, but for those of a
// newer version, for which the error is errNewer.
func (s *Sink) unpack(r *spool.Record) (delivery, error) {
	v, err := decode(r.Data)
	if errors.Is(err, errNewer) {
		return delivery{}, err
	}
	v.position, v.lost = r.Position, lostCause(r.Lost)
	if err != nil {
		v.lost = market.CauseDamaged
		s.bury(fmt.Sprintf("%020d-raw", r.Position), &deadLetter{Error: err.Error(), Kind: "raw", Record: r.Data})
	}
	return v, nil
}

func lostCause(l spool.Loss) market.Cause {
	switch l {
	case spool.LossDropped:
		return market.CauseOverflow
	case spool.LossDamaged:
		return market.CauseDamaged
	case spool.LossNone:
	}
	return ""
}

// openSeries opens the account of series that are in the spool though they are no longer recorded, or that may be among
// what is lost.
func (s *Sink) openSeries(ctx context.Context, deliveries []delivery) bool {
	for i := range deliveries {
		v := &deliveries[i]
		for _, b := range v.batch.Blocks {
			if !s.openOne(ctx, b.Series) {
				return false
			}
		}
		for _, g := range v.batch.Gaps {
			if !s.openOne(ctx, g.Series) {
				return false
			}
		}
		if v.lost == "" {
			continue
		}
		for series := range s.remembered.standings {
			if !s.openOne(ctx, series) {
				return false
			}
		}
	}
	return true
}

// openOne opens the account of a series if it is not open yet. It returns false when ctx ended.
func (s *Sink) openOne(ctx context.Context, series market.Series) bool {
	if s.isOpen(series) {
		return true
	}
	s.readTail(ctx, series)
	return ctx.Err() == nil && s.heal(ctx)
}

func (s *Sink) isOpen(series market.Series) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.opened[series]
}

// heal writes the spans that a crash left unwritten behind the store's last blocks. It returns false when ctx ended.
func (s *Sink) heal(ctx context.Context) bool {
	s.mu.Lock()
	spans := s.healing
	s.healing = nil
	s.mu.Unlock()
	if len(spans) == 0 {
		return true
	}
	if err := s.writeSpans(ctx, spans); err != nil && ctx.Err() == nil {
		s.log.Error("the store refuses the spans of its last blocks", "error", err)
	}
	return ctx.Err() == nil
}

// writeSpans writes spans, in halves when the store is too slow for all of them.
func (s *Sink) writeSpans(ctx context.Context, spans []market.Span) error {
	_, err := s.write(ctx, &market.Batch{Spans: spans}, len(spans) > 1)
	if err == nil || permanent(err) || ctx.Err() != nil {
		return err
	}
	half := len(spans) / 2
	return errors.Join(s.writeSpans(ctx, spans[:half]), s.writeSpans(ctx, spans[half:]))
}

// deliver brings deliveries into the account and the store, portion by portion, and acknowledges them. It returns false
// when ctx ended before.
func (s *Sink) deliver(ctx context.Context, deliveries []delivery) bool {
	for len(deliveries) > 0 {
		if deliveries[0].batch.Len() > s.portion {
			deliveries = append(split(&deliveries[0]), deliveries[1:]...)
		}
		n, count := 0, 0
		for n < len(deliveries) {
			if count += deliveries[n].batch.Len(); n > 0 && count > s.portion {
				break
			}
			n++
		}
		err := s.deliverPortion(ctx, deliveries[:n])
		switch {
		case ctx.Err() != nil && err != nil:
			return false
		case permanent(err):
			if !s.isolate(ctx, deliveries[:n], err) {
				return false
			}
		case err != nil: // it was too much at once
			continue
		}
		deliveries = deliveries[n:]
	}
	return true
}

// deliverPortion brings deliveries into the account and the store in one write. It returns an error when ctx ended
// before, the store refuses them for good, or it is too slow for them: then the next portion is smaller.
func (s *Sink) deliverPortion(ctx context.Context, deliveries []delivery) error {
	draft, count := s.account.draft(), 0
	for i := range deliveries {
		draft.add(&deliveries[i])
		count += deliveries[i].batch.Len()
	}
	took, err := s.write(ctx, &draft.batch, count > 1)
	switch {
	case err == nil:
		s.commit(draft)
		s.delivered(deliveries)
		if took < quickWrite {
			s.portion = min(2*s.portion, maxWriteRecords)
		}
	case ctx.Err() == nil && !permanent(err):
		s.portion = count / 2
	}
	return err
}

// isolate delivers the halves of deliveries, of which the store refused a record for good, on their own, and so on,
// until that record is found.
func (s *Sink) isolate(ctx context.Context, deliveries []delivery, refusal error) bool {
	if len(deliveries) == 1 {
		if deliveries[0].batch.Len() == 1 {
			return s.refuse(ctx, &deliveries[0], refusal)
		}
		deliveries = split(&deliveries[0])
	}
	half := len(deliveries) / 2
	return s.deliver(ctx, deliveries[:half]) && s.deliver(ctx, deliveries[half:])
}

// refuse gives up a record that the store refuses for good: it becomes a dead letter, and a block an entry of the
// ledger.
func (s *Sink) refuse(ctx context.Context, v *delivery, refusal error) bool {
	kind, name, record := describe(&v.batch)
	s.bury(fmt.Sprintf("%020d-%s-%s", v.position, kind, name), &deadLetter{Error: refusal.Error(), Kind: kind, Record: record})
	draft := s.account.draft()
	draft.refuse(v)
	if _, err := s.write(ctx, &draft.batch, false); err != nil {
		if ctx.Err() != nil {
			return false
		}
		s.log.Error("the store refuses the ledger entry of a record that it refused", "error", err)
	}
	s.commit(draft)
	return true
}

// bury counts a record that cannot be stored, and keeps it as a dead letter of the given name.
func (s *Sink) bury(name string, letter *deadLetter) {
	letter.RefusedAt = time.Now().UTC()
	err := s.deadLetters.keep(name, letter)
	if err != nil {
		s.meter.deadLetters.WithLabelValues(letterLost).Inc()
		s.mourn.Do(func() {
			s.log.Error("a record cannot be stored, and not be kept as a dead letter either",
				"name", name, "refusal", letter.Error, "error", err)
		})
		return
	}
	s.meter.deadLetters.WithLabelValues(letterKept).Inc()
	s.mourn.Do(func() {
		s.log.Error("a record cannot be stored; it is kept as a dead letter", "name", name, "refusal", letter.Error)
	})
}

// split returns the records of a delivery as deliveries of one record each, in the order in which the account takes
// them.
func split(v *delivery) []delivery {
	var parts []delivery
	add := func(b market.Batch) {
		parts = append(parts, delivery{
			batch: b, received: v.received, session: v.session, position: v.position, partial: true,
			unfinished: v.unfinished, stored: v.stored,
		})
	}
	b := &v.batch
	for i := range b.Gaps {
		add(market.Batch{Gaps: b.Gaps[i : i+1]})
	}
	for i := range b.Keyframes {
		add(market.Batch{Keyframes: b.Keyframes[i : i+1]})
	}
	for i := range b.Blocks {
		add(market.Batch{Blocks: b.Blocks[i : i+1]})
	}
	for i := range b.Listings {
		add(market.Batch{Listings: b.Listings[i : i+1]})
	}
	for i := range b.Statuses {
		add(market.Batch{Statuses: b.Statuses[i : i+1]})
	}
	parts[0].lost = v.lost
	parts[len(parts)-1].partial = v.partial
	return parts
}

// commit makes a draft part of the account, and acknowledges what is wholly part of it.
func (s *Sink) commit(d *draft) {
	s.mu.Lock()
	d.commit()
	s.mu.Unlock()
	for _, cause := range d.entered {
		s.meter.entered.WithLabelValues(string(cause)).Inc()
	}
	s.spool.Ack(s.unfinished.settled(d.settled, d.unfinished))
}

// delivered notes what was written, and how long it took from the receipt of its events.
func (s *Sink) delivered(deliveries []delivery) {
	now, own := market.TimeOf(time.Now()), false
	for i := range deliveries {
		s.meter.written.Add(float64(deliveries[i].batch.Len()))
		if received := deliveries[i].received; received != 0 {
			s.meter.storeLag.Observe(now.Sub(received).Seconds())
		}
		own = own || deliveries[i].session == s.session
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.resumed = s.resumed || own
	close(s.progress)
	s.progress = make(chan struct{})
}

// write writes a batch until the store takes it, and returns how long the last try took. It returns an error when the
// store refuses the batch for good or ctx ended, or, of one that is divisible, when a try took too long. Spans are
// written in the order of their ends; see unwrittenSpans.
func (s *Sink) write(ctx context.Context, batch *market.Batch, divisible bool) (took time.Duration, err error) {
	if batch.Len() == 0 {
		return 0, nil
	}
	slices.SortStableFunc(batch.Spans, func(a, b market.Span) int { return cmp.Compare(a.LastID, b.LastID) })
	for tries := 0; ; tries++ {
		took, err = s.tryWrite(ctx, batch)
		if err == nil || permanent(err) {
			return took, err
		}
		s.complain.Do(func() {
			s.log.Warn("the store does not take records; trying on", "error", err, "records", batch.Len())
		})
		if divisible && took >= slowWrite {
			return took, err
		}
		if !pause(ctx, tries) {
			return took, ctx.Err()
		}
	}
}

// tryWrite writes a batch once.
func (s *Sink) tryWrite(outer context.Context, batch *market.Batch) (took time.Duration, err error) {
	ctx, cancel := context.WithTimeout(outer, storeTimeout)
	defer cancel()
	begin := time.Now()
	err = s.store.Write(ctx, batch)
	took = time.Since(begin)
	s.meter.writeSeconds.Observe(took.Seconds())
	if err != nil {
		s.meter.writeErrors.WithLabelValues(market.KindOf(err).String()).Inc()
	}
	if !permanent(err) && !stopped(outer, err) { // a refused record says nothing of the store, nor does a stop
		s.answered(err)
	}
	return took, err
}

// stopped reports whether a call failed because the sink is to stop.
func stopped(ctx context.Context, err error) bool { return err != nil && ctx.Err() != nil }

// permanent reports whether trying again is of no use.
func permanent(err error) bool {
	kind := market.KindOf(err)
	return kind == market.KindInvalid || kind == market.KindTooLarge
}

// pause waits before the next try, the longer the more there were. It returns false when ctx ended.
func pause(ctx context.Context, tries int) bool {
	delay := min(minRetryDelay<<min(tries, 16), maxRetryDelay)
	timer := time.NewTimer(delay/2 + rand.N(delay/2))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
