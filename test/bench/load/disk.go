package load

import (
	"context"
	"fmt"
	"time"

	"github.com/keelson-io/keelson/test/bench/server"
)

const (
	diskWarmPuts = 1000
	diskPutsMany = 60_000 // some 60 MB: several of anybody's checkpoints
	diskPutsOne  = 10_000
	diskTime     = 8 * time.Second // for those who do not get so many done
	quietTime    = 2 * time.Second
	quietLimit   = 15 * time.Second
	quietTick    = 100 * time.Millisecond
)

// diskWrites are writes of 1 KiB on new keys.
type diskWrites struct {
	clients int
	name    string // of one of them
	op      func(*writes, *Values) operation
}

// disk counts what the kernel has had to write for such writes, with what the server writes
// afterwards until it is quiet. The second figure has what it writes when it is asked to end, too, so that nothing that
// was put off escapes.
// Where there are several servers the figures are the mean of them.
func disk(w diskWrites) func(context.Context, *Run) (Figures, error) {
	name, total := fmt.Sprintf("disk-%d.%s", w.clients, w.name), diskPutsOne
	if w.clients > 1 {
		total = diskPutsMany
	}
	return func(ctx context.Context, r *Run) (Figures, error) {
		n, err := r.fresh(ctx, atLeader)
		if err != nil {
			return nil, err
		}
		defer n.stop(ctx)
		before, err := r.warmDisk(ctx, n, w)
		if err != nil {
			return nil, err
		}
		done, err := r.diskWrites(ctx, n, w, plan{clients: w.clients, measure: r.time(diskTime), ops: r.number(total, 1000) / w.clients})
		if err != nil {
			return nil, err
		}
		after, err := n.quiet(ctx)
		if err != nil {
			return nil, err
		}
		end, err := n.stop(ctx)
		if err != nil {
			return nil, err
		}
		per := func(account server.IO) float64 {
			return float64(account.WriteBytes-before.WriteBytes) / float64(done*len(n.procs))
		}
		return Figures{name: per(after), name + "-and-stop": per(end)}, nil
	}
}

// warmDisk writes a little, so that files are made and grown, and gives the account once the server is quiet.
func (r *Run) warmDisk(ctx context.Context, n *node, w diskWrites) (server.IO, error) {
	ws := &writes{keys: keyspace{resource: "warm", namespaces: 100}, size: valueSize, clients: w.clients}
	if _, err := r.drive(ctx, n, plan{clients: w.clients, ops: diskWarmPuts / w.clients}, w.op(ws, r.Values)); err != nil {
		return server.IO{}, err
	}
	return n.quiet(ctx)
}

// diskWrites does the writes, checks them and gives their number.
func (r *Run) diskWrites(ctx context.Context, n *node, w diskWrites, p plan) (int, error) {
	ws := &writes{keys: pods, size: valueSize, clients: p.clients}
	before, err := n.revision(ctx)
	if err != nil {
		return 0, err
	}
	profiled := r.profile(ctx, n, p)
	out, err := r.drive(ctx, n, p, w.op(ws, r.Values))
	if err := firstError(err, profiled()); err != nil {
		return 0, err
	}
	return out.done, ws.verify(ctx, n, r.Values, result{before, out})
}

// quiet waits until the servers have written nothing for a while, for a bounded time, and gives the sum of their accounts then.
func (n *node) quiet(ctx context.Context) (server.IO, error) {
	limit := time.Now().Add(quietLimit)
	last, err := n.account()
	since := time.Now()
	for err == nil && time.Since(since) < quietTime && time.Now().Before(limit) {
		if err = n.rest(ctx, quietTick); err != nil {
			break
		}
		var now server.IO
		if now, err = n.account(); now != last {
			last, since = now, time.Now()
		}
	}
	return last, err
}

// account gives the sum of the servers' accounts.
func (n *node) account() (server.IO, error) {
	var sum server.IO
	for _, p := range n.procs {
		io, err := server.ReadIO(p.Pid())
		if err != nil {
			return server.IO{}, err
		}
		sum.WriteBytes += io.WriteBytes
	}
	return sum, nil
}
