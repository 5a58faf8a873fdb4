package faults

import "time"

// Side is who carries a fault out.
type Side string

// The sides.
const (
	SideExchange Side = "exchange"
	SideStore    Side = "store"
)

// Kind is what goes wrong.
type Kind string

// Faults of connections to the exchange's streams.
const (
	// Cut resets the TCP connection (RST); what was queued is lost.
	Cut Kind = "cut"
	// Close sends a close frame (status= is its code) and closes as the protocol has it.
	Close Kind = "close"
	// HalfOpen leaves the socket open, but nothing is sent or read on it any more: no data, no ping, no pong, no FIN. After
	// for= it is reset; without that only when the server closes.
	HalfOpen Kind = "half-open"
	// Shutdown announces the end (serverShutdown) and resets the connections that were told after for=.
	Shutdown Kind = "shutdown"
	// HandshakeRefused answers WebSocket handshakes with status= (503, 429, 403, …) and, unless retry= is 0, with
	// Retry-After.
	HandshakeRefused Kind = "handshake-refused"
	// HandshakeMute accepts TCP connections for streams but never answers the handshake.
	HandshakeMute Kind = "handshake-mute"
	// PingFlood sends rate= pings a second.
	PingFlood Kind = "ping-flood"
	// PingSlow sends no ping, and misses no pong.
	PingSlow Kind = "ping-slow"
)

// Faults of the events of streams. Those with count= strike the next so many events; those with for= all events within
// that time; with both, whichever ends first.
const (
	// Stall sends nothing of a stream (of all streams without a target), while pings go on. What happens meanwhile is lost.
	// It ends after for=, for a connection also as until= says.
	Stall Kind = "stall"
	// Drop loses events on their way to connections. The exchange had them: trades can be had over REST.
	Drop Kind = "drop"
	// Double sends events twice.
	Double Kind = "double"
	// Reorder swaps pairs of adjacent events of a stream; count= counts pairs.
	Reorder Kind = "reorder"
	// Delay sends the events of a stream by= later, in order; when it ends, what is held comes at once.
	Delay Kind = "delay"
	// Gap lets events vanish at the source until at least count= ids have: nobody is ever sent them, on no connection, and
	// trades are not in REST either. They did happen: the truth (observer, books) has them, and the book moves on.
	Gap Kind = "gap"
)

// Faults of frames: a broken one takes the place of each event that is struck; with keep=true the event follows it. Count
// and duration are as with events.
const (
	// FrameMalformed is no JSON.
	FrameMalformed Kind = "frame-malformed"
	// FrameTruncated is a whole frame whose message ends too early.
	FrameTruncated Kind = "frame-truncated"
	// FrameTorn is a frame of which only a part comes before the connection is reset.
	FrameTorn Kind = "frame-torn"
	// FrameBinary is a binary message of an event.
	FrameBinary Kind = "frame-binary"
	// FrameHuge is a message of size= bytes.
	FrameHuge Kind = "frame-huge"
	// FrameSymbol is an event of another market on the stream.
	FrameSymbol Kind = "frame-symbol"
	// FrameIDs is an event with ids that are far from all others.
	FrameIDs Kind = "frame-ids"
)

// Faults of REST: requests for endpoint= (depth, trades, exchangeInfo, …; all without it) and symbol=, within for=, at
// most count= of them.
const (
	// RESTLate answers by= after the answer was made.
	RESTLate Kind = "rest-late"
	// RESTOld answers requests for a book with the one from when the fault began.
	RESTOld Kind = "rest-old"
	// RESTHTML answers with a page of HTML.
	RESTHTML Kind = "rest-html"
	// RESTEmpty answers with nothing.
	RESTEmpty Kind = "rest-empty"
	// RESTTruncated announces a whole answer, sends half of it and resets the connection.
	RESTTruncated Kind = "rest-truncated"
	// RESTStatus answers with status= (500, 503, 429, 418, …) and, unless retry= is 0, with Retry-After.
	RESTStatus Kind = "rest-status"
	// RESTRefused refuses TCP connections for REST and resets those that are open.
	RESTRefused Kind = "rest-refused"
)

