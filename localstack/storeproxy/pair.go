package storeproxy

import (
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// chunkBytes is how much is read at a time, and queuedChunks how often before it must have been written: latency
	// delays, it does not slow down.
	chunkBytes   = 32 << 10
	queuedChunks = 256
	// rateStep is how long what is written at once takes at a limited rate.
	rateStep = 50 * time.Millisecond
)

// pair is a client's connection and that to the store which belongs to it.
type pair struct {
	proxy         *Proxy
	client, store net.Conn
	half          atomic.Bool   // what the store says is not passed on any more
	gone          chan struct{} // closed by reset
	once          sync.Once
}

func newPair(p *Proxy, client, store net.Conn) *pair {
	return &pair{proxy: p, client: client, store: store, gone: make(chan struct{})}
}

// run carries bytes both ways until both have ended.
func (p *pair) run() {
	var ways sync.WaitGroup
	for _, w := range []*way{
		{pair: p, from: p.client, to: p.store},
		{pair: p, from: p.store, to: p.client, mute: &p.half},
	} {
		w.queue = make(chan chunk, queuedChunks)
		ways.Go(w.read)
		ways.Go(w.write)
	}
	ways.Wait()
	_ = p.client.Close() // both sides have said that they are done, or are reset
	_ = p.store.Close()
}

// reset closes both connections with a TCP reset.
func (p *pair) reset() {
	p.once.Do(func() {
		reset(p.client)
		reset(p.store)
		close(p.gone)
	})
}

func reset(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // fails only on a socket that is closed already
	}
	_ = c.Close() // nothing could be saved now
}

// halfClose ends the store's half for the client, whose own still reaches the store.
func (p *pair) halfClose() {
	p.half.Store(true)
	closeWrite(p.client)
}

// closeWrite says on a connection that nothing more will come.
func closeWrite(c net.Conn) {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite() // fails only on a socket that is closed already
	}
}

// sleep waits for d; false when the pair is reset.
func (p *pair) sleep(d time.Duration) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-p.gone:
		return false
	}
}

// way carries bytes from one connection to the other.
type way struct {
	pair     *pair
	from, to net.Conn
	mute     *atomic.Bool // throws away what comes when true; may be nil
	queue    chan chunk
}

// chunk is what was read at a time, to be written when it is due.
type chunk struct {
	data []byte
	due  time.Time
}

// read queues what comes until its end.
func (w *way) read() {
	defer close(w.queue)
	for {
		data := make([]byte, chunkBytes)
		n, err := w.from.Read(data)
		if c := w.pair.proxy.condition(); n > 0 && !c.hole {
			w.queue <- chunk{data[:n], time.Now().Add(c.latency)}
		}
		if err != nil {
			return
		}
	}
}

// write writes what is queued, each when it is due, and passes the end on. An error resets the pair at once; what is
// queued then is lost.
func (w *way) write() {
	ok := true
	for c := range w.queue { // to its end in any case: the reader waits for room
		if ok = ok && w.pair.sleep(time.Until(c.due)) && w.send(c.data); !ok {
			w.pair.reset()
		}
	}
	if ok {
		closeWrite(w.to)
	}
}

// send writes data at the rate that holds; false when it cannot be written.
func (w *way) send(data []byte) bool {
	for len(data) > 0 {
		now := w.pair.proxy.condition()
		if now.hole || w.mute != nil && w.mute.Load() {
			return true // lost
		}
		part := data
		if now.rate > 0 {
			part = data[:min(len(data), max(now.rate/int(time.Second/rateStep), 1))]
			if !w.pair.sleep(time.Duration(len(part)) * time.Second / time.Duration(now.rate)) {
				return false
			}
		}
		if _, err := w.to.Write(part); err != nil && (w.mute == nil || !w.mute.Load()) {
			return false
		}
		data = data[len(part):]
	}
	return true
}
