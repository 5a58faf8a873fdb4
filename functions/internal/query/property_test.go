package query_test

import (
	"fmt"
	"slices"
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
	holeBehind      bool    // the next moment cannot be reached from this one
	replayed        *moment // what replaying leads to, where an audit gave the book more levels after the update
}

// doubt is an audit that found the book wrong: from the update that begins with first, or from start, to the snapshot
// with id last.
type doubt struct {
	first, last int64
	start, end  market.Time
}

// model draws a history, writes it into a store cut at random, and keeps every moment of it that can be answered for.
type model struct {
	tb      testing.TB
	t       *rapid.T
	store   *storetest.Memory
	writer  *historytest.Writer
	truth   *book.Book // as the recorder has it
	now     market.Time
	steps   int                  // how often the exchange's clock stepped back; -1: it never does
	calm    bool                 // whether it goes on just now
	lost    bool                 // whether the keyframe behind the last step is
	updates []market.DepthUpdate // recorded in the running stretch
	moments []moment
	doubts  []doubt
}

func (m *model) update() market.DepthUpdate {
	t := m.t
	m.now = m.now.Add(time.Duration(rapid.IntRange(0, 700).Draw(t, "ms")) * time.Millisecond)
	if m.steps >= 0 && !m.calm && rapid.IntRange(0, 3).Draw(t, "step") == 0 {
		m.steps++
		back := time.Duration(rapid.SampledFrom([]int{1, 2, 4, 8, 100, 10_000}).Draw(t, "seconds back")) * time.Second
		m.now = m.now.Add(time.Duration(m.steps)*time.Microsecond - back) // no instant is shown twice
	}
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
// leaves early, and cuts elsewhere. firstID is the first id of the update with which the snapshot ends, where that was
// recorded and cannot be reached otherwise; else 0.
func (m *model) stretch(firstID int64) {
	t := m.t
	m.updates = nil
	m.now += market.Time(time.Millisecond) // a market has at most one keyframe at an instant
	keyframeAt := m.now
	snapshotID := m.snapshot()
	begin := len(m.moments) - 1
	if firstID != 0 {
		m.moments[begin].firstID = firstID
	}
	every := rapid.IntRange(1, 4).Draw(t, "keyframe every")
	blocks := 0
	applied := int64(0)
	for range rapid.IntRange(1, 8).Draw(t, "updates") {
		before := m.now
		u := m.update()
		m.updates = append(m.updates, u)
		if m.now < before {
			keyframeAt = m.step(&u, before, keyframeAt)
		}
		m.writer.Depth(&u)
		applied++
		m.happened(&u, snapshotID, applied)
		if rapid.IntRange(0, 3).Draw(t, "cut") > 0 || !m.writer.CutDepth() || m.now == keyframeAt {
			continue
		}
		if rapid.IntRange(0, 3).Draw(t, "rebase") == 0 {
			if m.rebase(begin) {
				keyframeAt, snapshotID, applied = m.now, u.LastID, 0
				begin = len(m.moments) - 1 // a recorder does not doubt what an audit found
			}
		} else if blocks++; blocks%every == 0 {
			keyframeAt = m.now
			m.writer.Keyframe()
		}
	}
	m.writer.CutDepth()
	if len(m.updates) > 0 {
		from := rapid.IntRange(0, len(m.updates)-1).Draw(t, "second from")
		to := rapid.IntRange(from, len(m.updates)).Draw(t, "second to")
		m.second(m.updates[from:to])
	}
}

// step has the recorder tell that the exchange's clock stepped back before u, and store the book behind the step, unless
// that is lost. It returns the time of the last keyframe.
func (m *model) step(u *market.DepthUpdate, from, keyframeAt market.Time) market.Time {
	m.tellStep(u, from)
	if m.lost = !m.lost && rapid.Bool().Draw(m.t, "lose the keyframe"); m.lost { // not time and again
		return keyframeAt
	}
	m.writer.Step(u.EventTime)
	return u.EventTime
}

// tellStep enters into the ledger that the exchange's clock stepped back before u.
func (m *model) tellStep(u *market.DepthUpdate, from market.Time) {
	m.writer.Gap(market.Gap{
		Series: market.Series{Stream: market.Depth}, Cause: market.CauseClock, FirstID: u.FirstID, LastID: u.PrevID,
		Start: from, End: u.EventTime, RecvStart: from.Add(time.Second), RecvEnd: u.RecvTime,
		DetectedAt: from, RepairedAt: from, Repair: market.RepairResumed,
	})
}

// snapshot has the recorder begin with the exchange's book as it is, and returns its id.
func (m *model) snapshot() int64 {
	s := market.Snapshot{
		LastID: m.truth.LastID(), EventTime: m.now, RecvTime: m.now,
		Bids: m.truth.AppendBids(nil, -1), Asks: m.truth.AppendAsks(nil, -1),
	}
	m.writer.Snapshot(&s)
	m.moments = append(m.moments, moment{
		at: m.now, firstID: s.LastID, lastID: s.LastID, snapshotID: s.LastID, digest: m.truth.Digest(1000),
	})
	return s.LastID
}

// happened adds the moment after an update.
func (m *model) happened(u *market.DepthUpdate, snapshotID, applied int64) {
	m.moments = append(m.moments, moment{
		at: u.EventTime, firstID: u.FirstID, lastID: u.LastID, snapshotID: snapshotID, applied: applied,
		digest: m.truth.Digest(1000),
	})
}

// rebase has an audit of the book after the last update find levels that were not known, deep in the book, or a book
// that was wrong since some moment of this stretch, the first of which is begin. It reports whether there was one.
func (m *model) rebase(begin int) bool {
	last := m.moments[len(m.moments)-1]
	good := m.moments[rapid.IntRange(begin, len(m.moments)-1).Draw(m.t, "good up to")]
	if m.steps >= 0 && good.at == last.at { // an older keyframe may be nearer by its time, and leads to fewer levels
		return false
	}
	bids := append(m.truth.AppendBids(nil, -1), market.Level{Price: 1, Quantity: 7})
	m.truth.Reset(last.lastID, bids, m.truth.AppendAsks(nil, -1))
	m.snapshot()
	after := m.moments[len(m.moments)-1]
	m.moments = m.moments[:len(m.moments)-1]
	rebased := &m.moments[len(m.moments)-1]
	rebased.snapshotID, rebased.applied, rebased.digest, rebased.replayed = after.snapshotID, 0, after.digest, &last
	if good.at == last.at {
		return true
	}
	d := doubt{first: good.lastID + 1, last: last.lastID, start: good.at, end: last.at}
	m.doubts = append(m.doubts, d)
	m.writer.Gap(market.Gap{
		Series: market.Series{Stream: market.Depth}, Cause: market.CauseAudit, FirstID: d.first, LastID: d.last,
		Start: d.start, End: d.end, DetectedAt: d.end, RepairedAt: d.end, Repair: market.RepairSnapshot,
	})
	return true
}

// second has another recorder write what it was shown, cut elsewhere.
func (m *model) second(updates []market.DepthUpdate) {
	if len(updates) == 0 {
		return
	}
	w := historytest.NewWriter(m.tb, m.store, historytest.BTCUSDT)
	w.Book.Reset(updates[0].PrevID, nil, nil)
	for i := range updates {
		w.Depth(&updates[i])
		if rapid.IntRange(0, 2).Draw(m.t, "second cut") == 0 {
			w.CutDepth()
		}
	}
	w.CutDepth()
}

// hole lets updates happen that the recorder misses, and then some that it is shown while it has no book. Another
// recorder has some of those that were missed: from the first on they can be answered for, until one is held by nobody.
// hole returns the first id of the last update, where that was shown and cannot be answered for; else 0.
func (m *model) hole() (firstID int64) {
	t := m.t
	before := m.moments[len(m.moments)-1]
	missed := rapid.IntRange(0, 3).Draw(t, "missed")
	if missed == 0 {
		return 0
	}
	early := rapid.IntRange(0, 2).Draw(t, "shown without a book")
	known := rapid.IntRange(0, missed).Draw(t, "held by another")
	var lost []market.DepthUpdate
	var firstEarly, lastEarly market.Time
	unbroken := true
	m.calm = known > 0 // the other recorder would have told
	for i := range missed + early {
		u := m.update()
		switch {
		case i < missed:
			lost = append(lost, u)
			unbroken = i < known
		default:
			if i == missed {
				firstEarly = u.EventTime
			} else if lastEarly > u.EventTime {
				m.tellStep(&u, lastEarly)
			}
			lastEarly = u.EventTime
			m.writer.Unapplied(&u)
			firstID = u.FirstID
		}
		if unbroken {
			m.happened(&u, before.snapshotID, before.applied+int64(i)+1)
		}
	}
	m.calm = false
	m.writer.CutDepth()
	m.second(lost[:known])
	behind := m.now.Add(time.Millisecond) // when the snapshot will be
	if early > 0 {
		behind = firstEarly
	}
	if before.at.Sub(behind) > time.Second {
		end := lost[missed-1].LastID
		m.writer.Gap(market.Gap{
			Series: market.Series{Stream: market.Depth}, Cause: market.CauseClock, FirstID: end + 1, LastID: end,
			Start: before.at, End: behind, DetectedAt: m.now, RepairedAt: m.now, Repair: market.RepairResumed,
		})
	}
	m.moments[len(m.moments)-1].holeBehind = !unbroken
	if m.steps >= 0 || rapid.Bool().Draw(t, "ledger") { // a hole that nobody told of is found by time only
		// While nothing happens, the exchange's clock goes on, from which the snapshot has its time.
		m.now = m.now.Add(time.Duration(rapid.SampledFrom([]int{0, 0, 1500, 20_000, 600_000}).Draw(t, "quiet ms")) * time.Millisecond)
		m.writer.Gap(market.Gap{
			Series: market.Series{Stream: market.Depth}, Cause: market.CauseDisconnect,
			FirstID: lost[0].FirstID, LastID: lost[missed-1].LastID, Start: before.at, End: m.now + market.Time(time.Millisecond),
			DetectedAt: m.now, RepairedAt: m.now, Repair: market.RepairSnapshot,
		})
	}
	if unbroken {
		return 0
	}
	return firstID
}

// newModel draws a history.
func newModel(tb testing.TB, t *rapid.T, steps int) *model {
	store := storetest.NewMemory()
	m := &model{
		tb: tb, t: t, store: store, truth: book.New(), now: market.Time(1_700_000_000 * time.Second), steps: steps,
		writer: historytest.NewWriter(tb, store, historytest.BTCUSDT),
	}
	m.truth.Reset(100, []market.Level{{Price: 8e8, Quantity: 1}}, []market.Level{{Price: 11e8, Quantity: 1}})
	for i := range rapid.IntRange(1, 3).Draw(t, "stretches") {
		firstID := int64(0)
		if i > 0 {
			firstID = m.hole()
		}
		m.stretch(firstID)
	}
	return m
}

// TestBookEqualsTheModel asks for the book at every id and around every time of random histories.
func TestBookEqualsTheModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := newModel(t, rt, -1)
		s := query.New(m.store, time.Now)
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

// TestBookByIDWhateverTheClock asks for the book at every id where the exchange's clock stepped back: ids have one order.
func TestBookByIDWhateverTheClock(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := newModel(t, rt, 0)
		s := query.New(m.store, time.Now)
		for id := m.moments[0].lastID; id <= m.moments[len(m.moments)-1].lastID; id++ {
			m.checkID(rt, s, id)
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
	} else if next := i + 1; m.steps > 0 && next < len(m.moments) && m.moments[next].lastID == got.LastID &&
		m.moments[next].at == got.EventTime { // a snapshot without loss: either may be found first
		want = m.moments[next]
	}
	corrected := m.moments[i].replayed != nil && got.State == query.Synced && digest(got) == want.digest
	if want.replayed != nil && id < want.lastID && (m.steps < 0 || !corrected) { // the stored book is of the update's last id
		want = *want.replayed
	}
	first := want.lastID + 1
	if m.steps < 0 || !corrected {
		first = m.firstDoubtful(id, want.lastID)
	}
	if first <= want.lastID {
		i = sort.Search(len(m.moments), func(i int) bool { return m.moments[i].lastID >= first }) - 1
		want, state = m.moments[max(i, 0)], query.Gap
		if i > 0 && got.EventTime == m.moments[i-1].at && m.moments[i-1].lastID == want.lastID { // a snapshot without loss
			want = m.moments[i-1]
		}
	}
	if m.steps > 0 && state == query.Gap {
		want = m.earlier(max(i, 0), got)
	}
	if m.steps > 0 && want.applied == 0 && got.LastID == want.lastID { // a snapshot, which may be stored behind the step only
		want.at = got.EventTime
	}
	compare(t, fmt.Sprintf("id %d", id), got, want, state)
}

// firstDoubtful returns the first id of the books in doubt, among which the one is that was asked for by id and ends with
// lastID; the one before one doubt may lie in another. It returns the id behind that book when it is not in doubt.
func (m *model) firstDoubtful(id, lastID int64) int64 {
	first := lastID + 1
	for _, d := range m.doubts {
		if lastID >= d.first && id < d.last {
			first = min(first, d.first)
		}
	}
	if first > lastID {
		return first
	}
	return min(first, m.firstDoubtful(first-1, first-1))
}

// earlier returns the moment that got is of, if it is not behind the i-th, which may be all that can be said of a gap where
// the clock stepped: what is good up to an instant is found by time. Else it returns the first.
func (m *model) earlier(i int, got *query.Book) moment {
	for _, known := range m.moments[:i+1] {
		for _, o := range []*moment{&known, known.replayed} {
			dated := o != nil && (o.at == got.EventTime || o.applied == 0)
			if dated && o.lastID == got.LastID && o.digest == digest(got) {
				return *o
			}
		}
	}
	return m.moments[0]
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
	if good := m.before(func(d doubt) bool { return d.start <= at && at < d.end }); good != nil {
		want, state = *good, query.Gap
	}
	compare(t, fmt.Sprintf("at %v", at), got, want, state)
}

// before returns the last moment that the doubts of a kind leave alone, nil when there is no such doubt. Where there is
// no such moment, it is the last one at their start.
func (m *model) before(concerns func(doubt) bool) (last *moment) {
	doubts := slices.DeleteFunc(slices.Clone(m.doubts), func(d doubt) bool { return !concerns(d) })
	if len(doubts) == 0 {
		return nil
	}
	least := doubts[0]
	for _, d := range doubts {
		least.start, least.first = min(least.start, d.start), min(least.first, d.first)
	}
	for _, until := range []market.Time{least.start, least.start - 1} {
		for i := range m.moments {
			if m.moments[i].at <= until && m.moments[i].lastID < least.first {
				last = &m.moments[i]
			}
		}
	}
	return last
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
