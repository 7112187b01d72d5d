package migrate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/etcdfile"
	"github.com/keelson-io/keelson/server"
	"github.com/keelson-io/keelson/server/config"
	"github.com/keelson-io/keelson/server/restore"
)

// Options say what to move, and how.
type Options struct {
	From, To Place
	// Client says how a server at From is spoken to, and TargetClient how one at To.
	Client, TargetClient Client
	// Member has the flags of the server that a KeelsonDir is for: its name, its cluster and its datastore's password. Its DataDir does not count.
	Member config.Options

	// WALDir is the --wal-dir of the server whose data directory From is, a KeelsonDir or an EtcdDir. Empty if it has none.
	WALDir string

	// Accept goes on where something is lost.
	Accept bool
	// DryRun ends before anything is written.
	DryRun bool
	// IgnoreWAL takes what is in the database of a server that was not stopped cleanly.
	IgnoreWAL bool
	// LostQuorum takes what a running server has itself, which may lack what its cluster has acknowledged. Without a leader there is no other way.
	LostQuorum bool
	// Merge adds to a running server that has keys.
	Merge bool
	// History gives a running server every change that is kept, not only what lives.
	History bool
	// Renumber gives later revisions to what shares one, where the target has one change to a revision.
	Renumber bool

	// TempDir is where files are made on the way. Default: the system's.
	TempDir string
	// Plan is told what will be done, before it is. Optional.
	Plan func(Plan)
	// Lost is told what turns out to be lost when the writing begins, before there is a key: which TTLs a running server makes others. It is accepted, as what was planned. Optional.
	Lost func(text string)
	// Progress is told how far a step is; total is 0 if it is not known. Optional.
	Progress func(step string, done, total int64)
	Logger   *slog.Logger
}

var (
	// ErrLoss says that the target cannot keep all of it, and that nobody has said that it need not.
	ErrLoss = errors.New("not all of it can be kept")
	// ErrNotEmpty says that there is something where the target is to be.
	ErrNotEmpty = errors.New("the target is not empty")
	// ErrDiffers says that what was written is not what it should be.
	ErrDiffers = errors.New("the target differs from the source")
)

// Plan is what will be done.
type Plan struct {
	Source Content `json:"source"`
	// Kept and Lost say what comes along and what does not; Notes, what else one should know.
	Kept  []string `json:"kept"`
	Lost  []string `json:"lost"`
	Notes []string `json:"notes"`
}

// Proof is what was compared in the end.
type Proof struct {
	// Of says what the hashes are made of.
	Of     string `json:"of"`
	Source Digest `json:"source"`
	Target Digest `json:"target"`
	// HashKV is what the target's HashKV answers at its revision, or 0 if it was not asked.
	HashKV uint32 `json:"hashkv,omitempty"`
	// Others counts the keys that a running server has beside, which were not compared.
	Others int64 `json:"others,omitempty"`
}

// Digest is what one side has, of what both can have.
type Digest struct {
	Revision int64  `json:"revision"`
	Rows     int64  `json:"rows"` // changes, or keys
	Keys     int64  `json:"keys"`
	Hash     string `json:"hash"`
}

// migration is one under way.
type migration struct {
	Options
	dir   string // for temporary files
	n     int
	notes []string // of the source
	seen  *trace   // what a kine that is the source has shown
}

// target is a place to be written to.
type target interface {
	// vacant refuses a place where there is something, before anything else is done.
	vacant(ctx context.Context) error
	// plan says what becomes of a content.
	plan(ctx context.Context, c *Content, p *Plan) error
	// write makes what is at the place, whole or not at all.
	write(ctx context.Context, f *etcdfile.File, c *Content) error
	// prove reads it back.
	prove(ctx context.Context, f *etcdfile.File, c *Content) (Proof, error)
}

