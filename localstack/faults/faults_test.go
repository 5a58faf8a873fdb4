package faults

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tapedeck/shared/market"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Fault{
		"cut":                       {Kind: Cut},
		"cut@10s conn=2":            {Kind: Cut, At: 10 * time.Second, Conn: 2},
		"close":                     {Kind: Close, Status: 1001},
		"close every=1m times=3":    {Kind: Close, Every: time.Minute, Times: 3, Status: 1001},
		"drop@1m30s":                {Kind: Drop, At: 90 * time.Second, Count: 1},
		"drop for=2s stream=@TRADE": {Kind: Drop, For: 2 * time.Second, Stream: "@trade"},
		"drop for=2s count=5":       {Kind: Drop, For: 2 * time.Second, Count: 5},
		"stall@20s for=15s stream=SYN001USDT@trade": {
			Kind: Stall, At: 20 * time.Second, For: 15 * time.Second, Stream: "syn001usdt@trade", Until: UntilTime,
		},
		"clock by=-2s":             {Kind: Clock, By: -2 * time.Second},
		"market-break symbol=syn1": {Kind: MarketBreak, For: 30 * time.Second, Symbol: "SYN1"},
		"rest-status status=429 retry=3s endpoint=depth": {
			Kind: RESTStatus, For: 10 * time.Second, Status: 429, Retry: 3 * time.Second, Endpoint: "depth",
		},
		"frame-huge keep=true": {Kind: FrameHuge, Count: 1, Size: 10 << 20, Keep: true},
		"store-slow rate=9":    {Kind: StoreSlow, For: 10 * time.Second, Rate: 9},
	} {
		s, err := Parse(text)
		if err != nil || len(s.Faults) != 1 || s.Faults[0] != want {
			t.Errorf("%q: %+v (%v), want %+v", text, s.Faults, err, want)
		}
	}
}

func TestParseSeveral(t *testing.T) {
	t.Parallel()
	s, err := Parse(" cut@1s;;\t# a comment; drop\n\nrandom@5s seed=7 every=3s kinds=cut,drop side=exchange ; double count=2;\r\n")
	if err != nil {
		t.Fatal(err)
	}
	want := "cut@1s\ndouble@0s count=2\nrandom@5s seed=7 every=3s kinds=cut,drop side=exchange"
	if s.String() != want {
		t.Errorf("got\n%s\nwant\n%s", s, want)
	}
	if s.Empty() {
		t.Error("empty")
	}
	if s, err := Parse("# nothing"); err != nil || !s.Empty() {
		t.Errorf("nothing: %v, %v", s, err)
	}
}

