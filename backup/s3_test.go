package backup

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/keelson-io/keelson/test/s3"
)

// versity starts a real S3 server with a bucket.
func versity(t *testing.T) *s3.Server {
	t.Helper()
	binary, err := filepath.Abs("../.build/bin/versitygw")
	if err != nil {
		t.Fatal(err)
	}
	s, err := s3.Start(t.Context(), s3.Options{Binary: binary, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Kill(); err != nil {
			t.Error(err)
		}
	})
	if err := s.MakeBucket(t.Context(), "backups"); err != nil {
		t.Fatal(err)
	}
	return s
}

// env gives variables of an environment.
func env(list ...string) func(string) string {
	return func(name string) string {
		for _, e := range list {
			if v, ok := strings.CutPrefix(e, name+"="); ok {
				return v
			}
		}
		return ""
	}
}

func bucketOf(t *testing.T, s *s3.Server, set func(*S3Options)) *S3 {
	t.Helper()
	o := S3Options{Bucket: "backups", Endpoint: s.URL(), Getenv: env(s3.Environ()...)}
	if set != nil {
		set(&o)
	}
	b, err := OpenS3(o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestS3: what goes into a bucket comes out of it, in one part and in several.
func TestS3(t *testing.T) {
	server := versity(t)
	for _, prefix := range []string{"", "a/folder"} {
		target := bucketOf(t, server, func(o *S3Options) { o.Prefix = prefix })
		for i, size := range []int{1, 32<<10 + 32, 16 << 20, 16<<20 + 1, 40 << 20} {
			content := bytes.Repeat([]byte("content "), size/8+1)[:size]
			s := &Snapshot{ReadCloser: io.NopCloser(bytes.NewReader(content)), Size: int64(size), Revision: int64(i)}
			now := at("2026-11-26T02:00:00Z").Add(time.Duration(i) * time.Hour)
			m := &Maker{Target: target, Cluster: 7, Keep: Keep{Count: 2}, Now: func() time.Time { return now }}
			made, err := m.Make(t.Context(), s)
			if err != nil || made.Left != nil {
				t.Fatal(err, made)
			}
			path, cleanup, err := Fetch(t.Context(), target.String()+made.Name(), t.TempDir(), target.o)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, content) {
				t.Errorf("%d bytes of %d came back: %v", len(got), size, err)
			}
			cleanup()
			if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("after the cleanup: %v", err)
			}
			all, err := target.List(t.Context())
			if want := min(i+1, 2); err != nil || len(all) != want || !slices.Contains(all, made.Backup) {
				t.Errorf("%d backups, want %d with %+v: %v", len(all), want, made.Backup, err)
			}
		}
		if err := target.Remove(t.Context(), Backup{}.Name()); err != nil {
			t.Errorf("what is not there is removed: %v", err)
		}
	}
}

// TestS3Broken: what is broken off leaves nothing that can be seen.
func TestS3Broken(t *testing.T) {
	target := bucketOf(t, versity(t), nil)
	failure := errors.New("read error")
	for _, sent := range []int{100, 20 << 20} {
		b := Backup{Cluster: 7, Time: at("2026-11-26T02:00:00Z"), Revision: int64(sent), Size: int64(2 * sent)}
		for _, r := range []io.Reader{
			io.MultiReader(bytes.NewReader(make([]byte, sent)), reading(func() error { return failure })),
			bytes.NewReader(make([]byte, sent)),
		} {
			if err := target.Put(t.Context(), b, r); err == nil {
				t.Errorf("%d bytes of %d were stored", sent, b.Size)
			}
		}
	}
	if all, err := target.List(t.Context()); err != nil || len(all) > 0 {
		t.Errorf("%+v, %v", all, err)
	}
}

// TestS3Sweep: parts that were left behind go, when they are so old that nobody sends the rest.
func TestS3Sweep(t *testing.T) {
	server := versity(t)
	target := bucketOf(t, server, nil)
	client, err := server.Client()
	if err != nil {
		t.Fatal(err)
	}
	core := minio.Core{Client: client}
	b := Backup{Cluster: 7, Time: at("2026-11-26T02:00:00Z"), Revision: 42}
	if _, err := core.NewMultipartUpload(t.Context(), "backups", b.Name(), minio.PutObjectOptions{}); err != nil {
		t.Fatal(err)
	}
	left := func() int {
		all, err := core.ListMultipartUploads(t.Context(), "backups", "", "", "", "", 100)
		if err != nil {
			t.Fatal(err)
		}
		return len(all.Uploads)
	}
	for _, c := range []struct {
		cluster uint64
		age     time.Duration
		left    int
	}{{7, time.Hour, 1}, {8, 0, 1}, {7, 0, 0}} {
		if err := target.sweep(t.Context(), c.cluster, c.age); err != nil || left() != c.left {
			t.Errorf("%+v: %d uploads left, %v", c, left(), err)
		}
	}
}

