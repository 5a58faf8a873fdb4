package faults

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"tapedeck/shared/market"
)

const random = "random" // begins a draw

// key is one key=value of a fault.
type key struct {
	name   string
	always bool // every kind takes it
	text   func(*Fault) string
	set    func(*Fault, string) error
	isZero func(*Fault) bool
	copy   func(to, from *Fault)
}

// makeKey returns a key for one field of a fault.
func makeKey[T comparable](name string, field func(*Fault) *T, parse func(string) (T, error), text func(T) string) key {
	return key{
		name: name,
		text: func(f *Fault) string { return text(*field(f)) },
		set: func(f *Fault, s string) (err error) {
			*field(f), err = parse(s)
			return err
		},
		isZero: func(f *Fault) bool { var zero T; return *field(f) == zero },
		copy:   func(to, from *Fault) { *field(to) = *field(from) },
	}
}

func timeKey(name string, field func(*Fault) *time.Duration) key {
	return makeKey(name, field, time.ParseDuration, shortDuration)
}

func numberKey(name string, field func(*Fault) *int) key {
	return makeKey(name, field, strconv.Atoi, strconv.Itoa)
}

func wordKey[T ~string](name string, field func(*Fault) *T, change func(string) string) key {
	parse := func(s string) (T, error) { return T(change(s)), nil }
	return makeKey(name, field, parse, func(v T) string { return string(v) })
}

func asIs(s string) string { return s }

// keys are all keys, in the order in which they are written.
var keys = func() []key {
	list := []key{
		timeKey("every", func(f *Fault) *time.Duration { return &f.Every }),
		numberKey("times", func(f *Fault) *int { return &f.Times }),
		timeKey("for", func(f *Fault) *time.Duration { return &f.For }),
		numberKey("count", func(f *Fault) *int { return &f.Count }),
		wordKey("symbol", func(f *Fault) *string { return &f.Symbol }, strings.ToUpper),
		wordKey("stream", func(f *Fault) *string { return &f.Stream }, strings.ToLower),
		numberKey("conn", func(f *Fault) *int { return &f.Conn }),
		wordKey("endpoint", func(f *Fault) *string { return &f.Endpoint }, asIs),
		timeKey("by", func(f *Fault) *time.Duration { return &f.By }),
		numberKey("status", func(f *Fault) *int { return &f.Status }),
		timeKey("retry", func(f *Fault) *time.Duration { return &f.Retry }),
		numberKey("rate", func(f *Fault) *int { return &f.Rate }),
		numberKey("size", func(f *Fault) *int { return &f.Size }),
		makeKey("keep", func(f *Fault) *bool { return &f.Keep }, strconv.ParseBool, strconv.FormatBool),
		wordKey("until", func(f *Fault) *Until { return &f.Until }, asIs),
	}
	list[0].always, list[1].always = true, true
	return list
}()

// shortDuration writes 1m0s as 1m.
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

// String returns f in the text form, without what is zero.
func (f Fault) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s@%s", f.Kind, shortDuration(f.At))
	for _, k := range keys {
		if !k.isZero(&f) {
			b.WriteString(" " + k.name + "=" + k.text(&f))
		}
	}
	return b.String()
}

// String returns the script in the text form, one fault or draw a line.
func (s Script) String() string {
	var lines []string
	for _, f := range s.Faults {
		lines = append(lines, f.String())
	}
	for _, d := range s.Draws {
		lines = append(lines, d.String())
	}
	return strings.Join(lines, "\n")
}

// String returns d in the text form.
func (d Draw) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s@%s seed=%d every=%s", random, shortDuration(d.At), d.Seed, shortDuration(d.Every))
	if d.For > 0 {
		b.WriteString(" for=" + shortDuration(d.For))
	}
	if d.Longest > 0 {
		b.WriteString(" longest=" + shortDuration(d.Longest))
	}
	if len(d.Kinds) > 0 {
		names := make([]string, len(d.Kinds))
		for i, k := range d.Kinds {
			names[i] = string(k)
		}
		b.WriteString(" kinds=" + strings.Join(names, ","))
	}
	if d.Deal {
		b.WriteString(" deal=true")
	}
	if len(d.Symbols) > 0 {
		b.WriteString(" symbols=" + strings.Join(d.Symbols, ","))
	}
	if d.Side != "" {
		b.WriteString(" side=" + string(d.Side))
	}
	return b.String()
}

