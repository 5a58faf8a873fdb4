package boot

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"tapedeck/functions/internal/api"
	"tapedeck/functions/internal/query"
	"tapedeck/shared/config"
	"tapedeck/shared/market"
	"tapedeck/shared/sqlitestore"
	"tapedeck/shared/storetest"
)

func environment(pairs ...string) *config.Env {
	return config.New(func(name string) (string, bool) {
		for _, pair := range pairs {
			if value, ok := strings.CutPrefix(pair, name+"="); ok {
				return value, true
			}
		}
		return "", false
	})
}

// status asks GET /v1/status and returns the response.
func status(t *testing.T, s api.Store) string {
	t.Helper()
	out, err := api.NewHandler(api.Status, s).Invoke(t.Context(), []byte("{}"))
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// TestStoreThatAppearsLater starts a function before there is anything to read.
func TestStoreThatAppearsLater(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tapedeck.db")
	s := &lazyStore{open: openFrom(environment("SQLITE_PATH=" + path))}
	if got := status(t, s); !strings.HasPrefix(got, `{"statusCode":503`) {
		t.Errorf("without a file: %s", got)
	}
	writer, err := sqlitestore.Open(t.Context(), path, sqlitestore.ReadWrite)
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close(context.Background())
	if err := writer.Write(t.Context(), &market.Batch{Statuses: []market.RecorderStatus{{Recorder: "one"}}}); err != nil {
		t.Fatal(err)
	}
	if got := status(t, s); !strings.HasPrefix(got, `{"statusCode":200`) || !strings.Contains(got, `\"name\":\"one\"`) {
		t.Errorf("with a file: %s", got)
	}
}

// TestBadEnvironment answers, and says why only in the log.
func TestBadEnvironment(t *testing.T) {
	for _, env := range [][]string{
		nil,
		{"SQLITE_PATH=x", "MONGODB_URI=mongodb://secret"},
		{"MONGODB_URI=http://secret"},
	} {
		got := status(t, &lazyStore{open: openFrom(environment(env...))})
		if !strings.HasPrefix(got, `{"statusCode":503`) || strings.Contains(got, "secret") {
			t.Errorf("%v: %s", env, got)
		}
	}
}

// TestOpenOnce keeps the store that was opened, and tries again until one is.
func TestOpenOnce(t *testing.T) {
	calls := 0
	s := &lazyStore{open: func(context.Context) (query.Reader, error) {
		if calls++; calls < 3 {
			return nil, errors.New("away")
		}
		return storetest.NewMemory(), nil
	}}
	for range 5 {
		status(t, s)
	}
	if calls != 3 {
		t.Errorf("opened %d times", calls)
	}
}
