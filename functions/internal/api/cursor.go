package api

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"hash/crc32"

	"tapedeck/functions/internal/query"
	"tapedeck/shared/market"
)

// cursor is where a page ended, with the query that it is a page of, so that a cursor alone says all. It is opaque to
// callers but no secret: whoever makes one up can ask for nothing that parameters could not ask for.
type cursor struct {
	Version int           `json:"v"`
	Route   string        `json:"r"`
	Market  string        `json:"m"`
	Start   int64         `json:"s,omitempty"` // ns
	End     int64         `json:"e,omitempty"` // ns
	FromID  int64         `json:"f,omitempty"`
	Limit   int           `json:"l"`
	Strict  bool          `json:"x,omitempty"`
	Stream  market.Stream `json:"t,omitempty"`
	Cause   market.Cause  `json:"c,omitempty"`
	NextID  int64         `json:"n,omitempty"` // trades: where the next page begins
	After   *query.GapKey `json:"a,omitempty"` // gaps: the last entry of the page
}

const cursorVersion = 1

// maxCursorBytes bounds the text of a cursor; ours have less than 400.
const maxCursorBytes = 1024

// encode returns the text of c: JSON and its CRC-32, which tells a garbled cursor from a good one, in base64url.
func (c cursor) encode() string {
	c.Version = cursorVersion
	text, err := json.Marshal(c)
	if err != nil {
		panic(err) // strings and integers alone
	}
	text = binary.BigEndian.AppendUint32(text, crc32.ChecksumIEEE(text))
	return base64.RawURLEncoding.EncodeToString(text)
}

// cursor reads the cursor parameter; false when it is absent or not a cursor of this route and market.
func (p *params) cursor(route string, m market.Market) (cursor, bool) {
	text, ok := p.get("cursor")
	if !ok {
		return cursor{}, false
	}
	c, ok := decodeCursor(text)
	switch {
	case !ok:
		p.fail("cursor", "is not a cursor that this API gave")
	case c.Route != route || c.Market != m.String():
		p.fail("cursor", "belongs to another query")
		ok = false
	}
	return c, ok
}

func decodeCursor(text string) (c cursor, ok bool) {
	if len(text) > maxCursorBytes {
		return c, false
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(text)
	n := len(raw) - crc32.Size
	if err != nil || n < 0 || crc32.ChecksumIEEE(raw[:n]) != binary.BigEndian.Uint32(raw[n:]) {
		return c, false
	}
	if err := json.Unmarshal(raw[:n], &c); err != nil || c.Version != cursorVersion {
		return c, false
	}
	return c, c.Limit > 0 && c.Limit <= maxLimit
}

// continues checks that a parameter given beside a cursor says what the cursor says.
func continues[T comparable](p *params, name string, given, inCursor T) {
	if p.has(name) && given != inCursor {
		p.fail(name, "differs from the query that the cursor continues")
	}
}
