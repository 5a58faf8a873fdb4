package binance

import (
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"tapedeck/shared/market"
)

// Bounds of a frame. The largest depth update seen had 1,076 levels and 35 kB, and a book has at most some tens of
// thousands of levels (measured).
const (
	MaxFrameBytes = 4 << 20
	MaxLevels     = market.MaxUpdateLevels / 2 // on one side of a depth update
)

// Decoder decodes frames, raw or wrapped by the combined endpoint, with keys in any order and unknown keys ignored. It
// keeps its memory between calls and allocates nothing for depth updates, trades and tickers once it has grown. It
// belongs to one goroutine. The zero value is ready.
//
// Two readers do the work. The fast one takes frames as the exchange writes them: no white space, no escapes, no
// unknown key with a nested value. Everything else, errors included, is left to the slow one, which is built on
// encoding/json. What the fast one takes the slow one would read alike (FuzzDecode).
type Decoder struct {
	fields fields
	names  names

	depth  market.DepthUpdate
	trade  market.Trade
	ticker market.Ticker
	reply  Reply
	notice Shutdown
}

// Decode decodes one frame and stamps it with recv. Errors are of kind KindInvalid (not what the exchange documents) or
// KindTooLarge, and say where.
func (d *Decoder) Decode(frame []byte, recv market.Time) (Event, error) {
	if len(frame) > MaxFrameBytes {
		return Event{}, market.Errorf(market.KindTooLarge, "frame of %d bytes is larger than %d: %s",
			len(frame), MaxFrameBytes, excerpt(frame))
	}
	if d.scan(frame) {
		if event, err := d.event(recv); err == nil {
			return event, nil
		}
	}
	event, err := d.decodeSlowly(frame, recv)
	if err != nil {
		return Event{}, market.Errorf(market.KindOf(err), "frame of %d bytes: %w: %s", len(frame), err, excerpt(frame))
	}
	return event, nil
}

// excerptBytes is how much of a frame or a reply an error shows.
const excerptBytes = 80

// excerpt returns the beginning of text for an error message, with what does not belong into a line of a log replaced.
func excerpt(text []byte) string {
	shown := strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || r == utf8.RuneError {
			return '?'
		}
		return r
	}, string(text[:min(len(text), excerptBytes)]))
	if len(text) > excerptBytes {
		shown += "…"
	}
	return shown
}

// kind is what the "e" of an event names.
type kind uint8

const (
	kindNone   kind = iota // no "e"
	kindDepth              // "depthUpdate"
	kindTrade              // "trade"
	kindTicker             // "bookTicker"; spot sends it without an "e"
)

// fields is what a frame says, before it is checked: the union of the events that are used. Both readers fill it.
type fields struct {
	seen fieldSet
	kind kind

	eventTime, tradeTime             int64 // E, T: as sent
	firstID, lastID, prevID, tradeID int64 // U, u, pu, t
	symbol                           string
	price, quantity                  market.Decimal // p, q
	bid, ask                         market.Level   // b and B, a and A of a ticker
	buyerIsMaker, ignored            bool           // m, M
	bids, asks                       []market.Level // b, a of a depth update
}

// reset empties f but keeps the memory of the levels.
func (f *fields) reset() { *f = fields{bids: f.bids[:0], asks: f.asks[:0]} }

// fieldSet is a set of fields, each named by its letter.
type fieldSet uint64

// Names in a fieldSet of fields that share their letter with others or have two.
const (
	fieldBids   = 'z' + 1 // b when it holds levels
	fieldAsks   = 'z' + 2 // a when it holds levels
	fieldPrevID = 'z' + 3 // pu
)

// setOf returns the set of the given fields.
func setOf(names ...byte) fieldSet {
	var s fieldSet
	for _, name := range names {
		s |= bit(name)
	}
	return s
}

// bit returns the set of one field.
func bit(name byte) fieldSet { return 1 << (name - 'A') }

// String lists the fields as the exchange spells them.
func (s fieldSet) String() string {
	var list []string
	for name := byte('A'); name <= fieldPrevID; name++ {
		if s&bit(name) == 0 {
			continue
		}
		switch name {
		case fieldBids:
			list = append(list, "b")
		case fieldAsks:
			list = append(list, "a")
		case fieldPrevID:
			list = append(list, "pu")
		default:
			list = append(list, string(name))
		}
	}
	return strings.Join(list, ", ")
}

// The fields that an event must have.
var (
	depthFields  = setOf('E', 's', 'U', 'u', fieldBids, fieldAsks)
	tradeFields  = setOf('E', 's', 't', 'p', 'q', 'T', 'm')
	tickerFields = setOf('u', 's', 'b', 'B', 'a', 'A')
)

