package book

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"testing"
	"time"

	"tapedeck/shared/market"
	"tapedeck/shared/recording"
)

// recorded is the bundled recording, read with encoding/json: slow, but a witness of its own.
type recorded struct {
	snapshot struct {
		LastUpdateID int64 `json:"lastUpdateId"`
		Bids, Asks   [][2]market.Decimal
	}
	updates []market.DepthUpdate
}

func load(t testing.TB) (out recorded) {
	t.Helper()
	r, err := recording.Open(recording.Bundled()...)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for {
		line, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case bytes.HasPrefix(line.Frame, []byte(`{"lastUpdateId"`)):
			if err := json.Unmarshal(line.Frame, &out.snapshot); err != nil {
				t.Fatal(err)
			}
		case bytes.Contains(line.Frame[:40], []byte("@depth")):
			out.updates = append(out.updates, update(t, line))
		}
	}
}

func update(t testing.TB, line recording.Line) market.DepthUpdate {
	t.Helper()
	var frame struct {
		Data struct {
			E    int64               `json:"E"`
			Kind string              `json:"e"` // keeps encoding/json from putting "e" into E
			From int64               `json:"U"`
			To   int64               `json:"u"`
			Bids [][2]market.Decimal `json:"b"`
			Asks [][2]market.Decimal `json:"a"`
		}
	}
	if err := json.Unmarshal(line.Frame, &frame); err != nil {
		t.Fatal(err)
	}
	d := &frame.Data
	return market.DepthUpdate{
		FirstID: d.From, LastID: d.To, PrevID: d.From - 1,
		EventTime: market.Time(d.E) * market.Time(time.Millisecond), RecvTime: line.RecvTime,
		Bids: toLevels(d.Bids), Asks: toLevels(d.Asks),
	}
}

func toLevels(pairs [][2]market.Decimal) []market.Level {
	out := make([]market.Level, len(pairs))
	for i, p := range pairs {
		out[i] = market.Level{Price: p[0], Quantity: p[1]}
	}
	return out
}

func TestRecordingEndsInTheKnownBook(t *testing.T) {
	rec := load(t)
	b := New()
	b.Reset(rec.snapshot.LastUpdateID, toLevels(rec.snapshot.Bids), toLevels(rec.snapshot.Asks))
	verdicts := map[Verdict]int{}
	for i := range rec.updates {
		verdicts[b.Apply(&rec.updates[i])]++
		if b.Crossed() {
			t.Fatalf("crossed after update %d", rec.updates[i].LastID)
		}
	}
	if verdicts[Applied] != 6493 || verdicts[Stale] != 2 || verdicts[Gap] != 0 {
		t.Errorf("verdicts %v", verdicts)
	}
	bids, asks := b.Len()
	if bids != 1971 || asks != 2962 || b.LastID() != 50093696318 || b.Digest(1000) != "a64978904a861c8d" {
		t.Errorf("%d bids, %d asks, id %d, digest %s", bids, asks, b.LastID(), b.Digest(1000))
	}
}

// BenchmarkApplyRecorded replays the recording over and over; ns/level is the figure to compare.
func BenchmarkApplyRecorded(b *testing.B) {
	rec := load(b)
	bids, asks := toLevels(rec.snapshot.Bids), toLevels(rec.snapshot.Asks)
	levels := 0
	for i := range rec.updates {
		levels += len(rec.updates[i].Bids) + len(rec.updates[i].Asks)
	}
	bk := New()
	b.ReportAllocs()
	runs := 0
	for b.Loop() {
		bk.Reset(rec.snapshot.LastUpdateID, bids, asks)
		for i := range rec.updates {
			bk.Apply(&rec.updates[i])
		}
		runs++
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(runs*levels), "ns/level")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(runs*len(rec.updates)), "ns/event")
}

func BenchmarkTop1000(b *testing.B) {
	rec := load(b)
	bk := New()
	bk.Reset(rec.snapshot.LastUpdateID, toLevels(rec.snapshot.Bids), toLevels(rec.snapshot.Asks))
	for i := range rec.updates {
		bk.Apply(&rec.updates[i])
	}
	dst := make([]market.Level, 0, 2000)
	b.ReportAllocs()
	for b.Loop() {
		dst = bk.AppendAsks(bk.AppendBids(dst[:0], 1000), 1000)
	}
}
