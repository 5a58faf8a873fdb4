package feed

import "time"

// SetReadTimeout lets a test see in seconds what happens to a mute connection. Call it before Run.
func (f *Feed) SetReadTimeout(d time.Duration) {
	for _, c := range f.conns {
		c.readTimeout = d
	}
}
