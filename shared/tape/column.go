package tape

import (
	"bytes"
	"encoding/binary"

	"github.com/klauspost/compress/huff0"
	"github.com/klauspost/compress/zstd"

	"tapedeck/shared/market"
)

// A column is a run of bytes, mostly varints, in the smallest of five forms:
//
//	form byte; unless empty, uvarint raw length; then
//	  raw:      the bytes
//	  repeated: the one byte that all are
//	  huffman:  uvarint length, a huff0 single stream with its table (as in zstd's literals)
//	  zstd:     uvarint length, a zstd frame
const (
	formEmpty byte = iota
	formRaw
	formRepeated
	formHuffman
	formZstd
)

// Bounds of a decoded column: the levels of a block, or of both sides of a book, with the longest varint each.
const (
	maxColumnBytes     = market.MaxBlockLevels * binary.MaxVarintLen64
	maxBookColumnBytes = 2 * market.MaxBookLevels * binary.MaxVarintLen64
)

// minHuffmanBytes is the length below which a table takes more room than it saves, and all of the time.
const minHuffmanBytes = 32

// minZstdBytes is the length below which a zstd frame's own overhead eats what its matches save over plain Huffman;
// most columns of a one-second block are shorter.
const minZstdBytes = 4096

// The zstd coders are stateless between calls and safe for concurrent use.
var (
	zstdEncoder = must(zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBetterCompression),
		zstd.WithEncoderConcurrency(2), zstd.WithEncoderCRC(false), zstd.WithSingleSegment(true),
		zstd.WithLowerEncoderMem(true)))
	zstdDecoder = must(zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(maxBookColumnBytes)))
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err) // the options are constants
	}
	return v
}

// compressor writes columns. It belongs to one goroutine.
type compressor struct {
	huffman huff0.Scratch
	zstd    []byte
}

// append appends raw as a column to dst.
func (c *compressor) append(dst, raw []byte) []byte {
	if len(raw) == 0 {
		return append(dst, formEmpty)
	}
	form, packed := c.pack(raw)
	dst = append(dst, form)
	dst = binary.AppendUvarint(dst, uint64(len(raw)))
	if form == formHuffman || form == formZstd {
		dst = binary.AppendUvarint(dst, uint64(len(packed)))
	}
	return append(dst, packed...)
}

// pack returns the smallest form of raw, which is not empty, and its content.
func (c *compressor) pack(raw []byte) (form byte, packed []byte) {
	if len(raw) > 1 && bytes.Equal(raw[1:], raw[:len(raw)-1]) {
		return formRepeated, raw[:1]
	}
	form, packed = formRaw, raw
	if len(raw) >= minHuffmanBytes {
		c.huffman.Reuse = huff0.ReusePolicyNone
		// An error says that the column is too long or does not shrink.
		if out, _, err := huff0.Compress1X(raw, &c.huffman); err == nil && len(out)+2 < len(raw) {
			form, packed = formHuffman, out
		}
	}
	if len(raw) >= minZstdBytes {
		c.zstd = zstdEncoder.EncodeAll(raw, c.zstd[:0])
		if len(c.zstd) < len(packed) {
			form, packed = formZstd, c.zstd
		}
	}
	return form, packed
}

// decompressor reads columns. It belongs to one goroutine and keeps its memory.
type decompressor struct {
	huffman *huff0.Scratch
	buffers [][]byte
	used    int
}

// reset takes back every column handed out.
func (d *decompressor) reset() { d.used = 0 }

// buffer returns an empty buffer with room for n bytes, valid until reset.
func (d *decompressor) buffer(n int) []byte {
	if d.used == len(d.buffers) {
		d.buffers = append(d.buffers, nil)
	}
	b := &d.buffers[d.used]
	d.used++
	if cap(*b) < n {
		*b = make([]byte, 0, n)
	}
	return (*b)[:0:n]
}

// column reads one column of at most limit bytes from r. What it returns is valid until reset.
func (d *decompressor) column(r *reader, limit int) ([]byte, error) {
	form := r.byte()
	if form == formEmpty {
		return nil, r.err
	}
	n := r.length(limit)
	if r.err != nil {
		return nil, r.err
	}
	switch form {
	case formRaw:
		return r.bytes(n), r.err
	case formRepeated:
		v := r.byte()
		b := d.buffer(n)[:n]
		for i := range b {
			b[i] = v
		}
		return b, r.err
	case formHuffman, formZstd:
	default:
		return nil, corrupt("column form %d", form)
	}
	packed := r.bytes(r.length(market.MaxBlockBytes))
	if r.err != nil {
		return nil, r.err
	}
	var b []byte
	var err error
	if form == formHuffman {
		b, err = d.unhuff(packed, n)
	} else {
		b, err = zstdDecoder.DecodeAll(packed, d.buffer(n))
	}
	if err != nil {
		return nil, corrupt("column: %w", err)
	}
	if len(b) != n {
		return nil, corrupt("column of %d bytes says that it has %d", len(b), n)
	}
	return b, nil
}

func (d *decompressor) unhuff(packed []byte, n int) ([]byte, error) {
	if n > huff0.BlockSizeMax {
		return nil, huff0.ErrTooBig
	}
	scratch, rest, err := huff0.ReadTable(packed, d.huffman)
	if err != nil {
		return nil, err
	}
	d.huffman = scratch
	return scratch.Decoder().Decompress1X(d.buffer(n), rest)
}
