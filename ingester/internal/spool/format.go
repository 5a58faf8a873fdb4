package spool

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"regexp"
	"strconv"
	"time"
)

// A segment file is named after its number, and begins with a header:
//
//	magic [8] | number u64 | first u64 | synced u64 | created i64 | crc u32
//
// first is the position of its first record, synced that of the last record that was durable before, and created when
// the first was appended, a unix time in nanoseconds. The positions between synced and first were never durable. The
// records follow each other, their positions too:
//
//	crc u32 | length u32 (lost in the upper 2 bits) | position u64 | synced u64 | appended i64 | data [length]
//
// Here too synced is that of the last record that was durable before: a record that is found behind unreadable bytes
// thereby tells a torn tail from damage, and one behind a missing file that something is missing. All numbers are
// little-endian. The checksums are CRC-32C and run over the number of the segment and then over everything but
// themselves, so that a record counts in one place only.
const (
	segmentMagic  = "TDSPOOL\x01"
	headerBytes   = 8 + 4*8 + 4
	frameBytes    = 4 + 4 + 3*8
	lengthBits    = 30
	segmentSuffix = ".segment"
	damagedSuffix = ".damaged"

	// maxRecordBytes bounds a record, and with it what a damaged length can make us read.
	maxRecordBytes = 256 << 20
)

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)

	errShort   = errors.New("the bytes end within a record")
	errDamaged = errors.New("the bytes are not what was written")
)

// header is what a segment file begins with.
type header struct {
	number  uint64
	first   Position
	synced  Position
	created int64
}

// seedOf begins the checksums of a segment.
func seedOf(number uint64) uint32 {
	return crc32.Checksum(binary.LittleEndian.AppendUint64(nil, number), castagnoli)
}

func (h *header) append(b []byte) []byte {
	start := len(b)
	b = append(b, segmentMagic...)
	b = binary.LittleEndian.AppendUint64(b, h.number)
	b = binary.LittleEndian.AppendUint64(b, uint64(h.first))
	b = binary.LittleEndian.AppendUint64(b, uint64(h.synced))
	b = binary.LittleEndian.AppendUint64(b, uint64(h.created))
	return binary.LittleEndian.AppendUint32(b, crc32.Update(seedOf(h.number), castagnoli, b[start:]))
}

// decodeHeader returns errDamaged when b does not begin with a header.
func decodeHeader(b []byte) (header, error) {
	if len(b) < headerBytes || string(b[:8]) != segmentMagic {
		return header{}, errDamaged
	}
	h := header{
		number:  binary.LittleEndian.Uint64(b[8:]),
		first:   Position(binary.LittleEndian.Uint64(b[16:])),
		synced:  Position(binary.LittleEndian.Uint64(b[24:])),
		created: int64(binary.LittleEndian.Uint64(b[32:])),
	}
	if crc32.Update(seedOf(h.number), castagnoli, b[:40]) != binary.LittleEndian.Uint32(b[40:]) || h.synced >= h.first {
		return header{}, errDamaged
	}
	return h, nil
}

// frame is a record as it stands in a segment.
type frame struct {
	position Position
	synced   Position
	appended int64 // unix nanoseconds
	lost     Loss
	data     []byte
}

func (f *frame) append(b []byte, seed uint32) []byte {
	start := len(b)
	b = append(b, 0, 0, 0, 0)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(f.data))|uint32(f.lost)<<lengthBits)
	b = binary.LittleEndian.AppendUint64(b, uint64(f.position))
	b = binary.LittleEndian.AppendUint64(b, uint64(f.synced))
	b = binary.LittleEndian.AppendUint64(b, uint64(f.appended))
	b = append(b, f.data...)
	binary.LittleEndian.PutUint32(b[start:], crc32.Update(seed, castagnoli, b[start+4:]))
	return b
}

// decodeFrame decodes the record that b begins with; its data is a part of b. size is its length with the header. The
// error is errDamaged, or errShort when b is shorter than size.
func decodeFrame(b []byte, seed uint32) (f frame, size int, err error) {
	if len(b) < frameBytes {
		return frame{}, frameBytes, errShort
	}
	word := binary.LittleEndian.Uint32(b[4:])
	length := int(word & (1<<lengthBits - 1))
	f = frame{
		lost:     Loss(word >> lengthBits),
		position: Position(binary.LittleEndian.Uint64(b[8:])),
		synced:   Position(binary.LittleEndian.Uint64(b[16:])),
		appended: int64(binary.LittleEndian.Uint64(b[24:])),
	}
	if length > maxRecordBytes || f.lost > LossDamaged || f.position == 0 || f.synced >= f.position {
		return frame{}, 0, errDamaged
	}
	size = frameBytes + length
	if len(b) < size {
		return frame{}, size, errShort
	}
	if crc32.Update(seed, castagnoli, b[4:size]) != binary.LittleEndian.Uint32(b) {
		return frame{}, 0, errDamaged
	}
	f.data = b[frameBytes:size:size]
	return f, size, nil
}

// attested looks through bytes that cannot be read in order, for records that can, and returns the greatest position up
// to which one of them says that everything was durable; after when there is none beyond it.
func attested(b []byte, seed uint32, after Position) Position {
	found := after
	work := 16 * len(b) // bound of the bytes that are summed up: bytes made for it could ask for their square
	for i := 0; i+frameBytes <= len(b); i++ {
		position := Position(binary.LittleEndian.Uint64(b[i+8:]))
		if position <= after || position-after > Position(len(b)) {
			continue // a record takes more than a byte, so that it cannot be that far
		}
		f, size, err := decodeFrame(b[i:], seed)
		if err == nil {
			found = max(found, f.synced)
			i += size - 1
			continue
		}
		if length := int(binary.LittleEndian.Uint32(b[i+4:]) & (1<<lengthBits - 1)); length < len(b)-i {
			work -= length
		}
		if work < 0 {
			break
		}
	}
	return found
}

var segmentName = regexp.MustCompile(`^([0-9]{16})\` + segmentSuffix + `(\` + damagedSuffix + `)?$`)

// parseName returns the number in a name of a segment file or of one that was set aside.
func parseName(name string) (number uint64, aside, ok bool) {
	match := segmentName.FindStringSubmatch(name)
	if match == nil {
		return 0, false, false
	}
	number, err := strconv.ParseUint(match[1], 10, 64)
	return number, match[2] != "", err == nil
}

// segment is a segment file. Fields below mu are guarded by Spool.mu.
type segment struct {
	header
	path string

	// mu
	end     Position // position of the last record that it should hold
	size    int64    // bytes of it that may be read
	bytes   int64    // bytes that it takes on disk
	spent   bool     // nothing more is to be read from it
	damaged bool     // to be set aside instead of removed
}

// open opens the file for reading.
func (g *segment) open(disk fileSystem) (file, error) { return disk.Open(g.path, readOnly) }

func (g *segment) createdAt() time.Time { return time.Unix(0, g.created) }
