package binance

import (
	"context"
	"slices"
	"sync"
	"time"

	"tapedeck/shared/market"
)

// Budget keeps the REST requests of a process within the request weight that the exchange grants one IP address, and
// silent while it is told to be. The exchange's rules (rest-api.md, "LIMITS" and "HTTP Return Codes"):
//
//   - every endpoint has a weight; an IP address may spend REQUEST_WEIGHT of it a minute (exchangeInfo.rateLimits; 6000
//     in 2026), whatever the number of processes behind it;
//   - each reply says in X-MBX-USED-WEIGHT-1M how much the address has spent in the exchange's present minute;
//   - beyond the limit the reply is 429, and 418 (a ban of 2 minutes to 3 days, growing) for those who go on; both say in
//     Retry-After how long to ask nothing at all. 403 is the web application firewall's, and says nothing.
//
// What counts as used is the greater of two: the weight of this process's own requests within the last minute, and what
// the exchange said last together with what was spent since. So the process alone stays below its share in every
// rolling minute, wherever the exchange's minutes begin, and others behind the same address make it slower instead of
// everybody banned. A request is let through while that stays within the share of its priority: normal requests may
// bring it to 90% of the limit, background requests to 50%. The rest of the limit is for what is not seen: requests of
// others since the last reply, and of this process's last life. At the start, and when the last reply that told what is
// used is some seconds old, no more than that rest is under way at a time: a failure tells nothing of others.
//
// Requests that have to wait are served in their order, all normal ones before those in the background. A Budget is safe
// for concurrent use; it starts no goroutine. It belongs to one exchange and one IP address: a process makes one.
type Budget struct {
	observe func(Request)

	mu       sync.Mutex
	limit    int     // a minute
	spends   []spend // own ones within the last window, oldest first
	spent    int     // sum of spends
	inFlight int     // weight of spends that no reply has answered yet

	reported      int // what the exchange said is used, with what may not have been in it
	reportedAt    time.Time
	reportedUntil time.Time // the exchange's minute is over then
	blindFrom     time.Time // when the last reply that told is old

	pausedUntil time.Time
	pause       RateLimitError

	waiting [2][]*waiter // by priority
	timer   *time.Timer  // runs dispatch when the first of them can be let through
}

// priority orders requests.
type priority int

const (
	normal     priority = iota // what a book waits for
	background                 // what can wait: probes, audits, trades that are fetched again
)

// spend is the weight of a request that was let through.
type spend struct {
	at     time.Time
	weight int
}

// waiter is a request that waits.
type waiter struct {
	weight int
	ready  chan struct{} // closed when it is let through, or err is set
	err    error
}

const (
	// Up to these percentages of the limit may be used before a request has to wait.
	normalShare     = 90
	backgroundShare = 50

	budgetWindow = time.Minute
	// sightTime is for how long a reply tells what others use.
	sightTime = 5 * time.Second
	// maxWaiting bounds the requests of each priority that wait; some thousand markets have a few each.
	maxWaiting = 4096
	// maxWeightLimit bounds what the exchange is believed to grant; a thousand times what it did in 2026.
	maxWeightLimit = MaxWeightPerMinute * 1000
)

// Request is what a Budget tells of one request.
type Request struct {
	Endpoint   string        // "depth", "exchangeInfo", …
	Result     RequestResult // how it ended
	Waited     time.Duration // for the budget
	UsedWeight int           // by this IP address in the exchange's minute, as the reply says; -1 when it does not
}

// RequestResult says how a request ended.
type RequestResult string

// The results.
const (
	ResultOK          RequestResult = "ok"
	ResultRefused     RequestResult = "refused"      // 4xx other than these two
	ResultRateLimited RequestResult = "rate_limited" // 429 or 418
	ResultFailed      RequestResult = "failed"       // 5xx, no reply, or one that was cut off or too large
	ResultUnsent      RequestResult = "unsent"       // the budget did not let it through
)

// NewBudget returns a Budget with the limit that the documentation states, until a reply of exchangeInfo states
// another. observe, if not nil, is called after each request, by several goroutines at a time; it must not block.
func NewBudget(observe func(Request)) *Budget {
	if observe == nil {
		observe = func(Request) {}
	}
	return &Budget{observe: observe, limit: MaxWeightPerMinute}
}

