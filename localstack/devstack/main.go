// Command devstack runs all of Tapedeck on one machine with nothing but Go: a feed (live Binance, a recording, or
// made-up markets), the ingester, an embedded store (or a MongoDB), and the functions behind the bundled gateway. It
// builds the ingester and the functions first and runs the real binaries.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() { os.Exit(command()) }

// command returns the exit status.
func command() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // whoever does not want to wait for an orderly end may interrupt once more
	o, err := parseFlags(os.Args[1:], os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err == nil {
		err = run(ctx, o, os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "devstack:", err)
		return 1
	}
	return 0
}
