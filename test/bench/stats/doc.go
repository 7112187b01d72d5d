// Package stats has the arithmetic of the benchmark: a latency histogram that costs an operation next to nothing, and
// medians and ratios with their spread. It knows nothing of loads or servers.
package stats
