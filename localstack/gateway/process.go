package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"
)

const (
	// initTimeout is how long a function may take until it asks for its first invocation:
	// https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtime-environment.html
	initTimeout = 10 * time.Second
	// pipeDelay is how long an ended process's output may stay open (in a process of its own) before it is closed.
	pipeDelay = time.Second
)

// process is one running function: a child process, and the Runtime API server that it talks to.
type process struct {
	pool        *pool
	invocations chan *invocation // to the pending request for the next one; buffers one

	// Guarded by pool.mu.
	cmd       *exec.Cmd // nil until started
	asking    bool      // a request for the next invocation is pending
	asked     bool      // at least one was made: the start is over
	used      bool      // it was given an invocation
	current   *invocation
	condemned bool  // it is being killed, or its connection is lost
	cause     error // why the process could not start or was condemned, as far as known
}

// run starts the process and waits for its end. The error says why it ended and is never nil.
func (p *process) run() error {
	ctx := context.Background() // a process outlives the call that it was started for
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listen for the Runtime API: %w", err)
	}
	server := &http.Server{Handler: p.runtimeAPI(), ReadHeaderTimeout: initTimeout}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(listener) }) // ends with ErrServerClosed by the Close below
	defer func() {
		_ = server.Close()
		serving.Wait()
	}()

	logger := p.pool.logger
	output := &lineWriter{emit: func(line string) { logger.Info("function output", slog.String("line", line)) }}
	defer output.flush()
	cmd := p.command(ctx, listener.Addr().String(), output)
	if err := p.pool.starter.Start(cmd); err != nil {
		return fmt.Errorf("start: %w", err)
	}
	p.started(cmd)
	tooLate := time.AfterFunc(initTimeout, p.checkStarted)
	defer tooLate.Stop()
	if err := cmd.Wait(); err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		return err
	}
	return errors.New("the process ended with exit status 0")
}

// command describes the child process. Its environment is what Lambda sets and what the template declares:
// https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html
func (p *process) command(ctx context.Context, runtimeAPI string, output *lineWriter) *exec.Cmd {
	f := p.pool.function
	root := filepath.Dir(p.pool.bootstrap)
	cmd := exec.CommandContext(ctx, p.pool.bootstrap)
	cmd.Dir = root
	cmd.Stdout, cmd.Stderr = output, output
	cmd.WaitDelay = pipeDelay
	cmd.Env = []string{
		"PATH=/usr/local/bin:/usr/bin:/bin",
		"LANG=en_US.UTF-8",
		"TZ=:UTC",
		"AWS_REGION=" + region,
		"AWS_DEFAULT_REGION=" + region,
		"AWS_LAMBDA_FUNCTION_NAME=" + f.LogicalID,
		"AWS_LAMBDA_FUNCTION_VERSION=$LATEST",
		"AWS_LAMBDA_FUNCTION_MEMORY_SIZE=" + strconv.Itoa(f.MemoryMB),
		"AWS_LAMBDA_INITIALIZATION_TYPE=on-demand",
		"AWS_LAMBDA_LOG_GROUP_NAME=/aws/lambda/" + f.LogicalID,
		"AWS_LAMBDA_LOG_STREAM_NAME=local",
		"AWS_LAMBDA_RUNTIME_API=" + runtimeAPI,
		"LAMBDA_TASK_ROOT=" + root,
		"_HANDLER=" + f.Handler,
	}
	for name, value := range f.Environment {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	return cmd
}

func (p *process) started(cmd *exec.Cmd) {
	p.pool.mu.Lock()
	defer p.pool.mu.Unlock()
	p.cmd = cmd
	switch {
	case p.condemned:
		p.kill()
	case p.pool.stopping:
		p.terminate()
	}
}

// checkStarted ends a process that takes too long to start.
func (p *process) checkStarted() {
	p.pool.mu.Lock()
	asked := p.asked
	p.pool.mu.Unlock()
	if !asked {
		p.condemn(fmt.Errorf("the function did not ask for an invocation within %v", initTimeout))
	}
}

// invoke hands an invocation to the process, which must be ready and the caller's, and waits for its result at most
// until ctx ends; the function goes on all the same, until it answers or reaches its own timeout.
func (p *process) invoke(ctx context.Context, inv *invocation) ([]byte, error) {
	p.hand(inv)
	select {
	case res := <-inv.result:
		return res.reply, res.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (p *process) hand(inv *invocation) {
	p.pool.mu.Lock()
	defer p.pool.mu.Unlock()
	if p.condemned { // its connection was lost just now
		inv.result <- result{err: errEnded}
		return
	}
	timeout := p.pool.function.Timeout
	inv.deadline = time.Now().Add(timeout)
	inv.timer = time.AfterFunc(timeout, func() { p.expire(inv) })
	p.asking, p.used, p.current = false, true, inv
	p.invocations <- inv
}

// expire ends an invocation that has reached its deadline, and the process with it.
func (p *process) expire(inv *invocation) {
	p.pool.mu.Lock()
	defer p.pool.mu.Unlock()
	if p.current == inv {
		p.finishCurrent(result{err: errTimeout})
		p.condemnLocked(errTimeout)
	}
}

// finish gives the invocation in hand its result. It reports false if that is not the one with the given id.
func (p *process) finish(id string, res result) bool {
	p.pool.mu.Lock()
	defer p.pool.mu.Unlock()
	if p.current == nil || p.current.id != id {
		return false
	}
	p.finishCurrent(res)
	return true
}

// finishCurrent needs pool.mu. Without an invocation in hand it does nothing.
func (p *process) finishCurrent(res result) {
	if p.current == nil {
		return
	}
	p.current.timer.Stop()
	p.current.result <- res
	p.current = nil
}

// note keeps the cause of the process's coming end; the first one counts.
func (p *process) note(cause error) {
	p.pool.mu.Lock()
	defer p.pool.mu.Unlock()
	if p.cause == nil {
		p.cause = cause
	}
}

// condemn kills the process, now or as soon as it is started; it gets no further invocation.
func (p *process) condemn(cause error) {
	p.pool.mu.Lock()
	defer p.pool.mu.Unlock()
	p.condemnLocked(cause)
}

func (p *process) condemnLocked(cause error) {
	if p.cause == nil {
		p.cause = cause
	}
	p.condemned = true
	p.pool.removeIdle(p)
	p.kill()
}

// kill and terminate need pool.mu. A process that has ended already needs neither.
func (p *process) kill() {
	if p.cmd != nil {
		_ = p.cmd.Process.Kill()
	}
}

func (p *process) terminate() {
	if p.cmd != nil && p.cmd.Process.Signal(syscall.SIGTERM) != nil {
		p.kill() // a system without signals
	}
}

// maxLineBytes bounds a line of output; a longer one is passed on in parts.
const maxLineBytes = 64 << 10

// lineWriter passes on the lines that are written to it. Only one goroutine may use it at a time.
type lineWriter struct {
	emit    func(line string)
	partial []byte
}

func (w *lineWriter) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 {
		line, rest, complete := bytes.Cut(b, []byte("\n"))
		room := maxLineBytes - len(w.partial)
		if len(line) > room {
			line, rest, complete = b[:room], b[room:], true
		}
		w.partial = append(w.partial, line...)
		if complete {
			w.flush()
		}
		b = rest
	}
	return n, nil
}

// flush passes on what has no end of line yet.
func (w *lineWriter) flush() {
	if line := bytes.TrimRight(w.partial, "\r"); len(line) > 0 {
		w.emit(string(line))
	}
	w.partial = w.partial[:0]
}
