package conformance

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"

	"github.com/keelson-io/keelson/server/listen"
	"github.com/keelson-io/keelson/test/conformance/launch"
	"github.com/keelson-io/keelson/test/conformance/script"
)

// undo is a server, or a cluster, whose past is asked for.
type undo struct {
	t         *testing.T
	endpoints string
	kv        pb.KVClient
	conn      *grpc.ClientConn
	rand      *rand.Rand
	flags     []string // of the subcommands
	stderr    string   // of the last subcommand
}

func newUndo(t *testing.T, conn *grpc.ClientConn, endpoint string) *undo {
	seed := rand.Uint64()
	t.Logf("seed %#x", seed)
	return &undo{t: t, endpoints: endpoint, kv: pb.NewKVClient(conn), conn: conn, rand: rand.New(rand.NewPCG(seed, 0))}
}

// TestUndo takes back what was done by mistake, on a server that is alone (or on what -datastore says), and on a cluster of three.
func TestUndo(t *testing.T) {
	if *server != "keelson" {
		t.Logf("%s has no history", *server)
		return
	}
	path := binary(t, "keelson")
	flags := []string{"--history-retention=1h", "--max-txn-ops=16"}
	t.Run("one", func(t *testing.T) {
		p := start(t, path, flags)
		u := newUndo(t, p.conn, p.Endpoint())
		u.everything()
		u.put("/r/1", 0)
		u.put("/r/2", 0)
		before, rev := u.all("/r/")
		u.deleteAll("/r/")
		u.compact()
		if err := p.Restart(t.Context(), true); err != nil {
			t.Fatal(err)
		}
		u.put("/other", 0)
		u.compact()
		u.rewinds("/r/", rev, before)
		u.everything()
	})
	t.Run("small", func(t *testing.T) {
		// The server takes less at once than is asked for.
		p := start(t, path, []string{"--history-retention=1h", "--max-request-bytes=20000"})
		u := newUndo(t, p.conn, p.Endpoint())
		for i := range 130 {
			u.must(u.kv.Put(t.Context(), &pb.PutRequest{Key: fmt.Appendf(nil, "/s/%03d", i), Value: bytes.Repeat([]byte{byte(i)}, 9000)}))
		}
		before, rev := u.all("/s/")
		u.deleteAll("/s/")
		u.compact()
		if out, code := u.keelson("rewind", "--prefix=/s/", "--to="+fmt.Sprint(rev)); code != 0 || !strings.Contains(out, "it takes 2 transactions") {
			t.Errorf("the dry run says\n%s", out)
		}
		u.rewinds("/s/", rev, before)
	})
	t.Run("not kept", func(t *testing.T) {
		p := start(t, path, nil)
		u := newUndo(t, p.conn, p.Endpoint())
		u.put("/n/a", 0)
		u.put("/n/b", 0)
		_, rev := u.all("/n/")
		then := u.nextMillisecond()
		u.deleteAll("/n/")
		u.put("/n/c", 0)
		u.compact()
		now, _ := u.all("/n/")
		for _, to := range []string{fmt.Sprint(rev), then.Format(time.RFC3339Nano)} {
			out, code := u.keelson("rewind", "--prefix=/n/", "--to="+to, "--apply")
			if code != 1 || out != "" || !strings.Contains(u.stderr, "the log does not go back so far: it is whole from revision ") {
				t.Errorf("it says %q, %q", u.stderr, out)
			}
		}
		after, _ := u.all("/n/")
		u.same("after it was refused", after, now)
	})
	t.Run("certificates", func(t *testing.T) { undoTLS(t, path) })
	if *datastore == "postgres" {
		t.Run("shared", func(t *testing.T) { undoShared(t, path) })
		return
	}
	t.Run("cluster", func(t *testing.T) {
		var all []launch.Options
		for i := range 3 {
			all = append(all, launch.Options{Binary: path, Dir: t.TempDir(), Name: fmt.Sprint("m", i), Flags: flags})
		}
		members, err := launch.StartCluster(t.Context(), all)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range members {
			t.Cleanup(func() {
				if err := m.Stop(); err != nil {
					t.Error(err)
				}
			})
			conn, err := script.Dial(m.Endpoint())
			if err != nil {
				t.Fatal(err)
			}
			newUndo(t, conn, m.Endpoint()).everything()
			conn.Close()
		}
		undoDifferent(t, members[0], members[2])
	})
}

// everything does what a server that keeps history must do.
func (u *undo) everything() {
	u.t.Helper()
	u.mistake()
	u.changed()
	u.history()
}

