package migrate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/keelson-io/keelson/etcdfile"
)

// snapshotTarget is a file as etcdctl snapshot save makes it.
type snapshotTarget struct{ *migration }

func (t *snapshotTarget) vacant(context.Context) error {
	switch _, err := os.Lstat(t.To.Where); {
	case err == nil:
		return fmt.Errorf("%w: %s", ErrNotEmpty, t.To.Where)
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	return nil
}

func (t *snapshotTarget) plan(_ context.Context, c *Content, p *Plan) error {
	t.whole(c, p)
	p.Notes = append(p.Notes, "etcdutl snapshot restore "+t.To.Where+" makes an etcd's data directory of it")
	return nil
}

// unfinished ends the name of a file that is not whole.
const unfinished = ".migrating"

func (t *snapshotTarget) write(ctx context.Context, f *etcdfile.File, c *Content) error {
	work := t.To.Where + unfinished
	if err := os.Remove(work); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	err := t.copy(ctx, work, f, c)
	if err == nil {
		err = etcdfile.AppendHash(work)
	}
	if err == nil {
		err = rename(work, t.To.Where)
	}
	if _, stat := os.Lstat(work); stat == nil {
		err = errors.Join(err, os.Remove(work))
	}
	if err != nil {
		return err
	}
	return syncDir(filepath.Dir(t.To.Where))
}

// rename gives a file its name if nothing has it.
func rename(work, path string) error {
	err := os.Link(work, path)
	if err == nil {
		return os.Remove(work)
	}
	// Not every file system has links.
	if _, there := os.Lstat(path); errors.Is(there, fs.ErrNotExist) {
		return os.Rename(work, path)
	}
	return err
}

// copy writes a file anew, as etcd would have it after its compaction.
func (t *snapshotTarget) copy(ctx context.Context, path string, f *etcdfile.File, c *Content) error {
	return writeFile(path, func(w *etcdfile.Writer) (*etcdfile.Meta, error) {
		var n int64
		for row, err := range f.Rows() {
			if err != nil {
				return nil, err
			}
			if err := w.Add(row); err != nil {
				return nil, err
			}
			if n++; n%1024 == 0 {
				t.Progress("writing", n, c.Rows)
				if err := ctx.Err(); err != nil {
					return nil, err
				}
			}
		}
		meta := *f.Meta()
		complete(&meta)
		return &meta, nil
	})
}

// complete gives a file what a newer etcd expects: a file of 3.4 has no term, members and version, and one that is made of a kine no Raft at all.
func complete(m *etcdfile.Meta) {
	m.Version = etcdfile.StorageVersion
	m.ClusterVersion = cmp.Or(m.ClusterVersion, etcdfile.StorageVersion)
	m.Index, m.Term = cmp.Or(m.Index, uint64(m.Revision)), cmp.Or(m.Term, 1)
	m.Auth.Revision = max(m.Auth.Revision, 1)
	if len(m.ConfState) == 0 {
		m.ConfState = []byte(`{"voters":[1],"auto_leave":false}`)
	}
}

// writeFile makes a file with what fill adds to it and the meta that it gives.
func writeFile(path string, fill func(*etcdfile.Writer) (*etcdfile.Meta, error)) (err error) {
	w, err := etcdfile.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	meta, err := fill(w)
	if err != nil {
		return err
	}
	return w.Finish(meta)
}

func (t *snapshotTarget) prove(ctx context.Context, _ *etcdfile.File, c *Content) (Proof, error) {
	return t.proveWhole(ctx, c)
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
