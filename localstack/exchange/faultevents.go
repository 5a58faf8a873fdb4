package exchange

import (
	"bytes"
	"slices"
	"strconv"
	"time"

	"github.com/gorilla/websocket"

	"tapedeck/localstack/faults"
)

const (
	// maxHeldBytes bounds what a fault holds back; beyond that the oldest goes out early.
	maxHeldBytes = 64 << 20
	// maxReorder is how long an event waits for the one that it changes places with.
	maxReorder = 10 * time.Second
)

// message is an event on its way to connections.
type message struct {
	frame  Frame
	note   note
	form   messageForm
	broken bool // it is not the event any more
}

// messageForm is how a message is put on the wire.
type messageForm uint8

const (
	asText   messageForm = iota
	asBinary             // a binary message
	asHuge               // text of any size
	asTorn               // a part of a frame, the last of its connection
)

// stage is a fault of events under way. A message passes the stages that strike all connections, is handed to those that
// listen, and passes the stages of each of them. Server.mu guards it.
type stage struct {
	server *Server
	conn   *conn // whose it is; nil = all connections alike
	fault  faults.Fault
	left   int             // how much it may strike yet; -1 = no bound
	healed map[string]bool // streams that a stall has ended for

	held      []held // delayed, in order; or waiting for its neighbour
	heldBytes int
	wake      chan struct{} // there is more to delay
	over      bool
}

// held is a message that is sent later.
type held struct {
	message
	due time.Time
}

// injectStage strikes events from the next one on.
func (s *Server) injectStage(f faults.Fault) error {
	owners := []*conn{nil}
	if f.Conn > 0 || f.Kind == faults.Stall && f.Until != faults.UntilTime {
		targets, err := s.targets(&f)
		if err != nil {
			return err
		}
		owners = targets
	}
	for _, c := range owners {
		st := &stage{server: s, conn: c, fault: f, left: -1, wake: make(chan struct{}, 1)}
		if f.Count > 0 {
			st.left = f.Count
		}
		list := st.list()
		*list = append(*list, st)
		s.faults.staged++
		switch {
		case f.Kind == faults.Delay:
			s.running.Go(st.release)
		case f.Kind == faults.Reorder && f.For == 0:
			s.after(maxReorder, st.finish)
		}
		s.after(f.For, st.finish)
	}
	return nil
}

// list returns where the stage stands among others.
func (st *stage) list() *[]*stage {
	if st.conn != nil {
		return &st.conn.stages
	}
	return &st.server.faults.stages
}

// finish ends the stage; what it holds goes out in order.
func (st *stage) finish() {
	if st.over {
		return
	}
	st.over = true
	for _, h := range st.held {
		st.forward(h.message)
	}
	st.held = nil
	remove(st.list(), st)
	st.server.faults.staged--
	st.poke()
}

// heal ends what strikes a connection that is gone or mute. The caller holds mu.
func (s *Server) heal(c *conn) {
	for _, st := range c.stages {
		st.over, st.held = true, nil
		st.poke()
	}
	s.faults.staged -= len(c.stages)
	c.stages = nil
}

func (st *stage) poke() {
	select {
	case st.wake <- struct{}{}:
	default:
	}
}

// subscribedAnew ends stalls that last until then. The caller holds Server.mu.
func (c *conn) subscribedAnew(stream string) {
	for _, st := range c.stages {
		if st.fault.Until == faults.UntilSubscribe {
			if st.healed == nil {
				st.healed = map[string]bool{}
			}
			st.healed[stream] = true
		}
	}
}

// emitFaulty is emit while there are faults. The caller holds mu.
func (s *Server) emitFaulty(f Frame, n note) {
	if s.faults.clock.concerns(s.source.Time()) {
		f = s.faults.clock.rewrite(f)
	}
	s.pass(nil, 0, message{frame: f, note: n})
}

// pass takes a message through the stages from i on: those of a connection, or for nil those of all.
func (s *Server) pass(c *conn, i int, m message) {
	list := s.faults.stages
	if c != nil {
		list = c.stages
	}
	for ; i < len(list); i++ {
		if st := list[i]; st.strikes(&m) {
			st.strike(m)
			return
		}
	}
	if c != nil {
		s.put(c, m)
		return
	}
	if len(m.frame.Stream) == 0 {
		for c := range s.conns {
			if len(c.streams) > 0 {
				s.pass(c, 0, m)
			}
		}
		return
	}
	for _, c := range s.topics[string(m.frame.Stream)] {
		s.pass(c, 0, m)
	}
}

