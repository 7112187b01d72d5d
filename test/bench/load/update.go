package load

import (
	"context"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// updates are kube-apiserver's updates of a fixed set of keys, each written by one client alone.
type updates struct {
	keys    keyspace
	values  *Values
	writers int // a divisor of the number of keys
	names   []string
	revs    []int64
	times   []int
}

func newUpdates(v *Values, count, writers int) *updates {
	u := &updates{keys: pods, values: v, writers: writers, revs: make([]int64, count), times: make([]int, count)}
	for i := range count {
		u.names = append(u.names, u.keys.key(i))
	}
	return u
}

func (u *updates) createAll(ctx context.Context, r *Run, n *node) error {
	p := plan{clients: u.writers, ops: len(u.names) / u.writers}
	_, err := r.drive(ctx, n, p, func(ctx context.Context, w *worker) error {
		i := w.done*u.writers + w.id
		rev, err := createKey(ctx, w.client, u.names[i], u.values.at(i, 0, valueSize))
		u.revs[i] = rev
		return err
	})
	return err
}

// update puts if the key is still at the revision the client knows, and reads it when it is not, which is never.
func (u *updates) update(ctx context.Context, w *worker) error {
	i := w.done%(len(u.names)/u.writers)*u.writers + w.id
	u.times[i]++
	resp, err := w.client.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(u.names[i]), "=", u.revs[i])).
		Then(clientv3.OpPut(u.names[i], u.values.at(i, u.times[i], valueSize))).
		Else(clientv3.OpGet(u.names[i])).
		Commit()
	if err != nil {
		return err
	}
	if !resp.Succeeded {
		return fmt.Errorf("%w: the update of %s at revision %d was refused", ErrWrong, u.names[i], u.revs[i])
	}
	u.revs[i] = resp.Header.Revision
	return w.wrote(i, resp.Header.Revision)
}

// verify checks at every server that each key has the revision of its last acknowledged write, and a sample of the values.
func (u *updates) verify(ctx context.Context, n *node) error {
	for at := range n.procs {
		c := n.first(at).Client
		resp, err := c.Get(ctx, u.keys.prefix(), clientv3.WithPrefix(), clientv3.WithKeysOnly())
		if err != nil {
			return fmt.Errorf("list what was updated: %w", err)
		}
		if len(resp.Kvs) != len(u.names) {
			return fmt.Errorf("%w: %d keys, want %d", ErrWrong, len(resp.Kvs), len(u.names))
		}
		for _, kv := range resp.Kvs {
			if i := indexOf(kv.Key); i < 0 || i >= len(u.revs) || kv.ModRevision != u.revs[i] {
				return fmt.Errorf("%w: %s is at revision %d after its last write", ErrWrong, kv.Key, kv.ModRevision)
			}
		}
		for i := 0; i < len(u.names); i += max(1, len(u.names)/64) {
			if err := checkValue(ctx, c, u.names[i], u.values.at(i, u.times[i], valueSize)); err != nil {
				return err
			}
		}
	}
	return nil
}
