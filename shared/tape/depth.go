package tape

import (
	"bytes"
	"encoding/binary"
	"slices"
	"sync"

	"tapedeck/shared/market"
)

// The sides of a book, as indices.
const (
	bids = iota
	asks
)

// direction returns in which direction prices go from the best on: bids descend, asks ascend.
func direction(side int) int64 {
	if side == bids {
		return -1
	}
	return 1
}

// touch is one level of one update, as it is sorted: by price from the best on, then by update.
type touch struct {
	price    int64
	quantity int64
	event    int32
}

// The columns of a block of depth updates, in their order.
const (
	colIDGap        = iota // zigzag(FirstID - previous LastID - 1), from the second event on; empty when all are 0
	colIDSpan              // LastID - FirstID
	colPrevGap             // zigzag(FirstID - 1 - PrevID); empty when all are 0
	colEventTime           // zigzag of the second difference in units, from the second event on
	colRecvTime            // zigzag of the change of (RecvTime - EventTime), from the second event on
	colPrice               // distance to the price before, in units; the first of a side counts from 0
	colEvent               // event of a touch whose price is new
	colAgain               // distance to the event before, of a touch at the same price
	colPresent             // bitmap of the touches with a quantity, lowest bit first
	colSame                // for each quantity how many quantities before it the same one stands last; 0 = it is new
	colQuantityLow         // the new quantities in units: the lowest eight bits, a byte each
	colQuantity            // the new quantities in units: the rest
	colPriceRest           // remainders of the prices
	colQuantityRest        // remainders of the new quantities
	colOrder               // updates whose levels were not sent best first
	depthColumns
)

// DepthBuilder gathers depth updates of one market into a block. It belongs to one goroutine and keeps its memory
// between blocks. The zero value is ready.
type DepthBuilder struct {
	events  []depthEvent
	touches [2][]touch // each update's levels sorted from the best on
	order   []byte     // column colOrder
	start   market.Time
	end     market.Time
}

// depthEvent is an update without its levels.
type depthEvent struct {
	firstID, lastID, prevID int64
	eventTime, recvTime     market.Time
	ends                    [2]int32 // where its levels end in touches
}

// Append copies u into the block. The caller keeps to the bounds of package market (MaxBlockEvents, MaxBlockLevels,
// BlockWindow).
func (b *DepthBuilder) Append(u *market.DepthUpdate) {
	if len(b.events) == 0 {
		b.start, b.end = u.EventTime, u.EventTime
	}
	b.start, b.end = min(b.start, u.EventTime), max(b.end, u.EventTime)
	e := depthEvent{firstID: u.FirstID, lastID: u.LastID, prevID: u.PrevID, eventTime: u.EventTime, recvTime: u.RecvTime}
	b.appendLevels(bids, u.Bids)
	b.appendLevels(asks, u.Asks)
	e.ends = [2]int32{int32(len(b.touches[bids])), int32(len(b.touches[asks]))}
	b.events = append(b.events, e)
}

// appendLevels adds one side of the update that is being appended. Exchanges send levels best first; where one did
// not, the order is kept apart.
func (b *DepthBuilder) appendLevels(side int, levels []market.Level) {
	event := int32(len(b.events))
	from := len(b.touches[side])
	sign := direction(side)
	sorted := true
	for i := range levels {
		sorted = sorted && (i == 0 || sign*int64(levels[i].Price-levels[i-1].Price) > 0)
		b.touches[side] = append(b.touches[side], touch{int64(levels[i].Price), int64(levels[i].Quantity), event})
	}
	if !sorted {
		b.keepOrder(side, levels, b.touches[side][from:])
	}
}

// keepOrder sorts run, the levels of the update being appended, and notes for each level sent where it went.
func (b *DepthBuilder) keepOrder(side int, levels []market.Level, run []touch) {
	sign := direction(side)
	index := make([]int, len(levels))
	for i := range index {
		index[i] = i
	}
	slices.SortStableFunc(index, func(i, j int) int {
		return int(max(-1, min(1, sign*int64(levels[i].Price-levels[j].Price))))
	})
	place := make([]int, len(levels))
	for to, from := range index {
		place[from] = to
		run[to] = touch{int64(levels[from].Price), int64(levels[from].Quantity), run[to].event}
	}
	b.order = binary.AppendUvarint(b.order, uint64(len(b.events))<<1|uint64(side))
	for _, to := range place {
		b.order = binary.AppendUvarint(b.order, uint64(to))
	}
}

