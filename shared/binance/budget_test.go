package binance

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"tapedeck/shared/market"
)

// sent is one request that a budget let through.
type sent struct {
	at       time.Duration // since the test began
	weight   int
	priority priority
}

// spender sends requests through a budget and keeps the record.
type spender struct {
	t      *testing.T
	budget *Budget
	begin  time.Time

	mu   sync.Mutex
	sent []sent
}

func newSpender(t *testing.T) *spender {
	return &spender{t: t, budget: NewBudget(nil), begin: time.Now()}
}

// request sends one request, whose reply takes some time and says that used weight is used; -1 for nothing.
func (s *spender) request(ctx context.Context, weight int, p priority, took time.Duration, used func() int) error {
	permit, err := s.budget.acquire(ctx, weight, p)
	if err != nil {
		return err
	}
	defer permit.release()
	s.mu.Lock()
	s.sent = append(s.sent, sent{time.Since(s.begin), weight, p})
	s.mu.Unlock()
	<-time.After(took)
	permit.replied(weight, used(), nil)
	return nil
}

func silent() int { return -1 }

// checkWindows checks every rolling minute against the share of each priority.
func (s *spender) checkWindows() {
	s.t.Helper()
	for _, last := range s.sent {
		sum := 0
		for _, other := range s.sent {
			// Of one instant the order is not known, but normal ones may follow background ones.
			follows := other.at == last.at && other.priority < last.priority
			if other.at <= last.at && other.at > last.at-time.Minute && !follows {
				sum += other.weight
			}
		}
		share := 5400
		if last.priority == background {
			share = 3000
		}
		if sum > share {
			s.t.Fatalf("%d within the minute up to %v, where a request of priority %d was sent", sum, last.at, last.priority)
		}
	}
}

func TestBudgetInEveryRollingMinute(t *testing.T) {
	for seed := range uint64(6) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 1))
			s := newSpender(t)
			var all sync.WaitGroup
			wanted := 0
			for range 300 {
				weight := []int{1, 4, 5, 21, 25, 51, 251}[random.IntN(7)]
				p, pause := priority(random.IntN(2)), time.Duration(random.IntN(200))*time.Second
				took := time.Duration(random.IntN(3000)) * time.Millisecond
				wanted += weight
				all.Go(func() {
					<-time.After(pause)
					if err := s.request(t.Context(), weight, p, took, silent); err != nil {
						t.Error(err)
					}
				})
			}
			all.Wait()
			s.checkWindows()
			// Nor is anything held back for long that could be sent: background requests alone get 3000 a minute.
			if took := time.Since(s.begin); took > 200*time.Second+time.Duration(wanted/2900+1)*time.Minute {
				t.Errorf("%d took %v", wanted, took)
			}
			if s.budget.inFlight != 0 {
				t.Errorf("%d is still under way", s.budget.inFlight)
			}
		})
	}
}

// TestBudgetWithOthers lets others use the address too. The exchange counts in minutes of its own. What others do
// between two replies cannot be known: the rest of the limit, 600, is for that.
func TestBudgetWithOthers(t *testing.T) {
	for seed := range uint64(6) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 2))
			offset := time.Duration(random.IntN(60)) * time.Second
			s := newSpender(t)
			var mu sync.Mutex
			used, minute, beyond := 0, time.Duration(0), 0
			spend := func(weight int) int {
				mu.Lock()
				defer mu.Unlock()
				if now := (time.Since(s.begin) + offset).Truncate(time.Minute); now != minute {
					minute, used, beyond = now, 0, 0
				}
				used += weight
				return used
			}
			ctx, stop := context.WithTimeout(t.Context(), 10*time.Minute)
			defer stop()
			var all sync.WaitGroup
			all.Go(func() { // 2400 a minute, evenly
				for ctx.Err() == nil {
					spend(20)
					<-time.After(500 * time.Millisecond)
				}
			})
			own := 0
			for range 6 {
				all.Go(func() {
					for ctx.Err() == nil {
						mu.Lock()
						weight := 1 + random.IntN(60)
						mu.Unlock()
						counted := func() int {
							used := spend(weight)
							mu.Lock()
							defer mu.Unlock()
							if used > 5400 {
								beyond += weight
							}
							if beyond > 600 {
								t.Errorf("spent %d of the rest, up to %d, after %v", beyond, used, time.Since(s.begin))
							}
							return used
						}
						if s.request(ctx, weight, normal, 50*time.Millisecond, counted) != nil {
							<-time.After(time.Second) // the end is near
							continue
						}
						mu.Lock()
						own += weight
						mu.Unlock()
					}
				})
			}
			all.Wait()
			s.checkWindows()
			if perMinute := own / 10; perMinute < 2400 {
				t.Errorf("%d a minute were spent, though others left 3000", perMinute)
			}
		})
	}
}

