// Command gateway serves the API of a template with functions that are built already, or builds them: it is the API
// service of docker-compose.yml. For all of Tapedeck on one machine without Docker see localstack/devstack.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"tapedeck/localstack/gateway"
)

// stopTimeout bounds the time that calls in progress get at the end.
const stopTimeout = 30 * time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stderr, nil)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "gateway:", err)
		os.Exit(1)
	}
}

type options struct {
	template, functions, addr string
	environment               []string
	maxProcesses              int
	build                     bool
}

func parseFlags(args []string, output io.Writer) (options, error) {
	var o options
	var environment string
	flags := flag.NewFlagSet("gateway", flag.ContinueOnError)
	flags.SetOutput(output)
	flags.StringVar(&o.template, "template", "template.yaml", "the SAM `file` to serve")
	flags.StringVar(&o.functions, "functions", ".aws-sam/build", "`folder` of <logical id>/bootstrap, one a function")
	flags.StringVar(&o.addr, "addr", "127.0.0.1:3000", "`address` to listen on")
	flags.StringVar(&environment, "env", "",
		"comma-separated `names` of variables that replace the template's when they are set here")
	flags.IntVar(&o.maxProcesses, "max-processes", gateway.DefaultMaxProcesses, "processes per function at the most")
	flags.BoolVar(&o.build, "build", false, "build the functions of the module in this folder, and end")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if environment != "" {
		o.environment = strings.Split(environment, ",")
	}
	return o, nil
}

// run builds, or serves until ctx ends. listening, if not nil, is told the address.
func run(ctx context.Context, args []string, output io.Writer, listening func(net.Addr)) error {
	o, err := parseFlags(args, output)
	if err != nil {
		return err
	}
	overrides := gateway.Overrides{Environment: map[string]string{}}
	for _, name := range o.environment {
		if value, ok := os.LookupEnv(name); ok {
			overrides.Environment[name] = value
		}
	}
	template, err := gateway.ReadTemplate(o.template, overrides)
	if err != nil {
		return err
	}
	if o.build {
		return gateway.Build(ctx, template, ".", o.functions, func(p gateway.Progress) {
			if p.Elapsed == 0 {
				fmt.Fprintf(output, "building %s (%d of %d)\n", p.Function, p.Number, p.Total)
			}
		})
	}
	return serveTemplate(ctx, o, template, output, listening)
}

func serveTemplate(
	ctx context.Context, o options, t *gateway.Template, output io.Writer, listening func(net.Addr),
) error {
	logger := slog.New(slog.NewJSONHandler(output, nil))
	g, err := gateway.Start(gateway.Config{
		Template:     t,
		Bootstrap:    gateway.BootstrapIn(o.functions),
		MaxProcesses: o.maxProcesses,
		Logger:       logger,
	})
	if err != nil {
		return err
	}
	err = serve(ctx, o.addr, g, logger, listening)
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	return errors.Join(err, g.Close(stopping))
}

// serve listens until ctx ends, and returns when the requests in progress are answered.
func serve(ctx context.Context, addr string, g *gateway.Gateway, logger *slog.Logger, listening func(net.Addr)) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler:           g,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       time.Minute,
		IdleTimeout:       2 * time.Minute,
	}
	logger.Info("serving", slog.String("address", listener.Addr().String()))
	if listening != nil {
		listening(listener.Addr())
	}
	stopped := make(chan error, 1)
	stopWatching := context.AfterFunc(ctx, func() {
		stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer cancel()
		stopped <- server.Shutdown(stopping)
	})
	err = server.Serve(listener)
	if stopWatching() { // not asked to stop
		return err
	}
	return <-stopped
}
