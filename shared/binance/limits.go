package binance

import "time"

// What the exchange allows one connection and one address (web-socket-streams.md, "WebSocket Limits"). Whoever goes
// beyond is disconnected, and banned when that repeats.
const (
	// MaxStreamsPerConnection is how many streams one connection may listen to.
	MaxStreamsPerConnection = 1024
	// MaxMessagesPerSecond bounds what a client sends on one connection: pings, pongs and control frames together.
	MaxMessagesPerSecond = 5
	// MaxConnects is how many connections one IP address may attempt within ConnectWindow.
	MaxConnects   = 300
	ConnectWindow = 5 * time.Minute
)

// PingInterval is how often the server pings; a pong must copy the ping's payload (web-socket-streams.md, "General WSS
// information").
const PingInterval = 20 * time.Second

// What REST allows one IP address (rest-api.md, "LIMITS"; exchangeInfo repeats it in rateLimits).
const (
	// MaxWeightPerMinute is the request weight a minute, unless exchangeInfo states another; see Budget.
	MaxWeightPerMinute = 6000
	// WeightPerMinute is what a Budget spends of it.
	WeightPerMinute = MaxWeightPerMinute * normalShare / 100
	// ServerTimeWeight is the weight of /api/v3/time.
	ServerTimeWeight = 1
	// exchangeInfoWeight is the weight of /api/v3/exchangeInfo.
	exchangeInfoWeight = 20
	// aggTradesWeight and tradesWeight are those of /api/v3/aggTrades, and of /api/v3/trades and historicalTrades.
	aggTradesWeight = 4
	tradesWeight    = 25
	// MaxTradesPage is how many trades, or aggregates of trades, one reply has at the most.
	MaxTradesPage = 1000
	// MaxSnapshotLimit is the deepest book that /api/v3/depth gives, in levels a side.
	MaxSnapshotLimit = 5000
)

// SnapshotWeight returns the weight of one /api/v3/depth with that limit (rest-api.md, "Order book"). REST.Snapshot
// spends ServerTimeWeight besides.
func SnapshotWeight(limit int) int {
	switch {
	case limit <= 100:
		return 5
	case limit <= 500:
		return 25
	case limit <= 1000:
		return 50
	default:
		return 250
	}
}
