package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tapedeck/localstack/faults"
)

func TestFaultScript(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(file, []byte("cut@10s # once\ndrop@20s\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for value, want := range map[string]string{
		"":                  "",
		"cut@10s; drop@20s": "cut@10s\ndrop@20s count=1",
		"@" + file:          "cut@10s\ndrop@20s count=1",
	} {
		if s, err := readScript(value); err != nil || s.String() != want {
			t.Errorf("%q: %q (%v), want %q", value, s, err, want)
		}
	}
	for _, fine := range []string{"-feed synthetic", "-feed replay -speed 2", "-feed synthetic -mongodb-uri mongodb://u:p@h/"} {
		args := append(strings.Fields(fine), "-faults", "cut; random every=1s")
		if _, err := parseFlags(args, os.Stderr); err != nil {
			t.Errorf("%s: %v", fine, err)
		}
	}
}

func TestConnectionStringThroughProxy(t *testing.T) {
	t.Parallel()
	for uri, want := range map[string]struct{ addr, through string }{
		"mongodb://h":                          {"h:27017", "mongodb://127.0.0.1:9/?directConnection=true"},
		"mongodb://u:p%40@h:1/db?replicaSet=r": {"h:1", "mongodb://u:p%40@127.0.0.1:9/db?directConnection=true&replicaSet=r"},
		"mongodb://[::1]:5/":                   {"[::1]:5", "mongodb://127.0.0.1:9/?directConnection=true"},
	} {
		addr, err := storeAddr(uri)
		if through := throughProxy(uri, "127.0.0.1:9"); err != nil || addr != want.addr || through != want.through {
			t.Errorf("%s: %s, %s (%v), want %+v", uri, addr, through, err, want)
		}
	}
	if _, err := storeAddr("mongodb://secret:%zz@h"); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("a broken one: %v", err)
	}
}

// TestFaultsAreToldAndSurvived records made-up markets under a script: each fault is told in a line, and all becomes
// ready in spite of them.
func TestFaultsAreToldAndSurvived(t *testing.T) {
	script, err := faults.Parse("cut@500ms; rest-status@500ms for=1s endpoint=depth; market-break@1500ms symbol=NOSUCH; drop@2s stream=@depth")
	if err != nil {
		t.Fatal(err)
	}
	r := start(t, options{feed: feedSynthetic, speed: 1, symbols: []string{"AAAUSDT"}, data: t.TempDir(), faults: script})
	var told []string
	ready := false
	for _, line := range r.wait("fault: drop") {
		if strings.HasPrefix(line, "fault:") {
			told = append(told, line)
		}
		ready = ready || strings.HasPrefix(line, "ready:")
	}
	if !ready {
		r.wait("ready:")
	}
	want := []string{
		"fault: cut@500ms", "fault: rest-status@500ms for=1s endpoint=depth status=503",
		"fault: not done: inject market-break@1.5s for=30s symbol=NOSUCH: there is no market NOSUCH", "fault: drop@2s count=1 stream=@depth",
	}
	if strings.Join(told, "\n") != strings.Join(want, "\n") {
		t.Errorf("told\n%s\nwant\n%s", strings.Join(told, "\n"), strings.Join(want, "\n"))
	}
}
