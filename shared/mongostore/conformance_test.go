package mongostore_test

import (
	"testing"

	"tapedeck/shared/mongostore"
	"tapedeck/shared/mongostore/mongotest"
	"tapedeck/shared/storetest"
)

func TestConformance(t *testing.T) {
	mongotest.Run(t, func(t *testing.T, server *mongotest.Server) {
		storetest.Run(t, func(t *testing.T) func(*testing.T) storetest.Store {
			database := server.Database(t)
			return func(t *testing.T) storetest.Store { return mustOpen(t, server.URI, database) }
		})
	})
}

func mustOpen(t testing.TB, uri, database string) *mongostore.Store {
	t.Helper()
	s, err := mongostore.Open(t.Context(), uri, database, mongostore.Recorder)
	if err != nil {
		t.Fatal(err)
	}
	return s
}
