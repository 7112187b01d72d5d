package server

import (
	"testing"

	"github.com/keelson-io/keelson/server/config"
)

// TestFoundedAlone: two servers that were given no flags about their cluster have two clusters; with flags they have what etcd makes of those.
func TestFoundedAlone(t *testing.T) {
	ids := func(args ...string) (cluster, member uint64) {
		t.Helper()
		opts, _, err := config.Load(config.Input{Args: args})
		if err != nil {
			t.Fatal(err)
		}
		m, err := founded(&opts)
		if err != nil {
			t.Fatal(err)
		}
		return m.ClusterID, m.ID
	}
	const etcds, etcdsMember = 0xcdf818194e3a8c32, 0x8e9e05c52164694d
	one, member := ids()
	other, _ := ids("--name=other")
	if one == other || one == etcds || other == etcds || member != etcdsMember {
		t.Errorf("the clusters %x and %x, the member %x", one, other, member)
	}
	for _, flag := range []string{"--initial-cluster-token=mine", "--initial-advertise-peer-urls=http://10.0.0.1:2380"} {
		one, _ := ids(flag)
		again, _ := ids(flag)
		if one != again || one == etcds {
			t.Errorf("%s: %x and %x", flag, one, again)
		}
	}
}
