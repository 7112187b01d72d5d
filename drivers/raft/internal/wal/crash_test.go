package wal

import (
	"errors"
	"flag"
	"fmt"
	"syscall"
	"testing"

	"github.com/keelson-io/keelson/drivers"
)

var (
	seedFlag  = flag.Uint64("seed", 0, "the first seed of the random tests")
	seedsFlag = flag.Uint64("seeds", 200, "how many seeds they try")
)

// life is a log on a fake disk, and all the states in which it may be found.
type life struct {
	d       *disk
	o       Options
	a       *actor
	w       *WAL
	m       model   // how it is; what is in memory
	allowed []model // how it may be found after a crash
	trace   []string
}

func newLife(seed uint64) *life {
	d := newDisk(seed)
	l := &life{d: d, a: &actor{r: d.r, maxData: 2500}}
	l.o = Options{Dir: "d/log", SegmentBytes: 256 << d.r.IntN(6), CacheBytes: 1 << d.r.IntN(14), fs: d}
	l.m = created(Identity{1, seed, seed << 40}, 0, 0, "")
	must(Create(l.o, l.m.id, nil))
	l.allowed = []model{l.m}
	return l
}

func (l *life) note(format string, args ...any) {
	l.trace = append(l.trace, fmt.Sprintf("op %d: ", l.d.ops)+fmt.Sprintf(format, args...))
}

// act does one random thing. A failure must leave the log as it was, or broken.
func (l *life) act() error { return l.actOn(l.a.next(l.m)) }

func (l *life) actOn(act action) error {
	err := act.do(l.w)
	l.note("%s: %v", act.name, err)
	switch {
	case err == nil:
		l.m = act.after
		if act.sync {
			l.allowed = nil
		}
		l.allowed = append(l.allowed, l.m)
	case l.d.off || errors.Is(err, drivers.ErrUncertain):
		l.allowed = append(l.allowed, act.after)
		return err
	case errors.Is(err, ErrBroken) || errors.Is(err, drivers.ErrCorrupt):
		return fmt.Errorf("an error that cannot be: %w", err)
	}
	if l.d.off {
		return errPower // while a segment was cut or deleted
	}
	got, oerr := observe(l.w)
	if oerr != nil && !l.d.off || got.String() != l.m.String() {
		return fmt.Errorf("after %s (%v), %v:\n got %v\nwant %v", act.name, err, oerr, got, l.m)
	}
	return err
}

// open opens the log, which must be found in one of the states that are allowed.
func (l *life) open() error {
	w, err := Open(l.o)
	l.note("open: %v", err)
	if err != nil {
		if errors.Is(err, drivers.ErrCorrupt) {
			return fmt.Errorf("a mere crash is told as damage: %w", err)
		}
		return err
	}
	l.w = w
	got, err := observe(w)
	if err != nil {
		if l.d.off {
			return err
		}
		return fmt.Errorf("cannot be read: %w", err)
	}
	for _, m := range l.allowed {
		if m.String() == got.String() {
			// What Open has shown is on disk.
			l.m, l.allowed = got, []model{got}
			return nil
		}
	}
	text := ""
	for _, m := range l.allowed {
		text += "\n   " + m.String()
	}
	return fmt.Errorf("found %v\nallowed:%s", got, text)
}

// replace puts another log in the place of this one, which is closed.
func (l *life) replace() error {
	l.a.n++
	id := Identity{l.m.id.Cluster + 1, l.m.id.Member, l.m.id.Origin + 1}
	index := uint64(l.d.r.IntN(20))
	m := created(id, index, 2, fmt.Sprint(l.a.n))
	if index == 0 {
		m = created(id, 0, 0, "")
	}
	err := Replace(l.o, id, snapshotOf(index, 2, m.snapData))
	l.note("replace: %v", err)
	if err == nil {
		l.m, l.allowed = m, nil
	}
	l.allowed = append(l.allowed, m)
	return err
}

// powerLoss goes on with what is left.
func (l *life) powerLoss() {
	l.d = l.d.afterPowerLoss()
	l.o.fs = l.d
	l.note("power loss")
}

func (l *life) fatal(t *testing.T, seed uint64, err error) {
	t.Helper()
	n := max(0, len(l.trace)-40)
	for _, s := range l.trace[n:] {
		t.Log(s)
	}
	t.Fatalf("seed %d: %v", seed, err)
}

