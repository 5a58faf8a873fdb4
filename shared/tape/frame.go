package tape

import (
	"encoding/binary"
	"hash/crc32"

	"tapedeck/shared/market"
)

// version is the first byte of every block and keyframe. A format that an older reader cannot read gets a new one.
const version = 1

// The second byte says what follows.
const (
	kindDepth byte = iota + 1
	kindTrades
	kindBook
)

const checksumBytes = 4

// castagnoli is the polynomial that processors compute in hardware.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// seal appends the checksum over everything before it.
func seal(data []byte) []byte {
	return binary.LittleEndian.AppendUint32(data, crc32.Checksum(data, castagnoli))
}

// open checks size, checksum, version and kind, and returns a reader of what lies between.
func open(data []byte, kind byte) (reader, error) {
	switch {
	case len(data) < 2+checksumBytes:
		return reader{}, corrupt("%d bytes are too few", len(data))
	case len(data) > market.MaxBlockBytes:
		return reader{}, corrupt("%d bytes are more than %d", len(data), market.MaxBlockBytes)
	}
	body, sum := data[:len(data)-checksumBytes], data[len(data)-checksumBytes:]
	if got, want := crc32.Checksum(body, castagnoli), binary.LittleEndian.Uint32(sum); got != want {
		return reader{}, corrupt("checksum %08x, want %08x", got, want)
	}
	if body[0] != version {
		return reader{}, corrupt("version %d, want %d", body[0], version)
	}
	if body[1] != kind {
		return reader{}, corrupt("kind %d, want %d", body[1], kind)
	}
	return reader{data: body[2:]}, nil
}

func corrupt(format string, args ...any) error {
	return market.Errorf(market.KindCorrupt, format, args...)
}

// zigzag maps small negative numbers to small positive ones.
func zigzag(v int64) uint64 { return uint64(v)<<1 ^ uint64(v>>63) }

func unzigzag(v uint64) int64 { return int64(v>>1) ^ -int64(v&1) }

// reader reads numbers from bytes. The first thing wrong is kept in err; reads after it give zeros.
type reader struct {
	data []byte
	err  error
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = corrupt(format, args...)
	}
	r.data = nil
}

func (r *reader) byte() byte {
	if len(r.data) == 0 {
		r.fail("the data ends early")
		return 0
	}
	b := r.data[0]
	r.data = r.data[1:]
	return b
}

func (r *reader) bytes(n int) []byte {
	if n > len(r.data) {
		r.fail("the data ends early")
		return nil
	}
	b := r.data[:n]
	r.data = r.data[n:]
	return b
}

func (r *reader) uvarint() uint64 {
	if len(r.data) > 0 && r.data[0] < 0x80 { // most numbers are small
		v := uint64(r.data[0])
		r.data = r.data[1:]
		return v
	}
	v, n := binary.Uvarint(r.data)
	if n <= 0 {
		r.fail("a number ends early or is too long")
		return 0
	}
	r.data = r.data[n:]
	return v
}

// appendUvarints appends all numbers of a column: a reader's checks, once for many.
func appendUvarints(dst []uint64, column []byte) ([]uint64, error) {
	for i := 0; i < len(column); {
		v := uint64(column[i])
		i++
		if v >= 0x80 {
			if i < len(column) && column[i] < 0x80 { // two bytes are common too
				v = v&0x7f | uint64(column[i])<<7
				i++
			} else {
				var n int
				if v, n = binary.Uvarint(column[i-1:]); n <= 0 {
					return nil, corrupt("a number ends early or is too long")
				}
				i += n - 1
			}
		}
		dst = append(dst, v)
	}
	return dst, nil
}

func (r *reader) varint() int64 { return unzigzag(r.uvarint()) }

// length reads a count that must not exceed limit.
func (r *reader) length(limit int) int {
	v := r.uvarint()
	if v > uint64(limit) {
		r.fail("a count of %d exceeds %d", v, limit)
		return 0
	}
	return int(v)
}

// end checks that everything was read.
func (r *reader) end() error {
	if r.err == nil && len(r.data) != 0 {
		r.fail("%d bytes are left over", len(r.data))
	}
	return r.err
}
