package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tapedeck/shared/recording"
)

// TestRecordingWithoutWhatIsWanted tries recordings that the ingester would wait for in vain.
func TestRecordingWithoutWhatIsWanted(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for want, o := range map[string]options{
		"no market":  {recordings: []string{empty}},
		"no ETHUSDT": {recordings: recording.Bundled(), symbols: []string{"BTCUSDT", "ETHUSDT"}},
	} {
		o.feed = feedReplay
		f, err := startFeed(&o)
		if err == nil {
			err = f.close(t.Context())
			t.Errorf("started without an error (%v), want one that says %q", err, want)
		} else if !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want an error that says %q", err, want)
		}
	}
}
