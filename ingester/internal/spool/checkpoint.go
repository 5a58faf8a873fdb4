package spool

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"path/filepath"

	"tapedeck/shared/market"
)

const (
	checkpointName  = "checkpoint"
	checkpointMagic = "TDSPCKP\x01"
	checkpointBytes = 8 + 4*8 + 1 + 4 + 4 // without the note
)

// checkpoint is what is known of a log beside its segments. It is one file, replaced in one step:
//
//	magic [8] | acked u64 | durable u64 | dropped u64 | returned u64 | lost u8 | length u32 | note [length] | crc u32
type checkpoint struct {
	acked    Position // everything up to here is done with
	durable  Position // the last record that was on disk, so that it is missed when it is not there
	dropped  Position // what is missing up to here was given up
	returned Position // no position up to here, of which the note may speak, is used again
	lost     Loss     // of the next record that is appended
	note     []byte
}

func (c *checkpoint) append(b []byte) []byte {
	start := len(b)
	b = append(b, checkpointMagic...)
	b = binary.LittleEndian.AppendUint64(b, uint64(c.acked))
	b = binary.LittleEndian.AppendUint64(b, uint64(c.durable))
	b = binary.LittleEndian.AppendUint64(b, uint64(c.dropped))
	b = binary.LittleEndian.AppendUint64(b, uint64(c.returned))
	b = append(b, byte(c.lost))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(c.note)))
	b = append(b, c.note...)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b[start:], castagnoli))
}

// decodeCheckpoint returns errDamaged when b is not a whole checkpoint.
func decodeCheckpoint(b []byte) (checkpoint, error) {
	if len(b) < checkpointBytes || string(b[:8]) != checkpointMagic ||
		crc32.Checksum(b[:len(b)-4], castagnoli) != binary.LittleEndian.Uint32(b[len(b)-4:]) ||
		int(binary.LittleEndian.Uint32(b[41:])) != len(b)-checkpointBytes {
		return checkpoint{}, errDamaged
	}
	c := checkpoint{
		acked:    Position(binary.LittleEndian.Uint64(b[8:])),
		durable:  Position(binary.LittleEndian.Uint64(b[16:])),
		dropped:  Position(binary.LittleEndian.Uint64(b[24:])),
		returned: Position(binary.LittleEndian.Uint64(b[32:])),
		lost:     Loss(b[40]),
	}
	if c.lost > LossDamaged {
		return checkpoint{}, errDamaged
	}
	if len(b) > checkpointBytes {
		c.note = b[45 : len(b)-4]
	}
	return c, nil
}

// readCheckpoint returns an error that is fs.ErrNotExist when there is none, or errDamaged when it cannot be used.
func readCheckpoint(disk fileSystem, dir string) (c checkpoint, err error) {
	b, err := readFile(disk, filepath.Join(dir, checkpointName), checkpointBytes+MaxNoteBytes)
	if err != nil {
		return checkpoint{}, err
	}
	return decodeCheckpoint(b)
}

// writeCheckpoint replaces the checkpoint, durably.
func writeCheckpoint(disk fileSystem, dir string, c *checkpoint) (err error) {
	defer market.Wrap(&err, "write the checkpoint")
	if len(c.note) > MaxNoteBytes {
		return fmt.Errorf("the note has %d bytes, and may have %d", len(c.note), MaxNoteBytes)
	}
	name := filepath.Join(dir, checkpointName)
	f, err := disk.Open(name+".tmp", overwrite)
	if err != nil {
		return err
	}
	_, err = f.Write(c.append(nil))
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = disk.Rename(name+".tmp", name)
	}
	if err == nil {
		err = disk.SyncDir(dir)
	}
	return err
}

// readFile returns the first limit bytes of a file.
func readFile(disk fileSystem, name string, limit int64) (b []byte, err error) {
	f, err := disk.Open(name, readOnly)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return io.ReadAll(io.NewSectionReader(f, 0, limit))
}
