package market

import (
	"math"
	"strconv"
)

// Decimal is an exact number with eight decimals: the value times 1e8. Prices and quantities are Decimals everywhere
// inside; they are strings outside and never floats. Recordings hold quantities finer than a market's current lot
// size, so a Decimal is never rounded to a step.
type Decimal int64

// DecimalOne is the Decimal 1.
const DecimalOne Decimal = 1e8

const decimals = 8

// MaxDecimalText is the longest text that ParseDecimal accepts: sign, 11 digits, point, 8 digits, and some zeros more
// than any exchange writes.
const MaxDecimalText = 40

// ParseDecimal reads "123", "123.45" or "-0.00000001" exactly. More than eight decimals are accepted only when the
// rest are zeros. It returns an error of kind KindInvalid for anything else, for an empty text, and for a value beyond
// ±92,233,720,368.54775807; it never rounds.
func ParseDecimal[T string | []byte](s T) (Decimal, error) {
	if len(s) == 0 || len(s) > MaxDecimalText {
		return 0, Errorf(KindInvalid, "decimal of %d bytes", len(s))
	}
	i, negative := 0, false
	if s[0] == '-' {
		i, negative = 1, true
	}
	var v uint64
	digits, scale := 0, -1 // scale counts the decimals once the point is seen
	for ; i < len(s); i++ {
		c := s[i]
		if c == '.' && scale < 0 && digits > 0 {
			scale = 0
			continue
		}
		if c < '0' || c > '9' {
			return 0, Errorf(KindInvalid, "decimal %q", s)
		}
		digits++
		if scale == decimals {
			if c != '0' {
				return 0, Errorf(KindInvalid, "decimal %q has more than %d decimals", s, decimals)
			}
			continue
		}
		if v > math.MaxInt64/10 {
			return 0, Errorf(KindInvalid, "decimal %q is out of range", s)
		}
		if v = v*10 + uint64(c-'0'); v > math.MaxInt64 {
			return 0, Errorf(KindInvalid, "decimal %q is out of range", s)
		}
		if scale >= 0 {
			scale++
		}
	}
	if digits == 0 || scale == 0 { // "-" or "1."
		return 0, Errorf(KindInvalid, "decimal %q", s)
	}
	for scale = max(scale, 0); scale < decimals; scale++ {
		if v > math.MaxInt64/10 {
			return 0, Errorf(KindInvalid, "decimal %q is out of range", s)
		}
		v *= 10
	}
	if negative {
		return -Decimal(v), nil
	}
	return Decimal(v), nil
}

// Append appends the text of d with all eight decimals, as Binance spot writes it ("61837.63000000").
func (d Decimal) Append(dst []byte) []byte {
	u := uint64(d)
	if d < 0 {
		dst = append(dst, '-')
		u = -u
	}
	dst = strconv.AppendUint(dst, u/uint64(DecimalOne), 10)
	dst = append(dst, '.')
	frac := u % uint64(DecimalOne)
	for div := uint64(DecimalOne) / 10; div > 0; div /= 10 {
		dst = append(dst, byte('0'+frac/div%10))
	}
	return dst
}

// String returns the text of d with all eight decimals.
func (d Decimal) String() string { return string(d.Append(make([]byte, 0, 24))) }

// MarshalText returns the text of d, so that a Decimal is a string in JSON.
func (d Decimal) MarshalText() ([]byte, error) { return d.Append(make([]byte, 0, 24)), nil }

// UnmarshalText reads what MarshalText wrote.
func (d *Decimal) UnmarshalText(text []byte) error {
	v, err := ParseDecimal(text)
	if err != nil {
		return err
	}
	*d = v
	return nil
}
