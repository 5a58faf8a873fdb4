// Package tape encodes events and books into compact blocks of bytes, and back, exactly. The format is written down in
// docs/data-model.md. Nothing here keeps a clock, does I/O or starts goroutines. Decoders take any bytes: what is not a
// whole and unharmed block is an error of kind KindCorrupt, within bounded memory.
//
// A block is a header (version, kind), some numbers, columns, and a checksum. Depth updates are turned on their side:
// the levels of all updates of a block are sorted by price, so that a price touched by several updates is written once,
// prices are small differences, and columns of like numbers compress well.
package tape
