package exchange

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"
)

func TestStatsOfConnections(t *testing.T) {
	t.Parallel()
	s := start(t, quietSource(t), WithConnectLimit(3))
	ws := dial(t, s, "/ws/a@trade/b@trade")
	for i := range 4 {
		ask(t, ws, fmt.Sprintf(`{"method":"SUBSCRIBE","params":["c%d@trade"],"id":1}`, i))
	}
	if st := s.Stats(); st.MostStreams != 6 || st.MostMessagesPerSecond != 4 || st.MessageLimitCuts != 0 {
		t.Errorf("%+v", st)
	}
	for range 2 {
		ws.WriteControl(websocket.PongMessage, nil, time.Now().Add(time.Second))
	}
	if code, _ := closeCode(t, ws); code != websocket.ClosePolicyViolation {
		t.Errorf("closed with %d", code)
	}
	var names strings.Builder
	for i := range maxStreams + 1 {
		fmt.Fprintf(&names, "s%d@trade/", i)
	}
	closeCode(t, dial(t, s, "/ws/"+names.String()))
	dial(t, s, "/ws")
	for range 2 {
		_, resp, err := websocket.DefaultDialer.DialContext(t.Context(), s.StreamURL()+"/ws", nil)
		if err == nil || resp == nil || resp.StatusCode != http.StatusTooManyRequests {
			t.Fatalf("beyond the limit: %v (%v), want 429", resp, err)
		}
		resp.Body.Close()
	}
	want := Stats{
		Connects: 5, MostConnects: 5, ConnectsRefused: 2, MostStreams: maxStreams, StreamLimitCuts: 1,
		MostMessagesPerSecond: 6, MessageLimitCuts: 1,
	}
	if st := s.Stats(); st != want {
		t.Errorf("got  %+v\nwant %+v", st, want)
	}
}

// Connections count for five minutes.
func TestConnectWindow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var c counters
		for i := range 301 {
			if c.connect(time.Now(), 300) != (i < 300) {
				t.Errorf("connection %d", i)
			}
			<-time.After(500 * time.Millisecond)
		}
		<-time.After(connectWindow - 301*500*time.Millisecond)
		for i := range 3 { // the first ones do not count any more
			if !c.connect(time.Now(), 301) {
				t.Errorf("connection %d five minutes later", i)
			}
			<-time.After(500 * time.Millisecond)
		}
		if c.stats.MostConnects != 301 || c.stats.Connects != 304 || c.stats.ConnectsRefused != 1 {
			t.Errorf("%+v", c.stats)
		}
	})
}

// Who goes on after a 429 is banned, the longer each time.
func TestBan(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := New(quietSource(t), WithWeightLimit(10))
		ask := func() (int, string) {
			w := httptest.NewRecorder()
			s.http.Handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/api/v3/time", nil))
			return w.Code, w.Header().Get("Retry-After")
		}
		<-time.After(30 * time.Second)
		for _, ban := range []string{"121", "241"} {
			for i := range 10 + patience {
				if status, _ := ask(); (status == 200) != (i < 10) || i >= 10 && status != 429 {
					t.Fatalf("request %d: %d", i, status)
				}
			}
			status, retry := ask()
			if status != http.StatusTeapot || retry != ban {
				t.Errorf("banned: %d for %s s, want %s", status, retry, ban)
			}
			<-time.After(time.Minute) // a new minute does not end it
			if status, _ := ask(); status != http.StatusTeapot {
				t.Errorf("a minute later: %d", status)
			}
			<-time.After(4 * time.Minute)
		}
		st := s.Stats()
		if st.Requests != 2*(10+patience+2) || st.WeightLimitReplies != 2*patience || st.Bans != 2 || st.MostWeight != 10+patience+1 {
			t.Errorf("%+v", st)
		}
		if st.IgnoredRetryAfter != 2 { // all others came within the grace
			t.Errorf("%d requests ignored a Retry-After, want 2", st.IgnoredRetryAfter)
		}
		if err := s.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
