package storetest

import (
	"bytes"
	"cmp"
	"context"
	"maps"
	"math"
	"slices"
	"sync"

	"tapedeck/shared/market"
)

// Memory is a Store in memory: the plain model that the conformance suite holds the others against, and a store for
// the tests of whatever needs one. Make it with NewMemory.
type Memory struct {
	mu        sync.Mutex
	err       error
	blocks    map[market.Series][]market.Block    // sorted by key
	keyframes map[market.Market][]market.Keyframe // sorted by EventTime, UpdateID
	spans     map[spanKey]market.Span
	gaps      map[market.GapKey]market.Gap
	listings  map[market.Market]market.Listing
	statuses  map[string]market.RecorderStatus
}

var _ Store = (*Memory)(nil)

type spanKey struct {
	series  market.Series
	firstID int64
}

// NewMemory returns an empty store.
func NewMemory() *Memory {
	return &Memory{
		blocks:    make(map[market.Series][]market.Block),
		keyframes: make(map[market.Market][]market.Keyframe),
		spans:     make(map[spanKey]market.Span),
		gaps:      make(map[market.GapKey]market.Gap),
		listings:  make(map[market.Market]market.Listing),
		statuses:  make(map[string]market.RecorderStatus),
	}
}

// Fail makes every later call fail with err, until it is called with nil.
func (m *Memory) Fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.err = err
}

// enter locks m; the caller unlocks it, whatever the error.
func (m *Memory) enter(ctx context.Context) error {
	m.mu.Lock()
	if err := ctx.Err(); err != nil {
		return err
	}
	return m.err
}

// Write implements Store.
func (m *Memory) Write(ctx context.Context, batch *market.Batch) error {
	err := m.enter(ctx)
	defer m.mu.Unlock()
	if err != nil {
		return err
	}
	if err := batch.Validate(); err != nil {
		return err
	}
	for _, b := range batch.Blocks {
		b.Data = bytes.Clone(b.Data)
		m.blocks[b.Series] = insert(m.blocks[b.Series], b, func(x, y market.Block) int { return compareKeys(x.Key(), y.Key()) })
	}
	for _, k := range batch.Keyframes {
		k.Data = bytes.Clone(k.Data)
		m.keyframes[k.Market] = insert(m.keyframes[k.Market], k, compareKeyframes)
	}
	for _, s := range batch.Spans {
		key := spanKey{s.Series, s.FirstID}
		if old, ok := m.spans[key]; ok {
			s = mergeSpans(old, s)
		}
		m.spans[key] = s
	}
	for _, g := range batch.Gaps {
		key := g.Key()
		if old, ok := m.gaps[key]; ok {
			g = old.Merge(g)
		}
		m.gaps[key] = g
	}
	for _, l := range batch.Listings {
		if old, ok := m.listings[l.Market]; !ok || l.UpdatedAt >= old.UpdatedAt {
			m.listings[l.Market] = l
		}
	}
	for _, s := range batch.Statuses {
		if old, ok := m.statuses[s.Recorder]; !ok || s.UpdatedAt >= old.UpdatedAt {
			s.Markets = slices.Clone(s.Markets)
			m.statuses[s.Recorder] = s
		}
	}
	return nil
}

func mergeSpans(old, s market.Span) market.Span {
	old.Start = min(old.Start, s.Start)
	old.LastID = max(old.LastID, s.LastID)
	old.End = max(old.End, s.End)
	return old
}

// Ping implements Store.
func (m *Memory) Ping(ctx context.Context) error {
	defer m.mu.Unlock()
	return m.enter(ctx)
}

// Tail implements Store.
func (m *Memory) Tail(ctx context.Context, series market.Series) (market.Block, error) {
	err := m.enter(ctx)
	defer m.mu.Unlock()
	if err != nil {
		return market.Block{}, err
	}
	blocks := m.blocks[series]
	if len(blocks) == 0 {
		return market.Block{}, market.Errorf(market.KindNotFound, "no block of %v", series)
	}
	tail := blocks[len(blocks)-1]
	tail.Data = nil
	return tail, nil
}

// Blocks implements Store.
func (m *Memory) Blocks(ctx context.Context, query market.BlockQuery) ([]market.Block, error) {
	err := m.enter(ctx)
	defer m.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if query.Limit < 1 {
		return nil, market.Errorf(market.KindInvalid, "limit %d", query.Limit)
	}
	blocks := m.blocks[query.Series]
	from, _ := slices.BinarySearchFunc(blocks, query.From, func(b market.Block, t market.Time) int {
		return cmp.Compare(b.Start, t)
	})
	var found []market.Block
	for _, b := range blocks[from:] {
		if b.Start >= query.To || len(found) == query.Limit {
			break
		}
		if query.After != (market.BlockKey{}) && compareKeys(b.Key(), query.After) <= 0 {
			continue
		}
		b.Data = bytes.Clone(b.Data)
		found = append(found, b)
	}
	return found, nil
}

