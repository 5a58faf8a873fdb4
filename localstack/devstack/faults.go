package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"tapedeck/localstack/faults"
	"tapedeck/localstack/storeproxy"
)

// readScript reads the value of -faults: a script, or the name of a file with one behind an @.
func readScript(value string) (faults.Script, error) {
	text := value
	if name, isFile := strings.CutPrefix(value, "@"); isFile {
		b, err := os.ReadFile(name)
		if err != nil {
			return faults.Script{}, err
		}
		text = string(b)
	}
	return faults.Parse(text)
}

// checkFaults refuses a script that could not be carried out.
func (o *options) checkFaults() error {
	if o.faults.Empty() {
		return nil
	}
	switch {
	case o.feed != feedSynthetic && o.feed != feedReplay:
		return fmt.Errorf("-faults goes with -feed synthetic or replay, not with %s", o.feed)
	case o.speed == 0 || o.speed == speedOfFeed && o.feed == feedReplay:
		return errors.New("-faults needs a pace: faults happen by the clock, so give a -speed above 0")
	}
	for _, f := range o.faults.Faults {
		if o.feed == feedReplay && (f.Kind == faults.MarketBreak || f.Kind == faults.MarketQuiet) {
			return fmt.Errorf("-faults: %s: the market of a recording cannot stop", f.Kind)
		}
		if f.Kind.Side() == faults.SideStore && o.mongodbURI == "" {
			return fmt.Errorf("-faults: %s: the embedded store has no connection to strike, give -mongodb-uri", f.Kind)
		}
	}
	if o.mongodbURI != "" && !o.faults.On(faults.SideStore).Empty() {
		_, err := storeAddr(o.mongodbURI)
		return err
	}
	return nil
}

// storeAddr returns the one address that a connection string names. Errors do not repeat it: it may hold a password.
func storeAddr(uri string) (string, error) {
	u, err := url.Parse(uri)
	switch {
	case err != nil || u.Scheme != "mongodb" || strings.Contains(u.Host, ","):
		return "", errors.New("-faults of the store need a -mongodb-uri of one address, mongodb://host:port")
	case u.Query().Get("tls") == "true" || u.Query().Get("ssl") == "true":
		return "", errors.New("-faults of the store need a -mongodb-uri without TLS: the certificate would be another host's")
	case u.Port() == "":
		return net.JoinHostPort(u.Hostname(), "27017"), nil
	}
	return u.Host, nil
}

// throughProxy returns a connection string that leads to addr instead, and nowhere else.
func throughProxy(uri, addr string) string {
	u, err := url.Parse(uri)
	if err != nil {
		panic("devstack: connection string was not checked")
	}
	u.Host = addr
	query := u.Query()
	query.Set("directConnection", "true") // a driver that looks for other members of a replica set would find the store itself
	u.RawQuery = query.Encode()
	if u.Path == "" {
		u.Path = "/"
	}
	return u.String()
}

// startStoreProxy stands before the store of the ingester when there are faults of the store. It returns the options that
// the ingester shall have; functions go on asking the store itself.
func (s *stack) startStoreProxy() (options, error) {
	o := s.options
	if o.mongodbURI == "" || o.faults.On(faults.SideStore).Empty() {
		return o, nil
	}
	addr, err := storeAddr(o.mongodbURI)
	if err != nil {
		return o, err
	}
	s.proxy, err = storeproxy.Start("127.0.0.1:0", addr, slog.Default())
	if err != nil {
		return o, err
	}
	o.mongodbURI = throughProxy(o.mongodbURI, s.proxy.Addr())
	return o, nil
}

// injectFaults carries the script out from the feed's first frame on, and tells of each fault in a line. It returns when
// ctx ends or the script is over.
func (s *stack) injectFaults(ctx context.Context) {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for !s.feed.server.Progress().Started {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
	script := s.faults
	if s.proxy == nil {
		script = script.On(faults.SideExchange)
	}
	faults.Run(ctx, script.Plan(s.feed.symbols...), func(f faults.Fault) {
		var err error
		if f.Kind.Side() == faults.SideStore {
			err = s.proxy.Inject(f)
		} else {
			err = s.feed.server.Inject(f)
		}
		if err != nil {
			fmt.Fprintf(s.out, "fault: not done: %v\n", err)
			return
		}
		fmt.Fprintf(s.out, "fault: %v\n", f)
	})
}

// lineWriter lets several goroutines write lines.
type lineWriter struct {
	mu sync.Mutex
	to io.Writer
}

// Write implements io.Writer.
func (w *lineWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.to.Write(p)
}
