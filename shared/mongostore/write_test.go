package mongostore

import (
	"context"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"

	"tapedeck/shared/market"
	"tapedeck/shared/mongostore/mongotest"
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
		} {
			t.Run(name, func(t *testing.T) {
				s, err := Open(t.Context(), server.URI, server.Database(t), Recorder)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { s.Close(context.WithoutCancel(t.Context())) })
				test(t, s)
			})
		}
	})
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
		if err := insert(t.Context(), s.blocks, ids, document, func(*string) int { return 1 }); err == nil {
			t.Error("nothing was refused")
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
