package tape

import (
	"encoding/binary"
	"slices"
	"sync"

	"tapedeck/shared/market"
)

// The columns of a block of trades, in their order.
const (
	colTradeID        = iota // zigzag(ID - previous ID - 1), from the second on
	colTradeTime             // zigzag of the difference of EventTime in units, from the second on
	colTradeSent             // zigzag(SentTime - EventTime in units) + 1; 0 when SentTime is 0
	colTradeRecv             // zigzag of the change of (RecvTime - EventTime), from the second on
	colTradePrice            // zigzag of the difference in units, from the second on
	colTradeSize             // quantity in units
	colTradeFlags            // Flags<<1 | taker sold
	colTradePriceRest        // remainders of the prices
	colTradeSizeRest         // remainders of the quantities
	tradeColumns
)

// TradeBuilder gathers trades of one market into a block; see DepthBuilder.
type TradeBuilder struct {
	trades     []market.Trade
	start, end market.Time
}

// Append copies t into the block.
func (b *TradeBuilder) Append(t *market.Trade) {
	if len(b.trades) == 0 {
		b.start, b.end = t.EventTime, t.EventTime
	}
	b.start, b.end = min(b.start, t.EventTime), max(b.end, t.EventTime)
	b.trades = append(b.trades, *t)
}

// Len returns the number of events gathered.
func (b *TradeBuilder) Len() int { return len(b.trades) }

// Finish is Peek that empties the builder.
func (b *TradeBuilder) Finish() market.Block {
	block := b.Peek()
	b.trades = b.trades[:0]
	return block
}

// Peek returns the block as far as it goes, without its Series and SpanID, freshly allocated (the caller owns it). It
// panics on an empty builder.
func (b *TradeBuilder) Peek() market.Block {
	first, last := &b.trades[0], &b.trades[len(b.trades)-1]
	block := market.Block{
		FirstID: first.ID, LastID: last.ID, PrevID: first.ID - 1,
		Start: b.start, End: b.end, Events: len(b.trades),
	}
	w := tradeWriters.Get().(*tradeWriter)
	block.Data = slices.Clone(w.encode(b.trades))
	tradeWriters.Put(w)
	return block
}

var tradeWriters = sync.Pool{New: func() any { return new(tradeWriter) }}

// tradeWriter is the workspace in which a block of trades is encoded.
type tradeWriter struct {
	compressor
	columns   [tradeColumns][]byte
	priceRest remainders
	sizeRest  remainders
	out       []byte
}

func (w *tradeWriter) encode(trades []market.Trade) []byte {
	for i := range w.columns {
		w.columns[i] = w.columns[i][:0]
	}
	w.priceRest.reset()
	w.sizeRest.reset()
	var times timeUnits
	var prices, sizes exponents
	for i := range trades {
		t := &trades[i]
		times.add(t.EventTime)
		times.add(t.SentTime)
		prices.add(int64(t.Price))
		sizes.add(int64(t.Quantity))
	}
	first := &trades[0]
	out := w.out[:0]
	out = append(out, version, kindTrades)
	out = binary.AppendUvarint(out, uint64(len(trades)))
	for _, exponent := range []int{times.exponent(), prices.exponent(), sizes.exponent()} {
		out = binary.AppendUvarint(out, uint64(exponent))
	}
	out = binary.AppendUvarint(out, uint64(first.ID))
	out = binary.AppendUvarint(out, zigzag(int64(first.EventTime)/powersOfTen[times.exponent()]))
	out = binary.AppendUvarint(out, zigzag(int64(first.RecvTime-first.EventTime)))
	out = binary.AppendUvarint(out, zigzag(int64(first.Price)/powersOfTen[prices.exponent()]))
	w.fill(trades, powersOfTen[times.exponent()], powersOfTen[prices.exponent()], powersOfTen[sizes.exponent()])
	for _, column := range w.columns {
		out = w.append(out, column)
	}
	w.out = seal(out)
	return w.out
}

func (w *tradeWriter) put(column int, v uint64) {
	w.columns[column] = binary.AppendUvarint(w.columns[column], v)
}

