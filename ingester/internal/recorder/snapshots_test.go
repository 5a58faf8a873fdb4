package recorder_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tapedeck/ingester/internal/recorder"
	"tapedeck/shared/binance"
	"tapedeck/shared/market"
)

func TestRefusedSnapshotIsAskedForAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := start(t, options{})
		d.depth(11, 20, 100)
		d.reply(answer{err: rateLimited(2 * time.Minute)})
		d.answerNext(15, 50)
		d.wantState(market.StateSynced)
		if got := d.metric("tapedeck_snapshot_requests_total", map[string]string{"result": "rate_limited"}); got != 1 {
			t.Errorf("%d counted", got)
		}
	})
}

// handlerTransport answers requests by a handler, without a network.
type handlerTransport struct{ handler http.HandlerFunc }

func (h handlerTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	h.handler(w, r)
	return w.Result(), nil
}

// syncAll starts so many markets at once, with the budget of the exchange, and returns after how long each was synced,
// in ascending order, and how many snapshots had which limit.
func syncAll(t *testing.T, markets, snapshotLimit int) (synced []time.Duration, limits map[string]int) {
	t.Helper()
	limits = map[string]int{}
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		var mu sync.Mutex
		weights := map[int64]int{} // by minute
		exchange := func(w http.ResponseWriter, r *http.Request) {
			<-time.After(50 * time.Millisecond)
			mu.Lock()
			defer mu.Unlock()
			minute := time.Now().Unix() / 60
			limit := r.URL.Query().Get("limit")
			if limit == "" {
				weights[minute]++
				fmt.Fprintf(w, `{"serverTime":%d}`, millis(0)/1e6)
				return
			}
			n, _ := strconv.Atoi(limit)
			weights[minute] += binance.SnapshotWeight(n)
			if limit != "1" { // a market so quiet that its recorder asks how far the exchange is
				limits[limit]++
			}
			w.Header().Set("X-MBX-USED-WEIGHT-1M", strconv.Itoa(weights[minute]))
			if weights[minute] > binance.MaxWeightPerMinute {
				t.Errorf("weight %d in one minute", weights[minute])
			}
			fmt.Fprint(w, `{"lastUpdateId":7,"bids":[["99.0","1.0"]],"asks":[["101.0","1.0"]]}`)
		}
		metrics := recorder.NewMetrics(prometheus.NewRegistry())
		rest := binance.NewREST("http://exchange", &http.Client{Transport: handlerTransport{exchange}}, nil)
		snapshots := recorder.NewSnapshots(rest, rest.Background(), snapshotLimit, metrics)
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		var recorders []*recorder.Recorder
		for i := range markets {
			symbol := fmt.Sprintf("SYM%d", i)
			inbox := recorder.NewInbox(recorder.NewMemory(1<<20, 1), false)
			r := recorder.New(market.Market{Exchange: market.Binance, Symbol: symbol}, inbox, &recorded{}, snapshots,
				recorder.Config{FlushInterval: time.Second, KeyframeBlocks: 128}, metrics, slog.New(slog.DiscardHandler))
			recorders = append(recorders, r)
			running.Go(func() { r.Run(ctx) })
			inbox.Connected(1)
			inbox.Frame(ctx, market.Depth, 1, []byte(depthFrame(symbol, 8, 8, 0, "99.0")))
		}
		for len(recorders) > 0 && time.Since(begin) < time.Hour {
			recorders = slices.DeleteFunc(recorders, func(r *recorder.Recorder) bool {
				done := r.Status().State == market.StateSynced
				if done {
					synced = append(synced, time.Since(begin))
				}
				return done
			})
			pass(100 * time.Millisecond)
		}
		cancel()
		running.Wait()
	})
	if len(synced) != markets {
		t.Fatalf("%d of %d markets synced", len(synced), markets)
	}
	return synced, limits
}

// TestManyMarketsSyncSoon: the budget has full snapshots for 21 markets a minute, and the first four are asked for
// before it is known that there are many.
func TestManyMarketsSyncSoon(t *testing.T) {
	for _, c := range []struct {
		markets int
		within  time.Duration // all of them
		half    time.Duration // the first half
		limits  map[string]int
	}{
		{1, time.Second, time.Second, map[string]int{"5000": 1}},
		{20, 3 * time.Second, 2 * time.Second, map[string]int{"5000": 20}},
		{100, 5 * time.Second, 3 * time.Second, map[string]int{"1000": 76, "500": 20, "5000": 4}},
		{200, 70 * time.Second, 5 * time.Second, map[string]int{"500": 196, "5000": 4}},
	} {
		synced, limits := syncAll(t, c.markets, 5000)
		if last, middle := synced[c.markets-1], synced[(c.markets-1)/2]; last > c.within || middle > c.half {
			t.Errorf("%d markets: half within %v, all within %v; want %v and %v", c.markets, middle, last, c.half, c.within)
		} else {
			t.Logf("%d markets: half within %v, all within %v", c.markets, middle, last)
		}
		if fmt.Sprint(limits) != fmt.Sprint(c.limits) {
			t.Errorf("%d markets: snapshots by limit %v, want %v", c.markets, limits, c.limits)
		}
	}
}
