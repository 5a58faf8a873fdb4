package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"tapedeck/localstack/gateway"
	"tapedeck/localstack/internal/child"
	"tapedeck/localstack/storeproxy"
)

const (
	// binaries is where the ingester and the functions are built to.
	binaries = ".tapedeck/bin"
	// stopTimeout bounds the end of everything but the ingester, which has a bound of its own.
	stopTimeout = 20 * time.Second
)

// stack is all that runs.
type stack struct {
	options
	out      io.Writer
	feed     *feed
	proxy    *storeproxy.Proxy // before the ingester's store; nil without faults of it
	ingester *ingester
	gateway  *gateway.Gateway
	api      *http.Server
	apiURL   string
	faulting sync.WaitGroup // injects faults
}

// run builds and starts everything, tells on out what happens, and stops it in order when ctx ends: the ingester
// first, so that whatever it received is stored, then the feed, then the API. The working directory must be the
// checkout.
func run(ctx context.Context, o options, out io.Writer) (err error) {
	if _, err := os.Stat("template.yaml"); err != nil {
		return errors.New("template.yaml is not here: run devstack from the top folder of the checkout")
	}
	out = &lineWriter{to: out}
	asked := o.feed
	o.settle(func() bool { return binanceReachable(ctx) })
	if asked == feedAuto && o.feed == feedReplay {
		fmt.Fprintln(out, "live Binance cannot be reached from here: playing the bundled recording of real BTCUSDT trading (2024-08-08 and 09)")
	}
	if o.mongodbURI == "" {
		if err := os.MkdirAll(o.data, 0o750); err != nil {
			return fmt.Errorf("make the data folder: %w", err)
		}
	}
	// Both addresses are tried before the build, which takes a while.
	listener, err := listen(ctx, "-api-addr", o.apiAddr)
	if err != nil {
		return err
	}
	defer listener.Close() //nolint:errcheck // the server closes it first when all is well
	if probe, err := listen(ctx, "-ops-addr", o.opsAddr); err != nil {
		return err
	} else if err := probe.Close(); err != nil {
		return err
	}
	template, err := gateway.ReadTemplate("template.yaml", gateway.Overrides{Environment: storeEnvironment(&o)})
	if err != nil {
		return err
	}
	if err := build(ctx, template, out); err != nil {
		return err
	}
	starter := child.NewStarter()
	defer starter.Stop()
	s := &stack{options: o, out: out, apiURL: "http://" + listener.Addr().String()}
	defer func() { err = errors.Join(err, s.stop(context.WithoutCancel(ctx))) }()
	if err := s.start(ctx, starter, template, listener); err != nil {
		return err
	}
	if err := s.watch(ctx); err != nil {
		return err
	}
	fmt.Fprintln(out, "stopping: what was received is being stored (interrupt once more to end at once)")
	return nil
}

func listen(ctx context.Context, name, addr string) (net.Listener, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return l, nil
}

// build compiles the functions and the ingester.
func build(ctx context.Context, template *gateway.Template, out io.Writer) error {
	fmt.Fprintln(out, "building (the first time takes a minute or two, afterwards seconds)")
	err := gateway.Build(ctx, template, ".", filepath.Join(binaries, "functions"), func(p gateway.Progress) {
		if p.Elapsed == 0 {
			fmt.Fprintf(out, "  %d/%d %s\n", p.Number, p.Total+1, p.Function)
		}
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "  %d/%d ingester\n", len(template.Functions)+1, len(template.Functions)+1)
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", filepath.Join(binaries, "ingester"), "./ingester")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the ingester: %w: %s", err, output)
	}
	return nil
}

// start starts feed, ingester and API. What was started before an error is stopped by stop.
func (s *stack) start(ctx context.Context, starter *child.Starter, template *gateway.Template, listener net.Listener) error {
	var err error
	if s.feed, err = startFeed(&s.options); err != nil {
		return err
	}
	recorderOptions, err := s.startStoreProxy()
	if err != nil {
		return err
	}
	if s.ingester, err = startIngester(ctx, starter, filepath.Join(binaries, "ingester"), &recorderOptions, s.feed); err != nil {
		return err
	}
	if !s.faults.Empty() {
		s.faulting.Go(func() { s.injectFaults(ctx) })
	}
	s.gateway, err = gateway.Start(gateway.Config{
		Template:  template,
		Bootstrap: gateway.BootstrapIn(filepath.Join(binaries, "functions")),
		Logger:    slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo})),
	})
	if err != nil {
		return err
	}
	if err := s.gateway.Prewarm(ctx); err != nil {
		return fmt.Errorf("start the functions: %w", err)
	}
	s.api = &http.Server{Handler: s.gateway, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: time.Minute, IdleTimeout: 2 * time.Minute}
	go func() {
		if err := s.api.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			slog.Error("the API stopped serving", slog.Any("error", err))
		}
	}()
	return nil
}

// stop ends what runs, in order, and waits for it.
func (s *stack) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stopTimeout+ingesterGrace)
	defer cancel()
	s.faulting.Wait()
	var errs []error
	if s.ingester != nil {
		errs = append(errs, s.ingester.stop())
	}
	if s.proxy != nil {
		errs = append(errs, s.proxy.Close())
	}
	if s.feed != nil {
		errs = append(errs, s.feed.close(ctx))
	}
	if s.api != nil {
		errs = append(errs, s.api.Shutdown(ctx))
	}
	if s.gateway != nil {
		errs = append(errs, s.gateway.Close(ctx))
	}
	return errors.Join(errs...)
}
