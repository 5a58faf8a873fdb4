package tape

import (
	"errors"
	"math"
	"slices"

	"tapedeck/shared/market"
)

// depthHeader is what stands before the columns of a block of depth updates.
type depthHeader struct {
	events                            int
	touches                           [2]int
	timeUnit, priceUnit, quantityUnit int64
	firstID, eventTime, recvDelay     int64
}

func readDepthHeader(r *reader) (h depthHeader, err error) {
	h.events = r.length(market.MaxBlockEvents)
	h.touches[bids] = r.length(market.MaxBlockLevels)
	h.touches[asks] = r.length(market.MaxBlockLevels - h.touches[bids])
	h.timeUnit, h.priceUnit, h.quantityUnit = r.unit(), r.unit(), r.unit()
	h.firstID = int64(r.uvarint())
	h.eventTime = r.varint() * h.timeUnit
	h.recvDelay = r.varint()
	if r.err == nil && h.events == 0 {
		r.fail("a block without events")
	}
	return h, r.err
}

// Depth decodes the data of a block of depth updates, in the order in which they were appended.
func (d *Decoder) Depth(data []byte) (updates []market.DepthUpdate, err error) {
	defer market.Wrap(&err, "decode a block of depth updates")
	r, err := open(data, kindDepth)
	if err != nil {
		return nil, err
	}
	h, err := readDepthHeader(&r)
	if err != nil {
		return nil, err
	}
	if err := d.readColumns(&r, depthColumns, maxColumnBytes); err != nil {
		return nil, err
	}
	if err := d.heads(&h); err != nil {
		return nil, err
	}
	if err := d.touches(&h); err != nil {
		return nil, err
	}
	d.place(&h)
	if err := d.restoreOrder(); err != nil {
		return nil, err
	}
	return d.updates, nil
}

// heads fills d.updates with everything but the levels.
func (d *Decoder) heads(h *depthHeader) error {
	spans, gaps := reader{data: d.columns[colIDSpan]}, d.orZeros(colIDGap, h.events-1)
	prevs := d.orZeros(colPrevGap, h.events)
	events, recvs := reader{data: d.columns[colEventTime]}, reader{data: d.columns[colRecvTime]}
	d.updates = slices.Grow(d.updates[:0], h.events)[:h.events]
	firstID, eventTime, delay, step := h.firstID, h.eventTime, h.recvDelay, int64(0)
	for i := range d.updates {
		if i > 0 {
			firstID = d.updates[i-1].LastID + 1 + gaps.varint()
			step += events.varint()
			eventTime += step * h.timeUnit
			delay += recvs.varint()
		}
		d.updates[i] = market.DepthUpdate{
			FirstID: firstID, LastID: firstID + int64(spans.uvarint()), PrevID: firstID - 1 - prevs.varint(),
			EventTime: market.Time(eventTime), RecvTime: market.Time(eventTime + delay),
		}
	}
	return endAll(&spans, &gaps, &prevs, &events, &recvs)
}

// orZeros returns a reader of a column that, when it is empty, stands for n zeros.
func (d *Decoder) orZeros(column, n int) reader {
	if len(d.columns[column]) > 0 {
		return reader{data: d.columns[column]}
	}
	return reader{data: zeros[:n]}
}

// zeros is never written to.
var zeros [market.MaxBlockEvents]byte

// endAll returns the first error of readers that must all be read to their end.
func endAll(readers ...*reader) error {
	for _, r := range readers {
		if err := r.end(); err != nil {
			return err
		}
	}
	return nil
}

// touches fills d.levels and d.events: bids, then asks, as sorted.
func (d *Decoder) touches(h *depthHeader) error {
	n := h.touches[bids] + h.touches[asks]
	present := d.columns[colPresent]
	if len(present) != (n+7)/8 {
		return corrupt("a bitmap of %d bytes for %d levels", len(present), n)
	}
	if err := d.readQuantities(h.quantityUnit, n); err != nil {
		return err
	}
	for _, column := range []int{colPrice, colEvent, colAgain} {
		if err := d.readNumbers(column); err != nil {
			return err
		}
	}
	prices, fresh, again, quantities := d.numbers[colPrice], d.numbers[colEvent], d.numbers[colAgain], d.quantities
	if len(prices) != n || len(fresh)+len(again) != n {
		return corrupt("%d prices, %d new and %d again, for %d levels", len(prices), len(fresh), len(again), n)
	}
	maxUnits := math.MaxInt64 / h.priceUnit
	d.levels = slices.Grow(d.levels[:0], n)[:n]
	d.events = slices.Grow(d.events[:0], n)[:n]
	index := 0
	for side, count := range h.touches {
		sign := direction(side)
		units, event := int64(0), int64(0)
		for i := range count {
			step := int64(prices[index])
			if i > 0 && step == 0 {
				if len(again) == 0 {
					return corrupt("fewer levels at a price again than there are")
				}
				event += unzigzag(again[0])
				again = again[1:]
			} else {
				if len(fresh) == 0 {
					return corrupt("fewer levels at a new price than there are")
				}
				event = int64(fresh[0])
				fresh = fresh[1:]
			}
			if i == 0 {
				units = step
			} else {
				units += sign * step
			}
			switch {
			case event < 0 || event >= int64(h.events):
				return corrupt("a level of update %d of %d", event, h.events)
			case units < 0 || units > maxUnits:
				return corrupt("a price is out of range")
			}
			l := market.Level{Price: market.Decimal(units * h.priceUnit)}
			if present[index/8]>>(index%8)&1 != 0 {
				if len(quantities) == 0 {
					return corrupt("fewer quantities than levels that have one")
				}
				l.Quantity, quantities = quantities[0], quantities[1:]
			}
			d.levels[index], d.events[index] = l, int32(event)
			index++
		}
	}
	if len(quantities) != 0 {
		return corrupt("%d quantities are left over", len(quantities))
	}
	return addRemainders(d.columns[colPriceRest], n, func(i int) *market.Decimal { return &d.levels[i].Price })
}

