package storm

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"os/exec"
	"strconv"
	"sync"
	"testing"
	"time"

	"tapedeck/localstack/exchange"
	"tapedeck/localstack/faults"
	"tapedeck/shared/market"
	"tapedeck/shared/mongostore/mongotest"
)

const shortStorm = 12 * time.Second

// TestStorm lets everything go wrong at random, but by a seed, and compares what is held in the end with what happened.
func TestStorm(t *testing.T) {
	t.Parallel()
	if *duration > 0 {
		seed := *seedFlag
		if seed == 0 {
			seed = rand.Uint64()
		}
		storm(seed, *duration).run(t)
		return
	}
	seeds := []uint64{1, 2, rand.Uint64()}
	if *seedFlag != 0 {
		seeds = []uint64{*seedFlag}
	}
	for _, seed := range seeds {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			t.Parallel()
			storm(seed, shortStorm).run(t)
		})
	}
}

// TestStormOverMongoDB is a storm over a MongoDB behind a proxy, with faults of the connections to it and of the engine.
func TestStormOverMongoDB(t *testing.T) {
	t.Parallel()
	p := storm(cmp.Or(*seedFlag, 1), cmp.Or(*duration, shortStorm))
	p.mongo = mongotest.Start(t)
	p.run(t)
}

// storm plans one: faults of the exchange, kills of the ingester and outages of the store.
func storm(seed uint64, length time.Duration) plan {
	dice := rand.New(rand.NewPCG(seed, 0))
	p := plan{seed: seed, length: length, markets: 3 + dice.IntN(4), env: []string{"AUDIT_INTERVAL=5s"}}
	// So short a storm starts the ingester as often as an hour does, and asks for as many snapshots.
	longest, every := 2500*time.Millisecond, 700*time.Millisecond
	p.weight, p.sunshine = 30_000, 4*time.Second
	if length > time.Minute {
		longest, every = 10*time.Second, 3*time.Second
		p.weight, p.sunshine = 0, 90*time.Second // what is fetched again may have to wait for the minute's budget
	}
	p.script = faults.Script{Draws: []faults.Draw{{
		Seed: seed, At: shelter, Every: every, For: length - shelter - longest, Longest: longest,
	}}}.Within(length, exchange.SymbolNames(p.markets)...)
	p.during = func(ctx context.Context, s *trial) {
		ctx, cancel := context.WithCancel(ctx)
		var outages sync.WaitGroup
		defer outages.Wait()
		defer cancel()
		outages.Go(func() { s.store.outages(ctx, s) })
		s.crashes(ctx)
	}
	return p
}

// crashes kills or stops the ingester now and then, and starts it again, until ctx ends.
func (s *trial) crashes(ctx context.Context) {
	least, most := 1500*time.Millisecond, 5*time.Second
	if s.length > time.Minute {
		least, most = 2*time.Second, time.Minute
	}
	for {
		if s.wait(ctx, least+time.Duration(s.dice.Int64N(int64(most-least)))) {
			return
		}
		at := time.Now()
		how := "killed"
		if s.dice.IntN(4) == 0 {
			how = "stopped"
			err := s.process.terminate(stopTimeout + 5*time.Second)
			if _, itself := errors.AsType[*exec.ExitError](err); itself {
				// In the middle of everything it may say that it had frames which it could not record: they are in the ledger.
				s.weather.note("the ingester, asked to stop, ended with %v", err)
			} else if err != nil {
				s.Errorf("the ingester, asked to stop at %.3f: %v", at.Sub(s.weather.start).Seconds(), err)
			}
		} else {
			s.process.kill()
		}
		s.live(false)
		s.weather.note("the ingester is %s", how)
		s.wait(ctx, time.Duration(s.dice.Int64N(int64(2*time.Second))))
		if err := s.start(); err != nil {
			s.Fatal(err)
		}
		now := time.Now()
		s.weather.add(trouble{
			what: "the ingester was " + how, from: at, to: now.Add(aftermath), causes: []market.Cause{market.CauseRestart},
		})
	}
}
