package feed

import (
	"context"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"tapedeck/shared/binance"
)

const (
	connectBurst = 50
	connectSpare = 50 // left for others behind the same address
)

// budget bounds the attempts to connect of a whole feed: the exchange counts them by address, whether they succeed or
// not.
type budget struct {
	limiter *rate.Limiter

	mu    sync.Mutex
	until time.Time // the exchange wants no attempt before
}

// newBudget returns a budget of which burst and rate together stay below the exchange's bound in every window.
func newBudget() *budget {
	perSecond := float64(binance.MaxConnects-connectBurst-connectSpare) / binance.ConnectWindow.Seconds()
	return &budget{limiter: rate.NewLimiter(rate.Limit(perSecond), connectBurst)}
}

// take waits until there may be an attempt, and says whether it had to. The error is that of ctx.
func (b *budget) take(ctx context.Context) (waited bool, err error) {
	for {
		r := b.limiter.Reserve()
		if delay := r.Delay(); delay > 0 {
			waited = true
			if !wait(ctx.Done(), delay) {
				r.Cancel()
				return waited, ctx.Err()
			}
		}
		hold := b.held()
		if hold <= 0 {
			return waited, ctx.Err()
		}
		// What was taken is spent: attempts that were put off must not come on top of those of a later window.
		waited = true
		if !wait(ctx.Done(), hold) {
			return waited, ctx.Err()
		}
	}
}

// hold puts all attempts off by d.
func (b *budget) hold(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if until := time.Now().Add(d); until.After(b.until) {
		b.until = until
	}
}

// held returns for how long attempts are put off.
func (b *budget) held() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return time.Until(b.until)
}
