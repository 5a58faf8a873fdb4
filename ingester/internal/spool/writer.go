package spool

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"tapedeck/shared/market"
)

const (
	// checkpointInterval is how late acknowledgements become durable.
	checkpointInterval = time.Second
	// maxBackoff is the longest pause before the disk is tried again after an error.
	maxBackoff = 5 * time.Second
	// maxAside is how many segments that were set aside are kept.
	maxAside = 8
	// writeBytes is about how much is written at once.
	writeBytes = 256 << 10
)

// writer is what the goroutine of a spool alone uses.
type writer struct {
	active  *segment // nil when the next record begins a new one
	file    file     // of active
	buf     []byte
	written time.Time // of the checkpoint
	vain    bool      // giving up a segment on a full volume let nothing be written
}

// run writes until the spool is closed.
func (s *Spool) run() {
	defer close(s.done)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-s.wake:
		}
		wait, closing := s.wait()
		switch {
		case closing:
			s.finish()
			return
		case wait <= 0:
			s.work()
			wait, _ = s.wait()
		}
		timer.Reset(max(wait, 0))
	}
}

// wait returns how long nothing has to be done.
func (s *Spool) wait() (wait time.Duration, closing bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	wait = time.Hour
	if s.acked > s.checkpointed {
		wait = time.Until(s.w.written.Add(checkpointInterval))
	}
	if s.roomLeft() {
		wait = 0
	}
	if len(s.pending) > 0 {
		wait = min(wait, time.Until(s.since.Add(s.cfg.SyncInterval)))
		if s.sealed || s.syncTo > s.durable || s.buffered > s.cfg.BufferBytes/2 {
			wait = 0
		}
	}
	roomy := noSpace(s.diskErr) && (s.roomLeft() || s.crowded() && !s.w.vain) // or can be made so
	if s.diskErr != nil && !roomy {
		wait = time.Until(s.retryAt)
	}
	return wait, s.closing
}