func TestBudgetPriorities(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSpender(t)
		var all sync.WaitGroup
		order := make(chan string, 100)
		send := func(name string, weight int, p priority) {
			all.Go(func() {
				if err := s.request(t.Context(), weight, p, 0, silent); err != nil {
					t.Error(err)
				}
				order <- name
			})
			<-time.After(time.Second)
		}
		for range 13 {
			send("background", 250, background) // 12 of them may
		}
		for range 9 {
			send("normal", 250, normal) // though others wait: to 5250
		}
		send("late", 400, normal)  // does not fit
		send("later", 100, normal) // would, but it is not its turn
		all.Wait()
		close(order)
		var got []string
		for name := range order {
			got = append(got, name)
		}
		want := strings.Repeat("background ", 12) + strings.Repeat("normal ", 9) + "late later background"
		if strings.Join(got, " ") != want {
			t.Errorf("order %v, want %v", got, want)
		}
		s.checkWindows()
	})
}

func TestBudgetWaitsNoLongerThanItMay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		within := func(d time.Duration) context.Context {
			ctx, cancel := context.WithTimeout(t.Context(), d)
			t.Cleanup(cancel)
			return ctx
		}
		s := newSpender(t)
		begin := time.Now()
		for range 54 {
			if err := s.request(t.Context(), 100, normal, 0, silent); err != nil {
				t.Fatal(err)
			}
		}
		for _, p := range []priority{normal, background} {
			err := s.request(within(59*time.Second), 1, p, 0, silent)
			if market.KindOf(err) != market.KindUnavailable || !errors.Is(err, context.DeadlineExceeded) ||
				err.Error() != "5400 of 6000 request weight used, a request of 1 would wait 1m0s: context deadline exceeded" {
				t.Errorf("priority %d: %v", p, err)
			}
		}
		if !time.Now().Equal(begin) {
			t.Errorf("waited %v in vain", time.Since(begin))
		}
		patient := make(chan error, 2)
		go func() { patient <- s.request(t.Context(), 5000, normal, 0, silent) }()
		synctest.Wait()
		// It comes after those that wait: they fill the next minute.
		if err := s.request(within(119*time.Second), 500, normal, 0, silent); market.KindOf(err) != market.KindUnavailable {
			t.Errorf("behind others: %v", err)
		}
		impatient, cancel := context.WithCancel(t.Context())
		go func() { patient <- s.request(impatient, 400, normal, 0, silent) }()
		synctest.Wait()
		cancel()
		if err := <-patient; market.KindOf(err) != market.KindUnavailable || !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
		if err := s.request(impatient, 1, normal, 0, silent); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled before: %v", err)
		}
		if err := <-patient; err != nil || time.Since(begin) != time.Minute {
			t.Errorf("let through after %v: %v", time.Since(begin), err)
		}
		if err := s.request(t.Context(), 5401, normal, 0, silent); market.KindOf(err) != market.KindUnavailable {
			t.Errorf("a request beyond any budget: %v", err)
		}
	})
}

func TestBudgetBoundsWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSpender(t)
		if err := s.request(t.Context(), 5400, normal, 0, silent); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		for range maxWaiting {
			all.Go(func() { _ = s.request(ctx, 1, background, 0, silent) })
		}
		synctest.Wait()
		if err := s.request(ctx, 1, background, 0, silent); market.KindOf(err) != market.KindUnavailable {
			t.Errorf("one too many: %v", err)
		}
		cancel()
		all.Wait()
		if n := len(s.budget.waiting[background]); n != 0 {
			t.Errorf("%d still wait", n)
		}
	})
}

func TestBudgetLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSpender(t)
		begin := time.Now()
		s.budget.setLimit(0)
		s.budget.setLimit(-1)
		s.budget.setLimit(maxWeightLimit + 1)
		if err := s.request(t.Context(), 5400, normal, 0, silent); err != nil {
			t.Fatal(err)
		}
		done := make(chan error)
		go func() { done <- s.request(t.Context(), 1000, normal, 0, silent) }()
		synctest.Wait()
		s.budget.setLimit(12000) // lets it through
		if err := <-done; err != nil || !time.Now().Equal(begin) {
			t.Errorf("after %v: %v", time.Since(begin), err)
		}
		go func() { done <- s.request(t.Context(), 5000, normal, 0, silent) }()
		synctest.Wait()
		s.budget.setLimit(5000) // it never fits again
		if err := <-done; market.KindOf(err) != market.KindUnavailable {
			t.Errorf("after the limit sank: %v", err)
		}
	})
}

