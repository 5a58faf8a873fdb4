package spool

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// recordsIn returns the numbers of the records in a segment file.
func recordsIn(t testing.TB, path string) (numbers []int) {
	t.Helper()
	number, _, _ := parseName(filepath.Base(path))
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for b = b[headerBytes:]; len(b) > 0; {
		f, size, err := decodeFrame(b, seedOf(number))
		if err != nil {
			t.Fatal(err)
		}
		numbers = append(numbers, numberOf(t, f.data))
		b = b[size:]
	}
	return numbers
}

// writeFiles makes a directory of files.
func writeFiles(t testing.TB, dir string, files map[string][]byte) {
	t.Helper()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// readFiles returns the files of a directory.
func readFiles(t testing.TB, dir string) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	for _, name := range names(t, dir) {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		files[name] = b
	}
	return files
}

// killedLog returns the files of a log of the records 1 to records, in groups, whose writer was killed, and the bounds
// of the records in the last segment: 0, the end of the header, the ends of its records.
func killedLog(t testing.TB, segmentBytes int64, records, group int) (files map[string][]byte, last string, ends []int, first int) {
	t.Helper()
	disk := &faultyDisk{}
	cfg := testConfig(t.TempDir())
	cfg.SegmentBytes = segmentBytes
	s := mustOpenOn(t, cfg, disk)
	for n := 1; n <= records; n += group {
		fill(t, s, n, min(n+group-1, records))
	}
	crash(t, s, disk)
	paths := segmentFiles(t, cfg.Dir)
	path := paths[len(paths)-1]
	numbers := recordsIn(t, path)
	ends = []int{headerBytes}
	for _, n := range numbers {
		ends = append(ends, ends[len(ends)-1]+frameBytes+len(numbered(n)))
	}
	return readFiles(t, cfg.Dir), filepath.Base(path), ends, numbers[0]
}

// Whatever of the last segment a crash left, the records before are there, nothing is called damaged, and the log goes
// on.
func TestTornTailIsCutAtEveryByte(t *testing.T) {
	t.Parallel()
	files, last, ends, first := killedLog(t, 1<<10, 24, 3)
	whole := files[last]
	dir := filepath.Join(t.TempDir(), "spool")
	for size := range whole {
		records := first - 1
		for i, end := range ends[1:] {
			if size >= end {
				records = first + i
			}
		}
		for _, tail := range map[string][]byte{"cut": nil, "zeros": make([]byte, 300), "garbage": bytes.Repeat([]byte{0xa5}, 77)} {
			if tail != nil && size%29 != 0 {
				continue
			}
			files[last] = append(slices.Clone(whole[:size]), tail...)
			writeFiles(t, dir, files)
			cfg := testConfig(dir)
			s := mustOpenOn(t, cfg, &faultyDisk{quick: true})
			for n := records + 1; n <= records+2; n++ {
				s.Append(numbered(n))
			}
			if size%29 == 0 { // through the disk
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				s = mustOpenOn(t, cfg, &faultyDisk{quick: true})
			}
			got, last := drain(t, s)
			s.Ack(last) // nothing is to be written any more
			// A cut in the header of a file that was full long ago is no torn tail, but no record is wrong either.
			if size < headerBytes && tail != nil {
				for i := range got {
					got[i].lost = LossNone
				}
			}
			expect(t, got, run(1, records+2, LossNone))
			s.Close()
		}
	}
}

