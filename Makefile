# make is the one door to this project: build, run, lint, test, bench. See README.md.

BIN  := $(CURDIR)/.build/bin
GO   ?= go

# SQLite is C, so cgo is needed.
export CGO_ENABLED := 1

GO_WANTED := $(shell sed -n 's/^go //p' go.mod)

.DEFAULT_GOAL := help

.PHONY: help
help: ## Show this list.
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: tools
tools: ## Check that a Go toolchain and a C compiler are there.
	@command -v $(GO) >/dev/null || { echo "Go is missing: install Go $(GO_WANTED) or later, from https://go.dev/dl/" >&2; exit 1; }
	@$(GO) version >/dev/null 2>&1 && $(GO) list -m >/dev/null || { echo "Go $(GO_WANTED) or later is needed, this is: $$(GOTOOLCHAIN=local $(GO) env GOVERSION); get one from https://go.dev/dl/, or allow Go to fetch it (go env -u GOTOOLCHAIN)" >&2; exit 1; }
	@cc=$$($(GO) env CC); command -v $${cc%% *} >/dev/null || { echo "A C compiler ($$cc) is missing, and SQLite is C: install gcc and the C library's headers (Debian and Ubuntu: apt-get install gcc libc6-dev; Fedora: dnf install gcc; Alpine: apk add gcc musl-dev), or set CC" >&2; exit 1; }

.PHONY: build
build: tools ## Build keelson into .build/bin.
	$(GO) build -o $(BIN)/keelson ./cmd/keelson

.PHONY: keelson-kube
keelson-kube: ## Build keelson-kube, which decodes objects of Kubernetes for keelson history, into .build/bin.
	cd cmd/keelson-kube && CGO_ENABLED=0 $(GO) build -ldflags '-s -w' -o $(BIN)/keelson-kube .

.PHONY: run
run: build ## Serve etcd's API on 127.0.0.1:2379 over SQLite under ./default.etcd.
	$(BIN)/keelson --data-dir=default.etcd --log-format=console \
		--listen-client-urls=http://127.0.0.1:2379 --advertise-client-urls=http://127.0.0.1:2379

.PHONY: lint
lint: tools $(BIN)/staticcheck ## Check formats, and what vet, staticcheck and our own rules find.
	STATICCHECK=$(BIN)/staticcheck GO=$(GO) test/tools/lint

$(BIN)/staticcheck: test/tools/go.mod
	cd test/tools && $(GO) build -o $@ honnef.co/go/tools/cmd/staticcheck

# The generators of server/peer/peerpb and server/history/historypb, whose output is checked in. protoc comes from the system.
PROTOC_GEN_GO      := google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12
PROTOC_GEN_GO_GRPC := google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2

.PHONY: proto
proto: tools ## Generate the code of the .proto files anew. Needs protoc (Debian and Ubuntu: apt-get install protobuf-compiler).
	@command -v protoc >/dev/null || { echo "protoc is missing: install it (Debian and Ubuntu: apt-get install protobuf-compiler)" >&2; exit 1; }
	GOBIN=$(BIN) $(GO) install $(PROTOC_GEN_GO)
	GOBIN=$(BIN) $(GO) install $(PROTOC_GEN_GO_GRPC)
	PATH=$(BIN):$$PATH protoc -I server/peer/peerpb -I $$($(GO) list -m -f '{{.Dir}}' go.etcd.io/raft/v3)/raftpb \
		--go_out=server/peer/peerpb --go_opt=paths=source_relative \
		--go-grpc_out=server/peer/peerpb --go-grpc_opt=paths=source_relative peer.proto
	PATH=$(BIN):$$PATH protoc -I server/history/historypb \
		--go_out=server/history/historypb --go_opt=paths=source_relative \
		--go-grpc_out=server/history/historypb --go-grpc_opt=paths=source_relative history.proto