// TestBudgetPauses: after a reply that wants no more requests, none is sent, of any priority, until its time is over.
func TestBudgetPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSpender(t)
		begin := time.Now()
		permit, err := s.budget.acquire(t.Context(), 1, normal)
		if err != nil {
			t.Fatal(err)
		}
		permit.replied(1, 6001, &RateLimitError{RetryAfter: 10 * time.Minute, Banned: true})
		permit.release()
		ctx, cancel := context.WithTimeout(t.Context(), 9*time.Minute)
		defer cancel()
		err = s.request(ctx, 1, normal, 0, silent)
		limited, ok := errors.AsType[*RateLimitError](err)
		if !ok || !limited.Banned || limited.RetryAfter != 10*time.Minute || market.KindOf(err) != market.KindUnavailable {
			t.Errorf("without the time to wait: %v", err)
		}
		var all sync.WaitGroup
		for _, p := range []priority{normal, background} {
			all.Go(func() {
				if err := s.request(t.Context(), 1, p, 0, silent); err != nil || time.Since(begin) != 10*time.Minute {
					t.Errorf("priority %d: let through after %v: %v", p, time.Since(begin), err)
				}
			})
		}
		all.Wait()

		// A short pause ends the exchange's minute as well. A later and shorter one does not shorten it.
		permit, _ = s.budget.acquire(t.Context(), 1, normal)
		begin = time.Now()
		permit.replied(1, 6500, &RateLimitError{RetryAfter: 7 * time.Second})
		permit.replied(0, 6500, &RateLimitError{RetryAfter: 3 * time.Second})
		permit.release()
		if err := s.request(t.Context(), 1, normal, 0, silent); err != nil || time.Since(begin) != 7*time.Second {
			t.Errorf("let through after %v: %v", time.Since(begin), err)
		}
	})
}

// TestBudgetBelievesTheLatestReply: replies may overtake each other.
func TestBudgetBelievesTheLatestReply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(nil)
		acquire := func() *permit {
			p, err := b.acquire(t.Context(), 10, normal)
			if err != nil {
				t.Fatal(err)
			}
			return p
		}
		used := func() int {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.expire(time.Now())
			return b.used(time.Now())
		}
		want := func(what string, want int) {
			t.Helper()
			if got := used(); got != want {
				t.Errorf("%s: %d used, want %d", what, got, want)
			}
		}
		first, second := acquire(), acquire()
		want("nothing known", 20)
		<-time.After(time.Second)
		second.replied(10, 4020, nil)
		want("one is under way and may not have been counted", 4030)
		first.replied(10, 4010, nil) // overtaken
		want("an older reply", 4030)
		<-time.After(time.Second)
		third := acquire()
		want("one more", 4040)
		third.replied(10, 50, nil) // the exchange's next minute
		want("a newer reply", 50)
		<-time.After(59 * time.Second)
		want("own ones of a minute ago", 50)
		<-time.After(time.Second)
		want("all of a minute ago", 0)
	})
}

// TestBudgetIsBlindUntilAReplyTells: a failure, or a reply that does not tell what is used, is no sight of others. It lets
// the next ones through all the same, or a host that never tells would not be asked any more.
func TestBudgetIsBlindUntilAReplyTells(t *testing.T) {
	for _, c := range []struct {
		name  string
		used  int           // what each reply tells
		most  int           // weight under way after the first reply
		all   time.Duration // until 5250 have got their replies, each after a second
		heavy time.Duration // the same of 700, 150 and 700, when nothing was heard for long
	}{
		{name: "failures, or a host that does not tell", used: -1, most: 600, all: 9 * time.Second, heavy: 3 * time.Second},
		{name: "the exchange", used: 0, most: 5250, all: time.Second, heavy: 2 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSpender(t)
				tell := func() int { return c.used }
				if err := s.request(t.Context(), 150, normal, 0, tell); err != nil {
					t.Fatal(err)
				}
				send := func(weights ...int) (most int, took time.Duration) {
					begin := time.Now()
					var all sync.WaitGroup
					for _, weight := range weights {
						all.Go(func() {
							if err := s.request(t.Context(), weight, normal, time.Second, tell); err != nil {
								t.Error(err)
							}
						})
						synctest.Wait()
					}
					s.budget.mu.Lock()
					most = s.budget.inFlight
					s.budget.mu.Unlock()
					all.Wait()
					return most, time.Since(begin)
				}
				if most, took := send(slices.Repeat([]int{150}, 35)...); most != c.most || took != c.all {
					t.Errorf("%d under way after one reply, want %d; %v for all, want %v", most, c.most, took, c.all)
				}
				<-time.After(2 * time.Minute)
				if most, took := send(700, 150, 700); most != 700 || took != c.heavy {
					t.Errorf("%d under way after none, want 700; %v for all, want %v", most, took, c.heavy)
				}
				s.checkWindows()
			})
		})
	}
}
