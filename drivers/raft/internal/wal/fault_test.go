package wal

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/keelson-io/keelson/drivers"
)

// script is a sequence of everything that can be done, with several segments.
func script(l *life, r *rand.Rand) []func() error {
	// The same actions each time: they come from a generator of their own.
	l.a.r = r
	var steps []func() error
	add := func(kind func(m model) action) {
		steps = append(steps, func() error { return l.actOn(kind(l.m)) })
	}
	for range 4 {
		for range 5 {
			add(l.a.save)
		}
		add(l.a.ready(l.a.snapshot))
		add(l.a.save)
		add(l.a.ready(l.a.compact))
	}
	add(l.a.install)
	for range 3 {
		add(l.a.save)
	}
	steps = append(steps, func() error {
		if err := l.w.Close(); err != nil {
			return err
		}
		return errors.Join(l.replace(), l.open())
	})
	for range 6 {
		add(l.a.save)
	}
	return steps
}

// ready is an action, or a Save where it cannot be done.
func (a *actor) ready(do func(m model) action) func(m model) action {
	return func(m model) action {
		if m.snap >= m.last() || m.compacted >= m.snap {
			if m.snap < m.last() {
				return a.snapshot(m)
			}
			return a.save(m)
		}
		return do(m)
	}
}

// TestOneFault lets each single operation of a script fail once, in each way, and looks after each step and after a loss of power at the end.
func TestOneFault(t *testing.T) {
	reached := map[string]int{}
	for _, errno := range []error{syscall.EIO, syscall.ENOSPC} {
		for at := 1; ; at++ {
			hit := false
			for variant := range uint64(3) {
				l := newLife(variant)
				l.o.SegmentBytes = 700
				l.d.fail = func(op int, what string) error {
					if op == at+100 {
						hit = true
						reached[what]++
						return errno
					}
					return nil
				}
				l.d.ops = 100
				if err := l.runOneFault(rand.New(rand.NewPCG(variant, 3)), errno); err != nil {
					l.fatal(t, uint64(at), err)
				}
			}
			if !hit {
				break
			}
		}
	}
	for _, what := range []string{"create", "mkdir", "rename", "remove", "syncdir", "write", "truncate", "allocate", "sync", "datasync"} {
		if reached[what] < 3 {
			t.Errorf("%s failed %d times", what, reached[what])
		}
	}
}

func (l *life) runOneFault(r *rand.Rand, errno error) error {
	again := func() error {
		err := l.open()
		if errors.Is(err, errno) {
			err = l.open()
		}
		return err
	}
	if err := again(); err != nil {
		return err
	}
	for _, step := range script(l, r) {
		err := step()
		switch {
		case err == nil:
		case errors.Is(err, drivers.ErrCorrupt) || !errors.Is(err, errno):
			return err
		case errors.Is(err, drivers.ErrUncertain):
			// Just one operation fails, so undoing succeeds.
			return fmt.Errorf("the log is broken by one fault: %w", err)
		case errno == syscall.ENOSPC && !errors.Is(err, drivers.ErrNoSpace):
			return fmt.Errorf("not told as ErrNoSpace: %w", err)
		case l.w.closed:
			if err := again(); err != nil {
				return err
			}
		}
	}
	l.powerLoss()
	return l.open()
}

// TestCrashAtEachStep loses the power at each operation of the script, with several outcomes of each.
func TestCrashAtEachStep(t *testing.T) {
	for at := 1; ; at++ {
		hit := false
		for variant := range uint64(8) {
			l := newLife(variant)
			l.o.SegmentBytes = 700
			l.d.ops = 0
			l.d.fail = func(op int, what string) error {
				hit = hit || op == at
				if op >= at {
					return errPower
				}
				return nil
			}
			err := l.open()
			for _, step := range script(l, rand.New(rand.NewPCG(variant%2, 3))) {
				if err != nil {
					break
				}
				err = step()
			}
			if err != nil && !errors.Is(err, errPower) {
				l.fatal(t, uint64(at), err)
			}
			for range 3 { // also while it recovers
				l.powerLoss()
				if l.d.r.IntN(2) == 0 {
					end := 1 + l.d.r.IntN(6)
					l.d.fail = func(op int, what string) error {
						if op >= end {
							return errPower
						}
						return nil
					}
				}
				if err := l.open(); err != nil && !l.d.off {
					l.fatal(t, uint64(at), err)
				}
			}
			l.powerLoss()
			if err := l.open(); err != nil {
				l.fatal(t, uint64(at), err)
			}
		}
		if !hit {
			return
		}
	}
}

