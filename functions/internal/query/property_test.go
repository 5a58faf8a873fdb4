package query_test

import (
	"fmt"
	"sort"
	"testing"
	"time"

	"pgregory.net/rapid"

	"tapedeck/functions/internal/historytest"
	"tapedeck/functions/internal/query"
	"tapedeck/shared/book"
	"tapedeck/shared/market"
	"tapedeck/shared/storetest"
)

// moment is a state that the model went through: after a snapshot or an update.
type moment struct {
	at              market.Time
	firstID, lastID int64 // ids of the update; both the snapshot's id for a snapshot
	snapshotID      int64
	applied         int64
	digest          string
	holeBehind      bool // updates are missing before the next moment
}

// model draws a history, writes it into a store cut at random, and keeps every moment of it.
type model struct {
	tb      testing.TB
	t       *rapid.T
	store   *storetest.Memory
	writer  *historytest.Writer
	truth   *book.Book
	now     market.Time
	updates []market.DepthUpdate // recorded in the running stretch
	moments []moment
}

func (m *model) update() market.DepthUpdate {
	t := m.t
	m.now = m.now.Add(time.Duration(rapid.IntRange(0, 700).Draw(t, "ms")) * time.Millisecond)
	id := m.truth.LastID()
	u := market.DepthUpdate{
		FirstID: id + 1, LastID: id + 1 + int64(rapid.IntRange(0, 3).Draw(t, "width")), PrevID: id,
		EventTime: m.now, RecvTime: m.now.Add(time.Second),
	}
	level := rapid.Custom(func(t *rapid.T) market.Level {
		return market.Level{
			Price:    market.Decimal(rapid.IntRange(1, 8).Draw(t, "price")) * market.DecimalOne,
			Quantity: market.Decimal(rapid.IntRange(0, 3).Draw(t, "quantity")),
		}
	})
	u.Bids = rapid.SliceOfN(level, 0, 3).Draw(t, "bids")
	u.Asks = rapid.SliceOfN(level, 0, 3).Draw(t, "asks")
	for i := range u.Asks {
		u.Asks[i].Price += 10 * market.DecimalOne
	}
	m.truth.Apply(&u)
	return u
}

// stretch draws a snapshot and what is recorded behind it, and writes it, also by a second recorder that joins late,
// leaves early, and cuts elsewhere.
func (m *model) stretch() {
	t := m.t
	m.updates = nil
	m.now += market.Time(time.Millisecond) // a market has at most one keyframe at an instant
	keyframeAt := m.now
	snapshot := market.Snapshot{
		LastID: m.truth.LastID(), EventTime: m.now, RecvTime: m.now,
		Bids: m.truth.AppendBids(nil, -1), Asks: m.truth.AppendAsks(nil, -1),
	}
	m.writer.Snapshot(&snapshot)
	m.moments = append(m.moments, moment{
		at: m.now, firstID: snapshot.LastID, lastID: snapshot.LastID, snapshotID: snapshot.LastID,
		digest: m.truth.Digest(1000),
	})
	every := rapid.IntRange(1, 4).Draw(t, "keyframe every")
	blocks := 0
	for i := range rapid.IntRange(1, 8).Draw(t, "updates") {
		u := m.update()
		m.updates = append(m.updates, u)
		m.writer.Depth(&u)
		m.moments = append(m.moments, moment{
			at: u.EventTime, firstID: u.FirstID, lastID: u.LastID, snapshotID: snapshot.LastID,
			applied: int64(i + 1), digest: m.truth.Digest(1000),
		})
		if rapid.IntRange(0, 3).Draw(t, "cut") == 0 && m.writer.CutDepth() {
			if blocks++; blocks%every == 0 && m.now > keyframeAt {
				keyframeAt = m.now
				m.writer.Keyframe()
			}
		}
	}
	m.writer.CutDepth()
	if len(m.updates) > 0 {
		from := rapid.IntRange(0, len(m.updates)-1).Draw(t, "second from")
		to := rapid.IntRange(from, len(m.updates)).Draw(t, "second to")
		second := historytest.NewWriter(m.tb, m.store, historytest.BTCUSDT)
		second.Book.Reset(m.updates[from].PrevID, nil, nil)
		for i := range m.updates[from:to] {
			second.Depth(&m.updates[from+i])
			if rapid.IntRange(0, 2).Draw(t, "second cut") == 0 {
				second.CutDepth()
			}
		}
		second.CutDepth()
	}
}

