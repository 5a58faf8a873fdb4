package sqlitestore_test

import (
	"path/filepath"
	"testing"

	"tapedeck/shared/sqlitestore"
	"tapedeck/shared/storetest"
)

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) func(*testing.T) storetest.Store {
		path := filepath.Join(t.TempDir(), "what? a#name%20.db")
		return func(t *testing.T) storetest.Store { return mustOpen(t, path, sqlitestore.ReadWrite) }
	})
}

func mustOpen(t testing.TB, path string, mode sqlitestore.Mode) *sqlitestore.Store {
	t.Helper()
	s, err := sqlitestore.Open(t.Context(), path, mode)
	if err != nil {
		t.Fatal(err)
	}
	return s
}
