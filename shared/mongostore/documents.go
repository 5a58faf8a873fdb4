package mongostore

import (
	"errors"
	"fmt"

	"tapedeck/shared/market"
)

// The documents. Field names are short, since MongoDB stores them in each document: a block holds about a second of
// one series, and beside its data it should weigh little. What the key says is not said again, unless an index needs
// it. Times are market.Time and prices market.Decimal: int64, both.

type blockDocument struct {
	ID     string `bson:"_id"` // blockKey
	Series string `bson:"series"`
	Last   int64  `bson:"last"`           // LastID
	Prev   *int64 `bson:"prev,omitempty"` // PrevID, where it is not FirstID-1
	Span   int64  `bson:"span"`           // SpanID
	End    int64  `bson:"end"`
	Events int    `bson:"n"`
	Data   []byte `bson:"data"`
}

func newBlockDocument(b *market.Block) *blockDocument {
	d := &blockDocument{
		ID: blockKey(b.Series, b.Key()), Series: b.Series.String(),
		Last: b.LastID, Span: b.SpanID, End: int64(b.End), Events: b.Events, Data: b.Data,
	}
	if b.PrevID != b.FirstID-1 {
		d.Prev = &b.PrevID
	}
	return d
}

func (d *blockDocument) key() string { return d.ID }

func (d *blockDocument) block(series market.Series) (market.Block, error) {
	parts, err := parseKey(d.ID, series.String(), 3)
	if err != nil {
		return market.Block{}, err
	}
	start, err1 := parseTimeKey(parts[0])
	first, err2 := parseIDKey(parts[1])
	length, err3 := parseIDKey(parts[2])
	if err := errors.Join(err1, err2, err3); err != nil {
		return market.Block{}, err
	}
	if d.Last-first != length {
		return market.Block{}, fmt.Errorf("key %s, but the last id is %d", d.ID, d.Last)
	}
	b := market.Block{
		Series: series, FirstID: first, LastID: d.Last, PrevID: first - 1, SpanID: d.Span,
		Start: start, End: market.Time(d.End), Events: d.Events, Data: d.Data,
	}
	if d.Prev != nil {
		b.PrevID = *d.Prev
	}
	return b, nil
}

type keyframeDocument struct {
	ID       string `bson:"_id"` // keyframeKey
	Recv     int64  `bson:"recv"`
	Snapshot int64  `bson:"snapshot"` // SnapshotID
	Applied  int64  `bson:"applied"`  // UpdatesApplied
	First    int64  `bson:"first"`    // FirstUpdateID
	Bid      int64  `bson:"bid"`      // VerifiedBid
	Ask      int64  `bson:"ask"`      // VerifiedAsk
	Data     []byte `bson:"data"`
}

func newKeyframeDocument(k *market.Keyframe) *keyframeDocument {
	return &keyframeDocument{
		ID: keyframeKey(k.Market, k.EventTime, k.UpdateID), Recv: int64(k.RecvTime), Snapshot: k.SnapshotID,
		Applied: k.UpdatesApplied, First: k.FirstUpdateID,
		Bid: int64(k.VerifiedBid), Ask: int64(k.VerifiedAsk), Data: k.Data,
	}
}

func (d *keyframeDocument) key() string { return d.ID }

func (d *keyframeDocument) keyframe(m market.Market) (market.Keyframe, error) {
	parts, err := parseKey(d.ID, m.String(), 2)
	if err != nil {
		return market.Keyframe{}, err
	}
	at, err1 := parseTimeKey(parts[0])
	id, err2 := parseIDKey(parts[1])
	return market.Keyframe{
		Market: m, UpdateID: id, EventTime: at, RecvTime: market.Time(d.Recv), SnapshotID: d.Snapshot,
		UpdatesApplied: d.Applied, FirstUpdateID: d.First,
		VerifiedBid: market.Decimal(d.Bid), VerifiedAsk: market.Decimal(d.Ask), Data: d.Data,
	}, errors.Join(err1, err2)
}

type spanDocument struct {
	Series string `bson:"series"`
	First  int64  `bson:"first"`
	Prev   int64  `bson:"prev"`
	Last   int64  `bson:"last"`
	Start  int64  `bson:"start"`
	End    int64  `bson:"end"`
}

func (d *spanDocument) span(series market.Series) (market.Span, error) {
	return market.Span{
		Series: series, FirstID: d.First, PrevID: d.Prev, LastID: d.Last,
		Start: market.Time(d.Start), End: market.Time(d.End),
	}, nil
}