// event checks what was read and makes the event of it.
func (d *Decoder) event(recv market.Time) (Event, error) {
	f := &d.fields
	event := Event{Symbol: f.symbol}
	var err error
	switch f.kind {
	case kindDepth:
		event.Depth, err = &d.depth, d.depthUpdate(recv)
	case kindTrade:
		event.Trade, err = &d.trade, d.tradeEvent(recv)
	default: // by its shape
		event.Ticker, err = &d.ticker, d.tickerEvent()
	}
	if err != nil {
		return Event{}, err
	}
	return event, nil
}

func (d *Decoder) depthUpdate(recv market.Time) error {
	f := &d.fields
	if err := f.check("depth update", depthFields); err != nil {
		return err
	}
	eventTime, err := timeOf(f.eventTime)
	if err != nil {
		return err
	}
	// On futures ids are not contiguous within a market, and pu names the event before (USD-M web-socket docs,
	// "Diff. Book Depth Streams").
	prevID := f.firstID - 1
	if f.seen&bit(fieldPrevID) != 0 {
		prevID = f.prevID
	}
	switch {
	case f.firstID > f.lastID:
		return market.Errorf(market.KindInvalid, "depth update from id %d down to %d", f.firstID, f.lastID)
	case prevID >= f.lastID:
		return market.Errorf(market.KindInvalid, "depth update to id %d behind %d", f.lastID, prevID)
	case len(f.bids) > MaxLevels || len(f.asks) > MaxLevels:
		return market.Errorf(market.KindTooLarge, "depth update of %d bids and %d asks, at most %d are allowed",
			len(f.bids), len(f.asks), MaxLevels)
	}
	d.depth = market.DepthUpdate{
		FirstID: f.firstID, LastID: f.lastID, PrevID: prevID,
		EventTime: eventTime, RecvTime: recv, Bids: f.bids, Asks: f.asks,
	}
	return nil
}

func (d *Decoder) tradeEvent(recv market.Time) error {
	f := &d.fields
	if err := f.check("trade", tradeFields); err != nil {
		return err
	}
	eventTime, err := timeOf(f.tradeTime)
	if err != nil {
		return err
	}
	sentTime, err := timeOf(f.eventTime)
	if err != nil {
		return err
	}
	if f.price <= 0 || f.quantity <= 0 {
		return market.Errorf(market.KindInvalid, "trade %d of %v at %v", f.tradeID, f.quantity, f.price)
	}
	d.trade = market.Trade{
		ID: f.tradeID, EventTime: eventTime, SentTime: sentTime, RecvTime: recv,
		Price: f.price, Quantity: f.quantity, Side: market.Buy,
	}
	if f.buyerIsMaker {
		d.trade.Side = market.Sell
	}
	if f.ignored {
		d.trade.Flags = market.TradeFlagM
	}
	return nil
}

func (d *Decoder) tickerEvent() error {
	f := &d.fields
	if err := f.check("book ticker", tickerFields); err != nil {
		return err
	}
	// Zeros are legal here: an empty side of a book is shown so.
	d.ticker = market.Ticker{UpdateID: f.lastID, Bid: f.bid, Ask: f.ask}
	return nil
}

// check reports missing fields, an empty symbol and negative ids.
func (f *fields) check(what string, need fieldSet) error {
	if missing := need &^ f.seen; missing != 0 {
		return market.Errorf(market.KindInvalid, "%s without %v", what, missing)
	}
	if f.symbol == "" {
		return market.Errorf(market.KindInvalid, "%s with an empty symbol", what)
	}
	if min(f.firstID, f.lastID, f.prevID, f.tradeID) < 0 {
		return market.Errorf(market.KindInvalid, "%s with a negative id", what)
	}
	return nil
}

// Times are integers of milliseconds, or of microseconds where timeUnit=MICROSECOND was asked for; then they have 16
// digits (web-socket-streams.md, "General WSS information"). The year 2200 bounds both, and they do not overlap.
const (
	maxMillis = 7_258_118_400_000
	minMicros = 1_000_000_000_000_000
	maxMicros = maxMillis * 1000
)

// timeOf converts a time of a frame.
func timeOf(v int64) (market.Time, error) {
	switch {
	case v > 0 && v <= maxMillis:
		return market.Time(v) * market.Time(time.Millisecond), nil
	case v >= minMicros && v <= maxMicros:
		return market.Time(v) * market.Time(time.Microsecond), nil
	}
	return 0, market.Errorf(market.KindInvalid, "time %d is neither milliseconds nor microseconds", v)
}

// names interns symbols, so that an event does not allocate its own.
type names struct{ known map[string]string }

// maxNames bounds what is kept; an exchange lists some thousands of markets.
const maxNames = 8192

// intern returns text as a string.
func (n *names) intern(text []byte) string {
	if name, ok := n.known[string(text)]; ok {
		return name
	}
	if n.known == nil || len(n.known) >= maxNames {
		n.known = make(map[string]string)
	}
	name := string(text)
	n.known[name] = name
	return name
}
