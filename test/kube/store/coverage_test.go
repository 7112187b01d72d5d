package store

import (
	"go/ast"
	"go/build"
	"go/parser"
	"go/token"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const upstream = "k8s.io/apiserver/pkg/storage/testing"

// TestEveryUpstreamFunctionIsCalled compares the functions of upstream's package that are tests with
// those that are called here.
func TestEveryUpstreamFunctionIsCalled(t *testing.T) {
	found, err := build.Import(upstream, ".", build.FindOnly)
	if err != nil {
		t.Fatal(err)
	}
	there := upstreamTests(t, found.Dir)
	called := calls(t, ".")
	if len(there) < 60 {
		t.Errorf("only %d tests found in %s: has it moved?", len(there), found.Dir)
	}
	for _, name := range there {
		if !slices.Contains(called, name) {
			t.Errorf("%s is not called", name)
		}
	}
}

// upstreamTests are the exported functions that take a *testing.T or a testing.TB and are named Run…
func upstreamTests(t *testing.T, dir string) []string {
	var names []string
	inspect(t, dir, func(name string) bool { return !strings.HasSuffix(name, "_test.go") }, func(_ *ast.File, n ast.Node) {
		f, ok := n.(*ast.FuncDecl)
		if ok && f.Recv == nil && strings.HasPrefix(f.Name.Name, "Run") && takesT(f) {
			names = append(names, f.Name.Name)
		}
	})
	return names
}

func takesT(f *ast.FuncDecl) bool {
	return slices.ContainsFunc(f.Type.Params.List, func(field *ast.Field) bool {
		typ := field.Type
		if pointer, ok := typ.(*ast.StarExpr); ok {
			typ = pointer.X
		}
		selected, ok := typ.(*ast.SelectorExpr)
		return ok && (selected.Sel.Name == "T" || selected.Sel.Name == "TB")
	})
}

// calls are the functions of upstream's package that the tests in dir call.
func calls(t *testing.T, dir string) []string {
	var names []string
	inspect(t, dir, func(name string) bool { return strings.HasSuffix(name, "_test.go") }, func(file *ast.File, n ast.Node) {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return
		}
		selected, ok := call.Fun.(*ast.SelectorExpr)
		if !ok {
			return
		}
		from, ok := selected.X.(*ast.Ident)
		if ok && from.Name == importedAs(file, upstream) {
			names = append(names, selected.Sel.Name)
		}
	})
	return names
}

// importedAs is the name by which the file knows a package, or nothing.
func importedAs(file *ast.File, importPath string) string {
	for _, i := range file.Imports {
		if strings.Trim(i.Path.Value, `"`) != importPath {
			continue
		}
		if i.Name != nil {
			return i.Name.Name
		}
		return path.Base(importPath)
	}
	return ""
}

// inspect visits every node of the Go files in dir that are asked for.
func inspect(t *testing.T, dir string, want func(name string) bool, visit func(*ast.File, ast.Node)) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if !strings.HasSuffix(entry.Name(), ".go") || !want(entry.Name()) {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(dir, entry.Name()), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			visit(file, n)
			return true
		})
	}
}