func (w *tradeWriter) fill(trades []market.Trade, timeUnit, priceUnit, sizeUnit int64) {
	lastPrice := int64(0)
	for i := range trades {
		t := &trades[i]
		price := w.priceRest.split(i, int64(t.Price), priceUnit)
		if i > 0 {
			before := &trades[i-1]
			w.put(colTradeID, zigzag(t.ID-before.ID-1))
			w.put(colTradeTime, zigzag(int64(t.EventTime-before.EventTime)/timeUnit))
			w.put(colTradeRecv, zigzag(int64((t.RecvTime-t.EventTime)-(before.RecvTime-before.EventTime))))
			w.put(colTradePrice, zigzag(price-lastPrice))
		}
		lastPrice = price
		if t.SentTime == 0 {
			w.put(colTradeSent, 0)
		} else {
			w.put(colTradeSent, zigzag(int64(t.SentTime-t.EventTime)/timeUnit)+1)
		}
		w.put(colTradeSize, uint64(w.sizeRest.split(i, int64(t.Quantity), sizeUnit)))
		flags := uint64(t.Flags) << 1
		if t.Side == market.Sell {
			flags |= 1
		}
		w.put(colTradeFlags, flags)
	}
	w.columns[colTradePriceRest] = append(w.columns[colTradePriceRest], w.priceRest.column...)
	w.columns[colTradeSizeRest] = append(w.columns[colTradeSizeRest], w.sizeRest.column...)
}

// Trades decodes the data of a block of trades, in the order in which they were appended.
func (d *Decoder) Trades(data []byte) (trades []market.Trade, err error) {
	defer market.Wrap(&err, "decode a block of trades")
	r, err := open(data, kindTrades)
	if err != nil {
		return nil, err
	}
	n := r.length(market.MaxBlockEvents)
	timeUnit, priceUnit, sizeUnit := r.unit(), r.unit(), r.unit()
	id, eventTime, delay, price := int64(r.uvarint()), r.varint()*timeUnit, r.varint(), r.varint()
	if r.err == nil && n == 0 {
		r.fail("a block without events")
	}
	if r.err != nil {
		return nil, r.err
	}
	if err := d.readColumns(&r, tradeColumns, maxColumnBytes); err != nil {
		return nil, err
	}
	var readers [colTradeFlags + 1]reader
	for i := range readers {
		readers[i].data = d.columns[i]
	}
	d.trades = slices.Grow(d.trades[:0], n)[:n]
	for i := range d.trades {
		if i > 0 {
			id += 1 + readers[colTradeID].varint()
			eventTime += readers[colTradeTime].varint() * timeUnit
			delay += readers[colTradeRecv].varint()
			price += readers[colTradePrice].varint()
		}
		t := market.Trade{ID: id, EventTime: market.Time(eventTime), RecvTime: market.Time(eventTime + delay), Side: market.Buy}
		if sent := readers[colTradeSent].uvarint(); sent != 0 {
			t.SentTime = market.Time(eventTime + unzigzag(sent-1)*timeUnit)
		}
		exact, err := scaled(uint64(price), priceUnit)
		if err != nil {
			return nil, err
		}
		size, err := scaled(readers[colTradeSize].uvarint(), sizeUnit)
		if err != nil {
			return nil, err
		}
		t.Price, t.Quantity = market.Decimal(exact), market.Decimal(size)
		flags := readers[colTradeFlags].length(511)
		if t.Flags = uint8(flags >> 1); flags&1 != 0 {
			t.Side = market.Sell
		}
		d.trades[i] = t
	}
	for i := range readers {
		if err := readers[i].end(); err != nil {
			return nil, err
		}
	}
	if err := addRemainders(d.columns[colTradePriceRest], n, func(i int) *market.Decimal { return &d.trades[i].Price }); err != nil {
		return nil, err
	}
	if err := addRemainders(d.columns[colTradeSizeRest], n, func(i int) *market.Decimal { return &d.trades[i].Quantity }); err != nil {
		return nil, err
	}
	return d.trades, nil
}