// Run moves a store, and proves that it has.
func Run(ctx context.Context, o Options) (proof Proof, err error) {
	if o.Progress == nil {
		o.Progress = func(string, int64, int64) {}
	}
	m := &migration{Options: o}
	t, err := m.target()
	if err != nil {
		return proof, err
	}
	if err := t.vacant(ctx); err != nil {
		return proof, err
	}
	if m.dir, err = os.MkdirTemp(o.TempDir, "keelson-migrate-"); err != nil {
		return proof, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(m.dir)) }()
	f, err := m.take(ctx, o.From)
	if err != nil {
		return proof, fmt.Errorf("read %v: %w", o.From, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	c, err := m.survey(ctx, "looking at what there is", f, 0)
	if err != nil {
		return proof, fmt.Errorf("read %v: %w", o.From, err)
	}
	if o.To.Kind != Endpoint {
		c.live = nil // which nobody else needs, and is large
	}
	if err := m.agree(ctx, t, c); err != nil || o.DryRun {
		return proof, err
	}
	if err := t.write(ctx, f, c); err != nil {
		return proof, fmt.Errorf("write %v: %w", o.To, err)
	}
	proof, err = t.prove(ctx, f, c)
	switch {
	case err != nil:
		return proof, fmt.Errorf("read %v back: %w", o.To, err)
	case proof.Source != proof.Target:
		return proof, fmt.Errorf("%w: %v", ErrDiffers, o.To)
	}
	return proof, nil
}

// agree says what will be done, and asks for leave where something is lost.
func (m *migration) agree(ctx context.Context, t target, c *Content) error {
	p := Plan{Source: *c}
	refused := t.plan(ctx, c, &p)
	if refused != nil && !errors.Is(refused, ErrLoss) {
		return refused
	}
	p.Notes = append(p.Notes, m.notes...)
	if m.From.Kind == Endpoint || m.From.Kind == Datastore || m.From.Kind == Kine {
		p.Notes = append(p.Notes, "what is written to the source from now on is not taken over: its clients should be stopped")
	}
	if m.Plan != nil {
		m.Plan(p)
	}
	if refused != nil {
		return refused
	}
	if len(p.Lost) > 0 && !m.Accept && !m.DryRun {
		return fmt.Errorf("%w: %s", ErrLoss, strings.Join(p.Lost, "; "))
	}
	return nil
}

func (m *migration) target() (target, error) {
	switch m.To.Kind {
	case Endpoint:
		return &endpointTarget{migration: m}, nil
	case Snapshot:
		return &snapshotTarget{m}, nil
	case KeelsonDir, Datastore:
		return &keelsonTarget{migration: m}, nil
	case Kine:
		return &kineTarget{migration: m}, nil
	}
	return nil, noPlace("%v cannot be written to: make a snapshot, and have etcdutl snapshot restore make a data directory of it", m.To)
}

// temp names a file that is not there yet.
func (m *migration) temp() string {
	m.n++
	return fmt.Sprintf("%s/%d.db", m.dir, m.n)
}

// whole is the plan and the proof of targets that have all that a file has.
func (m *migration) whole(c *Content, p *Plan) {
	p.Kept = append(p.Kept, "every key with its value, version, create and mod revision", "the history since the last compaction", "the compact revision and the current revision")
	if len(c.leases) > 0 {
		p.Kept = append(p.Kept, "leases with their ids and what is left of them")
	}
	if c.Users+c.Roles > 0 {
		p.Kept = append(p.Kept, "users and roles")
	}
	if c.Alarms > 0 {
		p.Kept = append(p.Kept, "alarms")
	}
}

func (m *migration) proveWhole(ctx context.Context, c *Content) (Proof, error) {
	proof := Proof{Of: "all revisions, keys and values, leases, alarms, users and roles", Source: c.digest()}
	f, err := m.take(ctx, m.To)
	if err != nil {
		return proof, err
	}
	back, err := m.survey(ctx, "reading the target back", f, c.Rows)
	if err = errors.Join(err, f.Close()); err != nil {
		return proof, err
	}
	proof.Target = back.digest()
	return proof, nil
}

// keelsonTarget is a Keelson's data directory, or its log in a database.
type keelsonTarget struct {
	*migration
	stand restore.Stand
}

func (t *keelsonTarget) vacant(ctx context.Context) error {
	if t.To.Kind == Datastore {
		log, err := server.OpenDatastore(ctx, t.member(t.To), t.Logger, true)
		switch {
		case errors.Is(err, drivers.ErrForeign):
			return nil // there is none; that there is something else will be told when it is made
		case err != nil:
			return err
		}
		return errors.Join(fmt.Errorf("%w: %v", ErrNotEmpty, t.To), log.Close())
	}
	opts := t.member(t.To)
	if err := restore.Vacant(&opts); err != nil {
		return fmt.Errorf("%w: %w", ErrNotEmpty, err)
	}
	return nil
}

func (t *keelsonTarget) plan(_ context.Context, c *Content, p *Plan) error {
	if c.auth {
		return restore.ErrAuth
	}
	t.whole(c, p)
	p.Notes = append(p.Notes, "the cluster's members are not taken over: those of the target are its own")
	return nil
}

func (t *keelsonTarget) write(ctx context.Context, f *etcdfile.File, c *Content) (err error) {
	write := restore.Dir
	if t.To.Kind == Datastore {
		write = restore.Database
	}
	opts := t.member(t.To)
	t.stand, err = write(ctx, f, &opts, restore.Options{
		Progress: func(rows int64) { t.Progress("writing", rows, c.Rows) },
		Proved:   func(rows int64) { t.Progress("reading it back before it is put at its place", rows, c.Rows) },
	}, t.Logger)
	return err
}

func (t *keelsonTarget) prove(ctx context.Context, _ *etcdfile.File, c *Content) (Proof, error) {
	t.IgnoreWAL = true // nobody has served it yet
	proof, err := t.proveWhole(ctx, c)
	proof.HashKV = t.stand.Hash
	return proof, err
}

// member gives the options of a server on a Keelson's store.
func (m *migration) member(p Place) config.Options {
	o := m.Member
	if p.Kind == Datastore {
		o.Datastore = p.Where
		o.DatastoreName = cmp.Or(p.Log, o.DatastoreName)
		o.DatastorePasswordFile = cmp.Or(p.PasswordFile, o.DatastorePasswordFile)
	} else {
		o.DataDir, o.Datastore = p.Where, ""
	}
	return o
}
