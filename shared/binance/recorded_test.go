package binance

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"

	"tapedeck/shared/recording"
)

// readFrames returns all frames of recordings by kind: depth, trade, ticker and snapshot.
func readFrames(names ...string) (map[string][][]byte, error) {
	r, err := recording.Open(names...)
	if err != nil {
		return nil, err
	}
	frames := map[string][][]byte{}
	for {
		line, err := r.Next()
		if errors.Is(err, io.EOF) {
			return frames, r.Close()
		}
		if err != nil {
			return nil, errors.Join(err, r.Close())
		}
		kind := "snapshot"
		if name := string(Route(line.Frame)); name != "" {
			_, stream, _ := strings.Cut(name, "@")
			kind, _, _ = strings.Cut(stream, "@")
			kind = strings.Replace(kind, "bookTicker", "ticker", 1)
		}
		frames[kind] = append(frames[kind], bytes.Clone(line.Frame))
	}
}

var bundledFrames = sync.OnceValues(func() (map[string][][]byte, error) { return readFrames(recording.Bundled()...) })

// recordedFrames returns the frames of the bundled recordings by kind. They are read once and must not be changed.
func recordedFrames(tb testing.TB) map[string][][]byte {
	tb.Helper()
	frames, err := bundledFrames()
	if err != nil {
		tb.Fatal(err)
	}
	return frames
}
