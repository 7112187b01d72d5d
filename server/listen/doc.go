// Package listen opens a server's sockets and brings each connection to whom it is for.
//
// A client URL carries three protocols: gRPC, HTTP/1.1 and HTTP/2 (curl and Prometheus negotiate the latter for
// /health and /metrics), with TLS or without, or both on one port. Each connection is split off before any of its
// bytes are taken: a TLS handshake where there is one, then the HTTP/2 preface, then the content-type of the first
// request. gRPC connections go to the gRPC server itself and not through an http.Handler, which is slow. A
// connection that has not said what it is has a time limit and a goroutine of its own, so that it costs nobody
// else anything.
//
// TLS files, the client authorities and the revocation list among them, are read anew when they change; files that
// cannot be read leave the old ones in use.
//
// The package must not know what is served, nor what the options are called.
//
// Concurrency: Open binds the sockets and starts nothing. Server.Run starts everything, and returns when all of it
// has ended. A TLS may be shared by any number of listeners.
package listen
