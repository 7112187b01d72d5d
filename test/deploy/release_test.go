package deploy

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// TestReleaseEnvironment: of what go env -w has set, and of the environment, a release is built with what is needed to fetch modules, and with nothing that would change its bytes.
func TestReleaseEnvironment(t *testing.T) {
	dir := t.TempDir()
	real, err := exec.LookPath("go")
	if err != nil {
		t.Fatal(err)
	}
	// It builds nothing, and tells what it would have built with.
	seen, fake, settings := filepath.Join(dir, "seen"), filepath.Join(dir, "go"), filepath.Join(dir, "env")
	script := "#!/bin/sh\n[ \"$1\" = build ] || exec " + real + " \"$@\"\n" + real + " env GOPROXY GONOSUMDB GOEXPERIMENT GOFIPS140 GOFLAGS CGO_CFLAGS >" + seen + "\n"
	if err := os.WriteFile(fake, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	const written = "GOPROXY=https://proxy.example\nGONOSUMDB=example.com\nGOEXPERIMENT=arenas\nGOFIPS140=latest\nGOFLAGS=-race\nCGO_CFLAGS=-O0\n"
	if err := os.WriteFile(settings, []byte(written), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, environ := range map[string][]string{"go env -w": {"GOENV=" + settings}, "the environment": append(strings.Fields(written), "GOENV=off")} {
		cmd := exec.Command("../../deploy/tools/release", "--binary", runtime.GOARCH)
		cmd.Env = append(withoutGo(), append(environ, "GO="+fake, "CC=true")...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		got, err := os.ReadFile(seen)
		if want := "https://proxy.example\nexample.com\n\noff\n-trimpath\n-O2 -g\n"; err != nil || string(got) != want {
			t.Errorf("by %s: %q, %v; want %q", name, got, err, want)
		}
	}
}

// withoutGo is the environment without what is said to Go.
func withoutGo() (environ []string) {
	for _, one := range os.Environ() {
		if !strings.HasPrefix(one, "GO") && !strings.HasPrefix(one, "CGO_") {
			environ = append(environ, one)
		}
	}
	return environ
}
