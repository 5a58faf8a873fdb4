package faults

import (
	"iter"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"tapedeck/shared/market"
)

// Draw makes up faults of all kinds, at random but by its seed alone.
type Draw struct {
	Seed    uint64
	At      time.Duration // when it begins
	Every   time.Duration // the mean distance of two faults; any from 0 to twice that is as likely
	For     time.Duration // how long it goes on; 0 = for ever
	Longest time.Duration // bounds each duration that is drawn; 0 = DefaultLongest
	Kinds   []Kind        // drawn among these; none = all
	Deal    bool          // kinds are dealt like cards: each once before any twice, and no kind more often than others
	Symbols []string      // the markets that are aimed at
	Side    Side          // faults of the other side are left out; "" = of none. It does not change what is drawn
}

// DefaultLongest bounds the durations that are drawn.
const DefaultLongest = 10 * time.Second

func (d *Draw) check() error {
	switch {
	case d.Every < time.Millisecond:
		return market.Errorf(market.KindInvalid, "%s needs every= of at least 1ms", random)
	case d.At < 0 || d.For < 0 || d.Longest < 0:
		return market.Errorf(market.KindInvalid, "%s: a time is negative", random)
	case d.Side != "" && d.Side != SideExchange && d.Side != SideStore:
		return market.Errorf(market.KindInvalid, "%s: side=%s is none of exchange, store", random, d.Side)
	}
	for _, k := range d.Kinds {
		if byKind[k] == nil {
			return market.Errorf(market.KindInvalid, "%s: no fault is called %q", random, k)
		}
	}
	if !d.drawsAny() {
		return market.Errorf(market.KindInvalid, "%s: none of kinds= is of side=%s", random, d.Side)
	}
	return nil
}

// drawsAny reports whether any kind is of the wanted side.
func (d *Draw) drawsAny() bool {
	return d.Side == "" || len(d.Kinds) == 0 || slices.ContainsFunc(d.Kinds, func(k Kind) bool { return k.Side() == d.Side })
}

// Faults returns what is drawn, complete and in the order of At; it panics when d is not valid (Parse checks it). Without
// Symbols it aims at those given here, and when there are none at all markets.
func (d Draw) Faults(symbols ...string) iter.Seq[Fault] {
	if err := d.check(); err != nil {
		panic("faults: " + err.Error())
	}
	if len(d.Symbols) > 0 {
		symbols = d.Symbols
	}
	if d.Longest == 0 {
		d.Longest = DefaultLongest
	}
	var among []*Info // each as often as it weighs
	for i := range kinds {
		if k := &kinds[i]; len(d.Kinds) == 0 || slices.Contains(d.Kinds, k.Kind) {
			among = append(among, slices.Repeat([]*Info{k}, k.draw.weight)...)
		}
	}
	return func(yield func(Fault) bool) {
		dice := &dice{rng: rand.NewPCG(d.Seed, uint64(len(among))), symbols: symbols}
		var pack []*Info
		for at := time.Duration(0); ; {
			at += dice.between(0, 2*d.Every)
			if d.For > 0 && at >= d.For {
				return
			}
			kind := among[dice.below(len(among))]
			if d.Deal {
				if len(pack) == 0 {
					pack = slices.Compact(slices.Clone(among))
				}
				i := dice.below(len(pack))
				kind = pack[i]
				pack = slices.Delete(pack, i, i+1)
			}
			f := kind.drawOne(dice, d.Longest)
			f.At = d.At + at
			if d.Side != "" && f.Kind.Side() != d.Side {
				continue
			}
			if !yield(f) {
				return
			}
		}
	}
}

// drawOne makes up a fault of one kind.
func (k *Info) drawOne(d *dice, longest time.Duration) Fault {
	f := Fault{Kind: k.Kind}
	if k.draw.least > 0 {
		f.For = d.between(min(k.draw.least, longest), longest)
	}
	if k.draw.count > 0 {
		f.Count = 1 + d.below(k.draw.count)
	}
	if k.draw.stream {
		f.Stream = d.stream()
	}
	if k.draw.symbol {
		f.Symbol = d.symbol()
	}
	if k.draw.conn && d.below(2) == 0 {
		f.Conn = 1 + d.below(2)
	}
	if k.draw.fill != nil {
		k.draw.fill(&f, d)
	}
	f, err := f.Complete()
	if err != nil {
		panic("faults: a fault was drawn that is not valid: " + err.Error())
	}
	return f
}

// dice is a source of chance that gives the same on every machine: integers only.
type dice struct {
	rng     *rand.PCG
	symbols []string
}

// below returns a number in [0, n).
func (d *dice) below(n int) int { return int(d.rng.Uint64() % uint64(n)) }

// between returns a whole number of milliseconds from least to most.
func (d *dice) between(least, most time.Duration) time.Duration {
	least, most = least.Truncate(time.Millisecond), most.Truncate(time.Millisecond)
	if most <= least {
		return least
	}
	return least + time.Duration(d.below(int((most-least)/time.Millisecond)+1))*time.Millisecond
}

func (d *dice) symbol() string {
	if len(d.symbols) == 0 {
		return ""
	}
	return d.symbols[d.below(len(d.symbols))]
}

// stream returns a stream that a recorder listens to.
func (d *dice) stream() string {
	return strings.ToLower(d.symbol()) + pick(d, "@depth", "@trade")
}

// pick returns one of the values.
func pick[T any](d *dice, values ...T) T { return values[d.below(len(values))] }
