module github.com/keelson-io/keelson

go 1.26.0

require (
	go.etcd.io/etcd/api/v3 v3.7.3
	sigs.k8s.io/yaml v1.6.0
)

require (
	github.com/coreos/go-semver v0.3.1 // indirect
	go.yaml.in/yaml/v2 v2.4.2 // indirect
)
