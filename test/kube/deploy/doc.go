// Package deploy holds the files under deploy/kubeadm against what kubeadm itself writes and reads.
package deploy
