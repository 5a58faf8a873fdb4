package storm

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"os/exec"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"tapedeck/localstack/exchange"
	"tapedeck/localstack/faults"
	"tapedeck/shared/market"
	"tapedeck/shared/mongostore/mongotest"
)

const shortStorm = 15 * time.Second

// fixedSeeds are those of the short storms that are always the same. Together they have every kind of fault.
var fixedSeeds = []uint64{1, 2}

// TestStorm lets everything go wrong at random, but by a seed, and compares what is held in the end with what happened.
func TestStorm(t *testing.T) {
	t.Parallel()
	if *duration > 0 {
		seed := *seedFlag
		if seed == 0 {
			seed = rand.Uint64()
		}
		storm(seed, *duration, nil).run(t)
		return
	}
	seeds := append(slices.Clone(fixedSeeds), rand.Uint64())
	if *seedFlag != 0 {
		seeds = []uint64{*seedFlag}
	}
	for _, seed := range seeds {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			t.Parallel()
			storm(seed, shortStorm, nil).run(t)
		})
	}
}

// TestStormOverMongoDB is a storm over a MongoDB behind a proxy, with faults of the connections to it and of the engine.
func TestStormOverMongoDB(t *testing.T) {
	t.Parallel()
	storm(cmp.Or(*seedFlag, fixedSeeds[0]), cmp.Or(*duration, shortStorm), mongotest.Start(t)).run(t)
}

// harmless are faults that must not cost an event, nor an entry of the ledger, where nothing else is wrong.
var harmless = []faults.Fault{
	{Kind: faults.Reorder, At: 100 * time.Millisecond, For: heldBack, Stream: "@depth"},
	{Kind: faults.Reorder, At: 200 * time.Millisecond, For: heldBack, Stream: "@trade"},
	{Kind: faults.Double, At: 300 * time.Millisecond, Count: 20},
	{Kind: faults.Delay, At: 400 * time.Millisecond, For: heldBack, By: heldBack / 2},
}

// storm plans one: faults of the exchange, kills of the ingester and outages of the store, which is a file unless there is
// a server.
func storm(seed uint64, length time.Duration, mongo *mongotest.Server) plan {
	dice := rand.New(rand.NewPCG(seed, 0))
	p := plan{seed: seed, length: length, markets: 3 + dice.IntN(4), env: []string{"AUDIT_INTERVAL=5s", "BACKFILL_RETRY_INTERVAL=5s"}, mongo: mongo}
	// So short a storm starts the ingester as often as an hour does, and asks for as many snapshots.
	longest, every := 2500*time.Millisecond, 700*time.Millisecond
	p.weight, p.sunshine = 30_000, 4*time.Second
	if length > time.Minute {
		longest, every = 10*time.Second, 3*time.Second
		p.weight, p.sunshine = 0, 90*time.Second // what is fetched again may have to wait for the minute's budget
	}
	draw := faults.Draw{Seed: seed, At: shelter, Every: every, For: length - shelter - longest, Longest: longest}
	if i := slices.Index(fixedSeeds, seed); i >= 0 && length <= time.Minute {
		draw.Kinds, draw.Deal = hand(i, mongo != nil), true
		draw.Every = draw.For / time.Duration(len(draw.Kinds)+6) // so that all of them have their turn
	}
	p.script = faults.Script{Faults: harmless, Draws: []faults.Draw{draw}}.Within(length, exchange.SymbolNames(p.markets)...)
	p.violent = true
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

// The short storms that are always the same plan every kind of fault.
func TestFixedSeeds(t *testing.T) {
	t.Parallel()
	for _, mongo := range []*mongotest.Server{nil, {}} {
		planned := map[faults.Kind]bool{}
		for _, seed := range fixedSeeds {
			for _, f := range storm(seed, shortStorm, mongo).script.Faults {
				planned[f.Kind] = true
			}
		}
		for _, k := range faults.Kinds("") {
			if !planned[k.Kind] && (k.Side == faults.SideExchange || mongo != nil) {
				t.Errorf("over MongoDB: %v: %s is not planned", mongo != nil, k.Kind)
			}
		}
	}
}

// hand returns the kinds of fault that a fixed seed is dealt: its share of the exchange's, and all of the store's if it has
// any.
func hand(of int, store bool) (kinds []faults.Kind) {
	for i, k := range faults.Kinds(faults.SideExchange) {
		if i%len(fixedSeeds) == of {
			kinds = append(kinds, k.Kind)
		}
	}
	if store {
		for _, k := range faults.Kinds(faults.SideStore) {
			kinds = append(kinds, k.Kind)
		}
	}
	return kinds
}

// crashes kills or stops the ingester now and then, and starts it again, until ctx ends.
func (s *trial) crashes(ctx context.Context) {
	least, most := time.Second, 5*time.Second
	if s.length > time.Minute {
		least, most = 2*time.Second, time.Minute
	}
	if s.wait(ctx, sheltered+durable) { // so that something is held
		return
	}
	for {
		if s.wait(ctx, least+time.Duration(s.dice.Int64N(int64(most-least)))) {
			return
		}
		how := "killed"
		if s.dice.IntN(4) == 0 && slices.ContainsFunc(s.lives, func(l life) bool { return l.killed }) { // once at least it is killed
			how = "stopped"
		}
		s.crash(ctx, how)
	}
}

// crash ends the ingester, and starts it again after a while.
func (s *trial) crash(ctx context.Context, how string) {
	at, unrecorded := time.Now(), false
	if how == "killed" {
		s.process.kill()
	} else {
		err := s.process.terminate(stopTimeout + 5*time.Second)
		if _, itself := errors.AsType[*exec.ExitError](err); itself {
			// In the middle of everything it may say that it had frames which it could not record: they are in the ledger.
			s.weather.note("the ingester, asked to stop, ended with %v", err)
			unrecorded = true
		} else if err != nil {
			s.Errorf("the ingester, asked to stop at %.3f: %v", at.Sub(s.weather.start).Seconds(), err)
		}
	}
	l := s.live()
	l.killed, l.unrecorded = how == "killed", unrecorded
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
