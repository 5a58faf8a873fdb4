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
	default:
		return err
	}
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
