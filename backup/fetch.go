package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// scheme begins the URL of what is in a bucket: s3://bucket/key.
const scheme = "s3://"

// Fetch gives the path of a file that a command names: the path itself, or, for s3://bucket/key, where it was fetched to, which is gone after cleanup. Of the options all but Bucket and
// Prefix count. Whether the file is a whole snapshot is for its reader to see.
func Fetch(ctx context.Context, from string, o S3Options) (path string, cleanup func(), err error) {
	rest, ok := strings.CutPrefix(from, scheme)
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
	in, err := s.Open(ctx, key)
	if err != nil {
		return "", nil, err
	}
	defer in.Close()
	out, err := os.CreateTemp("", "keelson-fetch-*.db")
	if err != nil {
		return "", nil, fmt.Errorf("backup: fetch %s: %w", from, err)
	}
	cleanup = func() { os.Remove(out.Name()) }
	_, err = io.Copy(out, in)
	if err = errors.Join(err, out.Close()); err != nil {
		cleanup()
		return "", nil, fmt.Errorf("backup: fetch %s: %w", from, err)
	}
	return out.Name(), cleanup, nil
}
