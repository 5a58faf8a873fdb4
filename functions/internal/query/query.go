// Package query holds the use cases of the read side: the book at any moment with its proof, trades, what is recorded
// and what is missing. It declares the Reader it needs, knows nothing of HTTP, and keeps nothing between calls. Errors
// that a caller may show are of the types UnknownMarket, NoData and DataGap; all others are classified by market.Kind.
package query

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"tapedeck/shared/market"
)

// Reader is the part of a store that the use cases read. Package storetest states what each method promises.
type Reader interface {
	Ping(ctx context.Context) error
	Tail(ctx context.Context, series market.Series) (market.Block, error)
	Blocks(ctx context.Context, query market.BlockQuery) ([]market.Block, error)
	BlockByID(ctx context.Context, series market.Series, id int64) (market.Block, error)
	Keyframe(ctx context.Context, m market.Market, at market.Time) (market.Keyframe, error)
	Spans(ctx context.Context, series market.Series, from, to market.Time, limit int) ([]market.Span, error)
	Gaps(ctx context.Context, query market.GapQuery) ([]market.Gap, error)
	Listings(ctx context.Context) ([]market.Listing, error)
	Recorders(ctx context.Context) ([]market.RecorderStatus, error)
}

// Bounds of one question.
const (
	maxSpans = 10_000
	maxGaps  = 10_000
	// maxBlocks bounds the blocks that are read for one stretch of time, as an answer nearly always is. A recorder writes a keyframe every 128 blocks, so a book
	// needs hardly more than that for each recorder.
	maxBlocks = 8192
)

// endOfTime is later than every event: the bound of market.ParseTime.
var endOfTime = market.TimeOf(time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC))

// Service answers questions from one store. It is safe for concurrent use.
type Service struct {
	reader Reader
	now    func() time.Time
}

// New returns a Service over a store; now is the clock that freshness is judged by (time.Now outside tests).
func New(reader Reader, now func() time.Time) *Service { return &Service{reader: reader, now: now} }

func (s *Service) clock() market.Time { return market.TimeOf(s.now()) }

// UnknownMarket says that nothing has ever been recorded of a market, and that no recorder lists it.
type UnknownMarket struct{ Market market.Market }

// Error implements error.
func (e *UnknownMarket) Error() string { return fmt.Sprintf("market %v is not recorded", e.Market) }

// NoData says that the market is known but nothing is held for what was asked. Earliest and Latest are the first and
// last event times held; both 0 when there is nothing at all.
type NoData struct{ Earliest, Latest market.Time }

// Error implements error.
func (e *NoData) Error() string {
	return fmt.Sprintf("no data: held are %v to %v", e.Earliest, e.Latest)
}

// DataGap refuses a strict question, because something is missing or not known to be complete. Before and After are
// the nearest instants with a complete answer, 0 when there is none. Gaps is what is known to be missing.
type DataGap struct {
	Before, After market.Time
	Gaps          []market.Gap
}

// Error implements error.
func (e *DataGap) Error() string { return "the recording is not complete there" }

func tooWide(limit int, what string) error {
	return market.Errorf(market.KindTooLarge, "more than the most that one answer is made of: %d %s", limit, what)
}

func isNotFound(err error) bool { return market.KindOf(err) == market.KindNotFound }

// known returns nil when the market is listed by a recorder or something of it is stored, else UnknownMarket.
func (s *Service) known(ctx context.Context, m market.Market) error {
	markets, err := s.markets(ctx)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(markets, func(l market.Listing) bool { return l.Market == m }) {
		return nil
	}
	for _, stream := range []market.Stream{market.Depth, market.Trades} {
		_, err := s.reader.Tail(ctx, market.Series{Market: m, Stream: stream})
		if !isNotFound(err) {
			return err
		}
	}
	return market.Errorf(market.KindNotFound, "%w", &UnknownMarket{Market: m})
}

// markets returns a listing of every market that a recorder has listed or says that it records.
func (s *Service) markets(ctx context.Context) ([]market.Listing, error) {
	listings, err := s.reader.Listings(ctx)
	if err != nil {
		return nil, err
	}
	recorders, err := s.reader.Recorders(ctx)
	if err != nil {
		return nil, err
	}
	seen := make(map[market.Market]bool, len(listings))
	for _, l := range listings {
		seen[l.Market] = true
	}
	for _, r := range recorders {
		for _, m := range r.Markets {
			if !seen[m.Market] {
				seen[m.Market] = true
				listings = append(listings, market.Listing{Market: m.Market})
			}
		}
	}
	slices.SortFunc(listings, func(a, b market.Listing) int { return compareMarkets(a.Market, b.Market) })
	return listings, nil
}

// held returns the first span and the last block of a series; false when nothing is held.
func (s *Service) held(ctx context.Context, series market.Series) (first market.Span, last market.Block, ok bool, err error) {
	spans, err := s.reader.Spans(ctx, series, 0, endOfTime, 1)
	if err != nil || len(spans) == 0 {
		return first, last, false, err
	}
	last, err = s.reader.Tail(ctx, series)
	if isNotFound(err) {
		return first, last, false, nil
	}
	return spans[0], last, err == nil, err
}

// noData explains why there is no answer: UnknownMarket, or NoData with the times held.
func (s *Service) noData(ctx context.Context, series market.Series) error {
	if err := s.known(ctx, series.Market); err != nil {
		return err
	}
	first, last, ok, err := s.held(ctx, series)
	if err != nil {
		return err
	}
	missing := &NoData{}
	if ok {
		missing.Earliest, missing.Latest = first.Start, last.End
	}
	return market.Errorf(market.KindNotFound, "%w", missing)
}

func compareMarkets(a, b market.Market) int {
	return cmp.Or(cmp.Compare(a.Exchange, b.Exchange), cmp.Compare(a.Symbol, b.Symbol))
}

// Settled reports whether at lies more than d in the past.
func (s *Service) Settled(at market.Time, d time.Duration) bool { return s.clock().Sub(at) > d }
