// Command kube starts a storage server and a kube-apiserver on it, leaves both running in the background,
// and stops them. Everything of theirs is under .build/kube: data, certificates, kubeconfig, logs, and a
// file with the process id of each. The data stays there, for the next start, until the directory is removed.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/keelson-io/keelson/test/kube/cluster"
	"github.com/keelson-io/keelson/test/kube/storage"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "kube:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, arguments []string) error {
	bin, err := storage.BinDir()
	if err != nil {
		return err
	}
	p := place{bin: bin, dir: filepath.Join(filepath.Dir(bin), "kube")}
	if len(arguments) == 1 {
		switch arguments[0] {
		case "up":
			return p.up(ctx)
		case "down":
			return p.down(ctx)
		}
	}
	return fmt.Errorf("usage: kube up|down")
}

// place is where everything is.
type place struct{ bin, dir string }

func (p place) up(ctx context.Context) error {
	if err := os.MkdirAll(p.dir, 0o755); err != nil {
		return err
	}
	unlock, err := p.lock()
	if err != nil {
		return err
	}
	defer unlock()
	running, err := p.running()
	if err != nil {
		return err
	}
	switch {
	case len(running) >= 2:
		fmt.Println("It is running already:")
		return p.explain(running)
	case len(running) == 1:
		return fmt.Errorf("%s (process %d) is left of an earlier start; `make kube-down` ends it", running[0].name, running[0].pid)
	}
	return p.start(ctx)
}

// start starts both, and leaves neither when one does not come up.
func (p place) start(ctx context.Context) (err error) {
	server, err := storage.Start(ctx, storage.Options{Dir: p.dir, Detached: true})
	if err != nil {
		return err
	}
	c, err := cluster.Start(ctx, cluster.Options{BinDir: p.bin, Dir: p.dir, StorageEndpoint: server.Endpoint(), Detached: true})
	if err != nil {
		server.Kill()
		return err
	}
	started := []component{{name: server.Name(), pid: server.PID()}}
	for name, pid := range c.PIDs() {
		started = append(started, component{name: name, pid: pid})
	}
	for _, s := range started {
		if err := p.remember(s); err != nil {
			c.Stop()
			server.Kill()
			return err
		}
	}
	fmt.Printf("kube-apiserver runs on %s (%s).\n", server.Name(), server.Endpoint())
	return p.explain(started)
}

// explain says what runs, and how to use and to end it.
func (p place) explain(running []component) error {
	for _, r := range running {
		fmt.Printf("  %s: process %d, log %s\n", r.name, r.pid, filepath.Join(p.dir, r.name+".log"))
	}
	fmt.Printf("\nUse it:\n  KUBECONFIG=%s %s get namespaces\nEnd it:\n  make kube-down\n",
		filepath.Join(p.dir, "admin.kubeconfig"), filepath.Join(p.bin, "kubectl"))
	return nil
}

// down ends what runs, kube-apiserver before its storage.
func (p place) down(ctx context.Context) error {
	if _, err := os.Stat(p.dir); os.IsNotExist(err) {
		fmt.Println("Nothing is running.")
		return nil
	}
	unlock, err := p.lock()
	if err != nil {
		return err
	}
	defer unlock()
	running, err := p.running()
	if err != nil {
		return err
	}
	if len(running) == 0 {
		fmt.Println("Nothing is running.")
	}
	for _, r := range running {
		if err := p.end(ctx, r); err != nil {
			return err
		}
		fmt.Printf("%s (process %d) has ended.\n", r.name, r.pid)
	}
	return nil
}
