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
// # Seams for faults
//
// Every data frame and every control reply passes the FrameFilter on its way into a connection's queue, and every REST
// request passes the handler of WithREST. CutConnections cuts all sockets at once.
package exchange