// TestCreate fails, or loses the power, at each operation of Create: there is a whole log afterwards, or none.
func TestCreate(t *testing.T) {
	for _, cause := range []error{syscall.EIO, syscall.ENOSPC, errPower} {
		for at, hit := 1, true; hit; at++ {
			hit = false
			for variant := range uint64(10) {
				d := newDisk(variant)
				d.ops = 0
				d.fail = func(op int, what string) error {
					if op == at {
						hit = true
						return cause
					}
					return nil
				}
				o := Options{Dir: "d/log", SegmentBytes: 4096, fs: d}
				err := Create(o, Identity{1, 2, 3}, snapshotOf(5, 2, "x"))
				d.fail = nil
				if err != nil && cause != errPower {
					if there, err := exists(d, o.Dir); err != nil || there {
						t.Fatalf("op %d: there after an error, %v", at, err)
					}
				}
				d = d.afterPowerLoss()
				o.fs = d
				there, eerr := exists(d, o.Dir)
				if eerr != nil || err == nil && !there {
					t.Fatalf("op %d: %v, then there is %v, %v", at, err, there, eerr)
				}
				if there {
					w, err := Open(o)
					if err != nil {
						t.Fatalf("op %d: %v", at, err)
					}
					if m, err := observe(w); err != nil || m.snap != 5 || m.last() != 5 || m.commit != 5 {
						t.Fatalf("op %d: %v %v", at, m, err)
					}
				} else if err := Create(o, Identity{1, 2, 3}, nil); err != nil {
					t.Fatalf("op %d: again: %v", at, err)
				}
			}
		}
	}
}

// TestFullDisk fills the disk: what fits not fails, nothing breaks, compaction goes on, and so does saving when there is room.
func TestFullDisk(t *testing.T) {
	l := newLife(1)
	l.o.SegmentBytes = 1 << 12
	if err := l.open(); err != nil {
		t.Fatal(err)
	}
	entry := func() *raftpb.Entry {
		last, _ := l.w.LastIndex()
		return &raftpb.Entry{Term: new(uint64(1)), Index: new(last + 1), Data: make([]byte, 700)}
	}
	for range 20 {
		must(l.w.Save(nil, []*raftpb.Entry{entry()}, true))
	}
	l.d.fail = func(_ int, what string) error { // what is preallocated can be written
		if what == "create" || what == "allocate" {
			return syscall.ENOSPC
		}
		return nil
	}
	full := 0
	for range 30 {
		if err := l.w.Save(nil, []*raftpb.Entry{entry()}, true); errors.Is(err, drivers.ErrNoSpace) {
			full++
		} else if err != nil {
			t.Fatal(err)
		}
	}
	before, _ := l.d.list(l.o.Dir)
	must(l.w.SetSnapshot(snapshotOf(18, 1, "s")))
	must(l.w.Compact(18))
	after, _ := l.d.list(l.o.Dir)
	l.d.fail = nil
	must(l.w.Save(nil, []*raftpb.Entry{entry()}, true))
	if full < 20 || len(after) >= len(before) {
		t.Fatalf("%d saves failed; %d files, %d after compaction", full, len(before), len(after))
	}
	for _, name := range after {
		if strings.HasSuffix(name, tempSuffix) {
			t.Errorf("%s was left", name)
		}
	}
}

// TestSegmentInDoubt breaks a log while it makes a segment: what Open then shows is there after a loss of power too.
func TestSegmentInDoubt(t *testing.T) {
	for seed := range uint64(30) {
		l := newLife(seed)
		if err := l.open(); err != nil {
			t.Fatal(err)
		}
		l.d.fail = func(_ int, what string) error {
			if what == "syncdir" || what == "remove" && seed%2 == 0 {
				return syscall.EIO
			}
			return nil
		}
		err := l.act()
		for err == nil { // nothing was to be written
			err = l.act()
		}
		if !errors.Is(err, drivers.ErrUncertain) {
			t.Fatal(err)
		}
		l.d.fail = nil
		for range 2 {
			if err := l.open(); err != nil {
				l.fatal(t, seed, err)
			}
			l.powerLoss()
		}
	}
}
