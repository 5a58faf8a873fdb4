package binance

import (
	"unicode/utf8"

	"tapedeck/shared/market"
)

// wrapperData stands between stream name and event in a frame of the combined endpoint.
const wrapperData = `,"data":`

// scan is the fast reader: it fills d.fields from a frame that is written as the exchange writes it, and reports
// whether it could. All scanners below return the index behind what they read, or a negative one.
func (d *Decoder) scan(frame []byte) bool {
	d.fields.reset()
	i, end := 0, len(frame)
	if len(frame) > len(wrapperPrefix) && string(frame[:len(wrapperPrefix)]) == wrapperPrefix {
		if i = scanString(frame, len(wrapperPrefix)); i < 0 || !hasAt(frame, i, wrapperData) {
			return false
		}
		i += len(wrapperData)
		if end--; at(frame, end) != '}' {
			return false
		}
	}
	if at(frame, i) != '{' {
		return false
	}
	var seen fieldSet // with whatever value
	for {
		i++
		var name byte
		if name, i = scanKey(frame, i); i < 0 {
			return false
		}
		if name != 0 {
			if seen&bit(name) != 0 { // which of the two counts is not decided here
				return false
			}
			seen |= bit(name)
		}
		if i = d.scanField(frame, i, name); i < 0 {
			return false
		}
		switch at(frame, i) {
		case ',':
		case '}':
			return i+1 == end && (d.fields.kind != kindNone || tickerFields&^d.fields.seen == 0)
		default:
			return false
		}
	}
}

// scanKey reads a key and its colon. It returns the letter of a key of one letter, fieldPrevID for pu, 0 for others.
func scanKey(b []byte, i int) (byte, int) {
	if len(b)-i < 5 || b[i] != '"' {
		return 0, -1
	}
	letter := b[i+1]
	if b[i+2] == '"' && b[i+3] == ':' && ('A' <= letter && letter <= 'Z' || 'a' <= letter && letter <= 'z') {
		return letter, i + 4
	}
	if hasAt(b, i, `"pu":`) {
		return fieldPrevID, i + 5
	}
	if i = scanString(b, i+1); at(b, i) != ':' {
		return 0, -1
	}
	return 0, i + 1
}

// scanField reads the value of the named field.
func (d *Decoder) scanField(b []byte, i int, name byte) int {
	f := &d.fields
	switch name {
	case 'E':
		f.eventTime, i = scanInt(b, i)
	case 'T':
		f.tradeTime, i = scanInt(b, i)
	case 'U':
		f.firstID, i = scanInt(b, i)
	case 'u':
		f.lastID, i = scanInt(b, i)
	case 't':
		f.tradeID, i = scanInt(b, i)
	case fieldPrevID:
		f.prevID, i = scanInt(b, i)
	case 'p':
		f.price, i = scanQuoted(b, i)
	case 'q':
		f.quantity, i = scanQuoted(b, i)
	case 'B':
		f.bid.Quantity, i = scanQuoted(b, i)
	case 'A':
		f.ask.Quantity, i = scanQuoted(b, i)
	case 'm':
		f.buyerIsMaker, i = scanBool(b, i)
	case 'M':
		f.ignored, i = scanBool(b, i)
	case 'b':
		name, i = scanSide(b, i, 'b', fieldBids, &f.bid.Price, &f.bids)
	case 'a':
		name, i = scanSide(b, i, 'a', fieldAsks, &f.ask.Price, &f.asks)
	case 'e', 's':
		return d.scanName(b, i, name)
	default:
		return scanScalar(b, i)
	}
	if name != 0 {
		f.seen |= bit(name)
	}
	return i
}

// scanName reads the kind of event or the symbol.
func (d *Decoder) scanName(b []byte, i int, name byte) int {
	if at(b, i) != '"' {
		return -1
	}
	end := scanString(b, i+1)
	if end < 0 {
		return -1
	}
	text := b[i+1 : end-1]
	if name == 's' {
		d.fields.symbol = d.names.intern(text)
	} else if d.fields.kind = kindOf(string(text)); d.fields.kind == kindNone {
		return -1
	}
	d.fields.seen |= bit(name)
	return end
}

// kindOf reads the "e" of an event.
func kindOf(name string) kind {
	switch name {
	case "depthUpdate":
		return kindDepth
	case "trade":
		return kindTrade
	case "bookTicker":
		return kindTicker
	}
	return kindNone
}

// scanSide reads one side of a book: the levels of a depth update, the price of a ticker, or the order id that trades
// had until June 2024. It returns the name of the field that it filled, or 0.
func scanSide(b []byte, i int, price, levels byte, toPrice *market.Decimal, to *[]market.Level) (byte, int) {
	switch at(b, i) {
	case '[':
		*to, i = scanLevels(b, i, (*to)[:0])
		return levels, i
	case '"':
		*toPrice, i = scanDecimal(b, i+1)
		return price, i
	}
	return 0, scanScalar(b, i)
}

// scanLevels reads an array of levels, [["price","quantity"],…], and appends them to dst. Prices of zero and more than
// MaxLevels levels are left to the slow reader.
func scanLevels(b []byte, i int, dst []market.Level) ([]market.Level, int) {
	if hasAt(b, i, "[]") {
		return dst, i + 2
	}
	var l market.Level
	for len(dst) < MaxLevels {
		if l, i = scanLevel(b, i+1); i < 0 { // behind the opening bracket or a comma
			return dst, -1
		}
		dst = append(dst, l)
		switch at(b, i) {
		case ',':
		case ']':
			return dst, i + 1
		default:
			return dst, -1
		}
	}
	return dst, -1
}

// scanQuoted reads a decimal in quotes.
func scanQuoted(b []byte, i int) (market.Decimal, int) {
	if at(b, i) != '"' {
		return 0, -1
	}
	return scanDecimal(b, i+1)
}

func scanBool(b []byte, i int) (bool, int) {
	switch {
	case hasAt(b, i, "true"):
		return true, i + 4
	case hasAt(b, i, "false"):
		return false, i + 5
	}
	return false, -1
}

// scanString reads to the closing quote of a string without escapes; i is behind the opening one.
func scanString(b []byte, i int) int {
	for start, ascii := i, true; uint(i) < uint(len(b)); i++ {
		switch c := b[i]; {
		case c == '"':
			if !ascii && !utf8.Valid(b[start:i]) {
				return -1
			}
			return i + 1
		case c == '\\' || c < ' ':
			return -1
		case c >= utf8.RuneSelf:
			ascii = false
		}
	}
	return -1
}

// scanScalar skips a value that is not used: a string, an integer, a boolean or null.
func scanScalar(b []byte, i int) int {
	switch at(b, i) {
	case '"':
		return scanString(b, i+1)
	case 't', 'f':
		_, i = scanBool(b, i)
		return i
	case 'n':
		if hasAt(b, i, "null") {
			return i + 4
		}
		return -1
	}
	_, i = scanInt(b, i)
	return i
}

// hasAt reports whether text stands at b[i:].
func hasAt(b []byte, i int, text string) bool {
	return i >= 0 && len(b)-i >= len(text) && string(b[i:i+len(text)]) == text
}