// TestS3Left: parts that this process could not remove, since the store was away, go when it is back, and do not wait until they are old.
func TestS3Left(t *testing.T) {
	server := versity(t)
	target := bucketOf(t, server, nil)
	const sent = 40 << 20
	b := Backup{Cluster: 7, Time: at("2026-11-26T02:00:00Z"), Revision: 42, Size: 2 * sent}
	r := io.MultiReader(bytes.NewReader(make([]byte, sent)), reading(func() error {
		if err := server.Kill(); err != nil {
			t.Error(err)
		}
		return io.ErrUnexpectedEOF
	}))
	if err := target.Put(t.Context(), b, r); err == nil {
		t.Fatal("half a backup was stored")
	}
	if err := server.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	client, err := server.Client()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []int{1, 0} {
		uploads := 0
		for u := range client.ListIncompleteUploads(t.Context(), "backups", "", true) {
			if u.Err != nil {
				t.Fatal(u.Err)
			}
			uploads++
		}
		if uploads != want {
			t.Errorf("there are parts of %d backups, want %d", uploads, want)
		}
		if err := target.Sweep(t.Context(), 7); err != nil {
			t.Error(err)
		}
	}
	if len(target.left) > 0 {
		t.Errorf("it still has %v in mind", target.left)
	}
}

// TestS3Refused: the errors say what it was, come at once, and tell no secret. (Amazon's word for somebody unknown is InvalidAccessKeyId.)
func TestS3Refused(t *testing.T) {
	server := versity(t)
	for name, set := range map[string]func(*S3Options){
		"NoSuchBucket":          func(o *S3Options) { o.Bucket = "another" },
		"SignatureDoesNotMatch": func(o *S3Options) { o.Getenv = env("AWS_ACCESS_KEY_ID="+s3.AccessKey, "AWS_SECRET_ACCESS_KEY=wrong") },
		"XAdminUserNotFound":    func(o *S3Options) { o.Getenv = env("AWS_ACCESS_KEY_ID=nobody", "AWS_SECRET_ACCESS_KEY=wrong") },
	} {
		target := bucketOf(t, server, set)
		_, err := target.List(t.Context())
		if code(err) != name || !strings.Contains(err.Error(), target.String()) || strings.Contains(err.Error(), "wrong") {
			t.Errorf("%s: list: %v", name, err)
		}
		m := &Maker{Target: target, Cluster: 7, Now: time.Now}
		if _, err := m.Make(t.Context(), snapshotOf("content", 42)); code(err) != name {
			t.Errorf("%s: make: %v", name, err)
		}
	}
}

// code is what the store calls an error; "" if it is none of the store's.
func code(err error) string {
	var resp minio.ErrorResponse
	if !errors.As(err, &resp) {
		return ""
	}
	return resp.Code
}

