// Package tape encodes events and books into compact blocks of bytes, and back, exactly. The format is written down in
// docs/data-model.md. Nothing here keeps a clock, does I/O or starts goroutines. Decoders take any bytes: what is not a
// whole and unharmed block is an error of kind KindCorrupt, within bounded memory.
package tape