// rewinds takes a prefix back to a revision, and compares what is there with what was.
func (u *undo) rewinds(prefix string, rev int64, want []*mvccpb.KeyValue) {
	u.t.Helper()
	if out, code := u.keelson("rewind", "--prefix="+prefix, "--to="+fmt.Sprint(rev), "--apply"); code != 0 {
		u.t.Errorf("rewind says\n%s%s", out, u.stderr)
	}
	got, _ := u.all(prefix)
	u.same("after rewind", got, want)
}

// undoTLS: whoever has no certificate learns nothing of the past.
func undoTLS(t *testing.T, path string) {
	p := start(t, path, nil)
	pair, err := listen.SelfSigned(t.TempDir(), []url.URL{{Scheme: "https", Host: "127.0.0.1"}}, 1)
	if err != nil {
		t.Fatal(err)
	}
	u := newUndo(t, p.conn, "https://"+p.Endpoint())
	u.put("/t", 0)
	tls := append(p.flags, "--listen-client-urls="+u.endpoints, "--advertise-client-urls="+u.endpoints,
		"--cert-file="+pair.CertFile, "--key-file="+pair.KeyFile, "--trusted-ca-file="+pair.CertFile, "--client-cert-auth")
	if err := errors.Join(p.Stop(), p.RestartWith(t.Context(), tls...)); err != nil {
		t.Fatal(err)
	}
	for _, command := range [][]string{{"history", "/t"}, {"rewind", "--prefix=/t", "--to=1"}} {
		u.flags = []string{"--cacert=" + pair.CertFile}
		if out, code := u.keelson(command...); code != 1 || out != "" {
			t.Errorf("%s without a certificate: %d\n%s", command[0], code, out)
		}
		u.flags = append(u.flags, "--cert="+pair.CertFile, "--key="+pair.KeyFile)
		if out, code := u.keelson(command...); code != 0 || !strings.Contains(out, "/t") {
			t.Errorf("%s with a certificate: %d\n%s", command[0], code, out)
		}
	}
}

// undoDifferent: each member of a cluster keeps what its own flag says, and tells what it has.
func undoDifferent(t *testing.T, keeps, other *launch.Process) {
	if err := errors.Join(other.Stop(), other.RestartWith(t.Context())); err != nil {
		t.Fatal(err)
	}
	conn, err := script.Dial(keeps.Endpoint())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	a, b := newUndo(t, conn, keeps.Endpoint()), newUndo(t, conn, other.Endpoint())
	a.put("/d/a", 0)
	before, rev := a.all("/d/")
	a.deleteAll("/d/")
	b.untilGone("/d/", rev)
	a.rewinds("/d/", rev, before)
}

