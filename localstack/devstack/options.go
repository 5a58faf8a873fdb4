package main

import (
	"flag"
	"fmt"
	"io"
	"math"
	"net"
	"path/filepath"
	"slices"
	"strings"

	"tapedeck/localstack/faults"
	"tapedeck/shared/market"
	"tapedeck/shared/recording"
)

// The feeds.
const (
	feedAuto      = "auto" // binance where it can be reached, else replay
	feedBinance   = "binance"
	feedReplay    = "replay"
	feedSynthetic = "synthetic"
)

// options is what the command line says, checked.
type options struct {
	feed            string
	recordings      []string
	speed           float64
	symbols         []string // empty: the feed's own
	data            string   // of the embedded store and the spool; empty: a folder of the feed's own
	mongodbURI      string
	mongodbDatabase string
	apiAddr         string
	opsAddr         string
	faults          faults.Script
}

// speedOfFeed marks that -speed was not given: a recording is then played as fast as it is recorded (0), a synthetic
// market at the pace of a real one (1).
const speedOfFeed = -1

// parseFlags reads the command line. Mistakes are told on output, together with the usage.
func parseFlags(args []string, output io.Writer) (options, error) {
	var o options
	var recordings, symbols, script string
	flags := flag.NewFlagSet("devstack", flag.ContinueOnError)
	flags.SetOutput(output)
	flags.StringVar(&o.feed, "feed", feedAuto,
		"what is recorded: binance (live), replay (a recording), synthetic (made-up markets), or auto: live Binance where it can be reached, else the bundled recording")
	flags.StringVar(&recordings, "recording", "",
		"comma-separated `files` of lines '<receive time> <raw frame>', plain, .gz or .zst, played one after the other (default: the bundled recording of BTCUSDT)")
	flags.Float64Var(&o.speed, "speed", speedOfFeed,
		"pace of a replay or of synthetic markets: 1 = as in reality, 0 = as fast as the ingester takes it, nothing dropped (default: 0 for a replay, 1 for synthetic markets)")
	flags.StringVar(&symbols, "symbols", "", "comma-separated `symbols` (default: BTCUSDT live, all in a recording, SYN001USDT to SYN003USDT synthetic)")
	flags.StringVar(&o.data, "data", "", "`folder` of the embedded store and of the spool before the store, kept between runs (default: .tapedeck/<feed>)")
	flags.StringVar(&o.mongodbURI, "mongodb-uri", "", "connection string of a MongoDB to store to instead of the embedded store")
	flags.StringVar(&o.mongodbDatabase, "mongodb-database", "tapedeck", "`name` of the database there")
	flags.StringVar(&o.apiAddr, "api-addr", "127.0.0.1:3000", "`address` of the HTTP API")
	flags.StringVar(&o.opsAddr, "ops-addr", "127.0.0.1:8000", "`address` of the ingester's /metrics, /healthz and /readyz")
	flags.StringVar(&script, "faults", "",
		"what goes wrong on purpose: a `script` like 'cut@10s; stall@20s for=15s stream=@trade; random seed=7 every=3s', or @file (grammar: go doc ./localstack/faults; faults of the store need -mongodb-uri)")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	o.recordings, o.symbols = list(recordings), list(symbols)
	var err error
	if o.faults, err = readScript(script); err != nil {
		return o, fmt.Errorf("-faults: %w", err)
	}
	return o, o.check()
}

func list(s string) []string {
	return slices.DeleteFunc(strings.Split(s, ","), func(e string) bool { return e == "" })
}

func (o *options) check() error {
	switch o.feed {
	case feedAuto, feedBinance, feedReplay, feedSynthetic:
	default:
		return fmt.Errorf("-feed %q is none of auto, binance, replay, synthetic", o.feed)
	}
	if len(o.recordings) > 0 && o.feed != feedReplay {
		return fmt.Errorf("-recording goes with -feed replay, not with %s", o.feed)
	}
	if o.speed != speedOfFeed && !(o.speed >= 0 && o.speed <= math.MaxFloat64) { // not a number is neither
		return fmt.Errorf("-speed %v is not a factor: 1 is the real pace, 0 as fast as possible", o.speed)
	}
	if o.speed != speedOfFeed && o.feed == feedBinance {
		return fmt.Errorf("-speed has no meaning for %s", o.feed)
	}
	for i, s := range o.symbols {
		m, err := market.New(market.Binance, s)
		if err != nil {
			return fmt.Errorf("-symbols: %w", err)
		}
		o.symbols[i] = m.Symbol
	}
	for _, a := range []struct{ name, addr string }{{"-api-addr", o.apiAddr}, {"-ops-addr", o.opsAddr}} {
		if _, _, err := net.SplitHostPort(a.addr); err != nil {
			return fmt.Errorf("%s: %w", a.name, err)
		}
	}
	return o.checkFaults()
}

// settle turns auto into a feed and fills in what depends on it. reachable says whether live Binance answers.
func (o *options) settle(reachable func() bool) {
	if o.feed == feedAuto {
		o.feed = feedReplay
		if reachable() {
			o.feed = feedBinance
		}
	}
	if o.speed == speedOfFeed {
		o.speed = 0
		if o.feed == feedSynthetic {
			o.speed = 1
		}
	}
	if o.feed == feedReplay && len(o.recordings) == 0 {
		o.recordings = recording.Bundled()
	}
	if o.data == "" {
		o.data = filepath.Join(".tapedeck", o.feed)
	}
}

// lossless reports whether the feed waits for the ingester, so that the ingester may wait for its store.
func (o *options) lossless() bool { return o.feed != feedBinance && o.speed == 0 }