// setLimit takes the limit that the exchange states; one that makes no sense is ignored.
func (b *Budget) setLimit(perMinute int) {
	if perMinute < 1 || perMinute > maxWeightLimit {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.limit = perMinute
	b.dispatch(time.Now())
}

// share returns how much may be used before a request of the priority has to wait. The lock is held.
func (b *Budget) share(p priority) int {
	if p == background {
		return b.limit * backgroundShare / 100
	}
	return b.limit * normalShare / 100
}

// permit allows requests of some weight in all. Its holder sends them with REST.send and then releases it.
type permit struct {
	budget *Budget
	at     time.Time
	waited time.Duration
	weight int // that no reply has answered yet
}

// acquire waits until requests of that weight may be sent. It fails at once, with an error of kind KindUnavailable,
// when that cannot be before ctx's deadline; a RateLimitError is inside while the exchange wants no requests.
func (b *Budget) acquire(ctx context.Context, weight int, p priority) (*permit, error) {
	begin := time.Now()
	w, err := b.enqueue(ctx, weight, p, begin)
	if err != nil {
		return nil, err
	}
	select {
	case <-w.ready:
	case <-ctx.Done():
		if b.leave(w, p) {
			return nil, market.Errorf(market.KindUnavailable, "waiting for request weight: %w", ctx.Err())
		}
	}
	if w.err != nil {
		return nil, w.err
	}
	now := time.Now()
	return &permit{budget: b, at: now, waited: now.Sub(begin), weight: weight}, nil
}

// enqueue puts a request behind those that wait, and lets it through if it can be.
func (b *Budget) enqueue(ctx context.Context, weight int, p priority, now time.Time) (*waiter, error) {
	if err := ctx.Err(); err != nil {
		return nil, market.Errorf(market.KindUnavailable, "waiting for request weight: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.expire(now)
	if weight > b.share(p) {
		return nil, b.tooHeavy(weight, p)
	}
	if len(b.waiting[p]) >= maxWaiting {
		return nil, market.Errorf(market.KindUnavailable, "%d requests wait for request weight", maxWaiting)
	}
	if deadline, ok := ctx.Deadline(); ok {
		if at := b.notBefore(weight, p, now); at.After(deadline) {
			return nil, b.tooLate(weight, now, at)
		}
	}
	w := &waiter{weight: weight, ready: make(chan struct{})}
	b.waiting[p] = append(b.waiting[p], w)
	b.dispatch(now)
	return w, nil
}

// tooLate is the error of a request that could be sent at the given time, but not in time. The lock is held.
func (b *Budget) tooLate(weight int, now, at time.Time) error {
	wait := at.Sub(now).Round(time.Millisecond)
	if pause := b.pauseAt(now); pause != nil {
		return market.Errorf(market.KindUnavailable, "not before %v: %w", wait, pause)
	}
	return market.Errorf(market.KindUnavailable, "%d of %d request weight used, a request of %d would wait %v: %w",
		b.used(now), b.limit, weight, wait, context.DeadlineExceeded)
}

// pauseAt returns for how long the exchange wants no requests, nil when it takes them. The lock is held.
func (b *Budget) pauseAt(now time.Time) *RateLimitError {
	if !b.pausedUntil.After(now) {
		return nil
	}
	pause := b.pause
	pause.RetryAfter = b.pausedUntil.Sub(now)
	return &pause
}

// tooHeavy is the error of a request that can never be sent. The lock is held.
func (b *Budget) tooHeavy(weight int, p priority) error {
	return market.Errorf(market.KindUnavailable, "request weight %d is more than the share of %d in a limit of %d",
		weight, b.share(p), b.limit)
}

// leave takes a request out of those that wait. It returns false when it was let through already.
func (b *Budget) leave(w *waiter, p priority) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	i := slices.Index(b.waiting[p], w)
	if i < 0 {
		return false
	}
	b.waiting[p] = slices.Delete(b.waiting[p], i, i+1)
	b.dispatch(time.Now()) // others may have waited behind it alone
	return true
}

// dispatch lets through what can be, in order, and comes back when the next one can. The lock is held.
func (b *Budget) dispatch(now time.Time) {
	b.expire(now)
	for {
		p := normal
		if len(b.waiting[p]) == 0 {
			p = background
		}
		if len(b.waiting[p]) == 0 {
			b.waiting[p] = nil
			return
		}
		w := b.waiting[p][0]
		if w.weight > b.share(p) { // the limit sank under it
			w.err = b.tooHeavy(w.weight, p)
		} else if at := b.earliest(w.weight, p, now); at.After(now) {
			b.wake(at.Sub(now))
			return
		} else if b.inFlight > 0 && b.inFlight+w.weight > b.limit-b.share(normal) && !now.Before(b.blindFrom) {
			return // to be called by the reply
		} else {
			b.spend(w.weight, now)
		}
		b.waiting[p][0] = nil
		b.waiting[p] = b.waiting[p][1:]
		close(w.ready)
	}
}

// wake has dispatch called after d. The lock is held.
func (b *Budget) wake(d time.Duration) {
	if b.timer != nil {
		b.timer.Stop()
	}
	b.timer = time.AfterFunc(d, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.dispatch(time.Now())
	})
}

// spend accounts for a request that is let through. The lock is held.
func (b *Budget) spend(weight int, now time.Time) {
	b.spends = append(b.spends, spend{now, weight})
	b.spent += weight
	b.inFlight += weight
	b.reported += weight
}

// paused is the error of a request that was let through before the exchange said that it wants none; nil when it may be
// sent.
func (p *permit) paused() error {
	p.budget.mu.Lock()
	defer p.budget.mu.Unlock()
	if pause := p.budget.pauseAt(time.Now()); pause != nil {
		return market.Errorf(market.KindUnavailable, "%w", pause)
	}
	return nil
}

// replied takes note of the reply to a request of that weight, or of its failure: what the exchange says is used, if it
// does (not negative), and how long it wants no requests, if so.
func (p *permit) replied(weight, used int, pause *RateLimitError) {
	b, now := p.budget, time.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.expire(now)
	p.weight -= weight
	b.inFlight -= weight
	if used >= 0 {
		b.blindFrom = now.Add(sightTime)
	}
	// The exchange may or may not have counted what was under way. A lower number than known is one of a new minute, or
	// one that was overtaken: only that of a request sent after the known one came is surely newer.
	if used = min(used, maxWeightLimit); used >= 0 && (used+b.inFlight >= b.reported || !p.at.Before(b.reportedAt)) {
		b.reported, b.reportedAt, b.reportedUntil = used+b.inFlight, now, now.Add(budgetWindow)
	}
	if pause != nil {
		if until := now.Add(pause.RetryAfter); until.After(b.pausedUntil) {
			b.pausedUntil, b.pause = until, *pause
		}
		b.reportedUntil = b.pausedUntil // by then the exchange has forgotten
	}
	b.dispatch(now)
}

// release gives the permit back. What it was not used for counts as spent.
func (p *permit) release() {
	b := p.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	b.inFlight -= p.weight
	p.weight = 0
	b.dispatch(time.Now())
}

// expire forgets what was spent before the last window. The lock is held.
func (b *Budget) expire(now time.Time) {
	n := 0
	for n < len(b.spends) && now.Sub(b.spends[n].at) >= budgetWindow {
		b.spent -= b.spends[n].weight
		n++
	}
	b.spends = slices.Delete(b.spends, 0, n)
	if !now.Before(b.reportedUntil) {
		b.reported = 0
	}
}

// used returns the weight that counts as used. The lock is held, and expire was called.
func (b *Budget) used(now time.Time) int {
	if now.Before(b.reportedUntil) {
		return max(b.spent, b.reported)
	}
	return b.spent
}

// earliest returns when weight can be spent if nothing else is until then; now or before when it can be at once. The
// lock is held, and expire was called.
func (b *Budget) earliest(weight int, p priority, now time.Time) time.Time {
	at, share := b.pausedUntil, b.share(p)
	if b.reported+weight > share && b.reportedUntil.After(at) && b.reportedUntil.After(now) {
		at = b.reportedUntil
	}
	left := b.spent
	for i := range b.spends {
		if left+weight <= share {
			break
		}
		left -= b.spends[i].weight
		if freed := b.spends[i].at.Add(budgetWindow); freed.After(at) {
			at = freed
		}
	}
	return at
}

// notBefore returns a time before which a new request will not be let through, given those that wait already. The lock
// is held, and expire was called.
func (b *Budget) notBefore(weight int, p priority, now time.Time) time.Time {
	total := weight
	for _, queue := range b.waiting[:p+1] {
		for _, w := range queue {
			total += w.weight
		}
	}
	at := b.earliest(min(total, max(weight, b.share(p))), p, now)
	// So many windows in a row are filled by what was spent and by what comes first.
	first, windows := now, (b.spent+total-1)/max(b.share(normal), 1)
	if len(b.spends) > 0 {
		first = b.spends[0].at
	}
	if filled := first.Add(time.Duration(windows) * budgetWindow); filled.After(at) {
		return filled
	}
	return at
}
