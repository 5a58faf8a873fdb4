package exchange

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"tapedeck/shared/market"
	"tapedeck/shared/recording"
)

const (
	// headLines bounds how much of a recording is looked through beforehand for the markets in it.
	headLines = 250_000
	// sampleFrames is how many depth updates of a market are looked at for its tick and lot.
	sampleFrames = 200
	// chunkBytes is how much is read ahead at a time, and chunksAhead how often.
	chunkBytes  = 256 << 10
	chunksAhead = 4
)

// Replay is a source that plays recordings (package recording) of combined frames, each market with one REST snapshot
// inline. Frames go out byte for byte as they were recorded, broken ones too. A market has a book from its snapshot on:
// exactly the snapshot as long as the replay stands at it, afterwards with all depth updates that have been sent, also
// those before the snapshot that are newer than it. Where the recording has a gap, the book goes on without what is
// missing, as does a frame that cannot be read; it is counted as skipped.
type Replay struct {
	names    []string
	listings []market.Listing
	total    int64

	reader sync.WaitGroup
	start  sync.Once
	stop   chan struct{}
	closed sync.Once
	ready  chan *chunk // from the reader
	free   chan *chunk // back to the reader
	failed error       // the reader's; valid once ready is closed

	current *chunk // being played
	next    int    // its next line
	clock   market.Time
	books   replayBooks
	trades  map[string]*Trades // by symbol
	streams map[string]*Trades // by the name of the trade stream
}

// chunk is a stretch of a recording in memory.
type chunk struct {
	text  []byte
	lines []line
}

// line is one line of a recording, taken apart.
type line struct {
	due      market.Time
	event    market.Time // 0 when the frame carries none
	snapshot bool
	frame    Frame
}

// NewReplay returns a replay of the named recordings (see recording.Open), one after the other. It looks through the
// first of them for the markets that are in it, with their ticks and lots.
func NewReplay(names ...string) (_ *Replay, err error) {
	defer market.Wrap(&err, "replay %v", names)
	r := &Replay{
		trades: map[string]*Trades{}, streams: map[string]*Trades{},
		names: names, stop: make(chan struct{}),
		ready: make(chan *chunk, chunksAhead), free: make(chan *chunk, chunksAhead+2),
	}
	if err := r.lookThrough(); err != nil {
		return nil, err
	}
	r.books.init(r.listings)
	for _, l := range r.listings {
		r.trades[l.Market.Symbol] = &Trades{}
	}
	return r, nil
}

// Due returns the receive time of the next line.
func (r *Replay) Due() (market.Time, error) {
	r.start.Do(func() { r.reader.Go(r.read) })
	for r.current == nil || r.next == len(r.current.lines) {
		if r.current != nil {
			r.free <- r.current
			r.current = nil
		}
		c, ok := <-r.ready
		if !ok {
			return 0, r.failed
		}
		r.current, r.next = c, 0
	}
	return r.current.lines[r.next].due, nil
}

// Step plays the next line. A snapshot is not emitted: it was not a message of a stream.
func (r *Replay) Step(emit func(Frame)) string {
	l := &r.current.lines[r.next]
	r.next++
	r.books.leaveSnapshot()
	if l.snapshot {
		return r.books.snapshot(l.frame.Raw)
	}
	if l.event != 0 {
		r.clock = l.event
	}
	arrived := ""
	switch {
	case bytes.Contains(l.frame.Stream, []byte("@depth")):
		arrived = r.books.depth(l.frame.Stream, l.frame.Raw)
	case bytes.HasSuffix(l.frame.Stream, []byte("@trade")):
		r.keepTrade(l.frame)
	}
	emit(l.frame)
	return arrived
}

// Book returns the book of a market; see Replay.
func (r *Replay) Book(symbol string, limit int) (market.Snapshot, error) {
	snapshot, err := r.books.book(symbol, limit)
	snapshot.EventTime = r.clock
	return snapshot, err
}

