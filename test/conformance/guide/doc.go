// Package guide runs the command blocks of the guide to etcd's commands, docs/commands.md, as an operator would: against servers with the certificates and flags that
// kubeadm gives etcd, by a shell, one after the other.
package guide
