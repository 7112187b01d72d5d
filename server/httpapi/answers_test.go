package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// question is what is asked of an endpoint, and what etcd 3.7.3 answers. The peers test asks a real one the same,
// in this order.
type question struct {
	url    string // "client", "metrics" or "peer"
	method string
	path   string
	body   string
	alarms []pb.AlarmType // that are up

	status int
	kind   string // content-type
	says   string // body; in any order of lines, or as JSON, or "*" for anything
}

const (
	text  = "text/plain; charset=utf-8"
	plain = "application/json"

	notFound   = "404 page not found\n"
	notAllowed = "Method Not Allowed\n"
	well       = `{"health":"true","reason":""}`
)

func questions() []question {
	full := []pb.AlarmType{pb.AlarmType_NOSPACE}
	corrupt := []pb.AlarmType{pb.AlarmType_CORRUPT}
	return []question{
		{"client", "GET", "/health", "", nil, 200, text, well},
		{"client", "GET", "/health?exclude=NOSPACE&exclude=CORRUPT", "", nil, 200, text, well},
		{"client", "GET", "/health?serializable=true", "", nil, 200, text, well},
		{"client", "POST", "/health", "", nil, 405, text, notAllowed},
		{"client", "HEAD", "/health", "", nil, 405, text, ""},
		{"client", "OPTIONS", "/health", "", nil, 200, "", ""},
		{"client", "GET", "/livez", "", nil, 200, text, "ok\n"},
		{"client", "GET", "/livez?verbose", "", nil, 200, text, "[+]serializable_read ok\nok\n"},
		{"client", "GET", "/livez/serializable_read?verbose", "", nil, 200, text, "[+]serializable_read ok\nok\n"},
		{"client", "GET", "/livez/linearizable_read", "", nil, 404, text, notFound},
		{"client", "GET", "/readyz", "", nil, 200, text, "ok\n"},
		{"client", "GET", "/readyz?verbose", "", nil, 200, text, "[+]data_corruption ok\n[+]linearizable_read ok\n[+]non_learner ok\n[+]serializable_read ok\nok\n"},
		{"client", "GET", "/readyz?verbose&exclude=linearizable_read&exclude=nope&exclude=", "", nil, 200, text, "[+]data_corruption ok\n[+]non_learner ok\n[+]serializable_read ok\nok\n"},
		{"client", "GET", "/readyz/data_corruption", "", nil, 200, text, "ok\n"},
		{"client", "GET", "/readyz/non_learner?verbose=", "", nil, 200, text, "[+]non_learner ok\nok\n"},
		{"client", "GET", "/readyz/nope", "", nil, 404, text, notFound},
		{"client", "POST", "/readyz", "", nil, 405, text, notAllowed},
		{"client", "GET", "/version", "", nil, 200, plain, `{"etcdserver":"3.7.3","etcdcluster":"3.7.0","storage":"3.7.0"}`},
		{"client", "POST", "/version", "", nil, 405, text, notAllowed},
		{"client", "GET", "/debug/vars", "", nil, 200, "application/json; charset=utf-8", "*"},
		{"client", "POST", "/debug/vars", "", nil, 405, text, notAllowed},
		{"client", "GET", "/debug/pprof/cmdline", "", nil, 200, text, "*"},
		{"client", "GET", "/debug/pprof/", "", nil, 200, "text/html; charset=utf-8", "*"},
		{"client", "GET", "/debug/pprof/heap", "", nil, 200, "application/octet-stream", "*"},
		{"client", "GET", "/debug/requests", "", nil, 404, text, notFound},
		{"client", "GET", "/metrics", "", nil, 200, "text/plain; version=0.0.4; charset=utf-8; escaping=underscores", "*"},
		{"client", "GET", "/", "", nil, 404, text, notFound},
		{"client", "GET", "/members", "", nil, 404, text, notFound},
		{"client", "GET", "/v3", "", nil, 307, "text/html; charset=utf-8", "<a href=\"/v3/\">Temporary Redirect</a>.\n\n"},

		{"client", "GET", "/v3/", "", nil, 404, plain, `{"code":5,"message":"Not Found"}`},
		{"client", "GET", "/v3/kv/range", "", nil, 501, plain, `{"code":12,"message":"Method Not Allowed"}`},
		{"client", "POST", "/v3/kv/put", `{"key":"Zm9v","value":"YmFy"}`, nil, 200, plain, `{"header":{}}`},
		{"client", "POST", "/v3/kv/range", `{"key":"Zm9v"}`, nil, 200, plain, `{"header":{},"kvs":[{"key":"Zm9v","create_revision":"2","mod_revision":"2","version":"1","value":"YmFy"}],"count":"1"}`},
		{"client", "POST", "/v3beta/kv/range", `{"key":"Zm9v","count_only":true,"unknown":1}`, nil, 200, plain, `{"header":{},"count":"1"}`},
		{"client", "POST", "/v3/kv/range", `{"key":"zzz=`, nil, 400, plain, `{"code":3,"message":"unexpected EOF"}`},
		{"client", "POST", "/v3/kv/range", `{"key":""}`, nil, 400, plain, `{"code":3,"message":"etcdserver: key is not provided"}`},
		{"client", "POST", "/v3/kv/nope", `{}`, nil, 404, plain, `{"code":5,"message":"Not Found"}`},

		{"metrics", "GET", "/health", "", nil, 200, text, well},
		{"metrics", "GET", "/livez", "", nil, 200, text, "ok\n"},
		{"metrics", "GET", "/readyz/data_corruption", "", nil, 200, text, "ok\n"},
		{"metrics", "GET", "/metrics", "", nil, 200, "text/plain; version=0.0.4; charset=utf-8; escaping=underscores", "*"},
		{"metrics", "OPTIONS", "/health", "", nil, 405, text, notAllowed},
		{"metrics", "GET", "/version", "", nil, 404, text, notFound},
		{"metrics", "GET", "/debug/vars", "", nil, 404, text, notFound},
		{"metrics", "GET", "/v3/", "", nil, 404, text, notFound},

		{"peer", "GET", "/version", "", nil, 200, plain, `{"etcdserver":"3.7.3","etcdcluster":"3.7.0","storage":"3.7.0"}`},
		{"peer", "GET", "/members", "", nil, 200, plain, "*"},
		{"peer", "POST", "/members", "", nil, 405, text, notAllowed},
		{"peer", "GET", "/health", "", nil, 404, text, notFound},
		{"peer", "GET", "/", "", nil, 404, text, notFound},

		{"client", "GET", "/health", "", full, 503, text, `{"health":"false","reason":"ALARM NOSPACE"}` + "\n"},
		{"client", "GET", "/health?exclude=CORRUPT", "", full, 503, text, `{"health":"false","reason":"ALARM NOSPACE"}` + "\n"},
		{"client", "GET", "/health?exclude=NOSPACE", "", full, 200, text, well},
		{"client", "GET", "/readyz", "", full, 200, text, "ok\n"},
		{"client", "GET", "/health?exclude=NOSPACE", "", append(full, corrupt...), 503, text, `{"health":"false","reason":"ALARM CORRUPT"}` + "\n"},
		{"client", "GET", "/health?exclude=NOSPACE&exclude=CORRUPT", "", append(full, corrupt...), 200, text, well},
		{"client", "GET", "/readyz", "", append(full, corrupt...), 503, text, "[-]data_corruption failed: alarm activated: CORRUPT\n[+]linearizable_read ok\n[+]non_learner ok\n[+]serializable_read ok\n\n"},
		{"client", "GET", "/readyz?exclude=data_corruption", "", append(full, corrupt...), 200, text, "ok\n"},
		{"client", "GET", "/readyz/data_corruption", "", append(full, corrupt...), 503, text, "[-]data_corruption failed: alarm activated: CORRUPT\n\n"},
		{"client", "GET", "/livez", "", append(full, corrupt...), 200, text, "ok\n"},
	}
}