// Faults of the exchange as a whole and of its markets.
const (
	// Clock lets the exchange's clock step by by= (back when negative) for for=, for good without it: all times of events
	// and of REST.
	Clock Kind = "clock"
	// MarketBreak stops a market: nothing happens in it, and exchangeInfo says BREAK.
	MarketBreak Kind = "market-break"
	// MarketQuiet lets nothing happen in a market, which goes on TRADING.
	MarketQuiet Kind = "market-quiet"
)

// Faults of the connections to the store.
const (
	// StoreLatency delays all that passes by by=, each way.
	StoreLatency Kind = "store-latency"
	// StoreSlow lets rate= bytes a second pass, each way.
	StoreSlow Kind = "store-slow"
	// StoreCut resets all connections (RST).
	StoreCut Kind = "store-cut"
	// StoreRefused refuses connections and closes those that are open: the store is down.
	StoreRefused Kind = "store-refused"
	// StoreHalfClosed ends the store's half of each connection (FIN to the client), while the client's still reaches it.
	StoreHalfClosed Kind = "store-half-closed"
	// StoreBlackHole lets connections stay open, but nothing passes any more; what was sent is lost, and connections end
	// with the fault.
	StoreBlackHole Kind = "store-black-hole"
)

// Until says what else than time ends a stall for a connection.
type Until string

// What ends a stall. The zero value is UntilTime.
const (
	UntilTime      Until = "time"      // nothing else: a new connection is mute too
	UntilSubscribe Until = "subscribe" // subscribing to the stream anew, or connecting anew
	UntilConnect   Until = "connect"   // connecting anew
)

// Info tells what there is to know of a kind.
type Info struct {
	Kind     Kind
	Side     Side
	Keys     []string // which keys it takes beside every= and times=
	Defaults Fault    // the values of keys that are left out

	required string // the key that it cannot do without
	draw     drawn
}

// drawn says how a draw makes up a fault of a kind.
type drawn struct {
	weight int           // how often, in relation to others
	least  time.Duration // of for=, by= or both; the greatest is Draw.Longest
	count  int           // the greatest count=
	stream bool          // aims at a stream of one market, else at nothing
	symbol bool          // aims at one market
	conn   bool          // aims at all connections or at one
	fill   func(f *Fault, d *dice)
}

// The keys that several kinds take.
var (
	connKeys  = []string{"symbol", "stream", "conn"}
	eventKeys = []string{"symbol", "stream", "conn", "for", "count"}
	frameKeys = []string{"symbol", "stream", "conn", "for", "count", "keep"}
	restKeys  = []string{"symbol", "endpoint", "for", "count"}
)

func with(keys []string, more ...string) []string { return append(keys[:len(keys):len(keys)], more...) }

const defaultHuge = 10 << 20