ARCHES ?= amd64 arm64
IMAGE  ?= keelson/etcd:latest

# All tests: the server is built before them and is no input that go test's cache knows, hence -count=1.
TIMEOUT    ?= 20m
TEST_FLAGS  = -count=1 -timeout $(TIMEOUT)

.PHONY: test
test: lint test-unit test-crash test-cluster test-kube test-etcd test-postgres ## Lint, and all tests but the longest: three quarters of an hour at most on two cores.

.PHONY: test-long
test-long: test-control-plane test-differential test-history test-etcdctl-checks test-snapshot-many test-etcd-cluster test-crash-long test-shared-long ## The tests that take longer.

.PHONY: test-unit
test-unit: build peers postgres mariadb ## Test the main module with the race detector, test/conformance included, and test/bench.
	$(GO) test -race $(TEST_FLAGS) ./...
	cd test/bench && $(GO) test $(TEST_FLAGS) ./...
	cd cmd/keelson-kube && $(GO) test $(TEST_FLAGS) ./...

.PHONY: test-crash
test-crash: build ## Kill the server under load for a minute, and break its disk. CRASH takes flags, as in CRASH="-seed 7".
	cd test/crash && $(GO) test $(TEST_FLAGS) -v . $(CRASH)

.PHONY: test-shared
test-shared: build peers postgres ## Break servers on one Postgres database, and the database, and judge what clients saw. SHARED takes flags.
	cd test/crash && $(GO) test -race $(TEST_FLAGS) ./linear
	cd test/crash && $(GO) test $(TEST_FLAGS) -v -run '^Test(Shared|StaleReads)$$' ./shared $(SHARED)

# Servers whose wall clocks can be set, for the drills with clocks: see test/crash/cmd/clock.
CLOCK = $(CURDIR)/.build/clock

.PHONY: clock-server
clock-server: tools ## Build keelson with a clock that tests can set.
	cd test/crash && $(GO) run ./cmd/clock $(CLOCK)
	$(GO) build -overlay $(CLOCK)/overlay.json -o $(BIN)/keelson-clock ./cmd/keelson

.PHONY: clock-etcd
clock-etcd: tools ## Build etcd with a clock that tests can set, for test-cluster on etcd.
	cd test/crash && $(GO) run ./cmd/clock $(CLOCK)
	cd test/peers/etcd && $(GO) build -overlay $(CLOCK)/overlay.json -o $(BIN)/etcd-clock go.etcd.io/etcd/server/v3

.PHONY: test-cluster
test-cluster: build clock-server ## Break clusters of three and five members under load for some four minutes, as root or where users may have namespaces. CLUSTER takes flags, as in CLUSTER="-seed 7".
	cd test/crash && $(GO) test $(TEST_FLAGS) -v ./cluster $(CLUSTER)

.PHONY: test-cluster-long
test-cluster-long: build clock-server ## The same for a quarter of an hour. CLUSTER takes flags, as in CLUSTER="-server etcd" after make peers clock-etcd.
	cd test/crash && $(GO) test $(TEST_FLAGS) -v ./cluster -long $(CLUSTER)

.PHONY: test-kube
test-kube: build ## Test with the storage tests of k8s.io/apiserver.
	cd test/kube && $(GO) test $(TEST_FLAGS) -p 1 $$($(GO) list ./... | grep -v /cluster$$)

.PHONY: test-etcd
test-etcd: build peers ## Test with those of etcd's own tests that concern one member.
	cd test/etcd && $(GO) test $(TEST_FLAGS) -v -skip '^TestCluster$$' ./...

.PHONY: test-etcd-cluster
test-etcd-cluster: build peers ## Test with etcd's own tests as they are, most of them on three members: a quarter of an hour at most on two cores.
	cd test/etcd && $(GO) test $(TEST_FLAGS) -v -run '^TestCluster$$' ./...

