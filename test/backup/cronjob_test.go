package backup

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/keelson-io/keelson/etcdfile"
	"github.com/keelson-io/keelson/test/conformance/launch"
	"github.com/keelson-io/keelson/test/ports"
)

// pki makes certificates as kubeadm has them, under a directory.
func pki(t *testing.T, dir string) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	key := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		must(err)
		return k
	}
	save := func(name, kind string, der []byte) {
		must(os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
	}
	from, to := time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "etcd-ca"}, NotBefore: from, NotAfter: to,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	caKey := key()
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	must(err)
	save("ca.crt", "CERTIFICATE", der)
	for i, c := range []struct {
		name  string
		usage []x509.ExtKeyUsage
	}{
		{"server", []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}},
		{"healthcheck-client", []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}},
	} {
		k := key()
		leaf := &x509.Certificate{
			SerialNumber: big.NewInt(int64(i + 2)), Subject: pkix.Name{CommonName: c.name}, NotBefore: from, NotAfter: to,
			ExtKeyUsage: c.usage, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		}
		der, err := x509.CreateCertificate(rand.Reader, leaf, ca, k.Public(), caKey)
		must(err)
		save(c.name+".crt", "CERTIFICATE", der)
		der, err = x509.MarshalECPrivateKey(k)
		must(err)
		save(c.name+".key", "EC PRIVATE KEY", der)
	}
}

// container is what is looked at of one.
type container struct {
	Name         string
	Command      []string
	VolumeMounts []struct{ Name, MountPath string }
}

// TestCronJob runs the containers of the manifest, one after the other as a kubelet does, against a Keelson with certificates.
func TestCronJob(t *testing.T) {
	text, err := os.ReadFile("../../deploy/cronjob.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var job struct {
		Spec struct {
			JobTemplate struct {
				Spec struct {
					ActiveDeadlineSeconds int
					Template              struct {
						Spec struct {
							InitContainers, Containers []container
							Volumes                    []struct{ Name string }
						}
					}
				}
			}
		}
	}
	if err := yaml.Unmarshal(text, &job); err != nil {
		t.Fatal(err)
	}
	if job.Spec.JobTemplate.Spec.ActiveDeadlineSeconds == 0 {
		t.Error("a job that hangs keeps all later ones away")
	}
	pod := job.Spec.JobTemplate.Spec.Template.Spec

	volumes := map[string]string{}
	for _, v := range pod.Volumes {
		volumes[v.Name] = t.TempDir()
	}
	certs, backups := volumes["certs"], volumes["backup"]
	pki(t, certs)
	address := ports.Address(t)
	process, err := launch.Start(t.Context(), launch.Options{Binary: binary(t, "keelson"), Dir: t.TempDir(), Flags: []string{
		"--listen-client-urls=https://" + address, "--advertise-client-urls=https://" + address, "--client-cert-auth",
		"--cert-file=" + filepath.Join(certs, "server.crt"), "--key-file=" + filepath.Join(certs, "server.key"), "--trusted-ca-file=" + filepath.Join(certs, "ca.crt"),
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := process.Stop(); err != nil {
			t.Error(err)
		}
	}()
	old := time.Now().Add(-40 * 24 * time.Hour)
	for _, name := range []string{"etcd-backup-1-a.db", "etcd-backup-1-b.db.part", "another.db"} {
		path := filepath.Join(backups, name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, old, old); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(backups, "etcd-backup-2-c.db"), nil, 0o600); err != nil {
		t.Fatal(err)
	}

	const name = "etcd-backup-29402520-x7k2p"
	for _, c := range slices.Concat(pod.InitContainers, pod.Containers) {
		command := slices.Clone(c.Command)
		for i, arg := range command {
			arg = strings.ReplaceAll(arg, "$(POD_NAME)", name)
			arg = strings.ReplaceAll(arg, "127.0.0.1:2379", address)
			for _, m := range c.VolumeMounts {
				arg = strings.ReplaceAll(arg, m.MountPath, volumes[m.Name])
			}
			command[i] = arg
		}
		if strings.HasPrefix(command[0], "etcd") {
			command[0] = binary(t, command[0])
		}
		if out, err := exec.CommandContext(t.Context(), command[0], command[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %q: %v\n%s", c.Name, command, err, out)
		}
	}
	entries, err := os.ReadDir(backups)
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, e := range entries {
		left = append(left, e.Name())
	}
	if want := []string{"another.db", "etcd-backup-2-c.db", name + ".db"}; !slices.Equal(left, want) {
		t.Errorf("there are %q, want %q", left, want)
	}
	f, err := etcdfile.Open(filepath.Join(backups, name+".db"), etcdfile.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}