// expect compares a response with etcd's answer.
func (q question) expect(t *testing.T, resp *http.Response) {
	t.Helper()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != q.status || resp.Header.Get("Content-Type") != q.kind || !q.same(string(body)) {
		t.Errorf("%s %s %s:\n got %d %s %q\nwant %d %s %q", q.url, q.method, q.path,
			resp.StatusCode, resp.Header.Get("Content-Type"), body, q.status, q.kind, q.says)
	}
	if allow := resp.Header.Get("Allow"); (allow == http.MethodGet) != (q.status == http.StatusMethodNotAllowed) {
		t.Errorf("%s %s %s: Allow is %q", q.url, q.method, q.path, allow)
	}
	if open := resp.Header.Get("Access-Control-Allow-Origin"); (open == "*") != (q.url == "client") {
		t.Errorf("%s %s %s: Access-Control-Allow-Origin is %q", q.url, q.method, q.path, open)
	}
}

// same compares bodies: JSON of the gateway without the header's ids, lines of checks in any order.
func (q question) same(body string) bool {
	var got, want map[string]any
	switch {
	case q.says == "*":
		return len(body) > 0
	case strings.HasPrefix(q.path, "/v3"):
		if json.Unmarshal([]byte(body), &got) != nil || json.Unmarshal([]byte(q.says), &want) != nil {
			return body == q.says
		}
		if _, ok := got["header"]; ok {
			got["header"] = map[string]any{}
		}
		return reflect.DeepEqual(got, want)
	}
	return slices.Equal(slices.Sorted(strings.SplitSeq(body, "\n")), slices.Sorted(strings.SplitSeq(q.says, "\n")))
}

