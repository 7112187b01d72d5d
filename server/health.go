package server

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/server/config"
	"github.com/keelson-io/keelson/server/etcdv3"
)

// Alarms implements httpapi.Health. A CORRUPT alarm is one of the members that it stops.
func (n *Node) Alarms() []pb.AlarmType {
	var types []pb.AlarmType
	ix := n.store.Index()
	for _, a := range ix.Alarms() {
		if t := pb.AlarmType(a.Type); t != pb.AlarmType_CORRUPT || n.corrupt(ix) {
			types = append(types, t)
		}
	}
	return types
}

// HasLeader implements httpapi.Health: a server that is alone leads itself, and equal ones need none.
func (n *Node) HasLeader() bool { return n.cluster == nil || n.leader() != 0 }

// leads tells whether this server leads the others, if there are any.
func (n *Node) leads() bool {
	if n.cluster == nil {
		return true
	}
	_, leading, _ := n.cluster.leader()
	return leading
}

// lead gives what tells the lessor whether this server leads, and in which term; nil for a log that is shared.
func (n *Node) lead() func() (term uint64, leads bool) {
	if n.cluster == nil {
		return nil
	}
	return func() (uint64, bool) {
		_, term, leading, _ := n.cluster.log.Leader()
		return term, leading
	}
}

// halted gives what tells the lessor that this server stands still; nil for a log that is shared.
func (n *Node) halted() func() <-chan struct{} {
	if n.cluster == nil {
		return nil
	}
	return n.cluster.log.Halted
}

// ledTerm gives the term in which this server leads others, 0 if it does not or there are none.
func (n *Node) ledTerm() uint64 {
	if n.cluster == nil {
		return 0
	}
	if _, term, leading, _ := n.cluster.log.Leader(); leading {
		return term
	}
	return 0
}

// IsLearner implements httpapi.Health.
func (n *Node) IsLearner() bool {
	if id, clustered := n.clustered(); clustered {
		m := n.store.Index().MemberByID(id.Member)
		return m != nil && m.IsLearner
	}
	return false
}

// LinearizableRead implements httpapi.Health. Where etcd answers nobody before the cluster knows where clients reach the member, this waits for that.
func (n *Node) LinearizableRead(ctx context.Context) error {
	_, err := n.store.Linearizable(ctx)
	if err == nil && n.cluster != nil {
		select {
		case <-n.cluster.published:
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	if err == nil {
		err = n.healthy(ctx)
	}
	return explained(err)
}

// explained is an error in the words that are for operators. The server's log has its own.
func explained(err error) error {
	if err == nil {
		return nil
	}
	return errors.New(etcdv3.Explain(err))
}

// SerializableRead implements httpapi.Health. It is all that /livez asks for, and who fails there is restarted: a full
// disk, with which reads go on and after which a start may fail, is no reason for that, nor is a database that is away. A log with
// another history is none either: to go on after that is for a person to decide.
func (n *Node) SerializableRead(ctx context.Context) error {
	err := n.healthy(ctx)
	if errors.Is(err, drivers.ErrNoSpace) || errors.Is(err, drivers.ErrDiverged) || n.roster != nil {
		return nil
	}
	return explained(err)
}

// failure tells of a storage that failed when it was used last.
func (n *Node) failure() error {
	if n.cluster != nil {
		if err := n.cluster.log.Failure(); err != nil {
			return err
		}
	}
	return n.store.Failure()
}

// healthy tells of a storage that failed, after trying whether it still does.
func (n *Node) healthy(ctx context.Context) error {
	if n.cluster != nil {
		if err := n.cluster.log.Failure(); err != nil {
			return err
		}
	}
	if n.store.Failure() == nil {
		return nil
	}
	return n.store.Probe(ctx)
}

type versions struct{}

// ClusterVersion implements httpapi.Versions: the minor version, as etcd has it.
func (versions) ClusterVersion() string {
	v := config.EtcdVersion()
	return v[:strings.LastIndexByte(v, '.')] + ".0"
}

// StorageVersion implements httpapi.Versions.
func (versions) StorageVersion() string { return etcdv3.StorageVersion }

// notifySupervisor tells systemd, if it is what started the server, that it is ready.
func notifySupervisor(logger *slog.Logger) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err == nil {
		_, err = conn.Write([]byte("READY=1"))
		conn.Close()
	}
	if err != nil {
		logger.Warn("the supervisor could not be told that the server is ready", "error", err)
	}
}
