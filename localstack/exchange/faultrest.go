package exchange

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"net"
	"net/http"
	"path"
	"slices"
	"strconv"
	"time"

	"tapedeck/localstack/faults"
	"tapedeck/shared/market"
)

// admitHandshake lets a WebSocket handshake through unless a fault or the limit of connections is against it.
func (s *Server) admitHandshake(w http.ResponseWriter, r *http.Request) bool {
	admitted := s.stats.connect(time.Now(), s.connectsPerWindow)
	s.mu.Lock()
	var struck *faults.Fault
	if len(s.faults.handshakes) > 0 {
		h := s.faults.handshakes[0]
		struck = &h.fault
		if h.use() {
			remove(&s.faults.handshakes, h)
		}
	}
	s.mu.Unlock()
	switch {
	case struck != nil && struck.Kind == faults.HandshakeMute:
		s.leaveUnanswered(w, struck.For)
	case struck != nil:
		if d := retryAfter(w, struck); d > 0 {
			s.stats.waitConnecting(time.Now(), d)
		}
		http.Error(w, http.StatusText(struck.Status), struck.Status)
	case !admitted:
		s.log.Warn("too many connections to the exchange stand-in", "remote", r.RemoteAddr)
		http.Error(w, http.StatusText(http.StatusTooManyRequests), http.StatusTooManyRequests)
	default:
		return true
	}
	return false
}

// leaveUnanswered holds a connection open for d, or until its client gives up, and then ends it without a word.
func (s *Server) leaveUnanswered(w http.ResponseWriter, d time.Duration) {
	if !s.enter() {
		return
	}
	defer s.running.Done()
	hijacked, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer hijacked.Close() //nolint:errcheck // nothing was to be said on it
	_ = hijacked.SetReadDeadline(time.Now().Add(d))
	stop := context.AfterFunc(s.ctx, func() { _ = hijacked.SetReadDeadline(time.Now()) })
	defer stop()
	_, _ = hijacked.Read(make([]byte, 1)) // until the client hangs up, the time is over, or the server is closed
}

// withFaults puts the faults of REST before its endpoints.
func (s *Server) withFaults(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.enter() {
			return
		}
		defer s.running.Done()
		s.stats.request(time.Now())
		f := s.strikeRequest(r)
		if f == nil {
			next.ServeHTTP(w, r)
			return
		}
		header := w.Header()
		switch f.Kind {
		case faults.RESTHTML:
			header.Set("Content-Type", "text/html")
			_, _ = w.Write([]byte("<!DOCTYPE html><html><body><h1>Just a moment...</h1></body></html>"))
		case faults.RESTEmpty:
			header.Set("Content-Type", "application/json;charset=UTF-8")
		case faults.RESTStatus:
			s.answerStatus(w, f)
		case faults.RESTTruncated:
			answerOf(next, r).writeHalf(w)
		case faults.RESTLate:
			late := answerOf(next, r)
			timer := time.NewTimer(f.By)
			defer timer.Stop()
			select {
			case <-timer.C:
			case <-r.Context().Done():
			case <-s.ctx.Done():
			}
			late.write(w)
		case faults.RESTRefused:
			panic(http.ErrAbortHandler)
		default:
		}
	})
}

// strikeRequest returns the oldest fault that strikes a request, or nil.
func (s *Server) strikeRequest(r *http.Request) *faults.Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.faults.refusals > 0 { // on the port of the streams, which stays open
		return &faults.Fault{Kind: faults.RESTRefused}
	}
	for _, b := range s.faults.rest {
		f := &b.fault
		if f.Endpoint != "" && f.Endpoint != path.Base(r.URL.Path) ||
			f.Symbol != "" && f.Symbol != r.URL.Query().Get("symbol") {
			continue
		}
		if b.use() {
			remove(&s.faults.rest, b)
		}
		return f
	}
	return nil
}

// retryAfter puts into an answer how long to wait, in whole seconds, and returns it; 0 when that is not told.
func retryAfter(w http.ResponseWriter, f *faults.Fault) time.Duration {
	if f.Retry == 0 {
		return 0
	}
	seconds := int((f.Retry + time.Second - 1) / time.Second)
	w.Header().Set("Retry-After", strconv.Itoa(seconds))
	return time.Duration(seconds) * time.Second
}

