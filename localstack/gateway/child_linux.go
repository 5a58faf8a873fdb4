package gateway

import "syscall"

// childAttributes keeps an interrupt at the terminal from the children, which are ended in order, and has them killed
// when the gateway ends in any other way; see starter.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
