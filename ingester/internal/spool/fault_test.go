package spool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"tapedeck/shared/market"
)

// While the disk fails, records wait in memory and are delivered from there; nothing is lost when it is back, and
// nothing of what was acknowledged comes again.
func TestDiskFailsAndComesBack(t *testing.T) {
	for _, tt := range []struct {
		name  string
		err   error
		fails func(operation, name string) bool
		short bool
		away  bool // nothing can be read either
	}{
		{name: "no space to write", err: syscall.ENOSPC, fails: func(operation, _ string) bool { return operation == "write" }},
		{name: "no space in the middle", err: syscall.ENOSPC, short: true, fails: func(operation, _ string) bool { return operation == "write" }},
		{name: "no space for a file", err: syscall.ENOSPC, fails: func(operation, _ string) bool { return operation == "write" || operation == "create" }},
		{name: "write error", err: syscall.EIO, short: true, fails: func(operation, _ string) bool { return operation == "write" }},
		{name: "sync error", err: syscall.EIO, fails: func(operation, _ string) bool { return operation == "sync" }},
		{name: "directory sync error", err: syscall.EIO, fails: func(operation, _ string) bool { return operation == "syncdir" || operation == "sync" }},
		{name: "read-only", err: syscall.EROFS, fails: func(operation, _ string) bool { return changes(operation) }},
		{name: "lost volume", err: syscall.ENODEV, away: true, fails: func(string, string) bool { return true }},
		{name: "unmounted volume", err: syscall.ENOENT, away: true, fails: func(string, string) bool { return true }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				disk := &faultyDisk{short: tt.short}
				cfg := testConfig(t.TempDir())
				s := mustOpenOn(t, cfg, disk)
				fill(t, s, 1, 30)
				disk.fail(func(operation, name string) error {
					if tt.fails(operation, name) {
						return tt.err
					}
					return nil
				})
				for n := 31; n <= 60; n++ {
					s.Append(numbered(n))
				}
				synctest.Wait()
				<-time.After(time.Minute)
				if stats := s.Stats(); !errors.Is(stats.DiskError, tt.err) || stats.BufferedRecords != 30 {
					t.Errorf("while the disk fails: %+v", stats)
				}
				if tt.away { // what is there comes before what is in memory
					brief, cancel := context.WithTimeout(t.Context(), 10*readPatience)
					defer cancel()
					if records, err := s.Next(brief, 1, 1); !errors.Is(err, context.DeadlineExceeded) {
						t.Fatalf("while the volume is away: %v, %v", records, err)
					}
					disk.fail(nil)
				}
				got, last := take(t, s, 50)
				expect(t, got, run(1, 50, LossNone))
				s.Ack(last)
				if stats := s.Stats(); stats.BufferedRecords != 10 && !tt.away {
					t.Errorf("acknowledged records are still in memory: %+v", stats)
				}
				disk.fail(nil)
				<-time.After(2 * maxBackoff)
				fill(t, s, 61, 70)
				if stats := s.Stats(); stats.DiskError != nil || stats.BufferedRecords != 0 || stats.DiskRecords != 20 {
					t.Errorf("after the disk came back: %+v", stats)
				}
				crash(t, s, disk)

				s = mustOpenOn(t, cfg, disk)
				got, last = drain(t, s)
				expect(t, got, run(51, 70, LossNone))
				s.Ack(last)
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				if left := segmentFiles(t, cfg.Dir); len(left) != 0 {
					t.Errorf("left behind: %v", left)
				}
			})
		})
	}
}

// A volume that stays away is given up for what comes, once memory is short.
func TestVolumeStaysAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := &faultyDisk{}
		s := mustOpenOn(t, testConfig(t.TempDir()), disk)
		fill(t, s, 1, 100)
		got, _ := take(t, s, 5)
		expect(t, got, run(1, 5, LossNone))
		disk.fail(func(string, string) error { return syscall.ENOENT })
		next := make(chan []Record, 1)
		go func() {
			records, _ := s.Next(t.Context(), 1, 1)
			next <- records
		}()
		n := 100
		for stats := s.Stats(); stats.BufferedBytes <= s.cfg.BufferBytes/2; stats = s.Stats() {
			<-time.After(10 * time.Second)
			select {
			case records := <-next:
				t.Fatalf("given up with %d bytes in memory: %v", stats.BufferedBytes, records)
			default:
			}
			n++
			s.Append(numbered(n))
		}
		<-time.After(2 * readRetry)
		if records := <-next; numberOf(t, records[0].Data) != 101 || records[0].Lost != LossDamaged {
			t.Errorf("delivered: %+v", records)
		}
		got, last := take(t, s, n-101)
		expect(t, got, run(102, n, LossNone))
		s.Ack(last)
		s.Append(numbered(n + 1))
		disk.fail(nil)
		<-time.After(2 * maxBackoff)
		got, _ = drain(t, s)
		expect(t, got, run(n+1, n+1, LossNone))
		if stats := s.Stats(); stats.DamagedRecords != 95 || stats.DiskError != nil {
			t.Errorf("%+v", stats)
		}
	})
}

