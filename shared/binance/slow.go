package binance

import (
	"bytes"
	"encoding/json"
	"strings"
	"unicode/utf8"

	"tapedeck/shared/market"
)

// object is a JSON object with its keys as they are spelt: encoding/json matches the names of struct fields without
// regard to case, so that a struct with "U" alone would also take "u". Of a key that stands twice the last one counts.
type object map[string]json.RawMessage

// decodeSlowly is the slow reader: it takes everything that is JSON, knows every kind of frame, and says what is
// wrong.
func (d *Decoder) decodeSlowly(frame []byte, recv market.Time) (Event, error) {
	if !utf8.Valid(frame) { // which encoding/json would repair
		return Event{}, market.Errorf(market.KindInvalid, "not UTF-8")
	}
	if isArray(frame) && json.Valid(frame) {
		return Event{Other: OtherArray}, nil
	}
	o, err := parseObject(frame)
	if err != nil {
		return Event{}, err
	}
	if data := o["data"]; o.has("stream") && isArray(data) {
		return Event{Other: OtherArray}, nil
	} else if o.has("stream") && isObject(data) {
		if o, err = parseObject(data); err != nil {
			return Event{}, err
		}
	}
	d.fields.reset()
	if !o.has("e") {
		return d.decodeByShape(o, recv)
	}
	name, err := o.text("e")
	if err != nil {
		return Event{}, err
	}
	switch kind := kindOf(name); {
	case kind != kindNone:
		return d.decodeKnown(o, kind, recv)
	case name == "serverShutdown":
		return d.decodeShutdown(o)
	case name == "":
		return Event{}, market.Errorf(market.KindInvalid, "event with an empty name")
	}
	symbol, err := o.text("s")
	if err != nil {
		return Event{}, err
	}
	return Event{Symbol: symbol, Other: name}, nil
}

// decodeByShape decodes what has no "e".
func (d *Decoder) decodeByShape(o object, recv market.Time) (Event, error) {
	switch {
	case o.has("u", "s", "b", "B", "a", "A"):
		return d.decodeKnown(o, kindTicker, recv)
	case o.has("lastUpdateId", "bids", "asks"):
		return Event{Other: OtherPartialDepth}, nil
	case o.has("error"):
		return d.decodeFailure(o, o["error"])
	case o.has("code") && o.has("msg"):
		return d.decodeFailure(o, nil)
	}
	if result, ok := o["result"]; ok { // null is the usual one
		d.reply = Reply{ID: o.id(), Result: result}
		return Event{Reply: &d.reply}, nil
	}
	return Event{}, market.Errorf(market.KindInvalid, "neither an event nor a reply")
}

// decodeFailure decodes the reply to a control frame that failed. Code and message stand beside the id or, when inner
// is given, in an object of their own.
func (d *Decoder) decodeFailure(o object, inner json.RawMessage) (Event, error) {
	d.reply = Reply{ID: o.id()}
	if inner != nil {
		var err error
		if o, err = parseObject(inner); err != nil {
			return Event{}, err
		}
	}
	code, err := o.integer("code")
	if err != nil {
		return Event{}, err
	}
	d.reply.Code = int(code)
	if d.reply.Message, err = o.text("msg"); err != nil {
		return Event{}, err
	}
	if d.reply.Message == "" {
		d.reply.Message = "no message"
	}
	return Event{Reply: &d.reply}, nil
}

// decodeShutdown decodes the notice; that it came counts more than its time.
func (d *Decoder) decodeShutdown(o object) (Event, error) {
	d.notice = Shutdown{}
	if sent, err := o.integer("E"); err == nil && sent != 0 {
		if d.notice.EventTime, err = timeOf(sent); err != nil {
			return Event{}, err
		}
	}
	return Event{Notice: &d.notice}, nil
}

// decodeKnown decodes the fields of an event of the given kind into d.fields, and makes the event of them.
func (d *Decoder) decodeKnown(o object, kind kind, recv market.Time) (Event, error) {
	r := fieldReader{o: o, seen: &d.fields.seen}
	f := &d.fields
	f.kind = kind
	r.text('s', &f.symbol)
	switch kind {
	case kindDepth:
		r.integer('E', "E", &f.eventTime)
		r.integer('U', "U", &f.firstID)
		r.integer('u', "u", &f.lastID)
		r.integer(fieldPrevID, "pu", &f.prevID)
		r.levels(fieldBids, "b", &f.bids)
		r.levels(fieldAsks, "a", &f.asks)
	case kindTrade:
		r.integer('E', "E", &f.eventTime)
		r.integer('T', "T", &f.tradeTime)
		r.integer('t', "t", &f.tradeID)
		r.decimal('p', &f.price)
		r.decimal('q', &f.quantity)
		r.boolean('m', &f.buyerIsMaker)
		r.boolean('M', &f.ignored)
	default:
		r.integer('u', "u", &f.lastID)
		r.decimal('b', &f.bid.Price)
		r.decimal('B', &f.bid.Quantity)
		r.decimal('a', &f.ask.Price)
		r.decimal('A', &f.ask.Quantity)
	}
	if r.err != nil {
		return Event{}, r.err
	}
	return d.event(recv)
}