// Damage that no crash explains costs the rest of its segment, and the next record says so. The file is kept.
func TestDamageInTheMiddle(t *testing.T) {
	t.Parallel()
	damages := map[string]func(b []byte, at int) []byte{
		"bit":     func(b []byte, at int) []byte { b[at] ^= 0x10; return b },
		"zeros":   func(b []byte, at int) []byte { clear(b[at:min(at+512, len(b))]); return b },
		"removed": func(b []byte, at int) []byte { return slices.Delete(b, at, at+100) },
		"doubled": func(b []byte, at int) []byte { return slices.Insert(b, at, b[at-headerBytes:at]...) },
	}
	files, _, _, _ := killedLog(t, 4<<10, 100, 5)
	var segments []string
	for name := range files {
		if strings.HasSuffix(name, segmentSuffix) {
			segments = append(segments, name)
		}
	}
	slices.Sort(segments)
	dir := filepath.Join(t.TempDir(), "spool")
	for which, name := range map[string]string{"first": segments[0], "middle": segments[1], "last": segments[len(segments)-1]} {
		writeFiles(t, dir, files)
		numbers := recordsIn(t, filepath.Join(dir, name))
		for kind, damage := range damages {
			for at := headerBytes; at < 2000 && at < len(files[name])/2; at += 197 {
				t.Run(fmt.Sprint(which, " ", kind, " ", at), func(t *testing.T) {
					good, end := numbers[0]-1, headerBytes
					for end+frameBytes+len(numbered(good+1)) <= at {
						good++
						end += frameBytes + len(numbered(good))
					}
					broken := readFilesCopy(files)
					broken[name] = damage(broken[name], at)
					writeFiles(t, dir, broken)
					cfg := testConfig(dir)
					s := mustOpenOn(t, cfg, &faultyDisk{quick: true})
					fill(t, s, 101, 102)
					got, position := drain(t, s)
					after := numbers[len(numbers)-1] + 1
					want := slices.Concat(run(1, good, LossNone), run(after, 102, LossDamaged))
					if good == 0 {
						want = run(after, 102, LossDamaged)
					}
					expect(t, got, want)
					if stats := s.Stats(); stats.DamagedSegments != 1 || stats.DamagedRecords == 0 {
						t.Errorf("%+v", stats)
					}
					s.Ack(position)
					if err := s.Close(); err != nil {
						t.Fatal(err)
					}
					if b, err := os.ReadFile(filepath.Join(dir, name+damagedSuffix)); err != nil || !bytes.Equal(b, broken[name]) {
						t.Errorf("the damaged segment was not kept: %v", err)
					}
					if left := segmentFiles(t, dir); len(left) != 0 {
						t.Errorf("left: %v", left)
					}
				})
			}
		}
	}
}

func readFilesCopy(files map[string][]byte) map[string][]byte {
	clone := map[string][]byte{}
	for name, b := range files {
		clone[name] = slices.Clone(b)
	}
	return clone
}

// What was damaged is delivered the same way as long as it is not acknowledged.
func TestDamageIsToldAgain(t *testing.T) {
	cfg := testConfig(t.TempDir())
	s := mustOpen(t, cfg)
	fill(t, s, 1, 60)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	path := segmentFiles(t, cfg.Dir)[1]
	numbers := recordsIn(t, path)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[headerBytes+frameBytes] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		s = mustOpen(t, cfg)
		got, _ := drain(t, s)
		expect(t, got, run(1, numbers[0]-1, LossNone), run(numbers[len(numbers)-1]+1, 60, LossDamaged))
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestMissingFiles(t *testing.T) {
	t.Parallel()
	cfg := testConfig(filepath.Join(t.TempDir(), "spool"))
	s := mustOpen(t, cfg)
	fill(t, s, 1, 60)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	files := readFiles(t, cfg.Dir)
	paths := segmentFiles(t, cfg.Dir)
	second, last := recordsIn(t, paths[1]), recordsIn(t, paths[len(paths)-1])
	for name, tt := range map[string]struct {
		remove []string
		want   []delivered
	}{
		"first segment":  {paths[:1], run(second[0], 61, LossDamaged)},
		"second segment": {paths[1:2], slices.Concat(run(1, second[0]-1, LossNone), run(second[len(second)-1]+1, 61, LossDamaged))},
		"last segment":   {paths[len(paths)-1:], slices.Concat(run(1, last[0]-1, LossNone), run(61, 61, LossDamaged))},
		"all segments":   {paths, run(61, 61, LossDamaged)},
		"checkpoint":     {[]string{checkpointName}, run(1, 61, LossNone)},
		// Whether the first segment was acknowledged, nobody knows then.
		"checkpoint and first segment": {[]string{checkpointName, paths[0]}, run(second[0], 61, LossNone)},
	} {
		writeFiles(t, cfg.Dir, files)
		for _, path := range tt.remove {
			if err := os.Remove(filepath.Join(cfg.Dir, filepath.Base(path))); err != nil {
				t.Fatal(err)
			}
		}
		s := mustOpen(t, cfg)
		fill(t, s, 61, 61)
		got, _ := drain(t, s)
		t.Log(name)
		expect(t, got, tt.want)
		s.Close()
	}
}

// The last segment of a spool that was closed is known to have been whole.
func TestTruncationAfterCloseIsDamage(t *testing.T) {
	cfg := testConfig(t.TempDir())
	s := mustOpen(t, cfg)
	fill(t, s, 1, 5)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	path := segmentFiles(t, cfg.Dir)[0]
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, info.Size()-1); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, cfg)
	fill(t, s, 6, 7)
	got, _ := drain(t, s)
	expect(t, got, run(1, 4, LossNone), run(6, 7, LossDamaged))
}

