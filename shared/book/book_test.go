package book

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"tapedeck/shared/market"
)

func levels(pairs ...int64) []market.Level {
	var out []market.Level
	for i := 0; i < len(pairs); i += 2 {
		out = append(out, market.Level{Price: market.Decimal(pairs[i]), Quantity: market.Decimal(pairs[i+1])})
	}
	return out
}

func TestApplyFollowsTheExchangesRule(t *testing.T) {
	for _, c := range []struct {
		name              string
		prev, first, last int64
		want              Verdict
		wantID            int64
	}{
		{"older", 90, 91, 99, Stale, 100},
		{"ends at the book's id", 90, 91, 100, Stale, 100},
		{"continues", 100, 101, 105, Applied, 105},
		{"continues by one id", 100, 101, 101, Applied, 101},
		{"overlaps", 95, 96, 103, Applied, 103},
		{"one id missing", 101, 102, 103, Gap, 100},
		{"many ids missing", 200, 201, 203, Gap, 100},
		{"futures: ids jump, pu continues", 100, 5000, 5005, Applied, 5005},
		{"futures: pu before the snapshot", 93, 94, 101, Applied, 101},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := New()
			b.Reset(100, levels(10, 1), levels(20, 1))
			u := market.DepthUpdate{PrevID: c.prev, FirstID: c.first, LastID: c.last, Bids: levels(11, 7)}
			if got := b.Apply(&u); got != c.want {
				t.Errorf("verdict %v, want %v", got, c.want)
			}
			if b.LastID() != c.wantID {
				t.Errorf("id %d, want %d", b.LastID(), c.wantID)
			}
			best, _ := b.BestBid()
			if changed := best == levels(11, 7)[0]; changed != (c.want == Applied) {
				t.Errorf("best bid %v after %v", best, c.want)
			}
		})
	}
}

func TestNothingAppliesBeforeReset(t *testing.T) {
	b := New()
	u := market.DepthUpdate{PrevID: -1, FirstID: 0, LastID: 5, Bids: levels(11, 7)}
	if got := b.Apply(&u); got != Gap || b.LastID() != -1 {
		t.Errorf("verdict %v, id %d", got, b.LastID())
	}
	b.Reset(0, nil, nil)
	u = market.DepthUpdate{PrevID: 0, FirstID: 1, LastID: 5, Bids: levels(11, 7)}
	if got := b.Apply(&u); got != Applied {
		t.Errorf("verdict %v after a reset to id 0", got)
	}
}

func TestCrossed(t *testing.T) {
	b := New()
	for _, c := range []struct {
		bids, asks []market.Level
		want       bool
	}{
		{nil, nil, false},
		{levels(10, 1), nil, false},
		{nil, levels(10, 1), false},
		{levels(10, 1), levels(11, 1), false},
		{levels(10, 1), levels(10, 1), true},
		{levels(12, 1), levels(11, 1), true},
	} {
		b.Reset(1, c.bids, c.asks)
		if b.Crossed() != c.want {
			t.Errorf("bids %v, asks %v: crossed %v", c.bids, c.asks, b.Crossed())
		}
	}
}

// TestOffTickPrice sets prices that need a finer grid than all before, as old orders do after a change of the tick.
func TestOffTickPrice(t *testing.T) {
	b := New()
	b.Reset(1, levels(61_000_00000000, 5, 60_999_00000000, 6), levels(61_001_00000000, 7))
	u := market.DepthUpdate{PrevID: 1, FirstID: 2, LastID: 2, Bids: levels(60_999_50000001, 8), Asks: levels(61_001_00000000, 0, 80_000_12345678, 24456630400)}
	if got := b.Apply(&u); got != Applied {
		t.Fatal(got)
	}
	want := levels(61_000_00000000, 5, 60_999_50000001, 8, 60_999_00000000, 6)
	if got := b.AppendBids(nil, -1); !slices.Equal(got, want) {
		t.Errorf("bids %v, want %v", got, want)
	}
	if got, want := b.AppendAsks(nil, -1), levels(80_000_12345678, 24456630400); !slices.Equal(got, want) {
		t.Errorf("asks %v, want %v", got, want)
	}
}

// model is the book as one would write it on a page: maps and a sort.
type model struct {
	bids, asks map[market.Decimal]market.Decimal
}

func (m *model) set(side map[market.Decimal]market.Decimal, ls []market.Level) {
	for _, l := range ls {
		if l.Quantity == 0 {
			delete(side, l.Price)
		} else {
			side[l.Price] = l.Quantity
		}
	}
}