func TestParseErrors(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"cutt":                                 `1:1: no fault is called "cutt"`,
		"cut; \n  drop; stal for=1s":           `2:9: no fault is called "stal"`,
		"cut@":                                 `1:5: "" is no time`,
		"cut@-1s":                              `1:5: "-1s" is no time`,
		" cut@soon":                            `1:6: "soon" is no time`,
		"cut count=3":                          `1:5: cut takes no count=`,
		"drop  count=x":                        `1:7: count=x:`,
		"drop count=-1":                        `1:1: drop: a number is negative`,
		"drop count=1 count=2":                 `1:14: count= stands twice`,
		"drop count":                           `1:6: "count" is not key=value`,
		"drop count=":                          `1:6: count= has no value`,
		"drop for=-1s":                         `1:1: drop: a time is negative`,
		"delay for=1s":                         `1:1: delay needs by=`,
		"delay by=-1s":                         `1:1: delay: a time is negative`,
		"cut times=2":                          `1:1: cut: times= goes with every=`,
		"cut every=1ns":                        `1:1: cut: every=1ns is less than`,
		"drop symbol=A stream=@trade":          `1:1: drop: stream= names the market`,
		"drop stream=A":                        `1:1: drop: stream=a is not like`,
		"stall until=x":                        `1:1: stall: until=x is none of`,
		"frame-huge size=999999999":            `1:1: frame-huge: size=`,
		"random":                               `1:1: random needs every=`,
		"random every=0s":                      `1:1: random needs every=`,
		"random seed=-1 every=1s":              `1:8: seed=-1:`,
		"random every=1s kinds=cut,x":          `1:1: random: no fault is called "x"`,
		"random every=1s side=x":               `1:1: random: side=x is none of`,
		"random every=1s deal=often":           `1:17: deal=often:`,
		"random every=1s count=3":              `1:17: random takes no count=`,
		"random every=1s side=store kinds=cut": `1:1: random: none of kinds= is of side=store`,
	} {
		_, err := Parse(text)
		if market.KindOf(err) != market.KindInvalid || !strings.HasPrefix(err.Error(), "fault script "+want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}

// What is written can be read again and is the same, also what was drawn.
func TestTextRoundTrip(t *testing.T) {
	t.Parallel()
	drawn := Script{Draws: []Draw{{Seed: 3, Every: time.Second}}}.Within(time.Hour, "AAAUSDT", "BBBUSDT")
	seen := map[Kind]bool{}
	for _, f := range drawn.Faults {
		seen[f.Kind] = true
	}
	if len(drawn.Faults) < 3000 || len(seen) != len(Kinds("")) {
		t.Errorf("%d faults of %d kinds in an hour, want about 3600 of all %d", len(drawn.Faults), len(seen), len(Kinds("")))
	}
	for _, s := range []Script{
		drawn,
		{Draws: []Draw{{
			Seed: 1 << 63, At: time.Minute, Every: 1500 * time.Millisecond, For: time.Hour, Longest: time.Second,
			Kinds: []Kind{Cut, StoreCut}, Deal: true, Symbols: []string{"A", "B"}, Side: SideStore,
		}}},
	} {
		read, err := Parse(s.String())
		if err != nil || read.String() != s.String() || !slices.Equal(read.Faults, s.Faults) {
			t.Errorf("%v: read otherwise than written", err)
		}
	}
}

func TestDrawsAreReproducible(t *testing.T) {
	t.Parallel()
	text := func(seed uint64) string {
		return Script{Draws: []Draw{{Seed: seed, Every: time.Second}}}.Within(5*time.Minute, "AAAUSDT").String()
	}
	first := text(1)
	if first != text(1) {
		t.Error("one seed gave two scripts")
	}
	if first == text(2) {
		t.Error("two seeds gave one script")
	}
	// Whoever reads this after a change of kinds: it only says that seeds mean something else now.
	const want = "rest-truncated@1.874s for=9.826s count=1\nstore-cut@3.722s\n"
	if !strings.HasPrefix(first, want) {
		t.Errorf("seed 1 begins with %.60q, want %q, the same on every machine", first, want)
	}
}

// Dealt kinds come each once before any comes twice.
func TestDealtKinds(t *testing.T) {
	t.Parallel()
	for _, d := range []Draw{
		{Seed: 4, Every: time.Second, Deal: true},
		{Seed: 5, Every: time.Second, Deal: true, Kinds: []Kind{Drop, Cut, Stall, Gap}},
	} {
		n := len(d.Kinds)
		if n == 0 {
			n = len(Kinds(""))
		}
		seen, orders, order := map[Kind]int{}, map[string]bool{}, ""
		for f := range d.Faults("AAAUSDT") {
			for _, k := range Kinds("") {
				if seen[f.Kind] > 0 && seen[k.Kind] < seen[f.Kind] && (len(d.Kinds) == 0 || slices.Contains(d.Kinds, k.Kind)) {
					t.Fatalf("%s came %d times before %s came %d times", f.Kind, seen[f.Kind]+1, k.Kind, seen[f.Kind])
				}
			}
			seen[f.Kind]++
			order += string(f.Kind) + " "
			if total := len(strings.Fields(order)); total == n {
				orders[order] = true
				order = ""
			}
			if seen[f.Kind] == 5 {
				break
			}
		}
		if len(seen) < n || len(orders) < 2 {
			t.Errorf("%d of %d kinds were dealt, in %d orders", len(seen), n, len(orders))
		}
	}
}

// Each side gets its part, and both parts together are the whole.
func TestSidesShareAScript(t *testing.T) {
	t.Parallel()
	s, err := Parse("cut@1s; store-cut@2s every=10s times=2; random seed=5 every=1s for=1m; random seed=6 every=1s for=1m kinds=drop")
	if err != nil {
		t.Fatal(err)
	}
	var parts []string
	for _, side := range []Side{SideExchange, SideStore} {
		for f := range s.On(side).Plan() {
			if f.Kind.Side() != side {
				t.Errorf("%s has %s", side, f)
			}
			parts = append(parts, f.String())
		}
	}
	var whole []string
	for f := range s.Plan() {
		whole = append(whole, f.String())
	}
	slices.Sort(parts)
	slices.Sort(whole)
	if !slices.Equal(parts, whole) {
		t.Errorf("%d faults in parts, %d in the whole script", len(parts), len(whole))
	}
	// A side of which nothing is drawn must not look for it for ever.
	endless, err := Parse("random every=1s kinds=cut")
	if err != nil || !endless.On(SideStore).Empty() {
		t.Errorf("store side of %v (%v)", endless, err)
	}
}

func TestPlanIsInOrder(t *testing.T) {
	t.Parallel()
	s, err := Parse("cut@5s every=10s; drop@1s every=4s times=3; double@9s")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for f := range s.Plan() {
		if f.At > 20*time.Second {
			break
		}
		got = append(got, f.String())
	}
	want := []string{"drop@1s count=1", "cut@5s", "drop@5s count=1", "drop@9s count=1", "double@9s count=1", "cut@15s"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestStrikes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		fault  Fault
		stream string
		want   bool
	}{
		{Fault{}, "aaausdt@trade", true},
		{Fault{Symbol: "AAAUSDT"}, "aaausdt@trade", true},
		{Fault{Symbol: "AAAUSDT"}, "bbbusdt@trade", false},
		{Fault{Stream: "aaausdt@trade"}, "aaausdt@trade", true},
		{Fault{Stream: "aaausdt@trade"}, "bbbusdt@trade", false},
		{Fault{Stream: "@trade"}, "bbbusdt@trade", true},
		{Fault{Stream: "@depth"}, "bbbusdt@depth@100ms", true},
		{Fault{Stream: "@depth@100ms"}, "bbbusdt@depth@100ms", true},
		{Fault{Stream: "@depth@100ms"}, "bbbusdt@depth", false},
		{Fault{Stream: "@depth"}, "bbbusdt@depth5", false},
		{Fault{Stream: "@trade"}, "", false},
	} {
		if got := c.fault.Strikes(c.stream); got != c.want {
			t.Errorf("%+v strikes %q: %v", c.fault, c.stream, got)
		}
	}
}

func TestRun(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, err := Parse("cut@2s every=3s; drop")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 9*time.Second)
		defer cancel()
		start := time.Now()
		var got []string
		Run(ctx, s.Plan(), func(f Fault) { got = append(got, fmt.Sprint(f.Kind, time.Since(start))) })
		if want := []string{"drop0s", "cut2s", "cut5s", "cut8s"}; !slices.Equal(got, want) || time.Since(start) != 9*time.Second {
			t.Errorf("got %v after %v, want %v", got, time.Since(start), want)
		}
		Run(t.Context(), Script{Faults: []Fault{{Kind: Cut}}}.Plan(), func(Fault) {})
	})
}