// keepTrade keeps a trade for requests, if it can be read.
func (r *Replay) keepTrade(f Frame) {
	kept := r.streams[string(f.Stream)]
	if kept == nil {
		symbol := symbolOf(f.Stream)
		if kept = r.trades[symbol]; kept == nil {
			kept = &Trades{}
			r.trades[symbol] = kept
		}
		r.streams[string(f.Stream)] = kept
	}
	if n, ok := parseTrade(f.Raw); ok {
		kept.add(n)
	}
}

// Trades returns the latest trades of a market that were played.
func (r *Replay) Trades(symbol string) (*Trades, error) {
	if kept := r.trades[symbol]; kept != nil {
		return kept, nil
	}
	return nil, ErrUnknownSymbol
}

// Pause cannot be done: what is recorded happens.
func (r *Replay) Pause(string, bool) error {
	return market.Errorf(market.KindInvalid, "the market of a recording cannot stop")
}

// Listings returns the markets found in the first lines.
func (r *Replay) Listings() []market.Listing { return r.listings }

// Time returns the event time last sent.
func (r *Replay) Time() market.Time { return r.clock }

// Watch does nothing: a recording holds what it holds.
func (r *Replay) Watch(string, bool) {}

// Stats returns how many lines there are, if the recording is not too long to have been looked through, and how many
// depth updates were not readable, as far as the books are worked out.
func (r *Replay) Stats() SourceStats { return SourceStats{Total: r.total, Skipped: r.books.skipped} }

// Close stops reading.
func (r *Replay) Close() error {
	r.closed.Do(func() { close(r.stop) })
	r.reader.Wait()
	return nil
}

// read reads the recordings ahead until they are over or the replay is closed.
func (r *Replay) read() {
	defer close(r.ready)
	rec, err := recording.Open(r.names...)
	if err != nil {
		r.failed = err
		return
	}
	for err == nil {
		var c *chunk
		select {
		case c = <-r.free:
			c.text, c.lines = c.text[:0], c.lines[:0]
		default:
			c = &chunk{text: make([]byte, 0, chunkBytes)}
		}
		err = c.fill(rec)
		select {
		case r.ready <- c:
		case <-r.stop:
			err = io.EOF
		}
	}
	if closeErr := rec.Close(); errors.Is(err, io.EOF) && closeErr != nil {
		err = closeErr
	}
	r.failed = err
}

// fill reads lines until the chunk has no room for a long one any more.
func (c *chunk) fill(rec *recording.Reader) error {
	for len(c.text) < chunkBytes*3/4 {
		read, err := rec.Next()
		if err != nil {
			return err
		}
		// When append has to move the text, the lines before keep the old one: their slices stay valid.
		start := len(c.text)
		c.text = append(c.text, read.Frame...)
		c.lines = append(c.lines, takeApart(read.RecvTime, c.text[start:len(c.text):len(c.text)]))
	}
	return nil
}

var (
	snapshotStart = []byte(`{"lastUpdateId":`)
	streamStart   = []byte(`{"stream":"`)
	dataStart     = []byte(`","data":`)
	eventTimeKey  = []byte(`"E":`)
)

