package recording

import (
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tapedeck/shared/market"
)

func TestBundledRecordingsAreWhole(t *testing.T) {
	r, err := Open(Bundled()...)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	kinds := map[string]int{}
	last := market.Time(0)
	for {
		line, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if line.RecvTime < last {
			t.Fatalf("receive time goes back from %v to %v", last, line.RecvTime)
		}
		last = line.RecvTime
		for _, kind := range []string{"@depth", "@trade", "@bookTicker", `{"lastUpdateId"`} {
			if strings.Contains(string(line.Frame[:30+len(kind)]), kind) {
				kinds[kind]++
			}
		}
	}
	want := map[string]int{"@depth": 6495, "@trade": 19904, "@bookTicker": 73174, `{"lastUpdateId"`: 1}
	for kind, n := range want {
		if kinds[kind] != n {
			t.Errorf("%s: %d lines, want %d", kind, kinds[kind], n)
		}
	}
}

func TestFormsOfARecording(t *testing.T) {
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain")
	zipped := filepath.Join(dir, "zipped.gz")
	write(t, plain, "1723161253937085768 {\"a\":1}\n\n1723161253937085 {\"b\":2}\r\n", false)
	write(t, zipped, "1723161253937 {\"c\":3}", true)
	r, err := Open(plain, zipped)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	want := []struct {
		time  market.Time
		frame string
	}{
		{1723161253937085768, `{"a":1}`},
		{1723161253937085000, `{"b":2}`},
		{1723161253937000000, `{"c":3}`},
	}
	for _, w := range want {
		line, err := r.Next()
		if err != nil || line.RecvTime != w.time || string(line.Frame) != w.frame {
			t.Errorf("got %d %s %v, want %d %s", line.RecvTime, line.Frame, err, w.time, w.frame)
		}
	}
	for range 2 {
		if _, err := r.Next(); !errors.Is(err, io.EOF) {
			t.Errorf("at the end: %v, want EOF", err)
		}
	}
}

func TestBrokenRecordings(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{
		"nospace": "1723161253937", "notime": "x {}", "digits": "17 {}", "negative": "-172316125393 {}",
		"fake.gz": "not gzip", "fake.zst": "not zstd", "long": "1723161253937 " + strings.Repeat("x", maxLineBytes),
	} {
		path := filepath.Join(dir, name)
		write(t, path, content, false)
		r, err := Open(path)
		if err == nil {
			_, err = r.Next()
			r.Close()
		}
		if market.KindOf(err) != market.KindCorrupt || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want a corrupt recording that names the file", name, err)
		}
	}
	for _, names := range [][]string{nil, {filepath.Join(dir, "absent")}, {BundledPrefix + "absent"}} {
		if _, err := Open(names...); market.KindOf(err) != market.KindInvalid {
			t.Errorf("Open(%q): %v, want invalid", names, err)
		}
	}
}

func write(t *testing.T, path, content string, zip bool) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	var w io.WriteCloser = f
	if zip {
		w = gzip.NewWriter(f)
		defer f.Close()
	}
	if _, err := io.WriteString(w, content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}
