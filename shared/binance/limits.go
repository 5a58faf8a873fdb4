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

// How a connection lives (web-socket-streams.md, "General WSS information").
const (
	// PingInterval is how often the server pings; a pong must copy the ping's payload.
	PingInterval = 20 * time.Second
	// PongTimeout is after how long without a pong the server cuts the connection.
	PongTimeout = 60 * time.Second
	// MaxConnectionAge is when the server cuts every connection.
	MaxConnectionAge = 24 * time.Hour
)

// What REST allows one IP address (rest-api.md, "LIMITS"; exchangeInfo repeats it in rateLimits).
const (
	// MaxWeightPerMinute is the budget of request weight.
	MaxWeightPerMinute = 6000
	// ServerTimeWeight and ListingsWeight are the weights of /api/v3/time and of one /api/v3/exchangeInfo.
	ServerTimeWeight = 1
	ListingsWeight   = 20
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
