package s3

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/keelson-io/keelson/test/ports"
)

// Who may do everything.
const (
	AccessKey = "keelson-test"
	SecretKey = "keelson-test-secret"
)

// Region is where all buckets are.
const Region = "us-east-1"

// patience bounds the wait for a server that starts. It is no measure of speed.
const patience = time.Minute

// Options say what server to start.
type Options struct {
	// Binary is the path of versitygw.
	Binary string
	// Dir is an existing directory. The caller removes it.
	Dir string
	// CertFile and KeyFile make it one of TLS.
	CertFile, KeyFile string
}

// Server is an S3 server. It keeps its objects and its address when it is killed and started again.
type Server struct {
	o       Options
	address string
	cmd     *exec.Cmd
	exited  chan struct{}
}

// Start starts a server without a bucket, and returns when it answers.
func Start(ctx context.Context, o Options) (*Server, error) {
	port, err := ports.Free()
	if err != nil {
		return nil, fmt.Errorf("s3: %w", err)
	}
	s := &Server{o: o, address: ports.At(port)}
	for _, dir := range []string{s.objects(), s.meta()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("s3: %w", err)
		}
	}
	return s, s.Run(ctx)
}

func (s *Server) objects() string { return filepath.Join(s.o.Dir, "objects") }
func (s *Server) meta() string    { return filepath.Join(s.o.Dir, "meta") }

// Run starts a server again that was killed.
func (s *Server) Run(ctx context.Context) error {
	args := []string{"--port", s.address, "--region", Region, "--health", "/healthy"}
	if s.o.CertFile != "" {
		args = append(args, "--cert", s.o.CertFile, "--key", s.o.KeyFile)
	}
	cmd := exec.Command(s.o.Binary, append(args, "posix", "--sidecar", s.meta(), s.objects())...)
	cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY_ID="+AccessKey, "ROOT_SECRET_ACCESS_KEY="+SecretKey)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	log, err := os.OpenFile(s.LogPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("s3: %w", err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("s3: %w (make peers builds it)", err)
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait() // killed, or the log says why
		close(exited)
	}()
	s.cmd, s.exited = cmd, exited
	if err := s.ready(ctx); err != nil {
		return errors.Join(fmt.Errorf("s3: %w; see %s", err, s.LogPath()), s.Kill())
	}
	return nil
}

// LogPath is the file that has what the server prints.
func (s *Server) LogPath() string { return filepath.Join(s.o.Dir, "server.log") }

func (s *Server) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL()+"/healthy", nil)
		if err != nil {
			return err
		}
		if resp, err := client.Do(req); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-ticker.C:
		case <-s.exited:
			return errors.New("the server exited")
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// URL is where the server is.
func (s *Server) URL() string {
	if s.o.CertFile != "" {
		return "https://" + s.address
	}
	return "http://" + s.address
}

// Client gives a client that may do everything.
func (s *Server) Client() (*minio.Client, error) {
	return minio.New(s.address, &minio.Options{
		Creds: credentials.NewStaticV4(AccessKey, SecretKey, ""), Region: Region, Secure: s.o.CertFile != "",
		Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}},
	})
}

// MakeBucket makes a bucket.
func (s *Server) MakeBucket(ctx context.Context, name string) error {
	c, err := s.Client()
	if err != nil {
		return err
	}
	return c.MakeBucket(ctx, name, minio.MakeBucketOptions{Region: Region})
}

// Environ are the variables for who may do everything.
func Environ() []string {
	return []string{"AWS_ACCESS_KEY_ID=" + AccessKey, "AWS_SECRET_ACCESS_KEY=" + SecretKey}
}

// Pause has the server hang until Resume: connections are accepted and nothing is answered. It returns when that is so.
func (s *Server) Pause() error {
	if err := s.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	for {
		stopped, err := s.stopped()
		if err != nil || stopped {
			return err
		}
		time.Sleep(time.Millisecond)
	}
}

// stopped tells whether all threads stand still: where there is much to do a signal comes late.
func (s *Server) stopped() (bool, error) {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", s.cmd.Process.Pid))
	if err != nil || len(threads) == 0 {
		return false, errors.Join(err, errors.New("s3: the server has no threads"))
	}
	for _, thread := range threads {
		text, err := os.ReadFile(thread)
		if errors.Is(err, os.ErrNotExist) {
			continue // it has ended
		}
		if err != nil {
			return false, fmt.Errorf("s3: %w", err)
		}
		// Its name is in parentheses, and may have anything in it.
		if state := text[bytes.LastIndexByte(text, ')')+1:]; !bytes.HasPrefix(state, []byte(" T")) {
			return false, nil
		}
	}
	return true, nil
}

// Resume has it go on.
func (s *Server) Resume() error { return s.cmd.Process.Signal(syscall.SIGCONT) }

// Kill ends the server at once.
func (s *Server) Kill() error {
	if err := s.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-s.exited
	return nil
}
