// Package config reads settings from the environment. A program asks an Env for all that it wants, checks Err once,
// and so hears of every mistake at the first start instead of one a start.
package config

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"tapedeck/shared/market"
)

// Env looks settings up and gathers what is wrong with them. A variable that is set but empty counts as not set, as
// docker-compose and SAM templates can hardly leave one out. An Env belongs to one goroutine.
type Env struct {
	lookup func(string) (string, bool)
	errs   []error
}

// New returns an Env over a lookup function; tests give their own.
func New(lookup func(string) (string, bool)) *Env { return &Env{lookup: lookup} }

// OS returns an Env over the process's environment.
func OS() *Env { return New(os.LookupEnv) }

// Err returns all errors so far, joined, as one error of kind KindInvalid; nil when there is none.
func (e *Env) Err() error {
	if len(e.errs) == 0 {
		return nil
	}
	return market.Errorf(market.KindInvalid, "%w", errors.Join(e.errs...))
}

// Fail notes that the variable is wrong. Callers use it for rules among several variables.
func (e *Env) Fail(name, format string, args ...any) {
	e.errs = append(e.errs, fmt.Errorf("%s: %s", name, fmt.Sprintf(format, args...)))
}

// get returns the value without surrounding spaces; false when it is not set or empty.
func (e *Env) get(name string) (string, bool) {
	value, _ := e.lookup(name)
	value = strings.TrimSpace(value)
	return value, value != ""
}

// String returns the value, or def.
func (e *Env) String(name, def string) string {
	if value, ok := e.get(name); ok {
		return value
	}
	return def
}

// OneOf returns the value, or def; a value that is not among allowed is an error.
func (e *Env) OneOf(name, def string, allowed ...string) string {
	value := e.String(name, def)
	if !slices.Contains(allowed, value) {
		e.Fail(name, "%q is not one of %s", value, strings.Join(allowed, ", "))
		return def
	}
	return value
}

// List returns the values of a comma-separated list, without spaces and empty entries; nil when there are none.
func (e *Env) List(name string) []string {
	var list []string
	for entry := range strings.SplitSeq(e.String(name, ""), ",") {
		if entry = strings.TrimSpace(entry); entry != "" {
			list = append(list, entry)
		}
	}
	return list
}

// Bool returns the value ("true", "false", "1", "0"), or def.
func (e *Env) Bool(name string, def bool) bool {
	value, ok := e.get(name)
	if !ok {
		return def
	}
	parsed, err := strconv.ParseBool(value)
	if err != nil {
		e.Fail(name, "%q is neither true nor false", value)
		return def
	}
	return parsed
}

// Int returns the value, or def; outside [least, most] it is an error.
func (e *Env) Int(name string, def, least, most int) int {
	value, ok := e.get(name)
	if !ok {
		return def
	}
	parsed, err := strconv.Atoi(value)
	switch {
	case err != nil:
		e.Fail(name, "%q is not an integer", value)
	case parsed < least || parsed > most:
		e.Fail(name, "%d is not between %d and %d", parsed, least, most)
	default:
		return parsed
	}
	return def
}

// units of Bytes, the longest suffix first where one ends in another.
var units = []struct {
	suffix string
	bytes  int
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"", 1}}

// Bytes returns the value ("268435456", "256MiB", "64 KiB", "2GiB") in bytes, or def; outside [least, most] it is an
// error.
func (e *Env) Bytes(name string, def, least, most int) int {
	value, ok := e.get(name)
	if !ok {
		return def
	}
	for _, unit := range units {
		number, ok := strings.CutSuffix(value, unit.suffix)
		if !ok {
			continue
		}
		parsed, err := strconv.Atoi(strings.TrimSpace(number))
		switch {
		case err != nil:
			e.Fail(name, "%q is not a number of bytes such as 1048576, 64KiB, 256MiB or 2GiB", value)
		case parsed > most/unit.bytes || parsed*unit.bytes < least:
			e.Fail(name, "%s is not between %d and %d bytes", value, least, most)
		default:
			return parsed * unit.bytes
		}
		break
	}
	return def
}

// Duration returns the value ("250ms", "1m30s"), or def; outside [least, most] it is an error.
func (e *Env) Duration(name string, def, least, most time.Duration) time.Duration {
	value, ok := e.get(name)
	if !ok {
		return def
	}
	parsed, err := time.ParseDuration(value)
	switch {
	case err != nil:
		e.Fail(name, "%q is not a duration such as 250ms, 1s or 1m30s", value)
	case parsed < least || parsed > most:
		e.Fail(name, "%s is not between %s and %s", parsed, least, most)
	default:
		return parsed
	}
	return def
}

// URL returns the value, or def, without a trailing slash; it must have a host and one of the schemes. What is wrong
// is told without the value, since a URL may hold a password.
func (e *Env) URL(name, def string, schemes ...string) string {
	value := strings.TrimRight(e.String(name, def), "/")
	parsed, err := url.Parse(value)
	switch {
	case err != nil:
		e.Fail(name, "is not a URL")
	case !slices.Contains(schemes, parsed.Scheme):
		e.Fail(name, "its scheme is not one of %s", strings.Join(schemes, ", "))
	case parsed.Host == "":
		e.Fail(name, "has no host")
	default:
		return value
	}
	return def
}

// Markets returns the markets of one exchange whose symbols are listed, each once, in the order given. An empty list
// is an error, as is a symbol that cannot be one.
func (e *Env) Markets(name string, exchange market.Exchange) []market.Market {
	symbols := e.List(name)
	if len(symbols) == 0 {
		e.Fail(name, "is required: a comma-separated list such as BTCUSDT,ETHUSDT")
	}
	var markets []market.Market
	for _, symbol := range symbols {
		m, err := market.New(exchange, symbol)
		if err != nil {
			e.Fail(name, "%v", err)
			continue
		}
		if !slices.Contains(markets, m) {
			markets = append(markets, m)
		}
	}
	return markets
}
