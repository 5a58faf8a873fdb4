package binance

import (
	"fmt"
	"net/http"
	"testing"
	"time"
)

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)
	date := func(d time.Duration) string { return now.Add(d).Format(http.TimeFormat) }
	for _, c := range []struct {
		header string
		said   time.Duration // 0 = nothing of use
	}{
		{header: "7", said: 7 * time.Second},
		{header: "600", said: 10 * time.Minute},
		{header: "259200", said: 72 * time.Hour},
		{header: "259201", said: 72 * time.Hour},
		{header: "2147483647", said: 72 * time.Hour},
		{header: date(40 * time.Second), said: 40 * time.Second},
		{header: now.Add(time.Minute).Format(time.ANSIC), said: time.Minute}, // one of the old forms of a date
		{header: date(1000 * time.Hour), said: 72 * time.Hour},
		{header: date(0)},
		{header: date(-time.Hour)},
		{header: "0"},
		{header: ""},
		{header: "-5"},
		{header: "7.5"},
		{header: "7s"},
		{header: "soon"},
		{header: "99999999999999999999"},
	} {
		for status, or := range map[int]time.Duration{
			http.StatusTooManyRequests: time.Minute, http.StatusTeapot: 2 * time.Minute,
			http.StatusForbidden: 0, http.StatusServiceUnavailable: 0, http.StatusOK: 0,
		} {
			t.Run(fmt.Sprintf("%d %q", status, c.header), func(t *testing.T) {
				reply := &http.Response{StatusCode: status, Header: http.Header{}}
				if c.header != "" {
					reply.Header.Set("Retry-After", c.header)
				}
				want := c.said
				switch {
				case want == 0:
					want = or
				case or == 0: // not the exchange's own
					want = min(want, time.Hour)
				}
				if got := RetryAfter(reply, now); got != want {
					t.Errorf("%v, want %v", got, want)
				}
			})
		}
	}
}
