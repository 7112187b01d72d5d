package cluster

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// ending bounds the wait for the end of a process that was asked to.
const ending = 30 * time.Second

// member is a server, running or not, and its place in the network.
type member struct {
	name   string
	host   *host
	binary string
	dir    string // of the log, and of the data if there is no disk
	disk   string // of the data, if it has one of its own, or of the Raft log alone
	apart  bool   // the disk is the Raft log's
	clock  string // the file that sets the program's clock, if it was built for that
	flags  []string
	extra  []string // of each configuration

	cmd    *exec.Cmd
	exited chan struct{} // closed when cmd.Wait has returned
	up     bool          // it has to run
}

func (m *member) clientURL() string { return "http://" + m.host.address() + ":2379" }
func (m *member) peerURL() string   { return "http://" + m.host.address() + ":2380" }
func (m *member) logPath() string   { return filepath.Join(m.dir, "server.log") }

func (m *member) data() string {
	if m.disk != "" && !m.apart {
		return filepath.Join(m.disk, "data")
	}
	return filepath.Join(m.dir, "data")
}

// tail is the end of the log.
func (m *member) tail() string {
	b, err := os.ReadFile(m.logPath())
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-3000):])
}

// configure says how the member gets to know the others: as state new, or existing.
func (m *member) configure(state string, cluster []*member, more ...string) {
	var all []string
	for _, o := range cluster {
		all = append(all, o.name+"="+o.peerURL())
	}
	m.flags = append([]string{
		"--name=" + m.name,
		"--data-dir=" + m.data(),
		"--listen-client-urls=" + m.clientURL(),
		"--advertise-client-urls=" + m.clientURL(),
		"--listen-peer-urls=" + m.peerURL(),
		"--initial-advertise-peer-urls=" + m.peerURL(),
		"--initial-cluster=" + strings.Join(all, ","),
		"--initial-cluster-state=" + state,
	}, append(strings.Fields(*serverFlags), more...)...)
	if m.apart {
		m.flags = append(m.flags, "--wal-dir="+filepath.Join(m.disk, "wal"))
	}
}

// start starts the process, with flags for this time only, and does not wait for anything.
func (m *member) start(more ...string) error {
	if m.up {
		return fmt.Errorf("%s runs already", m.name)
	}
	log, err := os.OpenFile(m.logPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(m.binary, append(m.flags[:len(m.flags):len(m.flags)], more...)...)
	cmd.Stdout, cmd.Stderr = log, log
	if m.clock != "" {
		cmd.Env = append(os.Environ(), "CLOCK_FILE="+m.clock)
	}
	// The process is in the namespace of the thread that starts it.
	if err := apart(m.host, cmd.Start); err != nil {
		return fmt.Errorf("start %s: %w", m.name, err)
	}
	exited := make(chan struct{})
	m.cmd, m.exited, m.up = cmd, exited, true
	go func() {
		_ = cmd.Wait() // how it ended is in its log
		close(exited)
	}()
	return nil
}

// lives complains of a process that has ended by itself.
func (m *member) lives() error {
	if m.up && m.gone() {
		return fmt.Errorf("%s has ended by itself (%v); its log ends:\n%s", m.name, m.cmd.ProcessState, m.tail())
	}
	return nil
}

func (m *member) gone() bool {
	select {
	case <-m.exited:
		return true
	default:
		return false
	}
}

func (m *member) stop() error { return m.end(syscall.SIGTERM) }
func (m *member) kill() error { return m.end(syscall.SIGKILL) }

func (m *member) pause() error  { return m.cmd.Process.Signal(syscall.SIGSTOP) }
func (m *member) resume() error { return m.cmd.Process.Signal(syscall.SIGCONT) }

// end ends the process, if it runs, and waits.
func (m *member) end(s syscall.Signal) error {
	if !m.up {
		return nil
	}
	m.up = false
	if err := m.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("end %s: %w", m.name, err)
	}
	select {
	case <-m.exited:
		return nil
	case <-time.After(ending):
	}
	_ = m.cmd.Process.Kill()
	<-m.exited
	return fmt.Errorf("%s did not end on %v; its log ends:\n%s", m.name, s, m.tail())
}

// offBy sets the member's wall clock, some seconds off.
func (m *member) offBy(seconds int) error {
	next := m.clock + ".next"
	if err := os.WriteFile(next, fmt.Appendln(nil, seconds), 0o600); err != nil {
		return err
	}
	return os.Rename(next, m.clock)
}

// forget deletes the data.
func (m *member) forget() error { return os.RemoveAll(m.data()) }

// smallDisk gives the member a disk of its own.
func (m *member) smallDisk(megabytes int) error {
	disk := filepath.Join(m.dir, "disk")
	if err := os.Mkdir(disk, 0o700); err != nil {
		return err
	}
	if err := syscall.Mount("none", disk, "tmpfs", 0, fmt.Sprintf("size=%dm,mode=700", megabytes)); err != nil {
		return fmt.Errorf("mount a small disk: %w", err)
	}
	m.disk = disk
	return nil
}

// release takes the disk away. The member has ended.
func (m *member) release() error {
	if m.disk == "" {
		return nil
	}
	return syscall.Unmount(m.disk, 0)
}

func (m *member) ballast() string { return filepath.Join(m.disk, "ballast") }

// fill leaves no room on the member's disk.
func (m *member) fill() error {
	f, err := os.OpenFile(m.ballast(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	for _, size := range []int{1 << 20, 4096} {
		for block := make([]byte, size); err == nil; {
			_, err = f.Write(block)
		}
		if !errors.Is(err, syscall.ENOSPC) {
			break
		}
		if size > 4096 {
			err = nil
		}
	}
	if !errors.Is(err, syscall.ENOSPC) {
		return errors.Join(err, f.Close())
	}
	return f.Close()
}

// free makes room again.
func (m *member) free() error { return os.Remove(m.ballast()) }
