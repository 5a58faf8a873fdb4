package api

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"tapedeck/shared/market"
)

// FieldError says what is wrong with one parameter.
type FieldError struct {
	Parameter string `json:"parameter"`
	Detail    string `json:"detail"`
}

// params reads typed parameters and gathers everything that is wrong with them, so that a caller hears of all at once.
// A name that was not asked for by the time of err is wrong too: a misspelt parameter must not be ignored.
type params struct {
	values map[string][]string
	asked  map[string]bool
	errs   []FieldError
}

func newParams(r *Request) *params {
	return &params{values: r.Query, asked: make(map[string]bool)}
}

func (p *params) fail(name, format string, args ...any) {
	p.errs = append(p.errs, FieldError{Parameter: name, Detail: fmt.Sprintf(format, args...)})
}

// get returns the value of a parameter; false when it is absent or was given more than once.
func (p *params) get(name string) (string, bool) {
	asked := p.asked[name]
	p.asked[name] = true
	values := p.values[name]
	if len(values) > 1 && !asked {
		p.fail(name, "is given %d times", len(values))
	}
	if len(values) != 1 {
		return "", false
	}
	return values[0], true
}

// has reports whether a parameter is given.
func (p *params) has(name string) bool { return len(p.values[name]) > 0 }

// integer returns the value, or def when it is absent or wrong.
func (p *params) integer(name string, def, least, most int64) int64 {
	text, ok := p.get(name)
	if !ok {
		return def
	}
	v, err := strconv.ParseInt(text, 10, 64)
	if err != nil || v < least || v > most {
		p.fail(name, "must be an integer between %d and %d", least, most)
		return def
	}
	return v
}

// boolean returns the value, or false.
func (p *params) boolean(name string) bool {
	text, ok := p.get(name)
	if !ok {
		return false
	}
	switch text {
	case "true", "1":
		return true
	case "false", "0":
		return false
	}
	p.fail(name, "must be true or false")
	return false
}

// time returns the value, or 0.
func (p *params) time(name string) market.Time {
	text, ok := p.get(name)
	if !ok {
		return 0
	}
	t, err := market.ParseTime(text)
	if err != nil {
		detail := "must be an RFC 3339 time or unix milliseconds, from 1970 to 2199"
		if strings.Contains(text, " ") {
			detail += "; a plus sign is written %2B in a URL"
		}
		p.fail(name, "%s", detail)
		return 0
	}
	return t
}

// timeRange returns start and end, 0 where absent.
func (p *params) timeRange() (start, end market.Time) {
	start, end = p.time("start"), p.time("end")
	_, bounded := p.get("end")
	if bounded && len(p.errs) == 0 && end <= start {
		p.fail("end", "must be after start")
	}
	return start, end
}

// oneOf returns the value when parse accepts it, or the zero value; known lists what is accepted.
func oneOf[T ~string](p *params, name string, parse func(string) (T, error), known string) T {
	text, ok := p.get(name)
	if !ok {
		return ""
	}
	v, err := parse(text)
	if err != nil {
		p.fail(name, "must be one of %s", known)
	}
	return v
}

// err returns everything that is wrong, ordered by parameter, as one error; nil when nothing is.
func (p *params) err() error {
	for name := range p.values {
		if !p.asked[name] {
			p.fail(strings.ToValidUTF8(name[:min(len(name), 64)], "?"), "is not a parameter of this endpoint")
		}
	}
	if len(p.errs) == 0 {
		return nil
	}
	slices.SortStableFunc(p.errs, func(a, b FieldError) int { return strings.Compare(a.Parameter, b.Parameter) })
	return &problemError{code: codeInvalidParameter, fields: p.errs}
}

func milliseconds(n int64) time.Duration { return time.Duration(n) * time.Millisecond }
