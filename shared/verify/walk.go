package verify

import (
	"cmp"
	"container/heap"
	"context"
	"slices"

	"tapedeck/shared/market"
	"tapedeck/shared/tape"
)

const (
	// clockSlack is how far order by time and order by id may disagree before a block is looked for by its id.
	clockSlack = market.BlockWindow
	// Bounds of a page of blocks. Its size follows what the blocks before weighed.
	minPageBlocks = 8
	maxPageBlocks = 256
	pageBytes     = 8 << 20
)

// maxWaitingBytes bounds the blocks whose turn by id has not come. It is not reached unless the exchange's clock
// stepped back; blocks beyond are let go, and read again when their turn comes. Tests set it.
var maxWaitingBytes = 64 << 20

// noID is below every id, and below the -1 that stands for none yet.
const noID = -2

// walk reads the blocks of one series in the order of time, and yields their events in the order of ids, each once.
// Where the next id is not at hand, since the exchange's clock stepped, it is looked for by id. So what it passes over
// is held nowhere.
//
// Not more is decoded at a time than overlaps, and not more is held than a page, the blocks within clockSlack, and
// maxWaitingBytes.
type walk[E any] struct {
	reader Reader
	query  market.BlockQuery // From, To: the range; After, Limit: the next page
	from   market.Time
	codec  codec[E]
	on     observer[E]

	strands  strands[E]
	last     *strand[E] // the strand that the event yielded last is part of
	cursor   market.BlockKey
	frontier market.Time
	more     bool

	least   int64             // least id yielded
	base    int64             // ids up to here are not wanted
	reached int64             // greatest id yielded, or base; -1 at first
	before  event             // the event yielded last
	kept    *E                // a copy of it, where another block holds it as well
	sought  int64             // what reached was when it was looked for by id
	gone    int64             // greatest id of the blocks that were let go
	jumped  idSet             // ids read ahead of their time
	lost    []market.BlockKey // of blocks that could not be decoded, and whose ids were not passed yet
}

// observer is told of all that a walk comes by.
type observer[E any] struct {
	page  func(context.Context, []market.Block) error         // blocks of the range, as read
	ahead func(ctx context.Context, window market.Time) error // a window of time that is read ahead
	block func(b *market.Block, events []E, err error)        // each block of the range once, decoded or not
	lost  func(b *market.Block)                               // a block that could not be decoded when its turn came
	copy  func(e event, same bool)                            // an event that was yielded before
	stray func(b *market.Block)                               // a block whose ids were passed, far from them in time
}

// strand is a block on its way through a walk.
type strand[E any] struct {
	block   *market.Block
	ahead   bool          // the page that it belongs to was not read yet
	next    ids           // of the next event; before the block is decoded, of all
	prev    int64         // the id before next
	decoder *tape.Decoder // owns the memory of events; nil until the block is decoded
	events  []E
}

func newWalk[E any](reader Reader, series market.Series, from, to market.Time, base int64, codec codec[E], on observer[E]) *walk[E] {
	return &walk[E]{
		reader: reader, codec: codec, on: on, from: from, more: from < to, base: base, reached: base, sought: noID,
		query: market.BlockQuery{Series: series, From: from, To: to, Limit: minPageBlocks},
	}
}

// next returns the next event, valid until the next call, or nil at the end.
func (w *walk[E]) next(ctx context.Context) (*E, error) {
	for {
		w.step()
		if err := w.fill(ctx); err != nil {
			return nil, err
		}
		r := w.strands.first()
		if w.sought != w.reached && (r == nil || r.prev > w.reached) {
			w.sought = w.reached
			if found, err := w.seek(ctx); found || err != nil {
				if err != nil {
					return nil, err
				}
				continue
			}
		}
		switch {
		case r == nil:
			return nil, nil
		case r.decoder == nil:
			w.decode(r)
			continue
		}
		w.last = r
		if e := &r.events[0]; w.take(e) {
			return e, nil
		}
	}
}

// step leaves the event that was looked at last.
func (w *walk[E]) step() {
	r := w.last
	if r == nil {
		return
	}
	w.last = nil
	if r.events = r.events[1:]; len(r.events) == 0 {
		heap.Pop(&w.strands)
		w.strands.free = append(w.strands.free, r.decoder)
		return
	}
	w.at(r)
}

// at puts r where its next event belongs.
func (w *walk[E]) at(r *strand[E]) {
	e := w.codec.event(&r.events[0])
	r.next, r.prev = e.ids, e.prev
	heap.Fix(&w.strands, slices.Index(w.strands.open, r))
}