// answerStatus answers with a status alone, and how long to wait.
func (s *Server) answerStatus(w http.ResponseWriter, f *faults.Fault) {
	if d := retryAfter(w, f); d > 0 {
		s.stats.wait(time.Now(), d)
	}
	w.Header().Set("Content-Type", "application/json;charset=UTF-8")
	w.WriteHeader(f.Status)
	code, text := -1000, "An unknown error occurred while processing the request."
	if f.Status == http.StatusTooManyRequests || f.Status == http.StatusTeapot {
		code, text = errTooMany.Code, errTooMany.Msg
	}
	_, _ = w.Write([]byte(`{"code":` + strconv.Itoa(code) + `,"msg":"` + text + `"}`))
}

// answer is a reply that is not sent yet.
type answer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

// answerOf lets a handler answer a request.
func answerOf(h http.Handler, r *http.Request) *answer {
	a := &answer{header: http.Header{}, status: http.StatusOK}
	h.ServeHTTP(a, r)
	return a
}

// Header implements http.ResponseWriter, as WriteHeader and Write do.
func (a *answer) Header() http.Header { return a.header }

// WriteHeader keeps the status.
func (a *answer) WriteHeader(status int) { a.status = status }

// Write keeps a part of the body.
func (a *answer) Write(p []byte) (int, error) { return a.body.Write(p) }

// write sends it.
func (a *answer) write(w http.ResponseWriter) {
	maps.Copy(w.Header(), a.header)
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body.Bytes())
}

// writeHalf announces all of it, sends half of it and ends the connection. It does not return.
func (a *answer) writeHalf(w http.ResponseWriter) {
	maps.Copy(w.Header(), a.header)
	w.Header().Set("Content-Length", strconv.Itoa(a.body.Len()))
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body.Bytes()[:a.body.Len()/2])
	_ = http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

// keepBooks makes requests for books get those of now for a while.
func (s *Server) keepBooks(f faults.Fault) error {
	kept := map[string]*market.Snapshot{}
	for _, l := range s.source.Listings() {
		if symbol := l.Market.Symbol; f.Symbol == "" || f.Symbol == symbol {
			if book, err := s.source.Book(symbol, maxDepth); err == nil {
				kept[symbol] = &book
				s.faults.books[symbol] = append(s.faults.books[symbol], &book)
			}
		}
	}
	if len(kept) == 0 {
		return market.Errorf(market.KindNotFound, "there is no book of %s yet", f.Symbol)
	}
	s.after(f.For, func() {
		for symbol, book := range kept {
			list := s.faults.books[symbol]
			remove(&list, book)
			s.faults.books[symbol] = list
		}
	})
	return nil
}

// book returns the book that a request gets: that of now, or one that is kept. The caller holds mu.
func (s *Server) book(symbol string, limit int) (market.Snapshot, error) {
	kept := s.faults.books[symbol]
	if len(kept) == 0 {
		return s.source.Book(symbol, limit)
	}
	book := *kept[len(kept)-1]
	book.Bids, book.Asks = book.Bids[:min(limit, len(book.Bids))], book.Asks[:min(limit, len(book.Asks))]
	return book, nil
}

// refuseREST closes the port of REST, and what is connected to it, for d. Requests on the port of the streams are cut.
// The caller holds mu.
func (s *Server) refuseREST(d time.Duration) {
	s.faults.refusals++
	if s.faults.refusals == 1 && s.restHTTP != nil {
		_ = s.restHTTP.Close() // the port is closed whatever the sockets say
		s.restHTTP = nil
	}
	s.after(d, func() {
		if s.faults.refusals--; s.faults.refusals == 0 {
			s.reopenREST()
		}
	})
}

// reopenREST listens on the port of REST again. The caller holds mu.
func (s *Server) reopenREST() {
	if s.restAddr == "" {
		return
	}
	l, err := new(net.ListenConfig).Listen(s.ctx, "tcp", s.restAddr)
	if err != nil { // somebody took the port meanwhile: once more later
		const again = 100 * time.Millisecond
		s.log.Warn("port of the exchange stand-in is taken", "addr", s.restAddr, "err", err)
		s.after(again, s.reopenREST)
		return
	}
	s.serveREST(l)
}

// serveREST serves on the port of REST. The caller holds mu, or nobody else knows the server yet.
func (s *Server) serveREST(l net.Listener) {
	server := &http.Server{Handler: s.http.Handler, ReadHeaderTimeout: 10 * time.Second}
	s.restHTTP = server
	s.running.Go(func() {
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("exchange stand-in stopped serving REST", "err", err)
		}
	})
}

// listings returns the markets as exchangeInfo tells of them. The caller holds mu.
func (s *Server) listings() []market.Listing {
	list := slices.Clone(s.source.Listings())
	for i := range list {
		if s.faults.breaks[list[i].Market.Symbol] > 0 {
			list[i].Status = "BREAK"
		}
	}
	return list
}