// Without its checkpoint a spool delivers again what there is, and takes nothing for lost that was acknowledged.
func TestDamagedCheckpoint(t *testing.T) {
	const records = 200
	for name, tt := range map[string]struct {
		acked   int
		damage  func(t *testing.T, path string, b []byte)
		segment func(t *testing.T, dir string) // damage to the segments too
		lost    bool                           // that something is missing is known
	}{
		"damaged, no segment was removed": {acked: 3, damage: flip},
		"damaged":                         {acked: 150, damage: flip},
		"removed": {acked: 150, damage: func(t *testing.T, path string, _ []byte) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}},
		"damaged, with a segment that cannot be read": {acked: 150, damage: flip, lost: true, segment: func(t *testing.T, dir string) {
			path := segmentFiles(t, dir)[0]
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			flip(t, path, b)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := testConfig(t.TempDir())
			s := mustOpen(t, cfg)
			s.SetNote(func() []byte { return []byte("note") })
			fill(t, s, 1, records)
			_, last := take(t, s, tt.acked)
			s.Ack(last)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(cfg.Dir, checkpointName)
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			tt.damage(t, path, slices.Clone(b))
			if tt.segment != nil {
				tt.segment(t, cfg.Dir)
			}
			lost := LossNone
			if tt.lost {
				lost = LossDamaged
			}
			var first int
			for life := range 2 { // the second one has a checkpoint again
				s = mustOpen(t, cfg)
				if life == 0 && s.Note() != nil {
					t.Errorf("a damaged note: %q", s.Note())
				}
				first = recordsIn(t, segmentFiles(t, cfg.Dir)[0])[0]
				got, _ := drain(t, s)
				expect(t, got, run(first, records, lost))
				if stats := s.Stats(); (stats.DamagedRecords > 0) != tt.lost {
					t.Errorf("%+v", stats)
				}
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
			}
			if (first > 1) != (tt.acked > 100) {
				t.Errorf("the first of %d acknowledged records that is still there is %d", tt.acked, first)
			}
			if name == "removed" {
				return
			}
			b[10] ^= 1
			if kept, err := os.ReadFile(path + damagedSuffix); err != nil || !bytes.Equal(kept, b) {
				t.Errorf("it was not kept: %v", err)
			}
		})
	}
}

// flip damages a file.
func flip(t *testing.T, path string, b []byte) {
	t.Helper()
	b[10] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestFilesSetAsideAreBounded(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.MaxBytes = 1 << 20
	s := mustOpen(t, cfg)
	fill(t, s, 1, 400)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	paths := segmentFiles(t, cfg.Dir)
	if len(paths) <= maxAside+1 {
		t.Fatalf("only %d segments", len(paths))
	}
	for _, path := range paths {
		if err := os.WriteFile(path, bytes.Repeat([]byte("x"), 1000), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s = mustOpen(t, cfg)
	if stats := s.Stats(); stats.DamagedSegments != maxAside || stats.Segments != 0 {
		t.Errorf("%+v", stats)
	}
	want := paths[len(paths)-maxAside:]
	got, err := filepath.Glob(filepath.Join(cfg.Dir, "*"+damagedSuffix))
	if err != nil {
		t.Fatal(err)
	}
	for i := range want {
		want[i] += damagedSuffix
	}
	if !slices.Equal(got, want) {
		t.Errorf("kept %v, not %v", got, want)
	}
	fill(t, s, 401, 401)
	records, _ := drain(t, s)
	expect(t, records, run(401, 401, LossDamaged))
}

// A note may speak of positions of records that were never on disk: a crash does not give them to others.
func TestPositionsOfANoteAreNotUsedAgain(t *testing.T) {
	disk := &faultyDisk{}
	cfg := testConfig(t.TempDir())
	s := mustOpenOn(t, cfg, disk)
	fill(t, s, 1, 5)
	disk.fail(func(operation, name string) error {
		if operation == "create" && filepath.Ext(name) == segmentSuffix || operation == "write" && filepath.Ext(name) == segmentSuffix {
			return errKilled
		}
		return nil
	})
	for n := 6; n <= 10; n++ {
		s.Append(numbered(n))
	}
	_, noted := take(t, s, 10)
	s.Ack(3)
	eventually(t, "the checkpoint is written", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.checkpointed == 3
	})
	crash(t, s, disk)
	for life := range 2 {
		s = mustOpenOn(t, cfg, disk)
		if life == 0 {
			fill(t, s, 11, 12)
		}
		got, _ := take(t, s, 2)
		expect(t, got, run(4, 5, LossNone))
		records, err := s.Next(t.Context(), 1, 1000)
		if err != nil || records[0].Position <= noted {
			t.Fatalf("position %d after %d was returned (%v)", records[0].Position, noted, err)
		}
		got, _ = drain(t, s)
		expect(t, append([]delivered{{numberOf(t, records[0].Data), records[0].Lost}}, got...), run(11, 12, LossNone))
		if stats := s.Stats(); stats.DamagedSegments != 0 || stats.DamagedRecords != 0 {
			t.Errorf("%+v", stats)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
