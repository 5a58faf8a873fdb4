// Package mongostore keeps what Tapedeck records in MongoDB. It is the only package that imports the driver, and it
// uses only what MongoDB 7 and 8 and FerretDB 2 have in common: no transactions, change streams, TTL indexes, or
// Client.BulkWrite.
//
// Every document has a deterministic string as its _id, so that writing again is a no-op (see keys.go), and every query
// is bounded and served by an index (see EnsureIndexes). Writes are acknowledged by a majority, from the journal.
package mongostore

import (
	"context"
	"sync"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/event"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.mongodb.org/mongo-driver/v2/mongo/readpref"
	"go.mongodb.org/mongo-driver/v2/mongo/writeconcern"

	"tapedeck/shared/market"
)

// Profile says what kind of program uses the store.
type Profile uint8

// The profiles.
const (
	Recorder Profile = iota + 1 // one long-lived process that writes
	Function                    // a Lambda function: many short-lived processes that read, few connections each
)

type limits struct {
	pool            uint64
	idle            time.Duration
	serverSelection time.Duration
	call            time.Duration // bounds each call, beside the caller's context
}

// In a function the pool is small, since as many processes may run as Lambda allows; a frozen process must not find a
// dead connection in its pool; and a caller waits. A recorder has a spool and may wait for a new primary.
func (p Profile) limits() limits {
	if p == Function {
		return limits{pool: 2, idle: 20 * time.Second, serverSelection: 3 * time.Second, call: 10 * time.Second}
	}
	return limits{pool: 8, idle: 5 * time.Minute, serverSelection: 10 * time.Second, call: 30 * time.Second}
}

// Store is a database of a MongoDB server. It does what storetest.Store says. All methods may be called concurrently.
type Store struct {
	client *mongo.Client
	limits limits

	blocks, keyframes, spans, gaps, listings, recorders *mongo.Collection

	mu      sync.Mutex
	indexed bool
}

// Open prepares a client for the database. It does not wait for the server: whether that answers, Ping tells. (The name
// of a mongodb+srv URI is looked up, though.) The error does not hold the URI's password.
func Open(_ context.Context, uri, database string, profile Profile) (*Store, error) {
	return open(uri, database, profile, nil)
}

// open is Open, for tests with a monitor of the commands that are sent.
func open(uri, database string, profile Profile, monitor *event.CommandMonitor) (*Store, error) {
	limits := profile.limits()
	journaled := writeconcern.Majority()
	journaled.Journal = new(true)
	opts := options.Client().ApplyURI(uri).
		SetAppName("tapedeck").
		SetMonitor(monitor).
		SetWriteConcern(journaled).
		SetMaxPoolSize(limits.pool).
		SetMinPoolSize(0).
		SetMaxConnIdleTime(limits.idle).
		SetServerSelectionTimeout(limits.serverSelection).
		SetConnectTimeout(limits.serverSelection)
	client, err := mongo.Connect(opts)
	if err != nil {
		return nil, openError(uri, err)
	}
	db := client.Database(database)
	return &Store{
		client: client, limits: limits,
		blocks:    db.Collection("blocks"),
		keyframes: db.Collection("keyframes"),
		spans:     db.Collection("spans"),
		gaps:      db.Collection("gaps"),
		listings:  db.Collection("listings"),
		recorders: db.Collection("recorders"),
	}, nil
}

// Ping implements storetest.Store. The server that answers is one that takes writes.
func (s *Store) Ping(ctx context.Context) (err error) {
	defer market.Wrap(&err, "ping MongoDB")
	ctx, cancel := context.WithTimeout(ctx, s.limits.call)
	defer cancel()
	return classify(ctx, s.client.Ping(ctx, readpref.Primary()))
}

// Close implements storetest.Store.
func (s *Store) Close(ctx context.Context) (err error) {
	defer market.Wrap(&err, "close MongoDB client")
	if err := s.client.Disconnect(ctx); err != mongo.ErrClientDisconnected { //nolint:errorlint // the driver does not wrap it
		return classify(ctx, err)
	}
	return nil
}

// EnsureIndexes creates the indexes that queries need beside those on _id. It is idempotent. The first Write calls it.
func (s *Store) EnsureIndexes(ctx context.Context) (err error) {
	defer market.Wrap(&err, "create MongoDB indexes")
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.indexed {
		return nil
	}
	for _, index := range []struct {
		collection *mongo.Collection
		keys       bson.D
	}{
		{s.blocks, bson.D{{Key: "series", Value: 1}, {Key: "last", Value: 1}}},
		{s.spans, bson.D{{Key: "series", Value: 1}, {Key: "end", Value: 1}}},
		{s.gaps, bson.D{{Key: "market", Value: 1}, {Key: "end", Value: 1}}},
		{s.gaps, bson.D{{Key: "market", Value: 1}, {Key: "start", Value: 1}}},
	} {
		if _, err := index.collection.Indexes().CreateOne(ctx, mongo.IndexModel{Keys: index.keys}); err != nil {
			return classify(ctx, err)
		}
	}
	s.indexed = true
	return nil
}
