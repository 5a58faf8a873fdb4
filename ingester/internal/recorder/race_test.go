//go:build race

package recorder_test

import "runtime"

// With several threads, timers of synctest's bubbles break the race detector itself (golang/go#78156), which needs no second
// thread to see a race.
func init() { runtime.GOMAXPROCS(1) }
