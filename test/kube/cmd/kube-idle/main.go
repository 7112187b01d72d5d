// Command kube-idle measures the resident memory of storage servers that idle under a kube-apiserver: each
// server named on the command line gets a kube-apiserver of its own, one server at a time, and nothing else
// asks it for anything. It prints what it finds and writes it for the table of `make bench`.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/keelson-io/keelson/test/kube/cluster"
	"github.com/keelson-io/keelson/test/kube/process"
	"github.com/keelson-io/keelson/test/kube/storage"
)

func main() {
	output := flag.String("output", "", "the `file` to write; .build/bench/memory-kube.json by default")
	rounds := flag.Int("rounds", 1, "how often each server is measured")
	idle := flag.Duration("idle", 90*time.Second, "how long the server is watched after kube-apiserver is ready")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: kube-idle [flags] server...\nA server is a path, or a name in .build/bin.")
		flag.PrintDefaults()
	}
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *output, *rounds, *idle, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "kube-idle:", err)
		os.Exit(1)
	}
}

// result is what is found of one server, in bytes of VmRSS.
type result struct {
	ready int64 // when kube-apiserver has just become ready
	idle  int64 // the median of what is seen once a second in the last third of the time
	peak  int64
}

// figures is what `make bench` reads: for each measure and server what the rounds gave.
type figures map[string]map[string][]float64

func run(ctx context.Context, output string, rounds int, idle time.Duration, servers []string) error {
	bin, err := storage.BinDir()
	if err != nil {
		return err
	}
	if len(servers) == 0 {
		servers = []string{"etcd", "keelson"}
	}
	if output == "" {
		output = filepath.Join(filepath.Dir(bin), "bench", "memory-kube.json")
	}
	found := map[string][]float64{}
	for range rounds {
		for _, server := range servers {
			name := filepath.Base(server)
			if name == server {
				server = filepath.Join(bin, server)
			}
			r, err := measure(ctx, bin, server, idle)
			if err != nil {
				return fmt.Errorf("%s: %w", server, err)
			}
			fmt.Printf("%s idle under kube-apiserver: %.1f MB (ready %.1f MB, peak %.1f MB)\n",
				name, megabytes(r.idle), megabytes(r.ready), megabytes(r.peak))
			found[name] = append(found[name], float64(r.idle))
		}
	}
	b, err := json.MarshalIndent(figures{"memory-kube.idle": found}, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(output), 0o755); err != nil {
		return err
	}
	return os.WriteFile(output, append(b, '\n'), 0o644)
}

func measure(ctx context.Context, bin, binary string, idle time.Duration) (result, error) {
	dir, err := os.MkdirTemp("", "kube-idle-")
	if err != nil {
		return result{}, err
	}
	defer os.RemoveAll(dir)
	server, err := storage.Start(ctx, storage.Options{Binary: binary, Dir: dir})
	if err != nil {
		return result{}, err
	}
	defer server.Kill()
	c, err := cluster.Start(ctx, cluster.Options{BinDir: bin, Dir: dir, StorageEndpoint: server.Endpoint()})
	if err != nil {
		return result{}, err
	}
	defer c.Stop()
	samples, err := sample(ctx, server, idle)
	if err != nil {
		return result{}, err
	}
	return result{ready: samples[0], idle: median(samples[len(samples)*2/3:]), peak: slices.Max(samples)}, nil
}

// sample reads the server's memory now and then once a second.
func sample(ctx context.Context, server *storage.Server, idle time.Duration) ([]int64, error) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	end := time.After(idle)
	var samples []int64
	for {
		n, err := process.ResidentBytes(server.PID())
		if err != nil {
			return nil, err
		}
		samples = append(samples, n)
		select {
		case <-tick.C:
		case <-end:
			return samples, nil
		case <-server.Done():
			return nil, process.ErrExited
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func median(samples []int64) int64 {
	sorted := slices.Sorted(slices.Values(samples))
	return sorted[len(sorted)/2]
}

func megabytes(n int64) float64 { return float64(n) / 1e6 }
