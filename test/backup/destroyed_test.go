package backup

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/minio/minio-go/v7"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/test/conformance/launch"
)

// TestDestroyed: a server's data are gone, and come back out of the place of its backups, by the commands that its docs tell of.
func TestDestroyed(t *testing.T) {
	for name, open := range places() {
		t.Run(name, func(t *testing.T) {
			p := open(t)
			n := start(t, launch.Options{})[0]
			stop := load(t, n)
			until(t, "something is there", func() bool { return n.metric(t, "etcd_debugging_mvcc_keys_total") > 100 })
			stop()
			was := n.furnish(t)
			p.run(t, append([]string{"backup", "--endpoints=" + n.Endpoint()}, p.flags...)...)
			all := p.sound(t)
			if len(all) != 1 || all[0].Revision != was.hash.HashRevision {
				t.Fatalf("there are %+v, and were %+v", all, was.hash)
			}
			from := p.target.String() + all[0].Name()
			data := filepath.Join(filepath.Dir(n.LogPath()), "data")
			if err := n.Kill(); err != nil {
				t.Fatal(err)
			}
			if err := os.RemoveAll(data); err != nil {
				t.Fatal(err)
			}

			altered := p.altered(t, all[0].Name())
			restore := func(from string) error {
				_, err := p.command(t, append([]string{"snapshot", "restore", from, "--data-dir=" + data}, p.store...)...)
				return err
			}
			missing := "no such file"
			if p.server != nil {
				missing = "key does not exist"
			}
			for bad, says := range map[string]string{altered: "sha256", from + "x": missing} {
				if err := restore(bad); err == nil || !strings.Contains(err.Error(), says) {
					t.Errorf("%s: %v", bad, err)
				}
				if left, err := filepath.Glob(data + "*"); err != nil || len(left) > 0 {
					t.Errorf("of %s there is %q, %v", bad, left, err)
				}
			}
			if err := restore(from); err != nil {
				t.Fatal(err)
			}
			if err := restore(from); err == nil || !strings.Contains(err.Error(), data) {
				t.Errorf("what is there was overwritten: %v", err)
			}
			if err := n.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
			is := n.state(t, was.hash.HashRevision)
			if is.hash.Hash != was.hash.Hash || is.hash.CompactRevision != was.hash.CompactRevision || is.hash.Header.Revision != was.hash.Header.Revision {
				t.Errorf("there was %+v, and came back %+v", was.hash, is.hash)
			}
			if len(is.leases.Leases) != 1 || is.leases.Leases[0].ID != was.leases.Leases[0].ID {
				t.Errorf("there were the leases %+v, and came back %+v", was.leases, is.leases)
			}
		})
	}
}

// state is what a server has.
type state struct {
	hash   *pb.HashKVResponse
	leases *pb.LeaseLeasesResponse
}

func (n node) state(t *testing.T, revision int64) (s state) {
	t.Helper()
	var err error
	if s.hash, err = pb.NewMaintenanceClient(n).HashKV(t.Context(), &pb.HashKVRequest{Revision: revision}); err != nil {
		t.Fatal(err)
	}
	if s.leases, err = pb.NewLeaseClient(n).LeaseLeases(t.Context(), &pb.LeaseLeasesRequest{}); err != nil {
		t.Fatal(err)
	}
	return s
}

// furnish gives a server, beside what it has, a compaction, something deleted, and a lease with a key.
func (n node) furnish(t *testing.T) state {
	t.Helper()
	kv := pb.NewKVClient(n)
	removed, err := kv.DeleteRange(t.Context(), &pb.DeleteRangeRequest{Key: []byte("pair/0/"), RangeEnd: []byte("pair/00")})
	if err != nil || removed.Deleted == 0 {
		t.Fatal(removed, err)
	}
	if _, err := kv.Compact(t.Context(), &pb.CompactionRequest{Revision: removed.Header.Revision - 20, Physical: true}); err != nil {
		t.Fatal(err)
	}
	lease, err := pb.NewLeaseClient(n).LeaseGrant(t.Context(), &pb.LeaseGrantRequest{TTL: 3600})
	if err != nil {
		t.Fatal(err)
	}
	put, err := kv.Put(t.Context(), &pb.PutRequest{Key: []byte("leased"), Value: []byte("value"), Lease: lease.ID})
	if err != nil {
		t.Fatal(err)
	}
	s := n.state(t, put.Header.Revision)
	if s.hash.CompactRevision != removed.Header.Revision-20 || len(s.leases.Leases) != 1 {
		t.Fatalf("%+v", s)
	}
	return s
}

// altered puts a copy of a backup beside it of which one bit is another, and gives where.
func (p place) altered(t *testing.T, name string) string {
	t.Helper()
	r, err := p.target.Open(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	path := p.target.String() + "altered.db"
	if p.server == nil {
		err = os.WriteFile(path, b, 0o600)
	} else {
		var c *minio.Client
		if c, err = p.server.Client(); err == nil {
			_, err = c.PutObject(t.Context(), p.options.Bucket, p.options.Prefix+"/altered.db", bytes.NewReader(b), int64(len(b)), minio.PutObjectOptions{})
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}
