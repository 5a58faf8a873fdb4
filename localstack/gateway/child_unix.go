//go:build unix && !linux

package gateway

import "syscall"

// childAttributes keeps an interrupt at the terminal from the children, which are ended in order.
func childAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
