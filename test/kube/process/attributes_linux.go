package process

import "syscall"

// attributes gives a process a group of its own, so that a signal from the terminal reaches only its
// starter. One that is not detached is killed when its starter ends.
func attributes(detached bool) *syscall.SysProcAttr {
	if detached {
		return &syscall.SysProcAttr{Setsid: true}
	}
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