// TestStopWhileTheVolumeIsAway: what is in memory goes to the store, as it is nowhere else.
func TestStopWhileTheVolumeIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := &faultyDisk{}
		s := mustOpenOn(t, testConfig(t.TempDir()), disk)
		fill(t, s, 1, 20)
		take(t, s, 19) // the store is one record behind
		disk.fail(func(string, string) error { return syscall.ENOENT })
		for n := 21; n <= 50; n++ {
			s.Append(numbered(n))
		}
		<-time.After(time.Hour)
		s.Seal()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		records, err := s.Next(ctx, 100, 1<<20)
		if err != nil || len(records) != 30 || numberOf(t, records[0].Data) != 21 {
			t.Fatalf("%d records, %v", len(records), err)
		}
		s.Ack(records[29].Position)
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

// What a failed sync left in the file may or may not be there afterwards: it does not matter.
func TestTailOfAFailedSyncIsNotTrusted(t *testing.T) {
	for _, kept := range []int64{0, 1, 100, 1 << 20} {
		synctest.Test(t, func(t *testing.T) {
			disk := &faultyDisk{}
			cfg := testConfig(t.TempDir())
			s := mustOpenOn(t, cfg, disk)
			fill(t, s, 1, 5)
			file := segmentFiles(t, cfg.Dir)[0]
			before, err := os.Stat(file)
			if err != nil {
				t.Fatal(err)
			}
			failures := 0
			disk.fail(func(operation, _ string) error {
				if operation == "sync" {
					if failures++; failures == 1 {
						return syscall.EIO
					}
				}
				return nil
			})
			fill(t, s, 6, 10)
			if got := segmentFiles(t, cfg.Dir); len(got) != 2 {
				t.Fatalf("segments %v", got)
			}
			after, err := os.Stat(file)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(file, min(before.Size()+kept, after.Size())); err != nil {
				t.Fatal(err)
			}
			fill(t, s, 11, 15)
			crash(t, s, disk)
			for range 2 {
				s = mustOpenOn(t, cfg, disk)
				got, _ := drain(t, s)
				expect(t, got, run(1, 15, LossNone))
				if stats := s.Stats(); stats.DamagedSegments != 0 {
					t.Errorf("%+v", stats)
				}
				s.Close()
			}
		})
	}
}

func TestMemoryIsBoundedWhileTheDiskFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := &faultyDisk{}
		cfg := testConfig(t.TempDir())
		s := mustOpenOn(t, cfg, disk)
		disk.fail(func(operation, _ string) error {
			if changes(operation) {
				return syscall.EIO
			}
			return nil
		})
		taken := 0
		for s.Append(numbered(taken + 1)) {
			taken++
		}
		if stats := s.Stats(); stats.BufferedBytes > cfg.BufferBytes || stats.BufferedBytes < cfg.BufferBytes/2 || stats.DroppedRecords != 1 {
			t.Errorf("%+v", stats)
		}
		synctest.Wait() // for the first failure: until then records wait to be written
		// A forwarder that keeps up needs no disk.
		for n := range 10 * taken {
			got, last := take(t, s, 1)
			if got[0].number != n+1 {
				t.Fatalf("record %d, not %d", got[0].number, n+1)
			}
			s.Ack(last)
			if n+1 >= taken && !s.Append(numbered(n+2)) {
				t.Fatalf("record %d is refused", n+2)
			}
		}
		err := s.Close()
		if market.KindOf(err) != market.KindUnavailable || !errors.Is(err, syscall.EIO) || !strings.Contains(err.Error(), "1 records") {
			t.Errorf("closed with a record that is nowhere: %v", err)
		}
	})
}

