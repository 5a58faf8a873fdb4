package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"tapedeck/localstack/internal/child"
)

// Back-off between the starts of processes that end before they were of any use.
const (
	minRestartDelay = 100 * time.Millisecond
	maxRestartDelay = 5 * time.Second
	// stopGrace is how long a process may take to end after SIGTERM.
	stopGrace = 2 * time.Second
)

// Why a call was not made.
var (
	errThrottled = errors.New("too many calls of the function are in progress")
	errClosed    = errors.New("the gateway is closing")
)

// pool holds the processes of one function and shares them out to calls: a call takes the process that was used last,
// or a new one while there are fewer than maxProcesses, or waits its turn.
type pool struct {
	function     Function
	bootstrap    string // path of the binary
	maxProcesses int
	maxQueue     int
	starter      *child.Starter
	logger       *slog.Logger

	mu        sync.Mutex
	processes map[*process]struct{} // all that are not known to have ended
	starting  int                   // those of them that have not asked for an invocation yet
	idle      []*process            // the one used last at the end; empty while somebody waits
	waiters   []chan grant          // oldest first
	calls     int                   // waiting or in progress
	failures  int                   // processes in a row that ended before they were of any use
	restart   *time.Timer           // not nil while starts are held back after a failure
	closed    bool                  // no new calls
	stopping  bool                  // no new processes
	drained   chan struct{}         // closed when closed is set and no call is left
	running   sync.WaitGroup        // the goroutines of the processes
}

// grant is a ready process for a waiting call, or the reason why there is none.
type grant struct {
	process *process
	err     error
}

func newPool(f Function, bootstrap string, logger *slog.Logger) *pool {
	return &pool{
		function:     f,
		bootstrap:    bootstrap,
		maxProcesses: DefaultMaxProcesses,
		maxQueue:     DefaultMaxQueue,
		logger:       logger,
		processes:    map[*process]struct{}{},
		drained:      make(chan struct{}),
	}
}

// call has the function handle one event.
func (p *pool) call(ctx context.Context, inv *invocation) ([]byte, error) {
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer p.leave()
	proc, err := p.acquire(ctx)
	if err != nil {
		return nil, err
	}
	return proc.invoke(ctx, inv)
}

// prewarm returns when the function has a process that is ready.
func (p *pool) prewarm(ctx context.Context) error {
	if err := p.enter(); err != nil {
		return err
	}
	defer p.leave()
	proc, err := p.acquire(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", p.function.LogicalID, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.give(proc)
	return nil
}

func (p *pool) enter() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.closed:
		return errClosed
	case p.calls >= p.maxProcesses+p.maxQueue:
		return errThrottled
	}
	p.calls++
	return nil
}

func (p *pool) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls--
	if p.closed && p.calls == 0 {
		close(p.drained)
	}
}

// acquire returns a ready process, which is then the caller's.
func (p *pool) acquire(ctx context.Context) (*process, error) {
	p.mu.Lock()
	if n := len(p.idle); n > 0 {
		proc := p.idle[n-1]
		p.idle = p.idle[:n-1]
		p.mu.Unlock()
		return proc, nil
	}
	w := make(chan grant, 1)
	p.waiters = append(p.waiters, w)
	p.grow() //nolint:contextcheck // a process outlives the call that it is started for
	p.mu.Unlock()
	select {
	case g := <-w:
		return g.process, g.err
	case <-ctx.Done():
		p.abandon(w)
		return nil, context.Cause(ctx)
	}
}

// abandon takes a waiter out of the queue, and gives back what it may just have got.
func (p *pool) abandon(w chan grant) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := slices.Index(p.waiters, w); i >= 0 {
		p.waiters = slices.Delete(p.waiters, i, i+1)
	} else if g := <-w; g.process != nil {
		p.give(g.process)
	}
}

// give makes a ready process available. It needs mu.
func (p *pool) give(proc *process) {
	switch {
	case proc.condemned:
	case len(p.waiters) > 0:
		p.popWaiter() <- grant{process: proc}
	default:
		p.idle = append(p.idle, proc)
	}
}

