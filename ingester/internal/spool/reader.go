package spool

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"iter"
	"slices"
	"time"
)

// reader reads a segment in order. It is not safe for concurrent use.
type reader struct {
	disk    fileSystem
	segment *segment // only its header and path are read
	file    file
	offset  int64    // of the next record
	next    Position // which that should be
}

// group is what a reader returns: records, and whether the segment holds nothing after them.
type group struct {
	records []Record
	synced  Position // with records: the last that was durable before the first was written
	spent   bool
	damaged bool // with spent: since there are bytes that are not a record
}

// close lets the reader be used for another segment.
func (r *reader) close() {
	if r.file != nil {
		_ = r.file.Close() // nothing was written
	}
	*r = reader{disk: r.disk}
}

// group reads the records beyond after and up to end that stand in the first size bytes of the file: at most maxRecords
// with maxBytes of data, or one. A group may be empty and the segment not spent: records up to after were passed over.
func (r *reader) group(after, end Position, size int64, maxRecords, maxBytes int) (group, error) {
	if r.file == nil {
		f, err := r.segment.open(r.disk)
		if err != nil {
			return group{}, err
		}
		r.file, r.offset, r.next = f, headerBytes, r.segment.first
	}
	want := maxBytes + frameBytes
	for {
		ask := int(min(int64(want), size-r.offset))
		b, err := r.read(ask)
		if err != nil {
			return group{}, err
		}
		g, need := r.parse(b, after, end, maxRecords, maxBytes)
		switch {
		case need == 0:
			return g, nil
		case len(b) < ask || r.offset+int64(need) > size: // also at the end, where a header is needed
			return group{spent: true, damaged: r.offset < size}, nil
		}
		want = need
	}
}

// parse takes records out of b and moves the reader past them. need is how many bytes the first needs, when there are
// fewer.
func (r *reader) parse(b []byte, after, end Position, maxRecords, maxBytes int) (g group, need int) {
	seed, bytes, start := seedOf(r.segment.number), 0, r.offset
	for len(g.records) < maxRecords {
		f, size, err := decodeFrame(b, seed)
		switch {
		case errors.Is(err, errShort) && r.offset == start:
			return g, size
		case errors.Is(err, errShort):
			return g, 0
		case err != nil || f.position != r.next:
			g.spent, g.damaged = true, true
			return g, 0
		case f.position > end:
			g.spent = true
			return g, 0
		case len(g.records) > 0 && bytes+len(f.data) > maxBytes:
			return g, 0
		}
		if f.position > after {
			if len(g.records) == 0 {
				g.synced = f.synced
			}
			bytes += len(f.data)
			g.records = append(g.records, Record{
				Data: f.data, Position: f.position, Appended: time.Unix(0, f.appended), Lost: f.lost,
			})
		}
		b = b[size:]
		r.offset += int64(size)
		r.next++
	}
	return g, 0
}

// read returns n bytes of the file, at the offset.
func (r *reader) read(n int) ([]byte, error) {
	b := make([]byte, n)
	if got, err := r.file.ReadAt(b, r.offset); got < n {
		if errors.Is(err, io.EOF) {
			return b[:got], nil // the file is shorter than it was
		}
		return nil, err
	}
	return b, nil
}

// rest returns the n bytes that could not be read in order.
func (r *reader) rest(n int64) ([]byte, error) { return r.read(int(min(n, maxRecordBytes))) }

// Next returns the oldest records not returned yet: at least one, at most maxRecords, and not more than maxBytes of
// data unless the first alone is longer. It waits for them until ctx is done, and then returns its error; it returns
// io.EOF when the spool is sealed and all was returned, or closed. A record is returned once in the life of a Spool.
// One that was returned but not acknowledged is delivered again after the next Open.
func (s *Spool) Next(ctx context.Context, maxRecords, maxBytes int) ([]Record, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		records, retry, err := s.deliver(max(maxRecords, 1), max(maxBytes, 1))
		if err != nil || len(records) > 0 {
			return records, err
		}
		var again <-chan time.Time
		if retry > 0 {
			again = time.After(retry)
		}
		select {
		case <-s.ready:
		case <-again:
		case <-ctx.Done():
		}
	}
}

const (
	// readPatience is how long a segment that the disk does not give out is tried before it counts as damaged. When
	// the whole volume is away it is tried for longer: see bearWith.
	readPatience = time.Minute
	readRetry    = time.Second
)