.PHONY: test-postgres
test-postgres: build peers postgres $(BIN)/pg ## Run the scripts, etcdctl's outputs, random requests, histories and the storage tests of k8s.io/apiserver on Postgres.
	$(GO) test $(TEST_FLAGS) -run '^Test(Corpus|Etcdctl|Differential|History|HistoryKilled|Undo)$$' ./test/conformance -datastore postgres
	cd test/kube && STORAGE_DATASTORE=postgres $(GO) test $(TEST_FLAGS) -p 1 ./store ./upstream

.PHONY: test-control-plane
test-control-plane: build peers keelson-kube kube-components postgres $(BIN)/pg ## Test a whole Kubernetes control plane, with kill -9 of keelson in between: one server, two on Postgres, three by Raft; kubeadm joining members; and from kine to Keelson and back. Six minutes.
	cd test/kube && $(GO) test $(TEST_FLAGS) -v ./cluster

.PHONY: test-differential
test-differential: build peers ## Compare keelson with etcd on many random requests. DIFFER takes flags, as in DIFFER="-seed 7".
	$(GO) test $(TEST_FLAGS) -v -run '^TestDifferential$$' ./test/conformance -seed 0 -rounds 200 $(DIFFER)

.PHONY: test-history
test-history: build ## Check what concurrent clients saw, with kill -9 too. HISTORY takes flags, as in HISTORY="-seed 7".
	$(GO) test $(TEST_FLAGS) -v -run '^TestHistory(Killed)?$$' ./test/conformance -seed 0 -histories 12 -requests 500 -kills 6 $(HISTORY)

.PHONY: test-etcdctl-checks
test-etcdctl-checks: build peers ## Run the checks of etcdctl, which take a minute.
	$(GO) test $(TEST_FLAGS) -v -run '^TestEtcdctlChecks$$' ./test/conformance -checks perf,datascale

.PHONY: test-snapshot-many
test-snapshot-many: build peers ## Save and restore a snapshot of 1,000,000 keys, and print what memory it takes.
	$(GO) test $(TEST_FLAGS) -v -run '^TestMany$$' ./test/conformance/snapshot -keys 1000000

.PHONY: test-crash-long
test-crash-long: build ## Kill the server under load for ten minutes. CRASH takes flags.
	cd test/crash && $(GO) test $(TEST_FLAGS) -v -run '^TestKill$$' . -rounds 200 $(CRASH)

.PHONY: test-shared-long
test-shared-long: build peers postgres ## The same for a quarter of an hour. SHARED takes flags, as in SHARED="-seed 7 -histories 1".
	cd test/crash && $(GO) test $(TEST_FLAGS) -v ./shared -rounds 14 -histories 6 $(SHARED)

