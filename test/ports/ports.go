// Package ports finds addresses for tests whose servers must know their own before they listen: members of clusters, and servers that come back.
package ports

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"testing"
)

// Ports are taken from below those that the kernel gives to outgoing connections, and to whoever listens on port 0. Otherwise one of these could
// take the port of a server that is down; worse, a client that dials such a port may get connected to itself.
const (
	first = 20000
	last  = 32000
)

var (
	mu    sync.Mutex
	given = map[int]bool{}
)

// Free gives a port of 127.0.0.1 that nobody listens on, and that this process was not given before. Another process may take it before it is used.
func Free() (int, error) {
	mu.Lock()
	defer mu.Unlock()
	for range 1000 {
		port := first + rand.IntN(last-first)
		if !given[port] && !Taken(port) {
			given[port] = true
			return port, nil
		}
	}
	return 0, fmt.Errorf("no port is free between %d and %d", first, last)
}

// Taken tells whether somebody listens on a port of 127.0.0.1.
func Taken(port int) bool {
	l, err := net.Listen("tcp", At(port))
	if err != nil {
		return true
	}
	return l.Close() != nil
}

// At gives the address of a port of 127.0.0.1.
func At(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// Address gives the address of a port that is Free.
func Address(tb testing.TB) string {
	tb.Helper()
	port, err := Free()
	if err != nil {
		tb.Fatal(err)
	}
	return At(port)
}