// readNumbers decodes a column of unsigned numbers into d.numbers.
func (d *Decoder) readNumbers(column int) (err error) {
	d.numbers[column], err = appendUvarints(d.numbers[column][:0], d.columns[column])
	return err
}

// readQuantities fills d.quantities, at most limit of them.
func (d *Decoder) readQuantities(unit int64, limit int) error {
	if err := errors.Join(d.readNumbers(colQuantity), d.readNumbers(colSame)); err != nil {
		return err
	}
	high, low := d.numbers[colQuantity], d.columns[colQuantityLow]
	if len(low) != len(high) {
		return corrupt("new quantities with %d low and %d high parts", len(low), len(high))
	}
	fresh := slices.Grow(d.fresh[:0], len(high))
	for i, v := range high {
		if v >= 1<<56 {
			return corrupt("a quantity is out of range")
		}
		quantity, err := scaled(v<<8|uint64(low[i]), unit)
		if err != nil {
			return err
		}
		fresh = append(fresh, market.Decimal(quantity))
	}
	d.fresh = fresh
	if err := addRemainders(d.columns[colQuantityRest], len(fresh), func(i int) *market.Decimal { return &fresh[i] }); err != nil {
		return err
	}
	same := d.numbers[colSame]
	if len(same) > limit {
		return corrupt("%d quantities for %d levels", len(same), limit)
	}
	quantities := slices.Grow(d.quantities[:0], len(same))
	for n, back := range same {
		switch {
		case back > uint64(n):
			return corrupt("a quantity refers to %d before it, of %d", back, n)
		case back > 0:
			quantities = append(quantities, quantities[n-int(back)])
		case len(fresh) > 0:
			quantities = append(quantities, fresh[0])
			fresh = fresh[1:]
		default:
			return corrupt("fewer new quantities than are named")
		}
	}
	d.quantities = quantities
	if len(fresh) != 0 {
		return corrupt("%d new quantities are left over", len(fresh))
	}
	return nil
}

// place gives every update its levels: one counting sort by update for each side.
func (d *Decoder) place(h *depthHeader) {
	n := len(d.levels)
	d.placed = slices.Grow(d.placed[:0], n)[:n]
	from := 0
	for side, count := range h.touches {
		d.offsets = slices.Grow(d.offsets[:0], h.events+1)[:h.events+1]
		clear(d.offsets)
		for _, e := range d.events[from : from+count] {
			d.offsets[e+1]++
		}
		for i := range h.events {
			d.offsets[i+1] += d.offsets[i]
		}
		placed := d.placed[from : from+count : from+count]
		for i := range d.updates {
			levels := placed[d.offsets[i]:d.offsets[i+1]:d.offsets[i+1]]
			if side == bids {
				d.updates[i].Bids = levels
			} else {
				d.updates[i].Asks = levels
			}
		}
		for i, e := range d.events[from : from+count] {
			placed[d.offsets[e]] = d.levels[from+i]
			d.offsets[e]++
		}
		from += count
	}
}

// restoreOrder brings the levels of updates that were not sent best first back into their order.
func (d *Decoder) restoreOrder() error {
	r := reader{data: d.columns[colOrder]}
	for len(r.data) > 0 {
		which := r.length(2*len(d.updates) - 1)
		u := &d.updates[which>>1]
		levels := u.Bids
		if which&1 != 0 {
			levels = u.Asks
		}
		if len(levels) == 0 {
			return corrupt("an order for no levels")
		}
		d.spare = append(d.spare[:0], levels...)
		for i := range levels {
			levels[i] = d.spare[r.length(len(levels)-1)]
		}
		if r.err != nil {
			return r.err
		}
	}
	return nil
}
