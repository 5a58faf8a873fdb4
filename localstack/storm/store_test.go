package storm

import (
	"context"
	"database/sql"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"strings"
	"time"

	"tapedeck/localstack/storeproxy"
	"tapedeck/shared/mongostore"
	"tapedeck/shared/mongostore/mongotest"
	"tapedeck/shared/sqlitestore"
)

// store is where the ingester of a trial records.
type store interface {
	// environment names the store: to the ingester, or to those who look at it afterwards.
	environment(ingester bool) map[string]string
	// open opens it for the judge.
	open(ctx context.Context) (reader, error)
	// outages makes it fail in its own ways, until ctx ends.
	outages(ctx context.Context, t *trial)
}

// sqliteFile is a store in a file.
type sqliteFile struct{ path string }

func (f sqliteFile) environment(bool) map[string]string {
	return map[string]string{"MONGODB_URI": "", "MONGODB_DATABASE": "", "SQLITE_PATH": f.path}
}

func (f sqliteFile) open(ctx context.Context) (reader, error) {
	return sqlitestore.Open(ctx, f.path, sqlitestore.ReadOnly)
}

// outages has another process hold the file's lock now and then, so that nothing can be written.
func (f sqliteFile) outages(ctx context.Context, t *trial) {
	dice := rand.New(rand.NewPCG(t.seed, 2))
	longest := 3 * time.Second
	if t.length > time.Minute {
		longest = 45 * time.Second
	}
	for pause(ctx, time.Duration(dice.Int64N(int64(2*longest)))) {
		f.lock(ctx, t, time.Duration(dice.Int64N(int64(longest))))
	}
}

// lock holds the file's lock for d, or until ctx ends.
func (f sqliteFile) lock(ctx context.Context, t *trial, d time.Duration) {
	query := url.Values{"mode": {"rw"}, "_busy_timeout": {"5000"}, "_txlock": {"immediate"}}
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", OmitHost: true, Path: f.path, RawQuery: query.Encode()}).String())
	if err != nil {
		t.Error(err)
		return
	}
	defer db.Close()
	tx, err := db.BeginTx(context.WithoutCancel(ctx), nil)
	if err != nil {
		t.weather.note("the store could not be locked: %v", err)
		return
	}
	t.weather.note("the store is locked for %v", d)
	pause(ctx, d)
	_ = tx.Rollback() // it wrote nothing
	t.weather.note("the store is free")
}

// pause waits for d; false when ctx ended before.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// mongoServer is a MongoDB behind a proxy.
type mongoServer struct {
	server   *mongotest.Server
	database string
	proxy    *storeproxy.Proxy
}

func newMongoServer(t *trial, server *mongotest.Server) *mongoServer {
	address := strings.TrimPrefix(server.URI, "mongodb://")
	proxy, err := storeproxy.Start("127.0.0.1:0", address, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := proxy.Close(); err != nil {
			t.Error(err)
		}
	})
	return &mongoServer{server: server, database: server.Database(t), proxy: proxy}
}

func (m *mongoServer) environment(ingester bool) map[string]string {
	uri := m.server.URI
	if ingester {
		uri = "mongodb://" + m.proxy.Addr()
	}
	return map[string]string{"MONGODB_URI": uri + "/?directConnection=true", "MONGODB_DATABASE": m.database, "SQLITE_PATH": ""}
}

func (m *mongoServer) open(ctx context.Context) (reader, error) {
	return mongostore.Open(ctx, m.environment(false)["MONGODB_URI"], m.database, mongostore.Recorder)
}

// outages kills the engine, starts it again, and freezes it for a while, where it is ours.
func (m *mongoServer) outages(ctx context.Context, t *trial) {
	if m.server.Image == "" {
		t.weather.note("the engine was given, and is not ours to stop")
		return
	}
	dice := rand.New(rand.NewPCG(t.seed, 2))
	longest := 4 * time.Second
	if t.length > time.Minute {
		longest = time.Minute
	}
	for pause(ctx, time.Duration(dice.Int64N(int64(longest)))) {
		down := time.Duration(dice.Int64N(int64(longest)))
		if dice.IntN(2) == 0 {
			t.weather.note("the engine is killed for %v", down)
			m.server.Kill(t)
			pause(ctx, down)
			m.server.Restart(t)
		} else {
			t.weather.note("the engine is frozen for %v", down)
			m.server.Pause(t)
			pause(ctx, down)
			m.server.Unpause(t)
		}
		t.weather.note("the engine is back")
	}
}

var (
	_ reader = (*sqlitestore.Store)(nil)
	_ reader = (*mongostore.Store)(nil)
)