// deliver returns what there is, first from the disk, then from memory. When a segment cannot be read now it returns
// after what time to try again.
func (s *Spool) deliver(maxRecords, maxBytes int) (records []Record, retry time.Duration, err error) {
	s.readMu.Lock()
	defer s.readMu.Unlock()
	for {
		s.mu.Lock()
		g := s.oldestUnread()
		if s.closed || g == nil {
			defer s.mu.Unlock()
			s.readFailing = time.Time{}
			if !s.closed {
				records = s.fromMemory(maxRecords, maxBytes)
			}
			if len(records) == 0 && s.sealed {
				return nil, 0, io.EOF
			}
			s.hand(records, s.durable)
			return records, 0, nil
		}
		after, end, size := s.returned, g.end, g.size
		s.mu.Unlock()

		if s.read.segment != g {
			s.read.close()
			s.read.segment = g
		}
		got, err := s.read.group(after, end, size, maxRecords, maxBytes)
		if err != nil {
			if s.bearWith(g, err) {
				return nil, readRetry, nil
			}
			continue
		}
		s.mu.Lock()
		s.readFailing = time.Time{}
		if len(got.records) == 0 && got.spent {
			s.spend(g, got.damaged)
		}
		s.hand(got.records, got.synced)
		s.mu.Unlock()
		if len(got.records) > 0 {
			return got.records, 0, nil
		}
	}
}

// oldestUnread returns the segment that holds the next record to deliver, nil when that is in memory. For use under mu.
func (s *Spool) oldestUnread() *segment {
	for _, g := range s.segments {
		if g.end > s.returned && !g.spent {
			return g
		}
	}
	return nil
}

// spend notes that a segment holds no more than was read. For use under mu.
func (s *Spool) spend(g *segment, damaged bool) {
	g.spent, g.damaged = true, g.damaged || damaged
	s.log.Error("a segment of the spool does not hold what it held", "path", g.path, "after", s.returned, "until", g.end)
}

// bearWith reports whether a segment that the disk does not give out should be tried again. On a volume that is away the
// segments are as good as they were, and are waited for until memory is short as well, as what comes then needs the room,
// or the spool is to be closed: then what is in memory must go on, and these come again if the volume does.
func (s *Spool) bearWith(g *segment, err error) bool {
	away, gone := s.whereabouts(g)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.read.close()
	if s.readFailing.IsZero() || s.away != away {
		s.readFailing, s.away = time.Now(), away
		s.log.Error("a segment of the spool cannot be read now", "path", g.path, "volume_away", away, "error", err)
	}
	patient := time.Since(s.readFailing) < readPatience
	if away {
		patient = !s.sealed && (patient || s.buffered <= s.cfg.BufferBytes/2)
	}
	if patient && !gone && !g.spent {
		return true
	}
	if !away { // else the others are not there either
		s.readFailing = time.Time{}
	}
	s.spend(g, !gone)
	return false
}

// whereabouts reports whether the whole directory of a segment is away, or the file alone is gone from it. The directory
// may come back between two looks.
func (s *Spool) whereabouts(g *segment) (away, gone bool) {
	before := s.present()
	_, err := s.disk.Stat(g.path)
	after := s.present()
	away = before != nil || after != nil
	return away, !away && errors.Is(err, fs.ErrNotExist)
}

// fromMemory returns records that are not on disk yet. For use under mu.
func (s *Spool) fromMemory(maxRecords, maxBytes int) (records []Record) {
	bytes := 0
	for _, entries := range [][]entry{s.committing, s.pending} {
		from, _ := slices.BinarySearchFunc(entries, s.returned+1, func(e entry, p Position) int {
			return int(int64(e.position) - int64(p))
		})
		for _, e := range entries[from:] {
			if len(records) == maxRecords || len(records) > 0 && bytes+len(e.data) > maxBytes {
				return records
			}
			bytes += len(e.data)
			records = append(records, Record{Data: e.data, Position: e.position, Appended: e.appended, Lost: e.lost})
		}
	}
	return records
}

// hand notes that records are returned, and what is missing before them: positions up to synced, where the log stood
// when the first was written. Those after it were never durable. For use under mu.
func (s *Spool) hand(records []Record, synced Position) {
	if len(records) == 0 {
		return
	}
	first, last := &records[0], &records[len(records)-1]
	if synced = min(synced, first.Position-1); synced > s.returned {
		first.Lost = LossDropped
		if synced > s.dropped {
			first.Lost = LossDamaged
			s.damagedRecords += int64(synced - s.returned)
			s.log.Error("records of the spool are lost", "after", s.returned, "until", synced)
		}
	}
	s.returned = last.Position
	s.lastTime = last.Appended
	if n := len(s.inFlight); n < maxInFlight {
		s.inFlight = append(s.inFlight, delivery{last: last.Position, appended: first.Appended})
	} else {
		s.inFlight[n-1].last = last.Position
	}
}

// Recovered goes through the records that were on disk at Open and not acknowledged, oldest first, beside Next and
// without an effect on it. The slice is valid until the next step. It reads the files again; what is damaged or was
// acknowledged in the meantime may be left out.
func (s *Spool) Recovered() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		after := s.recoveredAfter
		for i := range s.recovered {
			g := &s.recovered[i]
			read := reader{disk: s.disk, segment: g}
			for {
				got, err := read.group(after, g.end, g.size, scanRecords, scanBytes)
				if err != nil {
					break // Next meets the same and says so
				}
				for _, record := range got.records {
					if !yield(record.Data) {
						read.close()
						return
					}
				}
				if got.spent {
					break
				}
			}
			read.close()
		}
	}
}
