package process

import (
	"fmt"
	"net"
)

// FreePorts gives n different ports of 127.0.0.1 that nobody listens on. Somebody else may take one
// before it is used: whoever starts a server on one tries again with another.
func FreePorts(n int) ([]int, error) {
	ports := make([]int, 0, n)
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		defer l.Close() // all are held until all are found, or one would be found twice
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}
