package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"tapedeck/ingester/internal/feed"
	"tapedeck/ingester/internal/ops"
	"tapedeck/ingester/internal/recorder"
	"tapedeck/ingester/internal/sink"
	"tapedeck/ingester/internal/spool"
	"tapedeck/shared/binance"
	"tapedeck/shared/market"
	"tapedeck/shared/mongostore"
	"tapedeck/shared/sqlitestore"
)

// Bounds of what comes after everything is written: closing the server for operators, and then the store. With
// Config.ShutdownTimeout they have to stay below the time after which a process is killed.
const (
	closeServerTimeout = time.Second
	closeStoreTimeout  = 5 * time.Second
)

// store is what the ingester needs of a store.
type store interface {
	sink.Store
	Close(ctx context.Context) error
}

// openStore opens the store that is configured. It need not be there yet, nor be one that can be written to.
func openStore(ctx context.Context, cfg *Config) (store, error) {
	if cfg.Store.SQLitePath != "" {
		return sqlitestore.Open(ctx, cfg.Store.SQLitePath, sqlitestore.ReadWrite)
	}
	return mongostore.Open(ctx, cfg.Store.MongoURI.Reveal(), cfg.Store.MongoDatabase, mongostore.Recorder)
}

// deadLetters is the folder, in the spool's own, of what the store refuses for good.
const deadLetters = "dead-letters"

// openSpool opens the spool, which no other process may have.
func openSpool(cfg *Config, log *slog.Logger) (*spool.Spool, error) {
	return spool.Open(spool.Config{
		Dir: cfg.Spool.Dir, MaxBytes: int64(cfg.Spool.Bytes), BufferBytes: cfg.Spool.BufferBytes,
		DropOldest: cfg.Spool.DropOldest,
	}, log)
}

// sinkConfig returns how the sink works.
func sinkConfig(cfg *Config) sink.Config {
	c := sink.Config{
		Wait: cfg.Backpressure, BlockTime: cfg.FlushInterval, SpoolBytes: int64(cfg.Spool.Bytes),
		DeadLetters: filepath.Join(cfg.Spool.Dir, deadLetters),
	}
	for _, m := range cfg.Markets {
		for _, stream := range []market.Stream{market.Depth, market.Trades} {
			c.Series = append(c.Series, market.Series{Market: m, Stream: stream})
		}
	}
	return c
}

// ingester is everything that Run wires together.
type ingester struct {
	cfg       *Config
	feed      *feed.Feed
	inboxes   []*recorder.Inbox
	recorders []*recorder.Recorder
	reporter  *recorder.Reporter
	sink      *sink.Sink
}

// Run records until ctx ends, and then stops in this order, of which steps 2 to 4 share Config.ShutdownTimeout:
//
//  1. the sockets are closed;
//  2. what waits in the inboxes is recorded, and blocks are cut;
//  3. the spool is synced: from here on nothing can be lost;
//  4. what is in the spool goes on to the store, until all of it is there or the time is over;
//  5. the server for operators and the store are closed;
//  6. the spool is closed, and with that its lock released.
//
// What is left in the spool goes to the store after the next start; that is no error. It returns an error when
// something that was received was not recorded, or is neither in the store nor on disk. It returns one before it
// connects to anything when another process has the spool.
func Run(ctx context.Context, cfg *Config, log *slog.Logger) (err error) {
	queue, err := openSpool(cfg, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, queue.Close()) }()
	store, err := openStore(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeStoreTimeout)
		defer cancel()
		if err := store.Close(ctx); err != nil { // what it took is there, and the rest is in the spool
			log.Warn("the store cannot be closed", "error", err)
		}
	}()
	registry := ops.NewRegistry(buildVersion())
	records, err := sink.New(store, queue, sinkConfig(cfg), sink.NewMetrics(registry), log)
	if err != nil {
		return err
	}
	in := wire(cfg, records, log, feed.NewMetrics(registry), recorder.NewMetrics(registry))
	registry.MustRegister(recorder.NewCollector(in.recorders))
	server, err := ops.Listen(ctx, cfg.OpsAddr, ops.Handler(registry, in.checks()), log)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeServerTimeout)
		defer cancel()
		server.Close(ctx)
	}()
	log.Info("recording", "markets", len(cfg.Markets), "recorder", cfg.Name, "version", buildVersion(),
		"mongodb_uri", cfg.Store.MongoURI, "sqlite_path", cfg.Store.SQLitePath, "spool_dir", cfg.Spool.Dir)
	err = in.run(ctx, log)
	if left := queue.Stats(); left.DiskRecords > 0 {
		log.Warn("the store does not have everything; the rest is in the spool and follows after the next start",
			"batches", left.DiskRecords, "disk_bytes", left.DiskBytes, "store", in.sink.StoreProblem())
	}
	return err
}

