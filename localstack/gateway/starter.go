package gateway

import (
	"os/exec"
	"runtime"
)

// starter starts child processes from one operating-system thread, which lives as long as the starter. On Linux a
// child is killed when the thread that forked it ends (PR_SET_PDEATHSIG in prctl(2)), so that children outlive the
// gateway in no case, not even when it is killed; were they started from any goroutine, its thread could end much
// earlier and take them along. On other systems a child notices that its Runtime API is gone as soon as it is idle.
type starter struct {
	requests chan startRequest
	done     chan struct{}
}

type startRequest struct {
	cmd    *exec.Cmd
	result chan error
}

func newStarter() *starter {
	s := &starter{requests: make(chan startRequest), done: make(chan struct{})}
	go func() {
		defer close(s.done)
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		for r := range s.requests {
			r.result <- r.cmd.Start()
		}
	}()
	return s
}

// start starts cmd. It must not be called after stop.
func (s *starter) start(cmd *exec.Cmd) error {
	r := startRequest{cmd: cmd, result: make(chan error, 1)}
	s.requests <- r
	return <-r.result
}

// stop ends the thread, and with it, on Linux, every child that still runs.
func (s *starter) stop() {
	close(s.requests)
	<-s.done
}
