// Package boot wires a function to the store that its environment names: MONGODB_URI and MONGODB_DATABASE, or
// SQLITE_PATH. Nothing else of the functions knows which stores there are.
package boot

import (
	"context"
	"log/slog"
	"os"
	"sync"
	"time"

	"tapedeck/functions/internal/api"
	"tapedeck/functions/internal/query"
	"tapedeck/shared/config"
	"tapedeck/shared/mongostore"
	"tapedeck/shared/sqlitestore"
)

// openTimeout bounds the opening of a store at a cold start.
const openTimeout = 5 * time.Second

// opener opens the store for reading.
type opener func(ctx context.Context) (query.Reader, error)

// Handler returns the handler of one route, logging to stderr as JSON, with its store opened. A store that cannot be
// opened is logged and tried again with every request, which meanwhile is told that storage is unavailable: a function
// that ended instead would be started again and again.
func Handler(endpoint api.Endpoint) *api.Handler {
	slog.SetDefault(slog.New(slog.NewJSONHandler(os.Stderr, nil)))
	ctx, cancel := context.WithTimeout(context.Background(), openTimeout)
	defer cancel()
	s := &lazyStore{open: openFrom(config.OS())}
	if _, err := s.Reader(ctx); err != nil {
		slog.Error("store not open yet", "error", err)
	}
	return api.NewHandler(endpoint, s)
}

// openFrom returns what opens the store that the environment names. A mistake in the environment shows at each opening.
func openFrom(env *config.Env) opener {
	where := env.Store()
	err := env.Err()
	return func(ctx context.Context) (query.Reader, error) {
		switch {
		case err != nil:
			return nil, err
		case where.MongoURI != "":
			return mongostore.Open(ctx, where.MongoURI.Reveal(), where.MongoDatabase, mongostore.Function)
		default:
			return sqlitestore.Open(ctx, where.SQLitePath, sqlitestore.ReadOnly)
		}
	}
}

// lazyStore opens a store once and keeps it as long as the process lives. It is safe for concurrent use.
type lazyStore struct {
	open opener

	mu     sync.Mutex
	reader query.Reader
}

// Reader implements api.Store.
func (s *lazyStore) Reader(ctx context.Context) (query.Reader, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reader == nil {
		reader, err := s.open(ctx)
		if err != nil {
			return nil, err
		}
		s.reader = reader
	}
	return s.reader, nil
}