// put queues a message for a connection, in whatever form.
func (s *Server) put(c *conn, m message) {
	data := m.frame.Raw
	if c.combined {
		data = m.frame.Combined
	}
	switch m.form {
	case asText:
		s.deliver(c, m.frame)
		if !m.broken {
			c.noteQueued(m.note)
		}
	case asBinary:
		c.queueOdd(websocket.BinaryMessage, data)
	case asHuge:
		c.queueOdd(websocket.TextMessage, data)
	case asTorn:
		c.tear(data)
	}
}

// strikes reports whether the stage does something to a message.
func (st *stage) strikes(m *message) bool {
	if m.broken && st.fault.Kind != faults.Stall && st.fault.Kind != faults.Delay {
		return false
	}
	stream := string(m.frame.Stream)
	return !st.healed[stream] && st.fault.Strikes(stream)
}

// forward hands a message to the stages behind this one.
func (st *stage) forward(m message) {
	st.server.pass(st.conn, slices.Index(*st.list(), st)+1, m)
}

// strike does to a message what the fault is about. The stage ends when it has struck enough.
func (st *stage) strike(m message) {
	switch st.fault.Kind {
	case faults.Delay:
		st.delay(m)
		return
	case faults.Reorder:
		st.reorder(m)
	case faults.Gap:
		st.left -= st.server.vanish(m.frame)
	case faults.Stall, faults.Drop:
		st.left--
	case faults.Double:
		st.forward(m)
		st.forward(m)
		st.left--
	default:
		st.forward(st.server.breakMessage(m, &st.fault))
		if st.fault.Keep {
			st.forward(m)
		}
		st.left--
	}
	if st.fault.Count > 0 && st.left <= 0 && len(st.held) == 0 {
		st.finish()
	}
}

// hold keeps a copy of a message.
func (st *stage) hold(m message, due time.Time) {
	m.frame = Frame{
		Stream: bytes.Clone(m.frame.Stream), Combined: bytes.Clone(m.frame.Combined), Raw: bytes.Clone(m.frame.Raw),
	}
	st.held = append(st.held, held{m, due})
	st.heldBytes += len(m.frame.Combined)
}

// reorder keeps an event back until the next one of its stream has gone out.
func (st *stage) reorder(m message) {
	i := slices.IndexFunc(st.held, func(h held) bool { return bytes.Equal(h.frame.Stream, m.frame.Stream) })
	if i >= 0 {
		earlier := st.held[i].message
		st.held = slices.Delete(st.held, i, i+1)
		st.forward(m)
		st.forward(earlier)
		st.left--
		return
	}
	if st.fault.Count > 0 && len(st.held) >= st.left { // enough pairs are open already
		st.forward(m)
		return
	}
	st.hold(m, time.Time{})
}

// delay keeps a message until it is due.
func (st *stage) delay(m message) {
	st.hold(m, time.Now().Add(st.fault.By))
	for st.heldBytes > maxHeldBytes {
		st.sendOldest()
	}
	st.poke()
}

func (st *stage) sendOldest() {
	m := st.held[0].message
	st.held = st.held[1:]
	st.heldBytes -= len(m.frame.Combined)
	st.forward(m)
}

// release sends what was delayed when it is due, until the fault is over.
func (st *stage) release() {
	s := st.server
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		s.mu.Lock()
		now := time.Now()
		for len(st.held) > 0 && !st.held[0].due.After(now) {
			st.sendOldest()
		}
		s.flush()
		over, idle := st.over, len(st.held) == 0
		if !idle {
			timer.Reset(st.held[0].due.Sub(now))
		}
		s.mu.Unlock()
		if over {
			return
		}
		due := timer.C
		if idle {
			due = nil
		}
		select {
		case <-due:
		case <-st.wake:
		case <-s.ctx.Done():
			return
		}
	}
}

// vanish makes the stand-in forget that it could tell of an event and returns how many ids that takes.
func (s *Server) vanish(f Frame) int {
	first, last := idsOf(f.Raw)
	if bytes.HasSuffix(f.Stream, []byte("@trade")) {
		symbol := symbolOf(f.Stream)
		hidden := s.faults.hidden[symbol]
		if len(hidden) == maxTrades {
			hidden = hidden[1:]
		}
		s.faults.hidden[symbol] = append(hidden, first)
	}
	return int(max(last-first+1, 1))
}

