package drivertest

import (
	"io"
	"os"
	"testing"

	"github.com/keelson-io/keelson/drivers"
)

// Log is a log that can be closed.
type Log interface {
	drivers.Log
	io.Closer
}

// Harness is how the suite gets at a driver.
type Harness struct {
	// New makes the place of an empty log for one test: a directory, a database schema. The
	// place is removed when the test ends.
	New func(t *testing.T) (place string)

	// Open opens the log at a place, with whatever runs in its background, which Close
	// ends. It may be called in another process than New, for a Durable driver.
	Open func(place string) (Log, error)

	// Doubt makes the next Append (or Scrub) of an open log, which comes at once, end in ErrUncertain.
	Doubt func(t *testing.T, l Log, d Doubt)

	// Shared is set if several logs may be open at one place at once, as
	// several servers on one database are, and are a drivers.Shared. Otherwise a second one is refused with ErrLocked.
	Shared bool

	// Durable is set if a place outlives the process.
	Durable bool
}

// Doubt is a write whose outcome is unknown.
type Doubt struct {
	// Scrub: it is a Scrub, not an Append.
	Scrub bool
	// Done: when ReadIndex has succeeded after it, it turns out to have been done.
	Done bool
}

// Run tests the contract. It is to be called at once by a test function of the driver's: Crash runs the
// same function in child processes.
func Run(t *testing.T, h Harness) {
	if place := os.Getenv(childEnv); place != "" {
		child(t, h, place)
		return
	}
	for _, c := range []struct {
		name string
		run  func(*fixture)
	}{
		{"Empty", testEmpty},
		{"RoundTrip", testRoundTrip},
		{"HugeBatch", testHugeBatch},
		{"BadBatch", testBadBatch},
		{"Conflict", testConflict},
		{"ConflictOverHoles", testConflictOverHoles},
		{"BytesOfTheCaller", testBytesOfTheCaller},
		{"DoubtNotDone", func(f *fixture) { testDoubt(f, Doubt{}) }},
		{"DoubtDone", func(f *fixture) { testDoubt(f, Doubt{Done: true}) }},
		{"DoubtfulScrubNotDone", func(f *fixture) { testDoubtfulScrub(f, Doubt{Scrub: true}) }},
		{"DoubtfulScrubDone", func(f *fixture) { testDoubtfulScrub(f, Doubt{Scrub: true, Done: true}) }},
		{"EndedContext", testEndedContext},
		{"Closed", testClosed},
		{"SecondOpen", testSecondOpen},
		{"ScanBounds", testScanBounds},
		{"ScanCallback", testScanCallback},
		{"ScanBesideScrub", testScanBesideScrub},
		{"Values", testValues},
		{"Scrub", testScrub},
		{"ScrubRefused", testScrubRefused},
		{"FollowFromEverywhere", testFollowFromEverywhere},
		{"FollowCallback", testFollowCallback},
		{"FollowBesideAppends", testFollowBesideAppends},
		{"FollowBelowTheMark", testFollowBelowTheMark},
		{"FollowOvertaken", testFollowOvertaken},
		{"FollowDiverged", testFollowDiverged},
		{"Together", testTogether},
		{"Competition", testCompetition},
		{"Defragment", testDefragment},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t, h)
			c.run(f)
			f.finish()
		})
	}
	if h.Shared {
		runShared(t, h)
	}
	if h.Durable {
		t.Run("Crash", func(t *testing.T) { testCrash(t, h) })
	}
}
