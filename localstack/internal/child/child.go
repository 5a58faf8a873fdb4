// Package child starts child processes that outlive their parent in no case.
package child

import (
	"os/exec"
	"runtime"
)

// Starter starts child processes from one operating-system thread, which lives as long as the Starter. On Linux a
// child is killed when the thread that forked it ends (PR_SET_PDEATHSIG in prctl(2)), so that no child is left behind
// when the parent is killed; were children started from any goroutine, its thread could end much earlier and take them
// along. On other systems children must notice by themselves that their parent is gone.
type Starter struct {
	requests chan request
	done     chan struct{}
}

type request struct {
	cmd    *exec.Cmd
	result chan error
}

// NewStarter returns a Starter. The caller must Stop it.
func NewStarter() *Starter {
	s := &Starter{requests: make(chan request), done: make(chan struct{})}
	go func() {
		defer close(s.done)
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		for r := range s.requests {
			r.result <- r.cmd.Start()
		}
	}()
	return s
}

// Start starts cmd, in a process group of its own: an interrupt at the terminal does not reach it, so that the parent
// can end its children in order. It must not be called after Stop.
func (s *Starter) Start(cmd *exec.Cmd) error {
	cmd.SysProcAttr = attributes()
	r := request{cmd: cmd, result: make(chan error, 1)}
	s.requests <- r
	return <-r.result
}

// Stop ends the thread, and with it, on Linux, every child that still runs.
func (s *Starter) Stop() {
	close(s.requests)
	<-s.done
}
