package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"tapedeck/localstack/internal/child"
)

// ingesterGrace is how long the ingester may take to stop: its own bound (SHUTDOWN_TIMEOUT) and a little more.
const ingesterGrace = 35 * time.Second

// ingester is the running ingester.
type ingester struct {
	cmd    *exec.Cmd
	opsURL string
	exited chan struct{} // closed when the process has ended
	err    error         // how; valid once exited is closed
}

// startIngester starts the ingester on a feed; it outlives ctx, until stop. Its log goes to this process's standard
// error.
func startIngester(ctx context.Context, starter *child.Starter, binary string, o *options, f *feed) (*ingester, error) {
	host, port, err := net.SplitHostPort(o.opsAddr)
	if err != nil {
		return nil, err
	}
	if host == "" || host == "0.0.0.0" || host == "::" {
		host = "127.0.0.1"
	}
	p := &ingester{opsURL: "http://" + net.JoinHostPort(host, port), exited: make(chan struct{})}
	p.cmd = exec.CommandContext(context.WithoutCancel(ctx), binary)
	p.cmd.Stdout, p.cmd.Stderr = os.Stderr, os.Stderr
	p.cmd.Env = append(os.Environ(), ingesterEnvironment(o, f)...)
	if err := starter.Start(p.cmd); err != nil {
		return nil, fmt.Errorf("start the ingester: %w", err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.exited)
	}()
	return p, nil
}

func ingesterEnvironment(o *options, f *feed) []string {
	symbols := ""
	for i, s := range f.symbols {
		if i > 0 {
			symbols += ","
		}
		symbols += s
	}
	env := []string{
		"SYMBOLS=" + symbols,
		"EXCHANGE_WS_URL=" + f.wsURL,
		"EXCHANGE_REST_URL=" + f.restURL,
		"OPS_ADDR=" + o.opsAddr,
		"RECORDER_NAME=devstack",
		"SPOOL_DIR=" + filepath.Join(o.data, "spool"),
		fmt.Sprintf("BACKPRESSURE=%v", o.lossless()),
		"LOG_FORMAT=text",
		"LOG_LEVEL=warn",
	}
	for name, value := range storeEnvironment(o) {
		env = append(env, name+"="+value)
	}
	return env
}

// storeEnvironment names the store to the ingester and to the functions.
func storeEnvironment(o *options) map[string]string {
	env := map[string]string{"MONGODB_URI": o.mongodbURI, "MONGODB_DATABASE": o.mongodbDatabase, "SQLITE_PATH": ""}
	if o.mongodbURI == "" {
		path := filepath.Join(o.data, "tapedeck.db")
		if absolute, err := filepath.Abs(path); err == nil {
			path = absolute
		}
		env["SQLITE_PATH"] = path
	}
	return env
}

// ready reports whether the ingester is connected, synced, and able to store.
func (p *ingester) ready(ctx context.Context) bool {
	status, _, err := get(ctx, p.opsURL+"/readyz")
	return err == nil && status == http.StatusOK
}

// failure returns the error of an ingester that ended by itself.
func (p *ingester) failure() error {
	if p.err != nil {
		return fmt.Errorf("the ingester ended: %w (its log is above)", p.err)
	}
	return errors.New("the ingester ended by itself")
}

// stop ends the ingester and waits for it. What it received and could not store stays in its spool.
func (p *ingester) stop() error {
	select {
	case <-p.exited:
		return nil // told already
	default:
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop the ingester: %w", err)
	}
	select {
	case <-p.exited:
	case <-time.After(ingesterGrace):
		_ = p.cmd.Process.Kill() // it may have ended just now
		<-p.exited
		return fmt.Errorf("the ingester did not stop within %v and was killed", ingesterGrace)
	}
	if p.err != nil {
		return fmt.Errorf("the ingester stopped with an error: %w", p.err)
	}
	return nil
}
