package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// errLearner is why a learner is not ready.
var errLearner = errors.New("not supported for learner")

// A check finds out one thing about the server, and returns what is wrong with it.
type check func(context.Context) error

// health adds /health, /livez, /readyz and the paths below these.
func (a *API) health(mux *http.ServeMux) {
	mux.HandleFunc("/health", a.healthz)
	a.checks(mux, "livez", map[string]check{
		"serializable_read": a.o.Health.SerializableRead,
	})
	a.checks(mux, "readyz", map[string]check{
		"data_corruption":   a.noCorruption,
		"serializable_read": a.o.Health.SerializableRead,
		"linearizable_read": a.o.Health.LinearizableRead,
		"non_learner":       a.noLearner,
	})
}

func (a *API) noCorruption(context.Context) error {
	if slices.Contains(a.o.Health.Alarms(), pb.AlarmType_CORRUPT) {
		return fmt.Errorf("alarm activated: %s", pb.AlarmType_CORRUPT)
	}
	return nil
}

func (a *API) noLearner(context.Context) error {
	if a.o.Health.IsLearner() {
		return errLearner
	}
	return nil
}

// healthz answers /health, the oldest of the endpoints. ?exclude=ALARM overlooks an alarm, ?serializable=true asks
// for this member's health rather than the cluster's.
func (a *API) healthz(w http.ResponseWriter, r *http.Request) {
	if !isGet(w, r) {
		return
	}
	reason := a.unhealthy(r)
	body, _ := json.Marshal(struct {
		Health string `json:"health"`
		Reason string `json:"reason"`
	}{fmt.Sprint(reason == ""), reason})
	if reason != "" {
		a.metrics.failures.Inc()
		a.o.Log.Warn("/health error", "output", string(body), "status-code", http.StatusServiceUnavailable)
		http.Error(w, string(body), http.StatusServiceUnavailable)
		return
	}
	a.metrics.successes.Inc()
	w.Write(body)
}

// unhealthy is why the server is not well, in the words of /health.
func (a *API) unhealthy(r *http.Request) string {
	excluded := r.URL.Query()["exclude"]
	for _, alarm := range a.o.Health.Alarms() {
		switch {
		case slices.Contains(excluded, alarm.String()):
		case alarm == pb.AlarmType_NOSPACE, alarm == pb.AlarmType_CORRUPT:
			return "ALARM " + alarm.String()
		default:
			return "ALARM UNKNOWN"
		}
	}
	read := a.o.Health.LinearizableRead
	if r.URL.Query().Get("serializable") == "true" {
		read = a.o.Health.SerializableRead
	} else if !a.o.Health.HasLeader() {
		return "RAFT NO LEADER"
	}
	if err := a.run(r.Context(), read); err != nil {
		return fmt.Sprintf("RANGE ERROR:%s", err)
	}
	return ""
}

func (a *API) run(ctx context.Context, c check) error {
	ctx, cancel := context.WithTimeout(ctx, a.o.CheckTimeout)
	defer cancel()
	return c(ctx)
}

// checks adds /kind, which makes all checks but those that ?exclude= names, and /kind/check for each.
func (a *API) checks(mux *http.ServeMux, kind string, all map[string]check) {
	mux.HandleFunc("/"+kind, func(w http.ResponseWriter, r *http.Request) {
		chosen := maps.Clone(all)
		var missing []string
		for _, name := range r.URL.Query()["exclude"] {
			if _, ok := all[name]; !ok && name != "" {
				missing = append(missing, name)
			}
			delete(chosen, name)
		}
		if len(missing) > 0 {
			a.o.Log.Warn("some health checks cannot be excluded", "missing-health-checks", missing)
		}
		a.answer(w, r, kind, chosen)
	})
	for name, c := range all {
		mux.HandleFunc("/"+kind+"/"+name, func(w http.ResponseWriter, r *http.Request) {
			a.answer(w, r, kind, map[string]check{name: c})
		})
	}
}

// answer makes the checks and says how they went: all that were made if one failed or ?verbose asks for them.
func (a *API) answer(w http.ResponseWriter, r *http.Request, kind string, chosen map[string]check) {
	if !isGet(w, r) {
		return
	}
	said, failed := &strings.Builder{}, false
	for _, name := range slices.Sorted(maps.Keys(chosen)) {
		err := a.run(r.Context(), chosen[name])
		a.metrics.record(kind, name, err)
		if err != nil {
			failed = true
			fmt.Fprintf(said, "[-]%s failed: %v\n", name, err)
		} else {
			fmt.Fprintf(said, "[+]%s ok\n", name)
		}
	}
	if failed {
		a.o.Log.Error("Health check error", "path", r.URL.Path, "reason", said.String(), "status-code", http.StatusServiceUnavailable)
		http.Error(w, said.String(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if r.URL.Query().Has("verbose") {
		fmt.Fprint(w, said)
	}
	fmt.Fprint(w, "ok\n")
}

// healthMetrics count what the endpoints answered, under etcd's names.
type healthMetrics struct {
	successes, failures prometheus.Counter
	last                *prometheus.GaugeVec
	total               *prometheus.CounterVec
}

func newHealthMetrics() *healthMetrics {
	name := func(name, help string) prometheus.Opts {
		return prometheus.Opts{Namespace: "etcd", Subsystem: "server", Name: name, Help: help}
	}
	return &healthMetrics{
		successes: prometheus.NewCounter(prometheus.CounterOpts(name("health_success", "The total number of successful health checks"))),
		failures:  prometheus.NewCounter(prometheus.CounterOpts(name("health_failures", "The total number of failed health checks"))),
		last: prometheus.NewGaugeVec(prometheus.GaugeOpts(name("healthcheck", "The result of each kind of healthcheck.")),
			[]string{"type", "name"}),
		total: prometheus.NewCounterVec(prometheus.CounterOpts(name("healthchecks_total", "The total number of each kind of healthcheck.")),
			[]string{"type", "name", "status"}),
	}
}

func (m *healthMetrics) register(registry prometheus.Registerer) error {
	for _, c := range []prometheus.Collector{m.successes, m.failures, m.last, m.total} {
		if err := registry.Register(c); err != nil {
			return err
		}
	}
	return nil
}

func (m *healthMetrics) record(kind, name string, err error) {
	value, status := 1.0, "success"
	if err != nil {
		value, status = 0, "error"
	}
	m.last.WithLabelValues(kind, name).Set(value)
	m.total.WithLabelValues(kind, name, status).Inc()
}
