package storeproxy

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"tapedeck/localstack/faults"
	"tapedeck/shared/market"
)

// echo is a server that sends back what it receives, and counts it.
type echo struct {
	net.Listener
	mu       sync.Mutex
	received int
}

func startEcho(t *testing.T) *echo {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e := &echo{Listener: l}
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer c.Close()
				buf := make([]byte, 32<<10)
				for {
					n, err := c.Read(buf)
					e.mu.Lock()
					e.received += n
					e.mu.Unlock()
					c.Write(buf[:n])
					if err != nil {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() { l.Close(); conns.Wait() })
	return e
}

func (e *echo) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.received
}

// start returns a proxy before an echo server.
func start(t *testing.T) (*Proxy, *echo) {
	t.Helper()
	e := startEcho(t)
	p, err := Start("127.0.0.1:0", e.Addr().String(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		if n := p.Connections(); n != 0 {
			t.Errorf("%d connections left", n)
		}
	})
	return p, e
}

// dial connects through the proxy and sees that it works.
func dial(t *testing.T, p *Proxy) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	if err := ask(c, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	return c
}

// ask sends something and waits for the echo.
func ask(c net.Conn, b []byte) error {
	if _, err := c.Write(b); err != nil {
		return err
	}
	got := make([]byte, len(b))
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if !bytes.Equal(got, b) {
		return errors.New("another echo")
	}
	return nil
}

func inject(t *testing.T, p *Proxy, text string) {
	t.Helper()
	s, err := faults.Parse(text)
	if err == nil {
		err = p.Inject(s.Faults[0])
	}
	if err != nil {
		t.Fatal(err)
	}
}

func poll(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(20 * time.Second); !ok(); <-ticker.C {
		if time.Now().After(deadline) {
			t.Fatalf("%s did not happen in time", what)
		}
	}
}

// Without a fault everything passes, both ways, and an end of one way is passed on.
func TestPasses(t *testing.T) {
	t.Parallel()
	p, _ := start(t)
	a, b := dial(t, p), dial(t, p)
	big := bytes.Repeat([]byte("0123456789abcdef"), 64<<10)
	go a.Write(big)
	got := make([]byte, len(big))
	if _, err := io.ReadFull(a, got); err != nil || !bytes.Equal(got, big) {
		t.Errorf("1 MiB: %v", err)
	}
	if n := p.Connections(); n != 2 {
		t.Errorf("%d connections, want 2", n)
	}
	b.(*net.TCPConn).CloseWrite()
	if rest, err := io.ReadAll(b); err != nil || len(rest) > 0 {
		t.Errorf("after its end: %q, %v", rest, err)
	}
	poll(t, "the end of one connection", func() bool { return p.Connections() == 1 })
}

func TestLatency(t *testing.T) {
	t.Parallel()
	p, _ := start(t)
	old := dial(t, p)
	inject(t, p, "store-latency by=100ms for=3s")
	slow := func(c net.Conn) bool {
		begun := time.Now()
		if err := ask(c, []byte("x")); err != nil {
			t.Fatal(err)
		}
		return time.Since(begun) >= 200*time.Millisecond // each way
	}
	poll(t, "latency", func() bool { return slow(old) })
	if !slow(dial(t, p)) {
		t.Error("a new connection is fast")
	}
	poll(t, "the end of it", func() bool { return !slow(old) })
}

func TestSlow(t *testing.T) {
	t.Parallel()
	p, _ := start(t)
	c := dial(t, p)
	inject(t, p, "store-slow rate=20000 for=1m")
	poll(t, "slowness", func() bool {
		begun := time.Now()
		if err := ask(c, make([]byte, 4000)); err != nil { // 0.2 s each way
			t.Fatal(err)
		}
		return time.Since(begun) >= 200*time.Millisecond
	})
}

func TestCut(t *testing.T) {
	t.Parallel()
	p, _ := start(t)
	if err := p.Inject(faults.Fault{Kind: faults.StoreCut}); market.KindOf(err) != market.KindNotFound {
		t.Errorf("nobody to cut: %v", err)
	}
	a, b := dial(t, p), dial(t, p)
	inject(t, p, "store-cut")
	for _, c := range []net.Conn{a, b} {
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("cut: %v", err)
		}
	}
	dial(t, p)
}

