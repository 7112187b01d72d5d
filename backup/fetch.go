package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/minio/minio-go/v7"
)

// Scheme begins the URL of what is in a bucket: s3://bucket/key.
const Scheme = "s3://"

// Fetch gives the path of a file that a command names: the path itself, or, for s3://bucket/key, where under dir it was fetched to, which is gone after cleanup. An empty dir is where
// temporary files are. Of the options all but Bucket and Prefix count. All of the object is there; whether that is a whole snapshot its reader sees by the sha256 at its end. A store that hangs is given up.
func Fetch(ctx context.Context, from, dir string, o S3Options) (path string, cleanup func(), err error) {
	rest, ok := strings.CutPrefix(from, Scheme)
	if !ok {
		return from, func() {}, nil
	}
	bucket, key, _ := strings.Cut(rest, "/")
	if key == "" || strings.HasSuffix(key, "/") {
		return "", nil, fmt.Errorf("backup: %s is not as s3://bucket/key: keelson backup list shows the keys", from)
	}
	o.Bucket, o.Prefix = bucket, ""
	s, err := OpenS3(o)
	if err != nil {
		return "", nil, err
	}
	out, err := os.CreateTemp(dir, "keelson-fetch-*.db")
	if err != nil {
		return "", nil, fmt.Errorf("backup: fetch %s: %w", from, err)
	}
	cleanup = func() { os.Remove(out.Name()) }
	err = watched(ctx, DefaultStall, func(ctx context.Context, p *pulse) error { return s.fetch(ctx, key, out, p) })
	if err = errors.Join(err, out.Close()); err != nil {
		cleanup()
		return "", nil, fmt.Errorf("backup: fetch %s: %w", from, err)
	}
	return out.Name(), cleanup, nil
}

// fetch writes an object to out.
func (s *S3) fetch(ctx context.Context, key string, out io.Writer, p *pulse) error {
	c, err := s.client()
	if err != nil {
		return err
	}
	in, err := c.GetObject(ctx, s.o.Bucket, key, minio.GetObjectOptions{})
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	p.expect(info.Size)
	n, err := io.Copy(out, &beating{in, p})
	if err == nil && n != info.Size {
		err = fmt.Errorf("it ended after %d bytes of %d", n, info.Size)
	}
	return err
}

// beating is a reader that says when it goes forward.
type beating struct {
	io.Reader
	pulse *pulse
}

func (b *beating) Read(to []byte) (int, error) {
	n, err := b.Reader.Read(to)
	if n > 0 {
		b.pulse.beat()
	}
	return n, err
}
