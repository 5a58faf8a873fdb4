package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"tapedeck/ingester/internal/feed"
	"tapedeck/ingester/internal/ops"
	"tapedeck/ingester/internal/recorder"
	"tapedeck/ingester/internal/sink"
	"tapedeck/shared/binance"
	"tapedeck/shared/market"
	"tapedeck/shared/mongostore"
	"tapedeck/shared/sqlitestore"
)

// closeTimeout bounds what comes after everything is written: closing the store and the server for operators.
const closeTimeout = 5 * time.Second

// store is what the ingester needs of a store.
type store interface {
	sink.Store
	Close(ctx context.Context) error
}

// openStore opens the store that is configured. A MongoDB need not be there yet.
func openStore(ctx context.Context, cfg *Config) (store, error) {
	if cfg.Store.SQLitePath != "" {
		return sqlitestore.Open(ctx, cfg.Store.SQLitePath, sqlitestore.ReadWrite)
	}
	return mongostore.Open(ctx, cfg.Store.MongoURI.Reveal(), cfg.Store.MongoDatabase, mongostore.Recorder)
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

// Run records until ctx ends, and then stops in this order: sockets are closed; what waits in the inboxes is recorded;
// blocks are cut; the sink is drained; the store is closed. It returns an error when something that was received could
// not be written within Config.ShutdownTimeout.
func Run(ctx context.Context, cfg *Config, log *slog.Logger) (err error) {
	store, err := openStore(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		err = errors.Join(err, store.Close(ctx))
	}()
	registry := ops.NewRegistry(buildVersion())
	in := wire(cfg, store, log, feed.NewMetrics(registry), recorder.NewMetrics(registry), sink.NewMetrics(registry))
	registry.MustRegister(recorder.NewCollector(in.recorders))
	server, err := ops.Listen(ctx, cfg.OpsAddr, ops.Handler(registry, in.checks()), log)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		err = errors.Join(err, server.Close(ctx))
	}()
	log.Info("recording", "markets", len(cfg.Markets), "recorder", cfg.Name, "version", buildVersion(),
		"mongodb_uri", cfg.Store.MongoURI, "sqlite_path", cfg.Store.SQLitePath)
	return in.run(ctx, log)
}

// wire makes all parts.
func wire(
	cfg *Config, to sink.Store, log *slog.Logger,
	feedMetrics *feed.Metrics, recorderMetrics *recorder.Metrics, sinkMetrics *sink.Metrics,
) *ingester {
	in := &ingester{cfg: cfg}
	sinkConfig := sink.Config{MaxBytes: cfg.SinkBytes, Wait: cfg.Backpressure}
	for _, m := range cfg.Markets {
		for _, stream := range []market.Stream{market.Depth, market.Trades} {
			sinkConfig.Series = append(sinkConfig.Series, market.Series{Market: m, Stream: stream})
		}
	}
	in.sink = sink.New(to, sinkConfig, sinkMetrics, log)

	rest := binance.NewREST(cfg.RESTURL, nil, binance.NewBudget(recorderMetrics.ObserveRequest))
	snapshots := recorder.NewSnapshots(rest, rest.Background(), cfg.SnapshotLimit, recorderMetrics)
	recorderConfig := recorder.Config{
		FlushInterval: cfg.FlushInterval, KeyframeBlocks: cfg.KeyframeBlocks,
		PendingBytes: cfg.QueueBytes, Wait: cfg.Backpressure, Witness: cfg.Witness,
	}
	var targets []feed.Target
	for _, m := range cfg.Markets {
		inbox := recorder.NewInbox(cfg.QueueBytes, cfg.Backpressure)
		in.inboxes = append(in.inboxes, inbox)
		in.recorders = append(in.recorders, recorder.New(m, inbox, in.sink, snapshots, recorderConfig, recorderMetrics, log))
		targets = append(targets, feed.Target{Market: m, Inbox: inbox})
	}
	in.feed = feed.New(targets, feed.Config{URL: cfg.StreamURL, Witness: cfg.Witness, MaxStreams: cfg.MaxStreams}, feedMetrics, log)
	in.reporter = &recorder.Reporter{
		Name: cfg.Name, Version: buildVersion(), StartedAt: market.TimeOf(time.Now()),
		Recorders: in.recorders, Sink: in.sink, Lister: rest, Log: log,
	}
	return in
}

// checks returns what /readyz asks.
func (in *ingester) checks() []ops.Check {
	checks := []ops.Check{{Name: "store", Problem: func() string {
		if err := in.sink.Problem(); err != nil {
			return err.Error()
		}
		return ""
	}}}
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
	in.sink.Close()
	writing.Wait()
	err := in.sink.Unwritten()
	if n := unrecorded.Load(); n > 0 {
		err = errors.Join(err, fmt.Errorf("%d %w", n, errUnwritten))
	}
	return err
}
