package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"tapedeck/localstack/exchange"
	"tapedeck/shared/market"
)

// Where Binance spot is.
const (
	binanceREST = "https://api.binance.com"
	binanceWS   = "wss://stream.binance.com:9443"
)

// feed is where the ingester gets its frames from: the exchange stand-in, or Binance itself (server is nil then).
type feed struct {
	server  *exchange.Server
	restURL string
	wsURL   string
	symbols []string
}

// binanceReachable asks Binance for a sign of life.
func binanceReachable(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, binanceREST+"/api/v3/ping", nil)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close() //nolint:errcheck // the body was only drained
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<10))
	return resp.StatusCode == http.StatusOK
}

// startFeed starts the stand-in where the feed needs one.
func startFeed(o *options) (*feed, error) {
	f := &feed{restURL: binanceREST, wsURL: binanceWS, symbols: o.symbols}
	var source exchange.Source
	switch o.feed {
	case feedBinance:
		if len(f.symbols) == 0 {
			f.symbols = []string{"BTCUSDT"}
		}
		return f, nil
	case feedReplay:
		replay, err := exchange.NewReplay(o.recordings...)
		if err != nil {
			return nil, err
		}
		source = replay
		if f.symbols, err = symbolsOf(replay, o.symbols); err != nil {
			return nil, errors.Join(err, replay.Close())
		}
	case feedSynthetic:
		if len(f.symbols) == 0 {
			f.symbols = exchange.SymbolNames(3)
		}
		made, err := exchange.NewSynthetic(exchange.SyntheticConfig{
			Symbols: f.symbols, Seed: 1, Start: market.TimeOf(time.Now()),
		})
		if err != nil {
			return nil, err
		}
		source = made
	}
	f.server = exchange.New(source, exchange.WithSpeed(o.speed), exchange.WithStartStreams(f.streams()...))
	if err := f.server.Start("127.0.0.1:0"); err != nil {
		return nil, err
	}
	f.restURL, f.wsURL = f.server.URL(), f.server.StreamURL()
	return f, nil
}

// symbolsOf returns those of the recording's symbols that are wanted, all when wanted is empty. One that the recording
// does not have would be waited for in vain.
func symbolsOf(replay *exchange.Replay, wanted []string) ([]string, error) {
	var recorded []string
	for _, l := range replay.Listings() {
		recorded = append(recorded, l.Market.Symbol)
	}
	if len(recorded) == 0 {
		return nil, errors.New("the recording has no market in it")
	}
	for _, symbol := range wanted {
		if !slices.Contains(recorded, symbol) {
			return nil, fmt.Errorf("-symbols: the recording has no %s, only %s", symbol, brief(recorded))
		}
	}
	if len(wanted) > 0 {
		return wanted, nil
	}
	return recorded, nil
}

// streams returns what the ingester will subscribe to; the source starts when it has.
func (f *feed) streams() []string {
	var names []string
	for _, s := range f.symbols {
		s = strings.ToLower(s)
		names = append(names, s+"@depth@100ms", s+"@trade")
	}
	return names
}

// close stops the stand-in.
func (f *feed) close(ctx context.Context) error {
	if f.server == nil {
		return nil
	}
	return f.server.Close(ctx)
}
