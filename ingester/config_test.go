package main

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"tapedeck/shared/config"
)

func environment(values map[string]string) *config.Env {
	return config.New(func(name string) (string, bool) {
		value, ok := values[name]
		return value, ok
	})
}

func TestDefaults(t *testing.T) {
	c, err := parseConfig(environment(map[string]string{"SYMBOLS": "btcusdt", "MONGODB_URI": "mongodb://u:hunter2@h"}))
	if err != nil {
		t.Fatal(err)
	}
	if c.Markets[0].Symbol != "BTCUSDT" || c.StreamURL != "wss://stream.binance.com:9443" || c.RESTURL != "https://api.binance.com" ||
		c.Store.MongoDatabase != "tapedeck" || c.OpsAddr != ":8000" || c.Name == "" || c.FlushInterval != time.Second ||
		c.KeyframeBlocks != 128 || c.SnapshotLimit != 5000 || c.MaxStreams != 1024 ||
		c.Connections != 1 || c.RotateAfter != 23*time.Hour || c.RotateOverlap != 3*time.Second || c.QueueBytes != 256<<20 || c.AuditInterval != 15*time.Minute ||
		c.Spool != (SpoolConfig{Dir: "spool", Bytes: 10 << 30, BufferBytes: 32 << 20}) ||
		c.Backpressure || c.Witness || c.ShutdownTimeout != 30*time.Second || c.LogLevel != slog.LevelInfo || c.LogFormat != "json" {
		t.Errorf("defaults: %+v", c)
	}
	if printed := fmt.Sprintf("%v %+v %#v", c, c, c); strings.Contains(printed, "hunter2") {
		t.Error("the configuration prints a password")
	}
}

func TestEveryMistakeIsTold(t *testing.T) {
	_, err := parseConfig(environment(map[string]string{
		"SYMBOLS": "BTC/USDT", "EXCHANGE_WS_URL": "http://h", "EXCHANGE_REST_URL": "h", "MONGODB_URI": "mongodb://u:hunter2@h",
		"SQLITE_PATH": "a.db", "FLUSH_INTERVAL": "0s", "KEYFRAME_BLOCKS": "0", "SNAPSHOT_LIMIT": "5001", "STREAMS_PER_CONNECTION": "1025",
		"FEED_CONNECTIONS": "3", "ROTATE_AFTER": "25h", "ROTATE_OVERLAP": "0s",
		"QUEUE_BYTES": "1", "AUDIT_INTERVAL": "-1s", "BACKFILL_RETRY_INTERVAL": "1us", "SPOOL_BYTES": "lots", "SPOOL_BUFFER_BYTES": "1", "SPOOL_FULL": "random",
		"OPS_ADDR": "localhost", "RECORDER_NAME": "a\nb", "BACKPRESSURE": "perhaps", "WITNESS": "2", "SHUTDOWN_TIMEOUT": "soon",
		"LOG_LEVEL": "loud", "LOG_FORMAT": "xml",
	}))
	if err == nil {
		t.Fatal("no error")
	}
	for _, name := range []string{
		"SYMBOLS", "EXCHANGE_WS_URL", "EXCHANGE_REST_URL", "SQLITE_PATH", "FLUSH_INTERVAL", "KEYFRAME_BLOCKS",
		"SNAPSHOT_LIMIT", "STREAMS_PER_CONNECTION", "FEED_CONNECTIONS", "ROTATE_AFTER", "ROTATE_OVERLAP", "QUEUE_BYTES", "AUDIT_INTERVAL", "BACKFILL_RETRY_INTERVAL", "BACKPRESSURE", "WITNESS", "SHUTDOWN_TIMEOUT",
		"LOG_LEVEL", "LOG_FORMAT", "SPOOL_BYTES", "SPOOL_BUFFER_BYTES", "SPOOL_FULL", "OPS_ADDR", "RECORDER_NAME",
	} {
		if !strings.Contains(err.Error(), name+": ") {
			t.Errorf("nothing is said of %s", name)
		}
	}
	if strings.Contains(err.Error(), "hunter2") {
		t.Error("the error prints a password")
	}
}

func TestAddressAndName(t *testing.T) {
	for _, c := range []struct {
		name, value string
		ok          bool
	}{
		{"OPS_ADDR", "127.0.0.1:0", true},
		{"OPS_ADDR", "[::1]:8000", true},
		{"OPS_ADDR", ":65536", false},
		{"OPS_ADDR", ":http", false},
		{"OPS_ADDR", ":", false},
		{"OPS_ADDR", "8000", false},
		{"RECORDER_NAME", "München 1", true},
		{"RECORDER_NAME", "\xff", false},
		{"RECORDER_NAME", strings.Repeat("n", 129), false},
	} {
		_, err := parseConfig(environment(map[string]string{"SYMBOLS": "BTCUSDT", "SQLITE_PATH": "a.db", c.name: c.value}))
		if (err == nil) != c.ok {
			t.Errorf("%s=%q: %v", c.name, c.value, err)
		}
	}
}
