// Package binance holds every address, field name and rule of the Binance spot exchange: stream names and
// subscriptions, limits, the decoding of frames, and the REST calls. No other package spells an exchange's field.
//
// Sources of the rules: the exchange's own documentation, github.com/binance/binance-spot-api-docs at a5e0bc3d
// (web-socket-streams.md, rest-api.md, errors.md, enums.md), cited in comments by file name, and measurements on
// recorded traffic, cited as "measured".
package binance
