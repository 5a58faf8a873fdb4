package binance

import (
	"encoding/json"
	"net/url"
	"strings"

	"tapedeck/shared/market"
)

// What follows the symbol in the names of the streams that are used (web-socket-streams.md, "Detailed Stream
// information").
const (
	depthSuffix  = "@depth@100ms"
	tradeSuffix  = "@trade"
	tickerSuffix = "@bookTicker"
)

// StreamName returns the name under which a series is subscribed: "btcusdt@depth@100ms", "btcusdt@trade"; "" for a
// stream that is not a known one.
func StreamName(s market.Series) string {
	switch s.Stream {
	case market.Depth:
		return strings.ToLower(s.Market.Symbol) + depthSuffix
	case market.Trades:
		return strings.ToLower(s.Market.Symbol) + tradeSuffix
	}
	return ""
}

// TickerStreamName returns the name of the market's bookTicker stream: "btcusdt@bookTicker".
func TickerStreamName(m market.Market) string { return strings.ToLower(m.Symbol) + tickerSuffix }

// ConnectURL returns the address of the combined endpoint with the given streams subscribed from the start, for a
// base such as "wss://stream.binance.com:9443" or "wss://data-stream.binance.vision". With no streams it is the
// address of a connection to be subscribed later. The error is of kind KindInvalid: a base that is not ws:// or
// wss://, or more than MaxStreamsPerConnection streams.
func ConnectURL(base string, streams []string) (string, error) {
	u, err := url.Parse(base)
	if err != nil {
		return "", market.Errorf(market.KindInvalid, "base of the streams: %w", err)
	}
	if u.Scheme != "ws" && u.Scheme != "wss" || u.Host == "" {
		return "", market.Errorf(market.KindInvalid, "base of the streams %q is not ws:// or wss:// and a host", base)
	}
	if len(streams) > MaxStreamsPerConnection {
		return "", market.Errorf(market.KindInvalid, "%d streams on one connection, at most %d are allowed",
			len(streams), MaxStreamsPerConnection)
	}
	u = u.JoinPath("stream")
	if len(streams) > 0 {
		escaped := make([]string, len(streams))
		for i, name := range streams {
			escaped[i] = strings.ReplaceAll(url.QueryEscape(name), "%40", "@")
		}
		u.RawQuery = "streams=" + strings.Join(escaped, "/")
	}
	return u.String(), nil
}

// SubscribeRequest returns the control frame that adds streams to a connection. The Reply to it carries the same id
// (web-socket-streams.md, "Live Subscribing/Unsubscribing to streams").
func SubscribeRequest(id int64, streams []string) []byte {
	return controlRequest("SUBSCRIBE", id, streams)
}

// UnsubscribeRequest returns the control frame that takes streams from a connection; see SubscribeRequest.
func UnsubscribeRequest(id int64, streams []string) []byte {
	return controlRequest("UNSUBSCRIBE", id, streams)
}

func controlRequest(method string, id int64, streams []string) []byte {
	frame, err := json.Marshal(struct {
		Method string   `json:"method"`
		Params []string `json:"params"`
		ID     int64    `json:"id"`
	}{method, append([]string{}, streams...), id})
	if err != nil { // strings and an integer cannot fail
		panic(err)
	}
	return frame
}
