package httpapi

import (
	"context"
	"encoding/json"
	"expvar"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/version"
)

// Health is what a server knows of its own health.
type Health interface {
	// Alarms are the alarms that are up, on any member.
	Alarms() []pb.AlarmType
	// HasLeader says whether somebody leads the cluster, as far as this member knows.
	HasLeader() bool
	// IsLearner says whether this member has no vote yet.
	IsLearner() bool
	// LinearizableRead reads something as a client would that wants the latest.
	LinearizableRead(ctx context.Context) error
	// SerializableRead reads something of what this member has.
	SerializableRead(ctx context.Context) error
}

// Versions are what /version tells beside the server's own.
type Versions interface {
	// ClusterVersion is the lowest minor version among the members, or "" while it is not decided.
	ClusterVersion() string
	// StorageVersion is the version of the stored data, or "" if it is not known.
	StorageVersion() string
}

// Members are what the peer URL tells of the cluster.
type Members interface {
	// ClusterID is the cluster's id, in hexadecimal.
	ClusterID() string
	// Members are all members, learners too.
	Members() []Member
}

// Member is a member as /members on the peer URL shows it.
type Member struct {
	ID         uint64   `json:"id"`
	PeerURLs   []string `json:"peerURLs"`
	IsLearner  bool     `json:"isLearner,omitempty"`
	Name       string   `json:"name,omitempty"`
	ClientURLs []string `json:"clientURLs,omitempty"`
}

// Options are what the handlers need. Health and Versions must be set.
type Options struct {
	// Health is asked by the health endpoints, Versions by /version.
	Health   Health
	Versions Versions
	// Members is asked by /members on the peer URL; nil leaves that out.
	Members Members
	// Metrics has what /metrics shows; nil leaves that out.
	Metrics *prometheus.Registry
	// Gateway serves /v3/ and /v3beta/; nil leaves them out.
	Gateway http.Handler
	// RejectCertificateName says, at the moment, that a gateway request with a client certificate that has a common
	// name is refused: its sender expects to be that user, and would not be. Nil means never.
	RejectCertificateName func() bool
	// CORS are the origins, HostWhitelist the hosts of plaintext requests, that are let in; none or "*" means all.
	CORS, HostWhitelist []string
	// Pprof serves profiles under /debug/pprof/.
	Pprof bool
	// CheckTimeout bounds one health check; 0 means etcd's 7 s.
	CheckTimeout time.Duration
	// Log hears of checks that fail and requests that are turned away. Nil discards.
	Log *slog.Logger
}

// API makes the handlers of one server's URLs.
type API struct {
	o       Options
	metrics *healthMetrics
}

// New returns the API. It registers the metrics of the health endpoints.
func New(o Options) (*API, error) {
	if o.CheckTimeout == 0 {
		o.CheckTimeout = 7 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	a := &API{o: o, metrics: newHealthMetrics()}
	if o.Metrics == nil {
		return a, nil
	}
	return a, a.metrics.register(o.Metrics)
}

// Client is the handler of client URLs.
func (a *API) Client() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/version", a.version)
	mux.HandleFunc("/debug/vars", vars)
	a.observe(mux)
	if a.o.Gateway != nil {
		mux.Handle("/v3/", a.o.Gateway)
	}
	if a.o.Pprof {
		profile(mux)
	}
	return a.guard(mux)
}

// Metrics is the handler of metrics URLs. Nobody is turned away from them.
func (a *API) Metrics() http.Handler {
	mux := http.NewServeMux()
	a.observe(mux)
	return mux
}

// Peer is the handler of peer URLs, as far as it is not the members' own affair.
func (a *API) Peer() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/version", a.version)
	if a.o.Members != nil {
		mux.HandleFunc("/members", a.members)
	}
	return mux
}

// observe adds what both client and metrics URLs have.
func (a *API) observe(mux *http.ServeMux) {
	a.health(mux)
	if a.o.Metrics != nil {
		mux.Handle("/metrics", promhttp.InstrumentMetricHandler(a.o.Metrics, promhttp.HandlerFor(a.o.Metrics, promhttp.HandlerOpts{})))
	}
}

