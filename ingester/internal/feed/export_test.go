package feed

import (
	"context"
	"net"
)

// DialWith replaces the network. Call it before Run.
func (f *Feed) DialWith(dial func(ctx context.Context, network, address string) (net.Conn, error)) {
	for _, g := range f.groups {
		g.netDial = dial
	}
}
