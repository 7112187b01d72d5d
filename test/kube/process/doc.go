// Package process runs programs as processes of their own: a storage server, the components of a
// Kubernetes control plane.
//
// It knows nothing of what it runs. What it promises:
//
//  1. A process that is not Detached ends with the process that started it, even when that one is killed.
//  2. Stop and Kill return when the process is gone, and never touch any other process.
//  3. Everything the process prints is in one file, appended to by each start, so that a failure can show it.
//
// A Process may be used by several goroutines at once.
package process
