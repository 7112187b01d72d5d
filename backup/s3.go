package backup

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/s3utils"
)

// S3Options say which bucket, where, and who asks.
type S3Options struct {
	// Bucket is the bucket's name. It has to be there.
	Bucket string
	// Prefix is the folder in it. Empty: none.
	Prefix string
	// Endpoint is the URL of the store. Empty: AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, or else Amazon's.
	Endpoint string
	// Region is the bucket's. Empty: AWS_REGION, AWS_DEFAULT_REGION, or what the store says.
	Region string
	// CredentialsFile is a file as AWS has it, with the profile that AWS_PROFILE names, or default. It is read anew for every backup. Empty: AWS_ACCESS_KEY_ID,
	// AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or the role that AWS_WEB_IDENTITY_TOKEN_FILE, AWS_CONTAINER_CREDENTIALS_… or the machine has at Amazon.
	CredentialsFile string
	// CAFile has certificates of authorities to trust beside the system's.
	CAFile string
	// Getenv gives the variables of the environment. Nil: os.Getenv.
	Getenv func(name string) string
}

// ErrNoCredentials means that nothing says who asks.
var ErrNoCredentials = errors.New("backup: no credentials for the bucket: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a file")

// S3 is a bucket of backups.
type S3 struct {
	o         S3Options
	host      string
	secure    bool
	transport http.RoundTripper

	mu   sync.Mutex
	left map[string]bool // the keys that this process has failed to put, of which there may be parts
}

// amazon is where buckets are if nobody says anything else.
const amazon = "https://s3.amazonaws.com"

// OpenS3 sees that the options make sense. It asks nobody.
func OpenS3(o S3Options) (*S3, error) {
	if o.Getenv == nil {
		o.Getenv = os.Getenv
	}
	if err := s3utils.CheckValidBucketNameStrict(o.Bucket); err != nil {
		return nil, fmt.Errorf("backup: bucket %q: %w", o.Bucket, err)
	}
	if o.Prefix = strings.Trim(o.Prefix, "/"); o.Prefix != "" {
		o.Prefix += "/"
	}
	o.Endpoint = cmp.Or(o.Endpoint, o.Getenv("AWS_ENDPOINT_URL_S3"), o.Getenv("AWS_ENDPOINT_URL"), amazon)
	o.Region = cmp.Or(o.Region, o.Getenv("AWS_REGION"), o.Getenv("AWS_DEFAULT_REGION"))
	if !strings.Contains(o.Endpoint, "://") {
		o.Endpoint = "https://" + o.Endpoint
	}
	u, err := url.Parse(o.Endpoint)
	if err != nil || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, errors.New("backup: the endpoint of the bucket is no URL as https://host:port")
	}
	s := &S3{o: o, host: u.Host, secure: u.Scheme == "https", left: map[string]bool{}}
	if s.transport, err = transport(o.CAFile, s.secure); err != nil {
		return nil, fmt.Errorf("backup: %w", err)
	}
	_, err = s.client()
	return s, err
}

// transport is the library's, with our own authorities.
func transport(caFile string, secure bool) (http.RoundTripper, error) {
	t, err := minio.DefaultTransport(secure)
	if err != nil || caFile == "" {
		return t, err
	}
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, err
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s has no certificate", caFile)
	}
	if t.TLSClientConfig == nil {
		t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	t.TLSClientConfig.RootCAs = pool
	return t, nil
}

// tries is how often a request is sent that fails in a way that may pass.
const tries = 3

// client makes a client with the credentials of now.
func (s *S3) client() (*minio.Client, error) {
	creds, err := s.credentials()
	if err != nil {
		return nil, err
	}
	return minio.New(s.host, &minio.Options{
		Creds: creds, Secure: s.secure, Transport: s.transport, Region: s.o.Region, MaxRetries: tries,
	})
}