// take reports whether e is to be yielded: whether it is not one that was before.
func (w *walk[E]) take(e *E) bool {
	now := w.codec.event(e)
	switch {
	case now.last <= w.base:
		return false
	case w.before.last != 0 && now.first <= w.before.last:
		same := w.kept != nil && w.codec.same(w.kept, e)
		w.on.copy(now, same)
		if now.last <= w.reached {
			return false
		}
	}
	if w.before.last == 0 {
		w.least = now.first
	}
	w.reached, w.before, w.kept = now.last, now, nil
	if w.strands.overlaps(now.last) {
		kept := w.codec.clone(e)
		w.kept = &kept
	}
	return true
}

// fill reads pages until no block to come can hold an id below those at hand, as far as order by time tells.
func (w *walk[E]) fill(ctx context.Context) error {
	for w.more {
		if r := w.strands.first(); r != nil && (r.ahead || r.block.Start.Add(market.BlockWindow+clockSlack) < w.frontier) {
			return nil
		}
		if err := w.page(ctx); err != nil {
			return err
		}
	}
	return nil
}

// page reads the next blocks.
func (w *walk[E]) page(ctx context.Context) error {
	blocks, err := w.reader.Blocks(ctx, w.query)
	if err != nil {
		return err
	}
	w.more = len(blocks) == w.query.Limit
	if len(blocks) == 0 {
		return nil
	}
	w.cursor = blocks[len(blocks)-1].Key()
	w.frontier = w.cursor.Start
	w.query.After, w.query.From = w.cursor, w.cursor.Start
	bytes := 0
	for i := range blocks {
		bytes += len(blocks[i].Data)
	}
	n := len(blocks)
	w.query.Limit = min(max(pageBytes/(bytes/n+1), minPageBlocks), 2*w.query.Limit, maxPageBlocks)
	blocks = slices.DeleteFunc(blocks, func(b market.Block) bool { return b.LastID <= w.base })
	if err := w.on.page(ctx, blocks); err != nil {
		return err
	}
	for i := range blocks {
		switch b := &blocks[i]; {
		case w.waiting(b):
		case b.LastID <= w.reached:
			w.late(b)
		default:
			w.push(&strand[E]{block: b})
		}
	}
	w.letGo()
	return nil
}

// waiting reports whether a block that was just read had been read ahead and is not used up yet.
func (w *walk[E]) waiting(b *market.Block) bool {
	i := w.strands.index(b.Key())
	if i < 0 {
		return false
	}
	if r := w.strands.open[i]; r.decoder == nil {
		r.ahead = false
	} else {
		w.check(b)
	}
	return true
}

// check decodes a block for the observer alone.
func (w *walk[E]) check(b *market.Block) {
	decoder := w.strands.decoder()
	events, err := w.codec.decode(decoder, b.Data)
	w.on.block(b, events, err)
	w.strands.free = append(w.strands.free, decoder)
}

func (w *walk[E]) push(r *strand[E]) {
	r.next, r.prev = ids{r.block.FirstID, r.block.LastID}, r.block.PrevID
	heap.Push(&w.strands, r)
}

// late takes a block whose ids were passed already: it was read ahead, or it is not where its ids are.
func (w *walk[E]) late(b *market.Block) {
	w.check(b)
	if b.LastID < w.least && w.from > 0 {
		return // before the range by id, though not by time
	}
	if !w.jumped.holds(ids{b.FirstID, b.LastID}) {
		w.on.stray(b)
	}
}

// letGo keeps what waits within maxWaitingBytes: those farthest ahead by id go first, until their turn comes.
func (w *walk[E]) letGo() {
	bytes := 0
	for _, r := range w.strands.open {
		bytes += len(r.block.Data)
	}
	if bytes <= maxWaitingBytes {
		return
	}
	slices.SortFunc(w.strands.open, func(a, b *strand[E]) int { return cmp.Compare(a.next.first, b.next.first) })
	for n := len(w.strands.open) - 1; n > 0 && bytes > maxWaitingBytes && w.strands.open[n].decoder == nil; n-- {
		bytes -= len(w.strands.open[n].block.Data)
		w.gone = max(w.gone, w.strands.open[n].block.LastID)
		w.strands.open = w.strands.open[:n]
	}
}

