package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	nodefast "sigs.k8s.io/kwok/kustomize/stage/node/fast"
	nodeheartbeat "sigs.k8s.io/kwok/kustomize/stage/node/heartbeat"
	podfast "sigs.k8s.io/kwok/kustomize/stage/pod/fast"

	"github.com/keelson-io/keelson/test/kube/process"
)

const (
	apiserverTimeout = 3 * time.Minute
	stopTimeout      = 30 * time.Second
	startTries       = 5

	serviceRange = "10.96.0.0/16"
	podRange     = "10.244.0.0/16"
	// nodeGrace is how long a node may be silent before it counts as lost. It is not nodes that are tested here, and kwok tells of each only every 20 to 25 seconds, begins
	// to count anew when it is killed and started, and does not try again what fails.
	nodeGrace = 10 * time.Minute
	// advertised is an address that nobody has (RFC 5737): the endpoints of the service "kubernetes" may
	// not be on loopback, and nothing here connects to them.
	advertised = "192.0.2.1"
)

var firstServiceIP = net.IPv4(10, 96, 0, 1)

// Options say how a control plane is run.
type Options struct {
	// BinDir is where the programs are.
	BinDir string
	// Dir gets certificates, kubeconfigs and logs. It must exist.
	Dir string
	// StorageEndpoint is the client URL of the storage server, or several, comma-separated.
	StorageEndpoint string
	// StorageCA, StorageCert and StorageKey are the files that kube-apiserver connects to it with, if the URL is https.
	StorageCA, StorageCert, StorageKey string
	// EventTTL is how long events live; 0 is kube-apiserver's default.
	EventTTL time.Duration
	// CompactionInterval is how often kube-apiserver compacts; 0 is its default.
	CompactionInterval time.Duration
	// Detached lets the processes outlive the one that starts them.
	Detached bool
}

// Cluster is a running control plane.
type Cluster struct {
	options   Options
	authority *authority
	port      int
	processes []*process.Process // in the order of their start, kube-apiserver first
}

// Start starts kube-apiserver on a free port of loopback and returns when it is ready.
func Start(ctx context.Context, o Options) (*Cluster, error) {
	a, err := newAuthority()
	if err != nil {
		return nil, fmt.Errorf("start the control plane: %w", err)
	}
	c := &Cluster{options: o, authority: a}
	for try := 1; ; try++ {
		err := c.startAPIServer(ctx)
		if err == nil {
			return c, nil
		}
		taken := c.lastSays("address already in use")
		tails := c.Tails(40)
		c.Stop()
		if try == startTries || !taken {
			return nil, fmt.Errorf("start the control plane: %w\n%s", err, tails)
		}
	}
}

func (c *Cluster) startAPIServer(ctx context.Context) error {
	ports, err := process.FreePorts(1)
	if err != nil {
		return err
	}
	c.port = ports[0]
	if err := c.writeServerFiles(); err != nil {
		return err
	}
	if err := c.writeKubeconfig("admin", "kubernetes-admin", "system:masters"); err != nil {
		return err
	}
	p, err := c.run("kube-apiserver", c.apiserverArguments()...)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, apiserverTimeout)
	defer cancel()
	config, err := c.Config()
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	return p.Await(ctx, "/readyz", func(ctx context.Context) error {
		return client.RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
	})
}

func (c *Cluster) apiserverArguments() []string {
	arguments := []string{
		"--etcd-servers=" + c.options.StorageEndpoint,
		"--bind-address=127.0.0.1",
		fmt.Sprintf("--secure-port=%d", c.port),
		"--advertise-address=" + advertised,
		"--service-cluster-ip-range=" + serviceRange,
		"--cert-dir=" + c.options.Dir,
		"--tls-cert-file=" + c.file("apiserver.crt"),
		"--tls-private-key-file=" + c.file("apiserver.key"),
		"--client-ca-file=" + c.file("ca.crt"),
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + c.file("service-accounts.key"),
		"--service-account-signing-key-file=" + c.file("service-accounts.key"),
		"--authorization-mode=Node,RBAC",
	}
	if c.options.StorageCA != "" {
		arguments = append(arguments, "--etcd-cafile="+c.options.StorageCA, "--etcd-certfile="+c.options.StorageCert, "--etcd-keyfile="+c.options.StorageKey)
	}
	if c.options.EventTTL != 0 {
		arguments = append(arguments, "--event-ttl="+c.options.EventTTL.String())
	}
	if c.options.CompactionInterval != 0 {
		arguments = append(arguments, "--etcd-compaction-interval="+c.options.CompactionInterval.String())
	}
	return arguments
}

