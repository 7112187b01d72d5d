package nullserver

import (
	"context"
	"net"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

func start(t *testing.T) *clientv3.Client {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, l) }()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{l.Addr().String()}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = client.Close()
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the server ended with %v", err)
		}
	})
	return client
}

func TestTransactionsAndRanges(t *testing.T) {
	c, ctx := start(t), t.Context()
	put := func(key string, modRevision int64) *clientv3.TxnResponse {
		resp, err := c.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", modRevision)).
			Then(clientv3.OpPut(key, "v")).Else(clientv3.OpGet(key)).Commit()
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	for i, key := range []string{"/a/3", "/a/1", "/b/1", "/a/2"} {
		if resp := put(key, 0); !resp.Succeeded || resp.Header.Revision != int64(i+2) {
			t.Errorf("create of %s: %v", key, resp)
		}
	}
	refused := put("/a/1", 0)
	if refused.Succeeded || refused.Header.Revision != 5 || refused.Responses[0].GetResponseRange().Kvs[0].ModRevision != 3 {
		t.Errorf("a second create: %v, want it refused, with the key", refused)
	}
	if resp := put("/a/1", 3); !resp.Succeeded || resp.Header.Revision != 6 {
		t.Errorf("update: %v, want it at revision 6", resp)
	}
	for _, q := range []struct {
		opts        []clientv3.OpOption
		first, last string
		keys, count int
		more        bool
	}{
		{nil, "/a/1", "/a/3", 3, 3, false},
		{[]clientv3.OpOption{clientv3.WithLimit(2)}, "/a/1", "/a/2", 2, 3, true},
		{[]clientv3.OpOption{clientv3.WithKeysOnly()}, "/a/1", "/a/3", 3, 3, false},
		{[]clientv3.OpOption{clientv3.WithCountOnly()}, "", "", 0, 3, false},
	} {
		resp, err := c.Get(ctx, "/a/", append(q.opts, clientv3.WithPrefix())...)
		if err != nil {
			t.Fatal(err)
		}
		if len(resp.Kvs) != q.keys || resp.Count != int64(q.count) || resp.More != q.more {
			t.Errorf("range: %v, want %d of %d keys, more %v", resp, q.keys, q.count, q.more)
			continue
		}
		if q.keys > 0 && (string(resp.Kvs[0].Key) != q.first || string(resp.Kvs[q.keys-1].Key) != q.last) {
			t.Errorf("range: %v, want %s to %s", resp, q.first, q.last)
		}
	}
	kv, err := c.Get(ctx, "/a/1")
	if err != nil || len(kv.Kvs) != 1 || kv.Kvs[0].Version != 2 || kv.Kvs[0].CreateRevision != 3 || kv.Kvs[0].ModRevision != 6 {
		t.Errorf("get: %v, %v, want version 2, created at 3, at 6", kv, err)
	}
}

func TestWatchersOnOneStreamAreToldApart(t *testing.T) {
	c, ctx := start(t), t.Context()
	watches := map[string]clientv3.WatchChan{}
	for _, prefix := range []string{"/a/", "/", "/b/"} {
		opts := []clientv3.OpOption{clientv3.WithPrefix(), clientv3.WithCreatedNotify()}
		if prefix == "/" {
			opts = append(opts, clientv3.WithPrevKV())
		}
		watches[prefix] = c.Watch(ctx, prefix, opts...)
		if resp := <-watches[prefix]; !resp.Created {
			t.Fatalf("watch of %s: %v", prefix, resp)
		}
	}
	for _, key := range []string{"/a/1", "/a/1", "/b/1"} {
		if _, err := c.Put(ctx, key, "v"); err != nil {
			t.Fatal(err)
		}
	}
	for prefix, want := range map[string][]int64{"/a/": {2, 3}, "/": {2, 3, 4}, "/b/": {4}} {
		var got []*clientv3.Event
		for len(got) < len(want) {
			got = append(got, (<-watches[prefix]).Events...)
		}
		for i, ev := range got {
			if ev.Kv.ModRevision != want[i] {
				t.Errorf("watch of %s: event %d at revision %d, want %d", prefix, i, ev.Kv.ModRevision, want[i])
			}
			if (ev.PrevKv != nil) != (prefix == "/" && ev.Kv.Version > 1) {
				t.Errorf("watch of %s: event %d has prev_kv %v", prefix, i, ev.PrevKv)
			}
		}
	}
}

func TestLeaseGrant(t *testing.T) {
	c := start(t)
	resp, err := c.Grant(t.Context(), 60)
	if err != nil || resp.ID == 0 || resp.TTL != 60 {
		t.Errorf("grant: %v, %v, want an id and a TTL of 60", resp, err)
	}
}
