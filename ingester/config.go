package main

import (
	"log/slog"
	"os"
	"time"

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
	SnapshotLimit   int // levels a side
	MaxStreams      int // on one connection
	QueueBytes      int // of frames, and of updates that wait for a snapshot, for each market
	SinkBytes       int // of records that wait for the store
	Backpressure    bool
	Witness         bool
	ShutdownTimeout time.Duration
	LogLevel        slog.Level
	LogFormat       string // "json" or "text"
}

var logLevels = map[string]slog.Level{
	"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError,
}

// parseConfig reads the environment. The error names everything that is wrong with it.
func parseConfig(env *config.Env) (Config, error) {
	c := Config{
		Markets:         env.Markets("SYMBOLS", market.Binance),
		StreamURL:       env.URL("EXCHANGE_WS_URL", "wss://stream.binance.com:9443", "ws", "wss"),
		RESTURL:         env.URL("EXCHANGE_REST_URL", "https://api.binance.com", "http", "https"),
		Store:           env.Store(),
		OpsAddr:         env.String("OPS_ADDR", ":8000"),
		Name:            env.String("RECORDER_NAME", hostname()),
		FlushInterval:   env.Duration("FLUSH_INTERVAL", time.Second, 10*time.Millisecond, time.Minute),
		KeyframeBlocks:  env.Int("KEYFRAME_BLOCKS", 128, 1, 100_000),
		SnapshotLimit:   env.Int("SNAPSHOT_LIMIT", binance.MaxSnapshotLimit, 1, binance.MaxSnapshotLimit),
		MaxStreams:      env.Int("STREAMS_PER_CONNECTION", binance.MaxStreamsPerConnection, 3, binance.MaxStreamsPerConnection),
		QueueBytes:      env.Bytes("QUEUE_BYTES", 8<<20, 64<<10, 1<<30),
		SinkBytes:       env.Bytes("SINK_BYTES", 256<<20, 1<<20, 1<<40),
		Backpressure:    env.Bool("BACKPRESSURE", false),
		Witness:         env.Bool("WITNESS", false),
		ShutdownTimeout: env.Duration("SHUTDOWN_TIMEOUT", 30*time.Second, time.Second, 10*time.Minute),
		LogLevel:        logLevels[env.OneOf("LOG_LEVEL", "info", "debug", "info", "warn", "error")],
		LogFormat:       env.OneOf("LOG_FORMAT", "json", "json", "text"),
	}
	return c, env.Err()
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
