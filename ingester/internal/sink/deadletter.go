package sink

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"tapedeck/shared/market"
)

// Bounds of the folder of dead letters. Whatever is refused beyond them is counted and logged only: a store that
// refuses everything must not fill the disk.
const (
	maxDeadLetters     = 1000
	maxDeadLetterBytes = 256 << 20
)

// deadLetters is a folder of records that can never be stored, each in a file of its own for people to read.
type deadLetters struct {
	dir      string
	maxFiles int
	maxBytes int64

	mu    sync.Mutex
	files int
	bytes int64
}

// deadLetter is what a file holds. Data of records is in base64.
type deadLetter struct {
	RefusedAt time.Time `json:"refused_at"`
	Error     string    `json:"error"`
	Kind      string    `json:"kind"` // block, keyframe, gap, listing, status, or raw: what could not be decoded
	Record    any       `json:"record"`
}

const deadLetterSuffix = ".json"

// openDeadLetters counts what is in the folder. It is made with the first letter.
func openDeadLetters(dir string) (*deadLetters, error) {
	d := &deadLetters{dir: dir, maxFiles: maxDeadLetters, maxBytes: maxDeadLetterBytes}
	if err := d.recount(); err != nil {
		return nil, market.Errorf(market.KindUnavailable, "open the folder of dead letters: %w", err)
	}
	return d, nil
}

// recount counts what is in the folder.
func (d *deadLetters) recount() error {
	entries, err := os.ReadDir(d.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	d.files, d.bytes = 0, 0
	for _, e := range entries {
		info, err := e.Info()
		switch {
		case err != nil || !info.Mode().IsRegular():
		case strings.HasSuffix(e.Name(), ".tmp"): // of a write that a crash cut short
			_ = os.Remove(filepath.Join(d.dir, e.Name()))
		case strings.HasSuffix(e.Name(), deadLetterSuffix):
			d.files++
			d.bytes += info.Size()
		}
	}
	return nil
}

// keep writes a letter to a file of the given name. The same name again replaces the file: a record that is refused
// once more after a crash is still one letter.
func (d *deadLetters) keep(name string, letter *deadLetter) (err error) {
	defer market.Wrap(&err, "keep the dead letter %s", name)
	data, err := json.MarshalIndent(letter, "", "  ")
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	path := filepath.Join(d.dir, name+deadLetterSuffix)
	old, err := os.Stat(path)
	known := err == nil
	if !known && d.full(len(data)) {
		return market.Errorf(market.KindTooLarge, "the folder is full: %d files, %d bytes", d.files, d.bytes)
	}
	if err := os.MkdirAll(d.dir, 0o755); err != nil {
		return err
	}
	if err := writeFile(path, data); err != nil {
		return err
	}
	if known {
		d.bytes += int64(len(data)) - old.Size()
		return nil
	}
	d.files++
	d.bytes += int64(len(data))
	return nil
}

// full reports whether there is no room for a letter of so many bytes. Files may have been taken away since they were
// counted.
func (d *deadLetters) full(bytes int) bool {
	beyond := func() bool { return d.files >= d.maxFiles || d.bytes+int64(bytes) > d.maxBytes }
	return beyond() && (d.recount() != nil || beyond())
}

// count returns how many letters are in the folder, or were when it could last be read.
func (d *deadLetters) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	_ = d.recount()
	return d.files
}

// writeFile writes a file so that after a crash it is there whole or not at all.
func writeFile(path string, data []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "*.tmp")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// describe returns the only record of a batch, with its kind and a name that no other record of one delivery has.
func describe(b *market.Batch) (kind, name string, record any) {
	switch {
	case len(b.Blocks) > 0:
		block := &b.Blocks[0]
		return "block", fmt.Sprintf("%s-%d-%d", plain(block.Series.String()), block.FirstID, block.LastID), block
	case len(b.Keyframes) > 0:
		keyframe := &b.Keyframes[0]
		return "keyframe", fmt.Sprintf("%s-%d", plain(keyframe.Market.String()), keyframe.UpdateID), keyframe
	case len(b.Gaps) > 0:
		gap := &b.Gaps[0]
		return "gap", fmt.Sprintf("%s-%d", plain(gap.Series.String()), gap.FirstID), gap
	case len(b.Listings) > 0:
		return "listing", plain(b.Listings[0].Market.String()), &b.Listings[0]
	default:
		return "status", plain(b.Statuses[0].Recorder), &b.Statuses[0]
	}
}

// maxPlainBytes keeps names of files short, whatever they are made of.
const maxPlainBytes = 64

// plain returns s as it may stand in the name of a file anywhere.
func plain(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '_':
			return r
		}
		return '-'
	}, s)
	return s[:min(len(s), maxPlainBytes)]
}