// seek looks by id for what follows the id reached, and reads the window of time in which that lies. It returns false
// when nothing is nearer than what is at hand. Where nothing is at hand the range is over, unless a block was let go.
func (w *walk[E]) seek(ctx context.Context) (bool, error) {
	limit := w.gone + 1
	if r := w.strands.first(); r != nil {
		limit = r.next.first
	}
	if limit <= w.reached || w.reached < 0 && w.from > 0 { // a range begins with what is the first in it
		return false, nil
	}
	b, err := w.reader.BlockByID(ctx, w.query.Series, w.reached+1)
	if isNotFound(err) || err == nil && b.FirstID >= limit {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	window := b.Start.Truncate(market.BlockWindow)
	if err := w.on.ahead(ctx, window); err != nil {
		return false, err
	}
	found := false
	err = eachBlock(ctx, w.reader, w.query.Series, window, func(b *market.Block) {
		if b.LastID <= w.reached || b.FirstID >= limit || w.strands.index(b.Key()) >= 0 || slices.Contains(w.lost, b.Key()) {
			return
		}
		found = true
		ahead := b.Start < w.from || compareKeys(b.Key(), w.cursor) > 0
		if ahead {
			w.jumped.add(ids{b.FirstID, b.LastID})
		}
		w.push(&strand[E]{block: b, ahead: ahead})
	})
	return found, err
}

// decode decodes a block whose turn has come. Until then it waits under the ids in its record.
func (w *walk[E]) decode(r *strand[E]) {
	r.decoder = w.strands.decoder()
	events, err := w.codec.decode(r.decoder, r.block.Data)
	if !r.ahead {
		w.on.block(r.block, events, err)
	}
	if err != nil || len(events) == 0 {
		w.on.lost(r.block)
		w.lost = slices.DeleteFunc(w.lost, func(k market.BlockKey) bool { return k.LastID <= w.reached })
		w.lost = append(w.lost, r.block.Key())
		heap.Pop(&w.strands)
		w.strands.free = append(w.strands.free, r.decoder)
		return
	}
	r.events = events
	w.at(r)
}

// eachBlock calls f with every block of a window of time. The block is f's to keep.
func eachBlock(ctx context.Context, reader Reader, series market.Series, window market.Time, f func(*market.Block)) error {
	query := market.BlockQuery{Series: series, From: window, To: window.Add(market.BlockWindow), Limit: minPageBlocks}
	for {
		blocks, err := reader.Blocks(ctx, query)
		if err != nil {
			return err
		}
		for i := range blocks {
			f(&blocks[i])
		}
		if len(blocks) < query.Limit {
			return nil
		}
		query.After = blocks[len(blocks)-1].Key()
		query.From = query.After.Start
	}
}

func compareKeys(a, b market.BlockKey) int {
	return cmp.Or(cmp.Compare(a.Start, b.Start), cmp.Compare(a.FirstID, b.FirstID), cmp.Compare(a.LastID, b.LastID))
}

// strands is a heap of strands by the ids of their next events, with the decoders that may be used again.
type strands[E any] struct {
	open []*strand[E]
	free []*tape.Decoder
}

func (h *strands[E]) Len() int { return len(h.open) }

func (h *strands[E]) Less(i, j int) bool {
	a, b := h.open[i], h.open[j]
	return cmp.Or(cmp.Compare(a.next.first, b.next.first), cmp.Compare(a.next.last, b.next.last),
		cmp.Compare(a.block.Start, b.block.Start)) < 0
}

func (h *strands[E]) Swap(i, j int) { h.open[i], h.open[j] = h.open[j], h.open[i] }

// Push implements heap.Interface.
func (h *strands[E]) Push(x any) { h.open = append(h.open, x.(*strand[E])) }

// Pop implements heap.Interface.
func (h *strands[E]) Pop() any {
	last := len(h.open) - 1
	r := h.open[last]
	h.open = slices.Delete(h.open, last, last+1)
	return r
}

// first returns the strand with the least next id, or nil.
func (h *strands[E]) first() *strand[E] {
	if len(h.open) == 0 {
		return nil
	}
	return h.open[0]
}

// overlaps reports whether any but the first strand begins at or before id.
func (h *strands[E]) overlaps(id int64) bool {
	return len(h.open) > 1 && h.open[1].next.first <= id || len(h.open) > 2 && h.open[2].next.first <= id
}

func (h *strands[E]) index(key market.BlockKey) int {
	return slices.IndexFunc(h.open, func(r *strand[E]) bool { return r.block.Key() == key })
}

func (h *strands[E]) decoder() *tape.Decoder {
	if n := len(h.free); n > 0 {
		d := h.free[n-1]
		h.free = h.free[:n-1]
		return d
	}
	return new(tape.Decoder)
}
