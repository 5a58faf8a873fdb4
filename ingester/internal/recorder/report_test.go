package recorder_test

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"tapedeck/ingester/internal/recorder"
	"tapedeck/shared/market"
)

// lister knows one market. The first request ends with err; where that is of kind KindNotFound, the market is beside it.
type lister struct {
	err    error
	status string // "" = TRADING
	asked  []time.Time
}

func (l *lister) Listings(context.Context, []market.Market) ([]market.Listing, error) {
	err := l.err
	l.err, l.asked = nil, append(l.asked, time.Now())
	if err != nil && market.KindOf(err) != market.KindNotFound {
		return nil, err
	}
	return []market.Listing{{Market: btcusdt, Status: cmp.Or(l.status, "TRADING"), UpdatedAt: 1}}, err
}

// TestReporterTellsChangesAtOnce: a reader trusts a book only when its recorder says that it follows the stream, so a
// market that has just synced, or just lost its book, must not wait for the next round.
func TestReporterTellsChangesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := start(t, options{})
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		reporter := &recorder.Reporter{
			Name: "test", Recorders: []*recorder.Recorder{d.recorder}, Sink: d.sink, Log: slog.New(slog.DiscardHandler),
			Lister: &lister{},
		}
		go func() {
			reporter.Run(ctx)
			close(done)
		}()
		last := func() (int, market.MarketState) {
			d.sink.mu.Lock()
			defer d.sink.mu.Unlock()
			n := len(d.sink.batch.Statuses)
			return n, d.sink.batch.Statuses[n-1].Markets[0].State
		}
		want := func(n int, state market.MarketState) {
			t.Helper()
			if got, is := last(); got != n || is != state {
				t.Errorf("report %d says %s, want report %d to say %s", got, is, n, state)
			}
		}
		synctest.Wait()
		want(1, market.StateSyncing)
		d.depth(11, 12, 0)
		d.answer(10, 0)
		pass(200 * time.Millisecond)
		want(2, market.StateSynced)
		d.depth(13, 14, 100) // no change
		pass(200 * time.Millisecond)
		want(2, market.StateSynced)
		d.depth(20, 21, 200) // a gap
		pass(200 * time.Millisecond)
		want(3, market.StateSyncing)
		d.answerNext(20, 200)
		pass(10 * time.Second)
		if n, state := last(); n < 5 || state != market.StateSynced {
			t.Errorf("after ten seconds report %d says %s", n, state)
		}
		stop()
		<-done
		d.stop()
		if len(d.sink.batch.Listings) != 1 {
			t.Errorf("listings %v", d.sink.batch.Listings)
		}
	})
}

func TestListingsAreAskedForAgain(t *testing.T) {
	for _, test := range []struct {
		name     string
		err      error // of the first request
		listings int   // of it
		next     time.Duration
	}{
		{"nothing is wrong", nil, 1, 10 * time.Minute},
		{"no exchange", errors.New("no exchange"), 0, time.Minute},
		{"banned", rateLimited(20 * time.Minute), 0, 20 * time.Minute},
		{"another market is not listed", market.Errorf(market.KindNotFound, "not listed: binance/GONE"), 1, 10 * time.Minute},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sink, source := &recorded{}, &lister{err: test.err}
				reporter := &recorder.Reporter{Name: "test", Sink: sink, Lister: source, Log: slog.New(slog.DiscardHandler)}
				ctx, stop := context.WithTimeout(t.Context(), test.next+time.Second)
				defer stop()
				reporter.Run(ctx)
				if len(source.asked) != 2 || source.asked[1].Sub(source.asked[0]) != test.next {
					t.Errorf("asked at %v, want twice, %v apart", source.asked, test.next)
				}
				if got := len(sink.batch.Listings); got != test.listings+1 {
					t.Errorf("%d listings, want %d", got, test.listings+1)
				}
			})
		})
	}
}
