package deploy

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/keelson-io/keelson/test/conformance/launch"
)

// binary is the server that make build has built.
func binary(t *testing.T) string {
	t.Helper()
	path, err := filepath.Abs("../../.build/bin/keelson")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v: make build builds it", err)
	}
	return path
}

func read(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile("../../deploy/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// names are words that an expression uses: of metrics, or of labels.
type names map[string]bool

var (
	quoted    = regexp.MustCompile(`"[^"]*"`)
	selector  = regexp.MustCompile(`\{([^}]*)\}`)
	labelName = regexp.MustCompile(`[a-zA-Z_]+`)
	window    = regexp.MustCompile(`\[[^\]]*\]`)
	grouping  = regexp.MustCompile(`\b(by|without)\s*\(([^)]*)\)`)
	word      = regexp.MustCompile(`[a-zA-Z_][a-zA-Z0-9_]*(\s*\()?`)
	operators = map[string]bool{"and": true, "or": true, "unless": true, "bool": true}
)

// uses finds the metrics and the labels in an expression of PromQL.
func uses(expr string) (metrics, labels names) {
	metrics, labels = names{}, names{}
	rest := quoted.ReplaceAllString(expr, "")
	rest = window.ReplaceAllString(rest, "")
	for _, m := range selector.FindAllStringSubmatch(rest, -1) {
		for _, l := range labelName.FindAllString(m[1], -1) {
			labels[l] = true
		}
	}
	rest = selector.ReplaceAllString(rest, "")
	for _, m := range grouping.FindAllStringSubmatch(rest, -1) {
		for _, l := range labelName.FindAllString(m[2], -1) {
			labels[l] = true
		}
	}
	rest = grouping.ReplaceAllString(rest, "")
	for _, w := range word.FindAllString(rest, -1) {
		if !strings.HasSuffix(w, "(") && !operators[w] {
			metrics[w] = true
		}
	}
	return metrics, labels
}

func TestUses(t *testing.T) {
	metrics, labels := uses(`100 * sum by (a, le) (rate(m_total{b="x_y", c!~"z"}[5m])) / max without (d) (n) > 1 and (up == bool 0)`)
	if got := fmt.Sprint(metrics, labels); got != "map[m_total:true n:true up:true] map[a:true b:true c:true d:true le:true]" {
		t.Error(got)
	}
}

// expressions are those of the alerts and of the dashboard, by where they are.
func expressions(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	var rules struct {
		Groups []struct {
			Rules []struct{ Alert, Expr string }
		}
	}
	if err := yaml.Unmarshal([]byte(read(t, "prometheus/rules.yaml")), &rules); err != nil {
		t.Fatal(err)
	}
	for _, g := range rules.Groups {
		for i, r := range g.Rules {
			all[fmt.Sprintf("alert %d, %s", i, r.Alert)] = r.Expr
		}
	}
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ RefID, Expr string }
		}
	}
	if err := json.Unmarshal([]byte(read(t, "grafana/keelson.json")), &dashboard); err != nil {
		t.Fatal(err)
	}
	for _, p := range dashboard.Panels {
		for _, target := range p.Targets {
			all["panel "+p.Title+", "+target.RefID] = target.Expr
		}
	}
	if len(all) < 40 {
		t.Fatalf("only %d expressions were found", len(all))
	}
	return all
}

// served is what a server shows under /metrics.
func served(t *testing.T, endpoint string) (metrics, labels names) {
	t.Helper()
	resp, err := http.Get("http://" + endpoint + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	metrics, labels = names{}, names{}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		line := lines.Text()
		if strings.HasPrefix(line, "#") {
			continue
		}
		series, _, _ := strings.Cut(line, " ")
		name, rest, _ := strings.Cut(series, "{")
		metrics[name] = true
		for _, l := range labelName.FindAllString(quoted.ReplaceAllString(rest, ""), -1) {
			labels[l] = true
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return metrics, labels
}

// TestMetrics looks for each metric and label that the rules and the dashboard name among what a member of a cluster serves.
func TestMetrics(t *testing.T) {
	var all []launch.Options
	for _, name := range []string{"s1", "s2"} {
		all = append(all, launch.Options{Binary: binary(t), Name: name, Dir: t.TempDir()})
	}
	members, err := launch.StartCluster(t.Context(), all)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range members {
		t.Cleanup(func() {
			if err := m.Kill(); err != nil {
				t.Error(err)
			}
		})
	}
	metrics, labels := served(t, members[0].Endpoint())
	for _, own := range []string{"job", "instance", "endpoint"} { // given by Prometheus
		labels[own] = true
	}
	metrics["up"] = true
	for where, expr := range expressions(t) {
		usedMetrics, usedLabels := uses(expr)
		if len(usedMetrics) == 0 {
			t.Errorf("%s: no metric was found in %s", where, expr)
		}
		for name := range usedMetrics {
			if !metrics[name] {
				t.Errorf("%s: no server has %s", where, name)
			}
		}
		for name := range usedLabels {
			if !labels[name] {
				t.Errorf("%s: no metric has the label %s", where, name)
			}
		}
	}
}