func TestAnswersAreEtcds(t *testing.T) {
	s := newServer(t, nil)
	for _, q := range questions() {
		s.alarms = q.alarms
		s.ask(t, q)
	}
}

// ask asks a question of the handlers.
func (s *server) ask(t *testing.T, q question) {
	t.Helper()
	handler := map[string]http.Handler{"client": s.api.Client(), "metrics": s.api.Metrics(), "peer": s.api.Peer()}[q.url]
	front := httptest.NewServer(handler)
	defer front.Close()
	q.expect(t, send(t, front.URL, q))
}

// send sends a question, and follows no redirection.
func send(t *testing.T, base string, q question) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), q.method, base+q.path, strings.NewReader(q.body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

// TestAnswersOfTheSick are what etcd's sources say to states that a real one is not easily brought to.
func TestAnswersOfTheSick(t *testing.T) {
	broken := errors.New("disk I/O error")
	for _, c := range []struct {
		what   string
		change func(*server)
		q      question
	}{
		{"no leader", func(s *server) { s.leaderless = true }, question{"client", "GET", "/health", "", nil, 503, text, `{"health":"false","reason":"RAFT NO LEADER"}` + "\n"}},
		{"no leader", func(s *server) { s.leaderless = true }, question{"client", "GET", "/health?serializable=true", "", nil, 200, text, well}},
		{"reads fail", func(s *server) { s.broken = broken }, question{"client", "GET", "/health", "", nil, 503, text, `{"health":"false","reason":"RANGE ERROR:disk I/O error"}` + "\n"}},
		{"reads fail", func(s *server) { s.broken = broken }, question{"client", "GET", "/livez", "", nil, 503, text, "[-]serializable_read failed: disk I/O error\n\n"}},
		{"reads hang", func(s *server) { s.hanging = true }, question{"client", "GET", "/readyz/linearizable_read", "", nil, 503, text, "[-]linearizable_read failed: context deadline exceeded\n\n"}},
		{"reads hang", func(s *server) { s.hanging = true }, question{"client", "GET", "/livez", "", nil, 200, text, "ok\n"}},
		{"learner", func(s *server) { s.learner = true }, question{"client", "GET", "/readyz/non_learner", "", nil, 503, text, "[-]non_learner failed: not supported for learner\n\n"}},
		{"an alarm to come", func(s *server) { s.alarms = []pb.AlarmType{99} }, question{"client", "GET", "/health", "", nil, 503, text, `{"health":"false","reason":"ALARM UNKNOWN"}` + "\n"}},
		{"versions not known", func(s *server) { s.unversioned = true }, question{"peer", "GET", "/version", "", nil, 200, plain, `{"etcdserver":"3.7.3","etcdcluster":"not_decided","storage":"unknown"}`}},
	} {
		s := newServer(t, nil)
		c.change(s)
		t.Run(c.what, func(t *testing.T) { s.ask(t, c.q) })
	}
}

// server is one that the API asks.
type server struct {
	api         *API
	alarms      []pb.AlarmType
	leaderless  bool
	learner     bool
	hanging     bool
	broken      error
	unversioned bool
}

func (s *server) Alarms() []pb.AlarmType { return s.alarms }
func (s *server) HasLeader() bool        { return !s.leaderless }
func (s *server) IsLearner() bool        { return s.learner }

func (s *server) LinearizableRead(ctx context.Context) error {
	if s.hanging {
		<-ctx.Done()
		return ctx.Err()
	}
	return s.broken
}

func (s *server) SerializableRead(context.Context) error { return s.broken }

func (s *server) ClusterVersion() string {
	if s.unversioned {
		return ""
	}
	return "3.7.0"
}

func (s *server) StorageVersion() string { return s.ClusterVersion() }
func (s *server) ClusterID() string      { return "cdf818194e3a8c32" }

func (s *server) Members() []Member {
	return []Member{{ID: 7, PeerURLs: []string{"http://127.0.0.1:2380"}, Name: "m1", ClientURLs: []string{"http://127.0.0.1:2379"}}}
}
