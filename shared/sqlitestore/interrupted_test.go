package sqlitestore

import (
	"fmt"
	"path/filepath"
	"testing"

	"tapedeck/shared/market"
	"tapedeck/shared/storetest"
)

// TestInterrupted lets a write fail at each table in turn.
func TestInterrupted(t *testing.T) {
	s, err := Open(t.Context(), filepath.Join(t.TempDir(), "interrupted.db"), ReadWrite)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(t.Context())
	tables := []string{"blocks", "keyframes", "spans", "gaps", "listings", "recorders"}
	steps := storetest.RunInterrupted(t, s, func(step int, batch *market.Batch) error {
		if step < len(tables) {
			execute(t, s, fmt.Sprintf("CREATE TRIGGER fail BEFORE INSERT ON %s BEGIN SELECT RAISE(ABORT, 'no'); END", tables[step]))
			defer execute(t, s, "DROP TRIGGER fail")
		}
		return s.Write(t.Context(), batch)
	})
	if steps != len(tables) {
		t.Errorf("the batch was written in %d steps", steps)
	}
}
