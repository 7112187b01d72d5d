package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"golang.org/x/sync/errgroup"

	"github.com/keelson-io/keelson/compact"
	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/drivers/raft"
	"github.com/keelson-io/keelson/server/config"
	"github.com/keelson-io/keelson/server/etcdv3"
	"github.com/keelson-io/keelson/server/membership"
	"github.com/keelson-io/keelson/server/metrics"
	"github.com/keelson-io/keelson/server/snapshot"
	"github.com/keelson-io/keelson/sqllog"
	"github.com/keelson-io/keelson/sqllog/lessor"
	"github.com/keelson-io/keelson/sqllog/mvcc"
	"github.com/keelson-io/keelson/sqllog/roster"
	"github.com/keelson-io/keelson/watch"
)

// Node is one server: a store on a log, and the API in front of it.
type Node struct {
	opts   config.Options
	logger *slog.Logger

	log       Datastore
	store     *sqllog.Store
	roster    *roster.Roster // nil for a log that is not shared
	cluster   *cluster       // nil for a log that is
	member    atomic.Uint64  // this server's id, once it is known
	hub       *watch.Hub
	lessor    *lessor.Lessor
	compactor *compact.Compactor
	metrics   *prometheus.Registry
	counted   *metrics.Metrics
	endpoints []endpoint
	backups   *backups // nil if none are to be made
}

// Open opens the log, loads the store and binds the sockets. The node must be closed; it serves in Run.
func Open(ctx context.Context, opts config.Options, logger *slog.Logger) (*Node, error) {
	n := &Node{opts: opts, logger: logger, metrics: prometheus.NewRegistry(), counted: metrics.New(metrics.Options{
		SlowApply: opts.WarningApplyDuration, Extensive: opts.Metrics == config.MetricsExtensive,
	})}
	if err := n.prepare(ctx); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	// Loading, and starting at all, take memory that serving does not.
	debug.FreeOSMemory()
	releaseProgram()
	return n, nil
}

func (n *Node) prepare(ctx context.Context) error {
	if err := refuseOthers(n.opts); err != nil {
		return err
	}
	if err := n.openBackups(); err != nil {
		return err
	}
	var err error
	if n.log, err = n.openLog(ctx); err != nil {
		n.log = nil // and not an interface around no log
		return err
	}
	n.share()
	n.hub = watch.NewHub(watch.Options{Logger: n.logger})
	n.lessor = lessor.New(lessor.Options{Logger: n.logger, Keeper: n.keeper(), Lead: n.lead(), Halted: n.halted()})
	n.store, err = sqllog.Open(ctx, sqllog.Options{
		Log: n.log, Logger: n.logger, Server: n.member.Load, Term: n.ledTerm, MinLeaseTTL: minLeaseTTL(n.opts), Timeout: n.opts.RequestTimeout(),
		Publish: n.published, Leases: n.leasesChanged, Appended: n.appended,
		Reloaded: n.reloaded, Diverged: n.diverged, Compacted: n.compacted, Members: n.membersChanged, Peers: n.peers(),
		Alarms: n.alarmsChanged, Corrupt: n.corrupt, Retain: n.opts.HistoryRetention, Pressed: n.pressed,
	})
	if err != nil {
		return err
	}
	if _, clustered := n.clustered(); !clustered && n.roster == nil && n.store.Index().Member() == nil {
		if err := n.opts.VerifyBootstrap(ctx); err != nil {
			return err
		}
	}
	n.hub.Attach(n.store)
	n.lessor.Attach(n.store)
	auto, err := n.opts.AutoCompaction()
	if err != nil {
		return err
	}
	n.compactor = compact.New(compact.Options{
		Store: n.counted.Compactions(n.store), Logger: n.logger, Mode: compact.Mode(n.opts.AutoCompactionMode),
		Period: auto.Period, Revisions: auto.Revisions, Due: n.store.Due, DueEvery: n.opts.HistoryRetention / 16,
	})
	if n.cluster != nil {
		if err := n.cluster.start(ctx); err != nil {
			return err
		}
	}
	return n.bind()
}

// pressedAt is the part of the quota, in percent, from which on history is kept for a shorter time than was asked for. Where what is free in the database is an estimate, that is
// trusted less from fullAt on, when NOSPACE would come next, which knows of no free space: what the entries need is to be no more than halfFull then.
const (
	pressedAt = 80
	fullAt    = 95
	halfFull  = 50
)

// pressed tells whether the database is nearly as large as its quota allows. What is free in it counts as room; where that is not known, what is more than the entries need does:
// else history that has given way would give way over and over, since the database does not become smaller by it.
func (n *Node) pressed(ctx context.Context, needed func() (entries, bytes int64)) bool {
	quota := n.opts.QuotaBackendBytes
	if quota <= 0 {
		return false
	}
	reaches := func(size, percent int64) bool { return size/percent >= quota/100 }
	total, inUse, err := n.log.Size(ctx)
	if err != nil {
		return false
	}
	if e, ok := n.log.(drivers.Estimator); ok {
		if !reaches(total, pressedAt) {
			return false
		}
		most := int64(pressedAt)
		if reaches(total, fullAt) {
			most = halfFull
		}
		return reaches(e.Needs(needed()), most)
	}
	return reaches(inUse, pressedAt)
}

