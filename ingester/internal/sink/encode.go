package sink

import (
	"errors"
	"fmt"

	"github.com/fxamacker/cbor/v2"

	"tapedeck/ingester/internal/spool"
	"tapedeck/shared/market"
)

// What one Put handed over stands in the spool as one CBOR map (RFC 8949) with small integers for keys: what an older
// version left there can be read by a newer one, which may add keys and must never give a key another meaning; where it
// has to, it raises wireVersion, and an older one leaves what it wrote alone. Spans and Block.SpanID are not in it; the
// account makes them on the way to the store.
type (
	wireEnvelope struct {
		Version  int         `cbor:"0,keyasint"`
		Session  int64       `cbor:"1,keyasint"`
		Received market.Time `cbor:"2,keyasint,omitempty"`

		Blocks    []wireBlock    `cbor:"3,keyasint,omitempty"`
		Keyframes []wireKeyframe `cbor:"4,keyasint,omitempty"`
		Gaps      []wireGap      `cbor:"5,keyasint,omitempty"`
		Listings  []wireListing  `cbor:"6,keyasint,omitempty"`
		Statuses  []wireStatus   `cbor:"7,keyasint,omitempty"`

		Unfinished bool `cbor:"8,keyasint,omitempty"` // since version 2
	}

	wireMarket struct {
		_        struct{} `cbor:",toarray"`
		Exchange market.Exchange
		Symbol   string
	}

	wireSeries struct {
		_        struct{} `cbor:",toarray"`
		Exchange market.Exchange
		Symbol   string
		Stream   market.Stream
	}

	wireBlock struct {
		Series  wireSeries  `cbor:"1,keyasint"`
		FirstID int64       `cbor:"2,keyasint"`
		LastID  int64       `cbor:"3,keyasint"`
		PrevID  int64       `cbor:"4,keyasint"`
		Start   market.Time `cbor:"5,keyasint"`
		End     market.Time `cbor:"6,keyasint"`
		Events  int         `cbor:"7,keyasint"`
		Data    []byte      `cbor:"8,keyasint"`
	}

	wireKeyframe struct {
		Market         wireMarket     `cbor:"1,keyasint"`
		UpdateID       int64          `cbor:"2,keyasint"`
		EventTime      market.Time    `cbor:"3,keyasint"`
		RecvTime       market.Time    `cbor:"4,keyasint"`
		SnapshotID     int64          `cbor:"5,keyasint"`
		UpdatesApplied int64          `cbor:"6,keyasint"`
		FirstUpdateID  int64          `cbor:"7,keyasint"`
		VerifiedBid    market.Decimal `cbor:"8,keyasint"`
		VerifiedAsk    market.Decimal `cbor:"9,keyasint"`
		Data           []byte         `cbor:"10,keyasint"`
	}

	wireGap struct {
		Series     wireSeries    `cbor:"1,keyasint"`
		Cause      market.Cause  `cbor:"2,keyasint"`
		FirstID    int64         `cbor:"3,keyasint"`
		LastID     int64         `cbor:"4,keyasint"`
		Start      market.Time   `cbor:"5,keyasint"`
		End        market.Time   `cbor:"6,keyasint"`
		RecvStart  market.Time   `cbor:"7,keyasint"`
		RecvEnd    market.Time   `cbor:"8,keyasint"`
		DetectedAt market.Time   `cbor:"9,keyasint"`
		RepairedAt market.Time   `cbor:"10,keyasint"`
		Repair     market.Repair `cbor:"11,keyasint,omitempty"`
	}

	wireListing struct {
		Market    wireMarket     `cbor:"1,keyasint"`
		Status    string         `cbor:"2,keyasint"`
		TickSize  market.Decimal `cbor:"3,keyasint"`
		LotSize   market.Decimal `cbor:"4,keyasint"`
		UpdatedAt market.Time    `cbor:"5,keyasint"`
	}

	wireStatus struct {
		Recorder  string             `cbor:"1,keyasint"`
		Version   string             `cbor:"2,keyasint"`
		StartedAt market.Time        `cbor:"3,keyasint"`
		UpdatedAt market.Time        `cbor:"4,keyasint"`
		Stopped   bool               `cbor:"5,keyasint,omitempty"`
		Markets   []wireMarketStatus `cbor:"6,keyasint"`
	}

	// wireNote is the spool's note.
	wireNote struct {
		Version  int            `cbor:"0,keyasint"`
		Settled  spool.Position `cbor:"1,keyasint"`
		Standing []wireStanding `cbor:"2,keyasint,omitempty"`
	}

	wireStanding struct {
		Front     wireSpan     `cbor:"1,keyasint"`
		Back      *wireSpan    `cbor:"2,keyasint,omitempty"`
		Received  market.Time  `cbor:"3,keyasint"`
		Session   int64        `cbor:"4,keyasint"`
		Lost      market.Cause `cbor:"5,keyasint,omitempty"`
		Hint      market.Cause `cbor:"6,keyasint,omitempty"`
		Explained [][2]int64   `cbor:"7,keyasint,omitempty"` // first and last ids
		Keyframe  int64        `cbor:"9,keyasint,omitempty"`
		Missed    int64        `cbor:"10,keyasint,omitempty"` // 8 was another form of it
	}

	wireSpan struct {
		Series  wireSeries  `cbor:"1,keyasint"`
		FirstID int64       `cbor:"2,keyasint"`
		PrevID  int64       `cbor:"3,keyasint"`
		LastID  int64       `cbor:"4,keyasint"`
		Start   market.Time `cbor:"5,keyasint"`
		End     market.Time `cbor:"6,keyasint"`
	}

	wireMarketStatus struct {
		Market       wireMarket         `cbor:"1,keyasint"`
		State        market.MarketState `cbor:"2,keyasint"`
		LastUpdateID int64              `cbor:"3,keyasint"`
		LastTradeID  int64              `cbor:"4,keyasint"`
		EventTime    market.Time        `cbor:"5,keyasint"`
		RecvTime     market.Time        `cbor:"6,keyasint"`
	}
)

