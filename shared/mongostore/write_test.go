package mongostore

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/event"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"pgregory.net/rapid"

	"tapedeck/shared/market"
	"tapedeck/shared/mongostore/mongotest"
	"tapedeck/shared/storetest"
)

// refusedDocument is a block's document. One with an array as its _id is refused by every server, for good.
type refusedDocument struct {
	ID any `bson:"_id"`
}

func (d refusedDocument) key() string { key, _ := d.ID.(string); return key }

// TestWrites are the tests of writing that need a server, which they share: it takes long to start.
func TestWrites(t *testing.T) {
	mongotest.Run(t, func(t *testing.T, server *mongotest.Server) {
		for name, test := range map[string]func(*testing.T, *Store){
			"NothingBehindARefusedDocument": testNothingBehindARefusedDocument,
			"SomeAreThere":                  testSomeAreThere,
			"RefusedForGood":                testRefusedForGood,
		} {
			t.Run(name, func(t *testing.T) { test(t, mustOpen(t, server.URI, server.Database(t), nil)) })
		}
		t.Run("Interrupted", func(t *testing.T) { testInterrupted(t, server.URI, server.Database(t)) })
	})
}

func mustOpen(t *testing.T, uri, database string, monitor *event.CommandMonitor) *Store {
	t.Helper()
	s, err := open(uri, database, Recorder, monitor)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close(context.WithoutCancel(t.Context())) })
	return s
}

// testInterrupted ends the context of a write at each of its commands in turn.
func testInterrupted(t *testing.T, uri, database string) {
	steps := storetest.RunInterrupted(t, mustOpen(t, uri, database, nil), func(step int, batch *market.Batch) error {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		writes := 0
		s := mustOpen(t, uri, database, &event.CommandMonitor{Started: func(_ context.Context, e *event.CommandStartedEvent) {
			if e.CommandName != "insert" && e.CommandName != "update" {
				return
			}
			if writes == step {
				cancel()
			}
			writes++
		}})
		return s.Write(ctx, batch)
	})
	if collections := 6; steps < collections {
		t.Errorf("a batch of every kind of record was written in %d steps", steps)
	}
}

func testNothingBehindARefusedDocument(t *testing.T, s *Store) {
	ids := []string{"a", "there", "b", "there too", "refused", "behind"}
	if _, err := s.blocks.InsertMany(t.Context(), []refusedDocument{{ID: ids[1]}, {ID: ids[3]}}); err != nil {
		t.Fatal(err)
	}
	document := func(id *string) refusedDocument {
		if *id == "refused" {
			return refusedDocument{ID: bson.A{*id}}
		}
		return refusedDocument{ID: *id}
	}
	for range 2 {
		err := insert(t.Context(), s.blocks, ids, document, func(*string) int { return 1 })
		if market.KindOf(err) != market.KindInvalid {
			t.Errorf("error %v is of kind %q", err, market.KindOf(err))
		}
		for i, id := range ids {
			n, err := s.blocks.CountDocuments(t.Context(), bson.D{{Key: "_id", Value: id}})
			if want := i < 4; err != nil || (n == 1) != want {
				t.Errorf("document %q is stored %d times (error %v)", id, n, err)
			}
		}
	}
}

// testSomeAreThere writes blocks of which some are there, as they are when two recorders write to one store.
func testSomeAreThere(t *testing.T, s *Store) {
	blocks := make([]market.Block, 100)
	for i := range blocks {
		id, at := int64(i), market.Time(i+1)*1e9
		blocks[i] = market.Block{
			Series: series, FirstID: id, LastID: id, PrevID: id - 1, Start: at, End: at, Events: 1, Data: []byte{1},
		}
	}
	for name, there := range map[string]func(i int) bool{
		"none": func(int) bool { return false }, "all": func(int) bool { return true },
		"the first": func(i int) bool { return i == 0 }, "the last": func(i int) bool { return i == 99 },
		"every third": func(i int) bool { return i%3 == 0 },
	} {
		if _, err := s.blocks.DeleteMany(t.Context(), bson.D{}); err != nil {
			t.Fatal(err)
		}
		batch := &market.Batch{}
		for i, b := range blocks {
			if there(i) {
				batch.Blocks = append(batch.Blocks, b)
			}
		}
		for _, b := range []*market.Batch{batch, {Blocks: blocks}} {
			if err := s.Write(t.Context(), b); err != nil {
				t.Fatal(err)
			}
		}
		got, err := s.Blocks(t.Context(), market.BlockQuery{Series: series, To: 1e12, Limit: 1000})
		if err != nil || len(got) != len(blocks) {
			t.Errorf("%s: %d blocks, error %v", name, len(got), err)
		}
	}
}

