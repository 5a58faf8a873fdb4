package market

import (
	"errors"
	"fmt"
)

// Kind is what an error means to whoever has to act on it. There are few, and one place maps them to HTTP.
type Kind uint8

// The kinds. The zero Kind is an error that nobody classified: a bug or something unforeseen.
const (
	KindUnknown     Kind = iota
	KindInvalid          // the input is wrong and will stay wrong
	KindNotFound         // what was asked for is not there
	KindUnavailable      // a store or an exchange does not answer now; a later try may succeed
	KindCorrupt          // stored or received bytes are not what they must be
	KindTooLarge         // a bound was exceeded
)

// String names the kind.
func (k Kind) String() string {
	switch k {
	case KindInvalid:
		return "invalid"
	case KindNotFound:
		return "not found"
	case KindUnavailable:
		return "unavailable"
	case KindCorrupt:
		return "corrupt"
	case KindTooLarge:
		return "too large"
	default:
		return "unknown"
	}
}

// Error is an error with a kind.
type Error struct {
	Kind Kind
	Err  error
}

// Error returns the message without the kind.
func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns the wrapped error.
func (e *Error) Unwrap() error { return e.Err }

// Errorf formats an error of the given kind; %w wraps.
func Errorf(kind Kind, format string, args ...any) error {
	return &Error{Kind: kind, Err: fmt.Errorf(format, args...)}
}

// KindOf returns the kind of the outermost classified error in err's chain, or KindUnknown.
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return KindUnknown
}

// Wrap adds the operation and its arguments to *errp when it holds an error; for use in a defer at the top of a
// function: defer market.Wrap(&err, "Blocks(%v)", q).
func Wrap(errp *error, format string, args ...any) {
	if *errp != nil {
		*errp = fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), *errp)
	}
}