// Len returns the number of events gathered.
func (b *DepthBuilder) Len() int { return len(b.events) }

// Levels returns the number of levels gathered.
func (b *DepthBuilder) Levels() int { return len(b.touches[bids]) + len(b.touches[asks]) }

// Finish is Peek that empties the builder.
func (b *DepthBuilder) Finish() market.Block {
	block := b.Peek()
	b.events, b.order = b.events[:0], b.order[:0]
	b.touches[bids], b.touches[asks] = b.touches[bids][:0], b.touches[asks][:0]
	return block
}

// Peek returns the block as far as it goes, without its Series and SpanID, freshly allocated (the caller owns it). It
// panics on an empty builder.
func (b *DepthBuilder) Peek() market.Block {
	first, last := &b.events[0], &b.events[len(b.events)-1]
	block := market.Block{
		FirstID: first.firstID, LastID: last.lastID, PrevID: first.prevID,
		Start: b.start, End: b.end, Events: len(b.events),
	}
	w := depthWriters.Get().(*depthWriter)
	block.Data = slices.Clone(w.encode(b))
	depthWriters.Put(w)
	return block
}

// depthWriters spares every market a workspace of its own: blocks are finished one at a time.
var depthWriters = sync.Pool{New: func() any { return &depthWriter{quantities: map[int64]int{}} }}

// depthWriter is the workspace in which a block is encoded.
type depthWriter struct {
	compressor
	columns      [depthColumns][]byte
	priceRest    remainders
	quantityRest remainders
	quantities   map[int64]int // where each quantity of the block stands last
	written      int           // quantities written
	merged       []touch
	spare        []touch
	ends         []int32
	out          []byte
}

func (w *depthWriter) encode(b *DepthBuilder) []byte {
	for i := range w.columns {
		w.columns[i] = w.columns[i][:0]
	}
	w.priceRest.reset()
	w.quantityRest.reset()
	clear(w.quantities)
	w.written = 0

	var times timeUnits
	var prices, quantities exponents
	for i := range b.events {
		times.add(b.events[i].eventTime)
	}
	for side := range b.touches {
		for i := range b.touches[side] {
			t := &b.touches[side][i]
			prices.add(t.price)
			if t.quantity != 0 {
				quantities.add(t.quantity)
			}
		}
	}
	first := &b.events[0]
	timeUnit := powersOfTen[times.exponent()]
	out := w.out[:0]
	out = append(out, version, kindDepth)
	out = binary.AppendUvarint(out, uint64(len(b.events)))
	out = binary.AppendUvarint(out, uint64(len(b.touches[bids])))
	out = binary.AppendUvarint(out, uint64(len(b.touches[asks])))
	for _, exponent := range []int{times.exponent(), prices.exponent(), quantities.exponent()} {
		out = binary.AppendUvarint(out, uint64(exponent))
	}
	out = binary.AppendUvarint(out, uint64(first.firstID))
	out = binary.AppendUvarint(out, zigzag(int64(first.eventTime)/timeUnit))
	out = binary.AppendUvarint(out, zigzag(int64(first.recvTime-first.eventTime)))

	w.heads(b.events, timeUnit)
	index := 0
	for side := range b.touches {
		w.levels(w.sorted(b, side), side, index, powersOfTen[prices.exponent()], powersOfTen[quantities.exponent()])
		index += len(b.touches[side])
	}
	w.columns[colPriceRest] = append(w.columns[colPriceRest], w.priceRest.column...)
	w.columns[colQuantityRest] = append(w.columns[colQuantityRest], w.quantityRest.column...)
	w.columns[colOrder] = append(w.columns[colOrder], b.order...)
	for _, column := range w.columns {
		out = w.append(out, column)
	}
	w.out = seal(out)
	return w.out
}

// put appends a number to a column.
func (w *depthWriter) put(column int, v uint64) {
	w.columns[column] = binary.AppendUvarint(w.columns[column], v)
}

