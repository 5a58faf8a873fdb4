package tape

import (
	"encoding/binary"
	"slices"
	"sync"

	"tapedeck/shared/market"
)

// The columns of a book, in their order: for each side prices (distance to the level before in units; the first counts
// from 0) and quantities in units, then the remainders.
const (
	colBookPrice        = iota // bids, then asks
	colBookQuantity            // bids, then asks
	colBookPriceRest           // remainders of the prices
	colBookQuantityRest        // remainders of the quantities
	bookColumns
)

var bookWriters = sync.Pool{New: func() any { return new(bookWriter) }}

type bookWriter struct {
	compressor
	columns      [bookColumns][]byte
	priceRest    remainders
	quantityRest remainders
	out          []byte
}

// EncodeBook encodes the levels of a book, each side best first, for Keyframe.Data. A side has at most
// market.MaxBookLevels levels. The result is freshly allocated.
func EncodeBook(bidLevels, askLevels []market.Level) []byte {
	w := bookWriters.Get().(*bookWriter)
	defer bookWriters.Put(w)
	for i := range w.columns {
		w.columns[i] = w.columns[i][:0]
	}
	w.priceRest.reset()
	w.quantityRest.reset()
	var prices, quantities exponents
	for _, side := range [2][]market.Level{bidLevels, askLevels} {
		for i := range side {
			prices.add(int64(side[i].Price))
			quantities.add(int64(side[i].Quantity))
		}
	}
	priceUnit, quantityUnit := powersOfTen[prices.exponent()], powersOfTen[quantities.exponent()]
	index := 0
	for side, levels := range [2][]market.Level{bidLevels, askLevels} {
		sign := direction(side)
		last := int64(0)
		for i := range levels {
			units := w.priceRest.split(index, int64(levels[i].Price), priceUnit)
			step := sign * (units - last)
			if i == 0 {
				step = units
			}
			last = units
			w.columns[colBookPrice] = binary.AppendUvarint(w.columns[colBookPrice], uint64(step))
			quantity := w.quantityRest.split(index, int64(levels[i].Quantity), quantityUnit)
			w.columns[colBookQuantity] = binary.AppendUvarint(w.columns[colBookQuantity], uint64(quantity))
			index++
		}
	}
	w.columns[colBookPriceRest] = append(w.columns[colBookPriceRest], w.priceRest.column...)
	w.columns[colBookQuantityRest] = append(w.columns[colBookQuantityRest], w.quantityRest.column...)
	out := w.out[:0]
	out = append(out, version, kindBook)
	for _, n := range []int{len(bidLevels), len(askLevels), prices.exponent(), quantities.exponent()} {
		out = binary.AppendUvarint(out, uint64(n))
	}
	for _, column := range w.columns {
		out = w.append(out, column)
	}
	w.out = seal(out)
	return slices.Clone(w.out)
}

// Book decodes the data of a keyframe: each side best first.
func (d *Decoder) Book(data []byte) (bidLevels, askLevels []market.Level, err error) {
	defer market.Wrap(&err, "decode a book")
	r, err := open(data, kindBook)
	if err != nil {
		return nil, nil, err
	}
	counts := [2]int{r.length(market.MaxBookLevels), r.length(market.MaxBookLevels)}
	priceUnit, quantityUnit := r.unit(), r.unit()
	if r.err != nil {
		return nil, nil, r.err
	}
	if err := d.readColumns(&r, bookColumns, maxBookColumnBytes); err != nil {
		return nil, nil, err
	}
	n := counts[bids] + counts[asks]
	prices, quantities := reader{data: d.columns[colBookPrice]}, reader{data: d.columns[colBookQuantity]}
	if n > len(prices.data) { // a level has at least a byte: refuse before memory is taken
		return nil, nil, corrupt("%d levels in %d bytes", n, len(prices.data))
	}
	d.levels = slices.Grow(d.levels[:0], n)[:n]
	index := 0
	for side, count := range counts {
		sign := direction(side)
		units := int64(0)
		for i := range count {
			if step := int64(prices.uvarint()); i == 0 {
				units = step
			} else {
				units += sign * step
			}
			price, err := scaled(uint64(units), priceUnit)
			if err != nil {
				return nil, nil, err
			}
			quantity, err := scaled(quantities.uvarint(), quantityUnit)
			if err != nil {
				return nil, nil, err
			}
			d.levels[index] = market.Level{Price: market.Decimal(price), Quantity: market.Decimal(quantity)}
			index++
		}
	}
	if err := endAll(&prices, &quantities); err != nil {
		return nil, nil, err
	}
	if err := addRemainders(d.columns[colBookPriceRest], n, func(i int) *market.Decimal { return &d.levels[i].Price }); err != nil {
		return nil, nil, err
	}
	if err := addRemainders(d.columns[colBookQuantityRest], n, func(i int) *market.Decimal { return &d.levels[i].Quantity }); err != nil {
		return nil, nil, err
	}
	n = counts[bids]
	return d.levels[:n:n], d.levels[n:], nil
}
