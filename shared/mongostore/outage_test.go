package mongostore_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"tapedeck/shared/market"
	"tapedeck/shared/mongostore"
	"tapedeck/shared/mongostore/mongotest"
)

func batchOf(first int64) *market.Batch {
	at := market.Time(first+1) * 1e9
	return &market.Batch{Blocks: []market.Block{{
		Series:  market.Series{Market: market.Market{Exchange: market.Binance, Symbol: "BTCUSDT"}, Stream: market.Trades},
		FirstID: first, LastID: first, PrevID: first - 1, Start: at, End: at, Events: 1, Data: []byte{1},
	}}}
}

// TestOutage takes the server away between writes, in two ways. Nothing acknowledged may be gone afterwards, and the same
// Store goes on.
func TestOutage(t *testing.T) {
	mongotest.Run(t, func(t *testing.T, server *mongotest.Server) {
		s := mustOpen(t, server.URI, server.Database(t))
		t.Cleanup(func() { s.Close(context.WithoutCancel(t.Context())) })
		write := func(first int64, patience time.Duration) error {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			return s.Write(ctx, batchOf(first))
		}
		wantWritten := func(first int64) {
			t.Helper()
			if err := write(first, 20*time.Second); err != nil {
				t.Fatalf("Write %d: %v", first, err)
			}
		}
		wantUnavailable := func(err error) {
			t.Helper()
			if market.KindOf(err) != market.KindUnavailable {
				t.Errorf("error %v is of kind %q", err, market.KindOf(err))
			}
		}
		wantWritten(0)

		server.Pause(t)
		wantUnavailable(write(1, time.Second))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := s.Ping(ctx)
		wantUnavailable(err)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Ping with a deadline: %v", err)
		}
		server.Unpause(t)
		wantWritten(1)

		server.Kill(t)
		wantUnavailable(write(2, time.Second))
		server.Restart(t)
		wantWritten(2)
		blocks, err := s.Blocks(t.Context(), market.BlockQuery{Series: batchOf(0).Blocks[0].Series, To: 1e12, Limit: 9})
		if err != nil || len(blocks) != 3 {
			t.Errorf("%d blocks, error %v", len(blocks), err)
		}
	})
}

func TestNobodyThere(t *testing.T) {
	s, err := mongostore.Open(t.Context(), "mongodb://127.0.0.1:1", "tapedeck", mongostore.Function)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(t.Context())
	if err := s.Ping(t.Context()); market.KindOf(err) != market.KindUnavailable {
		t.Errorf("error %v is of kind %q", err, market.KindOf(err))
	}
}
