// Command tapedeck-verify proves what a store holds: that nothing is damaged, missing without a word in the ledger, or
// wrong. Package verify says what exactly.
//
//	tapedeck-verify [-market binance/BTCUSDT,…] [-start TIME] [-end TIME] [-json] [-quiet]
//	                [-sqlite FILE | -mongodb-uri URI]
//
// The store is that of the environment (MONGODB_URI and MONGODB_DATABASE, or SQLITE_PATH) unless a flag names one.
// Times are RFC 3339 or unix milliseconds, of the exchange's clock; the end is exclusive. It prints a summary, or with
// -json one document (verify.Report), and reports progress to standard error while it runs.
//
// Exit status: 0 when all holds (holes that the ledger explains are listed and are no failure); 1 when something does
// not hold; 2 when it was called wrongly; 3 when the store could not be read to the end, or SIGINT or SIGTERM ended it:
// what was found until then is printed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"tapedeck/shared/config"
	"tapedeck/shared/market"
	"tapedeck/shared/mongostore"
	"tapedeck/shared/sqlitestore"
	"tapedeck/shared/verify"
)

// Exit codes.
const (
	exitHolds = iota
	exitDoesNotHold
	exitUsage
	exitUnread
)

// closeTimeout bounds the closing of the store.
const closeTimeout = 5 * time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	os.Exit(command(ctx, os.Args[1:], os.LookupEnv, os.Stdout, os.Stderr))
}

// settings are what flags and environment say.
type settings struct {
	store   config.Store
	options verify.Options
	json    bool
	quiet   bool
}

// command runs the command and returns its exit code.
func command(ctx context.Context, args []string, env func(string) (string, bool), stdout, stderr io.Writer) int {
	s, err := parse(args, env, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitHolds
	case err != nil:
		fmt.Fprintln(stderr, "tapedeck-verify:", err)
		return exitUsage
	}
	if !s.quiet {
		s.options.Progress = newProgress(stderr, time.Now).show
	}
	report, err := run(ctx, &s)
	if printErr := output(stdout, &s, &report, err); printErr != nil {
		err = errors.Join(err, fmt.Errorf("print the report: %w", printErr))
	}
	switch {
	case err != nil:
		fmt.Fprintln(stderr, "tapedeck-verify: not all was read:", err)
		return exitUnread
	case !report.Holds():
		return exitDoesNotHold
	}
	return exitHolds
}

// parse reads flags and environment.
func parse(args []string, lookup func(string) (string, bool), stderr io.Writer) (settings, error) {
	var s settings
	var markets, sqlite, mongoURI string
	flags := flag.NewFlagSet("tapedeck-verify", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&markets, "market", "", "comma-separated `markets` such as binance/BTCUSDT (default: all in the store)")
	instant := func(into *market.Time) func(string) error {
		return func(text string) error { return into.UnmarshalText([]byte(text)) }
	}
	flags.Func("start", "first event `time`, RFC 3339 or unix ms (default: the first stored)", instant(&s.options.Start))
	flags.Func("end", "event `time` to end before (default: the last stored when it begins)", instant(&s.options.End))
	flags.IntVar(&s.options.Listed, "list", 0, "how many places to list for each finding; all are counted (default 20)")
	flags.BoolVar(&s.json, "json", false, "print one JSON document instead of text")
	flags.BoolVar(&s.quiet, "quiet", false, "print no progress, and no more than the findings")
	flags.StringVar(&sqlite, "sqlite", "", "`file` of the embedded store (default: SQLITE_PATH)")
	flags.StringVar(&mongoURI, "mongodb-uri", "", "`URI` of the MongoDB (default: MONGODB_URI)")
	if err := flags.Parse(args); err != nil {
		return s, err
	}
	if flags.NArg() > 0 {
		return s, fmt.Errorf("what is %q? there are only flags", flags.Arg(0))
	}
	for name := range strings.SplitSeq(markets, ",") {
		if name = strings.TrimSpace(name); name == "" {
			continue
		}
		m, err := market.Parse(name)
		if err != nil {
			return s, err
		}
		s.options.Markets = append(s.options.Markets, m)
	}
	if s.options.End != 0 && s.options.End <= s.options.Start {
		return s, fmt.Errorf("the end %v is not after the start %v", s.options.End, s.options.Start)
	}
	env := config.New(func(name string) (string, bool) {
		switch {
		case sqlite == "" && mongoURI == "", name == "MONGODB_DATABASE":
			return lookup(name)
		case name == "SQLITE_PATH":
			return sqlite, true
		case name == "MONGODB_URI":
			return mongoURI, true
		}
		return "", false
	})
	s.store = env.Store()
	return s, env.Err()
}

// store is what is needed of a store.
type store interface {
	verify.Reader
	Close(ctx context.Context) error
}

// run opens the store and verifies it.
func run(ctx context.Context, s *settings) (report verify.Report, err error) {
	store, err := open(ctx, s.store)
	if err != nil {
		return report, err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		err = errors.Join(err, store.Close(ctx))
	}()
	return verify.Run(ctx, store, s.options)
}

func open(ctx context.Context, where config.Store) (store, error) {
	if where.SQLitePath != "" {
		return sqlitestore.Open(ctx, where.SQLitePath, sqlitestore.ReadOnly)
	}
	return mongostore.Open(ctx, where.MongoURI.Reveal(), where.MongoDatabase, mongostore.Recorder)
}
