// Package drivertest is the contract of package drivers as a test: a driver
// keeps it when Run passes on it, under the race detector too.
//
//	func TestContract(t *testing.T) {
//		drivertest.Run(t, drivertest.Harness{New: …, Open: …, Doubt: …})
//	}
//
// Every log that a test has used is examined afterwards: all that was
// acknowledged is there, nothing else is, all ways of reading agree, the same
// after it was closed and opened again, and its own Check, if it has one,
// finds nothing.
//
// There is no timing in it: what happens at random moments (a kill, a scrub
// beside a follower) may hit or miss a moment, and is right in either case.
package drivertest