// work does what is to be done with the disk, and takes note of how that went.
func (s *Spool) work() {
	err := s.commit()
	failed := err != nil
	s.mu.Lock()
	due := s.acked > s.checkpointed && time.Since(s.w.written) >= checkpointInterval
	due = due || s.roomLeft() || s.diskErr != nil
	s.mu.Unlock()
	if due || failed {
		err = s.advance()
	}
	if failed && err == nil { // what was removed may be the room that there was not
		err = s.commit()
	}
	if noSpace(err) {
		err = s.giveUp(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err == nil && s.diskErr != nil:
		s.log.Info("the spool can be written again", "dir", s.cfg.Dir)
		s.backoff = 0
	case err != nil && s.diskErr == nil:
		s.log.Error("the spool cannot be written; records wait in memory", "dir", s.cfg.Dir, "error", err)
	}
	s.diskErr = err
	if err != nil {
		s.short = s.short || noSpace(err)
		s.backoff = min(max(2*s.backoff, s.cfg.SyncInterval), maxBackoff)
		s.retryAt = time.Now().Add(s.backoff)
		s.release()
	}
}

// roomLeft reports whether a record was not taken or written although a segment could make room for it. For use under mu.
func (s *Spool) roomLeft() bool {
	return s.short && len(s.segments) > 0 && s.segments[0].end <= s.acked
}

// crowded reports whether memory is short while there are segments that may be given up for it. For use under mu.
func (s *Spool) crowded() bool {
	return s.cfg.DropOldest && len(s.segments) > 0 && s.buffered > s.cfg.BufferBytes/2
}

// giveUp gives up the oldest segments of a spool whose volume is full when memory is short too, and tries again to
// commit. They are two at the most: the first may be a little smaller than what is to be written, and with more of them
// somebody else would take the room.
func (s *Spool) giveUp(err error) error {
	s.w.vain = false
	durable := s.durable // which only this goroutine changes
	for range 2 {
		s.mu.Lock()
		crowded := s.crowded()
		s.mu.Unlock()
		if !crowded || s.durable > durable {
			return err
		}
		s.dropOldest()
		err = s.commit()
	}
	s.w.vain = s.durable == durable
	return err
}

// finish does the last of the work. Records that are nowhere are an error; without a checkpoint some are delivered again.
func (s *Spool) finish() {
	unwritten := s.commit()
	s.abandon()
	if err := s.advance(); err != nil {
		s.log.Error("the spool's last checkpoint cannot be written; acknowledged records may be delivered again",
			"dir", s.cfg.Dir, "error", err)
	}
	s.mu.Lock()
	s.release()
	s.mu.Unlock()
	if unwritten != nil { // what was removed may be the room that there was not
		unwritten = s.commit()
		s.abandon()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.release()
	if n := len(s.pending); n > 0 {
		s.closeErr = fmt.Errorf("%d records are not on disk: %w", n, unwritten)
	}
}

// commit makes what was appended durable, segment by segment.
func (s *Spool) commit() error {
	s.mu.Lock()
	group := s.pending
	s.committing, s.pending = group, nil
	s.mu.Unlock()
	for len(group) > 0 {
		n, err := s.store(group)
		if err != nil {
			s.abandon()
			s.mu.Lock()
			s.committing, s.pending = nil, append(group, s.pending...)
			s.mu.Unlock()
			return err
		}
		group = group[n:]
	}
	return nil
}

// store makes the first n records of a group durable in one segment.
func (s *Spool) store(group []entry) (n int, err error) {
	defer market.Wrap(&err, "write a segment")
	n, size, err := s.prepare(group)
	if err != nil {
		return 0, err
	}
	w := &s.w
	fresh := w.active == nil
	if fresh {
		if err := s.begin(&group[0]); err != nil {
			return 0, err
		}
		size += headerBytes
	}
	if err := s.write(group[:n], fresh); err != nil {
		s.account(w.active, fresh, size)
		return 0, err
	}
	return s.publish(group[:n], fresh, size), nil
}

// prepare finds out how many records of a group go into one segment, and their size. Then the active segment is one
// that can take them, or nil, and there is room on disk.
func (s *Spool) prepare(group []entry) (n int, size int64, err error) {
	w := &s.w
	s.mu.Lock()
	unfit := w.active != nil && (w.active.spent || w.active.size >= s.cfg.SegmentBytes || group[0].position != w.active.end+1)
	s.mu.Unlock()
	if unfit {
		s.abandon()
	}
	room := s.cfg.SegmentBytes - headerBytes
	if w.active != nil {
		room = s.cfg.SegmentBytes - w.active.size
	}
	for n < len(group) && (n == 0 || size < room) {
		if n > 0 && group[n].position != group[n-1].position+1 {
			break
		}
		size += frameBytes + int64(len(group[n].data))
		n++
	}
	for {
		s.mu.Lock()
		full := s.bytes+size+headerBytes > s.cfg.MaxBytes
		none := len(s.segments) == 0
		s.mu.Unlock()
		switch {
		case !full:
			return n, size, nil
		case none || !s.cfg.DropOldest:
			return 0, 0, market.Errorf(market.KindUnavailable, "the spool holds its %d bytes", s.cfg.MaxBytes)
		}
		s.dropOldest()
	}
}

// begin makes a new segment file, the active one.
func (s *Spool) begin(first *entry) error {
	if err := s.present(); err != nil {
		return err
	}
	s.mu.Lock()
	s.number++
	g := &segment{header: header{
		number: s.number, first: first.position, synced: s.durable, created: first.appended.UnixNano(),
	}}
	released := first.position-1 > max(s.durable, s.checkpointed)
	s.mu.Unlock()
	if released { // what was acknowledged and is not written must be known as that after a crash, by the note too
		if err := s.saveCheckpoint(); err != nil {
			return err
		}
	}
	g.path = filepath.Join(s.cfg.Dir, fmt.Sprintf("%016d%s", g.number, segmentSuffix))
	g.end = first.position - 1
	f, err := s.disk.Open(g.path, createNew)
	if err != nil {
		return err
	}
	s.w.active, s.w.file = g, f
	return nil
}

// write writes records behind the active segment and syncs it.
func (s *Spool) write(entries []entry, fresh bool) error {
	w := &s.w
	b := w.buf[:0]
	if fresh {
		b = w.active.append(b)
	}
	seed, synced := seedOf(w.active.number), s.durable // which only this goroutine changes
	for i := range entries {
		e := &entries[i]
		f := frame{position: e.position, synced: synced, appended: e.appended.UnixNano(), lost: e.lost, data: e.data}
		b = f.append(b, seed)
		if len(b) < writeBytes && i < len(entries)-1 {
			continue
		}
		if _, err := w.file.Write(b); err != nil {
			return err
		}
		b = b[:0]
	}
	if cap(b) <= 4*writeBytes { // not what one long record needed
		w.buf = b
	}
	if err := w.file.Sync(); err != nil {
		return err
	}
	if fresh {
		if err := s.disk.SyncDir(s.cfg.Dir); err != nil {
			return err
		}
	}
	return s.present()
}

// publish notes that entries are durable in the active segment, and returns how many: none when a reader found in the
// meantime that the segment is damaged.
func (s *Spool) publish(entries []entry, fresh bool, size int64) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.w.active
	if g.spent {
		g.bytes += size
		s.bytes += size
		return 0
	}
	if fresh {
		s.segments = append(s.segments, g)
	}
	g.size += size
	g.bytes += size
	s.bytes += size
	g.end = entries[len(entries)-1].position
	s.durable = g.end
	s.committing = s.committing[len(entries):]
	s.forget(entries)
	s.announce()
	return len(entries)
}

// account notes the size of what could not be written. A segment without a durable record is no segment.
func (s *Spool) account(g *segment, fresh bool, size int64) {
	if fresh {
		_ = s.disk.Remove(g.path) // it does no harm when it stays: the next segment begins with the same position
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	g.bytes += size
	s.bytes += size
}

// abandon ends the active segment: nothing is written behind what may be torn.
func (s *Spool) abandon() {
	if s.w.file != nil {
		_ = s.w.file.Close() // what counts was synced
	}
	s.w.active, s.w.file = nil, nil
}

// advance makes acknowledgements durable, and then removes segments of which nothing is needed any more.
func (s *Spool) advance() error {
	s.w.written = time.Now()
	err := s.saveCheckpoint()
	if err != nil && !noSpace(err) {
		return err
	}
	// On a full disk the segments make room for the checkpoint. A crash between costs a doubt, not a record.
	if removed := s.retire(); removed > 0 && err != nil {
		err = s.saveCheckpoint()
	}
	return err
}

func noSpace(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

// saveCheckpoint writes a checkpoint of now. The note is asked for after the position was taken, so that it is not
// older.
func (s *Spool) saveCheckpoint() error {
	if err := s.present(); err != nil {
		return err
	}
	s.mu.Lock()
	c := checkpoint{acked: s.acked, durable: s.durable, dropped: s.dropped, lost: s.lost}
	note := s.note
	s.mu.Unlock()
	c.note = note()
	s.mu.Lock()
	c.returned = s.returned
	s.mu.Unlock()
	if err := writeCheckpoint(s.disk, s.cfg.Dir, &c); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.checkpointed = c.acked
	return nil
}

// retire removes the segments that are wholly acknowledged, the active one only when room is short, and returns how
// many.
func (s *Spool) retire() (removed int) {
	s.mu.Lock()
	var done []*segment
	for _, g := range s.segments {
		if g.end <= s.acked && (g != s.w.active || s.short) {
			done = append(done, g)
		}
	}
	s.short = false
	s.mu.Unlock()
	for _, g := range done {
		if g == s.w.active {
			s.abandon()
		}
		s.discard(g)
	}
	return len(done)
}

// dropOldest gives up the oldest segment. One that is being read is waited for.
func (s *Spool) dropOldest() {
	s.readMu.Lock()
	s.mu.Lock()
	g := s.segments[0]
	g.spent = true
	from := max(g.first-1, s.returned, s.acked)
	if lost := int64(g.end) - int64(from); lost > 0 {
		s.droppedRecords += lost
	}
	s.dropped = max(s.dropped, g.end)
	s.mu.Unlock()
	s.readMu.Unlock()
	if g == s.w.active {
		s.abandon()
	}
	// Without it a crash now would make damage out of what was given up: no reason to fail.
	if err := s.saveCheckpoint(); err != nil {
		s.log.Warn("the spool's checkpoint cannot be written", "error", err)
	}
	s.log.Warn("the spool is full; its oldest segment is given up", "path", g.path, "until", g.end)
	s.discard(g)
}

// discard takes a segment off the log, and its file off the directory. A file that cannot be removed is left to the
// next Open.
func (s *Spool) discard(g *segment) {
	name := filepath.Base(g.path) + damagedSuffix
	var err error
	if g.damaged {
		err = s.disk.Rename(g.path, filepath.Join(s.cfg.Dir, name))
	} else {
		err = s.disk.Remove(g.path)
	}
	if err != nil {
		s.log.Warn("a segment of the spool cannot be removed", "path", g.path, "error", err)
	}
	s.mu.Lock()
	s.segments = slices.DeleteFunc(s.segments, func(other *segment) bool { return other == g })
	s.bytes -= g.bytes
	if g.damaged && err == nil {
		s.aside = append(s.aside, name)
	}
	s.announce()
	s.mu.Unlock()
	s.limitAside()
}

// limitAside removes the oldest files that were set aside when there are many.
func (s *Spool) limitAside() {
	s.mu.Lock()
	excess := s.aside[:max(len(s.aside)-maxAside, 0)]
	s.aside = s.aside[len(excess):]
	s.mu.Unlock()
	for _, name := range excess {
		if err := s.disk.Remove(filepath.Join(s.cfg.Dir, name)); err != nil {
			s.log.Warn("a file that was set aside cannot be removed", "name", name, "error", err)
		}
	}
}

// present returns an error unless the directory is still the one that was locked: what is written to a directory that
// was removed, or beneath which a volume was taken away, is lost without one.
func (s *Spool) present() error {
	info, err := s.disk.Stat(filepath.Join(s.cfg.Dir, lockName))
	if err != nil || !os.SameFile(info, s.locked) {
		return market.Errorf(market.KindUnavailable, "the directory %s was removed, replaced or unmounted: %w",
			s.cfg.Dir, cmp.Or(err, os.ErrNotExist))
	}
	return nil
}
