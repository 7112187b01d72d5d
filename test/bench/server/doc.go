// Package server starts and ends the servers that the benchmark measures, each as a process of its own on free
// loopback ports, and reads what the kernel knows of them (/proc). It does not speak their protocol: whether a server
// serves is the loads' business. Linux only.
package server
