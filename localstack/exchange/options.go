package exchange

import (
	"iter"
	"log/slog"
	"net/http"
	"time"

	"tapedeck/localstack/faults"
)

// FrameFilter sees each data frame just before it enters the queue of one connection, as that connection would get it,
// and returns what to send instead: nothing to drop it, several frames to add some. Control replies pass too, with an
// empty stream. The frame is valid during the call; it may be returned but not kept or changed. The filter is called
// while the source stands still and must not block or call the Server.
type FrameFilter func(stream string, frame []byte) [][]byte

// Observer sees every frame that the source makes, in its combined form, whether anybody subscribed to it or not, and
// before any filter. The frame is valid during the call. The same restrictions as for FrameFilter hold.
type Observer func(stream string, combined []byte)

type config struct {
	plan iter.Seq[faults.Fault]
	tell func(faults.Fault, error)

	speed        float64
	startStreams []string
	filter       FrameFilter
	observer     Observer
	receipts     func(Receipt)
	rest         func(http.Handler) http.Handler
	log          *slog.Logger

	pingInterval time.Duration
	pongTimeout  time.Duration
	holdTimeout  time.Duration
	bookTimeout  time.Duration

	connectsPerWindow int
	messagesPerSecond int
	weightPerMinute   int
	queueBytes        int
	marketDataOnly    bool
}

func defaults() config {
	return config{
		rest: func(h http.Handler) http.Handler { return h },
		log:  slog.New(slog.DiscardHandler),

		// "The WebSocket server will send a ping frame every 20 seconds" and disconnects after a minute without a pong.
		pingInterval: 20 * time.Second,
		pongTimeout:  time.Minute,
		holdTimeout:  10 * time.Second,
		bookTimeout:  10 * time.Second,

		connectsPerWindow: 300,
		messagesPerSecond: 5,
		weightPerMinute:   6000,
		queueBytes:        8 << 20,
	}
}

// Option changes a Server.
type Option func(*config)

// WithSpeed sets how fast the source's time passes: 1 = as in reality, 10 = ten times as fast, 0 (the default) = as
// fast as the clients read.
func WithSpeed(factor float64) Option { return func(c *config) { c.speed = max(factor, 0) } }

// WithStartStreams makes the source start when all these streams are subscribed to, instead of at the first
// subscription to any. A client that subscribes in several messages or over several connections sees everything then.
func WithStartStreams(streams ...string) Option {
	return func(c *config) { c.startStreams = streams }
}

// WithFrameFilter puts a filter before the queues of the connections.
func WithFrameFilter(f FrameFilter) Option { return func(c *config) { c.filter = f } }

// WithObserver shows every frame of the source to o.
func WithObserver(o Observer) Option { return func(c *config) { c.observer = o } }

// WithREST wraps the handler of all REST requests (/api/…).
func WithREST(wrap func(http.Handler) http.Handler) Option { return func(c *config) { c.rest = wrap } }

// WithLogger sets where connections and the end of the source are logged; the default is nowhere.
func WithLogger(log *slog.Logger) Option { return func(c *config) { c.log = log } }

// WithPings sets how often connections are pinged, and how long one lives without a pong that echoes a ping.
func WithPings(interval, timeout time.Duration) Option {
	return func(c *config) { c.pingInterval, c.pongTimeout = interval, timeout }
}

// WithSnapshotHold sets how long a source rests at a recorded snapshot until a client that is subscribed to the
// market's depth has fetched it; 10 s by default, 0 = not at all.
func WithSnapshotHold(d time.Duration) Option { return func(c *config) { c.holdTimeout = d } }

// WithBookTimeout sets how long a request for a book that the source does not have yet waits before it gets a 503;
// 10 s by default.
func WithBookTimeout(d time.Duration) Option { return func(c *config) { c.bookTimeout = d } }

// WithConnectLimit sets how many WebSocket connections may be tried within five minutes, refused ones included, before
// more are refused; 300 by default.
func WithConnectLimit(perFiveMinutes int) Option {
	return func(c *config) { c.connectsPerWindow = perFiveMinutes }
}

// WithMarketDataOnly makes the stand-in like data-api.binance.vision, which has no historicalTrades.
func WithMarketDataOnly() Option { return func(c *config) { c.marketDataOnly = true } }

// WithMessageLimit sets how many messages a client may send on one connection within a second; 5 by default.
func WithMessageLimit(perSecond int) Option {
	return func(c *config) { c.messagesPerSecond = perSecond }
}

// WithWeightLimit sets the request weight of REST that may be used in a minute; 6000 by default. Beyond it requests get
// a 429, and who goes on all the same a 418: a ban of two minutes, doubled each time.
func WithWeightLimit(perMinute int) Option { return func(c *config) { c.weightPerMinute = perMinute } }

// WithQueueBytes sets how many bytes may wait for a connection that reads too slowly before it is disconnected;
// 8 MiB by default. At speed 0 nobody is disconnected and this has no meaning.
func WithQueueBytes(n int) Option { return func(c *config) { c.queueBytes = n } }