// wireVersion is the version of the encoding. All versions before it can be read.
const wireVersion = 2

// Bounds of what is decoded. A batch of a recorder holds a block or two, and statuses hold every market of a process.
const (
	maxWireElements = 1 << 16
	maxWirePairs    = 64
	maxWireDepth    = 8
)

var encoding, decoding = wireModes()

func wireModes() (cbor.EncMode, cbor.DecMode) {
	enc, err := cbor.EncOptions{IndefLength: cbor.IndefLengthForbidden, TagsMd: cbor.TagsForbidden}.EncMode()
	if err != nil {
		panic(err)
	}
	dec, err := cbor.DecOptions{
		DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthForbidden, TagsMd: cbor.TagsForbidden,
		MaxArrayElements: maxWireElements, MaxMapPairs: maxWirePairs, MaxNestedLevels: maxWireDepth,
	}.DecMode()
	if err != nil {
		panic(err)
	}
	return enc, dec
}

// encode returns the form in which a delivery stands in the spool.
func encode(v *delivery) ([]byte, error) {
	b := &v.batch
	data, err := encoding.Marshal(&wireEnvelope{
		Version: wireVersion, Session: v.session, Received: v.received,
		Blocks: convert(b.Blocks, toWireBlock), Keyframes: convert(b.Keyframes, toWireKeyframe),
		Gaps: convert(b.Gaps, toWireGap), Listings: convert(b.Listings, toWireListing),
		Statuses: convert(b.Statuses, toWireStatus), Unfinished: v.unfinished,
	})
	if err != nil {
		return nil, fmt.Errorf("encode %d records: %w", b.Len(), err)
	}
	return data, nil
}

// errNewer is what a later version of this program wrote.
var errNewer = errors.New("a newer version of this program wrote it")

// readable reports whether records of a version can be read here.
func readable(version int) bool { return 0 < version && version <= wireVersion }

// unreadable returns what is wrong with data, which could not be decoded for the reason given or has another version.
func unreadable(what string, data []byte, reason error) error {
	var w struct {
		Version int `cbor:"0,keyasint"`
	}
	switch err := decoding.Unmarshal(data, &w); {
	case err == nil && w.Version > wireVersion:
		return fmt.Errorf("%s has version %d, and %d is known here: %w", what, w.Version, wireVersion, errNewer)
	case reason != nil:
		return market.Errorf(market.KindCorrupt, "decode %s of %d bytes: %w", what, len(data), reason)
	default:
		return market.Errorf(market.KindCorrupt, "%s has version %d, which there never was", what, w.Version)
	}
}

