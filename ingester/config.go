package main

import (
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"tapedeck/ingester/internal/feed"
	"tapedeck/shared/binance"
	"tapedeck/shared/config"
	"tapedeck/shared/market"
)

// Config is all that the environment says; see parseConfig for the names.
type Config struct {
	Markets         []market.Market
	StreamURL       string
	RESTURL         string
	Store           config.Store
	OpsAddr         string
	Name            string // of this recorder, unique among those that write to one store
	FlushInterval   time.Duration
	KeyframeBlocks  int
	SnapshotLimit   int           // levels a side
	MaxStreams      int           // on one connection
	Connections     int           // that each market has at the same time
	RotateAfter     time.Duration // age at which a connection is replaced
	RotateOverlap   time.Duration // for which a connection and the one that replaces it both bring frames
	AuditInterval   time.Duration // between comparisons of a book with a snapshot; 0 = never
	BackfillTrades  int           // that are fetched again of one hole; 0 = none
	BackfillRetry   time.Duration // between looks for holes of trades that were not repaired; 0 = at the start only
	QueueBytes      int           // of the frames and updates that wait, of all markets together
	Spool           SpoolConfig
	Backpressure    bool
	Witness         bool
	ShutdownTimeout time.Duration
	LogLevel        slog.Level
	LogFormat       string // "json" or "text"
}

// SpoolConfig is what the environment says of the spool, where records wait for the store.
type SpoolConfig struct {
	Dir         string
	Bytes       int // on disk
	BufferBytes int // in memory, of records that are not on disk yet

	// DropOldest says what is given up when the spool is full: the oldest records (SPOOL_FULL=oldest), or the newest,
	// which are then refused (SPOOL_FULL=newest, the default).
	//
	// Either way the same number of bytes is lost. But a recorder whose block is refused knows: it enters exactly those
	// ids into the ledger, and once there is room it begins with the whole book, so that books are right again at once.
	// What is given up from the front of the spool had been durable already, goes a whole segment at a time, and takes
	// keyframes and ledger entries with it: behind the hole there are no books until the next keyframe, minutes later.
	// Choose oldest where the last hours are worth more than those at the beginning of an outage.
	DropOldest bool
}

var logLevels = map[string]slog.Level{
	"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError,
}

// parseConfig reads the environment. The error names everything that is wrong with it.
func parseConfig(env *config.Env) (Config, error) {
	c := Config{
		Markets:        env.Markets("SYMBOLS", market.Binance),
		StreamURL:      env.URL("EXCHANGE_WS_URL", "wss://stream.binance.com:9443", "ws", "wss"),
		RESTURL:        env.URL("EXCHANGE_REST_URL", "https://api.binance.com", "http", "https"),
		Store:          env.Store(),
		OpsAddr:        opsAddr(env),
		Name:           recorderName(env),
		FlushInterval:  env.Duration("FLUSH_INTERVAL", time.Second, 10*time.Millisecond, time.Minute),
		KeyframeBlocks: env.Int("KEYFRAME_BLOCKS", 128, 1, 100_000),
		SnapshotLimit:  env.Int("SNAPSHOT_LIMIT", binance.MaxSnapshotLimit, 1, binance.MaxSnapshotLimit),
		MaxStreams:     env.Int("STREAMS_PER_CONNECTION", binance.MaxStreamsPerConnection, 3, binance.MaxStreamsPerConnection),
		Connections:    env.Int("FEED_CONNECTIONS", 1, 1, 2),
		RotateAfter:    env.Duration("ROTATE_AFTER", feed.DefaultRotateAfter, time.Second, 24*time.Hour),
		RotateOverlap:  env.Duration("ROTATE_OVERLAP", feed.DefaultOverlap, 10*time.Millisecond, time.Minute),
		AuditInterval:  env.Duration("AUDIT_INTERVAL", 15*time.Minute, 0, 24*time.Hour),
		BackfillTrades: env.Int("BACKFILL_TRADES", 1_000_000, 0, 100_000_000),
		BackfillRetry:  env.Duration("BACKFILL_RETRY_INTERVAL", time.Hour, 0, 24*time.Hour),
		QueueBytes:     env.Bytes("QUEUE_BYTES", 256<<20, 64<<10, 1<<40),
		Spool: SpoolConfig{
			Dir:         env.String("SPOOL_DIR", "spool"),
			Bytes:       env.Bytes("SPOOL_BYTES", 10<<30, 1<<20, 1<<50),
			BufferBytes: env.Bytes("SPOOL_BUFFER_BYTES", 32<<20, 64<<10, 1<<40),
			DropOldest:  env.OneOf("SPOOL_FULL", "newest", "newest", "oldest") == "oldest",
		},
		Backpressure:    env.Bool("BACKPRESSURE", false),
		Witness:         env.Bool("WITNESS", false),
		ShutdownTimeout: env.Duration("SHUTDOWN_TIMEOUT", 30*time.Second, time.Second, 10*time.Minute),
		LogLevel:        logLevels[env.OneOf("LOG_LEVEL", "info", "debug", "info", "warn", "error")],
		LogFormat:       env.OneOf("LOG_FORMAT", "json", "json", "text"),
	}
	if c.BackfillRetry > 0 && c.BackfillRetry < time.Second {
		env.Fail("BACKFILL_RETRY_INTERVAL", "%v is less than a second, and not 0", c.BackfillRetry)
	}
	return c, env.Err()
}

// opsAddr reads where operators are served: "host:port", or ":port" for every address of the machine.
func opsAddr(env *config.Env) string {
	addr := env.String("OPS_ADDR", ":8000")
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		env.Fail("OPS_ADDR", "%v", err)
	} else if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		env.Fail("OPS_ADDR", "port %q is not a number up to 65535", port)
	}
	return addr
}

// maxNameBytes bounds a recorder's name, which is a key in the store.
const maxNameBytes = 128

// recorderName reads the name of this recorder.
func recorderName(env *config.Env) string {
	name := env.String("RECORDER_NAME", hostname())
	switch {
	case len(name) > maxNameBytes:
		env.Fail("RECORDER_NAME", "%d bytes are more than %d", len(name), maxNameBytes)
	case !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl):
		env.Fail("RECORDER_NAME", "%q is not printable text", name)
	}
	return name
}

// hostname returns the machine's name; a container has one of its own.
func hostname() string {
	if name, err := os.Hostname(); err == nil && name != "" {
		return name
	}
	return "tapedeck"
}

// logger returns a logger to standard error as configured.
func (c *Config) logger() *slog.Logger {
	options := &slog.HandlerOptions{Level: c.LogLevel}
	if c.LogFormat == "text" {
		return slog.New(slog.NewTextHandler(os.Stderr, options))
	}
	return slog.New(slog.NewJSONHandler(os.Stderr, options))
}
