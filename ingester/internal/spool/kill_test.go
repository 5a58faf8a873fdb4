package spool

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// killedDir is set in the child process of TestKill: the directory it works in.
const killedDir = "TAPEDECK_TEST_SPOOL_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(killedDir); dir != "" {
		if err := appendUntilKilled(dir, os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// appendUntilKilled goes on with the log in dir, from the record whose number the first line of in says: it appends,
// and says "durable N" after each Sync; it reads, acknowledges some, and says "acked N" before.
func appendUntilKilled(dir string, in io.Reader, out io.Writer) error {
	line, err := bufio.NewReader(in).ReadString('\n')
	if err != nil {
		return err
	}
	next, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		return err
	}
	cfg := testConfig(dir)
	cfg.MaxBytes = 1 << 20
	s, err := Open(cfg, quiet())
	if err != nil {
		return err
	}
	ctx, cancel := contextOf(in)
	defer cancel()
	go func() {
		for {
			records, err := s.Next(ctx, 9, 1<<20)
			if err != nil {
				return
			}
			r := records[rand.IntN(len(records))]
			fmt.Fprintf(out, "acked %d\n", recordNumber(r.Data))
			s.Ack(r.Position)
		}
	}()
	for {
		for range 1 + rand.IntN(20) {
			if !s.AppendWait(ctx, numbered(next)) {
				return ctx.Err()
			}
			next++
		}
		if err := s.Sync(ctx); err != nil {
			return err
		}
		fmt.Fprintf(out, "durable %d\n", next-1)
	}
}

// A process that is killed at any moment leaves all that it called durable and not acknowledged, in order and once.
func TestKill(t *testing.T) {
	t.Parallel()
	rounds := 40
	if testing.Short() {
		rounds = 5
	}
	dir := t.TempDir()
	durable, acked := 0, 0 // as the children said
	next := 1
	resumed := map[int]bool{} // records before which some are missing that were acknowledged from memory
	for round := range rounds {
		durableNow, ackedNow := killOne(t, dir, next, round%2 == 0, time.Duration(rand.IntN(40))*time.Millisecond)
		durable, acked = max(durable, durableNow), max(acked, ackedNow)

		cfg := testConfig(dir)
		cfg.MaxBytes = 1 << 20
		s := mustOpen(t, cfg)
		got, last := drain(t, s)
		for i := range got {
			switch {
			case got[i].lost != LossNone:
				t.Fatalf("round %d: a loss before %d", round, got[i].number)
			case i > 0 && got[i].number != got[i-1].number+1 && !resumed[got[i].number]:
				t.Fatalf("round %d: %d after %d", round, got[i].number, got[i-1].number)
			}
		}
		end := 0
		if len(got) > 0 {
			if got[0].number > acked+1 {
				t.Fatalf("round %d: acknowledged up to %d, and delivered from %d", round, acked, got[0].number)
			}
			end = got[len(got)-1].number
		}
		if max(end, acked) < durable {
			t.Fatalf("round %d: durable up to %d, delivered up to %d", round, durable, end)
		}
		next = max(end, acked) + 1
		resumed[next] = acked > end
		if round%3 == 0 { // else the next child begins with a backlog
			s.Ack(last)
			acked = max(acked, end)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if durable == 0 {
		t.Error("no child came to work")
	}
}

// killOne runs a child for a while, at once or from when it works, and kills it. It returns what the child said last.
func killOne(t *testing.T, dir string, next int, atOnce bool, after time.Duration) (durable, acked int) {
	t.Helper()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), killedDir+"="+dir)
	child.Stderr = os.Stderr
	in, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(in, "%d\n", next)
	kill := time.AfterFunc(time.Minute, func() { child.Process.Kill() })
	defer kill.Stop()
	if atOnce {
		kill.Reset(after)
	}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if !atOnce && durable == 0 && acked == 0 {
			kill.Reset(after)
		}
		word, number, _ := strings.Cut(lines.Text(), " ")
		n, err := strconv.Atoi(number)
		switch {
		case err != nil: // the line that the kill cut
		case word == "durable":
			durable = n
		case word == "acked":
			acked = n
		}
	}
	child.Wait()
	if code := child.ProcessState.ExitCode(); code >= 0 {
		t.Fatalf("the child ended by itself with %d", code)
	}
	return durable, acked
}
