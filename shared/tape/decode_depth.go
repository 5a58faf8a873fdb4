package tape

import (
	"errors"
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
	spans, gaps := reader{data: d.columns[colIDSpan]}, reader{data: d.columns[colIDGap]}
	prevs := reader{data: d.columns[colPrevGap]}
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
	d.levels = slices.Grow(d.levels[:0], n)[:n]
	d.events = slices.Grow(d.events[:0], n)[:n]
	prices, quantities := reader{data: d.columns[colPrice]}, d.quantities
	fresh, again := reader{data: d.columns[colEvent]}, reader{data: d.columns[colAgain]}
	index := 0
	for side, count := range h.touches {
		sign := direction(side)
		units, event := int64(0), int64(0)
		for i := range count {
			step := prices.uvarint()
			switch {
			case i == 0:
				units, event = int64(step), int64(fresh.uvarint())
			case step == 0:
				event += again.varint()
			default:
				units, event = units+sign*int64(step), int64(fresh.uvarint())
			}
			if event < 0 || event >= int64(h.events) {
				return corrupt("a level of update %d of %d", event, h.events)
			}
			price, err := scaled(uint64(units), h.priceUnit)
			if err != nil {
				return err
			}
			l := market.Level{Price: market.Decimal(price)}
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
	if err := endAll(&prices, &fresh, &again); err != nil {
		return err
	}
	return addRemainders(d.columns[colPriceRest], n, func(i int) *market.Decimal { return &d.levels[i].Price })
}

// readQuantities fills d.quantities, at most limit of them.
func (d *Decoder) readQuantities(unit int64, limit int) error {
	d.fresh = d.fresh[:0]
	for r := (reader{data: d.columns[colQuantity]}); len(r.data) > 0; {
		quantity, err := scaled(r.uvarint(), unit)
		if err != nil || r.err != nil {
			return errors.Join(r.err, err)
		}
		d.fresh = append(d.fresh, market.Decimal(quantity))
	}
	err := addRemainders(d.columns[colQuantityRest], len(d.fresh), func(i int) *market.Decimal { return &d.fresh[i] })
	if err != nil {
		return err
	}
	d.quantities = d.quantities[:0]
	fresh := d.fresh
	for r := (reader{data: d.columns[colSame]}); len(r.data) > 0; {
		n := len(d.quantities)
		back := r.length(n)
		switch {
		case r.err != nil:
			return r.err
		case n == limit:
			return corrupt("more than %d quantities", limit)
		case back > 0:
			d.quantities = append(d.quantities, d.quantities[n-back])
		case len(fresh) > 0:
			d.quantities = append(d.quantities, fresh[0])
			fresh = fresh[1:]
		default:
			return corrupt("fewer new quantities than are named")
		}
	}
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
