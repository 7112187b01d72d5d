package server

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
)

// ErrNoPort says that no port is free.
var ErrNoPort = errors.New("server: no free port")

// Cluster are the places of a cluster's members. A member that is started again comes back to its own.
type Cluster struct{ members []ports }

// NewCluster finds places for as many members as the spec has processes.
func NewCluster(spec Spec) (*Cluster, error) {
	c := &Cluster{members: make([]ports, spec.Processes)}
	for i := range c.members {
		for _, address := range []*string{&c.members[i].client, &c.members[i].peer} {
			l, err := listenLow()
			if err != nil {
				return nil, err
			}
			defer l.Close() // all stay open until all are known, so that they differ
			*address = l.Addr().String()
		}
	}
	return c, nil
}

// Ports of members lie below those that Linux gives to connections of its own accord, 32768 and more. So nobody gets the
// port of a member that is down, and a client that dials it never meets itself.
const (
	lowestPort = 12_000
	portsAbove = 20_000
	portTries  = 1000
)

func listenLow() (net.Listener, error) {
	var err error
	for range portTries {
		var l net.Listener
		if l, err = net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(lowestPort+rand.IntN(portsAbove))); err == nil {
			return l, nil
		}
	}
	return nil, fmt.Errorf("%w: at last %w", ErrNoPort, err)
}

func memberName(i int) string { return "member-" + strconv.Itoa(i+1) }

// initial is the value of --initial-cluster.
func (c *Cluster) initial() string {
	var list []string
	for i, m := range c.members {
		list = append(list, memberName(i)+"=http://"+m.peer)
	}
	return strings.Join(list, ",")
}