// A directory that was taken away takes what is written to its open files without an error.
func TestDirectoryRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := testConfig(filepath.Join(t.TempDir(), "spool"))
		s := mustOpen(t, cfg)
		fill(t, s, 1, 5)
		take(t, s, 2)
		if err := os.RemoveAll(cfg.Dir); err != nil {
			t.Fatal(err)
		}
		for n := 6; n <= 10; n++ {
			s.Append(numbered(n))
		}
		<-time.After(time.Minute)
		stats := s.Stats()
		if stats.DiskError == nil || !strings.Contains(stats.DiskError.Error(), cfg.Dir) || stats.BufferedRecords != 5 {
			t.Errorf("%+v", stats)
		}
		got, _ := take(t, s, 8) // its file is open still
		expect(t, got, run(3, 10, LossNone))
		if err := s.Close(); market.KindOf(err) != market.KindUnavailable {
			t.Errorf("closed: %v", err)
		}
		if _, err := os.Stat(cfg.Dir); !os.IsNotExist(err) {
			t.Errorf("the directory was made again: %v", err)
		}
	})
}

func TestSegmentRemovedBeforeItIsRead(t *testing.T) {
	cfg := testConfig(t.TempDir())
	s := mustOpen(t, cfg)
	fill(t, s, 1, 100)
	first, _ := take(t, s, 1)
	expect(t, first, run(1, 1, LossNone))
	files := segmentFiles(t, cfg.Dir)
	lost := recordsIn(t, files[1])
	if err := os.Remove(files[1]); err != nil {
		t.Fatal(err)
	}
	got, _ := drain(t, s)
	expect(t, got, run(2, lost[0]-1, LossNone), run(lost[len(lost)-1]+1, 100, LossDamaged))
	if stats := s.Stats(); stats.DamagedRecords != int64(len(lost)) {
		t.Errorf("%+v", stats)
	}
}

// A segment that the disk does not give out is waited for, but not for ever.
func TestReadErrors(t *testing.T) {
	for _, forever := range []bool{false, true} {
		t.Run(fmt.Sprint("forever ", forever), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				disk := &faultyDisk{}
				cfg := testConfig(t.TempDir())
				s := mustOpenOn(t, cfg, disk)
				fill(t, s, 1, 100)
				bad := segmentFiles(t, cfg.Dir)[1]
				lost := recordsIn(t, bad)
				start := time.Now()
				disk.fail(func(operation, name string) error {
					if operation == "read" && name == bad && (forever || time.Since(start) < readPatience/2) {
						return syscall.EIO
					}
					return nil
				})
				got, _ := drain(t, s)
				if forever {
					expect(t, got, run(1, lost[0]-1, LossNone), run(lost[len(lost)-1]+1, 100, LossDamaged))
				} else {
					expect(t, got, run(1, 100, LossNone))
				}
				if waited := time.Since(start); waited > readPatience+readRetry || waited < readPatience/2 {
					t.Errorf("waited %v", waited)
				}
				s.Close()
			})
		})
	}
}

// A file that is not there for a moment, as its volume was away, is not lost.
func TestSegmentIsNotFoundOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := &faultyDisk{}
		s := mustOpenOn(t, testConfig(t.TempDir()), disk)
		fill(t, s, 1, 100)
		missed := false
		disk.fail(func(operation, _ string) error {
			if operation == "open" && !missed {
				missed = true
				return syscall.ENOENT
			}
			return nil
		})
		got, _ := drain(t, s)
		expect(t, got, run(1, 100, LossNone))
	})
}

