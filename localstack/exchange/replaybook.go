package exchange

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"tapedeck/shared/book"
	"tapedeck/shared/market"
)

const (
	// backlogBytes bounds the depth updates that are kept as text until a book is asked for. Most runs never ask
	// twice, and reading an update costs more than sending it.
	backlogBytes = 32 << 20
	// backlogBlockBytes is how much of the backlog is worked off at a time when it is full.
	backlogBlockBytes = 1 << 20
	// maxBeforeSnapshot bounds the updates that a market keeps before its snapshot: 100 s at ten a second.
	maxBeforeSnapshot = 1024
)

// replayBooks keeps the books of a recording's markets: lazily, since nothing needs them most of the time.
type replayBooks struct {
	markets map[string]*replayMarket // by symbol
	streams map[string]*replayMarket // by the name of the depth stream
	backlog []*backlogBlock
	spare   *backlogBlock
	skipped int64

	at      *replayMarket     // the replay stands at this market's snapshot
	orphans []market.Snapshot // snapshots that came before any update that tells whose they are
}

// replayMarket is one market of a recording.
type replayMarket struct {
	symbol string
	book   *book.Book           // nil before the snapshot
	before []market.DepthUpdate // updates sent before the snapshot
	lastID int64                // of the last update seen
}

// backlogBlock holds depth updates as text, in the order in which they were sent.
type backlogBlock struct {
	text    []byte
	updates []backlogUpdate
}

type backlogUpdate struct {
	market *replayMarket
	end    int // in text
}

func (b *replayBooks) init(listings []market.Listing) {
	b.markets, b.streams = map[string]*replayMarket{}, map[string]*replayMarket{}
	for _, l := range listings {
		b.markets[l.Market.Symbol] = &replayMarket{symbol: l.Market.Symbol}
	}
}

// depth takes a frame of a depth stream. It returns the symbol of the market when that has a book from now on.
func (b *replayBooks) depth(stream, raw []byte) string {
	m, ok := b.streams[string(stream)]
	if !ok {
		m = b.follow(stream)
	}
	if m == nil {
		return ""
	}
	last := len(b.backlog) - 1
	if last < 0 || len(b.backlog[last].text)+len(raw) > backlogBlockBytes {
		b.grow()
		last = len(b.backlog) - 1
	}
	block := b.backlog[last]
	block.text = append(block.text, raw...)
	block.updates = append(block.updates, backlogUpdate{m, len(block.text)})
	if m.book == nil && len(b.orphans) > 0 {
		b.catchUp()
		return b.adopt(m)
	}
	return ""
}

// follow decides which market a stream with "@depth" in its name belongs to: that of its symbol for changes of the
// book, none for the best few levels. When a market was recorded in both speeds, the first one seen is the one.
func (b *replayBooks) follow(stream []byte) *replayMarket {
	symbol := symbolOf(stream)
	_, kind, _ := bytes.Cut(stream, []byte("@"))
	m := b.markets[symbol]
	if m == nil {
		m = &replayMarket{symbol: symbol}
		b.markets[symbol] = m
	}
	if string(kind) != "depth" && string(kind) != "depth@100ms" {
		m = nil
	}
	for _, other := range b.streams {
		if other == m {
			m = nil
			break
		}
	}
	b.streams[string(stream)] = m
	return m
}

// grow starts a new block of the backlog and works off the oldest one when there are too many.
func (b *replayBooks) grow() {
	if len(b.backlog) == backlogBytes/backlogBlockBytes {
		b.workOff(b.backlog[0])
		b.backlog = slices.Delete(b.backlog, 0, 1)
	}
	block := b.spare
	if b.spare = nil; block == nil {
		block = &backlogBlock{text: make([]byte, 0, backlogBlockBytes)}
	}
	b.backlog = append(b.backlog, block)
}

// catchUp brings everything that was sent into the books.
func (b *replayBooks) catchUp() {
	for _, block := range b.backlog {
		b.workOff(block)
	}
	clear(b.backlog)
	b.backlog = b.backlog[:0]
}

