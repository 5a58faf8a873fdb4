// Package recording reads recordings of an exchange's traffic: text files of lines "<receive time> <raw frame>", plain
// or compressed (.gz, .zst). Receive times are integers since the Unix epoch in nanoseconds, microseconds or
// milliseconds, told apart by their size. A REST snapshot stands inline, as a frame without a wrapper. Two recordings
// of real traffic are bundled; data/README.md says where they come from.
package recording

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"embed"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"tapedeck/shared/market"
)

//go:embed data/*.zst
var bundled embed.FS

// BundledPrefix marks the name of a bundled recording for Open.
const BundledPrefix = "bundled:"

// Bundled returns the names, for Open, of the bundled recordings: BTCUSDT on Binance spot, 2024-08-08 and 2024-08-09;
// the second continues the first without a gap.
func Bundled() []string {
	return []string{BundledPrefix + "binance_spot_btcusdt_20240808.zst", BundledPrefix + "binance_spot_btcusdt_20240809.zst"}
}

// maxLineBytes bounds a line. The largest real frame seen has 35 kB, a snapshot of 5000 levels 400 kB.
const maxLineBytes = 4 << 20

// maxWindowBytes bounds the memory that a zstd file may ask its decoder for.
const maxWindowBytes = 128 << 20

// Line is one line of a recording. Frame is valid until the next call of Reader.Next.
type Line struct {
	RecvTime market.Time
	Frame    []byte
}

// Reader reads one or several recordings, one after the other, as if they were one. It belongs to one goroutine.
type Reader struct {
	names   []string // still to be opened
	name    string
	line    int
	scanner *bufio.Scanner
	close   func() error
}

// Open returns a reader of the named files, or bundled recordings, in the order given. Files are opened one at a time,
// the first at once, so that a misspelt single name is noticed here.
func Open(names ...string) (*Reader, error) {
	if len(names) == 0 {
		return nil, market.Errorf(market.KindInvalid, "open recording: no file named")
	}
	r := &Reader{names: names, close: func() error { return nil }}
	if err := r.openNext(); err != nil {
		return nil, err
	}
	return r, nil
}

// Close closes the file being read.
func (r *Reader) Close() error { return r.close() }

// Next returns the next line; io.EOF after the last one. Empty lines are skipped. A line that is not
// "<receive time> <frame>" is an error of kind KindCorrupt that names file and line.
func (r *Reader) Next() (Line, error) {
	for {
		for r.scanner.Scan() {
			r.line++
			text := bytes.TrimSpace(r.scanner.Bytes())
			if len(text) == 0 {
				continue
			}
			line, err := parse(text)
			if err != nil {
				return Line{}, market.Errorf(market.KindCorrupt, "recording %s, line %d: %w", r.name, r.line, err)
			}
			return line, nil
		}
		if err := r.scanner.Err(); err != nil {
			return Line{}, market.Errorf(market.KindCorrupt, "recording %s after line %d: %w", r.name, r.line, err)
		}
		if len(r.names) == 0 {
			return Line{}, io.EOF
		}
		if err := r.openNext(); err != nil {
			return Line{}, err
		}
	}
}

// openNext closes the current file and opens the first of names.
func (r *Reader) openNext() error {
	if err := r.close(); err != nil {
		return fmt.Errorf("close recording %s: %w", r.name, err)
	}
	r.name, r.names, r.line = r.names[0], r.names[1:], 0
	r.close = func() error { return nil }
	var file io.ReadCloser
	var err error
	if inside, ok := strings.CutPrefix(r.name, BundledPrefix); ok {
		file, err = bundled.Open("data/" + inside)
	} else {
		file, err = os.Open(r.name)
	}
	if err != nil {
		return market.Errorf(market.KindInvalid, "open recording: %w", err)
	}
	text, closeText, err := decompress(r.name, file)
	if err != nil {
		return errors.Join(market.Errorf(market.KindCorrupt, "open recording %s: %w", r.name, err), file.Close())
	}
	r.close = func() error {
		closeText()
		r.close = func() error { return nil }
		return file.Close()
	}
	r.scanner = bufio.NewScanner(text)
	r.scanner.Buffer(make([]byte, 64<<10), maxLineBytes)
	return nil
}

// decompress returns the text of a file by the ending of its name, and what frees the decompressor.
func decompress(name string, file io.Reader) (io.Reader, func(), error) {
	switch {
	case strings.HasSuffix(name, ".zst"):
		z, err := zstd.NewReader(file, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxWindowBytes))
		if err != nil {
			return nil, nil, err
		}
		return z, z.Close, nil
	case strings.HasSuffix(name, ".gz"):
		z, err := gzip.NewReader(file)
		if err != nil {
			return nil, nil, err
		}
		return z, func() {}, nil
	}
	return file, func() {}, nil
}

// parse splits a line into its receive time and its frame.
func parse(text []byte) (Line, error) {
	stamp, frame, ok := bytes.Cut(text, []byte(" "))
	if !ok {
		return Line{}, errors.New("no space between receive time and frame")
	}
	v, err := strconv.ParseInt(string(stamp), 10, 64)
	if err != nil || v <= 0 {
		return Line{}, fmt.Errorf("receive time %q is not a positive integer", stamp)
	}
	// Between 2001 and 2286 the three units do not overlap: 13 digits are milliseconds, 16 micro-, 19 nanoseconds.
	switch len(stamp) {
	case 19:
	case 16:
		v *= int64(time.Microsecond)
	case 13:
		v *= int64(time.Millisecond)
	default:
		return Line{}, fmt.Errorf("receive time %q has %d digits, not 13, 16 or 19", stamp, len(stamp))
	}
	return Line{RecvTime: market.Time(v), Frame: frame}, nil
}
