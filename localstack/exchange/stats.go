package exchange

import (
	"sync"
	"time"
)

// connectWindow is what the limit of connections is about: "300 connections per attempt every 5 minutes per IP".
const connectWindow = 5 * time.Minute

// retryGrace is how long after a reply with Retry-After a request may come that was on its way before.
const retryGrace = time.Second

// Stats is how clients behaved, all taken as one address. A client that keeps the exchange's rules has zeros in what is
// refused, cut and ignored.
type Stats struct {
	Connects              int // WebSocket connections tried, refused ones included
	MostConnects          int // of them within five minutes
	ConnectsRefused       int // because they were too many; not those that a fault refused
	MostStreams           int // on one connection
	StreamLimitCuts       int // connections cut because they asked for more
	MostMessagesPerSecond int // on one connection, pongs included
	MessageLimitCuts      int // connections cut because they sent more

	Requests           int // of REST, whatever was answered
	MostWeight         int // used in one minute
	WeightLimitReplies int // 429 because more was used; not those of a fault
	Bans               int // for going on all the same
	// IgnoredRetryAfter are requests, and connections tried, before the Retry-After of a reply to one of their kind was
	// over, a second of grace left out.
	IgnoredRetryAfter int
}

// counters counts what Stats tells.
type counters struct {
	mu       sync.Mutex
	stats    Stats
	connects []time.Time // within the last five minutes
	requests silence     // what was told of requests
	attempts silence     // and of connecting
}

// silence is what clients were told to keep.
type silence struct {
	told  time.Time // when a Retry-After was told last
	until time.Time
}

// extend notes that clients were told to wait for d.
func (s *silence) extend(now time.Time, d time.Duration) {
	if end := now.Add(d); end.After(s.until) {
		s.told, s.until = now, end
	}
}

// broken reports whether something that comes now should have waited.
func (s *silence) broken(now time.Time) bool {
	return now.Before(s.until) && now.Sub(s.told) > retryGrace
}

// Stats returns how the server's clients behaved so far.
func (s *Server) Stats() Stats {
	s.stats.mu.Lock()
	defer s.stats.mu.Unlock()
	stats := s.stats.stats
	stats.MostWeight = s.weight.greatest()
	return stats
}

// connect counts an attempt to connect; false when there were too many.
func (c *counters) connect(now time.Time, limit int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	first := 0
	for first < len(c.connects) && now.Sub(c.connects[first]) >= connectWindow {
		first++
	}
	c.connects = append(c.connects[first:], now)
	c.stats.Connects++
	c.stats.MostConnects = max(c.stats.MostConnects, len(c.connects))
	if c.attempts.broken(now) {
		c.stats.IgnoredRetryAfter++
	}
	if len(c.connects) <= limit {
		return true
	}
	c.stats.ConnectsRefused++
	return false
}

func (c *counters) streams(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stats.MostStreams = max(c.stats.MostStreams, n)
}

func (c *counters) tooManyStreams() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stats.StreamLimitCuts++
}

// message counts a message of a client, the nth within a second.
func (c *counters) message(n int, tooMany bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stats.MostMessagesPerSecond = max(c.stats.MostMessagesPerSecond, n)
	if tooMany {
		c.stats.MessageLimitCuts++
	}
}

// request counts a request of REST.
func (c *counters) request(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stats.Requests++
	if c.requests.broken(now) {
		c.stats.IgnoredRetryAfter++
	}
}

// wait notes that clients were told to wait with requests.
func (c *counters) wait(now time.Time, d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.requests.extend(now, d)
}

// waitConnecting notes that clients were told to wait before they connect again.
func (c *counters) waitConnecting(now time.Time, d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.attempts.extend(now, d)
}

// ForgetRetryAfter forgets what clients were told to wait for: those that come from now on are new, and were not told.
func (s *Server) ForgetRetryAfter() {
	s.stats.mu.Lock()
	defer s.stats.mu.Unlock()
	s.stats.requests, s.stats.attempts = silence{}, silence{}
}

// refusal counts what the limit of weight answered.
func (c *counters) refusal(banned bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if banned {
		c.stats.Bans++
	} else {
		c.stats.WeightLimitReplies++
	}
}

const (
	// firstBan and longestBan bound bans: "from 2 minutes to 3 days".
	firstBan   = 2 * time.Minute
	longestBan = 72 * time.Hour
	// patience is how many requests that ignore a 429 bring a ban.
	patience = 10
)

// verdict is what the limit of weight says of a request.
type verdict struct {
	used       int           // in this minute
	retryAfter time.Duration // 0 = the request is answered
	ban        bool          // 418, not 429
	newBan     bool
}

// weightMeter counts the request weight used in the present minute.
type weightMeter struct {
	limit int

	mu     sync.Mutex
	minute int64
	used   int
	most   int
	over   int       // requests beyond the limit in this minute
	banned time.Time // until when
	bans   int
}

// use adds weight and returns what is used in this minute, and, when that is more than the limit, how long to wait.
func (m *weightMeter) use(weight int, now time.Time) verdict {
	m.mu.Lock()
	defer m.mu.Unlock()
	if minute := now.Unix() / 60; minute != m.minute {
		m.minute, m.used, m.over = minute, 0, 0
	}
	m.used += weight
	m.most = max(m.most, m.used)
	v := verdict{used: m.used}
	switch {
	case now.Before(m.banned):
		v.ban, v.retryAfter = true, m.banned.Sub(now)
	case m.used <= m.limit:
	case m.over < patience:
		m.over++
		v.retryAfter = time.Unix((m.minute+1)*60, 0).Sub(now)
	default:
		length := min(firstBan<<min(m.bans, 16), longestBan)
		m.bans++
		m.banned = now.Add(length)
		v.ban, v.newBan, v.retryAfter = true, true, length
	}
	return v
}

func (m *weightMeter) greatest() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.most
}
