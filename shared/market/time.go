package market

import (
	"strconv"
	"time"
)

// Time is an instant in nanoseconds since the Unix epoch, UTC. The zero Time means "not known". Two clocks stand on
// everything recorded: the exchange's and the receiver's. They are never compared with each other.
type Time int64

// TimeOf converts a time.Time. Instants outside the years 1678 to 2262 do not fit; callers that take times from
// outside use ParseTime, which checks.
func TimeOf(t time.Time) Time { return Time(t.UnixNano()) }

// Std converts to a time.Time in UTC.
func (t Time) Std() time.Time { return time.Unix(0, int64(t)).UTC() }

// Add returns t+d.
func (t Time) Add(d time.Duration) Time { return t + Time(d) }

// Sub returns t-u.
func (t Time) Sub(u Time) time.Duration { return time.Duration(t - u) }

// Truncate rounds t down to a multiple of d since the Unix epoch, also before it.
func (t Time) Truncate(d time.Duration) Time {
	r := t % Time(d)
	if r < 0 {
		r += Time(d)
	}
	return t - r
}

// String returns RFC 3339 in UTC with as many decimals as are needed, up to nanoseconds.
func (t Time) String() string { return t.Std().Format(time.RFC3339Nano) }

// MarshalText returns the RFC 3339 text.
func (t Time) MarshalText() ([]byte, error) {
	return t.Std().AppendFormat(make([]byte, 0, len(time.RFC3339Nano)), time.RFC3339Nano), nil
}

// UnmarshalText reads what ParseTime reads.
func (t *Time) UnmarshalText(text []byte) error {
	v, err := ParseTime(string(text))
	if err != nil {
		return err
	}
	*t = v
	return nil
}

// The instants that ParseTime accepts: years 1970 to 2199. Exchanges began in this century, and the bound keeps
// every later sum of a Time and a duration inside an int64.
var (
	minTime = Time(0)
	maxTime = TimeOf(time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC))
)

// ParseTime reads RFC 3339 with up to nanoseconds, or an integer of unix milliseconds. The error is of kind
// KindInvalid.
func ParseTime(s string) (Time, error) {
	var t Time
	if ms, err := strconv.ParseInt(s, 10, 64); err == nil {
		if ms < 0 || ms > int64(maxTime)/int64(time.Millisecond) {
			return 0, Errorf(KindInvalid, "time %q is out of range", s)
		}
		t = Time(ms) * Time(time.Millisecond)
	} else {
		std, err := time.Parse(time.RFC3339Nano, s)
		if err != nil {
			return 0, Errorf(KindInvalid, "time %q is neither RFC 3339 nor unix milliseconds", s)
		}
		if y := std.UTC().Year(); y < 1970 || y >= 2200 {
			return 0, Errorf(KindInvalid, "time %q is out of range", s)
		}
		t = TimeOf(std)
	}
	if t < minTime || t >= maxTime {
		return 0, Errorf(KindInvalid, "time %q is out of range", s)
	}
	return t, nil
}
