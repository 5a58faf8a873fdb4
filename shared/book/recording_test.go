package book

import (
	"slices"
	"testing"

	"tapedeck/shared/market"
	"tapedeck/shared/recording/witness"
)

func load(t testing.TB) *witness.Events {
	t.Helper()
	events, err := witness.Load()
	if err != nil {
		t.Fatal(err)
	}
	return events
}

// TestRecordingEndsInTheKnownBook also holds the book against the exchange's own best bid and ask: after each update,
// the last bookTicker at or below its id. Two states between two updates of the book were never shown by bookTicker.
func TestRecordingEndsInTheKnownBook(t *testing.T) {
	rec := load(t)
	b := New()
	b.Reset(rec.Snapshot.LastID, rec.Snapshot.Bids, rec.Snapshot.Asks)
	verdicts := map[Verdict]int{}
	var unseen []int64
	shown, err := witness.LoadTickers()
	if err != nil {
		t.Fatal(err)
	}
	ticker := 0
	for i := range rec.Updates {
		u := &rec.Updates[i]
		verdict := b.Apply(u)
		verdicts[verdict]++
		if b.Crossed() {
			t.Fatalf("crossed after update %d", u.LastID)
		}
		for ticker+1 < len(shown.Tickers) && shown.Tickers[ticker+1].UpdateID <= u.LastID {
			ticker++
		}
		bid, _ := b.BestBid()
		ask, _ := b.BestAsk()
		if w := &shown.Tickers[ticker]; verdict == Applied && (w.Bid != bid || w.Ask != ask) {
			unseen = append(unseen, u.LastID)
		}
	}
	if verdicts[Applied] != 6493 || verdicts[Stale] != 2 || verdicts[Gap] != 0 {
		t.Errorf("verdicts %v", verdicts)
	}
	if want := []int64{50093478174, 50093480542}; !slices.Equal(unseen, want) {
		t.Errorf("best bid and ask were never shown after updates %d, want %d alone", unseen, want)
	}
	bids, asks := b.Len()
	if bids != 1971 || asks != 2962 || b.LastID() != 50093696318 || b.Digest(1000) != "a64978904a861c8d" {
		t.Errorf("%d bids, %d asks, id %d, digest %s", bids, asks, b.LastID(), b.Digest(1000))
	}
}

// BenchmarkApplyRecorded replays the recording over and over; ns/level is the figure to compare.
func BenchmarkApplyRecorded(b *testing.B) {
	rec := load(b)
	levels := 0
	for i := range rec.Updates {
		levels += len(rec.Updates[i].Bids) + len(rec.Updates[i].Asks)
	}
	bk := New()
	b.ReportAllocs()
	runs := 0
	for b.Loop() {
		bk.Reset(rec.Snapshot.LastID, rec.Snapshot.Bids, rec.Snapshot.Asks)
		for i := range rec.Updates {
			bk.Apply(&rec.Updates[i])
		}
		runs++
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(runs*levels), "ns/level")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(runs*len(rec.Updates)), "ns/event")
}

func BenchmarkTop1000(b *testing.B) {
	rec := load(b)
	bk := New()
	bk.Reset(rec.Snapshot.LastID, rec.Snapshot.Bids, rec.Snapshot.Asks)
	for i := range rec.Updates {
		bk.Apply(&rec.Updates[i])
	}
	dst := make([]market.Level, 0, 2000)
	b.ReportAllocs()
	for b.Loop() {
		dst = bk.AppendAsks(bk.AppendBids(dst[:0], 1000), 1000)
	}
}

func BenchmarkReset(b *testing.B) {
	rec := load(b)
	bk := New()
	b.ReportAllocs()
	for b.Loop() {
		bk.Reset(rec.Snapshot.LastID, rec.Snapshot.Bids, rec.Snapshot.Asks)
	}
}
