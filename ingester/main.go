// Command ingester records markets: it follows the exchange's streams and writes what it sees to a store. Everything is
// configured by environment variables; parseConfig lists them.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"tapedeck/shared/config"
)

// version is set when a release is built: -ldflags "-X main.version=v1.2.3".
var version string

// Exit codes. A stop with records left in the spool is 0: they go to the store after the next start.
const (
	exitFailed = 1 // the start failed (another process has the spool), or something received is neither stored nor on disk
	exitUsage  = 2 // the environment is wrong
)

func main() {
	cfg, err := parseConfig(config.OS())
	if err != nil {
		fmt.Fprintf(os.Stderr, "ingester: the environment is wrong:\n%v\n", err)
		os.Exit(exitUsage)
	}
	log := cfg.logger()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	if err := Run(ctx, &cfg, log); err != nil {
		log.Error("stopped with an error", "error", err)
		os.Exit(exitFailed)
	}
	log.Info("stopped")
}

// buildVersion returns the version of this program.
func buildVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}

// errUnwritten says that frames were received and could not be recorded.
var errUnwritten = errors.New("frames were received and not recorded")