// workOff brings the updates of a block into the books and keeps the block for reuse.
func (b *replayBooks) workOff(block *backlogBlock) {
	start := 0
	for _, u := range block.updates {
		update, err := parseDepth(block.text[start:u.end])
		start = u.end
		if err != nil {
			b.skipped++
			continue
		}
		u.market.take(&update)
	}
	block.text, block.updates = block.text[:0], block.updates[:0]
	b.spare = block
}

// take brings an update into the book, or keeps it until there is one.
func (m *replayMarket) take(u *market.DepthUpdate) {
	m.lastID = u.LastID
	if m.book == nil {
		if len(m.before) == maxBeforeSnapshot {
			m.before = slices.Delete(m.before, 0, 1)
		}
		m.before = append(m.before, *u)
		return
	}
	if m.book.Apply(u) == book.Gap { // see Replay
		u.PrevID = m.book.LastID()
		m.book.Apply(u)
	}
}

// snapshot takes an inline snapshot and returns the symbol of the market that has a book from now on. A snapshot does
// not say whose it is: it belongs to the market without a book whose update ids are nearest.
func (b *replayBooks) snapshot(raw []byte) string {
	snapshot, err := parseSnapshot(raw)
	if err != nil {
		b.skipped++
		return ""
	}
	b.catchUp()
	var nearest *replayMarket
	for _, m := range b.markets {
		if m.book == nil && m.lastID > 0 && (nearest == nil || distance(m, snapshot) < distance(nearest, snapshot)) {
			nearest = m
		}
	}
	if len(b.markets) == 1 {
		for _, m := range b.markets {
			nearest = m
		}
	}
	if nearest == nil {
		b.orphans = append(b.orphans, snapshot)
		return ""
	}
	return b.reset(nearest, snapshot)
}

// reset gives a market its book; one that has a book already keeps it.
func (b *replayBooks) reset(m *replayMarket, snapshot market.Snapshot) string {
	if m.book != nil {
		return ""
	}
	m.book = book.New()
	m.book.Reset(snapshot.LastID, snapshot.Bids, snapshot.Asks)
	b.at = m
	return m.symbol
}

// adopt gives a market whose first update has just been seen the nearest of the snapshots that came before.
func (b *replayBooks) adopt(m *replayMarket) string {
	if m.lastID == 0 {
		return ""
	}
	i := 0
	for j, o := range b.orphans {
		if distance(m, o) < distance(m, b.orphans[i]) {
			i = j
		}
	}
	snapshot := b.orphans[i]
	b.orphans = slices.Delete(b.orphans, i, i+1)
	return b.reset(m, snapshot)
}

func distance(m *replayMarket, s market.Snapshot) int64 {
	return max(m.lastID-s.LastID, s.LastID-m.lastID)
}

// leaveSnapshot goes on from a snapshot: the updates sent before it count from now on.
func (b *replayBooks) leaveSnapshot() {
	m := b.at
	if m == nil {
		return
	}
	b.at = nil
	for i := range m.before {
		m.take(&m.before[i])
	}
	m.before = nil
}

// book returns the book of a market with at most limit levels a side.
func (b *replayBooks) book(symbol string, limit int) (market.Snapshot, error) {
	m := b.markets[symbol]
	if m == nil {
		return market.Snapshot{}, ErrUnknownSymbol
	}
	b.catchUp()
	if m.book == nil {
		return market.Snapshot{}, ErrNoBook
	}
	return market.Snapshot{
		LastID: m.book.LastID(), Bids: m.book.AppendBids(nil, limit), Asks: m.book.AppendAsks(nil, limit),
	}, nil
}

// parseDepth reads the payload of a depth update. The shape that the exchange writes is read directly, any other form
// of the same JSON by the library.
func parseDepth(raw []byte) (market.DepthUpdate, error) {
	c := cursor{text: raw, ok: true}
	var u market.DepthUpdate
	c.literal(`{"e":"depthUpdate","E":`)
	u.EventTime = market.Time(c.integer()) * market.Time(time.Millisecond)
	c.literal(`,"s":"`)
	c.skipPast('"')
	c.literal(`,"U":`)
	u.FirstID = c.integer()
	c.literal(`,"u":`)
	u.LastID = c.integer()
	c.literal(`,"b":`)
	u.Bids = c.levels()
	c.literal(`,"a":`)
	u.Asks = c.levels()
	c.literal(`}`)
	if !c.ok || len(c.text) > 0 {
		var err error
		if u, err = decodeDepth(raw); err != nil {
			return u, err
		}
	}
	u.PrevID = u.FirstID - 1
	if u.FirstID <= 0 || u.LastID < u.FirstID {
		return u, fmt.Errorf("update ids %d to %d", u.FirstID, u.LastID)
	}
	return u, nil
}

