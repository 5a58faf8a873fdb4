// Package sqlitestore keeps what Tapedeck records in one SQLite file: the store of a single machine that has nothing
// but this program. One process writes, any number read; they share the file, in WAL mode.
//
// A write that was acknowledged is on the disk (synchronous=FULL): it survives a crash of the process and of the
// machine.
package sqlitestore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	_ "modernc.org/sqlite" // the driver, named "sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"tapedeck/shared/market"
)

// Mode says what a Store is opened for.
type Mode uint8

// The modes.
const (
	ReadWrite Mode = iota + 1 // creates the file and its tables where they are missing
	ReadOnly                  // may be opened before the file exists: until then calls fail with KindUnavailable
)

const (
	// busyTimeout bounds the wait for another process's lock. Writers take turns by it.
	busyTimeout = 5 * time.Second
	// maxConns bounds the connections of one Store; each has a page cache of its own. Writers take turns, so that a Store
	// that writes keeps one of them when the rush of questions at a start is over.
	maxConns     = 4
	maxIdleConns = 1 // of a Store that writes
	// cacheKiB bounds the page cache of a connection, which holds the ends of the indexes. It takes six times as much
	// memory, measured, as the driver's allocator rounds pages up; behind it the operating system caches the file.
	cacheKiB = 4 << 10
	// pageBytes is a compromise: a block's row seldom leaves more than a tenth of a page unused, and a commit writes
	// two index pages for each series in it.
	pageBytes = 16 << 10
	// maxIdleWALBytes bounds the write-ahead log that is left after a burst.
	maxIdleWALBytes = 64 << 20
)

func (m Mode) idleConns() int {
	if m == ReadWrite {
		return maxIdleConns
	}
	return maxConns
}

// Store is a SQLite file. It does what storetest.Store says. All methods may be called concurrently.
type Store struct {
	db   *sql.DB
	path string
	mode Mode

	mu     sync.Mutex
	stmts  *statements // nil until the file was found to be good
	closed bool

	writing chan struct{} // holds one token while a write runs, or while the file is made ready
}

// Open prepares access to the file at path. With ReadWrite it creates what is missing. Where the file cannot be written
// now (another process has the lock, the disk is read-only or full, the directory is not there), that is no error: calls
// fail with KindUnavailable until one succeeds, which creates what is missing. Ping tells. With ReadOnly nothing is
// touched yet. It is an error when the file holds something else.
func Open(ctx context.Context, path string, mode Mode) (*Store, error) {
	return open(ctx, path, mode, busyTimeout)
}

// open is Open, for tests with less patience for another process's lock.
func open(ctx context.Context, path string, mode Mode, patience time.Duration) (_ *Store, err error) {
	defer market.Wrap(&err, "open SQLite store %s", path)
	dsn, err := dataSourceName(path, mode, patience)
	if err != nil {
		return nil, err
	}
	db, err := sql.Open("sqlite", dsn)
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(maxConns)
	db.SetMaxIdleConns(mode.idleConns())
	s := &Store{db: db, path: path, mode: mode, writing: make(chan struct{}, 1)}
	if mode == ReadWrite {
		if _, err := s.statements(ctx); err != nil && market.KindOf(err) != market.KindUnavailable {
			return nil, errors.Join(err, db.Close())
		}
	}
	return s, nil
}

// dataSourceName spells the connection settings. The driver puts those in _pragma into an order of its own, and applies
// the rest before (_busy_timeout) or after them; page_size is ignored once _journal_mode has made the file.
func dataSourceName(path string, mode Mode, patience time.Duration) (string, error) {
	absolute, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	query := url.Values{
		"mode":          {"ro"},
		"_busy_timeout": {strconv.FormatInt(patience.Milliseconds(), 10)},
		"_pragma":       {fmt.Sprintf("cache_size(-%d)", cacheKiB)},
	}
	if mode == ReadWrite {
		query.Set("mode", "rwc")
		query.Set("_txlock", "immediate")
		query.Set("_journal_mode", "WAL")
		query.Set("_synchronous", "FULL")
		query.Add("_pragma", fmt.Sprintf("page_size(%d)", pageBytes))
		query.Add("_pragma", fmt.Sprintf("journal_size_limit(%d)", maxIdleWALBytes))
	}
	file := url.URL{Scheme: "file", OmitHost: true, Path: absolute, RawQuery: query.Encode()}
	return file.String(), nil
}

// touchSQL needs a file that can be written to, as beginning a transaction does not, and changes nothing: no recorder
// has an empty name.
const touchSQL = `UPDATE recorders SET recorder = recorder WHERE recorder = ''`

// Ping implements storetest.Store.
func (s *Store) Ping(ctx context.Context) (err error) {
	defer market.Wrap(&err, "ping SQLite store %s", s.path)
	if _, err := s.statements(ctx); err != nil {
		return err
	}
	if s.mode == ReadWrite {
		return s.write(ctx, func(tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, touchSQL)
			return err
		})
	}
	return classify(ctx, s.db.PingContext(ctx))
}

// Close implements storetest.Store. It waits for a write in flight.
func (s *Store) Close(ctx context.Context) (err error) {
	defer market.Wrap(&err, "close SQLite store %s", s.path)
	if err := s.lock(ctx); err != nil {
		return err
	}
	defer s.unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed, s.stmts = true, nil
	return s.db.Close()
}

// lock waits for its turn to write.
func (s *Store) lock(ctx context.Context) error {
	select {
	case s.writing <- struct{}{}:
		return nil
	case <-ctx.Done():
		return classify(ctx, ctx.Err())
	}
}

func (s *Store) unlock() { <-s.writing }

// write runs f in a transaction.
func (s *Store) write(ctx context.Context, f func(*sql.Tx) error) error {
	if s.mode != ReadWrite {
		return market.Errorf(market.KindInvalid, "the store is open for reading only")
	}
	if err := s.lock(ctx); err != nil {
		return err
	}
	defer s.unlock()
	return s.transaction(ctx, f)
}

// transaction runs f in a transaction that holds the file's write lock from its beginning, so that it never has to be
// run again. The caller holds the lock of s.
func (s *Store) transaction(ctx context.Context, f func(*sql.Tx) error) (err error) {
	defer func() { s.renew(err) }() // when the transaction has let go of its connection
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return classify(ctx, err)
	}
	defer tx.Rollback() //nolint:errcheck // after a commit it has nothing to do, and before one its error adds nothing
	if err := f(tx); err != nil {
		return classify(ctx, err)
	}
	return classify(ctx, tx.Commit())
}

// renew closes idle connections after an error that may be theirs: one that was opened while the file could only be
// read remains read-only, and one whose file was taken away does not see that there is another.
func (s *Store) renew(err error) {
	switch primaryCode(err) {
	case sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR:
		s.db.SetMaxIdleConns(0)
		s.db.SetMaxIdleConns(s.mode.idleConns())
	}
}
