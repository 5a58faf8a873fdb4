package api

import (
	"context"
	"strconv"
	"time"

	"tapedeck/functions/internal/query"
	"tapedeck/shared/market"
)

// Bounds of depth.
const (
	defaultDepth = 100
	maxDepth     = 5000
)

// maxAgeMillis bounds max_age_ms: a hundred years.
const maxAgeMillis = 100 * 365 * 24 * 3600 * 1000

// settledAfter is how old an instant must be for its book to be cached: what is stored of it has arrived.
const settledAfter = time.Minute

// bookMeta is the proof of a book.
type bookMeta struct {
	State          query.State     `json:"state"`
	SnapshotID     int64           `json:"snapshot_update_id"`
	KeyframeID     int64           `json:"keyframe_update_id"`
	UpdatesApplied int64           `json:"updates_applied"`
	FirstUpdateID  optional[int64] `json:"first_update_id"`
	LastUpdateID   int64           `json:"last_update_id"`
	Verified       verifiedLevels  `json:"verified_levels"`
	AgeMillis      int64           `json:"age_ms"`
}

type verifiedLevels struct {
	Bids int `json:"bids"`
	Asks int `json:"asks"`
}

// Book answers GET /v1/markets/{exchange}/{symbol}/book.
func Book(ctx context.Context, s *query.Service, r *Request) (*Reply, error) {
	p := newParams(r)
	q := query.BookQuery{
		Depth:  int(p.integer("depth", defaultDepth, 1, maxDepth)),
		Strict: p.boolean("strict"),
		MaxAge: milliseconds(p.integer("max_age_ms", 0, 1, maxAgeMillis)),
	}
	at, id := p.time("at"), p.integer("update_id", 0, 0, maxID)
	switch {
	case p.has("at") && p.has("update_id"):
		p.fail("at", "excludes update_id")
		p.fail("update_id", "excludes at")
	case p.has("at"):
		q.At = &at
	case p.has("update_id"):
		q.UpdateID = &id
	}
	if err := p.err(); err != nil {
		return nil, err
	}
	var err error
	if q.Market, err = r.Market(); err != nil {
		return nil, err
	}
	book, err := s.Book(ctx, q)
	if err != nil {
		return nil, err
	}
	reply := &Reply{Data: appendBook(nil, book), Gaps: book.Gaps, Book: metaOf(book)}
	reply.Fixed = book.State == query.Synced && (q.UpdateID != nil || (q.At != nil && s.Settled(at, settledAfter)))
	return reply, nil
}

func metaOf(b *query.Book) *bookMeta {
	return &bookMeta{
		State:          b.State,
		SnapshotID:     b.SnapshotID,
		KeyframeID:     b.KeyframeID,
		UpdatesApplied: b.UpdatesApplied,
		FirstUpdateID:  optional[int64]{b.FirstUpdateID},
		LastUpdateID:   b.LastID,
		Verified:       verifiedLevels{Bids: b.VerifiedBids, Asks: b.VerifiedAsks},
		AgeMillis:      b.Age.Milliseconds(),
	}
}

// levelBytes is about what one level takes in JSON.
const levelBytes = 40

func appendBook(dst []byte, b *query.Book) []byte {
	if dst == nil {
		dst = make([]byte, 0, 256+levelBytes*(len(b.Bids)+len(b.Asks)))
	}
	dst = appendMarket(append(dst, '{'), b.Market)
	dst = append(dst, `,"ts_event":`...)
	dst = appendTime(dst, b.EventTime)
	dst = append(dst, `,"ts_recv":`...)
	dst = appendTime(dst, b.RecvTime)
	dst = append(dst, `,"last_update_id":`...)
	dst = strconv.AppendInt(dst, b.LastID, 10)
	dst = append(dst, `,"bids":`...)
	dst = appendLevels(dst, b.Bids)
	dst = append(dst, `,"asks":`...)
	dst = appendLevels(dst, b.Asks)
	return append(dst, '}')
}

// appendMarket appends the two members that name a market.
func appendMarket(dst []byte, m market.Market) []byte {
	dst = append(dst, `"exchange":`...)
	dst = append(dst, mustMarshal(m.Exchange)...)
	dst = append(dst, `,"symbol":`...)
	return append(dst, mustMarshal(m.Symbol)...)
}
