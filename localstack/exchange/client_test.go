package exchange

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"tapedeck/shared/market"
	"tapedeck/shared/recording"
)

// start serves source for the length of the test.
func start(tb testing.TB, source Source, opts ...Option) *Server {
	tb.Helper()
	s := New(source, opts...)
	if err := s.Start("127.0.0.1:0"); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := s.Close(ctx); err != nil {
			tb.Errorf("close: %v", err)
		}
	})
	return s
}

// dial connects a plain client to a path of the stand-in for the length of the test.
func dial(tb testing.TB, s *Server, path string) *websocket.Conn {
	tb.Helper()
	ws, resp, err := websocket.DefaultDialer.DialContext(tb.Context(), s.StreamURL()+path, nil)
	if err != nil {
		tb.Fatal(err)
	}
	resp.Body.Close()
	tb.Cleanup(func() { ws.Close() })
	return ws
}

// receive returns the next message.
func receive(tb testing.TB, ws *websocket.Conn) string {
	tb.Helper()
	ws.SetReadDeadline(time.Now().Add(20 * time.Second))
	_, message, err := ws.ReadMessage()
	if err != nil {
		tb.Fatalf("read: %v", err)
	}
	return string(message)
}

// ask sends a message and returns the next one received.
func ask(tb testing.TB, ws *websocket.Conn, message string) string {
	tb.Helper()
	if err := ws.WriteMessage(websocket.TextMessage, []byte(message)); err != nil {
		tb.Fatal(err)
	}
	return receive(tb, ws)
}

// closeCode reads until the connection ends and returns the code and the reason of the close frame.
func closeCode(tb testing.TB, ws *websocket.Conn) (int, string) {
	tb.Helper()
	ws.SetReadDeadline(time.Now().Add(20 * time.Second))
	for {
		if _, _, err := ws.ReadMessage(); err != nil {
			if closed, ok := errors.AsType[*websocket.CloseError](err); ok {
				return closed.Code, closed.Text
			}
			return 0, err.Error()
		}
	}
}

// get returns status, header and body of a REST request.
func get(tb testing.TB, s *Server, path string) (int, http.Header, string) {
	tb.Helper()
	req, err := http.NewRequestWithContext(tb.Context(), http.MethodGet, s.URL()+path, nil)
	if err != nil {
		tb.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		tb.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		tb.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(body)
}

// fetchBook returns a snapshot over REST.
func fetchBook(tb testing.TB, s *Server, symbol, limit string) market.Snapshot {
	tb.Helper()
	status, _, body := get(tb, s, "/api/v3/depth?symbol="+symbol+"&limit="+limit)
	if status != http.StatusOK {
		tb.Fatalf("depth of %s: %d %s", symbol, status, body)
	}
	return snapshotIn(tb, body)
}

func snapshotIn(tb testing.TB, body string) market.Snapshot {
	tb.Helper()
	var f struct {
		LastUpdateID int64
		Bids, Asks   [][2]market.Decimal
	}
	if err := json.Unmarshal([]byte(body), &f); err != nil {
		tb.Fatalf("snapshot %.100s: %v", body, err)
	}
	return market.Snapshot{LastID: f.LastUpdateID, Bids: levelsOf(f.Bids), Asks: levelsOf(f.Asks)}
}

// event is any event of a stream, decoded without the code under test.
type event struct {
	Type       string              `json:"e"`
	EventTime  int64               `json:"E"`
	Symbol     string              `json:"s"`
	FirstID    int64               `json:"U"`
	LastID     int64               `json:"u"`
	Bids       json.RawMessage     `json:"b"`
	Asks       json.RawMessage     `json:"a"`
	BidLevels  [][2]market.Decimal `json:"-"`
	AskLevels  [][2]market.Decimal `json:"-"`
	BidSize    market.Decimal      `json:"B"`
	AskSize    market.Decimal      `json:"A"`
	TradeID    int64               `json:"t"`
	TradeTime  int64               `json:"T"`
	Price      market.Decimal      `json:"p"`
	Quantity   market.Decimal      `json:"q"`
	BuyerMaker bool                `json:"m"`
	Ignore     bool                `json:"M"`
}

// decode reads a combined frame.
func decode(tb testing.TB, combined []byte) (stream string, e event) {
	tb.Helper()
	var f struct {
		Stream string
		Data   event
	}
	if err := json.Unmarshal(combined, &f); err != nil {
		tb.Fatalf("frame %.100s: %v", combined, err)
	}
	if f.Data.Type == "depthUpdate" {
		if json.Unmarshal(f.Data.Bids, &f.Data.BidLevels) != nil || json.Unmarshal(f.Data.Asks, &f.Data.AskLevels) != nil {
			tb.Fatalf("levels of %.100s", combined)
		}
	}
	return f.Stream, f.Data
}

func (e *event) update() *market.DepthUpdate {
	return &market.DepthUpdate{
		FirstID: e.FirstID, LastID: e.LastID, PrevID: e.FirstID - 1,
		Bids: levelsOf(e.BidLevels), Asks: levelsOf(e.AskLevels),
	}
}

// recorded returns the frames and the snapshots of recordings, read without the code under test.
func recorded(tb testing.TB, names ...string) (frames, snapshots []string) {
	tb.Helper()
	r, err := recording.Open(names...)
	if err != nil {
		tb.Fatal(err)
	}
	defer r.Close()
	for {
		line, err := r.Next()
		if errors.Is(err, io.EOF) {
			return frames, snapshots
		}
		if err != nil {
			tb.Fatal(err)
		}
		if strings.HasPrefix(string(line.Frame), `{"lastUpdateId"`) {
			snapshots = append(snapshots, string(line.Frame))
		} else {
			frames = append(frames, string(line.Frame))
		}
	}
}

// wait fails the test when c is not closed in time.
func wait(tb testing.TB, what string, c <-chan struct{}) {
	tb.Helper()
	select {
	case <-c:
	case <-time.After(20 * time.Second):
		tb.Fatalf("%s did not happen in time", what)
	}
}

// poll waits until ok returns true.
func poll(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(20 * time.Second); !ok(); <-ticker.C {
		if time.Now().After(deadline) {
			tb.Fatalf("%s did not happen in time", what)
		}
	}
}
