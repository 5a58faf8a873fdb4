package binance

import (
	"encoding/binary"
	"math"
	"math/bits"

	"tapedeck/shared/market"
)

// The readers below take eight characters at once, loaded little-endian, so that the first one is the lowest byte.
// "Digits" are eight characters minus '0' each: 0 to 9 where the text was a digit, more elsewhere.
const (
	eachByte  = 0x0101010101010101
	highBits  = eachByte * 0x80
	allZeros  = eachByte * '0'
	allPoints = eachByte * '.'
)

// pointIndex returns how many characters of w stand before the first '.', 1 to 7; 0 when there is none at 1 to 7.
func pointIndex(w uint64) int {
	// A zero byte of x is a point. The borrow of one can only spoil bytes above it, and only the first one counts.
	x := w ^ allPoints
	return bits.TrailingZeros64((x-eachByte)&^x&highBits) / 8 & 7
}

// digitsBefore returns the first n characters of w, 1 to 7, as digits behind 8-n zeros.
func digitsBefore(w uint64, n int) uint64 { return (w ^ allZeros) << (-8 * n & 63) }

// digitsAt returns the eight characters at text as digits.
func digitsAt(text []byte) uint64 { return binary.LittleEndian.Uint64(text) ^ allZeros }

// notDigits returns a word that has the high bit of a byte set where x holds more than 9.
func notDigits(x uint64) uint64 { return x | (x + eachByte*(0x7F-9)) }

// digitsValue returns the number that eight digits spell, folding neighbours: to two digits in 16 bits, four in 32,
// eight in 64.
func digitsValue(x uint64) market.Decimal {
	x = x * (10<<8 + 1) >> 8 & 0x00FF00FF00FF00FF
	x = x * (100<<16 + 1) >> 16 & 0x0000FFFF0000FFFF
	return market.Decimal(x * (10000<<32 + 1) >> 32)
}

// scanDecimal reads a decimal and its closing quote at b[i:], and returns the index behind them; a negative index for
// anything but digits up to maxWhole, alone or with a point and 1 to 8 decimals. What it reads is what
// market.ParseDecimal reads.
func scanDecimal(b []byte, i int) (market.Decimal, int) {
	// Spot writes eight decimals. This takes them behind at most seven digits: 7, the point, 8, the quote.
	if len(b)-i >= 17 {
		text := (*[17]byte)(b[i:])
		w := binary.LittleEndian.Uint64(text[:])
		n := pointIndex(w)
		whole, decimals := digitsBefore(w, n), digitsAt(text[n+1:])
		if n > 0 && text[n+9] == '"' && (notDigits(whole)|notDigits(decimals))&highBits == 0 {
			return digitsValue(whole)*market.DecimalOne + digitsValue(decimals), i + n + 10
		}
	}
	return scanDecimalBytes(b, i)
}

// levelBytes is the longest level that scanLevel reads at once: ["1234567.12345678","1234567.12345678"].
const levelBytes = 39

// scanLevel reads a level, ["price","quantity"], at b[i:], and returns the index behind it; a negative index for a
// price of zero or anything that scanDecimal does not read. It is where a decoder of depth updates spends its time.
func scanLevel(b []byte, i int) (market.Level, int) {
	if len(b)-i >= levelBytes {
		text := (*[levelBytes]byte)(b[i:])
		w := binary.LittleEndian.Uint64(text[2:])
		n := pointIndex(w)
		priceWhole, priceDecimals := digitsBefore(w, n), digitsAt(text[n+3:])
		w = binary.LittleEndian.Uint64(text[n+14:])
		m := pointIndex(w)
		quantityWhole, quantityDecimals := digitsBefore(w, m), digitsAt(text[n+m+15:])
		bad := notDigits(priceWhole) | notDigits(priceDecimals) | notDigits(quantityWhole) | notDigits(quantityDecimals)
		if n > 0 && m > 0 && bad&highBits == 0 &&
			string(text[:2]) == `["` && string(text[n+11:n+14]) == `","` && string(text[n+m+23:n+m+25]) == `"]` {
			price := digitsValue(priceWhole)*market.DecimalOne + digitsValue(priceDecimals)
			quantity := digitsValue(quantityWhole)*market.DecimalOne + digitsValue(quantityDecimals)
			if price > 0 {
				return market.Level{Price: price, Quantity: quantity}, i + n + m + 25
			}
			return market.Level{}, -1
		}
	}
	return scanLevelParts(b, i)
}

// scanLevelParts is scanLevel, number by number.
func scanLevelParts(b []byte, i int) (l market.Level, next int) {
	if !hasAt(b, i, `["`) {
		return l, -1
	}
	if l.Price, i = scanDecimal(b, i+2); !hasAt(b, i, `,"`) || l.Price == 0 {
		return l, -1
	}
	if l.Quantity, i = scanDecimal(b, i+2); !hasAt(b, i, "]") {
		return l, -1
	}
	return l, i + 1
}

// maxWhole bounds what stands before the point: with any decimals it fits into a Decimal. Quantities of 11 digits are
// real where a unit is worth next to nothing.
const maxWhole = market.Decimal(math.MaxInt64)/market.DecimalOne - 1

// scanDecimalBytes is scanDecimal, digit by digit.
func scanDecimalBytes(b []byte, i int) (market.Decimal, int) {
	var v market.Decimal
	start := i
	for ; isDigit(at(b, i)); i++ {
		if v = v*10 + market.Decimal(b[i]-'0'); v > maxWhole {
			return 0, -1
		}
	}
	if i == start || i-start > market.MaxDecimalText/2 {
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
