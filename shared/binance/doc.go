// Package binance holds every address, field name and rule of the Binance spot exchange: stream names, the decoding of
// frames, and the REST calls. No other package spells an exchange's field. Sources of the rules: the official
// documentation of the spot API (web-socket-streams, rest-api, errors, enums) and measurements on recorded traffic.
package binance
