package query_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"tapedeck/functions/internal/historytest"
	"tapedeck/functions/internal/query"
	"tapedeck/shared/book"
	"tapedeck/shared/market"
	"tapedeck/shared/recording/witness"
	"tapedeck/shared/storetest"
)

// state is what a plain replay held after one event.
type state struct {
	firstID, id int64
	at          market.Time
	digest      string
}

// TestBookOfTheRecording compares books asked for at random ids and times with a plain replay.
func TestBookOfTheRecording(t *testing.T) {
	store := storetest.NewMemory()
	var states []state
	historytest.Recording(t, store, func(u *market.DepthUpdate, b *book.Book) {
		states = append(states, state{u.FirstID, u.LastID, u.EventTime, ""})
		if len(states)%50 == 0 || len(states) == 6493 {
			states[len(states)-1].digest = b.Digest(1000)
		}
	})
	s := query.New(store, time.Now)
	check := func(q query.BookQuery, want state, applied int) {
		t.Helper()
		q.Market, q.Depth = historytest.BTCUSDT, 1000
		got, err := s.Book(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		if got.LastID != want.id || got.EventTime != want.at || got.UpdatesApplied != int64(applied) ||
			got.FirstUpdateID != states[0].firstID {
			t.Errorf("%v: got id %d at %v, %d applied from %d; want %+v, %d applied", q, got.LastID, got.EventTime,
				got.UpdatesApplied, got.FirstUpdateID, want, applied)
		}
		if want.digest != "" && digest(got) != want.digest {
			t.Errorf("%v: digest %s, want %s", q, digest(got), want.digest)
		}
	}
	for range 60 {
		i := rand.IntN(len(states)) / 50 * 50
		if i == 0 {
			i = 50
		}
		i--
		want := states[i]
		id := want.firstID + rand.Int64N(want.id-want.firstID+1)
		check(query.BookQuery{UpdateID: &id}, want, i+1)
		if i+1 < len(states) && states[i+1].at > want.at {
			at := want.at + market.Time(rand.Int64N(int64(states[i+1].at-want.at)))
			check(query.BookQuery{At: &at}, want, i+1)
		}
	}
	last := states[len(states)-1]
	if last.id != 50093696318 || last.digest != "a64978904a861c8d" {
		t.Errorf("the plain replay ends with %+v", last)
	}
	check(query.BookQuery{}, last, 6493)
}

// digest is book.Book.Digest of an answer.
func digest(b *query.Book) string {
	copied := book.New()
	copied.Reset(b.LastID, b.Bids, b.Asks)
	return copied.Digest(1000)
}

func TestTradesOfTheRecording(t *testing.T) {
	store := storetest.NewMemory()
	historytest.Recording(t, store, nil)
	historytest.Recording(t, store, nil) // played twice: nothing is given twice
	events, err := witness.Load()
	if err != nil {
		t.Fatal(err)
	}
	s := query.New(store, time.Now)
	q := query.TradesQuery{Market: historytest.BTCUSDT, Limit: 777}
	n := 0
	for {
		page, err := s.Trades(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		for _, got := range page.Trades {
			if got != events.Trades[n] {
				t.Fatalf("trade %d: got %+v, want %+v", n, got, events.Trades[n])
			}
			n++
		}
		if page.NextID == 0 {
			break
		}
		q.FromID = page.NextID
	}
	if n != 19904 {
		t.Errorf("%d trades", n)
	}
}