// BlockByID implements Store.
func (m *Memory) BlockByID(ctx context.Context, series market.Series, id int64) (market.Block, error) {
	err := m.enter(ctx)
	defer m.mu.Unlock()
	if err != nil {
		return market.Block{}, err
	}
	best := market.Block{LastID: math.MaxInt64}
	for _, b := range m.blocks[series] {
		if b.LastID >= id && (b.LastID < best.LastID || best.Events == 0) {
			best = b
		}
	}
	if best.Events == 0 {
		return market.Block{}, market.Errorf(market.KindNotFound, "no block of %v at or after id %d", series, id)
	}
	best.Data = nil
	return best, nil
}

// Keyframe implements Store.
func (m *Memory) Keyframe(ctx context.Context, of market.Market, at market.Time) (market.Keyframe, error) {
	err := m.enter(ctx)
	defer m.mu.Unlock()
	if err != nil {
		return market.Keyframe{}, err
	}
	frames := m.keyframes[of]
	i, _ := slices.BinarySearchFunc(frames, at, func(k market.Keyframe, at market.Time) int {
		if k.EventTime <= at {
			return -1
		}
		return 1
	})
	if i == 0 {
		return market.Keyframe{}, market.Errorf(market.KindNotFound, "no keyframe of %v at or before %v", of, at)
	}
	k := frames[i-1]
	k.Data = bytes.Clone(k.Data)
	return k, nil
}

// Spans implements Store.
func (m *Memory) Spans(ctx context.Context, series market.Series, from, to market.Time, limit int) ([]market.Span, error) {
	err := m.enter(ctx)
	defer m.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if limit < 1 {
		return nil, market.Errorf(market.KindInvalid, "limit %d", limit)
	}
	var found []market.Span
	for key, s := range m.spans {
		if key.series == series && s.Start < to && s.End >= from {
			found = append(found, s)
		}
	}
	slices.SortFunc(found, func(a, b market.Span) int {
		return cmp.Or(cmp.Compare(a.Start, b.Start), cmp.Compare(a.FirstID, b.FirstID))
	})
	return found[:min(limit, len(found))], nil
}

// Gaps implements Store.
func (m *Memory) Gaps(ctx context.Context, query market.GapQuery) ([]market.Gap, error) {
	err := m.enter(ctx)
	defer m.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if query.Limit < 1 {
		return nil, market.Errorf(market.KindInvalid, "limit %d", query.Limit)
	}
	var found []market.Gap
	for _, g := range m.gaps {
		if g.Series.Market == query.Market &&
			(query.Stream == "" || g.Series.Stream == query.Stream) &&
			(query.Cause == "" || g.Cause == query.Cause) && overlaps(&g, query.From, query.To) {
			found = append(found, g)
		}
	}
	slices.SortFunc(found, func(a, b market.Gap) int {
		return cmp.Or(cmp.Compare(a.Start, b.Start), cmp.Compare(a.FirstID, b.FirstID),
			cmp.Compare(a.Series.Stream, b.Series.Stream), cmp.Compare(a.Cause, b.Cause))
	})
	return found[:min(query.Limit, len(found))], nil
}

// overlaps reports whether a gap lasts within [from, to).
func overlaps(g *market.Gap, from, to market.Time) bool {
	if g.End == 0 {
		return g.Start < to
	}
	return min(g.Start, g.End) < to && max(g.Start, g.End) >= from
}

// Listings implements Store.
func (m *Memory) Listings(ctx context.Context) ([]market.Listing, error) {
	err := m.enter(ctx)
	defer m.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return slices.SortedFunc(maps.Values(m.listings), func(a, b market.Listing) int {
		return cmp.Compare(a.Market.String(), b.Market.String())
	}), nil
}

// Recorders implements Store.
func (m *Memory) Recorders(ctx context.Context) ([]market.RecorderStatus, error) {
	err := m.enter(ctx)
	defer m.mu.Unlock()
	if err != nil {
		return nil, err
	}
	statuses := slices.SortedFunc(maps.Values(m.statuses), func(a, b market.RecorderStatus) int {
		return cmp.Compare(a.Recorder, b.Recorder)
	})
	for i := range statuses {
		statuses[i].Markets = slices.Clone(statuses[i].Markets)
	}
	return statuses, nil
}

// Close implements Store. It does nothing: what was written stays.
func (m *Memory) Close(context.Context) error { return nil }

func insert[T any](sorted []T, v T, compare func(a, b T) int) []T {
	i, ok := slices.BinarySearchFunc(sorted, v, compare)
	if ok {
		return sorted
	}
	return slices.Insert(sorted, i, v)
}

func compareKeys(a, b market.BlockKey) int {
	return cmp.Or(cmp.Compare(a.Start, b.Start), cmp.Compare(a.FirstID, b.FirstID), cmp.Compare(a.LastID, b.LastID))
}

func compareKeyframes(a, b market.Keyframe) int {
	return cmp.Or(cmp.Compare(a.EventTime, b.EventTime), cmp.Compare(a.UpdateID, b.UpdateID))
}