// testRefusedForGood has a real server refuse records, each for a reason that it has: MongoDB by a validator, which
// FerretDB stores and ignores, and FerretDB by the length of a key, which MongoDB does not bound.
func testRefusedForGood(t *testing.T, s *Store) {
	err := s.blocks.Database().CreateCollection(t.Context(), "listings", options.CreateCollection().
		SetValidator(bson.D{{Key: "status", Value: bson.D{{Key: "$ne", Value: "HALT"}}}}))
	if err != nil {
		t.Fatal(err)
	}
	var long strings.Builder // compresses badly
	for i := range 20_000 {
		fmt.Fprintf(&long, "%x", i*7919)
	}
	for name, c := range map[string]struct {
		batch *market.Batch
		kind  market.Kind
	}{
		"validator": {
			&market.Batch{Listings: []market.Listing{{Market: series.Market, Status: "HALT"}}}, market.KindInvalid,
		},
		"long key": {
			&market.Batch{Statuses: []market.RecorderStatus{{Recorder: long.String()}}}, market.KindTooLarge,
		},
	} {
		t.Run(name, func(t *testing.T) {
			err := s.Write(t.Context(), c.batch)
			if err == nil {
				t.Skip("this server takes such a record: MongoDB has no bound of keys, FerretDB no validators")
			}
			if market.KindOf(err) != c.kind {
				t.Errorf("error %v is of kind %q", err, market.KindOf(err))
			}
		})
	}
}

// TestSplitLedger: written twice or in another order, the entries name the same ids as those written once in the batch's
// own, and call the same held. Only where one names more ids than an earlier one of its key that called its own held,
// which no recorder writes, their ends may differ.
func TestSplitLedger(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		gaps := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) market.Gap {
			first := rapid.Int64Range(1, 3).Draw(t, "first")
			g := market.Gap{
				Series: series, Cause: market.CauseStall, FirstID: first, LastID: first + rapid.Int64Range(0, 3).Draw(t, "more"),
				Start: 1, End: market.Time(rapid.Int64Range(1, 100).Draw(t, "end")),
				Repair: rapid.SampledFrom([]market.Repair{"", market.RepairResumed, market.RepairBackfilled}).Draw(t, "repair"),
			}
			if g.Repair != "" {
				g.RepairedAt = 1
			}
			return g
		}), 0, 8).Draw(t, "gaps")
		before, after := splitLedger(slices.Clone(gaps))
		for _, g := range before {
			if g.Repair == market.RepairBackfilled {
				t.Fatalf("before the blocks: %+v", g)
			}
		}
		stored := func(batches ...[]market.Gap) []market.Gap {
			s := storetest.NewMemory()
			for _, gaps := range batches {
				if err := s.Write(context.Background(), &market.Batch{Gaps: gaps}); err != nil {
					t.Fatal(err)
				}
			}
			all, err := s.Gaps(context.Background(), market.GapQuery{Market: series.Market, To: 2, Limit: 100})
			if err != nil {
				t.Fatal(err)
			}
			return all
		}
		want, got := stored(gaps), stored(before, after)
		if !slices.EqualFunc(want, got, func(a, b market.Gap) bool {
			return a.Key() == b.Key() && a.LastID == b.LastID &&
				(a.Repair == market.RepairBackfilled) == (b.Repair == market.RepairBackfilled)
		}) {
			t.Fatalf("%+v, want %+v", got, want)
		}
		if !outgrown(gaps) && !slices.Equal(want, got) {
			t.Fatalf("%+v, want %+v", got, want)
		}
	})
}

// outgrown reports whether an entry names more ids than an earlier one of its key that calls its own held.
func outgrown(gaps []market.Gap) bool {
	for i, g := range gaps {
		if g.Repair == market.RepairBackfilled && slices.ContainsFunc(gaps[i+1:], func(later market.Gap) bool {
			return later.Key() == g.Key() && later.LastID > g.LastID
		}) {
			return true
		}
	}
	return false
}
