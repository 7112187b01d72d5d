package cluster

import (
	"fmt"

	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

// writeKubeconfig writes the kubeconfig called name for a user in some groups.
func (c *Cluster) writeKubeconfig(name, user string, groups ...string) error {
	pair, err := c.authority.client(user, groups...)
	if err != nil {
		return fmt.Errorf("kubeconfig of %s: %w", name, err)
	}
	config := api.NewConfig()
	config.Clusters["kubernetes"] = &api.Cluster{
		Server:                   fmt.Sprintf("https://127.0.0.1:%d", c.port),
		CertificateAuthorityData: c.authority.pem(),
	}
	config.AuthInfos[user] = &api.AuthInfo{ClientCertificateData: pair.certificate, ClientKeyData: pair.key}
	config.Contexts["kubernetes"] = &api.Context{Cluster: "kubernetes", AuthInfo: user}
	config.CurrentContext = "kubernetes"
	if err := clientcmd.WriteToFile(*config, c.Kubeconfig(name)); err != nil {
		return fmt.Errorf("kubeconfig of %s: %w", name, err)
	}
	return nil
}
