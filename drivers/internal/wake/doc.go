// Package wake tells any number of waiters that something has changed. It knows nothing of what.
package wake
