package mongostore

import (
	"cmp"
	"math"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
	"pgregory.net/rapid"

	"tapedeck/shared/market"
)

func TestKeysSortAsWhatTheyName(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		number := rapid.OneOf(rapid.Int64Range(0, 300), rapid.Int64Range(0, math.MaxInt64))
		key := func() market.BlockKey {
			first, last := number.Draw(t, "first"), number.Draw(t, "last")
			return market.BlockKey{
				Start:   market.Time(rapid.Int64Range(0, 2).Draw(t, "start")),
				FirstID: min(first, last), LastID: max(first, last),
			}
		}
		a, b := key(), key()
		want := cmp.Or(cmp.Compare(a.Start, b.Start), cmp.Compare(a.FirstID, b.FirstID), cmp.Compare(a.LastID, b.LastID))
		if got := strings.Compare(blockKey(series, a), blockKey(series, b)); got != want {
			t.Fatalf("%s and %s compare as %d, want %d", blockKey(series, a), blockKey(series, b), got, want)
		}
	})
}

// TestBlockOverhead keeps a block's document small beside its data, of which there are about 1,200 bytes for ten events.
func TestBlockOverhead(t *testing.T) {
	b := market.Block{
		Series: series, FirstID: 50093696318, LastID: 50093696818, PrevID: 50093696317, SpanID: 50092000000,
		Start: 1723075200123e6, End: 1723075200923e6, Events: 10, Data: make([]byte, 1200),
	}
	document, err := bson.Marshal(newBlockDocument(&b))
	if err != nil {
		t.Fatal(err)
	}
	const most = 170
	if overhead := len(document) - len(b.Data); overhead > most {
		t.Errorf("%d bytes beside the data, at most %d are allowed: %v", overhead, most, bson.Raw(document))
	} else {
		t.Logf("%d bytes beside the data", overhead)
	}
}
