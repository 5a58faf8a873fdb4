package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"golang.org/x/text/language"
	"golang.org/x/text/message"

	"tapedeck/shared/market"
)

const (
	pollInterval     = 100 * time.Millisecond
	progressInterval = 5 * time.Second
	// patience is how long a stage of the start may last before it is told what is waited for.
	patience = 15 * time.Second
)

var english = message.NewPrinter(language.English) // 99,574

// watch tells when all is ready, then how it goes on, until ctx ends or the ingester does.
func (s *stack) watch(ctx context.Context) error {
	fmt.Fprintf(s.out, "recording %s from %s\n", brief(s.feed.symbols), s.source())
	ok, err := s.wait(ctx, "the ingester to connect and sync ("+s.ingester.opsURL+"/readyz says what is missing)", func() bool {
		return s.ingester.ready(ctx)
	})
	if !ok {
		return err
	}
	var first recorded
	ok, err = s.wait(ctx, "the first seconds to be stored", func() (found bool) {
		first, found = s.market(ctx, s.feed.symbols[0])
		return found && s.synced(ctx, &first)
	})
	if !ok {
		return err
	}
	fmt.Fprintf(s.out, "ready: API on %s, metrics on %s/metrics, stored in %s\n", s.apiURL, s.ingester.opsURL, s.store())
	s.guide(ctx, &first)
	return s.follow(ctx)
}

// wait polls until done; it returns false when ctx has ended, and an error when the ingester has.
func (s *stack) wait(ctx context.Context, what string, done func() bool) (bool, error) {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	impatient := time.NewTicker(patience)
	defer impatient.Stop()
	for !done() {
		select {
		case <-ctx.Done():
			return false, nil
		case <-s.ingester.exited:
			return false, s.ingester.failure()
		case <-impatient.C:
			fmt.Fprintln(s.out, "waiting for", what)
		case <-tick.C:
		}
	}
	return true, nil
}

// follow tells the progress, and once when a recording is over.
func (s *stack) follow(ctx context.Context) error {
	var over <-chan struct{}
	if s.feed.server != nil {
		over = s.feed.server.Done()
	}
	tick := time.NewTicker(progressInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.ingester.exited:
			return s.ingester.failure()
		case <-over:
			over = nil
			if ok, err := s.wait(ctx, "the end of the recording to be stored", func() bool { return s.allStored(ctx) }); !ok {
				return err
			}
			s.tellOver()
		case <-tick.C:
			if s.feed.server == nil || over != nil {
				s.tellProgress(ctx)
			}
		}
	}
}

// allStored reports whether every market's book has been stored up to the feed's end.
func (s *stack) allStored(ctx context.Context) bool {
	for _, symbol := range s.feed.symbols {
		truth, err := s.feed.server.Book(symbol)
		if err != nil {
			continue // the recording has no book of it
		}
		if m, found := s.market(ctx, symbol); !found || *m.LastUpdateID < truth.LastID {
			return false
		}
	}
	return true
}

func (s *stack) tellOver() {
	if err := s.feed.server.Err(); err != nil {
		fmt.Fprintln(s.out, "the recording ended early:", err)
	}
	p := s.feed.server.Progress()
	_, _ = english.Fprintf(s.out, "the recording is over: %d frames played, all of it stored; the API stays up, stop with Ctrl-C\n", p.Frames)
}

func (s *stack) tellProgress(ctx context.Context) {
	var b strings.Builder
	if s.feed.server != nil {
		p := s.feed.server.Progress()
		_, _ = english.Fprintf(&b, "%d frames", p.Frames)
		if p.Total > 0 {
			_, _ = english.Fprintf(&b, " of %d (%d%%)", p.Total, 100*p.Frames/p.Total)
		}
		fmt.Fprintf(&b, ", market time %s; ", p.EventTime.Truncate(time.Second))
	}
	list, err := s.markets(ctx)
	if err != nil {
		fmt.Fprintf(s.out, "%sthe API does not answer: %v\n", b.String(), err)
		return
	}
	latest := market.Time(0)
	for _, m := range list {
		if m.LastEvent != nil {
			latest = max(latest, *m.LastEvent)
		}
	}
	fmt.Fprintf(s.out, "%s%d markets stored up to %s\n", b.String(), len(list), latest)
}

// guide prints commands that work as they stand.
func (s *stack) guide(ctx context.Context, m *recorded) {
	base := s.apiURL + m.path()
	at := s.moment(ctx, m).Truncate(time.Millisecond)
	fmt.Fprintln(s.out, "try:")
	for _, line := range []struct{ what, url string }{
		{"the book now", base + "/book?depth=5"},
		{"the book at a moment", base + "/book?depth=5&at=" + at.String()},
		{"trades", base + "/trades?limit=3"},
		{"what is recorded", base + "/coverage"},
		{"what is missing", base + "/gaps"},
		{"all markets", s.apiURL + "/v1/markets"},
		{"the recorder", s.apiURL + "/v1/status"},
	} {
		fmt.Fprintf(s.out, "  curl -s '%s'  # %s\n", line.url, line.what)
	}
}

// source says in words where the frames come from.
func (s *stack) source() string {
	pace := fmt.Sprintf("at %v times the real pace", s.speed)
	if s.speed == 0 {
		pace = "as fast as they are stored"
	}
	switch s.options.feed {
	case feedReplay:
		return "a recording, " + pace
	case feedSynthetic:
		return "made-up markets, " + pace
	}
	return "live Binance"
}

func (s *stack) store() string {
	if s.mongodbURI != "" {
		return "MongoDB, database " + s.mongodbDatabase
	}
	return s.data
}

// brief names the symbols, of many only some.
func brief(symbols []string) string {
	if len(symbols) > 5 {
		return fmt.Sprintf("%s and %d more", strings.Join(symbols[:4], ", "), len(symbols)-4)
	}
	return strings.Join(symbols, ", ")
}
