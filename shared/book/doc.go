// Package book keeps an order book by the exchange's rules. It is pure: no clock, no I/O, no goroutine, no log. A Book
// belongs to one goroutine.
package book