// decode reads what encode returned. The result shares no memory with data. The error is errNewer for what a later
// encode returned, and of kind KindCorrupt for whatever else data holds; whether the records make sense is for the store
// to say.
func decode(data []byte) (delivery, error) {
	var w wireEnvelope
	if err := decoding.Unmarshal(data, &w); err != nil || !readable(w.Version) {
		return delivery{}, unreadable("a spooled record", data, err)
	}
	if w.Unfinished && len(w.Blocks) != 1 {
		return delivery{}, market.Errorf(market.KindCorrupt, "a spooled record has %d blocks, of which one is unfinished", len(w.Blocks))
	}
	return delivery{
		session: w.Session, received: w.Received, unfinished: w.Unfinished,
		batch: market.Batch{
			Blocks: convert(w.Blocks, fromWireBlock), Keyframes: convert(w.Keyframes, fromWireKeyframe),
			Gaps: convert(w.Gaps, fromWireGap), Listings: convert(w.Listings, fromWireListing),
			Statuses: convert(w.Statuses, fromWireStatus),
		},
	}, nil
}

// wireKeys is as much of a wireEnvelope as tells where series end.
type wireKeys struct {
	Version int `cbor:"0,keyasint"`
	Blocks  []struct {
		Series wireSeries  `cbor:"1,keyasint"`
		LastID int64       `cbor:"3,keyasint"`
		End    market.Time `cbor:"6,keyasint"`
	} `cbor:"3,keyasint"`
}

// decodeKeys returns Series, LastID and End of the blocks in what encode returned; none where data holds anything else.
func decodeKeys(data []byte) []market.Block {
	var w wireKeys
	if err := decoding.Unmarshal(data, &w); err != nil || !readable(w.Version) {
		return nil
	}
	blocks := make([]market.Block, len(w.Blocks))
	for i := range w.Blocks {
		b := &w.Blocks[i]
		blocks[i] = market.Block{Series: fromWireSeries(b.Series), LastID: b.LastID, End: b.End}
	}
	return blocks
}

// memory is what the account remembers from one process to the next.
type memory struct {
	settled   spool.Position
	standings map[market.Series]standing
}

func encodeMemory(m *memory) ([]byte, error) {
	w := wireNote{Version: wireVersion, Settled: m.settled}
	for _, s := range m.standings {
		one := wireStanding{
			Front: toWireSpan(&s.Front), Received: s.Received, Session: s.Session, Lost: s.Lost, Hint: s.Hint, Missed: s.Missed,
			Keyframe:  s.Keyframe,
			Explained: convert(s.Explained, func(r *idRange) [2]int64 { return [2]int64{r.First, r.Last} }),
		}
		if s.Back != (market.Span{}) {
			back := toWireSpan(&s.Back)
			one.Back = &back
		}
		w.Standing = append(w.Standing, one)
	}
	data, err := encoding.Marshal(&w)
	if err != nil {
		return nil, fmt.Errorf("encode the account of %d series: %w", len(w.Standing), err)
	}
	return data, nil
}

// decodeMemory reads what encodeMemory returned. Its errors are those of decode.
func decodeMemory(data []byte) (memory, error) {
	var w wireNote
	if err := decoding.Unmarshal(data, &w); err != nil || !readable(w.Version) {
		return memory{}, unreadable("the account", data, err)
	}
	m := memory{settled: w.Settled, standings: make(map[market.Series]standing, len(w.Standing))}
	for i := range w.Standing {
		one := &w.Standing[i]
		s := standing{
			Front: fromWireSpan(&one.Front), Received: one.Received, Session: one.Session, Lost: one.Lost, Hint: one.Hint, Missed: one.Missed,
			Keyframe: one.Keyframe,
		}
		if one.Back != nil {
			s.Back = fromWireSpan(one.Back)
		}
		for _, r := range one.Explained {
			s.Explained = s.Explained.with(r[0], r[1])
		}
		m.standings[s.Front.Series] = s
	}
	return m, nil
}

func convert[A, B any](from []A, one func(*A) B) []B {
	if len(from) == 0 {
		return nil
	}
	to := make([]B, len(from))
	for i := range from {
		to[i] = one(&from[i])
	}
	return to
}

func toWireMarket(m market.Market) wireMarket {
	return wireMarket{Exchange: m.Exchange, Symbol: m.Symbol}
}

func fromWireMarket(w wireMarket) market.Market {
	return market.Market{Exchange: w.Exchange, Symbol: w.Symbol}
}

func toWireSeries(s market.Series) wireSeries {
	return wireSeries{Exchange: s.Market.Exchange, Symbol: s.Market.Symbol, Stream: s.Stream}
}

func fromWireSeries(w wireSeries) market.Series {
	return market.Series{Market: market.Market{Exchange: w.Exchange, Symbol: w.Symbol}, Stream: w.Stream}
}

func toWireSpan(s *market.Span) wireSpan {
	return wireSpan{
		Series: toWireSeries(s.Series), FirstID: s.FirstID, PrevID: s.PrevID, LastID: s.LastID, Start: s.Start, End: s.End,
	}
}