// kinds is the closed list of all kinds, in the order in which draws number them: it may only grow at its end.
var kinds = []Info{
	{Kind: Cut, Keys: connKeys, draw: drawn{weight: 3, conn: true}},
	{
		Kind: Close, Keys: with(connKeys, "status"), Defaults: Fault{Status: 1001},
		draw: drawn{weight: 2, conn: true, fill: func(f *Fault, d *dice) { f.Status = pick(d, 1000, 1001, 1008, 1011) }},
	},
	{Kind: HalfOpen, Keys: with(connKeys, "for"), draw: drawn{weight: 2, least: time.Second, conn: true}},
	{
		Kind: Shutdown, Keys: with(connKeys, "for"), Defaults: Fault{For: 10 * time.Second},
		draw: drawn{weight: 2, least: time.Second, conn: true},
	},
	{
		Kind: HandshakeRefused, Keys: []string{"for", "status", "retry", "count"},
		Defaults: Fault{For: 10 * time.Second, Status: 503},
		draw: drawn{weight: 1, least: time.Second, fill: func(f *Fault, d *dice) {
			f.Status = pick(d, 503, 429, 403)
			f.askPatience(d)
		}},
	},
	{
		Kind: HandshakeMute, Keys: []string{"for", "count"}, Defaults: Fault{For: 10 * time.Second},
		draw: drawn{weight: 1, least: time.Second},
	},
	{
		Kind: PingFlood, Keys: with(connKeys, "for", "rate"), Defaults: Fault{For: 5 * time.Second, Rate: 50},
		draw: drawn{weight: 1, least: time.Second, conn: true},
	},
	{
		Kind: PingSlow, Keys: with(connKeys, "for"), Defaults: Fault{For: 50 * time.Second},
		draw: drawn{weight: 1, least: time.Second, conn: true},
	},

	{
		Kind: Stall, Keys: with(connKeys, "for", "until"), Defaults: Fault{For: 15 * time.Second, Until: UntilTime},
		draw: drawn{weight: 3, least: time.Second, conn: true, fill: func(f *Fault, d *dice) {
			if d.below(3) > 0 {
				f.Stream = d.stream()
			}
			f.Until = pick(d, UntilTime, UntilSubscribe, UntilConnect)
		}},
	},
	{Kind: Drop, Keys: eventKeys, draw: drawn{weight: 3, count: 10, stream: true, conn: true}},
	{Kind: Double, Keys: eventKeys, draw: drawn{weight: 2, count: 20, stream: true, conn: true}},
	{
		Kind: Reorder, Keys: eventKeys,
		draw: drawn{weight: 2, least: 10 * time.Second, count: 10, stream: true, conn: true},
	},
	{
		Kind: Delay, Keys: with(connKeys, "for", "by"), Defaults: Fault{For: 10 * time.Second}, required: "by",
		draw: drawn{weight: 2, least: time.Second, stream: true, conn: true, fill: func(f *Fault, d *dice) {
			f.By = d.between(10*time.Millisecond, f.For/2)
		}},
	},
	{
		Kind: Gap, Keys: []string{"symbol", "stream", "count"}, Defaults: Fault{Count: 1},
		draw: drawn{weight: 2, count: 100, stream: true},
	},

	{Kind: FrameMalformed, Keys: frameKeys, draw: drawn{weight: 1, count: 3, stream: true, conn: true, fill: keepSome}},
	{Kind: FrameTruncated, Keys: frameKeys, draw: drawn{weight: 1, count: 3, stream: true, conn: true, fill: keepSome}},
	{
		Kind: FrameTorn, Keys: with(connKeys, "count"),
		draw: drawn{weight: 1, stream: true, conn: true},
	},
	{Kind: FrameBinary, Keys: frameKeys, draw: drawn{weight: 1, count: 3, stream: true, conn: true, fill: keepSome}},
	{
		Kind: FrameHuge, Keys: with(frameKeys, "size"), Defaults: Fault{Size: defaultHuge},
		draw: drawn{weight: 1, count: 1, stream: true, conn: true, fill: keepSome},
	},
	{Kind: FrameSymbol, Keys: frameKeys, draw: drawn{weight: 1, count: 3, stream: true, conn: true, fill: keepSome}},
	{Kind: FrameIDs, Keys: frameKeys, draw: drawn{weight: 1, count: 2, stream: true, conn: true, fill: keepSome}},

	{
		Kind: RESTLate, Keys: with(restKeys, "by"), Defaults: Fault{For: 10 * time.Second}, required: "by",
		draw: drawn{weight: 2, least: time.Second, fill: func(f *Fault, d *dice) {
			f.By = d.between(50*time.Millisecond, f.For/2)
		}},
	},
	{
		Kind: RESTOld, Keys: []string{"symbol", "for"}, Defaults: Fault{For: 10 * time.Second},
		draw: drawn{weight: 2, least: time.Second},
	},
	{Kind: RESTHTML, Keys: restKeys, Defaults: Fault{For: 10 * time.Second}, draw: drawn{weight: 1, least: time.Second, count: 5}},
	{Kind: RESTEmpty, Keys: restKeys, Defaults: Fault{For: 10 * time.Second}, draw: drawn{weight: 1, least: time.Second, count: 5}},
	{Kind: RESTTruncated, Keys: restKeys, Defaults: Fault{For: 10 * time.Second}, draw: drawn{weight: 1, least: time.Second, count: 5}},
	{
		Kind: RESTStatus, Keys: with(restKeys, "status", "retry"), Defaults: Fault{For: 10 * time.Second, Status: 503},
		draw: drawn{weight: 2, least: time.Second, count: 5, fill: func(f *Fault, d *dice) {
			f.Status = pick(d, 500, 503, 429, 418)
			f.askPatience(d)
		}},
	},
	{Kind: RESTRefused, Keys: []string{"for"}, Defaults: Fault{For: 10 * time.Second}, draw: drawn{weight: 1, least: time.Second}},

	{
		Kind: Clock, Keys: []string{"for", "by"}, required: "by",
		draw: drawn{weight: 1, least: time.Second, fill: func(f *Fault, d *dice) {
			f.By = d.between(10*time.Millisecond, 5*time.Second)
			if d.below(2) == 0 {
				f.By = -f.By
			}
		}},
	},
	{
		Kind: MarketBreak, Keys: []string{"symbol", "for"}, Defaults: Fault{For: 30 * time.Second},
		draw: drawn{weight: 1, least: time.Second, symbol: true},
	},
	{
		Kind: MarketQuiet, Keys: []string{"symbol", "for"}, Defaults: Fault{For: 30 * time.Second},
		draw: drawn{weight: 1, least: time.Second, symbol: true},
	},

	{
		Kind: StoreLatency, Side: SideStore, Keys: []string{"for", "by"}, Defaults: Fault{For: 10 * time.Second}, required: "by",
		draw: drawn{weight: 2, least: time.Second, fill: func(f *Fault, d *dice) {
			f.By = d.between(10*time.Millisecond, 500*time.Millisecond)
		}},
	},
	{
		Kind: StoreSlow, Side: SideStore, Keys: []string{"for", "rate"}, Defaults: Fault{For: 10 * time.Second, Rate: 64 << 10},
		draw: drawn{weight: 1, least: time.Second, fill: func(f *Fault, d *dice) { f.Rate = pick(d, 4<<10, 64<<10, 1<<20) }},
	},
	{Kind: StoreCut, Side: SideStore, draw: drawn{weight: 2}},
	{
		Kind: StoreRefused, Side: SideStore, Keys: []string{"for"}, Defaults: Fault{For: 10 * time.Second},
		draw: drawn{weight: 2, least: time.Second},
	},
	{Kind: StoreHalfClosed, Side: SideStore, draw: drawn{weight: 1}},
	{
		Kind: StoreBlackHole, Side: SideStore, Keys: []string{"for"}, Defaults: Fault{For: 10 * time.Second},
		draw: drawn{weight: 1, least: time.Second},
	},
}

// askPatience says how long to wait, where the exchange does: 429, too many requests, and 418, a ban.
func (f *Fault) askPatience(d *dice) {
	if f.Status == 429 || f.Status == 418 {
		f.Retry = d.between(time.Second, f.For).Truncate(time.Second)
	}
}

// keepSome sends the struck event too, half of the times.
func keepSome(f *Fault, d *dice) { f.Keep = d.below(2) == 0 }

// byKind finds the Info of a kind.
var byKind = func() map[Kind]*Info {
	m := make(map[Kind]*Info, len(kinds))
	for i := range kinds {
		k := &kinds[i]
		if k.Side == "" {
			k.Side = SideExchange
		}
		m[k.Kind] = k
	}
	return m
}()

// Kinds returns all kinds of one side, of both for "".
func Kinds(side Side) []Info {
	var list []Info
	for _, k := range kinds {
		if side == "" || k.Side == side {
			list = append(list, k)
		}
	}
	return list
}

// Side returns who carries out faults of kind k; "" when there is no such kind.
func (k Kind) Side() Side {
	if info := byKind[k]; info != nil {
		return info.Side
	}
	return ""
}
