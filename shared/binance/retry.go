package binance

import (
	"net/http"
	"strconv"
	"time"
)

// What is assumed where Retry-After is missing, and the most that is believed. Weight is counted by the minute; bans last
// from two minutes to three days (rest-api.md, "IP Limits").
const (
	limitPause = time.Minute
	wallPause  = 30 * time.Second // after a 403; how long the firewall is angry is not documented
	banPause   = 2 * time.Minute
	maxBan     = 72 * time.Hour
	maxOutage  = time.Hour // of whoever answers with another status: somebody between here and the exchange, as a rule
)

// RetryAfter returns how long a refusal, of a request or of a handshake, asks for silence: what Retry-After says, in
// seconds or as a date (RFC 9110, 10.2.3). The exchange sends it with 429, too many requests, and 418, a ban; then it is
// believed up to three days, the longest ban there is: asking earlier makes a ban longer. With other statuses it is up to
// an hour, as a header that somebody else made up must not end the recording. Where it is not there, or leaves no
// time (a date of a clock that differs from ours), the shortest that the exchange documents for these two is assumed, and
// nothing, 0, for other statuses.
func RetryAfter(reply *http.Response, now time.Time) time.Duration {
	header, pause := reply.Header.Get("Retry-After"), time.Duration(0)
	if seconds, err := strconv.ParseUint(header, 10, 31); err == nil {
		pause = time.Duration(seconds) * time.Second
	} else if date, err := http.ParseTime(header); err == nil {
		pause = date.Sub(now)
	}
	longest, missing := maxOutage, time.Duration(0)
	switch reply.StatusCode {
	case http.StatusTooManyRequests:
		longest, missing = maxBan, limitPause
	case http.StatusTeapot:
		longest, missing = maxBan, banPause
	}
	if pause <= 0 {
		return missing
	}
	return min(pause, longest)
}
