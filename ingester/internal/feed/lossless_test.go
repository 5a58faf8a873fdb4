package feed_test

import (
	"context"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"tapedeck/ingester/internal/feed"
	"tapedeck/shared/market"
)

// publisher is an exchange whose frames carry ids without a gap. Each connection gets them with a delay of its own, in
// order, and loses what is under way when it ends.
type publisher struct {
	streams []string
	mu      sync.Mutex
	ids     []int64 // published last, of each stream
	queues  map[*peer]chan published
}

type published struct {
	at    time.Time // when it is due
	frame string
}

const maxDelay = 10 * time.Millisecond

func newPublisher(markets []market.Market) *publisher {
	x := &publisher{queues: map[*peer]chan published{}}
	for _, m := range markets {
		name := strings.ToLower(m.Symbol)
		x.streams = append(x.streams, name+"@depth@100ms", name+"@trade")
	}
	x.ids = make([]int64, len(x.streams))
	return x
}

// run publishes until stop is closed: all streams a thousand times a second, but for the last one, which is quiet.
func (x *publisher) run(stop <-chan struct{}) {
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for n := 0; ; n++ {
		select {
		case <-ticker.C:
		case <-stop:
			return
		}
		x.mu.Lock()
		for i, stream := range x.streams {
			if i == len(x.streams)-1 && n%100 > 0 {
				continue
			}
			x.ids[i]++
			frame := eventFrame(stream, x.ids[i])
			for p, queue := range x.queues {
				select {
				case queue <- published{time.Now().Add(time.Duration(p.n*7919%int(maxDelay/time.Microsecond)) * time.Microsecond), frame}:
				default:
					panic("a client does not read")
				}
			}
		}
		x.mu.Unlock()
	}
}

// serve brings one connection what is published, until it ends or end is closed.
func (x *publisher) serve(p *peer, end <-chan time.Time) {
	queue := make(chan published, 100_000)
	x.mu.Lock()
	x.queues[p] = queue
	x.mu.Unlock()
	defer func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		delete(x.queues, p)
	}()
	for {
		select {
		case next := <-queue:
			if !p.stayFor(time.Until(next.at)) {
				return
			}
			p.send(next.frame)
		case <-end:
			p.NetConn().(*net.TCPConn).SetLinger(0) // a reset
			return
		case <-p.gone:
			return
		case <-p.stand.over:
			return
		}
	}
}

// ledger is the inbox of all markets. It merges by id as a recorder does: what was brought before is stale, and what
// comes too early is held.
type ledger struct {
	mu       sync.Mutex
	last     map[string]int64
	held     map[string]map[int64]bool
	mostHeld int
	frames   int
	links    int
	zero     int // how often there was no link left
}

func (l *ledger) Frame(_ context.Context, stream market.Stream, _ market.Time, frame []byte) bool {
	name, rest, _ := strings.Cut(strings.TrimPrefix(string(frame), `{"stream":"`), `"`)
	_, rest, _ = strings.Cut(rest, map[market.Stream]string{market.Depth: `"u":`, market.Trades: `"t":`}[stream])
	rest, _, _ = strings.Cut(rest, ",")
	id, err := strconv.ParseInt(rest, 10, 64)
	if err != nil {
		panic(err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.frames++
	if l.last[name] == 0 {
		l.last[name] = id - 1 // the first one there is
		l.held[name] = map[int64]bool{}
	}
	if id > l.last[name] {
		l.held[name][id] = true
	}
	for l.held[name][l.last[name]+1] {
		l.last[name]++
		delete(l.held[name], l.last[name])
	}
	l.mostHeld = max(l.mostHeld, len(l.held[name]))
	return true
}

func (l *ledger) Connected(market.Time)    { l.count(1) }
func (l *ledger) Disconnected(market.Time) { l.count(-1) }

func (l *ledger) count(change int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.links += change
	if l.links == 0 {
		l.zero++
	}
}

// TestNothingIsMissing publishes thousands of events a second while links are replaced, or cut and made anew, again and
// again; the ids tell that each event came at least once, soon after the one before.
func TestNothingIsMissing(t *testing.T) {
	for _, c := range []struct {
		name    string
		cfg     feed.Config
		serve   func(x *publisher, p *peer)
		metric  string
		atLeast int
	}{
		{
			name:   "rotations",
			cfg:    feed.Config{RotateAfter: 30 * time.Millisecond, Overlap: 40 * time.Millisecond},
			serve:  func(x *publisher, p *peer) { x.serve(p, nil) },
			metric: "rotations_total replaced", atLeast: 36,
		},
		{
			name: "hot standby",
			cfg:  feed.Config{Connections: 2},
			serve: func(x *publisher, p *peer) { // all but the first are cut, soon
				var end <-chan time.Time
				if p.n > 1 {
					end = time.After(50*time.Millisecond + rand.N(50*time.Millisecond))
				}
				x.serve(p, end)
			},
			metric: "reconnects_total cut", atLeast: 5,
		},
		{
			name:   "rotations of a hot standby",
			cfg:    feed.Config{Connections: 2, RotateAfter: 50 * time.Millisecond, Overlap: 40 * time.Millisecond},
			serve:  func(x *publisher, p *peer) { x.serve(p, nil) },
			metric: "rotations_total replaced", atLeast: 24,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			markets := symbols(4)
			x := newPublisher(markets)
			s := newStand(t, func(p *peer) { c.serve(x, p) })
			l := &ledger{last: map[string]int64{}, held: map[string]map[int64]bool{}}
			var targets []feed.Target
			for _, m := range markets {
				targets = append(targets, feed.Target{Market: m, Inbox: l})
			}
			h := startTargets(t, s, c.cfg, targets...)
			h.until("all connections", func() bool {
				x.mu.Lock()
				defer x.mu.Unlock()
				return len(x.queues) == max(c.cfg.Connections, 1)
			})
			stop, done := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(done)
				x.run(stop)
			}()
			name, label, _ := strings.Cut(c.metric, " ")
			h.until(c.metric, func() bool { return h.metric("tapedeck_"+name, label) >= c.atLeast })
			close(stop)
			<-done
			x.mu.Lock()
			want := slices.Clone(x.ids)
			x.mu.Unlock()
			h.until("the last events", func() bool {
				l.mu.Lock()
				defer l.mu.Unlock()
				for i, name := range x.streams {
					if l.last[name] != want[i] {
						return false
					}
				}
				return true
			})
			l.mu.Lock()
			defer l.mu.Unlock()
			sum := int64(0)
			for i, name := range x.streams {
				if len(l.held[name]) > 0 {
					t.Errorf("%s: %d events are held", name, len(l.held[name]))
				}
				sum += want[i]
			}
			if l.zero > 0 {
				t.Errorf("there was no link %d times", l.zero)
			}
			t.Logf("%d events in %d frames over %d links, at the most %d held, %s: %d",
				sum, l.frames, len(s.connects()), l.mostHeld, c.metric, h.metric("tapedeck_"+name, label))
		})
	}
}
