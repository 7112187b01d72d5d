// Package httpapi is what a server says over HTTP: whether it is well, which version it is, its metrics and
// profiles, and the JSON form of its API.
//
// Paths, status codes and bodies are etcd's, so that probes, dashboards and scripts need not know the difference;
// answers_test.go has what a real etcd answered. One thing is better defined: the checks of /livez and /readyz are
// listed by name, where etcd lists them in any order.
//
// The package must not know how health is found out or where a connection comes from. It asks the interfaces that
// it defines, with a time limit, and holds no state but its metrics. The handlers may be used concurrently.
package httpapi
