package load

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

const (
	bigKeys       = 1_000_000
	bigValue      = 128
	bigClients    = 1000
	restartSettle = 5 * time.Second
)

var configmaps = keyspace{resource: "configmaps", namespaces: 100}

// restart starts the server on a million keys and reads how long it takes until it answers, and its memory after that.
// The keys are put once, by plain puts, and the data is used again in later rounds; what is measured is the start.
func restart(ctx context.Context, r *Run) (Figures, error) {
	total, err := r.filled(ctx)
	if err != nil {
		return nil, err
	}
	last := total - 1
	n, err := r.start(ctx, r.keptData(), known{key: configmaps.key(last), value: r.Values.at(last, 0, bigValue)})
	if err != nil {
		return nil, err
	}
	defer n.stop(ctx)
	rss, err := n.settledRSS(ctx, r.time(restartSettle))
	if err != nil {
		return nil, err
	}
	// Looked at last, since to count is work.
	ws := &writes{keys: configmaps, size: bigValue, clients: bigClients}
	all := &outcome{done: total, least: total / bigClients}
	if err := ws.verify(ctx, n, r.Values, result{out: all}); err != nil {
		return nil, err
	}
	return Figures{"restart.memory": rss.largest, "restart.serving": n.serving.Sub(n.procs[0].Exec).Seconds()}, nil
}

func (r *Run) keptData() string { return filepath.Join(r.Keep, "data") }

// filled makes sure that the kept data is there, and gives the number of its keys.
func (r *Run) filled(ctx context.Context) (int, error) {
	total := r.number(bigKeys/bigClients, 10) * bigClients
	mark := filepath.Join(r.Keep, "filled")
	data, err := os.ReadFile(mark)
	if err == nil && string(data) == strconv.Itoa(total) {
		return total, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("look for kept data: %w", err)
	}
	if err := os.RemoveAll(r.keptData()); err != nil {
		return 0, fmt.Errorf("drop half-filled data: %w", err)
	}
	r.Log.Info("putting the keys to restart on", "keys", total, "server", r.Spec.Name)
	if err := r.fillBig(ctx, total); err != nil {
		return 0, fmt.Errorf("put %d keys: %w", total, err)
	}
	return total, os.WriteFile(mark, []byte(strconv.Itoa(total)), 0o600)
}

func (r *Run) fillBig(ctx context.Context, total int) error {
	n, err := r.start(ctx, r.keptData(), known{key: probe})
	if err != nil {
		return err
	}
	defer n.stop(ctx)
	if err := n.connectAll(ctx, r.Connections, n.all()); err != nil {
		return err
	}
	ws := &writes{keys: configmaps, size: bigValue, clients: bigClients}
	before, err := n.revision(ctx)
	if err != nil {
		return err
	}
	out, err := r.drive(ctx, n, plan{clients: bigClients, ops: total / bigClients}, ws.put(r.Values))
	if err != nil {
		return err
	}
	if err := ws.verify(ctx, n, r.Values, result{before, out}); err != nil {
		return err
	}
	if _, err := n.quiet(ctx); err != nil {
		return err
	}
	_, err = n.stop(ctx)
	return err
}