$(BIN)/pg: $(wildcard test/pg/*.go test/pg/cmd/pg/*.go)
	$(GO) build -o $@ ./test/pg/cmd/pg

.PHONY: peers
peers: tools $(BIN)/etcd $(BIN)/etcdctl $(BIN)/etcdutl $(BIN)/etcd36/etcdctl $(BIN)/etcd35/etcdctl $(BIN)/distribution/etcdctl $(BIN)/kine $(BIN)/versitygw ## Build the pinned peers (etcd, etcdctl and etcdutl, also older ones, kine, and versitygw, an S3 server).

$(BIN)/etcd: test/peers/etcd/go.mod
	cd test/peers/etcd && $(GO) build -o $@ go.etcd.io/etcd/server/v3
$(BIN)/etcdctl: test/peers/etcd/go.mod
	cd test/peers/etcd && $(GO) build -o $@ go.etcd.io/etcd/etcdctl/v3
$(BIN)/etcdutl: test/peers/etcd/go.mod
	cd test/peers/etcd && $(GO) build -o $@ go.etcd.io/etcd/etcdutl/v3
# Older tools, with their etcdutl beside them.
$(BIN)/etcd3%/etcdctl: test/peers/etcd3%/go.mod
	mkdir -p $(@D)
	cd $(<D) && $(GO) build -o $(@D)/ go.etcd.io/etcd/etcdutl/v3 go.etcd.io/etcd/etcdctl/v3
$(BIN)/distribution/etcdctl: test/tools/etcd-client
	test/tools/etcd-client $(@D)
$(BIN)/kine: test/peers/kine/go.mod
	cd test/peers/kine && $(GO) build -o $@ github.com/k3s-io/kine
$(BIN)/versitygw: test/peers/versitygw/go.mod
	cd test/peers/versitygw && $(GO) build -o $@ github.com/versity/versitygw/cmd/versitygw

.PHONY: postgres
postgres: ## Check that PostgreSQL and pgbouncer are there for the tests, or install them where that can be done.
	@test/tools/postgres

.PHONY: mariadb
mariadb: ## Check that MariaDB's server is there for the tests of keelson migrate, or install it where that can be done.
	@test/tools/mariadb

.PHONY: bench
bench: build peers postgres ## Measure keelson beside etcd and kine; more than an hour. BENCH takes flags, as in BENCH="-table sqlite -rounds 1".
	cd test/bench && $(GO) build -o $(BIN)/bench .
	$(BIN)/bench -root $(CURDIR) $(BENCH)

# The components of Kubernetes, from k8s.io/kubernetes as a module: minutes once, the caches' speed after that.
KUBE_VERSION  := v1.37.2
KUBE_LDFLAGS  := -s -w -X k8s.io/component-base/version.gitVersion=$(KUBE_VERSION) \
	-X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=37 \
	-X k8s.io/component-base/version.gitTreeState=clean

.PHONY: kube-components
kube-components: $(BIN)/kube-apiserver $(BIN)/kube-controller-manager $(BIN)/kube-scheduler $(BIN)/kubectl $(BIN)/kwok ## Build the pinned Kubernetes components and kwok.

$(BIN)/kube-apiserver $(BIN)/kube-controller-manager $(BIN)/kube-scheduler $(BIN)/kubectl: test/kube/go.mod
	cd test/kube && $(GO) build -ldflags '$(KUBE_LDFLAGS)' -o $@ k8s.io/kubernetes/cmd/$(notdir $@)
$(BIN)/kwok: test/kube/go.mod
	cd test/kube && $(GO) build -ldflags '-s -w' -o $@ sigs.k8s.io/kwok/cmd/kwok

.PHONY: kube
kube: build $(BIN)/kube-apiserver $(BIN)/kubectl ## Start keelson and a kube-apiserver on it, and leave them running.
	@cd test/kube && $(GO) run ./cmd/kube up

.PHONY: kube-down
kube-down: ## Stop what `make kube` has started.
	@cd test/kube && $(GO) run ./cmd/kube down

.PHONY: kube-idle
kube-idle: build peers $(BIN)/kube-apiserver ## Measure resident memory, etcd and keelson idle under kube-apiserver.
	cd test/kube && $(GO) run ./cmd/kube-idle etcd keelson

.PHONY: release
release: tools ## Build static binaries for linux amd64 and arm64, archives of them, and SHA256SUMS, in .build/release. ARCHES names others.
	GO=$(GO) deploy/tools/release $(ARCHES)

.PHONY: image
image: tools ## Build the image that takes the place of etcd's, by docker, podman or buildah. IMAGE is its name, ARCH its processor.
	GO=$(GO) IMAGE="$(IMAGE)" deploy/tools/image $(ARCH)

.PHONY: test-release
test-release: tools ## Build the static binary and the image's root, and run etcdctl against the server in it. Needs root, for chroot.
	$(GO) test $(TEST_FLAGS) -v -tags image -run '^TestImageRoot$$' ./test/deploy

.PHONY: clean
clean: ## Remove what was built. Data under default.etcd stays.
	rm -rf $(CURDIR)/.build
