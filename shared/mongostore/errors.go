package mongostore

import (
	"context"
	"errors"
	"slices"

	"go.mongodb.org/mongo-driver/v2/mongo"

	"tapedeck/shared/market"
)

// unavailableCodes are those of a server that cannot do now what it could do before or may do later. See
// https://github.com/mongodb/mongo/blob/master/src/mongo/base/error_codes.yml
var unavailableCodes = []int{
	1,                  // InternalError; FerretDB's, when its PostgreSQL is gone or full
	6, 7, 89, 91, 9001, // HostUnreachable, HostNotFound, NetworkTimeout, ShutdownInProgress, SocketException
	13, 18, // Unauthorized, AuthenticationFailed: until somebody mends the user
	50, 262, // MaxTimeMSExpired, ExceededTimeLimit
	64, 100, // WriteConcernTimeout, UnsatisfiableWriteConcern
	112,                                         // WriteConflict
	189, 10058, 10107, 11602, 13435, 13436, 133, // stepping down, not primary, no primary to be found
	11600, 11601, // interrupted, at shutdown or otherwise
	39, 14031, // FileStreamFailed, OutOfDiskSpace
	202, 462, // NetworkInterfaceExceededTimeLimit, IngressRequestRateLimitExceeded
}

// Codes with which a server refuses one document of a bulk write for what it is, or for what stands under its key: it
// will refuse it again. The source is error_codes.yml, as above, and where another is named. Those that a mistake in
// the program or in the set-up would cause for any document (unknown operators, shard keys) are left out on purpose:
// they are mended, and then the documents are stored.
var (
	invalidCodes = []int{
		2,        // BadValue
		14,       // TypeMismatch
		15,       // Overflow: nested too deeply
		22,       // InvalidBSON
		28,       // PathNotViable
		53,       // InvalidIdField
		121,      // DocumentValidationFailure: the collection's validator
		357, 378, // InvalidBSONType, NonConformantBSON
	}
	tooLargeCodes = []int{
		10334,        // BSONObjectTooLarge
		17419, 17420, // the document after an update: update_stage.cpp and upsert_stage.cpp up to MongoDB 7
		17280, // KeyTooLong
		261,   // the same by FerretDB: PostgreSQL's 54000 (program_limit_exceeded), packed by MAKE_SQLSTATE
	}
)

// classify gives an error of the driver its kind. An error that comes of the context's end wraps the context's error.
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
	case mongo.IsTimeout(err), mongo.IsNetworkError(err), errors.Is(err, mongo.ErrClientDisconnected), isTransient(err):
		return market.Errorf(market.KindUnavailable, "%w", err)
	}
	if kind := refusal(err); kind != market.KindUnknown {
		return market.Errorf(kind, "%w", err)
	}
	return err
}

// refusal returns the kind of an error that says that a document is refused for good, else KindUnknown. The same codes
// of a whole command, or beside a write concern that was not met, say nothing of a document.
func refusal(err error) market.Kind {
	failed, ok := errors.AsType[mongo.BulkWriteException](err)
	if !ok || failed.WriteConcernError != nil || len(failed.WriteErrors) != 1 {
		return market.KindUnknown
	}
	switch code := failed.WriteErrors[0].Code; {
	case slices.Contains(invalidCodes, code):
		return market.KindInvalid
	case slices.Contains(tooLargeCodes, code):
		return market.KindTooLarge
	}
	return market.KindUnknown
}

func isTransient(err error) bool {
	labeled, ok := errors.AsType[mongo.LabeledError](err)
	if ok && (labeled.HasErrorLabel("RetryableWriteError") || labeled.HasErrorLabel("RetryableError")) {
		return true
	}
	return slices.ContainsFunc(mongo.ErrorCodes(err), func(code int) bool {
		return slices.Contains(unavailableCodes, code)
	})
}
