package main

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"testing"
	"time"

	"tapedeck/shared/recording/witness"
)

// BenchmarkBookAtTime asks for the book (1000 levels a side) at random instants of the recording, one request after the
// other, over HTTP through the gateway and a warm function.
func BenchmarkBookAtTime(b *testing.B) {
	rec, err := witness.Load()
	if err != nil {
		b.Fatal(err)
	}
	r := start(b, replayOptions(b.TempDir()))
	r.wait("the recording is over")
	first := rec.Updates[2].EventTime
	length := int64(rec.Updates[len(rec.Updates)-1].EventTime - first)
	random := rand.New(rand.NewPCG(1, 2))
	var times []time.Duration
	for b.Loop() {
		at := first.Add(time.Duration(random.Int64N(length)))
		begin := time.Now()
		status, _, err := get(b.Context(), fmt.Sprintf("%s%s/book?depth=1000&at=%s", r.api, btcusdt, at))
		if err != nil || status != http.StatusOK {
			b.Fatal(status, err)
		}
		times = append(times, time.Since(begin))
	}
	slices.Sort(times)
	for _, p := range []int{50, 99} {
		b.ReportMetric(float64(times[len(times)*p/100].Microseconds())/1000, fmt.Sprintf("p%d-ms", p))
	}
}
