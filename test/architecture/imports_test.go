// Package architecture holds the project's imports against the rules of ARCHITECTURE.md.
package architecture

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

const module = "github.com/keelson-io/keelson/"

// allowed says what each package, and those below it, may import of the project. The longest name counts.
func allowed() map[string][]string {
	api := []string{"server", "sqllog", "watch", "compact", "drivers", "backup"}
	return map[string][]string{
		"drivers":            {},
		"drivers/memory":     {"drivers"},
		"drivers/sqlite":     {"drivers", "drivers/internal/wake", "drivers/sqlite/internal/walfs"},
		"drivers/drivertest": {"drivers"},
		"drivers/postgres":   {"drivers"},
		"drivers/raft":       {"drivers", "drivers/internal/wake", "drivers/sqlite", "drivers/raft/internal/wal"},
		"sqllog/mvcc":        {"drivers"},
		"sqllog":             {"sqllog/mvcc", "drivers"},
		"sqllog/lessor":      {"sqllog/mvcc", "drivers"},
		"sqllog/roster":      {"drivers"},
		"watch":              {"sqllog/mvcc", "drivers"},
		"compact":            {"sqllog/mvcc"},
		"etcdfile":           {},
		"backup":             {},
		"server/etcdv3":      {"server/membership", "sqllog", "sqllog/mvcc", "sqllog/lessor", "watch", "drivers", "etcdfile"},
		"server/config":      {"server/membership"},
		"server/httpapi":     {},
		"server/history":     {"server/history/historypb", "sqllog", "sqllog/mvcc"},
		"server/listen":      {},
		"server/membership":  {},
		"server/peer":        {"server/peer/peerpb"},
		"server":             append(api, "etcdfile", "sqllog/mvcc", "sqllog/lessor", "sqllog/roster", "drivers/sqlite", "drivers/postgres", "drivers/raft", "server/config", "server/etcdv3", "server/history", "server/history/historypb", "server/httpapi", "server/listen", "server/membership", "server/metrics", "server/peer", "server/peer/peerpb", "server/snapshot"),
		"server/restore":     {"server", "server/config", "etcdfile", "sqllog/mvcc", "drivers", "drivers/sqlite", "drivers/raft", "drivers/postgres"},
		"server/snapshot":    {"etcdfile", "sqllog/mvcc"},
		"sqllog/verify":      {"sqllog/mvcc", "drivers"},
		"server/metrics":     {"sqllog/mvcc", "watch", "compact", "sqllog"},
		"migrate":            {"migrate/kine", "etcdfile", "drivers", "drivers/raft", "server", "server/config", "server/restore", "server/snapshot", "sqllog", "sqllog/mvcc"},
		"migrate/kine":       {},
		"cmd":                append(api, "etcdfile", "migrate", "sqllog/verify", "sqllog/mvcc", "drivers/sqlite", "server/config", "server/history/historypb", "server/restore"),
	}
}

func rule(pkg string) ([]string, bool) {
	rules := allowed()
	for name := pkg; name != "."; name = filepath.Dir(name) {
		if r, ok := rules[name]; ok {
			return r, true
		}
	}
	return nil, false
}

func TestImports(t *testing.T) {
	root := filepath.Join("..", "..")
	seen := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if d.IsDir() && (rel == "test" || strings.HasPrefix(d.Name(), ".") && rel != ".") {
			return filepath.SkipDir
		}
		if filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		seen++
		checkFile(t, path, filepath.ToSlash(filepath.Dir(rel)))
		return nil
	})
	if err != nil || seen < 50 {
		t.Fatalf("%d files, %v", seen, err)
	}
}

func checkFile(t *testing.T, path, pkg string) {
	t.Helper()
	may, ok := rule(pkg)
	if !ok {
		t.Errorf("%s: no rule for the package %s", path, pkg)
		return
	}
	f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
	if err != nil {
		t.Error(err)
		return
	}
	for _, spec := range f.Imports {
		name := strings.Trim(spec.Path.Value, `"`)
		sql := name == "database/sql" || strings.Contains(name, "sqlite3") || strings.Contains(name, "jackc/pgx") || strings.Contains(name, "go-sql-driver")
		if sql && !strings.HasPrefix(pkg, "drivers/") && pkg != "migrate/kine" {
			t.Errorf("%s imports %s: SQL belongs in the drivers, and kine's in migrate/kine", path, name)
		}
		// Raft's library is no part of etcd's API.
		raft := strings.HasPrefix(name, "go.etcd.io/raft/") && strings.HasPrefix(pkg, "drivers/raft")
		if strings.HasPrefix(name, "go.etcd.io/") && strings.HasPrefix(pkg, "drivers") && !raft {
			t.Errorf("%s imports %s: drivers know nothing of etcd", path, name)
		}
		own, ok := strings.CutPrefix(name, module)
		if !ok {
			continue
		}
		found := false
		for _, m := range may {
			found = found || own == m
		}
		if !found {
			t.Errorf("%s: %s may not import %s", path, pkg, own)
		}
	}
}
