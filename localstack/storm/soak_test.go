package storm

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

var csvFile = flag.String("csv", "", "a file that a soak writes its samples to")

// TestSoak records busy markets for long, with nothing going wrong but connections that are replaced, and looks whether
// memory or goroutines grow.
func TestSoak(t *testing.T) {
	if *duration == 0 {
		t.Skip("a soak of seconds says nothing: it needs -args -duration 20m (make soak)")
	}
	s := plan{
		seed: cmp.Or(*seedFlag, 1), length: *duration, markets: 6, lossless: true,
		env: []string{"FEED_CONNECTIONS=2", "ROTATE_AFTER=2m", "AUDIT_INTERVAL=1m", "BACKFILL_RETRY_INTERVAL=1m"},
	}.run(t)
	// At first everything grows to what the markets need: queues, books, and the page caches of the store.
	const warm = 5 * time.Minute
	begun := slices.IndexFunc(s.samples, func(s sampled) bool { return s.at >= min(warm, *duration/2) })
	steady := s.samples[max(begun, 0):]
	if *csvFile != "" {
		if err := os.WriteFile(*csvFile, []byte(csv(s.samples)), 0o600); err != nil {
			t.Error(err)
		}
	}
	t.Logf("samples, each the median of a twentieth of the time:\n%s", csv(thinned(s.samples, 20)))
	for _, c := range []struct {
		name  string
		of    func(sampled) float64
		at    func([]sampled, func(sampled) float64) float64
		share float64 // by which it may grow
		fixed float64 // and beyond that
	}{
		// Beside what Go has there is the page cache of SQLite, 4 MiB for the connection that is kept, measured at six times
		// that, which fills for a quarter of an hour.
		{"resident memory", func(s sampled) float64 { return s.resident }, median, 0.1, 24 << 20},
		// What is in use at the least is what is alive: garbage comes and goes.
		{"heap in use", func(s sampled) float64 { return s.heap }, least, 0.1, 4 << 20},
		{"goroutines", func(s sampled) float64 { return s.goroutines }, median, 0, 4},
	} {
		quarter := len(steady) / 4
		first, last := c.at(steady[:quarter], c.of), c.at(steady[len(steady)-quarter:], c.of)
		t.Logf("%s: %.0f in the first quarter, %.0f in the last", c.name, first, last)
		if last > first*(1+c.share)+c.fixed {
			t.Errorf("%s grew from %.0f to %.0f", c.name, first, last)
		}
	}
}

func least(samples []sampled, of func(sampled) float64) float64 {
	low := of(samples[0])
	for _, s := range samples {
		low = min(low, of(s))
	}
	return low
}

func median(samples []sampled, of func(sampled) float64) float64 {
	values := make([]float64, len(samples))
	for i, s := range samples {
		values[i] = of(s)
	}
	slices.Sort(values)
	return values[len(values)/2]
}

// thinned returns the medians of so many parts of the samples.
func thinned(samples []sampled, parts int) (thin []sampled) {
	for part := range slices.Chunk(samples, max(1, len(samples)/parts)) {
		thin = append(thin, sampled{
			at:         part[0].at,
			resident:   median(part, func(s sampled) float64 { return s.resident }),
			heap:       median(part, func(s sampled) float64 { return s.heap }),
			goroutines: median(part, func(s sampled) float64 { return s.goroutines }),
		})
	}
	return thin
}

func csv(samples []sampled) string {
	var text strings.Builder
	text.WriteString("seconds,resident_bytes,heap_bytes,goroutines\n")
	for _, s := range samples {
		fmt.Fprintf(&text, "%d,%.0f,%.0f,%.0f\n", s.at/time.Second, s.resident, s.heap, s.goroutines)
	}
	return text.String()
}
