// Package cluster runs a Kubernetes control plane on loopback, on a storage server that somebody else
// started: kube-apiserver, and when asked kube-controller-manager, kube-scheduler, and kwok in the place of
// kubelets, which makes nodes and pods that exist in the API alone.
//
// It makes its own certificates, chooses free ports and keeps everything under one directory. The programs
// are those that `make kube-components` builds into .build/bin.
package cluster