func TestOpenOnAFailingDisk(t *testing.T) {
	for _, tt := range []struct {
		err   error
		opens bool
	}{{syscall.ENOSPC, true}, {syscall.EROFS, false}, {syscall.EIO, false}} {
		disk := &faultyDisk{}
		cfg := testConfig(t.TempDir())
		disk.fail(func(operation, name string) error {
			if changes(operation) {
				return tt.err
			}
			return nil
		})
		s, err := open(cfg, quiet(), disk)
		if tt.opens {
			if err != nil {
				t.Fatal(err)
			}
			if stats := s.Stats(); !errors.Is(stats.DiskError, tt.err) {
				t.Errorf("%v: %+v", tt.err, stats)
			}
			s.Append(numbered(1))
			got, _ := take(t, s, 1)
			expect(t, got, run(1, 1, LossNone))
			disk.fail(nil)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if market.KindOf(err) != market.KindUnavailable || !errors.Is(err, tt.err) || !strings.Contains(err.Error(), cfg.Dir) {
			t.Errorf("%v: %v", tt.err, err)
		}
		disk.fail(nil)
		mustOpenOn(t, cfg, disk) // the lock was given back
	}
}

func TestSyncSaysWhyNot(t *testing.T) {
	disk := &faultyDisk{}
	s := mustOpenOn(t, testConfig(t.TempDir()), disk)
	disk.fail(func(operation, _ string) error {
		if operation == "sync" {
			return syscall.EIO
		}
		return nil
	})
	s.Append(numbered(1))
	eventually(t, "the disk fails", func() bool { return s.Stats().DiskError != nil })
	if err := s.Sync(ended(t)); market.KindOf(err) != market.KindUnavailable || !errors.Is(err, syscall.EIO) {
		t.Errorf("Sync: %v", err)
	}
	_, last := take(t, s, 1)
	s.Ack(last)
	if err := s.Sync(t.Context()); err != nil {
		t.Errorf("Sync with everything acknowledged: %v", err)
	}
	disk.fail(nil)
}

// overflow appends records to a spool on a volume that is too small for them, until some wait in memory, and returns
// how many.
func overflow(t *testing.T, s *Spool) int {
	t.Helper()
	for n := 1; ; n++ {
		if !s.Append(numbered(n)) {
			t.Fatalf("record %d is refused", n)
		}
		<-time.After(10 * time.Millisecond)
		if stats := s.Stats(); stats.DiskError != nil && stats.BufferedRecords > 10 {
			return n
		}
	}
}

// While a backlog drains from a full volume, what is acknowledged makes room for what comes.
func TestFullVolumeIsGivenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := &faultyDisk{}
		cfg := testConfig(t.TempDir())
		s := mustOpenOn(t, cfg, disk)
		disk.hold(cfg.Dir, cfg.MaxBytes/2)
		last := overflow(t, s)
		got, position := take(t, s, last/3)
		s.Ack(position)
		synctest.Wait()
		if stats := s.Stats(); stats.DiskError != nil || stats.BufferedRecords != 0 {
			t.Errorf("with a third acknowledged: %+v", stats)
		}
		more := last
		for s.Stats().DiskError == nil {
			more++
			if !s.Append(numbered(more)) {
				t.Fatalf("record %d is refused", more)
			}
			<-time.After(10 * time.Millisecond)
		}
		if more < last+last/6 {
			t.Errorf("there was room for %d records", more-last)
		}
		crash(t, s, disk)
		s = mustOpenOn(t, cfg, disk)
		rest, _ := drain(t, s)
		if len(rest) < more-2*last/3 || len(rest) > more-len(got) {
			t.Errorf("%d of %d records are on disk", len(rest), more)
		}
		expect(t, rest, run(len(got)+1, len(got)+len(rest), LossNone))
	})
}

// The close makes room for what is in memory out of what is acknowledged.
func TestCloseOnAFullVolume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := &faultyDisk{}
		cfg := testConfig(t.TempDir())
		s := mustOpenOn(t, cfg, disk)
		disk.hold(cfg.Dir, cfg.MaxBytes/2)
		last := overflow(t, s)
		got, position := take(t, s, last/3)
		disk.fail(func(operation, _ string) error {
			if changes(operation) {
				return syscall.EROFS
			}
			return nil
		})
		s.Ack(position)
		<-time.After(2 * maxBackoff)
		disk.fail(nil)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = mustOpenOn(t, cfg, disk)
		rest, _ := drain(t, s)
		expect(t, rest, run(len(got)+1, last, LossNone))
	})
}

// What is acknowledged already cannot be lost: that a disk takes no checkpoint any more fails no close.
func TestCloseWithoutACheckpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := &faultyDisk{}
		cfg := testConfig(t.TempDir())
		s := mustOpenOn(t, cfg, disk)
		fill(t, s, 1, 20)
		disk.fail(func(operation, _ string) error {
			if changes(operation) {
				return syscall.EROFS
			}
			return nil
		})
		_, last := take(t, s, 15) // the other five are on disk
		s.Ack(last)
		s.Append(numbered(21))
		_, last = take(t, s, 6)
		s.Ack(last)
		if err := s.Close(); err != nil {
			t.Errorf("Close() = %v", err)
		}
	})
}

// A full volume is a full spool: the oldest records are given up before the newest are refused, if so configured.
func TestFullVolumeDropsOldest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := &faultyDisk{}
		cfg := testConfig(t.TempDir())
		cfg.DropOldest = true
		s := mustOpenOn(t, cfg, disk)
		disk.hold(cfg.Dir, cfg.MaxBytes/2)
		const many = 1000
		for n := 1; n <= many; n++ {
			if !s.Append(numbered(n)) {
				t.Fatalf("record %d is refused", n)
			}
			<-time.After(100 * time.Millisecond)
		}
		dropped := int(s.Stats().DroppedRecords)
		if dropped == 0 || dropped > many-100 {
			t.Errorf("%d records dropped", dropped)
		}
		got, _ := drain(t, s)
		expect(t, got, run(dropped+1, many, LossDropped))
	})
}