// decodeDepth is parseDepth for any form of JSON. Names that differ in case alone are all declared, because the
// library would otherwise take one for the other.
func decodeDepth(raw []byte) (market.DepthUpdate, error) {
	var f struct {
		Event     string              `json:"e"`
		EventTime int64               `json:"E"`
		FirstID   int64               `json:"U"`
		LastID    int64               `json:"u"`
		Bids      [][2]market.Decimal `json:"b"`
		Asks      [][2]market.Decimal `json:"a"`
	}
	if err := json.Unmarshal(raw, &f); err != nil {
		return market.DepthUpdate{}, err
	}
	if f.Event != "depthUpdate" {
		return market.DepthUpdate{}, fmt.Errorf("event %q on a depth stream", f.Event)
	}
	return market.DepthUpdate{
		FirstID: f.FirstID, LastID: f.LastID, EventTime: market.Time(f.EventTime) * market.Time(time.Millisecond),
		Bids: levelsOf(f.Bids), Asks: levelsOf(f.Asks),
	}, nil
}

// parseSnapshot reads a REST snapshot.
func parseSnapshot(raw []byte) (market.Snapshot, error) {
	var f struct {
		LastID int64               `json:"lastUpdateId"`
		Bids   [][2]market.Decimal `json:"bids"`
		Asks   [][2]market.Decimal `json:"asks"`
	}
	if err := json.Unmarshal(raw, &f); err != nil {
		return market.Snapshot{}, err
	}
	return market.Snapshot{LastID: f.LastID, Bids: levelsOf(f.Bids), Asks: levelsOf(f.Asks)}, nil
}

func levelsOf(pairs [][2]market.Decimal) []market.Level {
	levels := make([]market.Level, len(pairs))
	for i, p := range pairs {
		levels[i] = market.Level{Price: p[0], Quantity: p[1]}
	}
	return levels
}

// cursor reads a text from left to right; ok becomes false at the first thing that is not as expected.
type cursor struct {
	text []byte
	ok   bool
}

func (c *cursor) literal(s string) {
	if c.ok = c.ok && len(c.text) >= len(s) && string(c.text[:len(s)]) == s; c.ok {
		c.text = c.text[len(s):]
	}
}

func (c *cursor) skipPast(stop byte) {
	i := bytes.IndexByte(c.text, stop)
	if c.ok = c.ok && i >= 0; c.ok {
		c.text = c.text[i+1:]
	}
}

func (c *cursor) integer() int64 {
	const maxDigits = 18 // always fits
	var v int64
	i := 0
	for ; i < len(c.text) && i <= maxDigits && c.text[i] >= '0' && c.text[i] <= '9'; i++ {
		v = v*10 + int64(c.text[i]-'0')
	}
	c.ok = c.ok && i > 0 && i <= maxDigits
	c.text = c.text[i:]
	return v
}

func (c *cursor) decimal() market.Decimal {
	i := bytes.IndexByte(c.text, '"')
	if c.ok = c.ok && i > 0; !c.ok {
		return 0
	}
	d, err := market.ParseDecimal(c.text[:i])
	c.ok = err == nil
	c.text = c.text[i+1:]
	return d
}

func (c *cursor) levels() []market.Level {
	c.literal(`[`)
	levels := make([]market.Level, 0, bytes.Count(c.text, []byte(`["`)))
	for c.ok && len(c.text) > 0 && c.text[0] != ']' {
		if len(levels) > 0 {
			c.literal(`,`)
		}
		c.literal(`["`)
		price := c.decimal()
		c.literal(`,"`)
		quantity := c.decimal()
		c.literal(`]`)
		levels = append(levels, market.Level{Price: price, Quantity: quantity})
	}
	c.literal(`]`)
	return levels
}