func (s *S3) credentials() (*credentials.Credentials, error) {
	env := s.o.Getenv
	if file := s.o.CredentialsFile; file != "" {
		c := credentials.NewFileAWSCredentials(file, cmp.Or(env("AWS_PROFILE"), "default"))
		v, err := c.GetWithContext(nil)
		if err != nil {
			// What cannot be parsed may be quoted in the error, and it may be a secret.
			if path := (*fs.PathError)(nil); errors.As(err, &path) {
				return nil, fmt.Errorf("backup: the credentials file: %w", path)
			}
			return nil, fmt.Errorf("backup: the credentials file %s is not as AWS's tools have it, or lacks the profile", file)
		}
		if v.AccessKeyID == "" || v.SecretAccessKey == "" {
			return nil, fmt.Errorf("backup: the credentials file %s has no aws_access_key_id and aws_secret_access_key for this profile", file)
		}
		return c, nil
	}
	if id, secret := env("AWS_ACCESS_KEY_ID"), env("AWS_SECRET_ACCESS_KEY"); id != "" && secret != "" {
		return credentials.NewStaticV4(id, secret, env("AWS_SESSION_TOKEN")), nil
	}
	for _, name := range []string{"AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"} {
		if env(name) != "" {
			return credentials.NewIAM(""), nil
		}
	}
	if s.o.Endpoint == amazon {
		return credentials.NewIAM(""), nil
	}
	return nil, ErrNoCredentials
}

// String implements Target.
func (s *S3) String() string { return "s3://" + s.o.Bucket + "/" + s.o.Prefix }

// with does something with the client of now.
func (s *S3) with(do func(*minio.Client) error) error {
	c, err := s.client()
	if err == nil {
		err = do(c)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", s, err)
	}
	return nil
}

// Put implements Target. What is larger than a part goes in several, which make an object when all are there; memory is needed for one.
func (s *S3) Put(ctx context.Context, b Backup, r io.Reader) error {
	key := s.o.Prefix + b.Name()
	return s.with(func(c *minio.Client) error {
		_, err := c.PutObject(ctx, s.o.Bucket, key, r, b.Size, minio.PutObjectOptions{ContentType: "application/octet-stream"})
		if err != nil {
			// The library tries to remove the parts. A store that hangs does not let it.
			s.mu.Lock()
			s.left[key] = true
			s.mu.Unlock()
		}
		return err
	})
}

// Open implements Target.
func (s *S3) Open(ctx context.Context, name string) (r io.ReadCloser, err error) {
	err = s.with(func(c *minio.Client) error {
		r, err = c.GetObject(ctx, s.o.Bucket, s.o.Prefix+name, minio.GetObjectOptions{})
		return err
	})
	return r, err
}

// List implements Target.
func (s *S3) List(ctx context.Context) (all []Backup, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // of a listing that is left before its end
	err = s.with(func(c *minio.Client) error {
		for o := range c.ListObjects(ctx, s.o.Bucket, minio.ListObjectsOptions{Prefix: s.o.Prefix + names}) {
			if o.Err != nil {
				return o.Err
			}
			if b, ok := Parse(path.Base(o.Key)); ok && o.Key == s.o.Prefix+b.Name() {
				b.Size = o.Size
				all = append(all, b)
			}
		}
		return nil
	})
	return all, err
}

// Remove implements Target.
func (s *S3) Remove(ctx context.Context, name string) error {
	return s.with(func(c *minio.Client) error {
		return c.RemoveObject(ctx, s.o.Bucket, s.o.Prefix+name, minio.RemoveObjectOptions{})
	})
}

// orphaned is how old parts of an object are that nobody sends any more, unless this process knows that it was itself.
const orphaned = 24 * time.Hour

// Sweep implements Target. Parts of an object that was never finished are not to be seen, but are paid for.
func (s *S3) Sweep(ctx context.Context, cluster uint64) error { return s.sweep(ctx, cluster, orphaned) }

func (s *S3) sweep(ctx context.Context, cluster uint64, age time.Duration) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.mu.Lock()
	left := maps.Clone(s.left)
	s.mu.Unlock()
	return s.with(func(c *minio.Client) error {
		var errs []error
		for u := range c.ListIncompleteUploads(ctx, s.o.Bucket, s.o.Prefix+namesOf(cluster)+"-", false) {
			if u.Err != nil {
				return errors.Join(append(errs, u.Err)...)
			}
			if _, ok := Parse(path.Base(u.Key)); ok && (left[u.Key] || time.Since(u.Initiated) > age) {
				errs = append(errs, c.RemoveIncompleteUpload(ctx, s.o.Bucket, u.Key))
			}
		}
		err := errors.Join(errs...)
		if err == nil {
			s.mu.Lock()
			maps.DeleteFunc(s.left, func(key string, _ bool) bool { return left[key] })
			s.mu.Unlock()
		}
		return err
	})
}
