package deploy

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/keelson-io/keelson/server/config"
	"github.com/keelson-io/keelson/test/conformance/launch"
)

// load reads options as the server does, and wants no word about them.
func load(t *testing.T, in config.Input) config.Options {
	t.Helper()
	opts, warnings, err := config.Load(in)
	if err != nil || len(warnings) > 0 {
		t.Fatalf("%v: %v, %v", in, err, warnings)
	}
	return opts
}

// TestManifest has the server read the command line of the static pod.
func TestManifest(t *testing.T) {
	var pod struct {
		Spec struct {
			Containers []struct{ Command []string }
		}
	}
	if err := yaml.Unmarshal([]byte(read(t, "kubeadm/etcd.yaml")), &pod); err != nil {
		t.Fatal(err)
	}
	command := pod.Spec.Containers[0].Command
	opts := load(t, config.Input{Args: command[1:]})
	if command[0] != "etcd" || opts.Name != "node1" || opts.DataDir != "/var/lib/etcd" || !opts.ClientTLS.ClientCertAuth {
		t.Errorf("%q is read as %+v", command, opts)
	}
}

// TestUnit has the server read the variables of the unit, and those of the file beside it.
func TestUnit(t *testing.T) {
	var environ []string
	for _, m := range regexp.MustCompile(`(?m)^Environment=(.*)$`).FindAllStringSubmatch(read(t, "systemd/keelson.service"), -1) {
		environ = append(environ, m[1])
	}
	if opts := load(t, config.Input{Environ: environ}); opts.DataDir != "/var/lib/keelson/data" {
		t.Errorf("%q is read as %+v", environ, opts)
	}
	variables := read(t, "systemd/keelson.env")
	given := regexp.MustCompile(`(?m)^[A-Z_]+=.*$`).FindAllString(variables, -1)
	if opts := load(t, config.Input{Environ: slices.Concat(environ, given)}); opts.ListenClientURLs.String() != "http://127.0.0.1:2379" {
		t.Errorf("%q is read as %+v", given, opts)
	}
	// With its lines about a directory, backups are made where the unit may write.
	var backups []string
	for _, m := range regexp.MustCompile(`(?m)^#(ETCD_BACKUP_(?:SCHEDULE|KEEP|DIR)=.*)$`).FindAllStringSubmatch(variables, -1) {
		backups = append(backups, m[1])
	}
	opts := load(t, config.Input{Environ: slices.Concat(environ, given, backups)})
	if opts.BackupSchedule == "" || opts.BackupKeep == 0 || !strings.Contains(read(t, "systemd/keelson.service"), "\nReadWritePaths=-"+opts.BackupDir+"\n") {
		t.Errorf("%q is read as %+v", backups, opts)
	}
	// Nor does a directory that is away stop the server, here or as a page shows it.
	guide, err := os.ReadFile("../../docs/deploy.md")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"keelson.service": read(t, "systemd/keelson.service"), "keelson.env": variables, "deploy.md": string(guide)} {
		paths := regexp.MustCompile(`ReadWritePaths=(.?)`).FindAllStringSubmatch(text, -1)
		if len(paths) == 0 {
			t.Errorf("%s names no ReadWritePaths", name)
		}
		for _, m := range paths {
			if m[1] != "-" {
				t.Errorf("%s has a ReadWritePaths without -, which keeps the unit from starting", name)
			}
		}
	}
	var help strings.Builder
	if err := config.Help(&help); err != nil {
		t.Fatal(err)
	}
	all := regexp.MustCompile(`(?m)^#?ETCD_([A-Z_]+)=`).FindAllStringSubmatch(variables, -1)
	if len(all) < 15 {
		t.Fatalf("only %d variables were found", len(all))
	}
	for _, m := range all {
		if flag := "--" + strings.ReplaceAll(strings.ToLower(m[1]), "_", "-"); !regexp.MustCompile(regexp.QuoteMeta(flag) + `[ =]`).MatchString(help.String()) {
			t.Errorf("there is no %s", flag)
		}
	}
}

// TestNotify starts the server with systemd's socket, as the unit's type wants it.
func TestNotify(t *testing.T) {
	if !strings.Contains(read(t, "systemd/keelson.service"), "\nType=notify\n") {
		t.Fatal("the unit is not of type notify")
	}
	dir, err := os.MkdirTemp("", "n") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	p, err := launch.Start(t.Context(), launch.Options{Binary: binary(t), Dir: t.TempDir(), Env: []string{"NOTIFY_SOCKET=" + path}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
	}()
	message := make([]byte, 100)
	n, err := socket.Read(message)
	if err != nil || string(message[:n]) != "READY=1" {
		t.Errorf("%q, %v", message[:n], err)
	}
}

// TestVerify has systemd read the unit, where there is one.
func TestVerify(t *testing.T) {
	unit := read(t, "systemd/keelson.service")
	const start = "\nExecStart=/usr/local/bin/keelson\n"
	if strings.Count(unit, start) != 1 {
		t.Fatal("the unit starts something else")
	}
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		return
	}
	path := filepath.Join(t.TempDir(), "keelson.service")
	if err := os.WriteFile(path, []byte(strings.Replace(unit, start, "\nExecStart="+binary(t)+"\n", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(analyze, "verify", path).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("%v: %s", err, out)
	}
}
