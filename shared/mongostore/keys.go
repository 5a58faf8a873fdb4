package mongostore

import (
	"fmt"
	"strconv"
	"strings"

	"tapedeck/shared/market"
)

// Keys are strings that sort as what they name does: a series ("binance/BTCUSDT/depth") or a market, then times and
// ids, with slashes between. A time is 16 hexadecimal digits. An id is its hexadecimal digits behind one digit that
// counts them (0 to 9, then a to g), which sorts as numbers do and takes half the room.
//
//	block     series/start/first id/(last id - first id)    binance/BTCUSDT/depth/17e9a1d4c2b6e400/9ba9cd66bc/26b
//	keyframe  market/event time/update id
//	span, gap series/first id
//
// Times and ids are never negative (market.Batch.Validate).

const lengths = "0123456789abcdefg"

func timeKey(t market.Time) string { return fmt.Sprintf("%016x", uint64(t)) }

func idKey(id int64) string {
	digits := strconv.FormatInt(id, 16)
	return lengths[len(digits):len(digits)+1] + digits
}

func parseTimeKey(s string) (market.Time, error) {
	t, err := strconv.ParseInt(s, 16, 64)
	if err != nil || len(s) != 16 {
		return 0, fmt.Errorf("%q is not a time", s)
	}
	return market.Time(t), nil
}

func parseIDKey(s string) (int64, error) {
	if s == "" || strings.IndexByte(lengths, s[0]) != len(s)-1 {
		return 0, fmt.Errorf("%q is not an id", s)
	}
	return strconv.ParseInt(s[1:], 16, 64)
}

func blockKey(series market.Series, k market.BlockKey) string {
	return series.String() + "/" + timeKey(k.Start) + "/" + idKey(k.FirstID) + "/" + idKey(k.LastID-k.FirstID)
}

func keyframeKey(m market.Market, at market.Time, id int64) string {
	return m.String() + "/" + timeKey(at) + "/" + idKey(id)
}

func seriesIDKey(series market.Series, id int64) string { return series.String() + "/" + idKey(id) }

func gapKey(g *market.Gap) string {
	key := seriesIDKey(g.Series, g.FirstID)
	if beside := g.Key().Beside; beside != "" {
		key += "/" + string(beside)
	}
	return key
}

// parseKey splits what stands behind the prefix in a key into n parts.
func parseKey(key, prefix string, n int) ([]string, error) {
	rest, ok := strings.CutPrefix(key, prefix+"/")
	parts := strings.Split(rest, "/")
	if !ok || len(parts) != n {
		return nil, fmt.Errorf("key %q is not %d parts of %s", key, n, prefix)
	}
	return parts, nil
}

// timeBound is the lower bound of the keys whose first part behind prefix is a time at or after t.
func timeBound(prefix string, t market.Time) string { return prefix + "/" + timeKey(max(t, 0)) }

// afterBound sorts as a block's key k would, also where no block can have it.
func afterBound(series market.Series, k market.BlockKey) string {
	switch {
	case k.FirstID < 0:
		return timeBound(series.String(), k.Start)
	case k.LastID < k.FirstID:
		return timeBound(series.String(), k.Start) + "/" + idKey(k.FirstID)
	default:
		return blockKey(series, k)
	}
}
