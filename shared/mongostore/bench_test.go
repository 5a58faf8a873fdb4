package mongostore_test

import (
	"testing"

	"tapedeck/shared/mongostore/mongotest"
	"tapedeck/shared/storetest"
)

func BenchmarkStore(b *testing.B) {
	server := mongotest.Start(b)
	storetest.Bench(b, mustOpen(b, server.URI, server.Database(b)))
}
