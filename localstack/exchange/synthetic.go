package exchange

import (
	"fmt"
	"io"
	"math/bits"
	"slices"
	"strings"
	"time"

	"tapedeck/shared/market"
)

// SyntheticConfig describes made-up markets.
type SyntheticConfig struct {
	Symbols []string // see SymbolNames
	Seed    uint64
	// Start is when the markets begin, on their own clock. Ids begin above all that markets of an earlier start have
	// used, so that a second run continues the first as far as ids tell. The default is 2026-01-01.
	Start market.Time
	// Duration is how long the markets live on their own clock; 0 = for ever.
	Duration time.Duration
	// Busy is how many of the markets, counted from the first, are as busy as BTCUSDT; 0 = all. Of those after it, the
	// next Busy markets are half as busy, the next 2*Busy a quarter, and so on down to a 64th.
	Busy int
	// Levels is about how many levels a side a book has; 0 = 2500.
	Levels int
}

const (
	defaultLevels = 2500
	maxQuietness  = 6
	// slot is how often a changed book is shown on <symbol>@depth@100ms, and second on <symbol>@depth.
	slot   = 100 * time.Millisecond
	second = time.Second
)

var defaultStart = market.TimeOf(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))

// SymbolNames returns n names: "SYN001USDT", "SYN002USDT", …
func SymbolNames(n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("SYN%03dUSDT", i+1)
	}
	return names
}

// Synthetic is a source of made-up markets, each with the streams @depth@100ms, @depth, @trade and @bookTicker. The
// same configuration makes the same frames. Markets do what a recording of BTCUSDT shows: depth updates ten times a
// second with 46 changed levels on average but 22 in the median and up to a thousand, nearly half of them removals,
// most of them near the best price; trades in bursts; about 2500 levels a side; update ids without a gap; never a
// crossed book. A snapshot may fall between two depth updates, into the ids of the second one, as on the exchange.
type Synthetic struct {
	markets  []*syntheticMarket // a heap by the time of the next step
	bySymbol map[string]*syntheticMarket
	listings []market.Listing
	clock    market.Time
	frame    []byte // reused
}

// NewSynthetic returns the markets that cfg describes. The error is of kind market.KindInvalid.
func NewSynthetic(cfg SyntheticConfig) (*Synthetic, error) {
	if len(cfg.Symbols) == 0 {
		return nil, market.Errorf(market.KindInvalid, "synthetic markets: no symbol named")
	}
	if cfg.Start == 0 {
		cfg.Start = defaultStart
	}
	if cfg.Levels == 0 {
		cfg.Levels = defaultLevels
	}
	if cfg.Levels < minLevels || cfg.Levels > maxLevels {
		return nil, market.Errorf(market.KindInvalid, "synthetic markets: levels %d not in %d to %d",
			cfg.Levels, minLevels, maxLevels)
	}
	if cfg.Busy <= 0 {
		cfg.Busy = len(cfg.Symbols)
	}
	cfg.Start = cfg.Start.Truncate(time.Millisecond)
	s := &Synthetic{bySymbol: map[string]*syntheticMarket{}, clock: cfg.Start}
	for i, symbol := range cfg.Symbols {
		m, err := market.New(market.Binance, symbol)
		if err != nil {
			return nil, err
		}
		if s.bySymbol[m.Symbol] != nil {
			return nil, market.Errorf(market.KindInvalid, "synthetic markets: %s is named twice", m.Symbol)
		}
		quietness := min(bits.Len(uint(i/cfg.Busy)), maxQuietness)
		made := newSyntheticMarket(m.Symbol, i, quietness, &cfg)
		s.bySymbol[m.Symbol] = made
		s.markets = append(s.markets, made)
		s.listings = append(s.listings, market.Listing{
			Market: m, Status: "TRADING", TickSize: made.tick, LotSize: made.lot, UpdatedAt: cfg.Start,
		})
	}
	slices.SortFunc(s.listings, func(a, b market.Listing) int {
		return strings.Compare(a.Market.Symbol, b.Market.Symbol)
	})
	for i := len(s.markets)/2 - 1; i >= 0; i-- {
		s.sink(i)
	}
	return s, nil
}

// Due returns when the next market does something.
func (s *Synthetic) Due() (market.Time, error) {
	if next := s.markets[0].next; next != never {
		return next, nil
	}
	return 0, io.EOF
}

// Step lets the market whose turn it is do something.
func (s *Synthetic) Step(emit func(Frame)) string {
	m := s.markets[0]
	s.clock = m.next
	s.frame = m.step(s.frame, emit)
	s.sink(0)
	return ""
}

// Book returns the book of a market as it is now.
func (s *Synthetic) Book(symbol string, limit int) (market.Snapshot, error) {
	m := s.bySymbol[symbol]
	if m == nil {
		return market.Snapshot{}, ErrUnknownSymbol
	}
	if limit < 0 {
		limit = len(m.book.lots)
	}
	return market.Snapshot{
		LastID: m.updateID, EventTime: s.clock,
		Bids: m.book.bids(limit, m.tick, m.lot), Asks: m.book.asks(limit, m.tick, m.lot),
	}, nil
}

// Trades returns the latest trades of a market.
func (s *Synthetic) Trades(symbol string) (*Trades, error) {
	m := s.bySymbol[symbol]
	if m == nil {
		return nil, ErrUnknownSymbol
	}
	return &m.latest, nil
}

// Pause stops a market at the end of its present tenth of a second, or lets it go on.
func (s *Synthetic) Pause(symbol string, on bool) error {
	m := s.bySymbol[symbol]
	switch {
	case m == nil:
		return market.Errorf(market.KindInvalid, "pause %s: %w", symbol, ErrUnknownSymbol)
	case on:
		m.pauses++
	case m.pauses > 0:
		m.pauses--
	}
	return nil
}

// Listings returns the markets.
func (s *Synthetic) Listings() []market.Listing { return s.listings }

// Time returns the markets' clock.
func (s *Synthetic) Time() market.Time { return s.clock }

// Watch makes a market show its book once a second while somebody listens.
func (s *Synthetic) Watch(stream string, on bool) {
	name, kind, _ := strings.Cut(stream, "@")
	if m := s.bySymbol[strings.ToUpper(name)]; m != nil && kind == "depth" {
		m.watchSeconds(on)
	}
}

// Stats returns zeros: made-up markets have no known number of frames, and none is broken.
func (s *Synthetic) Stats() SourceStats { return SourceStats{} }

// Close does nothing.
func (s *Synthetic) Close() error { return nil }

// sink moves the market at i down to its place in the heap. Markets of the same time go by their number, so that
// their order does not depend on what happened before.
func (s *Synthetic) sink(i int) {
	h := s.markets
	for {
		least := i
		for child := 2*i + 1; child <= 2*i+2 && child < len(h); child++ {
			if h[child].before(h[least]) {
				least = child
			}
		}
		if least == i {
			return
		}
		h[i], h[least] = h[least], h[i]
		i = least
	}
}
