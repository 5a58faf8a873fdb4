package tape

import (
	"math"

	"tapedeck/shared/market"
)

// Decoder decodes blocks and keyframes. It belongs to one goroutine and keeps its memory between calls; what a call
// returns is valid until the next call of the same Decoder. The zero value is ready.
type Decoder struct {
	decompressor
	columns    [depthColumns][]byte
	numbers    [depthColumns][]uint64 // columns of numbers, decoded
	updates    []market.DepthUpdate
	trades     []market.Trade
	events     []int32 // event of each touch
	quantities []market.Decimal
	fresh      []market.Decimal // the quantities that are not repetitions
	levels     []market.Level
	placed     []market.Level
	offsets    []int32
	spare      []market.Level
}

// readColumns reads n columns of at most limit bytes each into d.columns.
func (d *Decoder) readColumns(r *reader, n, limit int) error {
	d.reset()
	for i := range n {
		column, err := d.column(r, limit)
		if err != nil {
			return err
		}
		d.columns[i] = column
	}
	return r.end()
}

// scaled returns v units, or an error when that is beyond an int64.
func scaled(v uint64, unit int64) (int64, error) {
	if v > math.MaxInt64/uint64(unit) {
		return 0, corrupt("a number is out of range")
	}
	return int64(v) * unit, nil
}