// wire makes all parts in front of the sink.
func wire(
	cfg *Config, records *sink.Sink, log *slog.Logger, feedMetrics *feed.Metrics, recorderMetrics *recorder.Metrics,
) *ingester {
	in := &ingester{cfg: cfg, sink: records}
	rest := binance.NewREST(cfg.RESTURL, nil, binance.NewBudget(recorderMetrics.ObserveRequest))
	snapshots := recorder.NewSnapshots(rest, rest.Background(), cfg.SnapshotLimit, recorderMetrics)
	recorderConfig := recorder.Config{
		FlushInterval: cfg.FlushInterval, KeyframeBlocks: cfg.KeyframeBlocks,
		AuditInterval: cfg.AuditInterval, BackfillTrades: int64(cfg.BackfillTrades), BackfillRetry: cfg.BackfillRetry,
		Wait: cfg.Backpressure, Witness: cfg.Witness,
		Restore: func(m market.Market, stream market.Stream) { in.feed.Restore(m, stream) },
	}
	memory := recorder.NewMemory(cfg.QueueBytes, len(cfg.Markets))
	var targets []feed.Target
	for _, m := range cfg.Markets {
		inbox := recorder.NewInbox(memory, cfg.Backpressure)
		in.inboxes = append(in.inboxes, inbox)
		r := recorder.New(m, inbox, in.sink, snapshots, recorderConfig, recorderMetrics, log)
		in.recorders = append(in.recorders, r)
		targets = append(targets, feed.Target{Market: m, Inbox: inbox, SyncedFor: r.SyncedFor})
	}
	in.feed = feed.New(targets, feed.Config{
		URL: cfg.StreamURL, Witness: cfg.Witness, MaxStreams: cfg.MaxStreams,
		Connections: cfg.Connections, RotateAfter: cfg.RotateAfter, Overlap: cfg.RotateOverlap,
	}, feedMetrics, log)
	in.reporter = &recorder.Reporter{
		Name: cfg.Name, Version: buildVersion(), StartedAt: market.TimeOf(time.Now()),
		Recorders: in.recorders, Sink: in.sink, Lister: rest, Log: log,
	}
	return in
}

// checks returns what /readyz asks.
func (in *ingester) checks() []ops.Check {
	text := func(problem func() error) func() string {
		return func() string {
			if err := problem(); err != nil {
				return err.Error()
			}
			return ""
		}
	}
	checks := []ops.Check{
		{Name: "store", Problem: text(in.sink.StoreProblem)},
		{Name: "spool", Problem: text(in.sink.SpoolProblem)},
	}
	for i, m := range in.cfg.Markets {
		checks = append(checks, ops.Check{Name: m.String(), Problem: func() string {
			if state := in.recorders[i].Status().State; state != market.StateSynced {
				return string(state)
			}
			return ""
		}})
	}
	return checks
}

// run runs all parts until ctx ends, and stops them in order.
func (in *ingester) run(ctx context.Context, log *slog.Logger) error {
	// What goes on after ctx ends has a life of its own, which ends a while later.
	drain, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	defer giveUp()
	context.AfterFunc(ctx, func() {
		log.Info("stopping", "timeout", in.cfg.ShutdownTimeout)
		stop := time.AfterFunc(in.cfg.ShutdownTimeout, giveUp)
		context.AfterFunc(drain, func() { stop.Stop() })
	})

	var recording, reporting, writing sync.WaitGroup
	writing.Go(func() { in.sink.Run(drain) })
	var unrecorded atomic.Int64
	for _, r := range in.recorders {
		recording.Go(func() { unrecorded.Add(int64(r.Run(drain))) })
	}
	reporting.Go(func() { in.reporter.Run(ctx) })

	in.feed.Run(ctx)
	for _, inbox := range in.inboxes {
		inbox.Close()
	}
	recording.Wait()
	reporting.Wait()
	in.reporter.Report(drain, true)
	in.sink.Close(drain)
	writing.Wait()
	if n := unrecorded.Load(); n > 0 {
		return fmt.Errorf("%d %w", n, errUnwritten)
	}
	return nil
}
