package config_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"tapedeck/shared/config"
	"tapedeck/shared/market"
)

// environment returns an Env over name, value pairs.
func environment(pairs ...string) *config.Env {
	values := map[string]string{}
	for pair := range slices.Chunk(pairs, 2) {
		values[pair[0]] = pair[1]
	}
	return config.New(func(name string) (string, bool) {
		value, ok := values[name]
		return value, ok
	})
}

func TestValues(t *testing.T) {
	env := environment("NAME", " deck ", "EMPTY", "", "LIST", "a, ,b,", "BOOL", "true", "INT", "7", "DURATION", "1m30s",
		"URL", "wss://host:9443/", "LEVEL", "warn", "SYMBOLS", "btcusdt, ETHUSDT,BTCUSDT")
	check := func(name string, got, want any) {
		t.Helper()
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s = %v, want %v", name, got, want)
		}
	}
	check("set", env.String("NAME", "x"), "deck")
	check("empty counts as unset", env.String("EMPTY", "x"), "x")
	check("unset", env.Int("NONE", 5, 0, 9), 5)
	check("list", env.List("LIST"), []string{"a", "b"})
	check("bool", env.Bool("BOOL", false), true)
	check("int", env.Int("INT", 5, 0, 9), 7)
	check("duration", env.Duration("DURATION", 0, 0, time.Hour), 90*time.Second)
	check("url", env.URL("URL", "", "ws", "wss"), "wss://host:9443")
	check("one of", env.OneOf("LEVEL", "info", "info", "warn"), "warn")
	check("markets", env.Markets("SYMBOLS", market.Binance), []string{"binance/BTCUSDT", "binance/ETHUSDT"})
	if err := env.Err(); err != nil {
		t.Errorf("Err() = %v", err)
	}
}

func TestBytes(t *testing.T) {
	for _, test := range []struct {
		value string
		want  int // -1: an error
	}{
		{"1024", 1024},
		{"64KiB", 64 << 10},
		{"256 MiB", 256 << 20},
		{"1GiB", 1 << 30},
		{"2GiB", -1}, // above the bound
		{"1023", -1}, // below it
		{"9999999999GiB", -1},
		{"64KB", -1},
		{"-1", -1},
		{"MiB", -1},
		{"1.5MiB", -1},
	} {
		env := environment("SIZE", test.value)
		got := env.Bytes("SIZE", -1, 1024, 1<<30)
		if got != test.want || (env.Err() != nil) != (test.want == -1) {
			t.Errorf("Bytes(%q) = %d, %v, want %d", test.value, got, env.Err(), test.want)
		}
	}
}

func TestEveryErrorIsReported(t *testing.T) {
	env := environment("INT", "ten", "SMALL", "1", "DURATION", "1", "LONG", "2h", "BOOL", "maybe", "LEVEL", "loud",
		"URL", "http://user:hunter2@host/%zz", "SCHEME", "ftp://host", "HOST", "http://", "SYMBOLS", "BTC/USDT,ETHUSDT,A B")
	env.Int("INT", 0, 0, 10)
	env.Int("SMALL", 5, 5, 10)
	env.Duration("DURATION", 0, 0, time.Hour)
	env.Duration("LONG", 0, 0, time.Hour)
	env.Bool("BOOL", false)
	env.OneOf("LEVEL", "info", "info", "warn")
	env.URL("URL", "", "http")
	env.URL("SCHEME", "", "http", "https")
	env.URL("HOST", "", "http")
	if got := env.Markets("SYMBOLS", market.Binance); len(got) != 1 {
		t.Errorf("Markets = %v, want the one good market", got)
	}
	env.Markets("NO_SYMBOLS", market.Binance)
	env.Store()

	err := env.Err()
	if market.KindOf(err) != market.KindInvalid {
		t.Errorf("kind = %v, want invalid", market.KindOf(err))
	}
	lines := strings.Split(err.Error(), "\n")
	for i, name := range []string{"INT", "SMALL", "DURATION", "LONG", "BOOL", "LEVEL", "URL", "SCHEME", "HOST", "SYMBOLS", "SYMBOLS", "NO_SYMBOLS", "MONGODB_URI, SQLITE_PATH"} {
		if i >= len(lines) || !strings.HasPrefix(lines[i], name+": ") {
			t.Errorf("line %d of the error is not about %s:\n%v", i, name, err)
			break
		}
	}
	if strings.Contains(err.Error(), "hunter2") {
		t.Errorf("the error shows a password: %v", err)
	}
}

func TestStore(t *testing.T) {
	for _, test := range []struct {
		name    string
		env     []string
		wantErr string
	}{
		{"sqlite", []string{"SQLITE_PATH", "a.db"}, ""},
		{"mongodb", []string{"MONGODB_URI", "mongodb://u:hunter2@h"}, ""},
		{"mongodb by DNS", []string{"MONGODB_URI", "mongodb+srv://u:hunter2@h"}, ""},
		{"neither", nil, "one of them is required"},
		{"both", []string{"SQLITE_PATH", "a.db", "MONGODB_URI", "mongodb://u:hunter2@h"}, "only one"},
		{"not a MongoDB URI", []string{"MONGODB_URI", "http://u:hunter2@h"}, "does not start with"},
	} {
		t.Run(test.name, func(t *testing.T) {
			env := environment(test.env...)
			store, err := env.Store(), env.Err()
			if (err != nil) != (test.wantErr != "") || err != nil && !strings.Contains(err.Error(), test.wantErr) {
				t.Errorf("Err() = %v, want %q", err, test.wantErr)
			}
			if store.MongoDatabase != config.DefaultDatabase {
				t.Errorf("database = %q", store.MongoDatabase)
			}
			var logged strings.Builder
			slog.New(slog.NewJSONHandler(&logged, nil)).Info("store", "store", store, "uri", store.MongoURI)
			encoded, _ := json.Marshal(store)
			printed := fmt.Sprintf("%v %+v %#v %s %q %s %s %v", store, store, store, store.MongoURI, store.MongoURI, logged.String(), encoded, err)
			if strings.Contains(printed, "hunter2") {
				t.Errorf("a password was printed: %s", printed)
			}
		})
	}
}
