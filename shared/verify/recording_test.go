package verify_test

import (
	"testing"

	"tapedeck/shared/market"
	"tapedeck/shared/recording/witness"
	"tapedeck/shared/sqlitestore"
	"tapedeck/shared/verify"
)

// recorded returns the bundled recording as a recorder keeps it: blocks of a second, a keyframe every 128 of them.
func recorded(tb testing.TB) *market.Batch {
	tb.Helper()
	const keyframeBlocks = 128
	events, err := witness.Load()
	if err != nil {
		tb.Fatal(err)
	}
	r := newRecorder(&market.Batch{})
	r.synced = true
	s := events.Snapshot
	r.book.Reset(s.LastID, s.Bids, s.Asks)
	r.proof = market.Keyframe{
		Market: btcusdt, SnapshotID: s.LastID, EventTime: events.Updates[0].EventTime,
		VerifiedBid: s.Bids[len(s.Bids)-1].Price, VerifiedAsk: s.Asks[len(s.Asks)-1].Price,
	}
	r.keyframe()
	blocks := 0
	for i := range events.Updates {
		u := &events.Updates[i]
		if u.LastID <= s.LastID {
			continue
		}
		if u.EventTime.Truncate(market.BlockWindow) != r.windows[market.Depth] && r.cut(market.Depth) {
			if blocks++; blocks%keyframeBlocks == 0 {
				r.keyframe()
			}
		}
		r.update(u)
	}
	for i := range events.Trades {
		r.trade(&events.Trades[i])
	}
	r.cut(market.Depth)
	r.cut(market.Trades)
	return r.batch
}

// TestRecording verifies real trading, of which the end is known.
func TestRecording(t *testing.T) {
	report := run(t, store(t, recorded(t)), verify.Options{})
	d, tr := report.Markets[0].Streams[0], report.Markets[0].Streams[1]
	want := verify.Book{LastID: 50093696318, Bids: 1971, Asks: 2962, Digest: "a64978904a861c8d"}
	if !report.Holds() || report.Notes != 0 || d.Events != 6493 || tr.Events != 19904 || *d.Book != want ||
		d.Keyframes.Whole != 5 || d.Keyframes.Begun != 1 {
		t.Error(text(report))
	}
}

// BenchmarkRecording verifies the bundled recording, 11 minutes of BTCUSDT, in SQLite.
func BenchmarkRecording(b *testing.B) {
	s, err := sqlitestore.Open(b.Context(), b.TempDir()+"/tapedeck.db", sqlitestore.ReadWrite)
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close(b.Context())
	if err := s.Write(b.Context(), recorded(b)); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	var events, bytes int64
	for b.Loop() {
		report := run(b, s, verify.Options{})
		events, bytes = events+report.Events, bytes+report.Bytes
	}
	b.ReportMetric(float64(events)/b.Elapsed().Seconds(), "events/s")
	b.ReportMetric(float64(bytes)/b.Elapsed().Seconds()/1e6, "MB/s")
}
