package storetest_test

import (
	"errors"
	"testing"

	"tapedeck/shared/market"
	"tapedeck/shared/storetest"
)

func TestMemory(t *testing.T) {
	storetest.Run(t, func(*testing.T) func(*testing.T) storetest.Store {
		m := storetest.NewMemory()
		return func(*testing.T) storetest.Store { return m }
	})
}

func TestMemoryFails(t *testing.T) {
	m := storetest.NewMemory()
	down := market.Errorf(market.KindUnavailable, "down")
	m.Fail(down)
	if err := m.Write(t.Context(), &market.Batch{}); !errors.Is(err, down) {
		t.Errorf("Write: %v", err)
	}
	if _, err := m.Listings(t.Context()); !errors.Is(err, down) {
		t.Errorf("Listings: %v", err)
	}
	m.Fail(nil)
	if err := m.Ping(t.Context()); err != nil {
		t.Errorf("Ping: %v", err)
	}
}
