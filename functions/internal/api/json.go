package api

import (
	"strconv"
	"time"

	"tapedeck/shared/market"
)

// encodeResponse returns a response in the form that both payload formats of the gateway take. headers are names and
// values in turns. The body is JSON.
func encodeResponse(status int, body []byte, contentType string, headers ...string) []byte {
	dst := make([]byte, 0, len(body)+len(body)/4+256)
	dst = append(dst, `{"statusCode":`...)
	dst = strconv.AppendInt(dst, int64(status), 10)
	dst = append(dst, `,"headers":{"Content-Type":"`...)
	dst = append(dst, contentType...)
	for i := 0; i < len(headers); i += 2 {
		dst = append(dst, `","`...)
		dst = append(dst, headers[i]...)
		dst = append(dst, `":"`...)
		dst = append(dst, headers[i+1]...)
	}
	dst = append(dst, `"},"isBase64Encoded":false,"body":"`...)
	// JSON holds no control characters and is valid UTF-8, so two characters are all that a string of it must escape.
	start := 0
	for i, c := range body {
		if c == '"' || c == '\\' {
			dst = append(dst, body[start:i]...)
			dst = append(dst, '\\')
			start = i
		}
	}
	dst = append(dst, body[start:]...)
	return append(dst, `"}`...)
}

// appendTime appends the RFC 3339 text of t in quotation marks, or null for 0.
func appendTime(dst []byte, t market.Time) []byte {
	if t == 0 {
		return append(dst, "null"...)
	}
	dst = append(dst, '"')
	dst = t.Std().AppendFormat(dst, time.RFC3339Nano)
	return append(dst, '"')
}

func appendDecimal(dst []byte, d market.Decimal) []byte {
	dst = append(dst, '"')
	dst = d.Append(dst)
	return append(dst, '"')
}

// appendLevels appends levels as [["price","quantity"],…].
func appendLevels(dst []byte, levels []market.Level) []byte {
	dst = append(dst, '[')
	for i, l := range levels {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, '[')
		dst = appendDecimal(dst, l.Price)
		dst = append(dst, ',')
		dst = appendDecimal(dst, l.Quantity)
		dst = append(dst, ']')
	}
	return append(dst, ']')
}

// appendPage appends as many items as fit into most bytes, and at least one, as an array, and returns how many these
// were.
func appendPage[T any](dst []byte, items []T, most int, appendItem func([]byte, *T) []byte) ([]byte, int) {
	dst = append(dst, '[')
	for i := range items {
		before := len(dst)
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendItem(dst, &items[i])
		if i > 0 && len(dst) >= most {
			return append(dst[:before], ']'), i
		}
	}
	return append(dst, ']'), len(items)
}

// instant is a time that is null in JSON when it is not known.
type instant market.Time

// MarshalJSON implements json.Marshaler.
func (t instant) MarshalJSON() ([]byte, error) { return appendTime(nil, market.Time(t)), nil }

// optional is a number or text that is null in JSON when it is zero.
type optional[T comparable] struct{ v T }

// MarshalJSON implements json.Marshaler.
func (o optional[T]) MarshalJSON() ([]byte, error) {
	var zero T
	if o.v == zero {
		return []byte("null"), nil
	}
	return mustMarshal(o.v), nil
}
