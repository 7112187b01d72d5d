//go:build e2e

package etcd

// These imports hold the modules that etcd's test package needs.
import (
	_ "go.etcd.io/etcd/tests/v3/common"
	_ "go.etcd.io/etcd/tests/v3/framework/e2e"
)