// idsOf returns the ids of an event as the exchange writes it; 0 where there are none.
func idsOf(raw []byte) (first, last int64) {
	for key, id := range map[string]*int64{`"U":`: &first, `"u":`: &last, `"t":`: &first} {
		if _, rest, ok := bytes.Cut(raw, []byte(key)); ok {
			c := cursor{text: rest, ok: true}
			*id = c.integer()
		}
	}
	return first, max(first, last)
}

// sbeHead begins a message of the exchange's binary protocol: a depth update of the market data streams.
var sbeHead = []byte{26, 0, 0x13, 0x27, 1, 0, 0, 0}

// breakMessage returns what comes in place of an event.
func (s *Server) breakMessage(m message, f *faults.Fault) message {
	s.faults.strikes++
	raw, combined := m.frame.Raw, m.frame.Combined
	broken := message{frame: Frame{Stream: m.frame.Stream}, broken: true}
	to := func(change func([]byte) []byte) {
		broken.frame.Raw, broken.frame.Combined = change(raw), change(combined)
	}
	switch f.Kind {
	case faults.FrameMalformed: // a bracket that nothing opened
		to(func(text []byte) []byte { return append(bytes.Clone(text[:len(text)-1]), ']') })
	case faults.FrameTruncated:
		to(func(text []byte) []byte { return bytes.Clone(text[:len(text)*2/3]) })
	case faults.FrameTorn:
		broken.form = asTorn
		to(bytes.Clone)
	case faults.FrameBinary:
		broken.form = asBinary
		to(func(text []byte) []byte { return append(bytes.Clone(sbeHead), make([]byte, len(text)/4)...) })
	case faults.FrameHuge:
		broken.form = asHuge
		to(func(text []byte) []byte { return pad(text, f.Size) })
	case faults.FrameSymbol:
		broken.frame = combine(m.frame.Stream, s.swapSymbol(m.frame))
	case faults.FrameIDs:
		broken.frame = combine(m.frame.Stream, absurdIDs(raw, s.faults.strikes))
	default:
	}
	return broken
}

// pad makes an event as long as size by a field that nobody knows.
func pad(text []byte, size int) []byte {
	end := bytes.LastIndexByte(bytes.TrimRight(text, "}"), ']') + 1
	end = max(end, len(bytes.TrimRight(text, "}")))
	const before, after = `,"pad":"`, `"`
	fill := max(size-len(text)-len(before)-len(after), 0)
	padded := make([]byte, 0, max(size, len(text)+len(before)+len(after)))
	padded = append(append(padded, text[:end]...), before...)
	padded = append(padded, bytes.Repeat([]byte{'x'}, fill)...)
	return append(append(padded, after...), text[end:]...)
}

// swapSymbol returns an event as if it was of another market.
func (s *Server) swapSymbol(f Frame) []byte {
	own, other := symbolOf(f.Stream), "WRONGUSDT"
	for _, l := range s.source.Listings() {
		if l.Market.Symbol != own {
			other = l.Market.Symbol
			break
		}
	}
	return bytes.Replace(f.Raw, []byte(`"s":"`+own+`"`), []byte(`"s":"`+other+`"`), 1)
}

// absurdIDs returns an event with ids that cannot be: beyond all, negative, or none.
func absurdIDs(raw []byte, n int) []byte {
	id := []int64{1<<63 - 1, -1, 0}[n%3]
	for _, key := range []string{`"U":`, `"u":`, `"t":`} {
		raw = replaceNumber(raw, key, func(int64) int64 { return id })
	}
	return raw
}

// replaceNumber returns a text in which the integer behind the first occurrence of a key is another one.
func replaceNumber(text []byte, key string, change func(int64) int64) []byte {
	at := bytes.Index(text, []byte(key))
	if at < 0 {
		return text
	}
	at += len(key)
	c := cursor{text: text[at:], ok: true}
	number := c.integer()
	if !c.ok {
		return text
	}
	changed := appendNumber(append(make([]byte, 0, len(text)+8), text[:at]...), change(number))
	return append(changed, c.text...)
}

func appendNumber(dst []byte, n int64) []byte { return strconv.AppendInt(dst, n, 10) }

// combine makes a frame of a payload.
func combine(stream, raw []byte) Frame {
	combined := append(append(append(append([]byte(nil), streamStart...), stream...), dataStart...), raw...)
	return Frame{Stream: stream, Combined: append(combined, '}'), Raw: raw}
}
