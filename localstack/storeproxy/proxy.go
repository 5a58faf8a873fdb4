package storeproxy

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"tapedeck/localstack/faults"
	"tapedeck/shared/market"
)

const (
	dialTimeout = 5 * time.Second
	// relistenInterval is how often the port is tried again when somebody took it while it was closed.
	relistenInterval = 100 * time.Millisecond
)

// Proxy passes connections on to a store. Its methods may be called from any goroutine.
type Proxy struct {
	addr     string // where it listens
	upstream string
	log      *slog.Logger

	ctx     context.Context //nolint:containedctx // the proxy's own life, which Close ends
	cancel  context.CancelFunc
	running sync.WaitGroup // accepting, connections, faults

	mu       sync.Mutex
	closed   bool
	listener net.Listener // nil while connections are refused
	refusals int          // how many faults keep it closed
	pairs    map[*pair]struct{}
	lasting  []*faults.Fault // those under way that strike all that passes
}

// Start passes connections to listen ("127.0.0.1:0" for a free port) on to upstream until Close.
func Start(listen, upstream string, log *slog.Logger) (_ *Proxy, err error) {
	defer market.Wrap(&err, "start the proxy before the store on %s", listen)
	p := &Proxy{upstream: upstream, log: log, pairs: map[*pair]struct{}{}}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	l, err := new(net.ListenConfig).Listen(p.ctx, "tcp", listen)
	if err != nil {
		p.cancel()
		return nil, err
	}
	p.addr = l.Addr().String()
	p.serve(l)
	return p, nil
}

// Addr returns where the proxy listens, "host:port".
func (p *Proxy) Addr() string { return p.addr }

// Connections returns how many connections pass through the proxy now.
func (p *Proxy) Connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.pairs)
}

// Close resets all connections, ends what faults are under way, and waits for it.
func (p *Proxy) Close() error {
	p.mu.Lock()
	p.closed = true
	var err error
	if p.listener != nil {
		err = p.listener.Close()
		p.listener = nil
	}
	p.resetAll()
	p.mu.Unlock()
	p.cancel()
	p.running.Wait()
	return err
}

// serve accepts connections from l. The caller holds mu, or nobody else knows p yet.
func (p *Proxy) serve(l net.Listener) {
	p.listener = l
	p.running.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				if !errors.Is(err, net.ErrClosed) {
					p.log.Error("proxy before the store stopped accepting", "err", err)
				}
				return
			}
			p.running.Go(func() { p.connect(client) })
		}
	})
}

// connect joins a client to the store and waits for the end of both.
func (p *Proxy) connect(client net.Conn) {
	dialer := net.Dialer{Timeout: dialTimeout}
	store, err := dialer.DialContext(p.ctx, "tcp", p.upstream)
	if err != nil {
		p.log.Warn("the store behind the proxy cannot be reached", "addr", p.upstream, "err", err)
		reset(client)
		return
	}
	joined := newPair(p, client, store)
	p.mu.Lock()
	admitted := !p.closed && p.refusals == 0
	if admitted {
		p.pairs[joined] = struct{}{}
	}
	p.mu.Unlock()
	if !admitted {
		joined.reset()
		return
	}
	joined.run()
	p.mu.Lock()
	delete(p.pairs, joined)
	p.mu.Unlock()
}

// resetAll resets all connections. The caller holds mu.
func (p *Proxy) resetAll() {
	for pair := range p.pairs {
		pair.reset()
	}
}

// condition is what the faults under way do to what passes.
type condition struct {
	latency time.Duration
	rate    int // bytes a second; 0 = no bound
	hole    bool
}

// condition returns what is so now: latencies add up, and of several rates the least holds.
func (p *Proxy) condition() (c condition) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range p.lasting {
		switch f.Kind {
		case faults.StoreLatency:
			c.latency += f.By
		case faults.StoreSlow:
			if c.rate == 0 || f.Rate < c.rate {
				c.rate = f.Rate
			}
		case faults.StoreBlackHole:
			c.hole = true
		default:
		}
	}
	return c
}

// Inject makes a fault happen now, whatever its At, once. The error is of kind market.KindInvalid when f is not valid or
// not one of the store's, of kind market.KindNotFound when there is no connection to strike, and of kind
// market.KindUnavailable when the proxy is closed.
func (p *Proxy) Inject(f faults.Fault) (err error) {
	defer market.Wrap(&err, "inject %v", f)
	if f, err = f.Complete(); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return market.Errorf(market.KindUnavailable, "the proxy before the store is closed")
	}
	switch f.Kind {
	case faults.StoreLatency, faults.StoreSlow, faults.StoreBlackHole:
		p.endure(&f)
	case faults.StoreRefused:
		p.refuse(f.For)
	case faults.StoreCut, faults.StoreHalfClosed:
		if len(p.pairs) == 0 {
			return market.Errorf(market.KindNotFound, "there is no connection to strike")
		}
		for pair := range p.pairs {
			if f.Kind == faults.StoreCut {
				pair.reset()
			} else {
				pair.halfClose()
			}
		}
	default:
		return market.Errorf(market.KindInvalid, "it is not the store's to do")
	}
	return nil
}

// endure lets a fault strike all that passes as long as it lasts. After a black hole no connection could go on: what was
// sent into it is lost. The caller holds mu.
func (p *Proxy) endure(f *faults.Fault) {
	p.lasting = append(p.lasting, f)
	p.running.Go(func() {
		p.sleep(f.For)
		p.mu.Lock()
		defer p.mu.Unlock()
		if f.Kind == faults.StoreBlackHole {
			p.resetAll()
		}
		i := slices.Index(p.lasting, f)
		p.lasting = slices.Delete(p.lasting, i, i+1)
	})
}

// refuse closes the port and all connections for d. The caller holds mu.
func (p *Proxy) refuse(d time.Duration) {
	p.refusals++
	if p.listener != nil {
		_ = p.listener.Close() // the port is closed whatever the socket says
		p.listener = nil
	}
	p.resetAll()
	p.running.Go(func() {
		p.sleep(d)
		p.mu.Lock()
		p.refusals--
		p.mu.Unlock()
		for !p.reopen() {
			p.sleep(relistenInterval)
		}
	})
}

// reopen listens again unless another fault is against it; false when the port is taken.
func (p *Proxy) reopen() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.refusals > 0 || p.listener != nil {
		return true
	}
	l, err := new(net.ListenConfig).Listen(p.ctx, "tcp", p.addr)
	if err != nil {
		p.log.Warn("port of the proxy before the store is taken", "addr", p.addr, "err", err)
		return false
	}
	p.serve(l)
	return true
}

// sleep waits for d or until the proxy is closed.
func (p *Proxy) sleep(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-p.ctx.Done():
	}
}