// TestPowerLoss does random things, with the power lost at random moments, also while the log is opened or replaced.
func TestPowerLoss(t *testing.T) {
	for seed := *seedFlag; seed < *seedFlag+*seedsFlag; seed++ {
		l := newLife(seed)
		for range 8 {
			at := l.d.ops + 1 + l.d.r.IntN(150)
			l.d.fail = func(op int, what string) error {
				if op >= at {
					return errPower
				}
				return nil
			}
			if err := l.untilOff(); err != nil {
				l.fatal(t, seed, err)
			}
			l.powerLoss()
		}
		if err := l.open(); err != nil {
			l.fatal(t, seed, err)
		}
	}
}

// untilOff does things until the power is gone.
func (l *life) untilOff() error {
	err := l.open()
	for err == nil {
		switch p := l.d.r.IntN(100); {
		case p < 2: // kill -9
			err = l.open()
		case p < 4:
			if err = l.w.Close(); err == nil {
				err = l.open()
			}
		case p < 5:
			if err = l.w.Close(); err == nil {
				err = l.replace()
			}
			if err == nil {
				err = l.open()
			}
		default:
			err = l.act()
		}
	}
	if l.d.off && !isBad(err) {
		return nil
	}
	return err
}

// isBad tells an error that the power does not explain.
func isBad(err error) bool { return !errors.Is(err, errPower) }

// TestManyFaults is that with operations that fail, for a while or once.
func TestManyFaults(t *testing.T) {
	broken, failed := 0, 0
	for seed := *seedFlag; seed < *seedFlag+*seedsFlag; seed++ {
		l := newLife(seed)
		if err := l.open(); err != nil {
			l.fatal(t, seed, err)
		}
		for range 6 {
			l.faulty()
			for range 60 {
				err := l.act()
				switch {
				case err == nil:
					continue
				case l.d.off:
				case errors.Is(err, drivers.ErrUncertain):
					broken++
					// Nothing more may be written, and what is in memory stays as it is.
					if err := l.a.save(l.m).do(l.w); !errors.Is(err, ErrBroken) {
						l.fatal(t, seed, fmt.Errorf("a broken log says %w", err))
					}
				case isFault(err):
					failed++
					continue
				default:
					l.fatal(t, seed, err)
				}
				break
			}
			if err := l.again(); err != nil {
				l.fatal(t, seed, err)
			}
		}
	}
	if broken < int(*seedsFlag/100) || failed < int(*seedsFlag/10) {
		t.Errorf("just %d calls failed, and %d broke the log", failed, broken)
	}
}

func isFault(err error) bool {
	return errors.Is(err, syscall.EIO) || errors.Is(err, syscall.ENOSPC)
}

// faulty makes operations fail from now on.
func (l *life) faulty() {
	r := l.d.r
	rate, long := 1+r.IntN(8), r.IntN(3) == 0
	until, errno := 0, syscall.EIO
	if r.IntN(3) == 0 {
		errno = syscall.ENOSPC
	}
	at := l.d.ops + 20 + r.IntN(300)
	l.d.fail = func(op int, what string) error {
		if op >= at {
			return errPower
		}
		if op < until {
			return errno
		}
		if r.IntN(100) < rate {
			if long {
				until = op + r.IntN(8)
			}
			return errno
		}
		return nil
	}
}

// again opens the log anew: after a loss of power, or kill -9, or in good order, and with faults at first.
func (l *life) again() error {
	if l.d.off || l.d.r.IntN(2) == 0 {
		l.powerLoss()
	} else if l.d.r.IntN(2) == 0 {
		_ = l.w.Close() // what it says is nothing that counts
	}
	if l.d.off {
		l.powerLoss()
	}
	l.faulty()
	for range 3 {
		if l.d.r.IntN(4) == 0 {
			if err := l.replace(); err != nil && !isFault(err) && !errors.Is(err, errPower) {
				return err
			}
		}
		err := l.open()
		if l.d.off {
			if isBad(err) && err != nil {
				return err
			}
			l.powerLoss()
			l.faulty()
		} else if err != nil && !isFault(err) {
			return err
		}
	}
	l.d.fail = nil
	return l.open()
}
