package feed

import (
	"slices"
	"sync"
	"time"

	"tapedeck/shared/binance"
)

const (
	// answerTimeout bounds the wait for the reply to a request. It covers the seconds in which a full connection's
	// requests are sent.
	answerTimeout = 15 * time.Second

	// complaintWindow is how long a stream that was subscribed anew is on probation.
	complaintWindow = time.Minute
)

// requests are the control frames of a link that the exchange has not answered.
type requests struct {
	acknowledged chan struct{} // closed when all streams are subscribed

	mu         sync.Mutex
	late       func() // called when a reply does not come
	stopped    bool
	lastID     int64
	open       map[int64]*time.Timer // by id
	firstOpen  int                   // of the first subscriptions
	firstID    int64                 // up to which ids belong to the first subscriptions
	complaints map[int]time.Time     // of mute streams, by index
}

func (r *requests) init(late func()) {
	r.acknowledged = make(chan struct{})
	r.late = late
	r.open, r.complaints = make(map[int64]*time.Timer), make(map[int]time.Time)
}

// add returns the id for a request that is sent soon.
func (r *requests) add() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lastID++
	if !r.stopped {
		r.open[r.lastID] = time.AfterFunc(answerTimeout, r.late)
	}
	return r.lastID
}

// begun notes that all requests so far are those of the first subscriptions.
func (r *requests) begun() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.firstID, r.firstOpen = r.lastID, len(r.open)
	if r.firstOpen == 0 {
		close(r.acknowledged)
	}
}

// answer takes the reply to a request. An error that names no request is one of whichever waits.
func (r *requests) answer(id int64, failed bool) (known bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	timer, ok := r.open[id]
	if !ok {
		return failed && id == 0 && len(r.open) > 0
	}
	timer.Stop()
	delete(r.open, id)
	if id <= r.firstID && !failed {
		if r.firstOpen--; r.firstOpen == 0 {
			close(r.acknowledged)
		}
	}
	return true
}

// complaint notes that a stream is mute, and returns whether it was said before not long ago.
func (r *requests) complaint(stream int) (again bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	last, ok := r.complaints[stream]
	r.complaints[stream] = time.Now()
	return ok && time.Since(last) < complaintWindow
}

// stop stops waiting for replies.
func (r *requests) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopped = true
	for _, timer := range r.open {
		timer.Stop()
	}
}

// subscribe asks for the streams that the address did not carry. The handshake acknowledged those that it did.
func (l *link) subscribe() {
	streams := l.group.streams
	for part := range slices.Chunk(streams[min(len(streams), maxURLStreams):], maxURLStreams) {
		l.outbox.request(binance.SubscribeRequest(l.requests.add(), part))
	}
	l.requests.begun()
}

// restore has a mute stream subscribed anew or, when that did not help, the link replaced.
func (l *link) restore(stream int) {
	if l.requests.complaint(stream) {
		l.fault(faultMute)
		return
	}
	l.outbox.resubscribe(stream)
}

// requestMute asks for streams anew, as many as fit a message, when it is their turn.
func (l *link) requestMute() {
	mute := l.outbox.takeMute()
	if len(mute) == 0 {
		return
	}
	names := make([]string, len(mute))
	for i, stream := range mute {
		names[i] = l.group.streams[stream]
	}
	l.group.meter.resubscribes.Add(float64(len(mute)))
	l.log.Warn("streams are mute: subscribing anew", "streams", names)
	l.outbox.request(
		binance.UnsubscribeRequest(l.requests.add(), names),
		binance.SubscribeRequest(l.requests.add(), names),
	)
}

// answered takes the reply to a request.
func (l *link) answered(reply *binance.Reply) {
	failed := reply.Message != ""
	known := l.requests.answer(reply.ID, failed)
	if failed || !known {
		l.group.meter.complain.Do(func() {
			l.log.Warn("a request was refused, or a reply is one to no request", "asked", known,
				"id", reply.ID, "code", reply.Code, "message", clip(reply.Message))
		})
	}
	if failed && known {
		l.fault(faultRefused) // its markets would look quiet
	}
}