// fieldReader reads fields of an object until the first error. A field that is absent or null is left alone and is
// not marked as seen.
type fieldReader struct {
	o    object
	seen *fieldSet
	err  error
}

// take reports whether the field is there and marks it as seen.
func (r *fieldReader) take(name byte, key string) bool {
	if r.err != nil || !r.o.has(key) {
		return false
	}
	*r.seen |= bit(name)
	return true
}

func (r *fieldReader) integer(name byte, key string, to *int64) {
	if r.take(name, key) {
		*to, r.err = r.o.integer(key)
	}
}

func (r *fieldReader) text(name byte, to *string) {
	if r.take(name, string(name)) {
		*to, r.err = r.o.text(string(name))
	}
}

func (r *fieldReader) boolean(name byte, to *bool) {
	if r.take(name, string(name)) {
		r.err = r.o.unmarshal(string(name), to)
	}
}

func (r *fieldReader) decimal(name byte, to *market.Decimal) {
	var text string
	if r.text(name, &text); r.err == nil && *r.seen&bit(name) != 0 {
		*to, r.err = parseAmount(text)
	}
}

func (r *fieldReader) levels(name byte, key string, to *[]market.Level) {
	if r.take(name, key) {
		*to, r.err = parseLevels(r.o[key], (*to)[:0])
	}
}

// parseLevels parses [["price","quantity"],…] and appends to dst.
func parseLevels(text []byte, dst []market.Level) ([]market.Level, error) {
	var pairs [][]string
	if err := json.Unmarshal(text, &pairs); err != nil {
		return dst, market.Errorf(market.KindInvalid, "levels: %w", err)
	}
	if len(pairs) > MaxLevels {
		return dst, market.Errorf(market.KindTooLarge, "%d levels on a side, at most %d are allowed",
			len(pairs), MaxLevels)
	}
	for i, pair := range pairs {
		if len(pair) != 2 {
			return dst, market.Errorf(market.KindInvalid, "level %d has %d parts, not price and quantity", i, len(pair))
		}
		price, err := parseAmount(pair[0])
		if err == nil && price == 0 {
			err = market.Errorf(market.KindInvalid, "price is zero")
		}
		if err != nil {
			return dst, market.Errorf(market.KindInvalid, "level %d: %w", i, err)
		}
		quantity, err := parseAmount(pair[1])
		if err != nil {
			return dst, market.Errorf(market.KindInvalid, "level %d: %w", i, err)
		}
		dst = append(dst, market.Level{Price: price, Quantity: quantity})
	}
	return dst, nil
}

// parseAmount parses a decimal that cannot be negative.
func parseAmount(text string) (market.Decimal, error) {
	if strings.HasPrefix(text, "-") {
		return 0, market.Errorf(market.KindInvalid, "decimal %.*q is negative", market.MaxDecimalText, text)
	}
	return market.ParseDecimal(text)
}

func parseObject(text []byte) (object, error) {
	var o object
	if err := json.Unmarshal(text, &o); err != nil {
		return nil, market.Errorf(market.KindInvalid, "%w", err)
	}
	if o == nil {
		return nil, market.Errorf(market.KindInvalid, "null is no object")
	}
	return o, nil
}

// has reports whether all keys are there and not null.
func (o object) has(keys ...string) bool {
	for _, key := range keys {
		if value, ok := o[key]; !ok || string(value) == "null" {
			return false
		}
	}
	return true
}

// integer returns an integer; 0 when it is absent or null.
func (o object) integer(key string) (v int64, err error) {
	err = o.unmarshal(key, &v)
	return v, err
}

// text returns a string; "" when it is absent or null.
func (o object) text(key string) (v string, err error) {
	err = o.unmarshal(key, &v)
	return v, err
}

// id returns the id of a control frame; 0 when it is absent, null or a string.
func (o object) id() int64 {
	id, err := o.integer("id")
	if err != nil {
		return 0
	}
	return id
}

func (o object) unmarshal(key string, to any) error {
	if !o.has(key) {
		return nil
	}
	if err := json.Unmarshal(o[key], to); err != nil {
		return market.Errorf(market.KindInvalid, "field %s: %w", key, err)
	}
	return nil
}

// jsonSpace is what JSON knows as white space.
const jsonSpace = " \t\r\n"

func isArray(text []byte) bool { return bytes.HasPrefix(bytes.TrimLeft(text, jsonSpace), []byte("[")) }

func isObject(text []byte) bool { return bytes.HasPrefix(bytes.TrimLeft(text, jsonSpace), []byte("{")) }
