package spool

import (
	"bytes"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
)

// FuzzRecovery changes files of a log at will: it must open, deliver nothing but what was appended, in order, say when
// something is missing, and go on.
func FuzzRecovery(f *testing.F) {
	files, _, _, _ := killedLog(f, 4<<10, 60, 4)
	var segments []string
	for name := range files {
		if _, _, ok := parseName(name); ok {
			segments = append(segments, name)
		}
	}
	slices.Sort(segments)
	f.Add(uint8(0), uint16(0), uint16(0), []byte(nil), false)
	f.Add(uint8(1), uint16(100), uint16(50), []byte{}, false)
	f.Add(uint8(2), uint16(0), uint16(65535), []byte("not a segment"), true)
	f.Add(uint8('G'), uint16(0), uint16(65535), []byte("not a segment"), true) // with the checkpoint
	f.Add(uint8(0), uint16(36), uint16(32), make([]byte, 32), true)
	f.Add(uint8(1), uint16(0), uint16(65535), files[segments[0]], false)
	f.Add(uint8(3), uint16(2000), uint16(0), files[segments[1]][headerBytes:], true)
	f.Fuzz(func(t *testing.T, which uint8, at, remove uint16, insert []byte, again bool) {
		broken := readFilesCopy(files)
		splice := func(name string) {
			b := broken[name]
			from := min(int(at), len(b))
			broken[name] = slices.Replace(b, from, min(from+int(remove), len(b)), insert...)
		}
		name := append(segments, checkpointName)[int(which)%(len(segments)+1)]
		splice(name)
		if again { // the neighbour too
			splice(segments[(int(which)+1)%len(segments)])
		}
		changed := slices.ContainsFunc(segments, func(name string) bool { return !bytes.Equal(files[name], broken[name]) })

		dir := filepath.Join(t.TempDir(), "spool")
		writeFiles(t, dir, broken)
		for life := range 2 {
			s := mustOpenOn(t, testConfig(dir), &faultyDisk{quick: true})
			for record := range s.Recovered() {
				numberOf(t, record)
			}
			if life == 0 {
				fill(t, s, 1001, 1003)
			}
			got, last := drain(t, s)
			if len(got) < 3 || got[len(got)-3].number != 1001 {
				t.Fatalf("the log does not go on: %v", got)
			}
			for i, d := range got[:len(got)-3] {
				before := 0
				if i > 0 {
					before = got[i-1].number
				}
				if d.number <= before || d.number > before+1 && d.lost == LossNone {
					t.Fatalf("%v after %d", d, before)
				}
			}
			if !changed && len(got) != 63 {
				t.Fatalf("%d records of an untouched log", len(got))
			}
			if life == 1 {
				s.Ack(last)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// FuzzDecode reads bytes as a header, records and a checkpoint: what is accepted was written so.
func FuzzDecode(f *testing.F) {
	h := header{number: 3, first: 7, synced: 6, created: 5}
	record := frame{position: 7, synced: 6, appended: 9, lost: LossDropped, data: []byte("data")}
	c := checkpoint{acked: 3, durable: 4, dropped: 2, lost: LossDropped, note: []byte("note")}
	f.Add(h.append(nil), uint64(3))
	f.Add(record.append(nil, seedOf(3)), uint64(3))
	f.Add(c.append(nil), uint64(3))
	f.Fuzz(func(t *testing.T, b []byte, number uint64) {
		if h, err := decodeHeader(b); err == nil && !bytes.Equal(h.append(nil), b[:headerBytes]) {
			t.Errorf("%+v", h)
		}
		if f, size, err := decodeFrame(b, seedOf(number)); err == nil && !bytes.Equal(f.append(nil, seedOf(number)), b[:size]) {
			t.Errorf("%+v", f)
		}
		if c, err := decodeCheckpoint(b); err == nil && !bytes.Equal(c.append(nil), b) {
			t.Errorf("%+v", c)
		}
		if got := attested(b, seedOf(number), 5); got < 5 || got > 5+Position(len(b)) {
			t.Error(fmt.Sprint("attested ", got))
		}
	})
}
