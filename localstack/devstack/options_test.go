package main

import (
	"io"
	"slices"
	"strings"
	"testing"

	"tapedeck/shared/recording"
)

func TestFlags(t *testing.T) {
	for _, c := range []struct {
		args      string
		reachable bool
		want      options
		lossless  bool
	}{
		{"", false, options{feed: feedReplay, recordings: recording.Bundled(), data: ".tapedeck/replay"}, true},
		{"", true, options{feed: feedBinance, data: ".tapedeck/binance"}, false},
		{"-feed binance -symbols btcusdt,ETHUSDT", false, options{feed: feedBinance, symbols: []string{"BTCUSDT", "ETHUSDT"}, data: ".tapedeck/binance"}, false},
		{"-feed replay -recording a.gz,b.zst -speed 10 -data d", false, options{feed: feedReplay, recordings: []string{"a.gz", "b.zst"}, speed: 10, data: "d"}, false},
		{"-feed synthetic", true, options{feed: feedSynthetic, speed: 1, data: ".tapedeck/synthetic"}, false},
		{"-feed synthetic -speed 0", true, options{feed: feedSynthetic, data: ".tapedeck/synthetic"}, true},
	} {
		got, err := parseFlags(strings.Fields(c.args), io.Discard)
		if err != nil {
			t.Errorf("%q: %v", c.args, err)
			continue
		}
		got.settle(func() bool { return c.reachable })
		same := got.feed == c.want.feed && slices.Equal(got.recordings, c.want.recordings) &&
			slices.Equal(got.symbols, c.want.symbols) && got.speed == c.want.speed && got.data == c.want.data
		if !same || got.lossless() != c.lossless {
			t.Errorf("%q: %+v, want %+v", c.args, got, c.want)
		}
	}
}

func TestWrongFlags(t *testing.T) {
	for args, want := range map[string]string{
		"-feed kraken":                               "-feed",
		"-feed binance -recording a":                 "-recording",
		"-recording a":                               "-recording",
		"-feed replay -speed -2":                     "-speed",
		"-feed replay -speed NaN":                    "-speed",
		"-feed replay -speed +Inf":                   "-speed",
		"-feed binance -speed 2":                     "-speed",
		"-feed synthetic -symbols A/B":               "-symbols",
		"-api-addr 3000":                             "-api-addr",
		"-ops-addr localhost":                        "-ops-addr",
		"extra":                                      "extra",
		"-faults cut":                                "-feed synthetic or replay",
		"-feed binance -faults cut":                  "-feed synthetic or replay",
		"-feed replay -faults cut":                   "-speed above 0",
		"-feed synthetic -speed 0 -faults cut":       "-speed above 0",
		"-feed synthetic -faults cutt":               "1:1: no fault is called",
		"-feed synthetic -faults @no.such.file":      "no.such.file",
		"-feed synthetic -faults store-cut":          "-mongodb-uri",
		"-feed replay -speed 1 -faults market-quiet": "cannot stop",
		"-feed synthetic -mongodb-uri mongodb+srv://secret@x -faults store-cut":  "one address",
		"-feed synthetic -mongodb-uri mongodb://a:1,b:2 -faults store-cut":       "one address",
		"-feed synthetic -mongodb-uri mongodb://a:1/?tls=true -faults store-cut": "TLS",
		"-nonsense": "nonsense",
	} {
		if _, err := parseFlags(strings.Fields(args), io.Discard); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want an error about %s", args, err, want)
		}
	}
}