// takeApart finds the parts of a frame. A frame that is no combined one belongs to no stream.
func takeApart(due market.Time, text []byte) line {
	l := line{due: due, frame: Frame{Combined: text, Raw: text}}
	if bytes.HasPrefix(text, snapshotStart) {
		l.snapshot = true
		return l
	}
	if rest, ok := bytes.CutPrefix(text, streamStart); ok {
		if stream, data, ok := bytes.Cut(rest, dataStart); ok && !bytes.ContainsAny(stream, `"\`) {
			l.frame.Stream, l.frame.Raw = stream, bytes.TrimSuffix(data, []byte("}"))
		}
	} else {
		var envelope struct {
			Stream string          `json:"stream"`
			Data   json.RawMessage `json:"data"`
		}
		if json.Unmarshal(text, &envelope) == nil && envelope.Stream != "" && envelope.Data != nil {
			l.frame.Stream, l.frame.Raw = []byte(envelope.Stream), envelope.Data
		}
	}
	l.event = eventTime(l.frame.Raw)
	return l
}

// eventTime returns the field E of a payload, which stands second; 0 when there is none.
func eventTime(raw []byte) market.Time {
	_, rest, ok := bytes.Cut(raw[:min(len(raw), 64)], eventTimeKey)
	if !ok {
		return 0
	}
	var ms int64
	for _, c := range rest {
		if c < '0' || c > '9' || ms > 1e15 {
			break
		}
		ms = ms*10 + int64(c-'0')
	}
	return market.Time(ms) * market.Time(time.Millisecond)
}

// symbolOf returns the symbol of a stream: "btcusdt@trade" is of BTCUSDT.
func symbolOf(stream []byte) string {
	name, _, _ := bytes.Cut(stream, []byte("@"))
	return strings.ToUpper(string(name))
}

// lookThrough finds the markets in the first headLines of the recordings, and where the clock begins.
func (r *Replay) lookThrough() (err error) {
	rec, err := recording.Open(r.names...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rec.Close()) }()
	found := map[string]*steps{}
	lines := int64(0)
	for range headLines {
		read, err := rec.Next()
		if errors.Is(err, io.EOF) {
			r.total = lines
			break
		}
		if err != nil {
			return err
		}
		l := takeApart(read.RecvTime, read.Frame)
		if !l.snapshot {
			lines++
		}
		if r.clock == 0 {
			r.clock = l.event
		}
		if len(l.frame.Stream) == 0 || l.frame.Stream[0] == '!' {
			continue
		}
		if found[string(l.frame.Stream)] == nil { // symbolOf costs something
			found[string(l.frame.Stream)] = &steps{symbol: symbolOf(l.frame.Stream)}
		}
		found[string(l.frame.Stream)].sample(l.frame)
	}
	r.listings = listingsOf(found)
	return nil
}

// steps gathers which powers of ten the prices and quantities of one stream are multiples of.
type steps struct {
	symbol     string
	frames     int
	prices     stepCount
	quantities stepCount
}

// stepCount counts numbers by the greatest power of ten, from 1e-8 to 1, that they are multiples of.
type stepCount [9]int

func (c *stepCount) add(d market.Decimal) {
	i := 0
	for ; i < len(c)-1 && d%10 == 0; i++ {
		d /= 10
	}
	c[i]++
}

// step returns the greatest power of ten that all but one in a thousand of the numbers are multiples of: old orders
// stay in the book at prices and quantities finer than today's tick and lot.
func (c *stepCount) step() market.Decimal {
	all := 0
	for _, n := range c {
		all += n
	}
	step := market.Decimal(1)
	for finer, i := 0, 0; i < len(c)-1; i++ {
		if finer += c[i]; finer*1000 > all {
			break
		}
		step *= 10
	}
	return step
}

// sample looks at a depth update; the recording's other frames have too few numbers to tell.
func (s *steps) sample(f Frame) {
	if s.frames == sampleFrames || !bytes.Contains(f.Stream, []byte("@depth")) {
		return
	}
	u, err := parseDepth(f.Raw)
	if err != nil {
		return
	}
	s.frames++
	for _, l := range slices.Concat(u.Bids, u.Asks) {
		s.prices.add(l.Price)
		if l.Quantity != 0 {
			s.quantities.add(l.Quantity)
		}
	}
}

// listingsOf makes one listing of the streams of each symbol.
func listingsOf(found map[string]*steps) []market.Listing {
	bySymbol := map[string]market.Listing{}
	for _, s := range found {
		m, err := market.New(market.Binance, s.symbol)
		if err != nil {
			continue // no market that anybody could record
		}
		l := market.Listing{Market: m, Status: "TRADING", TickSize: 1, LotSize: 1}
		if s.frames > 0 {
			l.TickSize, l.LotSize = s.prices.step(), s.quantities.step()
		}
		if old, ok := bySymbol[s.symbol]; !ok || old.TickSize < l.TickSize {
			bySymbol[s.symbol] = l
		}
	}
	listings := make([]market.Listing, 0, len(bySymbol))
	for _, l := range bySymbol {
		listings = append(listings, l)
	}
	slices.SortFunc(listings, func(a, b market.Listing) int {
		return strings.Compare(a.Market.Symbol, b.Market.Symbol)
	})
	return listings
}
