// Package deploy holds the files under deploy/ against the server: the metrics that rules and dashboard name are served, the
// options of the systemd unit and of the manifests are known, and what the unit is told arrives. With the build tag image (make
// test-release) it also runs what the image consists of. What needs kubeadm is in test/kube/deploy.
package deploy
