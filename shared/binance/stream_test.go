package binance

import (
	"net/url"
	"slices"
	"strings"
	"testing"

	"tapedeck/shared/market"
)

func TestStreamNames(t *testing.T) {
	for _, c := range []struct{ symbol, lower string }{
		{"BTCUSDT", "btcusdt"},
		{"1000SATSUSDT", "1000satsusdt"},
		{"币安人生USDT", "币安人生usdt"}, // listed since symbols may be non-ASCII
	} {
		m, err := market.New(market.Binance, c.symbol)
		if err != nil {
			t.Fatal(err)
		}
		for stream, want := range map[market.Stream]string{
			market.Depth:  c.lower + "@depth@100ms",
			market.Trades: c.lower + "@trade",
		} {
			series := market.Series{Market: m, Stream: stream}
			name := StreamName(series)
			if name != want {
				t.Errorf("StreamName(%v) = %q, want %q", series, name, want)
			}
		}
		name := TickerStreamName(m)
		if want := c.lower + "@bookTicker"; name != want {
			t.Errorf("TickerStreamName(%v) = %q, want %q", m, name, want)
		}
	}
	if name := StreamName(market.Series{Stream: "candles"}); name != "" {
		t.Errorf("an unknown stream has the name %q", name)
	}
}

func TestConnectURL(t *testing.T) {
	full := slices.Repeat([]string{"btcusdt@trade"}, MaxStreamsPerConnection)
	for _, c := range []struct {
		base    string
		streams []string
		want    string // "" for an error
	}{
		{"wss://stream.binance.com:9443", []string{"btcusdt@trade"}, "wss://stream.binance.com:9443/stream?streams=btcusdt@trade"},
		{
			"wss://stream.binance.com:9443/",
			[]string{"btcusdt@depth@100ms", "ethusdt@trade"},
			"wss://stream.binance.com:9443/stream?streams=btcusdt@depth@100ms/ethusdt@trade",
		},
		{"ws://127.0.0.1:1", nil, "ws://127.0.0.1:1/stream"},
		{"ws://h", []string{"币usdt@trade"}, "ws://h/stream?streams=%E5%B8%81usdt@trade"},
		{"ws://h", []string{"a&b=c#d e%@trade"}, "ws://h/stream?streams=a%26b%3Dc%23d+e%25@trade"},
		{"ws://h", full, "ws://h/stream?streams=" + strings.Join(full, "/")},
		{"ws://h", append(full, "one@more"), ""},
		{"https://stream.binance.com", nil, ""},
		{"stream.binance.com:9443", nil, ""},
		{"wss://", nil, ""},
		{"ws://h\x7f", nil, ""},
		{"", nil, ""},
	} {
		got, err := ConnectURL(c.base, c.streams)
		if got != c.want || (c.want == "") != (market.KindOf(err) == market.KindInvalid) {
			t.Errorf("ConnectURL(%q, %d streams) = %.120q, %v, want %.120q", c.base, len(c.streams), got, err, c.want)
		}
		if err != nil || len(c.streams) == 0 {
			continue
		}
		u, err := url.Parse(got)
		if err != nil {
			t.Fatal(err)
		}
		if back := strings.Split(u.Query().Get("streams"), "/"); !slices.Equal(back, c.streams) {
			t.Errorf("a server reads the streams %q, want %q", back, c.streams)
		}
	}
}

func TestControlRequests(t *testing.T) {
	for want, got := range map[string][]byte{
		`{"method":"SUBSCRIBE","params":["btcusdt@trade","币usdt@trade"],"id":7}`: SubscribeRequest(7, []string{"btcusdt@trade", "币usdt@trade"}),
		`{"method":"SUBSCRIBE","params":[],"id":0}`:                              SubscribeRequest(0, nil),
		`{"method":"UNSUBSCRIBE","params":["btcusdt@trade"],"id":8}`:             UnsubscribeRequest(8, []string{"btcusdt@trade"}),
	} {
		if string(got) != want {
			t.Errorf("request %s, want %s", got, want)
		}
	}
}

func TestRoute(t *testing.T) {
	for frame, want := range map[string]string{
		`{"stream":"btcusdt@depth@100ms","data":{}}`: "btcusdt@depth@100ms",
		`{"stream":"币安人生usdt@trade","data":{}}`:      "币安人生usdt@trade",
		`{"stream":"!serverShutdown","data":{}}`:     "!serverShutdown",
		`{"stream":"x"`:                              "x",
		`{"stream":"\u0062tcusdt@trade","data":{}}`:  "",
		`{"stream":"a\"b","data":{}}`:                "",
		`{"stream":"","data":{}}`:                    "",
		`{"stream":"no end`:                          "",
		`{"stream":"`:                                "",
		`{"stream": "btcusdt@trade","data":{}}`:      "",
		`{"data":{},"stream":"btcusdt@trade"}`:       "",
		`{"result":null,"id":1}`:                     "",
		``:                                           "",
	} {
		got := Route([]byte(frame))
		if string(got) != want || (want == "") != (got == nil) {
			t.Errorf("Route(%s) = %q, want %q", frame, got, want)
		}
	}
	frame := []byte(`{"stream":"btcusdt@depth@100ms","data":{}}`)
	if n := testing.AllocsPerRun(100, func() { Route(frame) }); n != 0 {
		t.Errorf("Route allocates %v times", n)
	}
}

func TestSnapshotWeight(t *testing.T) {
	for limit, want := range map[int]int{1: 5, 100: 5, 101: 25, 500: 25, 501: 50, 1000: 50, 1001: 250, 5000: 250} {
		if got := SnapshotWeight(limit); got != want {
			t.Errorf("SnapshotWeight(%d) = %d, want %d", limit, got, want)
		}
	}
}
