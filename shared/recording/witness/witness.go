// Package witness reads the bundled recording with encoding/json: slow and plain, so that tests and benchmarks have a
// second opinion on real traffic that shares no code with the decoder they test. It is for tests only.
package witness

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"tapedeck/shared/market"
	"tapedeck/shared/recording"
)

// Events is what the bundled recording holds, in its order.
type Events struct {
	Snapshot market.Snapshot
	Updates  []market.DepthUpdate
	Trades   []market.Trade
	Tickers  []market.Ticker // bookTicker frames; only of LoadTickers
}

// Load returns the events of the bundled recording but the tickers, LoadTickers the tickers alone: they are three
// quarters of it, and few tests need them. What is returned is shared: do not change it.
var (
	Load        = sync.OnceValues(func() (*Events, error) { return load(false) })
	LoadTickers = sync.OnceValues(func() (*Events, error) { return load(true) })
)

func load(tickers bool) (*Events, error) {
	r, err := recording.Open(recording.Bundled()...)
	if err != nil {
		return nil, err
	}
	defer r.Close() //nolint:errcheck // a file inside the binary
	events := new(Events)
	for n := 1; ; n++ {
		line, err := r.Next()
		if errors.Is(err, io.EOF) {
			return events, nil
		}
		if err != nil {
			return nil, err
		}
		if bytes.HasPrefix(line.Frame, []byte(`{"stream":"btcusdt@bookTicker"`)) != tickers {
			continue
		}
		if err := events.add(line); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
	}
}

// data has every field of the frames. encoding/json takes a key of the other case when a field has no such name of its
// own, so every pair is named.
type data struct {
	Kind      string              `json:"e"`
	EventTime int64               `json:"E"`
	From      int64               `json:"U"`
	To        int64               `json:"u"`
	Bids      json.RawMessage     `json:"b"`
	BidSize   market.Decimal      `json:"B"`
	Asks      json.RawMessage     `json:"a"`
	AskSize   market.Decimal      `json:"A"`
	ID        int64               `json:"t"`
	TradeTime int64               `json:"T"`
	Price     market.Decimal      `json:"p"`
	Quantity  market.Decimal      `json:"q"`
	Maker     bool                `json:"m"`
	Ignore    bool                `json:"M"`
	LastID    int64               `json:"lastUpdateId"`
	AllBids   [][2]market.Decimal `json:"bids"`
	AllAsks   [][2]market.Decimal `json:"asks"`
}

func (e *Events) add(line recording.Line) error {
	var frame struct{ Data data }
	into := any(&frame)
	if bytes.HasPrefix(line.Frame, []byte(`{"lastUpdateId"`)) {
		into = &frame.Data
	}
	if err := json.Unmarshal(line.Frame, into); err != nil {
		return err
	}
	d := &frame.Data
	switch d.Kind {
	case "depthUpdate":
		var bids, asks [][2]market.Decimal
		if err := errors.Join(json.Unmarshal(d.Bids, &bids), json.Unmarshal(d.Asks, &asks)); err != nil {
			return err
		}
		e.Updates = append(e.Updates, market.DepthUpdate{
			FirstID: d.From, LastID: d.To, PrevID: d.From - 1, EventTime: millis(d.EventTime), RecvTime: line.RecvTime,
			Bids: levels(bids), Asks: levels(asks),
		})
	case "trade":
		t := market.Trade{
			ID: d.ID, EventTime: millis(d.TradeTime), SentTime: millis(d.EventTime), RecvTime: line.RecvTime,
			Price: d.Price, Quantity: d.Quantity, Side: market.Buy,
		}
		if d.Maker { // the buyer was the maker, so the taker sold
			t.Side = market.Sell
		}
		if d.Ignore {
			t.Flags = market.TradeFlagM
		}
		e.Trades = append(e.Trades, t)
	case "":
		if d.AllBids != nil {
			e.Snapshot = market.Snapshot{LastID: d.LastID, RecvTime: line.RecvTime, Bids: levels(d.AllBids), Asks: levels(d.AllAsks)}
			return nil
		}
		t := market.Ticker{UpdateID: d.To, Bid: market.Level{Quantity: d.BidSize}, Ask: market.Level{Quantity: d.AskSize}}
		if err := errors.Join(json.Unmarshal(d.Bids, &t.Bid.Price), json.Unmarshal(d.Asks, &t.Ask.Price)); err != nil {
			return err
		}
		e.Tickers = append(e.Tickers, t)
	default:
		return fmt.Errorf("event %q", d.Kind)
	}
	return nil
}

func millis(ms int64) market.Time { return market.Time(ms) * market.Time(time.Millisecond) }

func levels(pairs [][2]market.Decimal) []market.Level {
	out := make([]market.Level, len(pairs))
	for i, p := range pairs {
		out[i] = market.Level{Price: p[0], Quantity: p[1]}
	}
	return out
}
