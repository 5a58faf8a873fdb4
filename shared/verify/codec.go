package verify

import (
	"slices"

	"tapedeck/shared/market"
	"tapedeck/shared/tape"
)

// event is what events of all kinds have.
type event struct {
	ids
	prev int64 // the id before it
	time market.Time
}

// codec is how events of one kind are read.
type codec[E any] struct {
	decode func(*tape.Decoder, []byte) ([]E, error)
	event  func(*E) event
	same   func(a, b *E) bool // they are one event, seen by two recorders
	clone  func(*E) E
}

var depthCodec = codec[market.DepthUpdate]{
	decode: (*tape.Decoder).Depth,
	event: func(u *market.DepthUpdate) event {
		return event{ids{u.FirstID, u.LastID}, u.PrevID, u.EventTime}
	},
	same: func(a, b *market.DepthUpdate) bool {
		return a.FirstID == b.FirstID && a.LastID == b.LastID && a.PrevID == b.PrevID && a.EventTime == b.EventTime &&
			slices.Equal(a.Bids, b.Bids) && slices.Equal(a.Asks, b.Asks)
	},
	clone: func(u *market.DepthUpdate) market.DepthUpdate {
		c := *u
		c.Bids, c.Asks = slices.Clone(u.Bids), slices.Clone(u.Asks)
		return c
	},
}

var tradeCodec = codec[market.Trade]{
	decode: (*tape.Decoder).Trades,
	event: func(t *market.Trade) event {
		return event{ids{t.ID, t.ID}, t.ID - 1, t.EventTime}
	},
	// One that was fetched again has no SentTime; how it came does not matter.
	same: func(a, b *market.Trade) bool {
		return a.ID == b.ID && a.EventTime == b.EventTime && a.Price == b.Price && a.Quantity == b.Quantity &&
			a.Side == b.Side && (a.SentTime == b.SentTime || a.SentTime == 0 || b.SentTime == 0) &&
			a.Flags&^market.TradeFlagBackfilled == b.Flags&^market.TradeFlagBackfilled
	},
	clone: func(t *market.Trade) market.Trade { return *t },
}
