//go:build !unix

package gateway

import "syscall"

func childAttributes() *syscall.SysProcAttr { return nil }
