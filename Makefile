# make is the one door to this project: build, run, lint, test, bench. See README.md.

BIN  := $(CURDIR)/.build/bin
GO   ?= go

.PHONY: build
build: ## Build keelson into .build/bin.
	$(GO) build -o $(BIN)/keelson ./cmd/keelson

.PHONY: peers
peers: $(BIN)/etcd $(BIN)/etcdctl $(BIN)/etcdutl $(BIN)/kine ## Build the pinned peers (etcd, etcdctl, etcdutl, kine).

$(BIN)/etcd: test/peers/etcd/go.mod
	cd test/peers/etcd && $(GO) build -o $@ go.etcd.io/etcd/server/v3
$(BIN)/etcdctl: test/peers/etcd/go.mod
	cd test/peers/etcd && $(GO) build -o $@ go.etcd.io/etcd/etcdctl/v3
$(BIN)/etcdutl: test/peers/etcd/go.mod
	cd test/peers/etcd && $(GO) build -o $@ go.etcd.io/etcd/etcdutl/v3
$(BIN)/kine: test/peers/kine/go.mod
	cd test/peers/kine && $(GO) build -o $@ github.com/k3s-io/kine

.PHONY: bench
bench: build peers ## Measure keelson beside etcd and kine; some 25 minutes. BENCH takes flags, as in BENCH="-scale 0.1 -rounds 1".
	cd test/bench && $(GO) build -o $(BIN)/bench .
	$(BIN)/bench -root $(CURDIR) $(BENCH)
