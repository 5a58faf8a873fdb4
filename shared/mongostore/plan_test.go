package mongostore

import (
	"context"
	"slices"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/event"

	"tapedeck/shared/market"
	"tapedeck/shared/mongostore/mongotest"
)

// TestQueriesUseIndexes asks the server how it runs each query that the store has sent.
func TestQueriesUseIndexes(t *testing.T) {
	mongotest.Run(t, func(t *testing.T, server *mongotest.Server) {
		var sent []bson.Raw
		database := server.Database(t)
		s, err := open(server.URI, database, Recorder, &event.CommandMonitor{
			Started: func(_ context.Context, e *event.CommandStartedEvent) {
				if e.CommandName == "find" {
					sent = append(sent, slices.Clone(e.Command))
				}
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close(context.WithoutCancel(t.Context())) })
		fill(t, s)
		ask(t, s)
		if len(sent) < 9 {
			t.Fatalf("%d queries were sent", len(sent))
		}
		for _, find := range sent {
			plan := explain(t, s, database, find)
			scans, reads := strings.Contains(plan, "COLLSCAN") || strings.Contains(plan, "Seq Scan"),
				strings.Contains(plan, "IXSCAN") || strings.Contains(plan, "Index Scan") || strings.Contains(plan, "IDHACK")
			if scans || !reads {
				t.Errorf("%v\nis not served by an index:\n%s", find, plan)
			}
			// Only ledgers, which are short, may be sorted after the index.
			of := find.Lookup("find").StringValue()
			if of != "spans" && of != "gaps" && strings.Contains(plan, `"stage": "SORT"`) {
				t.Errorf("%v\nis sorted:\n%s", find, plan)
			}
		}
	})
}

var series = market.Series{Market: market.Market{Exchange: market.Binance, Symbol: "BTCUSDT"}, Stream: market.Depth}

func fill(t *testing.T, s *Store) {
	t.Helper()
	for minute := range int64(10) {
		var batch market.Batch
		for i := minute * 60; i < minute*60+60; i++ {
			at := market.Time((i + 1) * 1e9)
			batch.Blocks = append(batch.Blocks, market.Block{
				Series: series, FirstID: i * 10, LastID: i*10 + 9, PrevID: i*10 - 1, Start: at, End: at, Events: 1, Data: []byte{1},
			})
			batch.Keyframes = append(batch.Keyframes, market.Keyframe{
				Market: series.Market, UpdateID: i, EventTime: at, Data: []byte{1},
			})
			batch.Spans = append(batch.Spans, market.Span{Series: series, FirstID: i, PrevID: i - 1, LastID: i, Start: at, End: at})
			batch.Gaps = append(batch.Gaps, market.Gap{Series: series, Cause: market.CauseRestart, FirstID: i, LastID: i, Start: at, End: at})
		}
		if err := s.Write(t.Context(), &batch); err != nil {
			t.Fatal(err)
		}
	}
}

func ask(t *testing.T, s *Store) {
	t.Helper()
	ctx, from, to := t.Context(), market.Time(100e9), market.Time(110e9)
	_, tailErr := s.Tail(ctx, series)
	_, blocksErr := s.Blocks(ctx, market.BlockQuery{Series: series, From: from, To: to, Limit: 5})
	_, afterErr := s.Blocks(ctx, market.BlockQuery{
		Series: series, From: from, To: to, Limit: 5, After: market.BlockKey{Start: from, FirstID: 990, LastID: 999},
	})
	_, byIDErr := s.BlockByID(ctx, series, 500)
	_, frameErr := s.Keyframe(ctx, series.Market, from)
	_, spansErr := s.Spans(ctx, series, from, to, 5)
	_, gapsErr := s.Gaps(ctx, market.GapQuery{Market: series.Market, From: from, To: to, Limit: 5})
	_, someErr := s.Gaps(ctx, market.GapQuery{
		Market: series.Market, Stream: market.Depth, Cause: market.CauseRestart, From: from, To: to, Limit: 5,
	})
	_, noneErr := s.BlockByID(ctx, series, 1<<40)
	if market.KindOf(noneErr) != market.KindNotFound {
		t.Errorf("BlockByID behind the last: %v", noneErr)
	}
	for _, err := range []error{tailErr, blocksErr, afterErr, byIDErr, frameErr, spansErr, gapsErr, someErr} {
		if err != nil {
			t.Error(err)
		}
	}
}

// explain returns the server's plan for a find command.
func explain(t *testing.T, s *Store, database string, find bson.Raw) string {
	t.Helper()
	elements, err := find.Elements()
	if err != nil {
		t.Fatal(err)
	}
	var command bson.D
	for _, e := range elements {
		if k := e.Key(); k != "lsid" && k != "$db" && k != "$clusterTime" && k != "batchSize" && k != "$readPreference" {
			command = append(command, bson.E{Key: k, Value: e.Value()})
		}
	}
	var plan bson.Raw
	err = s.client.Database(database).RunCommand(t.Context(), bson.D{{Key: "explain", Value: command}}).Decode(&plan)
	if err != nil {
		t.Fatalf("explain %v: %v", command, err)
	}
	return plan.String()
}

// TestStoredGarbage reads documents that the store did not write.
func TestStoredGarbage(t *testing.T) {
	mongotest.Run(t, func(t *testing.T, server *mongotest.Server) {
		s, err := Open(t.Context(), server.URI, server.Database(t), Function)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close(context.WithoutCancel(t.Context())) })
		at := "binance/BTCUSDT/depth/0000000000000001/"
		for name, document := range map[string]bson.D{
			"no id":              {{Key: "_id", Value: at}},
			"bad id":             {{Key: "_id", Value: at + "2f/0"}},
			"another last id":    {{Key: "_id", Value: at + "15/10"}, {Key: "last", Value: int64(9)}},
			"a number as a text": {{Key: "_id", Value: at + "15/10"}, {Key: "last", Value: "5"}},
			"data as text":       {{Key: "_id", Value: at + "15/10"}, {Key: "last", Value: int64(5)}, {Key: "data", Value: 7}},
		} {
			if _, err := s.blocks.InsertOne(t.Context(), document); err != nil {
				t.Fatal(err)
			}
			_, err := s.Blocks(t.Context(), market.BlockQuery{Series: series, To: 1e9, Limit: 10})
			if market.KindOf(err) != market.KindCorrupt {
				t.Errorf("%s: error %v is of kind %q", name, err, market.KindOf(err))
			}
			if _, err := s.blocks.DeleteMany(t.Context(), bson.D{}); err != nil {
				t.Fatal(err)
			}
		}
	})
}
