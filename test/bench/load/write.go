package load

import (
	"context"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	valueSize  = 1 << 10
	smallValue = 256
	warmTime   = time.Second
	writeTime  = 3 * time.Second
)

var pods = keyspace{resource: "pods", namespaces: 100}

// create is kube-apiserver's create, again and again on new keys, by clients that are there where at says.
func create(name string, clients int, at where) func(context.Context, *Run) (Figures, error) {
	return func(ctx context.Context, r *Run) (Figures, error) {
		n, err := r.fresh(ctx, at)
		if err != nil {
			return nil, err
		}
		defer n.stop(ctx)
		w := &writes{keys: pods, size: valueSize, clients: clients}
		return r.writeLoad(ctx, n, w, named{name, w.create(r.Values)})
	}
}

// put is etcd's plain put of small values on new keys by many clients.
func put(ctx context.Context, r *Run) (Figures, error) {
	n, err := r.fresh(ctx, everywhere)
	if err != nil {
		return nil, err
	}
	defer n.stop(ctx)
	w := &writes{keys: keyspace{resource: "leases", namespaces: 100}, size: smallValue, clients: 1000}
	return r.writeLoad(ctx, n, w, named{"put-1000", w.put(r.Values)})
}

// named is an operation with the name of its load.
type named struct {
	name string
	op   operation
}

func (r *Run) writeLoad(ctx context.Context, n *node, w *writes, do named) (Figures, error) {
	before, err := n.revision(ctx)
	if err != nil {
		return nil, err
	}
	p := plan{clients: w.clients, warm: r.time(warmTime), measure: r.time(writeTime)}
	profiled, counted := r.profile(ctx, n, p), n.countConnections(ctx, p)
	out, err := r.drive(ctx, n, p, do.op)
	connections, countErr := counted()
	if err := firstError(err, profiled(), countErr); err != nil {
		return nil, err
	}
	if err := w.verify(ctx, n, r.Values, result{before, out}); err != nil {
		return nil, err
	}
	figures := Figures{do.name + ".rate": out.rate(), do.name + ".p99": out.p99()}
	if n.database != nil {
		figures[do.name+".connections"] = float64(connections)
	}
	if len(out.servers) > 1 {
		figures[do.name+".share"] = out.leastShare()
	}
	return figures, nil
}

// operation is one operation of one client.
type operation = func(context.Context, *worker) error

// writes are writes of new keys: operation k of client c writes the key of index k*clients + c.
type writes struct {
	keys    keyspace
	size    int
	clients int
}

func (ws *writes) index(w *worker) int { return w.done*ws.clients + w.id }

// create is kube-apiserver's transaction: put if the key has never been.
func (ws *writes) create(v *Values) operation {
	return func(ctx context.Context, w *worker) error {
		i := ws.index(w)
		rev, err := createKey(ctx, w.client, ws.keys.key(i), v.at(i, 0, ws.size))
		if err != nil {
			return err
		}
		return w.wrote(i, rev)
	}
}

func createKey(ctx context.Context, c *clientv3.Client, key, value string) (int64, error) {
	resp, err := c.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(key), "=", 0)).
		Then(clientv3.OpPut(key, value)).
		Commit()
	if err != nil {
		return 0, err
	}
	if !resp.Succeeded || len(resp.Responses) != 1 || resp.Responses[0].GetResponsePut() == nil {
		return 0, fmt.Errorf("%w: the create of a new key was refused or has no answer to its put", ErrWrong)
	}
	return resp.Header.Revision, nil
}

func (ws *writes) put(v *Values) operation {
	return func(ctx context.Context, w *worker) error {
		i := ws.index(w)
		resp, err := w.client.Put(ctx, ws.keys.key(i), v.at(i, 0, ws.size))
		if err != nil {
			return err
		}
		return w.wrote(i, resp.Header.Revision)
	}
}

// result is what writes have led to, from the revision before.
type result struct {
	before int64
	out    *outcome
}

// verify checks that all n writes are there, at every server: the revision has risen by at least as many (kine has
// revisions of its own in between), the count is n, and a sample of the values is what was written.
func (ws *writes) verify(ctx context.Context, n *node, v *Values, res result) error {
	for at := range n.procs {
		if err := ws.verifyAt(ctx, n.first(at).Client, v, res); err != nil {
			return err
		}
	}
	return nil
}

func (ws *writes) verifyAt(ctx context.Context, c *clientv3.Client, v *Values, res result) error {
	written := res.out.done
	resp, err := c.Get(ctx, ws.keys.prefix(), clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		return fmt.Errorf("count what was written: %w", err)
	}
	if resp.Count != int64(written) {
		return fmt.Errorf("%w: %d keys after %d acknowledged writes", ErrWrong, resp.Count, written)
	}
	if rise := resp.Header.Revision - res.before; rise < int64(written) {
		return fmt.Errorf("%w: the revision rose by %d in %d writes", ErrWrong, rise, written)
	}
	certain := res.out.least * ws.clients // of the indexes below it none was left out
	for i := 0; i < certain; i += max(1, certain/64) {
		if err := checkValue(ctx, c, ws.keys.key(i), v.at(i, 0, ws.size)); err != nil {
			return err
		}
	}
	return nil
}

func checkValue(ctx context.Context, c *clientv3.Client, key, want string, opts ...clientv3.OpOption) error {
	resp, err := c.Get(ctx, key, opts...)
	if err != nil {
		return fmt.Errorf("read back %s: %w", key, err)
	}
	if len(resp.Kvs) != 1 || string(resp.Kvs[0].Key) != key || string(resp.Kvs[0].Value) != want {
		return fmt.Errorf("%w: %s has not the value that was written", ErrWrong, key)
	}
	return nil
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
