package feed_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/gorilla/websocket"
	"github.com/prometheus/client_golang/prometheus"

	"tapedeck/ingester/internal/feed"
	"tapedeck/shared/market"
)

// counter is an inbox that says when so many frames have come.
type counter struct {
	left atomic.Int64
	done chan struct{}
}

func (c *counter) Frame(context.Context, market.Stream, market.Time, []byte) bool {
	if c.left.Add(-1) == 0 {
		close(c.done)
	}
	return true
}

func (c *counter) Connected(market.Time)    {}
func (c *counter) Disconnected(market.Time) {}

// BenchmarkRead reads frames from a socket of this machine: eight trades to each depth update.
func BenchmarkRead(b *testing.B) {
	var cycle bytes.Buffer
	frame := func(text string) {
		cycle.Write([]byte{0x80 | websocket.TextMessage, 126})
		cycle.Write(binary.BigEndian.AppendUint16(nil, uint16(len(text))))
		cycle.WriteString(text)
	}
	const framesPerCycle = 9 * 50
	for range framesPerCycle / 9 {
		for range 8 {
			frame(`{"stream":"btcusdt@trade","data":{` + strings.Repeat(" ", 150) + `}}`)
		}
		frame(`{"stream":"btcusdt@depth@100ms","data":{` + strings.Repeat(" ", 1500) + `}}`)
	}
	over := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var upgrader websocket.Upgrader
		ws, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer ws.Close()
		for i := 0; i < b.N; i += framesPerCycle {
			if _, err := ws.NetConn().Write(cycle.Bytes()); err != nil {
				return
			}
		}
		<-over
	}))
	defer server.Close()
	defer close(over)
	inbox := &counter{done: make(chan struct{})}
	inbox.left.Store(int64(b.N))
	var targets []feed.Target
	for _, m := range append(symbols(100), btcusdt) {
		targets = append(targets, feed.Target{Market: m, Inbox: inbox})
	}
	f := feed.New(targets, feed.Config{URL: "ws" + strings.TrimPrefix(server.URL, "http")},
		feed.NewMetrics(prometheus.NewRegistry()), slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(b.Context())
	stopped := make(chan struct{})
	b.ReportAllocs()
	b.SetBytes(int64(cycle.Len() / framesPerCycle))
	b.ResetTimer()
	go func() {
		defer close(stopped)
		f.Run(ctx)
	}()
	<-inbox.done
	b.StopTimer()
	cancel()
	<-stopped
}