func sorted(side map[market.Decimal]market.Decimal, bestFirst int) []market.Level {
	out := make([]market.Level, 0, len(side))
	for p, q := range side {
		out = append(out, market.Level{Price: p, Quantity: q})
	}
	slices.SortFunc(out, func(a, b market.Level) int { return bestFirst * int(a.Price-b.Price) })
	return out
}

// TestAgainstModel draws prices from several grids, so that pages fill, empty and are rebuilt on finer units.
func TestAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func(label string) []market.Level {
			price := rapid.OneOf(rapid.Int64Range(1, 40), rapid.Int64Range(900, 1100),
				rapid.Map(rapid.Int64Range(1, 1<<20), func(v int64) int64 { return v * 1000 }))
			return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) market.Level {
				return market.Level{
					Price:    market.Decimal(price.Draw(t, "price")),
					Quantity: market.Decimal(max(0, rapid.Int64Range(-3, 5).Draw(t, "quantity"))),
				}
			}), 0, 30).Draw(t, label)
		}
		b, m := New(), &model{}
		id := int64(0)
		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) {
				if m.bids == nil {
					return
				}
				bids, asks := sorted(m.bids, -1), sorted(m.asks, 1)
				n := rapid.IntRange(-1, 50).Draw(t, "n")
				cut := func(ls []market.Level) []market.Level {
					if n >= 0 && n < len(ls) {
						return ls[:n]
					}
					return ls
				}
				if got := b.AppendBids(nil, n); !slices.Equal(got, cut(bids)) {
					t.Fatalf("bids %v, want %v", got, cut(bids))
				}
				if got := b.AppendAsks(nil, n); !slices.Equal(got, cut(asks)) {
					t.Fatalf("asks %v, want %v", got, cut(asks))
				}
				checkEdges(t, b, bids, asks)
			},
			"reset": func(t *rapid.T) {
				bids, asks := draw("bids"), draw("asks")
				id++
				b.Reset(id, bids, asks)
				m.bids, m.asks = map[market.Decimal]market.Decimal{}, map[market.Decimal]market.Decimal{}
				slices.Reverse(bids) // of two levels with one price the first counts
				slices.Reverse(asks)
				m.set(m.bids, bids)
				m.set(m.asks, asks)
			},
			"apply": func(t *rapid.T) {
				if m.bids == nil {
					t.Skip("no book yet")
				}
				u := market.DepthUpdate{PrevID: id, FirstID: id + 1, LastID: id + 2, Bids: draw("bids"), Asks: draw("asks")}
				id += 2
				if got := b.Apply(&u); got != Applied {
					t.Fatalf("verdict %v", got)
				}
				m.set(m.bids, u.Bids)
				m.set(m.asks, u.Asks)
			},
		})
	})
}

func checkEdges(t *rapid.T, b *Book, bids, asks []market.Level) {
	if nb, na := b.Len(); nb != len(bids) || na != len(asks) {
		t.Fatalf("lengths %d, %d, want %d, %d", nb, na, len(bids), len(asks))
	}
	bound := market.Decimal(rapid.Int64Range(0, 1200).Draw(t, "bound"))
	count := func(ls []market.Level, ok func(market.Decimal) bool) (n int) {
		for _, l := range ls {
			if ok(l.Price) {
				n++
			}
		}
		return n
	}
	if got, want := b.CountBids(bound), count(bids, func(p market.Decimal) bool { return p >= bound }); got != want {
		t.Fatalf("bids at or above %d: %d, want %d", bound, got, want)
	}
	if got, want := b.CountAsks(bound), count(asks, func(p market.Decimal) bool { return p <= bound }); got != want {
		t.Fatalf("asks at or below %d: %d, want %d", bound, got, want)
	}
	best := func(ls []market.Level) (market.Level, bool) {
		if len(ls) == 0 {
			return market.Level{}, false
		}
		return ls[0], true
	}
	for _, c := range []struct {
		got    func() (market.Level, bool)
		levels []market.Level
	}{{b.BestBid, bids}, {b.BestAsk, asks}} {
		got, ok := c.got()
		if want, wantOK := best(c.levels); got != want || ok != wantOK {
			t.Fatalf("best %v %v, want %v %v", got, ok, want, wantOK)
		}
	}
}

func ExampleBook_Digest() {
	b := New()
	b.Reset(1, levels(100, 1), levels(200, 2))
	fmt.Println(b.Digest(1000))
	// Output: b040351a9665ca47
}
