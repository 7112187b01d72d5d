package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"golang.org/x/sync/errgroup"

	"github.com/keelson-io/keelson/compact"
	"github.com/keelson-io/keelson/server/config"
	"github.com/keelson-io/keelson/server/etcdv3"
	"github.com/keelson-io/keelson/server/membership"
	"github.com/keelson-io/keelson/server/metrics"
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
	roster    *roster.Roster // nil for a log that is this server's alone
	member    atomic.Uint64  // this server's id, once it is known
	hub       *watch.Hub
	lessor    *lessor.Lessor
	compactor *compact.Compactor
	metrics   *prometheus.Registry
	counted   *metrics.Metrics
	endpoints []endpoint
}

// Open opens the log, loads the store and binds the sockets. The node must be closed; it serves in Run.
func Open(ctx context.Context, opts config.Options, logger *slog.Logger) (*Node, error) {
	n := &Node{opts: opts, logger: logger, metrics: prometheus.NewRegistry(), counted: metrics.New(metrics.Options{
		SlowApply: opts.WarningApplyDuration, Extensive: opts.Metrics == config.MetricsExtensive,
	})}
	if err := n.prepare(ctx); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

func (n *Node) prepare(ctx context.Context) error {
	if err := refuseOthers(n.opts); err != nil {
		return err
	}
	var err error
	if n.log, err = OpenDatastore(ctx, n.opts, n.logger, false); err != nil {
		n.log = nil // and not an interface around no log
		return err
	}
	n.share()
	n.hub = watch.NewHub(watch.Options{Logger: n.logger})
	n.lessor = lessor.New(lessor.Options{Logger: n.logger, Keeper: n.keeper()})
	n.store, err = sqllog.Open(ctx, sqllog.Options{
		Log: n.log, Logger: n.logger, Server: n.member.Load, MinLeaseTTL: minLeaseTTL(n.opts), Timeout: n.opts.RequestTimeout(),
		Publish: n.published, Leases: n.leasesChanged, Appended: n.appended,
		Reloaded: n.reloaded, Diverged: n.diverged, Compacted: n.compacted, Peers: n.peers(),
	})
	if err != nil {
		return err
	}
	if n.roster == nil && n.store.Index().Member() == nil {
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
		Period: auto.Period, Revisions: auto.Revisions,
	})
	return n.bind()
}

// minLeaseTTL is etcd's: one and a half elections, in whole seconds.
func minLeaseTTL(opts config.Options) int64 {
	ticks := opts.ElectionTimeout / opts.HeartbeatInterval
	ms := (3 * ticks) / 2 * opts.HeartbeatInterval
	return int64((ms + 999) / 1000)
}

// databaseName is the database's name under the data directory's member directory.
const databaseName = "keelson.db"

// DatabasePath gives the path of the database under a data directory and
// makes its directory. It refuses a directory that holds etcd's data.
func DatabasePath(dataDir string) (string, error) {
	dir := filepath.Join(dataDir, "member")
	for _, foreign := range []string{"snap", "wal"} {
		if _, err := os.Stat(filepath.Join(dir, foreign)); err == nil {
			if _, err := os.Stat(filepath.Join(dir, databaseName)); err == nil {
				return "", fmt.Errorf("the data directory %s holds data of Keelson (%s) and of an etcd (%s), which must have been started on it later: decide which go on, and move the others away", dataDir, filepath.Join("member", databaseName), filepath.Join("member", foreign))
			}
			return "", fmt.Errorf("the data directory %s holds the data of an etcd (%s): choose another --data-dir", dataDir, filepath.Join("member", foreign))
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make the data directory: %w", err)
	}
	return filepath.Join(dir, databaseName), nil
}

// Close closes the sockets and the log. Run must have returned.
func (n *Node) Close() error {
	var errs []error
	for _, e := range n.endpoints {
		for _, l := range e.listeners {
			errs = append(errs, l.Close())
		}
	}
	if n.log != nil {
		errs = append(errs, n.log.Close())
	}
	return errors.Join(errs...)
}

// Run serves until ctx ends, and then stops gracefully.
func (n *Node) Run(ctx context.Context) error {
	// The store outlives what writes through it, and the log outlives the store.
	storeCtx, stopStore := context.WithCancel(context.WithoutCancel(ctx))
	defer stopStore()
	background, bctx := errgroup.WithContext(storeCtx)
	background.Go(func() error { return n.log.Run(bctx) })
	background.Go(func() error { return n.store.Run(bctx) })
	background.Go(func() error { return n.store.Follow(bctx) })

	err := n.serve(ctx)
	stopping, cancel := context.WithTimeout(storeCtx, 2*time.Second)
	n.lessor.Stop(stopping)
	cancel()
	stopStore()
	if berr := background.Wait(); err == nil {
		err = berr
	}
	return err
}

func (n *Node) serve(ctx context.Context) error {
	member, err := n.identify(ctx)
	if err != nil {
		return fmt.Errorf("record the member: %w", err)
	}
	n.member.Store(member.ID)
	if err := n.showMetrics(member.ID); err != nil {
		return err
	}
	api := etcdv3.Options{
		Store: n.store, Hub: n.hub, Lessor: n.lessor, Backend: n.log, Compactor: n.compactor,
		Cluster: etcdv3.Cluster{
			ID: member.ClusterID, Member: member.ID, Term: term, Version: config.EtcdVersion(),
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
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return n.hub.Run(gctx) })
	g.Go(func() error { return n.lessor.Run(gctx) })
	g.Go(func() error { return n.compactor.Run(gctx) })
	if n.roster != nil {
		g.Go(func() error { return n.roster.Run(gctx) })
	}
	g.Go(func() error { return n.listen(gctx, api) })
	return g.Wait()
}

// term is the Raft term of a server that never has to elect.
const term = 2

// identify gives the member that this server is: the one in the log with the
// name and client URLs of today, or, in a new log, the one that the flags describe.
func (n *Node) identify(ctx context.Context) (*mvcc.Member, error) {
	urls := n.opts.AdvertiseClientURLs.Strings()
	if n.roster != nil {
		return n.join(ctx, &pb.Member{Name: n.opts.Name, PeerURLs: n.opts.AdvertisePeerURLs.Strings(), ClientURLs: urls})
	}
	m := n.store.Index().Member()
	if m != nil && m.Name == n.opts.Name && slices.Equal(m.ClientURLs, urls) {
		return m, nil
	}
	if m == nil {
		var err error
		if m, err = founded(n.opts.Name, n.opts.AdvertisePeerURLs.Strings(), n.opts.InitialClusterToken); err != nil {
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

// founded gives the member that founds a cluster, by etcd's formula.
func founded(name string, peers []string, token string) (*mvcc.Member, error) {
	founders, cluster, err := membership.Found([]membership.Founder{{Name: name, PeerURLs: peers}}, token)
	if err != nil {
		return nil, err
	}
	return &mvcc.Member{ClusterID: uint64(cluster), Member: &pb.Member{ID: uint64(founders[0].ID), PeerURLs: peers}}, nil
}