// hole lets updates happen that nobody records.
func (m *model) hole() {
	before := m.truth.LastID()
	for range rapid.IntRange(0, 3).Draw(m.t, "lost") {
		m.update()
	}
	m.moments[len(m.moments)-1].holeBehind = m.truth.LastID() > before
}

// TestBookEqualsTheModel asks for the book at every id and around every time of random histories.
func TestBookEqualsTheModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		store := storetest.NewMemory()
		m := &model{
			tb: t, t: rt, store: store, truth: book.New(), now: market.Time(1_700_000_000 * time.Second),
			writer: historytest.NewWriter(t, store, historytest.BTCUSDT),
		}
		m.truth.Reset(100, []market.Level{{Price: 8e8, Quantity: 1}}, []market.Level{{Price: 11e8, Quantity: 1}})
		for i := range rapid.IntRange(1, 3).Draw(rt, "stretches") {
			if i > 0 {
				m.hole()
			}
			m.stretch()
		}
		s := query.New(store, time.Now)
		first, last := m.moments[0], m.moments[len(m.moments)-1]
		for id := first.lastID; id <= last.lastID; id++ {
			m.checkID(rt, s, id)
		}
		for _, known := range m.moments {
			for d := range 3 {
				if at := known.at + market.Time(d-1); at >= first.at {
					m.checkTime(rt, s, at)
				}
			}
		}
	})
}

func (m *model) checkID(t *rapid.T, s *query.Service, id int64) {
	got, err := s.Book(m.tb.Context(), query.BookQuery{Market: historytest.BTCUSDT, UpdateID: &id, Depth: 1000})
	if err != nil {
		t.Fatalf("id %d: %v", id, err)
	}
	i := sort.Search(len(m.moments), func(i int) bool { return m.moments[i].lastID >= id })
	want, state := m.moments[i], query.Synced
	if want.firstID > id { // in a hole
		want, state = m.moments[i-1], query.Gap
	}
	compare(t, fmt.Sprintf("id %d", id), got, want, state)
}

func (m *model) checkTime(t *rapid.T, s *query.Service, at market.Time) {
	got, err := s.Book(m.tb.Context(), query.BookQuery{Market: historytest.BTCUSDT, At: &at, Depth: 1000})
	if err != nil {
		t.Fatalf("at %v: %v", at, err)
	}
	i := sort.Search(len(m.moments), func(i int) bool { return m.moments[i].at > at }) - 1
	want, state := m.moments[i], query.Synced
	switch {
	case at == want.at:
	case want.holeBehind:
		state = query.Gap
	case i == len(m.moments)-1:
		state = query.Stale // nobody vouches
	}
	compare(t, fmt.Sprintf("at %v", at), got, want, state)
}

func compare(t *rapid.T, what string, got *query.Book, want moment, state query.State) {
	if got.LastID != want.lastID || got.EventTime != want.at || digest(got) != want.digest || got.State != state ||
		(state == query.Gap) != (len(got.Gaps) > 0) {
		t.Fatalf("%s: got id %d at %v, %s, %s, gaps %v; want %+v, %s", what, got.LastID, got.EventTime, digest(got),
			got.State, got.Gaps, want, state)
	}
	// A snapshot without loss makes two proofs of one state.
	if got.SnapshotID+got.UpdatesApplied == 0 || (got.SnapshotID == want.snapshotID && got.UpdatesApplied != want.applied) {
		t.Fatalf("%s: proof %d + %d, want %d + %d", what, got.SnapshotID, got.UpdatesApplied, want.snapshotID, want.applied)
	}
}