func TestRefused(t *testing.T) {
	t.Parallel()
	p, _ := start(t)
	c := dial(t, p)
	inject(t, p, "store-refused for=300ms")
	inject(t, p, "store-refused for=500ms") // two at once are as long as the longer
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("the connection that was there still is")
	}
	begun := time.Now()
	if _, err := net.Dial("tcp", p.Addr()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial: %v", err)
	}
	poll(t, "the port to be open again", func() bool {
		c, err := net.Dial("tcp", p.Addr())
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	if closed := time.Since(begun); closed < 400*time.Millisecond {
		t.Errorf("closed for %v", closed)
	}
	dial(t, p)
}

// The store seems to have ended, but what is sent still reaches it.
func TestHalfClosed(t *testing.T) {
	t.Parallel()
	p, e := start(t)
	c := dial(t, p)
	inject(t, p, "store-half-closed")
	if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("read: %d, %v, want the end", n, err)
	}
	before := e.count()
	for range 10 {
		if _, err := c.Write([]byte("still here")); err != nil {
			t.Fatal(err)
		}
	}
	poll(t, "what was sent to arrive", func() bool { return e.count() == before+100 })
	dial(t, p)
	c.Close()
	poll(t, "its end", func() bool { return p.Connections() == 1 })
}

// Nothing passes and nobody is told; afterwards the connection ends.
func TestBlackHole(t *testing.T) {
	t.Parallel()
	p, e := start(t)
	c := dial(t, p)
	inject(t, p, "store-black-hole for=500ms")
	poll(t, "the hole", func() bool {
		before := e.count()
		c.SetDeadline(time.Now().Add(50 * time.Millisecond))
		return ask(c, []byte("x")) != nil && e.count() == before
	})
	c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.Copy(io.Discard, c); err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("its end: %v", err)
	}
	dial(t, p)
}

func TestInjectErrors(t *testing.T) {
	t.Parallel()
	e := startEcho(t)
	p, err := Start("127.0.0.1:0", e.Addr().String(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []faults.Fault{{Kind: faults.Cut}, {Kind: faults.StoreLatency}, {Kind: "x"}} {
		if err := p.Inject(f); market.KindOf(err) != market.KindInvalid {
			t.Errorf("%v: %v", f, err)
		}
	}
	if _, err := Start(p.Addr(), "127.0.0.1:1", slog.New(slog.DiscardHandler)); err == nil {
		t.Error("two proxies on one port")
	}
	// Faults under way end with the proxy, however much is stuck.
	c := dial(t, p)
	inject(t, p, "store-slow rate=1000 for=1h")
	inject(t, p, "store-latency by=1h for=2h")
	c.Write(make([]byte, 1<<20))
	inject(t, p, "store-refused for=1h")
	for range 2 {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := p.Inject(faults.Fault{Kind: faults.StoreCut}); market.KindOf(err) != market.KindUnavailable {
		t.Errorf("closed: %v", err)
	}
}

// An upstream that is not there ends connections; the proxy goes on.
func TestNoUpstream(t *testing.T) {
	t.Parallel()
	e := startEcho(t)
	e.Close()
	p, err := Start("127.0.0.1:0", e.Addr().String(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for range 2 {
		c, err := net.Dial("tcp", p.Addr())
		if err == nil { // the reset may come while dialling
			c.SetDeadline(time.Now().Add(20 * time.Second))
			_, err = c.Read(make([]byte, 1))
			c.Close()
		}
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("connection to nothing: %v", err)
		}
	}
}

// A store that is gone for good is told of at once, not only when the client has ended by itself.
func TestStoreIsGone(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p, err := Start("127.0.0.1:0", l.Addr().String(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	c, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	store, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	store.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("read: %d, %v, want the end", n, err)
	}
	poll(t, "the end of the client's own way", func() bool {
		_, err := c.Write([]byte("anybody?"))
		return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
	})
	poll(t, "the end of the pair", func() bool { return p.Connections() == 0 })
}

// All faults at random, to clients that come and go: the proxy survives and ends.
func TestRandomFaults(t *testing.T) {
	t.Parallel()
	p, _ := start(t)
	script, err := faults.Parse("random seed=3 every=15ms for=2s longest=100ms side=store")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	over := func() bool {
		select {
		case <-done:
			return true
		default:
			return false
		}
	}
	var clients sync.WaitGroup
	for range 3 {
		clients.Go(func() {
			for !over() {
				c, err := net.DialTimeout("tcp", p.Addr(), time.Second)
				for err == nil && !over() {
					c.SetDeadline(time.Now().Add(100 * time.Millisecond))
					err = ask(c, make([]byte, 10_000))
				}
				if c != nil {
					c.Close()
				}
			}
		})
	}
	faults.Run(t.Context(), script.Plan(), func(f faults.Fault) {
		if err := p.Inject(f); err != nil && market.KindOf(err) != market.KindNotFound {
			t.Error(err)
		}
	})
	close(done)
	clients.Wait()
	poll(t, "the store to be back", func() bool {
		c, err := net.Dial("tcp", p.Addr())
		if err != nil {
			return false
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(time.Second))
		return ask(c, []byte("x")) == nil
	})
}
