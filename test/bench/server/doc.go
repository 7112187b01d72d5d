// Package server starts and ends the servers that the benchmark measures, each as a process of its own on free
// loopback ports, and reads what the kernel knows of them (/proc). For those that keep their data in Postgres it starts
// that, too. It does not speak the servers' protocol: whether one serves is the loads' business. Linux only.
package server