// StartControllers starts what makes a control plane of the API: the controllers, the scheduler and kwok.
func (c *Cluster) StartControllers() error {
	users := map[string][]string{ // the user and groups of each
		"kube-controller-manager": {"system:kube-controller-manager"},
		"kube-scheduler":          {"system:kube-scheduler"},
		"kwok":                    {"kwok", "system:masters"},
	}
	for name, user := range users {
		if err := c.writeKubeconfig(name, user[0], user[1:]...); err != nil {
			return fmt.Errorf("start the controllers: %w", err)
		}
	}
	for _, command := range [][]string{
		{"kube-controller-manager",
			"--secure-port=0",
			"--kubeconfig=" + c.Kubeconfig("kube-controller-manager"),
			"--use-service-account-credentials",
			"--service-account-private-key-file=" + c.file("service-accounts.key"),
			"--root-ca-file=" + c.file("ca.crt"),
			"--node-monitor-grace-period=" + nodeGrace.String()},
		{"kube-scheduler",
			"--secure-port=0",
			"--kubeconfig=" + c.Kubeconfig("kube-scheduler")},
	} {
		if _, err := c.run(command[0], command[1:]...); err != nil {
			return fmt.Errorf("start the controllers: %w", err)
		}
	}
	return c.startKwok()
}

func (c *Cluster) startKwok() error {
	if err := os.WriteFile(c.file("stages.yaml"), stages(), 0o644); err != nil {
		return fmt.Errorf("start kwok: %w", err)
	}
	// Without leases of nodes: with them it lists a node's pods as soon as it has taken the lease, but passes over them until its watch tells it of that, and does not come back.
	_, err := c.run("kwok",
		"--config="+c.file("stages.yaml"),
		"--kubeconfig="+c.Kubeconfig("kwok"),
		"--manage-all-nodes",
		"--cidr="+podRange,
		"--node-lease-duration-seconds=0")
	return err
}

// RestartKwok starts kwok anew. It does not try again what the API answered with an internal error, as a
// kubelet does, but what it finds at its start it takes up.
func (c *Cluster) RestartKwok() error {
	for i, p := range c.processes {
		if p.Name() == "kwok" {
			p.Kill()
			c.processes = slices.Delete(c.processes, i, i+1)
			return c.startKwok()
		}
	}
	return errors.New("restart kwok: it was never started")
}

// stages are what kwok does to nodes and pods: all that a kubelet would, at once.
func stages() []byte {
	return []byte(strings.Join([]string{
		nodefast.DefaultNodeInit,
		nodeheartbeat.DefaultNodeHeartbeat,
		podfast.DefaultPodReady,
		podfast.DefaultPodComplete,
		podfast.DefaultPodDelete,
	}, "\n---\n"))
}

func (c *Cluster) run(name string, arguments ...string) (*process.Process, error) {
	p, err := process.Start(process.Command{
		Name:     name,
		Path:     filepath.Join(c.options.BinDir, name),
		Args:     arguments,
		LogDir:   c.options.Dir,
		Detached: c.options.Detached,
	})
	if err != nil {
		return nil, err
	}
	c.processes = append(c.processes, p)
	return p, nil
}

// writeServerFiles writes what kube-apiserver serves and checks with.
func (c *Cluster) writeServerFiles() error {
	server, err := c.authority.server()
	if err != nil {
		return err
	}
	for name, content := range map[string][]byte{
		"ca.crt":        c.authority.pem(),
		"apiserver.crt": server.certificate,
		"apiserver.key": server.key,
	} {
		if err := os.WriteFile(c.file(name), content, 0o600); err != nil {
			return err
		}
	}
	return ensureKey(c.file("service-accounts.key"))
}

// Kubeconfig is the file by which a user of the API comes in: "admin", or the name of a component.
func (c *Cluster) Kubeconfig(name string) string { return c.file(name + ".kubeconfig") }

// Config is the client configuration of the administrator, without a limit on the rate of requests.
func (c *Cluster) Config() (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig("admin"))
	if err != nil {
		return nil, err
	}
	config.QPS = -1
	return config, nil
}

// PIDs are the process ids of the components by name.
func (c *Cluster) PIDs() map[string]int {
	pids := map[string]int{}
	for _, p := range c.processes {
		pids[p.Name()] = p.PID()
	}
	return pids
}

// Exited is an error that names the components that have ended, or nil.
func (c *Cluster) Exited() error {
	var errs []error
	for _, p := range c.processes {
		select {
		case <-p.Done():
			errs = append(errs, fmt.Errorf("%s: %w", p.Name(), process.ErrExited))
		default:
		}
	}
	return errors.Join(errs...)
}

// Stop ends all components, the last one first.
func (c *Cluster) Stop() {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	for len(c.processes) > 0 {
		last := len(c.processes) - 1
		_ = c.processes[last].Stop(ctx) // what does not stop is killed; it is not what is tested
		c.processes = c.processes[:last]
	}
}

// Tails are the ends of all components' logs.
func (c *Cluster) Tails(lines int) string {
	var b strings.Builder
	for _, p := range c.processes {
		b.WriteString(p.Tail(lines))
	}
	return b.String()
}

func (c *Cluster) lastSays(text string) bool {
	if len(c.processes) == 0 {
		return false
	}
	output, err := c.processes[len(c.processes)-1].Output()
	return err == nil && strings.Contains(output, text)
}

func (c *Cluster) file(name string) string { return filepath.Join(c.options.Dir, name) }
