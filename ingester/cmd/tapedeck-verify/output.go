package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"time"

	"tapedeck/shared/market"
	"tapedeck/shared/verify"
)

// output prints what was found, in the form that was asked for.
func output(w io.Writer, s *settings, report *verify.Report, err error) error {
	if s.json {
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		return encoder.Encode(report)
	}
	out := bufio.NewWriter(w)
	for i := range report.Markets {
		for j := range report.Markets[i].Streams {
			printStream(out, report.Markets[i].Market, &report.Markets[i].Streams[j], s.quiet)
		}
	}
	verdict := "All holds"
	switch {
	case err != nil:
		verdict = "NOT ALL WAS READ. Until then"
	case report.Problems > 0:
		verdict = "DOES NOT HOLD"
	}
	fmt.Fprintf(out, "%s: %s events, %s problems, %s notes.\n", verdict,
		grouped(report.Events), grouped(int64(report.Problems)), grouped(int64(report.Notes)))
	return out.Flush()
}

// printStream prints what was found in one stream. Briefly, it prints findings only.
func printStream(w io.Writer, name string, s *verify.Stream, briefly bool) {
	if briefly && len(s.Problems)+len(s.Notes) == 0 {
		return
	}
	fmt.Fprintf(w, "%s %s\n", name, s.Stream)
	if !briefly {
		printSummary(w, s)
	}
	for _, f := range s.Problems {
		printFinding(w, "PROBLEM", &f)
	}
	for _, f := range s.Notes {
		printFinding(w, "note", &f)
	}
	fmt.Fprintln(w)
}

func printSummary(w io.Writer, s *verify.Stream) {
	line := func(name, format string, args ...any) {
		fmt.Fprintf(w, "  %-10s %s\n", name, fmt.Sprintf(format, args...))
	}
	if s.Events == 0 {
		line("events", "none")
	} else {
		line("from", "%v, id %d", s.Start, s.FirstID)
		line("to", "%v, id %d", s.End, s.LastID)
		line("events", "%s, of %s ids; %s fetched again, %s copies", grouped(s.Events), grouped(s.IDs),
			grouped(s.Backfilled), grouped(s.Copies))
		line("blocks", "%s with %s bytes, in %s spans", grouped(s.Blocks), grouped(s.Bytes), grouped(s.Spans))
	}
	if k := s.Keyframes; k != nil && s.Events > 0 {
		line("keyframes", "%s equal to the book, %s as deep as two snapshots, %s corrected, %s without one to compare",
			grouped(k.Whole), grouped(k.Depth), grouped(k.Corrected), grouped(k.Begun))
		if k.EventsWithoutBook > 0 {
			line("", "%s events while no book is known", grouped(k.EventsWithoutBook))
		}
	}
	if b := s.Book; b != nil {
		line("book", "%s after id %d, %s bids, %s asks", b.Digest, b.LastID, grouped(int64(b.Bids)), grouped(int64(b.Asks)))
	}
	line("ledger", "%s entries", grouped(s.Entries))
	for _, h := range s.Holes {
		line("holes", "%s: %s, %s ids missing", h.Cause, grouped(int64(h.Count)), grouped(h.IDs))
		printPlaces(w, h.Listed, h.Count)
	}
}

func printFinding(w io.Writer, kind string, f *verify.Finding) {
	fmt.Fprintf(w, "  %s %s (%s): %s.\n", kind, f.Code, grouped(int64(f.Count)), f.Meaning)
	printPlaces(w, f.Listed, f.Count)
	fmt.Fprintf(w, "    What to do: %s.\n", f.Action)
}

func printPlaces(w io.Writer, places []verify.Place, count int) {
	for _, p := range places {
		fmt.Fprintf(w, "    ids %d to %d", p.FirstID, p.LastID)
		if p.Time != 0 {
			fmt.Fprintf(w, " at %v", p.Time)
		}
		if p.Detail != "" {
			fmt.Fprintf(w, ": %s", p.Detail)
		}
		fmt.Fprintln(w)
	}
	if more := count - len(places); more > 0 {
		fmt.Fprintf(w, "    and %s more\n", grouped(int64(more)))
	}
}

// grouped writes a number with its digits in groups of three.
func grouped(n int64) string {
	text := strconv.FormatInt(n, 10)
	for i := len(text) - 3; i > 0 && text[i-1] != '-'; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// progressInterval is how often progress is shown.
const progressInterval = 3 * time.Second

// progress shows how far a run has come, every now and then.
type progress struct {
	w             io.Writer
	now           func() time.Time
	begun, shown  time.Time
	events, bytes int64 // when shown last
}

func newProgress(w io.Writer, now func() time.Time) *progress {
	t := now()
	return &progress{w: w, now: now, begun: t, shown: t}
}

func (p *progress) show(at verify.Progress) {
	now := p.now()
	since := now.Sub(p.shown)
	if since < progressInterval {
		return
	}
	rate := func(n int64) int64 { return n * int64(time.Second) / int64(since) }
	fmt.Fprintf(p.w, "%s %v: %s events so far, %s events/s, %s bytes/s\n", at.Series, at.At.Truncate(market.BlockWindow),
		grouped(at.Events), grouped(rate(at.Events-p.events)), grouped(rate(at.Bytes-p.bytes)))
	p.shown, p.events, p.bytes = now, at.Events, at.Bytes
}
