package binance

import (
	"bytes"
	"unicode/utf8"

	"tapedeck/shared/market"
)

// DecodeSnapshot decodes a reply of /api/v3/depth, {"lastUpdateId":…,"bids":[…],"asks":[…]}, as REST gives it and as
// it stands in recordings. Times are left zero: spot does not send any. Each side is checked to be best first without
// a level twice, without empty levels, and the book not to be crossed. The caller owns the result. Errors are of kind
// KindCorrupt, or KindTooLarge for more than MaxLevels levels on a side.
func DecodeSnapshot(body []byte) (market.Snapshot, error) {
	s, ok := scanSnapshot(body)
	if !ok {
		var err error
		if s, err = decodeSnapshotSlowly(body); err != nil {
			return market.Snapshot{}, corrupt(err, "snapshot", body)
		}
	}
	if err := checkSnapshot(&s); err != nil {
		return market.Snapshot{}, corrupt(err, "snapshot", body)
	}
	return s, nil
}

// corrupt says that a reply of REST is not what it must be, with its beginning.
func corrupt(err error, what string, body []byte) error {
	kind := market.KindCorrupt
	if market.KindOf(err) == market.KindTooLarge {
		kind = market.KindTooLarge
	}
	return market.Errorf(kind, "%s of %d bytes: %w: %s", what, len(body), err, excerpt(body))
}

// scanSnapshot reads a snapshot that is written as the exchange writes it; see Decoder.
func scanSnapshot(b []byte) (s market.Snapshot, ok bool) {
	const (
		prefix = `{"lastUpdateId":`
		bids   = `,"bids":`
		asks   = `,"asks":`
	)
	if !hasAt(b, 0, prefix) {
		return s, false
	}
	lastID, i := scanInt(b, len(prefix))
	if !hasAt(b, i, bids+"[") {
		return s, false
	}
	s.LastID = lastID
	if s.Bids, i = scanLevels(b, i+len(bids), nil); !hasAt(b, i, asks+"[") {
		return s, false
	}
	if s.Asks, i = scanLevels(b, i+len(asks), nil); i < 0 {
		return s, false
	}
	return s, hasAt(b, i, "}") && len(bytes.TrimLeft(b[i+1:], jsonSpace)) == 0
}

// decodeSnapshotSlowly reads every snapshot that is JSON, and says what is wrong with others.
func decodeSnapshotSlowly(body []byte) (s market.Snapshot, err error) {
	if !utf8.Valid(body) {
		return s, market.Errorf(market.KindInvalid, "not UTF-8")
	}
	o, err := parseObject(body)
	if err != nil {
		return s, err
	}
	for _, key := range []string{"lastUpdateId", "bids", "asks"} {
		if !o.has(key) {
			return s, market.Errorf(market.KindInvalid, "field %s is missing", key)
		}
	}
	if s.LastID, err = o.integer("lastUpdateId"); err != nil {
		return s, err
	}
	if s.Bids, err = parseLevels(o["bids"], nil); err != nil {
		return s, err
	}
	s.Asks, err = parseLevels(o["asks"], nil)
	return s, err
}

func checkSnapshot(s *market.Snapshot) error {
	if s.LastID < 0 {
		return market.Errorf(market.KindInvalid, "last update id %d", s.LastID)
	}
	for i, l := range s.Bids {
		if l.Quantity == 0 || i > 0 && l.Price >= s.Bids[i-1].Price {
			return market.Errorf(market.KindInvalid, "bid %d (%v at %v) is empty or not below the one before", i, l.Quantity, l.Price)
		}
	}
	for i, l := range s.Asks {
		if l.Quantity == 0 || i > 0 && l.Price <= s.Asks[i-1].Price {
			return market.Errorf(market.KindInvalid, "ask %d (%v at %v) is empty or not above the one before", i, l.Quantity, l.Price)
		}
	}
	if len(s.Bids) > 0 && len(s.Asks) > 0 && s.Bids[0].Price >= s.Asks[0].Price {
		return market.Errorf(market.KindInvalid, "best bid %v is not below best ask %v", s.Bids[0].Price, s.Asks[0].Price)
	}
	return nil
}
