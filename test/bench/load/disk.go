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

// disk counts what the kernel has had to write for plain puts of 1 KiB on new keys, with what the server writes
// afterwards until it is quiet. The second figure has what it writes when it is asked to end, too, so that nothing that
// was put off escapes.
func disk(clients int) func(context.Context, *Run) (Figures, error) {
	name, total := fmt.Sprintf("disk-%d", clients), diskPutsOne
	if clients > 1 {
		total = diskPutsMany
	}
	return func(ctx context.Context, r *Run) (Figures, error) {
		n, err := r.fresh(ctx)
		if err != nil {
			return nil, err
		}
		defer n.stop(ctx)
		before, err := r.warmDisk(ctx, n, clients)
		if err != nil {
			return nil, err
		}
		done, err := r.diskPuts(ctx, n, plan{clients: clients, measure: r.time(diskTime), ops: r.number(total, 1000) / clients})
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
			return float64(account.WriteBytes-before.WriteBytes) / float64(done)
		}
		return Figures{name + ".put": per(after), name + ".put-and-stop": per(end)}, nil
	}
}

// warmDisk writes a little, so that files are made and grown, and gives the account once the server is quiet.
func (r *Run) warmDisk(ctx context.Context, n *node, clients int) (server.IO, error) {
	ws := &writes{keys: keyspace{resource: "warm", namespaces: 100}, size: valueSize, clients: clients}
	if _, err := r.drive(ctx, n, plan{clients: clients, ops: diskWarmPuts / clients}, ws.put(r.Values)); err != nil {
		return server.IO{}, err
	}
	return n.quiet(ctx)
}

// diskPuts does the puts, checks them and gives their number.
func (r *Run) diskPuts(ctx context.Context, n *node, p plan) (int, error) {
	ws := &writes{keys: pods, size: valueSize, clients: p.clients}
	before, err := n.revision(ctx)
	if err != nil {
		return 0, err
	}
	profiled := r.profile(ctx, n, p)
	out, err := r.drive(ctx, n, p, ws.put(r.Values))
	if err := firstError(err, profiled()); err != nil {
		return 0, err
	}
	return out.done, ws.verify(ctx, n, r.Values, result{before, out})
}

// quiet waits until the server has written nothing for a while, for a bounded time, and gives its account then.
func (n *node) quiet(ctx context.Context) (server.IO, error) {
	limit := time.Now().Add(quietLimit)
	last, err := server.ReadIO(n.Pid())
	since := time.Now()
	for err == nil && time.Since(since) < quietTime && time.Now().Before(limit) {
		if err = n.rest(ctx, quietTick); err != nil {
			break
		}
		var now server.IO
		if now, err = server.ReadIO(n.Pid()); now != last {
			last, since = now, time.Now()
		}
	}
	return last, err
}