// heads writes what the updates have beside their levels.
func (w *depthWriter) heads(events []depthEvent, timeUnit int64) {
	step := int64(0)
	for i := range events {
		e := &events[i]
		w.put(colIDSpan, uint64(e.lastID-e.firstID))
		w.put(colPrevGap, zigzag(e.firstID-1-e.prevID))
		if i == 0 {
			continue
		}
		before := &events[i-1]
		w.put(colIDGap, zigzag(e.firstID-before.lastID-1))
		next := int64(e.eventTime-before.eventTime) / timeUnit
		w.put(colEventTime, zigzag(next-step))
		step = next
		w.put(colRecvTime, zigzag(int64((e.recvTime-e.eventTime)-(before.recvTime-before.eventTime))))
	}
	for _, column := range []int{colIDGap, colPrevGap} { // on spot every update continues the one before
		if len(bytes.TrimLeft(w.columns[column], "\x00")) == 0 {
			w.columns[column] = w.columns[column][:0]
		}
	}
}

// levels writes the touches of one side; index is the number of touches written before.
func (w *depthWriter) levels(touches []touch, side, index int, priceUnit, quantityUnit int64) {
	sign := direction(side)
	present := w.columns[colPresent]
	lastUnits, lastEvent := int64(0), int32(0)
	for i := range touches {
		t := &touches[i]
		units := w.priceRest.split(index, t.price, priceUnit)
		step := sign * (units - lastUnits)
		if i == 0 {
			step = units
		}
		if i > 0 && step == 0 { // the same price, or one that differs in its remainder
			w.put(colPrice, 0)
			w.put(colAgain, zigzag(int64(t.event-lastEvent)))
		} else {
			w.put(colPrice, uint64(step))
			w.put(colEvent, uint64(t.event))
		}
		lastUnits, lastEvent = units, t.event
		if index%8 == 0 {
			present = append(present, 0)
		}
		if t.quantity != 0 {
			present[index/8] |= 1 << (index % 8)
			w.quantity(t.quantity, quantityUnit)
		}
		index++
	}
	w.columns[colPresent] = present
}

// quantity writes one quantity. A third of them stand in the same second more than once: orders of a fixed size, and
// orders that move.
func (w *depthWriter) quantity(quantity, unit int64) {
	if last, again := w.quantities[quantity]; again {
		w.put(colSame, uint64(w.written-last))
	} else {
		w.put(colSame, 0)
		units := uint64(w.quantityRest.split(len(w.quantities), quantity, unit))
		w.columns[colQuantityLow] = append(w.columns[colQuantityLow], byte(units))
		w.put(colQuantity, units>>8)
	}
	w.quantities[quantity] = w.written
	w.written++
}

// sorted returns the touches of one side by price from the best on, then by update. Every update's own levels are
// sorted already, so it merges runs.
func (w *depthWriter) sorted(b *DepthBuilder, side int) []touch {
	sign := direction(side)
	w.ends = w.ends[:0]
	last := int32(0)
	for i := range b.events {
		if end := b.events[i].ends[side]; end != last {
			w.ends = append(w.ends, end)
			last = end
		}
	}
	from := w.merged[:0]
	from = append(from, b.touches[side]...)
	to := slices.Grow(w.spare[:0], len(from))[:len(from)]
	for len(w.ends) > 1 {
		start, runs := int32(0), w.ends[:0]
		for i := 0; i < len(w.ends); i += 2 {
			middle, end := w.ends[i], w.ends[min(i+1, len(w.ends)-1)]
			mergeRuns(to[start:end], from[start:middle], from[middle:end], sign)
			start = end
			runs = append(runs, end)
		}
		w.ends = runs
		from, to = to, from
	}
	w.merged, w.spare = from, to
	return from
}

// mergeRuns merges two sorted runs into dst; of equal prices those of a come first.
func mergeRuns(dst, a, b []touch, sign int64) {
	i, j := 0, 0
	for k := range dst {
		if j == len(b) || i < len(a) && sign*(a[i].price-b[j].price) <= 0 {
			dst[k] = a[i]
			i++
		} else {
			dst[k] = b[j]
			j++
		}
	}
}