// openLog opens the log that the options name.
func (n *Node) openLog(ctx context.Context) (Datastore, error) {
	if n.opts.Datastore != "" {
		return OpenDatastore(ctx, n.opts, n.logger, false)
	}
	return n.openCluster(ctx)
}

// minLeaseTTL is etcd's: one and a half elections, in whole seconds.
func minLeaseTTL(opts config.Options) int64 {
	ticks := opts.ElectionTimeout / opts.HeartbeatInterval
	ms := (3 * ticks) / 2 * opts.HeartbeatInterval
	return int64((ms + 999) / 1000)
}

// Close closes the sockets and the log. Run must have returned.
func (n *Node) Close() error {
	var errs []error
	for _, e := range n.endpoints {
		for _, l := range e.listeners {
			errs = append(errs, l.Close())
		}
	}
	if n.cluster != nil {
		for _, l := range n.cluster.listeners {
			errs = append(errs, l.Close())
		}
	}
	if n.log != nil {
		errs = append(errs, n.log.Close())
	}
	if n.cluster != nil {
		n.cluster.close()
	}
	return errors.Join(errs...)
}

// Run serves until ctx ends, or this member was removed from its cluster, and then stops gracefully.
func (n *Node) Run(ctx context.Context) error {
	// The store outlives what writes through it, and the log and what others ask of it outlive the store.
	storeCtx, stopStore := context.WithCancel(context.WithoutCancel(ctx))
	defer stopStore()
	background, bctx := errgroup.WithContext(storeCtx)
	background.Go(func() error { return n.log.Run(bctx) })
	background.Go(func() error { return n.store.Run(bctx) })
	background.Go(func() error { return n.store.Follow(bctx) })
	background.Go(func() error { return giveBack(bctx) })

	err := n.serve(ctx, background, bctx)
	if n.cluster == nil || n.cluster.quorate() {
		stopping, cancel := context.WithTimeout(storeCtx, stopTime)
		n.lessor.Stop(stopping)
		cancel()
	}
	stopStore()
	if berr := background.Wait(); err == nil {
		err = berr
	}
	if n.cluster != nil && (err == nil || errors.Is(err, context.Canceled)) {
		err = n.cluster.ended()
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, errRemoved) {
		return nil // by the stop itself, or, as with etcd, no failure
	}
	return err
}

// stopTime is what the last words of a server that stops may take.
const stopTime = 2 * time.Second

// untilStop gives a context that ends when the server is to stop serving: in a cluster after it has handed over the lead, so that
// the requests which come meanwhile find the next leader.
func (n *Node) untilStop(ctx context.Context) (context.Context, func()) {
	if n.cluster == nil {
		return ctx, func() {}
	}
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	go func() {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(serving, stopTime)
			defer cancel()
			n.cluster.resign(last)
		case <-n.cluster.gone:
		case <-serving.Done():
		}
		stop()
	}()
	return serving, stop
}

func (n *Node) serve(ctx context.Context, background *errgroup.Group, bctx context.Context) error {
	ctx, stop := n.untilStop(ctx)
	defer stop()
	member, err := n.identify(ctx)
	if err != nil {
		return fmt.Errorf("record the member: %w", err)
	}
	n.member.Store(member.ID)
	n.logger.Info("this server is a member", "cluster_id", fmt.Sprintf("%x", member.ClusterID), "member_id", fmt.Sprintf("%x", member.ID), "revision", n.store.Index().Rev)
	if err := n.showMetrics(member.ID); err != nil {
		return err
	}
	snapshots := snapshot.New(n.snapshots(member.ClusterID))
	api := etcdv3.Options{
		Store: n.store, Hub: n.hub, Lessor: n.lessor, Backend: n.log, Compactor: n.compactor, Snapshots: snapshots,
		Cluster: etcdv3.Cluster{
			ID: member.ClusterID, Member: member.ID, Term: n.term, Version: config.EtcdVersion(),
			Members: n.members, Leader: n.leader, Update: n.updateMember, Equal: n.roster != nil,
		},
		Logger:               n.logger,
		MaxTxnOps:            int(n.opts.MaxTxnOps),
		MaxRequestBytes:      int(n.opts.MaxRequestBytes),
		QuotaBytes:           n.opts.QuotaBackendBytes,
		ProgressInterval:     n.opts.WatchProgressNotifyInterval,
		SlowRequest:          n.opts.WarningUnaryRequestDuration,
		MaxConcurrentStreams: n.opts.MaxConcurrentStreams,
		BcryptCost:           int(n.opts.BcryptCost),
		Observe:              n.counted,
		Failure:              n.failure,
		Healthy:              n.healthy,
	}
	if c := n.cluster; c != nil {
		api.Members, api.Lead, api.Timeout = c, lead{c}, n.opts.RequestTimeout()
		api.StrictReconfigCheck, api.MaxLearners = n.opts.StrictReconfigCheck, n.opts.MaxLearners
		api.Learner, api.LeaderLost, api.Cluster.Raft = n.IsLearner, c.leaderLost, c.indexes
		api.Corrupted = func() <-chan struct{} { return *c.corrupted.Load() }
		background.Go(func() error { return c.serve(bctx, api) })
		background.Go(func() error { return c.run(bctx) })
		background.Go(func() error { return c.seek(bctx) })
		background.Go(func() error { return c.watchLead(bctx) })
		background.Go(func() error { return c.watchLeaders(bctx) })
		background.Go(func() error { return c.watchData(bctx) })
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return n.hub.Run(gctx) })
	g.Go(func() error { return n.lessor.Run(gctx) })
	g.Go(func() error { return n.compactor.Run(gctx) })
	if n.backups != nil {
		runner := n.backup(member.ClusterID, snapshots)
		if err := n.metrics.Register(runner); err != nil {
			return fmt.Errorf("register metrics: %w", err)
		}
		g.Go(func() error { return runner.Run(gctx) })
	}
	if n.roster != nil {
		g.Go(func() error { return n.roster.Run(gctx) })
	}
	g.Go(func() error {
		if n.cluster != nil {
			n.cluster.awaitForgotten(gctx)
		}
		return n.listen(gctx, api)
	})
	return g.Wait()
}