// TestS3Hangs: a server that answers nothing holds nobody up whose time is over.
func TestS3Hangs(t *testing.T) {
	server := versity(t)
	target := bucketOf(t, server, nil)
	if err := server.Pause(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	over := errors.New("over")
	time.AfterFunc(100*time.Millisecond, func() { cancel(over) })
	m := &Maker{Target: target, Cluster: 7, Now: time.Now}
	if _, err := m.Make(ctx, snapshotOf("content", 42)); !errors.Is(err, over) {
		t.Errorf("error %v", err)
	}
	if err := server.Resume(); err != nil {
		t.Fatal(err)
	}
	if all, err := target.List(t.Context()); err != nil || len(all) > 0 {
		t.Errorf("%+v, %v", all, err)
	}
}

// TestS3Silent: a server that takes all and never answers is given up by the runner.
func TestS3Silent(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			io.WriteString(w, `<ListBucketResult></ListBucketResult>`)
			return
		}
		// Whose body was not read does not learn that the client has gone.
		io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	}))
	defer server.Close()
	target, err := OpenS3(S3Options{Bucket: "backups", Region: "here", Endpoint: server.URL, Getenv: env(s3.Environ()...)})
	if err != nil {
		t.Fatal(err)
	}
	r := NewRunner(Options{
		Source: func(context.Context) (*Snapshot, error) { return snapshotOf("content", 42), nil },
		Target: target, Schedule: schedule(t, "@every 1s"), Cluster: 7, Logger: discard(),
		Leads: func() bool { return true }, Stall: time.Second,
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- r.Run(ctx) }()
	for r.Stats().Failures < 2 {
		time.Sleep(10 * time.Millisecond)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if s := r.Stats(); s.Successes > 0 || !s.Failed {
		t.Errorf("%+v", s)
	}
}

// TestS3Credentials: from the environment, or from a file, which may change.
func TestS3Credentials(t *testing.T) {
	server := versity(t)
	file := filepath.Join(t.TempDir(), "credentials")
	keys := func(id, secret string) {
		text := "[default]\naws_access_key_id = " + id + "\naws_secret_access_key = " + secret + "\n\n[none]\n"
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	keys("old", "old")
	named := func(o *S3Options) { o.CredentialsFile, o.Getenv = file, env() }
	target := bucketOf(t, server, named)
	if _, err := target.List(t.Context()); err == nil {
		t.Error("wrong keys were taken")
	}
	keys(s3.AccessKey, s3.SecretKey)
	if _, err := target.List(t.Context()); err != nil {
		t.Errorf("with other keys in the file: %v", err)
	}
	for name, o := range map[string]S3Options{
		"none":     {Getenv: env()},
		"half":     {Getenv: env("AWS_ACCESS_KEY_ID=" + s3.AccessKey)},
		"no file":  {Getenv: env(s3.Environ()...), CredentialsFile: file + "x"},
		"no keys":  {Getenv: env("AWS_PROFILE=none"), CredentialsFile: file},
		"no such":  {Getenv: env("AWS_PROFILE=other"), CredentialsFile: file},
		"no CA":    {Getenv: env(s3.Environ()...), CAFile: file + "x"},
		"empty CA": {Getenv: env(s3.Environ()...), CAFile: file},
	} {
		o.Bucket, o.Endpoint = "backups", server.URL()
		if _, err := OpenS3(o); err == nil || strings.Contains(err.Error(), s3.SecretKey) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOpenS3(t *testing.T) {
	for endpoint, host := range map[string]string{
		"": "s3.amazonaws.com", "store.test": "store.test", "store.test:9000": "store.test:9000", "http://store.test/": "store.test", "https://[::1]:9000": "[::1]:9000",
	} {
		s, err := OpenS3(S3Options{Bucket: "backups", Endpoint: endpoint, Getenv: env(s3.Environ()...)})
		if err != nil || s.host != host || s.secure != !strings.HasPrefix(endpoint, "http:") {
			t.Errorf("%q: %+v, %v", endpoint, s, err)
		}
	}
	s, err := OpenS3(S3Options{Bucket: "backups", Prefix: "/a/b/", Getenv: env(append(s3.Environ(), "AWS_ENDPOINT_URL=http://store.test:1", "AWS_REGION=r")...)})
	if err != nil || s.host != "store.test:1" || s.o.Region != "r" || s.String() != "s3://backups/a/b/" {
		t.Errorf("%+v, %v", s, err)
	}
	for _, o := range []S3Options{
		{}, {Bucket: "a"}, {Bucket: "Not_One"}, {Bucket: "backups", Endpoint: "ftp://x"}, {Bucket: "backups", Endpoint: "http://x/path"},
		{Bucket: "backups", Endpoint: "http://user:secret@x"}, {Bucket: "backups", Endpoint: "://"}, {Bucket: "backups", Endpoint: "http://"},
	} {
		o.Getenv = env(s3.Environ()...)
		if s, err := OpenS3(o); err == nil || strings.Contains(err.Error(), "secret@") {
			t.Errorf("%+v: %+v, %v", o, s, err)
		}
	}
}

func TestFetch(t *testing.T) {
	path, cleanup, err := Fetch(t.Context(), "some/file.db", "", S3Options{})
	if err != nil || path != "some/file.db" {
		t.Errorf("%s, %v", path, err)
	}
	cleanup()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	t.Setenv("TMPDIR", t.TempDir())
	o := S3Options{Endpoint: "http://" + l.Addr().String(), Getenv: env(s3.Environ()...)}
	for _, from := range []string{"s3://", "s3://backups", "s3://backups/", "s3://backups/a/", "s3://B/a", "s3://backups/a"} {
		if path, _, err := Fetch(t.Context(), from, "", o); err == nil {
			t.Errorf("%s: %s", from, path)
		}
	}
	if left := within(t, os.TempDir()); len(left) > 0 {
		t.Errorf("there are %q", left)
	}
}
