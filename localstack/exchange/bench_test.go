package exchange

import (
	"io"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"tapedeck/shared/recording"
)

// drain reads messages until the source is over and everything has arrived, and returns how many there were.
func drain(b *testing.B, s *Server, path string) int {
	b.Helper()
	dialer := websocket.Dialer{ReadBufferSize: 64 << 10}
	ws, resp, err := dialer.DialContext(b.Context(), s.StreamURL()+path, nil)
	if err != nil {
		b.Fatal(err)
	}
	resp.Body.Close()
	defer ws.Close()
	go func() {
		<-s.Done()
		s.mu.Lock()
		defer s.mu.Unlock()
		for c := range s.conns {
			c.closeWith(websocket.CloseNormalClosure, "")
		}
	}()
	buf := make([]byte, 64<<10)
	for n := 0; ; n++ {
		_, r, err := ws.NextReader()
		if err != nil {
			return n
		}
		for err == nil {
			_, err = r.Read(buf)
		}
		if err != io.EOF { //nolint:errorlint // readers return it bare
			b.Fatal(err)
		}
	}
}

// Both recordings to one client that reads and forgets, from reading the file to the client's buffer.
func BenchmarkReplay(b *testing.B) {
	frames := 0
	for b.Loop() {
		b.StopTimer()
		s := start(b, newReplay(b, recording.Bundled()...), WithSnapshotHold(0))
		b.StartTimer()
		frames += drain(b, s, "/stream?streams="+bundledStreams)
	}
	b.ReportMetric(float64(frames)/b.Elapsed().Seconds(), "frames/s")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(frames), "ns/frame")
}

// A minute of a busy market to one client: 3 frames in 10 are depth updates.
func BenchmarkSynthetic(b *testing.B) {
	frames := 0
	for b.Loop() {
		b.StopTimer()
		s := start(b, newSynthetic(b, SyntheticConfig{Symbols: SymbolNames(10), Duration: time.Minute}))
		path := "/stream?streams="
		for _, l := range s.source.Listings() {
			name := strings.ToLower(l.Market.Symbol)
			path += name + "@depth@100ms/" + name + "@trade/"
		}
		b.StartTimer()
		frames += drain(b, s, path)
	}
	b.ReportMetric(float64(frames)/b.Elapsed().Seconds(), "frames/s")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(frames), "ns/frame")
}

// Making the frames alone.
func BenchmarkSyntheticFrames(b *testing.B) {
	s := newSynthetic(b, SyntheticConfig{Symbols: SymbolNames(10)})
	frames, size := 0, 0
	for b.Loop() {
		if _, err := s.Due(); err != nil {
			b.Fatal(err)
		}
		s.Step(func(f Frame) { frames, size = frames+1, size+len(f.Combined) })
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(frames), "ns/frame")
	b.ReportMetric(float64(size)/float64(frames), "bytes/frame")
}
