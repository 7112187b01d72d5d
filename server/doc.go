// Package server is one node: it puts the driver, the store, the watch hub, the
// lessor, the compactor and the API together, and starts and stops them.
package server