// untilGone compacts until what was there at a revision is not kept any more.
func (u *undo) untilGone(prefix string, rev int64) {
	u.t.Helper()
	patience := time.After(3 * time.Minute)
	for {
		u.put("/other", 0)
		u.compact()
		if _, code := u.keelson("rewind", "--prefix="+prefix, "--to="+fmt.Sprint(rev)); code == 1 {
			if !strings.Contains(u.stderr, "the log does not go back so far") {
				u.t.Fatal(u.stderr)
			}
			return
		}
		select {
		case <-patience:
			u.t.Fatal("it keeps what it is not told to keep")
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// undoShared: of two servers on one log with different flags the keeper's counts, and both tell what there is, not what their flags say.
func undoShared(t *testing.T, path string) {
	first := start(t, path, []string{"--history-retention=1h"})
	second, err := launch.Start(t.Context(), launch.Options{Binary: path, Dir: t.TempDir(), Name: "second", Flags: first.flags[:2]})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := second.Stop(); err != nil {
			t.Error(err)
		}
	})
	conn, err := script.Dial(second.Endpoint())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	a, b := newUndo(t, first.conn, first.Endpoint()), newUndo(t, conn, second.Endpoint())
	a.put("/p/a", 0)
	a.put("/p/b", 0)
	before, rev := a.all("/p/")
	b.deleteAll("/p/")
	b.compact()
	a.put("/other", 0)
	a.compact()
	b.rewinds("/p/", rev, before)
	// Now the other one is the keeper.
	if err := first.Stop(); err != nil {
		t.Fatal(err)
	}
	b.deleteAll("/p/")
	b.untilGone("/p/", rev)
	if err := first.Restart(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	if out, code := a.keelson("rewind", "--prefix=/p/", "--to="+fmt.Sprint(rev), "--apply"); code != 1 || out != "" {
		t.Errorf("what is gone is told:\n%s", out)
	}
}

func (u *undo) must(_ any, err error) {
	u.t.Helper()
	if err != nil {
		u.t.Fatal(err)
	}
}

// put puts a value of any bytes.
func (u *undo) put(key string, lease int64) {
	u.t.Helper()
	value := make([]byte, u.rand.IntN(300))
	for i := range value {
		value[i] = byte(u.rand.Uint32())
	}
	u.must(u.kv.Put(u.t.Context(), &pb.PutRequest{Key: []byte(key), Value: value, Lease: lease}))
}

// all gives everything under a prefix, and the revision.
func (u *undo) all(prefix string) ([]*mvccpb.KeyValue, int64) {
	u.t.Helper()
	end := []byte(prefix)
	end[len(end)-1]++
	resp, err := u.kv.Range(u.t.Context(), &pb.RangeRequest{Key: []byte(prefix), RangeEnd: end})
	if err != nil {
		u.t.Fatal(err)
	}
	return resp.Kvs, resp.Header.Revision
}

func (u *undo) deleteAll(prefix string) {
	u.t.Helper()
	end := []byte(prefix)
	end[len(end)-1]++
	u.must(u.kv.DeleteRange(u.t.Context(), &pb.DeleteRangeRequest{Key: []byte(prefix), RangeEnd: end}))
}

// compact compacts everything, and removes at once what it frees.
func (u *undo) compact() {
	u.t.Helper()
	_, rev := u.all("/")
	u.must(u.kv.Compact(u.t.Context(), &pb.CompactionRequest{Revision: rev, Physical: true}))
}

// keelson runs a subcommand, and gives what it prints and its exit code.
func (u *undo) keelson(args ...string) (stdout string, code int) {
	u.t.Helper()
	ctx, cancel := context.WithTimeout(u.t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary(u.t, "keelson"), slices.Concat(args, u.flags, []string{"--endpoints=" + u.endpoints})...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		u.t.Fatal(err)
	}
	u.t.Logf("keelson %s: %d\n%s%s", strings.Join(args, " "), cmd.ProcessState.ExitCode(), errs.String(), out.String()[:min(out.Len(), 600)])
	u.stderr = errs.String()
	return out.String(), cmd.ProcessState.ExitCode()
}

// same compares keys with what they were: all but the revisions.
func (u *undo) same(what string, got, want []*mvccpb.KeyValue) {
	u.t.Helper()
	if len(got) != len(want) {
		u.t.Errorf("%s: %d keys, want %d", what, len(got), len(want))
		return
	}
	for i := range got {
		if g, w := got[i], want[i]; !bytes.Equal(g.Key, w.Key) || !bytes.Equal(g.Value, w.Value) || g.Lease != w.Lease {
			u.t.Errorf("%s: %q is %q with lease %d, want %q is %q with lease %d", what, g.Key, g.Value, g.Lease, w.Key, w.Value, w.Lease)
		}
	}
}

// mistake deletes a prefix, compacts, and takes it back: by revision, and, after another such mistake, by time.
func (u *undo) mistake() {
	u.deleteAll("/a/")
	lease, err := pb.NewLeaseClient(u.conn).LeaseGrant(u.t.Context(), &pb.LeaseGrantRequest{TTL: 3600})
	u.must(lease, err)
	for i := range 70 {
		key := fmt.Sprintf("/a/%03d", i)
		for range 1 + u.rand.IntN(3) {
			u.put(key, []int64{0, lease.ID}[i%10/9])
		}
	}
	u.put("/a/\xff\x00", 0)
	u.put("/b", 0)
	u.compact()
	before, rev := u.all("/a/")
	for _, by := range []string{"revision", "time"} {
		to := fmt.Sprint(rev)
		if by == "time" {
			// A batch has the time in milliseconds: this one is over by the next.
			to = u.nextMillisecond().Format(time.RFC3339Nano)
		}
		u.deleteAll("/a/")
		u.put("/a/new", 0)
		u.put("/a/005", 0)
		u.put("/b", 0)
		beside, _ := u.all("/b")
		u.compact()
		deletedTo, _ := u.all("/a/")
		out, code := u.keelson("rewind", "--prefix=/a/", "--to="+to)
		if code != 0 || !strings.Contains(out, "70 created again, 1 changed back, 1 deleted") {
			u.t.Errorf("by %s the dry run says\n%s", by, out)
		}
		if named := fmt.Sprintf("--to %d --apply does it.\n", rev); by == "revision" && !strings.HasSuffix(out, named) {
			u.t.Errorf("the dry run does not end with %q:\n%s", named, out)
		}
		if _, code := u.keelson("rewind", "--prefix=/a/", "--to=1s", "--apply"); code != 2 {
			u.t.Errorf("how long ago is taken with --apply: exit code %d", code)
		}
		now, _ := u.all("/a/")
		u.same("after the dry run", now, deletedTo)
		if out, code = u.keelson("rewind", "--prefix=/a/", "--to="+to, "--apply", "--max-txn-ops=16"); code != 0 || !strings.Contains(out, "done for 72 keys in 5 transactions") {
			u.t.Errorf("by %s rewind says\n%s", by, out)
		}
		after, _ := u.all("/a/")
		u.same("by "+by, after, before)
		others, _ := u.all("/b")
		u.same("what was not asked for", others, beside)
		if out, code = u.keelson("rewind", "--prefix=/a/", "--to="+to); code != 0 || !strings.Contains(out, "0 created again, 0 changed back, 0 deleted, 0 left alone") {
			u.t.Errorf("by %s there is more to do:\n%s", by, out)
		}
	}
}

// nextMillisecond waits for the next one.
func (u *undo) nextMillisecond() time.Time {
	now := time.Now().Truncate(time.Millisecond)
	for !time.Now().Truncate(time.Millisecond).After(now) {
	}
	return now
}

// changed rewinds while somebody else changes a key: that is refused, until it is forced. So are keys whose leases have ended, and those excluded.
func (u *undo) changed() {
	u.deleteAll("/c/")
	lease, err := pb.NewLeaseClient(u.conn).LeaseGrant(u.t.Context(), &pb.LeaseGrantRequest{TTL: 3600})
	u.must(lease, err)
	for i := range 20 {
		u.put(fmt.Sprintf("/c/%03d", i), 0)
	}
	u.put("/c/leased", lease.ID)
	u.put("/c/x/1", 0)
	before, rev := u.all("/c/")
	_, err = pb.NewLeaseClient(u.conn).LeaseRevoke(u.t.Context(), &pb.LeaseRevokeRequest{ID: lease.ID})
	u.must(nil, err)
	u.deleteAll("/c/")
	u.compact()
	out, code := u.keelson("rewind", "--prefix=/c/", "--to="+fmt.Sprint(rev), "--exclude=/c/x/", "--json", "--apply")
	type line struct {
		What, Key  string
		Created    int
		Left_alone int
	}
	var last line
	for text := range strings.Lines(out) {
		last = line{}
		if err := json.Unmarshal([]byte(text), &last); err != nil {
			u.t.Errorf("%q: %v", text, err)
		}
		if last.Key == "/c/leased" && last.What != "left alone" || last.Key == "/c/x/1" {
			u.t.Errorf("%s is %s", last.Key, last.What)
		}
	}
	if code != 0 || last.Created != 20 || last.Left_alone != 1 {
		u.t.Errorf("%+v", last)
	}
	after, _ := u.all("/c/")
	u.same("without those with leases", after, before[:20])

	// The list is made by one, and by the time it is done somebody else has written.
	if u.conflicting(rev, before[:20]) == 0 {
		u.t.Error("no rewind met the change of another")
	}
	if out, code := u.keelson("rewind", "--prefix=/c/0", "--to="+fmt.Sprint(rev), "--apply", "--force"); code != 0 {
		u.t.Errorf("by force:\n%s", out)
	}
	after, _ = u.all("/c/0")
	u.same("by force", after, before[:20])
}

// conflicting rewinds over and over while another client writes the same keys, and gives how many of the rewinds were refused. None of them overwrites a change
// made after its list.
func (u *undo) conflicting(rev int64, before []*mvccpb.KeyValue) (refused int) {
	for range 20 {
		stop := make(chan struct{})
		done := make(chan error, 1)
		go func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					done <- nil
					return
				default:
				}
				if _, err := u.kv.Put(context.Background(), &pb.PutRequest{Key: fmt.Appendf(nil, "/c/%03d", i%20), Value: fmt.Append(nil, "somebody else's ", i)}); err != nil {
					done <- err
					return
				}
			}
		}()
		out, code := u.keelson("rewind", "--prefix=/c/0", "--to="+fmt.Sprint(rev), "--apply")
		close(stop)
		if err := <-done; err != nil {
			u.t.Fatal(err)
		}
		u.notOverwritten(out, before)
		if code == 0 {
			continue
		}
		if !strings.Contains(out, "conflict ") {
			u.t.Errorf("it failed without naming a key:\n%s", out)
		}
		if refused++; refused == 2 {
			break
		}
	}
	return refused
}