// profile adds Go's profiles. One of five events of contention is sampled, as in etcd.
func profile(mux *http.ServeMux) {
	const sampled = 5
	if runtime.SetMutexProfileFraction(-1) == 0 {
		runtime.SetMutexProfileFraction(sampled)
	}
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
}

func (a *API) version(w http.ResponseWriter, r *http.Request) {
	if !isGet(w, r) {
		return
	}
	vs := version.Versions{Server: version.Version, Cluster: a.o.Versions.ClusterVersion(), Storage: a.o.Versions.StorageVersion()}
	if vs.Cluster == "" {
		vs.Cluster = "not_decided"
	}
	if vs.Storage == "" {
		vs.Storage = "unknown"
	}
	body, _ := json.Marshal(vs) // three strings
	w.Header().Set("Content-Type", "application/json")
	w.Write(body)
}

func (a *API) members(w http.ResponseWriter, r *http.Request) {
	if !isGet(w, r) {
		return
	}
	w.Header().Set("X-Etcd-Cluster-ID", a.o.Members.ClusterID())
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(a.o.Members.Members())
}

// vars is expvar's handler with etcd's refusal of other methods.
func vars(w http.ResponseWriter, r *http.Request) {
	if isGet(w, r) {
		expvar.Handler().ServeHTTP(w, r)
	}
}

func isGet(w http.ResponseWriter, r *http.Request) bool {
	if r.Method == http.MethodGet {
		return true
	}
	w.Header().Set("Allow", http.MethodGet)
	http.Error(w, "Method Not Allowed", http.StatusMethodNotAllowed)
	return false
}

// guard stands before everything on client URLs: it keeps out what a browser was tricked into sending, and tells
// browsers what they may read.
func (a *API) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if rest, ok := strings.CutPrefix(r.URL.Path, "/v3beta/"); ok {
			r.URL.Path = "/v3/" + rest
		}
		if r.TLS == nil && !allows(a.o.HostWhitelist, hostname(r)) {
			a.o.Log.Warn("rejecting HTTP request to prevent DNS rebinding attacks", "host", hostname(r))
			http.Error(w, rebinding(hostname(r)), http.StatusMisdirectedRequest)
			return
		}
		if r.TLS != nil && strings.HasPrefix(r.URL.Path, "/v3/") && a.wouldBeIgnored(r) {
			http.Error(w, "CommonName of client sending a request against gateway will be ignored and not used as expected", http.StatusBadRequest)
			return
		}
		allowOrigin(w, r, a.o.CORS)
		if r.Method == http.MethodOptions {
			w.WriteHeader(http.StatusOK)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (a *API) wouldBeIgnored(r *http.Request) bool {
	if a.o.RejectCertificateName == nil || !a.o.RejectCertificateName() {
		return false
	}
	for _, chain := range r.TLS.VerifiedChains {
		if len(chain) > 0 && chain[0].Subject.CommonName != "" {
			return true
		}
	}
	return false
}

func allowOrigin(w http.ResponseWriter, r *http.Request, origins []string) {
	origin := r.Header.Get("Origin")
	switch {
	case allows(origins, "*"):
		origin = "*"
	case !allows(origins, origin):
		return
	}
	w.Header().Add("Access-Control-Allow-Methods", "POST, GET, OPTIONS, PUT, DELETE")
	w.Header().Add("Access-Control-Allow-Origin", origin)
	w.Header().Add("Access-Control-Allow-Headers", "accept, content-type, authorization")
}

func allows(list []string, word string) bool {
	return len(list) == 0 || slices.Contains(list, "*") || slices.Contains(list, word)
}

func hostname(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.Host)
	if err != nil {
		return r.Host
	}
	return host
}

// rebinding is what one reads whose host is not on the list.
func rebinding(host string) string {
	return fmt.Sprintf(`
keelson received your request, but the Host header was unrecognized.

To fix this, choose one of the following options:
- Enable TLS, then any HTTPS request will be allowed.
- Add the hostname you want to use to the whitelist in settings.
  - e.g. keelson --host-whitelist %q

This requirement has been added to help prevent "DNS Rebinding" attacks (CVE-2018-5702).
`, host)
}
