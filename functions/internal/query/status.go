package query

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"

	"tapedeck/shared/market"
)

// MarketInfo is what is known and held of a market. Times and ids are of the depth stream, 0 when nothing is held.
type MarketInfo struct {
	market.Listing
	FirstEvent, LastEvent market.Time
	FirstID, LastID       int64
}

// marketsAtOnce bounds how many markets are looked up at the same time.
const marketsAtOnce = 8

// Markets returns every market that is listed or recorded, ordered by exchange and symbol.
func (s *Service) Markets(ctx context.Context) (infos []MarketInfo, err error) {
	defer market.Wrap(&err, "Markets()")
	listings, err := s.markets(ctx)
	if err != nil {
		return nil, err
	}
	infos = make([]MarketInfo, len(listings))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(marketsAtOnce)
	for i := range listings {
		group.Go(func() error {
			infos[i].Listing = listings[i]
			first, last, ok, err := s.held(ctx, market.Series{Market: listings[i].Market, Stream: market.Depth})
			if ok {
				infos[i].FirstEvent, infos[i].FirstID = first.Start, first.FirstID
				infos[i].LastEvent, infos[i].LastID = last.End, last.LastID
			}
			return err
		})
	}
	return infos, group.Wait()
}

// RecorderState is what can be said of a recorder now.
type RecorderState string

// The states of a recorder.
const (
	Running RecorderState = "running" // it was heard of within the last 15 seconds
	Silent  RecorderState = "silent"  // it was not, and had not said that it would stop
	Stopped RecorderState = "stopped" // it said that it was stopping
)

// RecorderInfo is a recorder's last word, judged by the clock.
type RecorderInfo struct {
	market.RecorderStatus
	State RecorderState
	Lags  []time.Duration // for each of Markets: since its last frame was received
}

// Status is the state of the system.
type Status struct {
	Recorders []RecorderInfo
	Ping      time.Duration // how long the store took to answer
}

// Status asks the store whether it answers, and who records into it.
func (s *Service) Status(ctx context.Context) (status *Status, err error) {
	defer market.Wrap(&err, "Status()")
	begin := s.now()
	if err := s.reader.Ping(ctx); err != nil {
		return nil, err
	}
	status = &Status{Ping: s.now().Sub(begin)}
	recorders, err := s.reader.Recorders(ctx)
	if err != nil {
		return nil, err
	}
	now := s.clock()
	for _, r := range recorders {
		info := RecorderInfo{RecorderStatus: r, State: Running}
		switch {
		case r.Stopped:
			info.State = Stopped
		case now.Sub(r.UpdatedAt) > vouchWindow:
			info.State = Silent
		}
		for _, m := range r.Markets {
			info.Lags = append(info.Lags, max(0, now.Sub(m.RecvTime)))
		}
		status.Recorders = append(status.Recorders, info)
	}
	return status, nil
}
