package tape

import (
	"encoding/binary"
	"time"

	"tapedeck/shared/market"
)

// Numbers are written as multiples of a unit: the power of ten that divides nearly all of them (a tick, a lot, a
// millisecond). Recordings hold a few quantities finer than the lot; what such a number has beyond its multiple goes
// into a column of remainders, so that one odd order does not make every other one longer.

const maxUnitExponent = 12

var powersOfTen = func() (p [maxUnitExponent + 1]int64) {
	p[0] = 1
	for i := range maxUnitExponent {
		p[i+1] = 10 * p[i]
	}
	return p
}()

// exponents counts numbers by the greatest power of ten that divides them.
type exponents struct {
	count [maxUnitExponent + 1]int
	total int
}

func (e *exponents) add(v int64) {
	k := 0
	if v%10000 == 0 && v != 0 {
		v /= 10000
		k = 4
		if v%10000 == 0 {
			v /= 10000
			k = 8
		}
	}
	for k < maxUnitExponent && v%10 == 0 {
		v /= 10
		k++
	}
	e.count[k]++
	e.total++
}

// exponent returns the greatest exponent that all but a sixteenth of the numbers have.
func (e *exponents) exponent() int {
	odd := 0
	for k, n := range e.count {
		odd += n
		if odd > e.total/16 {
			return k
		}
	}
	return 0
}

// remainders gathers what numbers have beyond their multiple of the unit: pairs of index difference and remainder.
type remainders struct {
	column []byte
	last   int
}

func (r *remainders) reset() { r.column, r.last = r.column[:0], 0 }

func (r *remainders) add(index int, rest int64) {
	r.column = binary.AppendUvarint(r.column, uint64(index-r.last))
	r.column = binary.AppendUvarint(r.column, uint64(rest))
	r.last = index
}

// split returns v as a multiple of unit and notes the rest under index.
func (r *remainders) split(index int, v, unit int64) int64 {
	n := v / unit
	if rest := v - n*unit; rest != 0 {
		r.add(index, rest)
	}
	return n
}

// addRemainders adds the remainders of a column to the values that get(i) points at.
func addRemainders(column []byte, n int, get func(i int) *market.Decimal) error {
	r := reader{data: column}
	index := 0
	for len(r.data) > 0 {
		index += r.length(n)
		rest := r.length(int(powersOfTen[maxUnitExponent]))
		if r.err == nil && index >= n {
			r.fail("a remainder belongs to number %d of %d", index, n)
		}
		if r.err != nil {
			return r.err
		}
		*get(index) += market.Decimal(rest)
	}
	return nil
}

// readUnit reads the exponent of a unit.
func (r *reader) unit() int64 { return powersOfTen[r.length(maxUnitExponent)] }

// The exponents of a time unit in nanoseconds.
const (
	exponentMilli = 6
	exponentMicro = 3
)

// timeUnits finds the coarsest of millisecond, microsecond and nanosecond that divides every time added.
type timeUnits struct{ fine, finest bool }

func (u *timeUnits) add(t market.Time) {
	if t%market.Time(time.Millisecond) != 0 {
		u.fine = true
		u.finest = u.finest || t%market.Time(time.Microsecond) != 0
	}
}

func (u timeUnits) exponent() int {
	switch {
	case u.finest:
		return 0
	case u.fine:
		return exponentMicro
	}
	return exponentMilli
}
