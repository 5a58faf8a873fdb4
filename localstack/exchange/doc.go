// Package exchange stands in for Binance spot on one machine: WebSocket streams and the REST endpoints that a recorder
// needs, fed by a recording (Replay) or by made-up markets (Synthetic). It spells the exchange's protocol by itself and
// shares no code with package binance, so that a mistake in the one is not repeated in the other.
//
// # Position
//
// A Server has one publisher, which takes one step of its source after the other and hands the frames to the queues of
// the connections that subscribed to them. A step, a subscription and a snapshot exclude each other. Hence a snapshot
// holds every event that was sent before it and none that is sent after it, except one that overlaps it, as on the
// exchange.
//
// The first step is taken when the first subscription is in place (or those named by WithStartStreams), so that a
// client sees a source from its beginning. At speed 0 the publisher waits while a connection's queue is full or nobody
// is subscribed: nothing is dropped, and the slowest client sets the pace. At any other speed the source's own clock
// does, and a client that falls more than a queue behind is disconnected, as the exchange does it.
//
// # Limits
//
// What the exchange enforces is enforced: 300 connections tried within five minutes, 1024 streams and five messages a
// second on a connection, request weight (429, and 418 for who goes on). Stats tells how near clients came; all of them
// count as one address.
//
// # Faults
//
// A fault (package faults) is injected by Inject, or by the plan of WithFaults. Faults act on what is sent and answered,
// never on what happens: Book, Trades and the observer stay the truth. An event on its way passes
//
//	source ─▶ observer ─▶ the clock's step ─▶ faults of all connections ─▶ each connection: its own faults ─▶ filter ─▶ queue
//
// so that a fault of all connections strikes the same events for all. Two of them reach back to the source: a market in
// BREAK or a quiet one really stands still, and the ids of its events go on afterwards without a hole. The trades of a gap
// happened, and Trades has them, but nobody is told of them, over REST neither. REST has a port of its own, so that it
// can be refused while streams go on.
//
// Every data frame and every control reply also passes the FrameFilter on its way into a connection's queue, and every
// REST request passes the handler of WithREST. CutConnections cuts all sockets at once.
package exchange
