package drivers

import (
	"context"
	"time"
)

// PresenceTTL is how long a server counts as alive after it has announced itself.
const PresenceTTL = 15 * time.Second

// Followed is a Log to whose end others may append than the one that has it open, and whose entries may be replaced by
// newer ones as a whole. None of its powers is needed for correctness, which rests on Append's comparison alone, but for Load, Epoch and ScrubIn.
type Followed interface {
	Log

	// Load gives every entry of the log as it is at one moment, with values or without, in order, and then the
	// bounds of that moment. Unlike with Scan, what is scrubbed meanwhile is seen whole or
	// not at all. If Epoch is the same before and after, that moment was in this epoch. fn as in Scan.
	Load(ctx context.Context, values bool, fn func([]Entry) error) (Bounds, error)

	// Epoch gives a number that rises when this Log learns that the database may have lost its last commits, scrubs among
	// them, as by a failover to a standby. It asks nobody, so it may be late: what must not be is left to ScrubIn.
	Epoch() uint64

	// ScrubIn is Scrub, bound to an epoch: if the database is, where and when the entries would be removed, in
	// another one, or this Log has learned of another one, nothing is removed and the error is ErrEpoch. What was scrubbed
	// before in the same epoch is then certainly gone.
	ScrubIn(ctx context.Context, epoch uint64, positions []int64) error

	// Moved waits until this Log has learned that it ends elsewhere than at the given end, other than by its
	// own append. It says so as soon as the database signals it, and at the latest a poll later.
	Moved(ctx context.Context, than End) error
}

// Replica is a Followed that has the whole log at hand. What it has was acknowledged, or may be at any time.
type Replica interface {
	Followed

	// Known gives the bounds of what this server has, without asking the others: there may be more.
	Known() Bounds

	// Halted gives a channel that is closed once this server's part in what the servers agree on stands still for longer than the others wait for it, as while its disk
	// hangs. Another one may lead by then, and what was asked of this one waits. Once it goes on there is another channel. Nil if it is alone.
	Halted() <-chan struct{}
}

// Shared is a Log that several servers have open at once, all equal: each of them may append at any time.
type Shared interface {
	Followed

	// Hold takes a turn: until it is released or the next Append of this Log has ended, no other server
	// can append. Who has met a conflict takes one, reads the tail, and then cannot meet another. Turns are given
	// in about the order of asking, so that no server starves. It may be called while no
	// other Hold or Append of this Log is under way. A turn not used for some seconds ends by
	// itself. Errors: as Append's, but for ErrConflict and ErrUncertain.
	Hold(ctx context.Context) (Turn, error)

	// Announce tells the others that this server is there, or leaves, and gives those that are alive by the database's
	// clock, this one included unless it leaves, the one that has been there longest first. Who has
	// not announced itself for PresenceTTL is not alive.
	Announce(ctx context.Context, self Server) ([]Server, error)
}

// Turn is the sole right to append, for a short time. See Shared.Hold.
type Turn interface {
	// Bounds are those of the log, as they stay until the turn ends.
	Bounds() Bounds
	// Release ends the turn. It does nothing if an Append has ended it.
	Release()
}

// Server is one of the servers that share a log, as it announces itself.
type Server struct {
	// ID is the server's member id, Instance the process's: two processes with one ID are a mistake of an operator.
	ID       uint64
	Instance BatchID
	// Info is what the server tells of itself; drivers look no further.
	Info []byte
	// Position is the position up to which the server has taken in the log.
	Position int64
	// Leaving is set by a server that stops.
	Leaving bool
}
