package faults

import (
	"iter"
	"slices"
	"strings"
	"time"

	"tapedeck/shared/market"
)

// Fault is one thing that goes wrong: once, or again and again. What it means is told with its Kind; fields that the kind
// does not take are zero. The zero value of a field is its default (see Complete).
type Fault struct {
	Kind  Kind
	At    time.Duration // from the start of the script on
	Every time.Duration // it happens again at this distance; 0 = it happens once
	Times int           // how often in all; 0 = for ever. Only with Every

	For   time.Duration // how long it lasts
	Count int           // how many events, ids or requests it strikes at most

	Symbol   string // the market that it strikes, in upper case; "" = all
	Stream   string // the stream, in lower case: "syn001usdt@trade", "@trade" of every market; "" = all
	Conn     int    // which of the connections that it could strike, from 1 for the oldest; 0 = all alike
	Endpoint string // of REST, the last part of its path: "depth"; "" = all

	By     time.Duration // how much later; how far the clock steps
	Status int           // of HTTP, or the code of a close frame
	Retry  time.Duration // Retry-After; 0 = none
	Rate   int           // pings or bytes in a second
	Size   int           // bytes
	Keep   bool
	Until  Until
}

// Complete checks f and returns it with its kind's defaults in place of what was left zero. The error is of kind
// market.KindInvalid.
func (f Fault) Complete() (Fault, error) {
	info := byKind[f.Kind]
	if info == nil {
		return f, market.Errorf(market.KindInvalid, "no fault is called %q", f.Kind)
	}
	for _, k := range keys {
		switch isZero := k.isZero(&f); {
		case k.name == info.required && isZero:
			return f, market.Errorf(market.KindInvalid, "%s needs %s=", f.Kind, k.name)
		case isZero:
			k.copy(&f, &info.Defaults)
		case !k.always && !slices.Contains(info.Keys, k.name):
			return f, market.Errorf(market.KindInvalid, "%s takes no %s=", f.Kind, k.name)
		}
	}
	if f.Count == 0 && f.For == 0 && slices.Contains(info.Keys, "count") {
		f.Count = 1
	}
	return f, f.check()
}

// check looks at what keys have to do with each other.
func (f *Fault) check() error {
	switch {
	case f.At < 0 || f.Every < 0 || f.For < 0 || f.Retry < 0 || f.By < 0 && f.Kind != Clock:
		return market.Errorf(market.KindInvalid, "%s: a time is negative", f.Kind)
	case f.Times < 0 || f.Count < 0 || f.Conn < 0 || f.Status < 0 || f.Rate < 0 || f.Size < 0:
		return market.Errorf(market.KindInvalid, "%s: a number is negative", f.Kind)
	case f.Every > 0 && f.Every < time.Millisecond:
		return market.Errorf(market.KindInvalid, "%s: every=%s is less than 1ms", f.Kind, f.Every)
	case f.Times > 0 && f.Every == 0:
		return market.Errorf(market.KindInvalid, "%s: times= goes with every=", f.Kind)
	case f.Symbol != "" && f.Stream != "":
		return market.Errorf(market.KindInvalid, "%s: stream= names the market already, symbol= is too much", f.Kind)
	case f.Stream != "" && !strings.Contains(f.Stream, "@"):
		return market.Errorf(market.KindInvalid, "%s: stream=%s is not like syn001usdt@trade or @trade", f.Kind, f.Stream)
	case f.Until != "" && f.Until != UntilTime && f.Until != UntilSubscribe && f.Until != UntilConnect:
		return market.Errorf(market.KindInvalid, "%s: until=%s is none of time, subscribe, connect", f.Kind, f.Until)
	case f.Size > maxSize:
		return market.Errorf(market.KindInvalid, "%s: size=%d is above %d", f.Kind, f.Size, maxSize)
	case f.Kind == PingFlood && f.Rate > maxPingRate:
		return market.Errorf(market.KindInvalid, "%s: rate=%d is above %d", f.Kind, f.Rate, maxPingRate)
	}
	return nil
}

const (
	maxSize     = 256 << 20
	maxPingRate = 10_000
)

// Strikes reports whether f is aimed at events of a stream ("syn001usdt@depth@100ms").
func (f *Fault) Strikes(stream string) bool {
	symbol, kind, _ := strings.Cut(stream, "@")
	if f.Symbol != "" && !strings.EqualFold(f.Symbol, symbol) {
		return false
	}
	if f.Stream == "" {
		return true
	}
	wantSymbol, wantKind, _ := strings.Cut(f.Stream, "@")
	if wantSymbol != "" && !strings.EqualFold(wantSymbol, symbol) {
		return false
	}
	rest, ok := strings.CutPrefix(kind, wantKind)
	return ok && (rest == "" || rest[0] == '@')
}

// Script is a list of faults and draws.
type Script struct {
	Faults []Fault
	Draws  []Draw
}

// Empty reports whether the script has nothing in it.
func (s Script) Empty() bool { return len(s.Faults) == 0 && len(s.Draws) == 0 }

// On returns the part of the script that one side carries out. It makes the same faults there as the whole script does.
func (s Script) On(side Side) Script {
	part := Script{}
	for _, f := range s.Faults {
		if f.Kind.Side() == side {
			part.Faults = append(part.Faults, f)
		}
	}
	for _, d := range s.Draws {
		if d.Side == "" {
			d.Side = side
		}
		if d.Side == side && d.drawsAny() {
			part.Draws = append(part.Draws, d)
		}
	}
	return part
}

// Plan returns what happens, one fault after the other in the order of At: those that repeat as often as they do, those
// of draws as they fall. It may be endless. Draws that name no markets aim at those in symbols.
func (s Script) Plan(symbols ...string) iter.Seq[Fault] {
	return func(yield func(Fault) bool) {
		var heads []*head
		for _, f := range s.Faults {
			heads = append(heads, pull(f.occurrences()))
		}
		for _, d := range s.Draws {
			heads = append(heads, pull(d.Faults(symbols...)))
		}
		defer func() {
			for _, h := range heads {
				h.stop()
			}
		}()
		for {
			var first *head
			for _, h := range heads {
				if h.ok && (first == nil || h.fault.At < first.fault.At) {
					first = h
				}
			}
			if first == nil || !yield(first.fault) {
				return
			}
			first.fault, first.ok = first.next()
		}
	}
}

// head is the next fault of a sequence.
type head struct {
	fault Fault
	ok    bool
	next  func() (Fault, bool)
	stop  func()
}

func pull(seq iter.Seq[Fault]) *head {
	h := &head{}
	h.next, h.stop = iter.Pull(seq)
	h.fault, h.ok = h.next()
	return h
}

// occurrences returns f as often as it happens.
func (f Fault) occurrences() iter.Seq[Fault] {
	return func(yield func(Fault) bool) {
		every, times := f.Every, f.Times
		f.Every, f.Times = 0, 0
		for n := 1; yield(f) && every > 0 && n != times; n++ {
			f.At += every
		}
	}
}

// Within returns a script of what happens before end, each time by itself: what a draw drew can be read, and played
// without it.
func (s Script) Within(end time.Duration, symbols ...string) Script {
	var part Script
	for f := range s.Plan(symbols...) {
		if f.At >= end {
			break
		}
		part.Faults = append(part.Faults, f)
	}
	return part
}