// Parse reads a script. Faults are complete (see Fault.Complete). The error is of kind market.KindInvalid and begins with
// the line and the column, both from 1, of what is wrong.
func Parse(text string) (Script, error) {
	var s Script
	for n, line := range strings.Split(text, "\n") {
		line, _, _ = strings.Cut(line, "#")
		for start := 0; start <= len(line); {
			statement := line[start:]
			end := strings.IndexByte(statement, ';')
			if end >= 0 {
				statement = statement[:end]
			}
			if column, err := s.add(statement); err != nil {
				return Script{}, market.Errorf(market.KindInvalid, "fault script %d:%d: %w", n+1, start+column+1, err)
			}
			start += len(statement) + 1
		}
	}
	return s, nil
}

// word is a stretch without a blank.
type word struct {
	text   string
	column int // in bytes, from 0
}

// words splits a statement at its blanks.
func words(statement string) []word {
	var list []word
	for at := 0; at < len(statement); {
		rest := strings.TrimLeft(statement[at:], " \t\r")
		at = len(statement) - len(rest)
		if rest == "" {
			break
		}
		end := strings.IndexAny(rest, " \t\r")
		if end < 0 {
			end = len(rest)
		}
		list = append(list, word{rest[:end], at})
		at += end
	}
	return list
}

// add reads one statement. The column is that of the error.
func (s *Script) add(statement string) (column int, err error) {
	list := words(statement)
	if len(list) == 0 {
		return 0, nil
	}
	head := list[0]
	name, at, timed := strings.Cut(head.text, "@")
	when := time.Duration(0)
	if timed {
		if when, err = time.ParseDuration(at); err != nil || when < 0 {
			return head.column + len(name) + 1, fmt.Errorf("%q is no time since the start, like 10s", at)
		}
	}
	if name == random {
		d := Draw{At: when}
		if column, err := assign(list[1:], d.set); err != nil {
			return column, err
		}
		if err := d.check(); err != nil {
			return head.column, err
		}
		s.Draws = append(s.Draws, d)
		return 0, nil
	}
	f := Fault{Kind: Kind(name), At: when}
	if byKind[f.Kind] == nil {
		return head.column, fmt.Errorf("no fault is called %q", name)
	}
	if column, err := assign(list[1:], f.set); err != nil {
		return column, err
	}
	if f, err = f.Complete(); err != nil {
		return head.column, err
	}
	s.Faults = append(s.Faults, f)
	return 0, nil
}

// assign reads key=value pairs, each key at most once.
func assign(list []word, set func(key, value string) error) (column int, err error) {
	seen := map[string]bool{}
	for _, w := range list {
		key, value, ok := strings.Cut(w.text, "=")
		switch {
		case !ok || key == "":
			return w.column, fmt.Errorf("%q is not key=value", w.text)
		case value == "":
			return w.column, fmt.Errorf("%s= has no value", key)
		case seen[key]:
			return w.column, fmt.Errorf("%s= stands twice", key)
		}
		seen[key] = true
		if err := set(key, value); err != nil {
			return w.column, err
		}
	}
	return 0, nil
}

// set sets a key of a fault.
func (f *Fault) set(name, value string) error {
	i := slices.IndexFunc(keys, func(k key) bool { return k.name == name })
	if i < 0 || !keys[i].always && !slices.Contains(byKind[f.Kind].Keys, name) {
		return fmt.Errorf("%s takes no %s=", f.Kind, name)
	}
	if err := keys[i].set(f, value); err != nil {
		return fmt.Errorf("%s=%s: %w", name, value, err)
	}
	return nil
}

// set sets a key of a draw.
func (d *Draw) set(name, value string) (err error) {
	switch name {
	case "seed":
		d.Seed, err = strconv.ParseUint(value, 10, 64)
	case "every":
		d.Every, err = time.ParseDuration(value)
	case "for":
		d.For, err = time.ParseDuration(value)
	case "longest":
		d.Longest, err = time.ParseDuration(value)
	case "deal":
		d.Deal, err = strconv.ParseBool(value)
	case "side":
		d.Side = Side(value)
	case "symbols":
		d.Symbols = strings.Split(strings.ToUpper(value), ",")
	case "kinds":
		for name := range strings.SplitSeq(value, ",") {
			d.Kinds = append(d.Kinds, Kind(name))
		}
	default:
		return fmt.Errorf("%s takes no %s=", random, name)
	}
	if err != nil {
		return fmt.Errorf("%s=%s: %w", name, value, err)
	}
	return nil
}
