package listen

import (
	"errors"
	"io"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// TestStopBeforeGreeting: the gRPC server gets no connection of a client that has not begun, which it would wait for
// before it stops.
func TestStopBeforeGreeting(t *testing.T) {
	for _, only := range []bool{true, false} {
		for _, said := range []string{"", "PRI *", http2.ClientPreface, http2.ClientPreface + "\x00\x00", http2.ClientPreface + "\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00"} {
			listeners := open(t, Options{}, "http://127.0.0.1:0")
			s := serve(t, listeners, func(o *ServerOptions) {
				o.FirstRequestTimeout = 20 * time.Millisecond
				if only {
					o.HTTP = nil
				}
			})
			conn, err := dialer(listeners[0])(t.Context(), "")
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			io.WriteString(conn, said)
			// It is sent away when it was silent for too long.
			if _, err := io.Copy(io.Discard, conn); err != nil && !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("%q: %v", said, err)
			}
			if err := s.stop(); err != nil {
				t.Errorf("%q: %v", said, err)
			}
		}
	}
}

// TestStopWhileGreeting: a client that has not begun does not keep a gRPC server from stopping.
func TestStopWhileGreeting(t *testing.T) {
	for _, only := range []bool{true, false} {
		listeners := open(t, Options{}, "http://127.0.0.1:0")
		s := serve(t, listeners, func(o *ServerOptions) {
			if only {
				o.HTTP = nil
			}
		})
		conn, err := dialer(listeners[0])(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		io.WriteString(conn, http2.ClientPreface)
		// Another one shows that the server goes on beside it.
		if err := check(t, listeners[0], nil); err != nil {
			t.Fatal(err)
		}
		if err := s.stop(); err != nil {
			t.Error(err)
		}
	}
}