// gapDocument is written without Last, which only grows and has an operator of its own.
type gapDocument struct {
	Market    string `bson:"market"`
	Stream    string `bson:"stream"`
	Cause     string `bson:"cause"`
	First     int64  `bson:"first"`
	Start     int64  `bson:"start"`
	End       int64  `bson:"end"` // 0 while open
	RecvStart int64  `bson:"recv_start"`
	RecvEnd   int64  `bson:"recv_end"`
	Detected  int64  `bson:"detected"`
	Repaired  int64  `bson:"repaired"` // 0 while not repaired
	Repair    string `bson:"repair"`
	Last      int64  `bson:"last,omitempty"`
}

func newGapDocument(g *market.Gap) *gapDocument {
	return &gapDocument{
		Market: g.Series.Market.String(), Stream: string(g.Series.Stream), Cause: string(g.Cause), First: g.FirstID,
		Start: int64(g.Start), End: int64(g.End), RecvStart: int64(g.RecvStart), RecvEnd: int64(g.RecvEnd),
		Detected: int64(g.DetectedAt), Repaired: int64(g.RepairedAt), Repair: string(g.Repair),
	}
}

func (d *gapDocument) gap(m market.Market) (market.Gap, error) {
	return market.Gap{
		Series: market.Series{Market: m, Stream: market.Stream(d.Stream)}, Cause: market.Cause(d.Cause),
		FirstID: d.First, LastID: d.Last, Start: market.Time(d.Start), End: market.Time(d.End),
		RecvStart: market.Time(d.RecvStart), RecvEnd: market.Time(d.RecvEnd),
		DetectedAt: market.Time(d.Detected), RepairedAt: market.Time(d.Repaired), Repair: market.Repair(d.Repair),
	}, nil
}

type listingDocument struct {
	ID      string `bson:"_id,omitempty"` // market.Market.String
	Status  string `bson:"status"`
	Tick    int64  `bson:"tick"`
	Lot     int64  `bson:"lot"`
	Updated int64  `bson:"updated"`
}

func newListingDocument(l *market.Listing) *listingDocument {
	return &listingDocument{
		ID: l.Market.String(), Status: l.Status, Tick: int64(l.TickSize), Lot: int64(l.LotSize),
		Updated: int64(l.UpdatedAt),
	}
}

func (d *listingDocument) listing() (market.Listing, error) {
	m, err := market.Parse(d.ID)
	return market.Listing{
		Market: m, Status: d.Status, TickSize: market.Decimal(d.Tick), LotSize: market.Decimal(d.Lot),
		UpdatedAt: market.Time(d.Updated),
	}, err
}

type recorderDocument struct {
	ID      string                 `bson:"_id,omitempty"`
	Version string                 `bson:"version"`
	Started int64                  `bson:"started"`
	Updated int64                  `bson:"updated"`
	Stopped bool                   `bson:"stopped"`
	Markets []marketStatusDocument `bson:"markets"`
}

type marketStatusDocument struct {
	Market string `bson:"market"`
	State  string `bson:"state"`
	Update int64  `bson:"update"` // LastUpdateID
	Trade  int64  `bson:"trade"`  // LastTradeID
	Event  int64  `bson:"event"`
	Recv   int64  `bson:"recv"`
}

func newRecorderDocument(s *market.RecorderStatus) *recorderDocument {
	d := &recorderDocument{
		ID: s.Recorder, Version: s.Version, Started: int64(s.StartedAt), Updated: int64(s.UpdatedAt), Stopped: s.Stopped,
		Markets: make([]marketStatusDocument, len(s.Markets)),
	}
	for i, m := range s.Markets {
		d.Markets[i] = marketStatusDocument{
			Market: m.Market.String(), State: string(m.State), Update: m.LastUpdateID, Trade: m.LastTradeID,
			Event: int64(m.EventTime), Recv: int64(m.RecvTime),
		}
	}
	return d
}

func (d *recorderDocument) status() (market.RecorderStatus, error) {
	s := market.RecorderStatus{
		Recorder: d.ID, Version: d.Version, StartedAt: market.Time(d.Started), UpdatedAt: market.Time(d.Updated),
		Stopped: d.Stopped,
	}
	var errs error
	for _, stored := range d.Markets {
		m, err := market.Parse(stored.Market)
		errs = errors.Join(errs, err)
		s.Markets = append(s.Markets, market.MarketStatus{
			Market: m, State: market.MarketState(stored.State), LastUpdateID: stored.Update, LastTradeID: stored.Trade,
			EventTime: market.Time(stored.Event), RecvTime: market.Time(stored.Recv),
		})
	}
	return s, errs
}
