package main

import (
	"bufio"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/keelson-io/keelson/etcdfile"
	"github.com/keelson-io/keelson/migrate"
)

const saveUsage = `Usage:

  keelson snapshot save FILE [flags]

Save a snapshot of the server at one endpoint, of Keelson or of etcd: what that server has at one moment. FILE has its
name when it is whole and its sha256 was found right; until then it is FILE.part. Of two at once to one FILE the
second is refused. A server that lags behind its cluster, or cannot tell, is refused without --lost-quorum. The
other flags are etcdctl's, and ETCDCTL_ENDPOINTS, ETCDCTL_CACERT and so on are read.

`

// saveCommand is keelson snapshot save.
type saveCommand struct {
	file    string
	client  clientOptions
	timeout time.Duration // for the whole, 0 for ever
	lost    bool          // take what the server has, though it may lack what its cluster has
}

func (p *program) snapshotSave(ctx context.Context, args []string) error {
	c, err := p.parseSave(args)
	if err != nil {
		return err
	}
	if c.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.timeout)
		defer cancel()
	}
	s, err := c.run(ctx, p)
	if err != nil {
		// The server ends the stream at the same moment, and may be the first.
		if end, ok := ctx.Deadline(); ok && !time.Now().Before(end) {
			err = fmt.Errorf("--command-timeout is over: %w", err)
		}
		return err
	}
	fmt.Fprintf(p.stdout, "Snapshot saved at %s\n", c.file)
	if s.version != "" {
		fmt.Fprintf(p.stdout, "Server version %s\n", s.version)
	}
	return nil
}

func (c *saveCommand) run(ctx context.Context, p *program) (saved, error) {
	conn, _, err := c.client.connect(ctx)
	if err != nil {
		return saved{}, err
	}
	defer conn.Close()
	bar := newProgressLine(p.stderr)
	defer bar.clear()
	return save(ctx, conn, saving{path: c.file, lost: c.lost, bar: bar})
}

func (p *program) parseSave(args []string) (*saveCommand, error) {
	c := &saveCommand{}
	f := p.flags(saveUsage)
	f.client("--command-timeout DURATION", "how long the whole may take; for ever if not given", &c.timeout)
	f.own("--lost-quorum", lostQuorumHelp, &c.lost)
	c.client.define(f)
	var err error
	c.file, err = f.parseFile(args)
	if err != nil {
		return nil, err
	}
	if all := strings.Split(c.client.endpoints, ","); len(all) > 1 {
		return nil, usageError("snapshot must be requested to one selected node, not multiple %v", all)
	}
	return c, nil
}

const lostQuorumHelp = "take what the server has, also if it lags or has no leader"

// saving says what is saved where.
type saving struct {
	path string
	lost bool // whatever the server has, also if its cluster has more
	bar  *progressLine
}

// saved is what came of a snapshot.
type saved struct {
	size    int64
	version string // the storage version that the server tells
}

// part is behind the name of a file that is not whole.
const part = ".part"

// save writes a snapshot to a file, which has its name when all of it is durable and was found whole, and to have what the server's cluster had acknowledged before.
func save(ctx context.Context, conn *grpc.ClientConn, to saving) (s saved, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var acknowledged int64
	if !to.lost {
		if acknowledged, err = migrate.Acknowledged(ctx, conn); err != nil {
			return s, err
		}
	}
	stream, err := pb.NewMaintenanceClient(conn).Snapshot(ctx, &pb.SnapshotRequest{})
	if err != nil {
		return s, err
	}
	unfinished := to.path + part
	file, err := createPart(unfinished)
	if err != nil {
		return s, err
	}
	// It is this process's alone until it is closed, and by then its name is another one, or none.
	to.bar.say("waiting for the server to make the snapshot")
	s, err = receive(stream, file, to.bar)
	if err == nil && !to.lost {
		err = reaches(file, acknowledged)
	}
	if err == nil {
		err = file.Sync()
	}
	if err == nil {
		err = os.Rename(unfinished, to.path)
	}
	if err != nil {
		return saved{}, errors.Join(err, os.Remove(unfinished), file.Close())
	}
	if err := file.Close(); err != nil {
		return saved{}, err
	}
	dir, err := os.Open(filepath.Dir(to.path))
	if err != nil {
		return saved{}, err
	}
	return s, errors.Join(dir.Sync(), dir.Close())
}

// reaches refuses a snapshot that has less than was acknowledged. Its sha256 was seen to be right as it came.
func reaches(file *os.File, acknowledged int64) error {
	f, err := etcdfile.Of(file, etcdfile.Options{SkipHash: true})
	if err != nil {
		return err
	}
	return migrate.Reaches(f.Meta().Revision, acknowledged)
}

// errSaving says that another process has the unfinished file.
var errSaving = errors.New("another snapshot is being saved to the same file")

// createPart makes a file that is not whole, or takes over what a killed process has left, and locks it.
func createPart(path string) (*os.File, error) {
	for {
		file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, err
		}
		there, err := own(file)
		if err == nil && there {
			err = file.Truncate(0)
		}
		if err == nil && there {
			return file, nil
		}
		if err = errors.Join(err, file.Close()); err != nil {
			return nil, err
		}
	}
}

// own locks a file, and tells whether it still has its name then: whoever had the lock before may have ended.
func own(file *os.File) (there bool, err error) {
	switch err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); {
	case errors.Is(err, syscall.EWOULDBLOCK):
		return false, fmt.Errorf("%s: %w", file.Name(), errSaving)
	case err != nil:
		return false, fmt.Errorf("lock %s: %w", file.Name(), err)
	}
	mine, err := file.Stat()
	if err != nil {
		return false, err
	}
	named, err := os.Stat(file.Name())
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(mine, named), err
}

// receive writes what a server sends, and holds it against the sha256 that comes last.
func receive(stream pb.Maintenance_SnapshotClient, w io.Writer, bar *progressLine) (s saved, err error) {
	out := bufio.NewWriterSize(w, 1<<20)
	sum := sha256.New()
	var tail []byte // what may be the sha256
	var m *meter
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return s, errors.New(status.Convert(err).Message())
		}
		if m == nil {
			m = bar.meter("saving", int64(len(r.Blob))+int64(r.RemainingBytes), formatBytes)
		}
		s.version = cmp.Or(r.Version, s.version)
		s.size += int64(len(r.Blob))
		if _, err := out.Write(r.Blob); err != nil {
			return s, err
		}
		tail = append(tail, r.Blob...)
		if n := len(tail) - etcdfile.HashSize; n > 0 {
			sum.Write(tail[:n])
			tail = append(tail[:0], tail[n:]...)
		}
		m.show(s.size)
	}
	if err := out.Flush(); err != nil {
		return s, err
	}
	if s.size%512 != etcdfile.HashSize {
		return s, fmt.Errorf("sha256 checksum not found [bytes: %d]: the snapshot did not come whole", s.size)
	}
	if string(sum.Sum(nil)) != string(tail) {
		return s, errors.New("the snapshot was altered on its way: its sha256 is not that of what came")
	}
	return s, nil
}