func (p *pool) popWaiter() chan grant {
	w := p.waiters[0]
	p.waiters = slices.Delete(p.waiters, 0, 1)
	return w
}

// removeIdle needs mu.
func (p *pool) removeIdle(proc *process) {
	if i := slices.Index(p.idle, proc); i >= 0 {
		p.idle = slices.Delete(p.idle, i, i+1)
	}
}

// grow starts processes for those who wait. It needs mu.
func (p *pool) grow() {
	for p.restart == nil && len(p.waiters) > p.starting {
		if !p.startOne() {
			return
		}
	}
}

// startOne starts a process if the bound allows it. It needs mu.
func (p *pool) startOne() bool {
	if p.stopping || len(p.processes) >= p.maxProcesses {
		return false
	}
	proc := &process{pool: p, invocations: make(chan *invocation, 1)}
	p.processes[proc] = struct{}{}
	p.starting++
	p.running.Go(func() {
		err := proc.run()
		p.ended(proc, err)
	})
	return true
}

// ready notes that a process asks for its next invocation. It reports false if the process may not.
func (p *pool) ready(proc *process) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if proc.condemned || proc.asking {
		return false
	}
	if !proc.asked {
		proc.asked = true
		p.starting--
	}
	// Asking again without an answer leaves the function in an unknown state, but the process is alive.
	if proc.current != nil {
		proc.finishCurrent(result{err: errUnanswered})
	} else if proc.used {
		p.failures = 0
	}
	proc.asking = true
	p.give(proc)
	return true
}

// ended takes note of the end of a process: it fails the call that the process had in hand, or else the oldest one
// that waits for a start, and sees to a replacement.
func (p *pool) ended(proc *process, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.processes, proc)
	p.removeIdle(proc)
	proc.condemned = true
	if !proc.asked {
		p.starting--
	}
	if proc.cause != nil {
		err = fmt.Errorf("%w (%w)", proc.cause, err)
	}
	proc.finishCurrent(result{err: fmt.Errorf("%w: %w", errEnded, err)})
	if p.stopping {
		return
	}
	p.logger.Warn("function process ended", slog.Any("error", err))
	if proc.used {
		// The calls set the pace of these ends, so that no back-off is needed. The replacement spares the next call
		// the start.
		if p.restart == nil && len(p.idle) == 0 {
			p.startOne()
		}
		p.grow()
		return
	}
	if !proc.asked && len(p.waiters) > 0 {
		p.popWaiter() <- grant{err: fmt.Errorf("the function did not start: %w", err)}
	}
	p.holdBack()
}

// holdBack delays further starts. It needs mu.
func (p *pool) holdBack() {
	delay := min(minRestartDelay<<min(p.failures, 10), maxRestartDelay)
	p.failures++
	if p.restart != nil {
		return
	}
	p.restart = time.AfterFunc(delay, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.restart = nil
		p.grow()
	})
}

// close, to be called once, refuses new calls, waits for those in progress until ctx ends, ends the processes and waits for all of them.
func (p *pool) close(ctx context.Context) error {
	p.mu.Lock()
	p.closed = true
	if p.calls == 0 {
		close(p.drained)
	}
	p.mu.Unlock()
	var err error
	select {
	case <-p.drained:
	case <-ctx.Done():
		err = fmt.Errorf("%s: calls in progress were cut off: %w", p.function.LogicalID, context.Cause(ctx))
	}
	p.stop(err != nil)
	return err
}

// stop ends the processes, at once or with a grace, and waits for them.
func (p *pool) stop(atOnce bool) {
	p.mu.Lock()
	p.stopping = true
	if p.restart != nil {
		p.restart.Stop()
	}
	for len(p.waiters) > 0 {
		p.popWaiter() <- grant{err: errClosed}
	}
	for proc := range p.processes {
		if atOnce {
			proc.condemned = true
			proc.kill()
		} else {
			proc.terminate()
		}
	}
	p.mu.Unlock()
	grace := time.AfterFunc(stopGrace, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		for proc := range p.processes {
			proc.condemned = true
			proc.kill()
		}
	})
	defer grace.Stop()
	p.running.Wait()
}