// notOverwritten checks, by the history of what came after the list of a rewind, that it has changed no key that somebody else had changed since the list.
func (u *undo) notOverwritten(out string, before []*mvccpb.KeyValue) {
	u.t.Helper()
	var prefix string
	var then, listed int64
	if _, err := fmt.Sscanf(out, "%s as of revision %d; the current revision is %d", &prefix, &then, &listed); err != nil {
		u.t.Fatalf("%v:\n%s", err, out)
	}
	told, code := u.keelson("history", "/c/0", "-w=json", fmt.Sprint("--since=", listed))
	if code != 0 {
		u.t.Fatal(u.stderr)
	}
	taken := map[string]bool{}
	for text := range strings.Lines(told) {
		var change struct {
			Key   string
			Value []byte `json:"value_base64"`
		}
		if err := json.Unmarshal([]byte(text), &change); err != nil {
			u.t.Fatalf("%q: %v", text, err)
		}
		if strings.HasPrefix(string(change.Value), "somebody else's ") {
			taken[change.Key] = true
			continue
		}
		i := slices.IndexFunc(before, func(kv *mvccpb.KeyValue) bool { return string(kv.Key) == change.Key })
		if i < 0 || !bytes.Equal(change.Value, before[i].Value) {
			u.t.Errorf("%s was changed to %q, and it was %v", change.Key, change.Value, before)
		}
		if taken[change.Key] {
			u.t.Errorf("%s was changed back although it was changed after revision %d", change.Key, listed)
		}
	}
}

