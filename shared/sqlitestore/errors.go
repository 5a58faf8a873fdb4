package sqlitestore

import (
	"context"
	"database/sql"
	"errors"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"tapedeck/shared/market"
)

// classify gives an error of SQLite its kind. An error that comes of the context's end wraps the context's error.
func classify(ctx context.Context, err error) error {
	if err == nil || market.KindOf(err) != market.KindUnknown {
		return err
	}
	if ended := ctx.Err(); ended != nil && !errors.Is(err, ended) {
		err = errors.Join(ended, err)
	}
	switch {
	case errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, sql.ErrConnDone):
		return market.Errorf(market.KindUnavailable, "%w", err)
	}
	switch primaryCode(err) {
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_CANTOPEN,
		sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM,
		sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_INTERRUPT:
		return market.Errorf(market.KindUnavailable, "%w", err)
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return market.Errorf(market.KindCorrupt, "%w", err)
	case sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH:
		// A record that the tables refuse for what it is. That its key is there already never comes here: statements
		// that insert say what to do then.
		return market.Errorf(market.KindInvalid, "%w", err)
	case sqlite3.SQLITE_TOOBIG:
		return market.Errorf(market.KindTooLarge, "%w", err)
	default:
		return err
	}
}

// primaryCode returns SQLite's primary result code, or SQLITE_OK for an error that is not SQLite's. See
// https://www.sqlite.org/rescode.html: it is the low byte.
func primaryCode(err error) int {
	failed, ok := errors.AsType[*sqlite.Error](err)
	if !ok {
		return sqlite3.SQLITE_OK
	}
	return failed.Code() & 0xff
}
