package binance

import (
	"encoding/binary"
	"math/bits"

	"tapedeck/shared/market"
)

// Eight bytes of text at once, loaded little-endian, so that the first character is the lowest byte.
const (
	eachByte  = 0x0101010101010101
	highBits  = eachByte * 0x80
	allZeros  = eachByte * '0'
	allPoints = eachByte * '.'
)

// pointIndex returns how many characters of w stand before the first '.': 8 when it holds none.
func pointIndex(w uint64) int {
	// A zero byte of x is a point. Borrows can only set bits above the first one, and only that one counts.
	x := w ^ allPoints
	return bits.TrailingZeros64((x-eachByte)&^x&highBits) / 8
}

// areDigits reports whether all characters of w are '0' to '9'.
func areDigits(w uint64) bool {
	const highNibbles = eachByte * 0xF0
	return w&highNibbles|(w+eachByte*6)&highNibbles>>4 == eachByte*0x33
}

// digitsValue returns the number that eight digits spell, folding neighbours: to two digits in 16 bits, four in 32,
// eight in 64.
func digitsValue(w uint64) uint64 {
	w = (w & (eachByte * 0x0F)) * (10<<8 + 1) >> 8
	w = (w & 0x00FF00FF00FF00FF) * (100<<16 + 1) >> 16
	return (w & 0x0000FFFF0000FFFF) * (10000<<32 + 1) >> 32
}

// scanDecimal reads a decimal and its closing quote at b[i:], and returns the index behind them; a negative index for
// anything but 1 to 10 digits, or those with a point and 1 to 8 decimals. What it reads is what market.ParseDecimal
// reads.
func scanDecimal(b []byte, i int) (market.Decimal, int) {
	// Spot writes eight decimals: at most seven digits, the point, eight digits, the quote.
	if len(b)-i >= 17 {
		w := binary.LittleEndian.Uint64(b[i:])
		n := pointIndex(w)
		if n == 0 || n == 8 {
			return scanDecimalBytes(b, i)
		}
		// The digits before the point move to the end of the eight, behind as many '0'.
		whole := w<<(64-8*n) | allZeros>>(8*n)
		decimals := binary.LittleEndian.Uint64(b[i+n+1:])
		if b[i+n+9] == '"' && areDigits(whole) && areDigits(decimals) {
			return market.Decimal(digitsValue(whole)*1e8 + digitsValue(decimals)), i + n + 10
		}
	}
	return scanDecimalBytes(b, i)
}

// maxWhole bounds the digits before the point: one more could overflow.
const maxWhole = 10

// scanDecimalBytes is scanDecimal, digit by digit.
func scanDecimalBytes(b []byte, i int) (market.Decimal, int) {
	var v market.Decimal
	start := i
	for ; isDigit(at(b, i)); i++ {
		if i-start >= maxWhole {
			return 0, -1
		}
		v = v*10 + market.Decimal(b[i]-'0')
	}
	if i == start {
		return 0, -1
	}
	decimals := 0
	if at(b, i) == '.' {
		for i++; isDigit(at(b, i)); i++ {
			if decimals >= 8 {
				return 0, -1
			}
			v = v*10 + market.Decimal(b[i]-'0')
			decimals++
		}
		if decimals == 0 {
			return 0, -1
		}
	}
	for ; decimals < 8; decimals++ {
		v *= 10
	}
	if at(b, i) != '"' {
		return 0, -1
	}
	return v, i + 1
}

// maxIntDigits keeps an integer inside an int64.
const maxIntDigits = 18

// scanInt reads a JSON integer at b[i:] that is not negative and returns the index behind it; a negative index for
// anything else.
func scanInt(b []byte, i int) (int64, int) {
	start := i
	var v int64
	for ; isDigit(at(b, i)); i++ {
		v = v*10 + int64(b[i]-'0')
		if i-start >= maxIntDigits {
			return 0, -1
		}
	}
	if i == start || b[start] == '0' && i > start+1 {
		return 0, -1
	}
	return v, i
}

// at returns b[i], or 0 beyond the end: a byte that no reader expects.
func at(b []byte, i int) byte {
	if uint(i) < uint(len(b)) {
		return b[i]
	}
	return 0
}

func isDigit(c byte) bool { return c-'0' <= 9 }