// history compares what is told with what was done.
func (u *undo) history() {
	u.deleteAll("/h/")
	_, rev := u.all("/h/")
	u.must(u.kv.Put(u.t.Context(), &pb.PutRequest{Key: []byte("/h/a"), Value: []byte(`{"kind":"K","spec":{"a":1,"b":2}}`)}))
	u.must(u.kv.Put(u.t.Context(), &pb.PutRequest{Key: []byte("/h/a"), Value: []byte(`{"kind":"K","spec":{"a":1,"b":3}}`)}))
	u.must(u.kv.Put(u.t.Context(), &pb.PutRequest{Key: []byte("/h/b"), Value: []byte("k8s:enc:aescbc:v1:key1:\x01\x02")}))
	u.deleteAll("/h/")
	u.compact()
	since := fmt.Sprint("--since=", rev)
	out, code := u.keelson("history", "/h/", since)
	var got []string
	for text := range strings.Lines(out) {
		fields := strings.Fields(text)
		got = append(got, fields[0]+" "+strings.Join(fields[2:], " "))
	}
	want := fmt.Sprintf("%d created /h/a,%d changed /h/a,%d created /h/b,%d deleted /h/a,%d deleted /h/b", rev+1, rev+2, rev+3, rev+4, rev+4)
	if code != 0 || strings.Join(got, ",") != want {
		u.t.Errorf("%s\nwant %s", out, want)
	}
	out, code = u.keelson("history", "--diff", since, "/h/")
	for _, text := range []string{"@@ -1,4 +1,4 @@\n kind: K\n spec:\n   a: 1\n-  b: 2\n+  b: 3\n", "+# 25 bytes, encrypted by kube-apiserver (aescbc:v1:key1)\n", "@@ -1,4 +0,0 @@\n-kind: K\n"} {
		if code != 0 || !strings.Contains(out, text) {
			u.t.Errorf("%q is not in\n%s", text, out)
		}
	}
	out, code = u.keelson("history", "/h/", "-w", "json", "--limit=2")
	if n := strings.Count(out, "\n"); code != 0 || n != 2 || !strings.Contains(out, `"op":"deleted"`) {
		u.t.Errorf("the last two are\n%s", out)
	}
	if out, code = u.keelson("history", "/h/a", "--exact", since, "-w=yaml", "--limit=1"); code != 0 || !strings.HasSuffix(out, "created  /h/a\nkind: K\nspec:\n  a: 1\n  b: 2\n---\n") {
		u.t.Errorf("the first is\n%s", out)
	}
	if _, code = u.keelson("history"); code != 2 {
		u.t.Errorf("without a prefix the exit code is %d", code)
	}
	if _, code = u.keelson("rewind", "--prefix=/h/", "--to=999999999"); code != 1 {
		u.t.Errorf("to the future the exit code is %d", code)
	}
}