// snapshots says how snapshots are made: where the options say, or beside the data, or, where those are in another place, where temporary files are.
func (n *Node) snapshots(cluster uint64) snapshot.Options {
	o := snapshot.Options{Store: n.store, Logger: n.logger}
	if n.cluster == nil {
		o.Dir, o.Members = n.ownDir(os.TempDir(), cluster), n.members
		o.Raft = func() (term, index uint64) { return n.term(), uint64(n.store.Index().End.Position) }
		return o
	}
	o.Dir = filepath.Join(n.opts.DataDir, "member")
	if n.opts.SnapshotDir != "" {
		o.Dir = n.ownDir("", cluster)
	}
	o.Raft = func() (term, index uint64) {
		index, _ = n.cluster.indexes()
		return n.term(), index
	}
	return o
}

// ownDir is this server's own directory under --snapshot-dir, or under another one if that is not given: others may have the same. Members of different clusters may have one id.
func (n *Node) ownDir(usual string, cluster uint64) string {
	return filepath.Join(cmp.Or(n.opts.SnapshotDir, usual), fmt.Sprintf("keelson-%x-%x", cluster, n.member.Load()))
}

// aloneTerm is the Raft term of a server that never has to elect.
const aloneTerm = 2

func (n *Node) term() uint64 {
	if _, clustered := n.clustered(); clustered {
		_, term, _, _ := n.cluster.log.Leader()
		return term
	}
	return aloneTerm
}

// clustered tells whether this server is a member of a cluster by Raft, and which.
func (n *Node) clustered() (raft.Identity, bool) {
	if n.cluster == nil {
		return raft.Identity{}, false
	}
	return n.cluster.log.Clustered()
}

// identify gives the member that this server is: the one in the log with the
// name and client URLs of today, or, in a new log, the one that the flags describe.
func (n *Node) identify(ctx context.Context) (*mvcc.Member, error) {
	urls := n.opts.AdvertiseClientURLs.Strings()
	if n.roster != nil {
		return n.join(ctx, &pb.Member{Name: n.opts.Name, PeerURLs: n.opts.AdvertisePeerURLs.Strings(), ClientURLs: urls})
	}
	if id, clustered := n.clustered(); clustered {
		// It publishes the rest when there is a leader.
		return &mvcc.Member{ClusterID: id.Cluster, Member: &pb.Member{ID: id.Member}}, nil
	}
	m := n.store.Index().Member()
	if m != nil && m.Name == n.opts.Name && slices.Equal(m.ClientURLs, urls) {
		return m, nil
	}
	if m == nil {
		var err error
		if m, err = founded(&n.opts); err != nil {
			return nil, err
		}
	}
	now := &mvcc.Member{ClusterID: m.ClusterID, Member: &pb.Member{
		ID: m.ID, Name: n.opts.Name, PeerURLs: m.PeerURLs, ClientURLs: urls,
	}}
	resp, err := n.store.Do(ctx, now, 0)
	if err != nil {
		return nil, err
	}
	return resp.(*mvcc.Member), nil
}

// founded gives the member that founds a cluster alone, by etcd's formula. With the flags that every server has which is given none, the cluster's id is one of chance: by it backups of
// different stores are told apart where they come to one place. It is in the log from then on, and so the members' that are added.
func founded(o *config.Options) (*mvcc.Member, error) {
	founders, cluster, err := membership.Found([]membership.Founder{{Name: o.Name, PeerURLs: o.AdvertisePeerURLs.Strings()}}, o.InitialClusterToken)
	if err != nil {
		return nil, err
	}
	m := &mvcc.Member{ClusterID: uint64(cluster), Member: &pb.Member{ID: uint64(founders[0].ID), PeerURLs: o.AdvertisePeerURLs.Strings()}}
	if o.Indistinct() {
		m.ClusterID = rand.Uint64()
	}
	return m, nil
}