func fromWireSpan(w *wireSpan) market.Span {
	return market.Span{
		Series: fromWireSeries(w.Series), FirstID: w.FirstID, PrevID: w.PrevID, LastID: w.LastID, Start: w.Start, End: w.End,
	}
}

func toWireBlock(b *market.Block) wireBlock {
	return wireBlock{
		Series: toWireSeries(b.Series), FirstID: b.FirstID, LastID: b.LastID, PrevID: b.PrevID,
		Start: b.Start, End: b.End, Events: b.Events, Data: b.Data,
	}
}

func fromWireBlock(w *wireBlock) market.Block {
	return market.Block{
		Series: fromWireSeries(w.Series), FirstID: w.FirstID, LastID: w.LastID, PrevID: w.PrevID,
		Start: w.Start, End: w.End, Events: w.Events, Data: w.Data,
	}
}

func toWireKeyframe(k *market.Keyframe) wireKeyframe {
	return wireKeyframe{
		Market: toWireMarket(k.Market), UpdateID: k.UpdateID, EventTime: k.EventTime, RecvTime: k.RecvTime,
		SnapshotID: k.SnapshotID, UpdatesApplied: k.UpdatesApplied, FirstUpdateID: k.FirstUpdateID,
		VerifiedBid: k.VerifiedBid, VerifiedAsk: k.VerifiedAsk, Data: k.Data,
	}
}

func fromWireKeyframe(w *wireKeyframe) market.Keyframe {
	return market.Keyframe{
		Market: fromWireMarket(w.Market), UpdateID: w.UpdateID, EventTime: w.EventTime, RecvTime: w.RecvTime,
		SnapshotID: w.SnapshotID, UpdatesApplied: w.UpdatesApplied, FirstUpdateID: w.FirstUpdateID,
		VerifiedBid: w.VerifiedBid, VerifiedAsk: w.VerifiedAsk, Data: w.Data,
	}
}

func toWireGap(g *market.Gap) wireGap {
	return wireGap{
		Series: toWireSeries(g.Series), Cause: g.Cause, FirstID: g.FirstID, LastID: g.LastID, Start: g.Start, End: g.End,
		RecvStart: g.RecvStart, RecvEnd: g.RecvEnd, DetectedAt: g.DetectedAt, RepairedAt: g.RepairedAt, Repair: g.Repair,
	}
}

func fromWireGap(w *wireGap) market.Gap {
	return market.Gap{
		Series: fromWireSeries(w.Series), Cause: w.Cause, FirstID: w.FirstID, LastID: w.LastID, Start: w.Start, End: w.End,
		RecvStart: w.RecvStart, RecvEnd: w.RecvEnd, DetectedAt: w.DetectedAt, RepairedAt: w.RepairedAt, Repair: w.Repair,
	}
}

func toWireListing(l *market.Listing) wireListing {
	return wireListing{
		Market: toWireMarket(l.Market), Status: l.Status, TickSize: l.TickSize, LotSize: l.LotSize, UpdatedAt: l.UpdatedAt,
	}
}

func fromWireListing(w *wireListing) market.Listing {
	return market.Listing{
		Market: fromWireMarket(w.Market), Status: w.Status, TickSize: w.TickSize, LotSize: w.LotSize, UpdatedAt: w.UpdatedAt,
	}
}

func toWireStatus(s *market.RecorderStatus) wireStatus {
	return wireStatus{
		Recorder: s.Recorder, Version: s.Version, StartedAt: s.StartedAt, UpdatedAt: s.UpdatedAt, Stopped: s.Stopped,
		Markets: convert(s.Markets, func(m *market.MarketStatus) wireMarketStatus {
			return wireMarketStatus{
				Market: toWireMarket(m.Market), State: m.State, LastUpdateID: m.LastUpdateID, LastTradeID: m.LastTradeID,
				EventTime: m.EventTime, RecvTime: m.RecvTime,
			}
		}),
	}
}

func fromWireStatus(w *wireStatus) market.RecorderStatus {
	return market.RecorderStatus{
		Recorder: w.Recorder, Version: w.Version, StartedAt: w.StartedAt, UpdatedAt: w.UpdatedAt, Stopped: w.Stopped,
		Markets: convert(w.Markets, func(m *wireMarketStatus) market.MarketStatus {
			return market.MarketStatus{
				Market: fromWireMarket(m.Market), State: m.State, LastUpdateID: m.LastUpdateID, LastTradeID: m.LastTradeID,
				EventTime: m.EventTime, RecvTime: m.RecvTime,
			}
		}),
	}
}
