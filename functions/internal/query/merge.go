package query

import (
	"container/heap"
	"context"
	"slices"

	"tapedeck/shared/market"
	"tapedeck/shared/tape"
)

// clockSlack is how far an exchange's clock may step back from one event to the next without events being missed or
// put out of order here. Blocks are ordered by time and events by id; within this slack the two may disagree.
const clockSlack = market.BlockWindow

// merge reads the blocks of one series and yields their events in the order of ids. Blocks may overlap or repeat each
// other; the events of all of them are yielded, sorted by first id, so a consumer sees what two recorders hold of one
// stretch side by side and drops what is stale. It belongs to one goroutine.
//
// Not more is decoded at a time than overlaps, and not more is held than a page of blocks and those within clockSlack.
type merge[E any] struct {
	reader Reader
	query  market.BlockQuery // Limit is the size of the next page
	codec  codec[E]
	seen   func(*market.Block) bool // told of every block read; false: no event of it is wanted

	runs     runs[E] // a heap by the first id of the next event
	last     *run[E] // the run that the event yielded last is part of
	frontier market.Time
	read     int
	more     bool // there may be blocks beyond the page read last
}

const (
	// maxPageBlocks is the most blocks that are read at once: what a book needs with keyframes every 128 blocks, in one go.
	maxPageBlocks = 160
	// firstPage is how many blocks are read at first where it is not known how many are needed.
	firstPage = 8
	// maxSeeks bounds how often a page of trades, or a replay, looks by id for what follows.
	maxSeeks = 256
)

// codec is how events of one kind are decoded and which id they begin with.
type codec[E any] struct {
	decode  func(*tape.Decoder, []byte) ([]E, error)
	firstID func(*E) int64
}

var (
	depthCodec = codec[market.DepthUpdate]{
		decode:  (*tape.Decoder).Depth,
		firstID: func(u *market.DepthUpdate) int64 { return u.FirstID },
	}
	tradeCodec = codec[market.Trade]{
		decode:  (*tape.Decoder).Trades,
		firstID: func(t *market.Trade) int64 { return t.ID },
	}
)

// newMerge returns a merge over the blocks with from <= Start < to, whose first page has page blocks.
func newMerge[E any](reader Reader, series market.Series, from, to market.Time, page int, codec codec[E],
	seen func(*market.Block) bool,
) *merge[E] {
	return &merge[E]{
		reader: reader,
		query:  market.BlockQuery{Series: series, From: from, To: to, Limit: min(page, maxPageBlocks)},
		codec:  codec,
		seen:   seen,
		more:   from < to,
	}
}

// next returns the next event, or nil at the end. The event is valid until the next call.
func (m *merge[E]) next(ctx context.Context) (*E, error) {
	if r := m.last; r != nil {
		m.last = nil
		r.events = r.events[1:]
		if len(r.events) == 0 {
			m.runs.release(heap.Pop(&m.runs).(*run[E]))
		} else {
			r.firstID = m.codec.firstID(&r.events[0])
			heap.Fix(&m.runs, 0)
		}
	}
	for {
		if m.more && (len(m.runs.open) == 0 || m.runs.open[0].block.Start.Add(market.BlockWindow+clockSlack) >= m.frontier) {
			if err := m.page(ctx); err != nil {
				return nil, err
			}
			continue
		}
		if len(m.runs.open) == 0 {
			return nil, nil
		}
		r := m.runs.open[0]
		if r.decoder != nil {
			m.last = r
			return &r.events[0], nil
		}
		if err := m.decode(r); err != nil {
			return nil, err
		}
	}
}

// decode decodes the events of r, whose turn has come. Until then a block waits undecoded, under the id in its header.
func (m *merge[E]) decode(r *run[E]) error {
	r.decoder = m.runs.decoder()
	events, err := m.codec.decode(r.decoder, r.block.Data)
	if err != nil {
		return market.Errorf(market.KindOf(err), "block %v %d to %d: %w", r.block.Series, r.block.FirstID, r.block.LastID, err)
	}
	if len(events) == 0 || m.codec.firstID(&events[0]) != r.block.FirstID {
		return market.Errorf(market.KindCorrupt, "block %v %d to %d does not hold what its record says",
			r.block.Series, r.block.FirstID, r.block.LastID)
	}
	r.events = events
	return nil
}

// page reads the next blocks. Pages grow, so that a small question costs little and a large one few round trips.
func (m *merge[E]) page(ctx context.Context) error {
	blocks, err := m.reader.Blocks(ctx, m.query)
	if err != nil {
		return err
	}
	m.more = len(blocks) == m.query.Limit
	if m.read += len(blocks); m.read > maxBlocks {
		return tooWide(maxBlocks, "blocks")
	}
	if len(blocks) == 0 {
		return nil
	}
	end := &blocks[len(blocks)-1]
	m.frontier, m.query.After, m.query.From = end.Start, end.Key(), end.Start
	m.query.Limit = min(2*m.query.Limit, maxPageBlocks)
	for i := range blocks {
		if m.seen(&blocks[i]) {
			heap.Push(&m.runs, &run[E]{block: &blocks[i], firstID: blocks[i].FirstID})
		}
	}
	return nil
}

// run is a block on its way through a merge.
type run[E any] struct {
	block   *market.Block
	firstID int64         // of the next event
	decoder *tape.Decoder // owns the memory of events; nil until the block is decoded
	events  []E
}

// runs is a heap of runs, with the decoders that may be used again.
type runs[E any] struct {
	open []*run[E]
	free []*tape.Decoder
}

func (h *runs[E]) Len() int           { return len(h.open) }
func (h *runs[E]) Less(i, j int) bool { return h.open[i].firstID < h.open[j].firstID }
func (h *runs[E]) Swap(i, j int)      { h.open[i], h.open[j] = h.open[j], h.open[i] }

// Push implements heap.Interface.
func (h *runs[E]) Push(x any) { h.open = append(h.open, x.(*run[E])) }

// Pop implements heap.Interface.
func (h *runs[E]) Pop() any {
	last := len(h.open) - 1
	r := h.open[last]
	h.open = slices.Delete(h.open, last, last+1)
	return r
}

func (h *runs[E]) decoder() *tape.Decoder {
	if n := len(h.free); n > 0 {
		d := h.free[n-1]
		h.free = h.free[:n-1]
		return d
	}
	return new(tape.Decoder)
}

func (h *runs[E]) release(r *run[E]) {
	h.free = append(h.free, r.decoder)
	r.decoder, r.events = nil, nil
}

// aroundBlock returns the time from which blocks are to be read, so that none is missed that holds ids of b or the next
// ones and begins a little earlier.
func aroundBlock(b *market.Block) market.Time {
	return max(0, b.Start.Truncate(market.BlockWindow).Add(-clockSlack))
}

// nearer returns the block that holds what follows the id last, where that is nearer by its id than the event found, to
// which blocks in the order of time led (nil: to none). Then the exchange's clock stepped. It returns nil where there is
// no such block.
func nearer[E any](ctx context.Context, reader Reader, series market.Series, last int64, found *E, codec codec[E],
) (*market.Block, error) {
	block, err := reader.BlockByID(ctx, series, last+1)
	if isNotFound(err) || err == nil && found != nil && block.FirstID >= codec.firstID(found) {
		return nil, nil
	}
	return &block, err
}
