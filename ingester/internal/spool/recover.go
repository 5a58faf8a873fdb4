package spool

import (
	"bytes"
	"errors"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"

	"tapedeck/shared/market"
)

// recovery puts together what a directory holds. Only the newest segment is read at once: the others were whole when
// the next one was begun, and are checked when they are delivered.
type recovery struct {
	disk fileSystem
	dir  string
	log  *slog.Logger

	checkpoint checkpoint
	known      bool // whether there was a checkpoint
	segments   []*segment
	unreadable []unreadable
	aside      []string // names of files that were set aside, oldest first
	number     uint64   // the greatest in use
}

// unreadable is a segment file without a header that holds.
type unreadable struct {
	number uint64
	name   string
}

// recover reads the directory. Its errors are those of a disk that cannot be read.
func (r *recovery) recover() error {
	c, err := readCheckpoint(r.disk, r.dir)
	switch {
	case errors.Is(err, errDamaged):
		r.log.Error("the spool's checkpoint is damaged; it is set aside", "dir", r.dir)
		name := filepath.Join(r.dir, checkpointName)
		if err := r.disk.Rename(name, name+damagedSuffix); err != nil {
			return err
		}
	case err == nil:
		r.checkpoint, r.known = c, true
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if err := r.list(); err != nil {
		return err
	}
	return r.bound()
}

// list finds the segments. What has another name, or says itself that it is another file, is not ours to touch.
func (r *recovery) list() error {
	entries, err := r.disk.ReadDir(r.dir) // in the order of names, which is that of numbers
	if err != nil {
		return err
	}
	for _, entry := range entries {
		number, aside, ok := parseName(entry.Name())
		if !ok {
			continue
		}
		r.number = max(r.number, number) // also of those left alone: their names are taken
		switch {
		case !entry.Type().IsRegular():
		case aside:
			r.aside = append(r.aside, entry.Name())
		default:
			if err := r.add(number, entry.Name()); err != nil {
				return err
			}
		}
	}
	return nil
}

// add reads the header of a segment file.
func (r *recovery) add(number uint64, name string) (err error) {
	path := filepath.Join(r.dir, name)
	defer market.Wrap(&err, "read %s", path)
	b, err := readFile(r.disk, path, headerBytes)
	if err != nil {
		return err
	}
	h, err := decodeHeader(b)
	switch {
	case err != nil:
		r.unreadable = append(r.unreadable, unreadable{number: number, name: name})
		return nil
	case h.number != number:
		r.log.Warn("a file in the spool's directory is the copy of another; it is left alone", "path", path)
		return nil
	}
	info, err := r.disk.Stat(path)
	if err != nil {
		return err
	}
	r.segments = append(r.segments, &segment{header: h, path: path, size: info.Size(), bytes: info.Size()})
	return nil
}

// bound finds out which records each segment should hold.
func (r *recovery) bound() error {
	if len(r.segments) > 0 {
		if err := r.scanNewest(r.segments[len(r.segments)-1]); err != nil {
			return err
		}
	}
	for i := len(r.segments) - 2; i >= 0; i-- {
		// After a failed sync the next segment begins with what this one ends with.
		g, next := r.segments[i], r.segments[i+1]
		g.end = min(next.synced, next.end)
		g.spent = g.end < g.first
	}
	lost := false
	for _, u := range r.unreadable {
		if err := r.setAside(u); err != nil {
			return err
		}
		lost = lost || len(r.segments) > 0 && u.number < r.segments[0].number
	}
	if len(r.segments) > 0 && !r.known && !lost {
		r.assume(r.segments[0])
	}
	if newest := len(r.segments) - 1; newest >= 0 && r.segments[newest].end < r.checkpoint.durable {
		r.segments[newest].end = r.checkpoint.durable
	}
	return nil
}

// assume takes what stood before the first segment for acknowledged, as that is why segments are removed, where no
// checkpoint tells.
func (r *recovery) assume(first *segment) {
	r.checkpoint.acked, r.checkpoint.returned = first.synced, first.synced
	r.log.Warn("the spool has no checkpoint: records are delivered again, and whether any are missing before the first is not known",
		"dir", r.dir, "first", first.first)
}

// scanNewest reads the segment that was written last up to its last whole record. What follows is the torn tail of a
// crash, unless there is proof that it was whole once.
func (r *recovery) scanNewest(g *segment) error {
	g.end = g.first - 1
	read := reader{disk: r.disk, segment: g}
	defer read.close()
	for {
		group, err := read.group(g.end, maxPosition, g.size, scanRecords, scanBytes)
		if err != nil {
			return err
		}
		if n := len(group.records); n > 0 {
			g.end = group.records[n-1].Position
		}
		if group.spent {
			break
		}
	}
	torn := g.size - read.offset
	g.size = read.offset
	if torn > 0 {
		rest, err := read.rest(torn)
		if err != nil {
			return err
		}
		end := attested(rest, seedOf(g.number), g.end)
		g.damaged = end > g.end
		r.log.Warn("the spool's last segment ends with bytes that are not a record",
			"path", g.path, "bytes", torn, "damaged", g.damaged)
		g.end = end
	}
	// After a kill the records may be in the page cache alone.
	f, err := r.disk.Open(g.path, readWrite)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// setAside renames a file of which nothing can be delivered, or removes it when nothing was in it yet.
func (r *recovery) setAside(u unreadable) (err error) {
	path := filepath.Join(r.dir, u.name)
	defer market.Wrap(&err, "set aside %s", path)
	b, err := readFile(r.disk, path, maxRecordBytes)
	if err != nil {
		return err
	}
	if len(b) < headerBytes || len(bytes.Trim(b, "\x00")) == 0 {
		return r.disk.Remove(path)
	}
	r.log.Error("a segment of the spool cannot be read; it is set aside", "path", path+damagedSuffix)
	if n := len(r.segments); n == 0 || r.segments[n-1].number < u.number {
		end := r.checkpoint.durable
		if n > 0 {
			end = max(end, r.segments[n-1].end)
		}
		end = attested(b, seedOf(u.number), end)
		r.checkpoint.durable = max(r.checkpoint.durable, end)
	}
	r.aside = append(r.aside, u.name+damagedSuffix)
	slices.Sort(r.aside)
	return r.disk.Rename(path, path+damagedSuffix)
}

// durable returns the position of the last record that was ever on disk, as far as that is known.
func (r *recovery) durable() Position {
	if n := len(r.segments); n > 0 {
		return max(r.checkpoint.durable, r.segments[n-1].end)
	}
	return r.checkpoint.durable
}

// The bounds of a group while a segment is scanned.
const (
	scanRecords = 4096
	scanBytes   = 1 << 20
	maxPosition = ^Position(0)
)

// open makes the Spool of what was found.
func (r *recovery) open(cfg Config) *Spool {
	s := &Spool{
		cfg: cfg, disk: r.disk, log: r.log,
		wake: make(chan struct{}, 1), ready: make(chan struct{}, 1), done: make(chan struct{}), progress: make(chan struct{}),
		segments: r.segments, aside: r.aside, number: r.number,
		acked: r.checkpoint.acked, returned: r.checkpoint.acked, dropped: r.checkpoint.dropped, lost: r.checkpoint.lost,
		recoveredAfter: r.checkpoint.acked, read: reader{disk: r.disk},
		found: r.checkpoint.note, note: func() []byte { return r.checkpoint.note },
		last: max(r.durable(), r.checkpoint.acked, r.checkpoint.returned), durable: r.durable(),
	}
	for _, g := range r.segments {
		s.bytes += g.bytes
		if g.end > s.acked && !g.spent {
			s.recovered = append(s.recovered, *g)
		}
	}
	return s
}
