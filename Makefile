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

.PHONY: kube-test
kube-test: build kube-components ## Test with what Kubernetes is: its storage tests, and a whole control plane.
	cd test/kube && $(GO) test -p 1 -timeout 30m ./...

.PHONY: kube-idle
kube-idle: build peers $(BIN)/kube-apiserver ## Measure resident memory, etcd and keelson idle under kube-apiserver.
	cd test/kube && $(GO) run ./cmd/kube-idle etcd keelson
