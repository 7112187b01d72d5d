package load

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"time"
)

// profile fetches a CPU profile of the server, or of a cluster's leader, from the plan's measure on, if one is wanted, and gives a function that
// waits for its end. A profiled run is slower: its figures are for looking at the profile beside them.
func (r *Run) profile(ctx context.Context, n *node, p plan) func() error {
	if r.Profile == "" || r.Spec.Pprof == "" {
		return func() error { return nil }
	}
	done := make(chan error, 1)
	go func() {
		select {
		case <-ctx.Done():
			done <- ctx.Err()
		case <-time.After(p.warm):
			done <- fetchProfile(ctx, n.procs[n.reign.leader].Client, r.Profile, p.measure)
		}
	}()
	return func() error { return <-done }
}

func fetchProfile(ctx context.Context, address, path string, d time.Duration) error {
	seconds := strconv.Itoa(max(1, int(d.Seconds())))
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/debug/pprof/profile?seconds="+seconds, nil)
	if err != nil {
		return fmt.Errorf("ask for a profile: %w", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("fetch a profile: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("fetch a profile: %w: %s", ErrWrong, resp.Status)
	}
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("keep a profile: %w", err)
	}
	_, copyErr := io.Copy(f, resp.Body)
	return firstError(copyErr, f.Close())
}
