package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// bench is a runner in a bubble, where the time is 2000-01-01T00:00Z and passes when everybody waits.
type bench struct {
	*Runner
	target  *fake
	follows atomic.Bool  // another server leads
	shift   atomic.Int64 // how far the wall clock is off
	asked   atomic.Int64 // snapshots
	stop    func()       // ends Run and waits for it
}

// run starts a runner with a daily schedule, at 02:00.
func run(t *testing.T, target *fake, set func(*Options)) *bench {
	t.Helper()
	b := &bench{target: target}
	o := Options{
		Source: func(context.Context) (*Snapshot, error) {
			n := b.asked.Add(1)
			return snapshotOf(fmt.Sprint("content ", n), n), nil
		},
		Target: target, Schedule: schedule(t, "CRON_TZ=UTC 0 2 * * *"), Cluster: 7, Logger: discard(),
		Leads: func() bool { return !b.follows.Load() },
		Now:   func() time.Time { return time.Now().Add(time.Duration(b.shift.Load())) },
	}
	if set != nil {
		set(&o)
	}
	b.Runner = NewRunner(o)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- b.Run(ctx) }()
	b.stop = func() {
		t.Helper()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	return b
}

// after lets time pass.
func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// times gives when the target's backups were made, as day and time.
func (b *bench) times() (times []string) {
	for _, name := range b.target.has() {
		one, _ := Parse(name)
		times = append(times, one.Time.Format("02 15:04"))
	}
	return times
}

func (b *bench) expect(t *testing.T, want ...string) {
	t.Helper()
	if got := b.times(); !slices.Equal(got, want) {
		t.Errorf("at %s there are backups of %q, want %q", time.Now().UTC().Format("02 15:04:05"), got, want)
	}
}

// TestRunner: an empty target gets a backup at once, and then what the schedule says, and loses what is not to be kept.
func TestRunner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := run(t, &fake{}, func(o *Options) { o.Keep = Keep{Count: 2} })
		synctest.Wait()
		b.expect(t, "01 00:00")
		after(2*time.Hour - time.Second)
		b.expect(t, "01 00:00")
		after(2 * time.Second)
		b.expect(t, "01 00:00", "01 02:00")
		after(24 * time.Hour)
		b.expect(t, "01 02:00", "02 02:00")
		s := b.Stats()
		if s.Successes != 3 || s.Failures != 0 || s.Failed || s.Running || s.Last.Revision != 3 || s.Last.Size != 9 {
			t.Errorf("%+v", s)
		}
		b.stop()
	})
}

// TestMissed: what was due while no server ran is made up for, and nothing else is.
func TestMissed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := run(t, (&fake{}).with(7, "1999-12-31T01:00:00Z").with(8, "1999-12-31T23:00:00Z"), nil)
		synctest.Wait()
		b.expect(t, "31 01:00", "01 00:00", "31 23:00") // those of cluster 8 come last
		b.stop()

		b = run(t, (&fake{}).with(7, "1999-12-31T02:00:01Z"), nil)
		after(2*time.Hour - time.Second)
		b.expect(t, "31 02:00")
		if s := b.Stats(); s.Last.Time.Format("02 15:04") != "31 02:00" || !s.Tried.IsZero() {
			t.Errorf("%+v", s)
		}
		after(2 * time.Second)
		b.expect(t, "31 02:00", "01 02:00")
		b.stop()
	})
}

// TestAnotherHasMadeIt: a server looks before it makes a backup, in case that somebody has.
func TestAnotherHasMadeIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := run(t, (&fake{}).with(7, "1999-12-31T02:00:00Z"), nil)
		after(2*time.Hour - time.Second)
		b.target.mu.Lock()
		b.target.with(7, "2000-01-01T02:00:00Z")
		b.target.mu.Unlock()
		after(time.Hour)
		b.expect(t, "31 02:00", "01 02:00")
		if n := b.asked.Load(); n > 0 {
			t.Errorf("%d snapshots were taken", n)
		}
		b.stop()
	})
}

// TestDoubted: what is not whole, or has more than this store, does not count as its last backup.
func TestDoubted(t *testing.T) {
	for name, c := range map[string]struct {
		set  func(*Options)
		want int64
	}{
		"trusted":          {nil, 0},
		"whole":            {func(o *Options) { o.Vouch = func(io.Reader) error { return nil } }, 0},
		"not whole":        {func(o *Options) { o.Vouch = func(io.Reader) error { return ErrAltered } }, 1},
		"of another store": {func(o *Options) { o.Revision = func() int64 { return 0 } }, 1},
		"of this store":    {func(o *Options) { o.Revision = func() int64 { return 1000 } }, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			b := run(t, (&fake{}).with(7, "1999-12-31T23:00:00Z"), c.set)
			synctest.Wait()
			if n := b.asked.Load(); n != c.want {
				t.Errorf("%s: %d backups were made, want %d", name, n, c.want)
			}
			b.stop()
		})
	}
}

// TestVouchLater: a backup that could not be read is read again, and until then nothing is made or counted.
func TestVouchLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var away atomic.Bool
		away.Store(true)
		b := run(t, (&fake{open: func(context.Context) error {
			if away.Load() {
				return errors.New("away")
			}
			return nil
		}}).with(7, "1999-12-31T23:00:00Z"), func(o *Options) { o.Vouch = func(io.Reader) error { return nil } })
		synctest.Wait()
		if s := b.Stats(); b.asked.Load() != 0 || !s.Last.Time.IsZero() {
			t.Errorf("%d were made, %+v", b.asked.Load(), s)
		}
		away.Store(false)
		after(time.Minute)
		if s := b.Stats(); b.asked.Load() != 0 || s.Last.Time.IsZero() {
			t.Errorf("%d were made, %+v", b.asked.Load(), s)
		}
		b.stop()
	})
}

// TestLead: one of two servers makes it. When the lead changes in the middle the next one does.
func TestLead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		target := (&fake{}).with(7, "1999-12-31T02:00:00Z")
		var fast atomic.Bool
		target.put = func(ctx context.Context) error {
			if !fast.Load() {
				return hangs(ctx)
			}
			return nil
		}
		a, b := run(t, target, nil), run(t, target, nil)
		b.follows.Store(true)
		after(2*time.Hour + time.Second)
		if a.asked.Load() != 1 || b.asked.Load() != 0 {
			t.Errorf("snapshots: %d, %d", a.asked.Load(), b.asked.Load())
		}
		a.follows.Store(true)
		fast.Store(true)
		b.follows.Store(false)
		after(time.Minute)
		a.expect(t, "31 02:00", "01 02:00")
		if a.asked.Load() != 1 || b.asked.Load() != 1 {
			t.Errorf("snapshots: %d, %d", a.asked.Load(), b.asked.Load())
		}
		if s := a.Stats(); s.Failures > 0 || s.Running {
			t.Errorf("to lose the lead is no failure: %+v", s)
		}
		// And back: there is nothing to do.
		a.follows.Store(false)
		b.follows.Store(true)
		after(time.Hour)
		a.expect(t, "31 02:00", "01 02:00")
		a.stop()
		b.stop()
	})
}

// TestLeadLostReadingBack: what was stored when the lead changes is counted by the next one that makes backups, after it has read it, and is not removed by the one before.
func TestLeadLostReadingBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		target := (&fake{}).with(7, "1999-12-31T02:00:00Z")
		var next atomic.Bool
		counted := make(chan struct{})
		target.open = func(ctx context.Context) error {
			if next.Load() {
				return nil
			}
			<-ctx.Done()
			<-counted // it notices late
			return ctx.Err()
		}
		trust := func(o *Options) {
			o.Vouch = func(r io.Reader) error { _, err := io.Copy(io.Discard, r); return err }
		}
		next.Store(true)
		a, b := run(t, target, trust), run(t, target, trust)
		b.follows.Store(true)
		after(time.Hour)
		next.Store(false)
		after(time.Hour + time.Second)
		a.expect(t, "31 02:00", "01 02:00")
		a.follows.Store(true)
		after(10 * time.Second)
		next.Store(true)
		b.follows.Store(false)
		after(time.Minute)
		close(counted)
		after(time.Hour)
		a.expect(t, "31 02:00", "01 02:00")
		if last := b.Stats().Last.Time; a.asked.Load() != 1 || b.asked.Load() != 0 || !last.Equal(at("2000-01-01T02:00:00Z")) {
			t.Errorf("snapshots: %d, %d; the last backup is of %v", a.asked.Load(), b.asked.Load(), last)
		}
		a.stop()
		b.stop()
	})
}

// TestSweptFirst: what a kill has left does not take the room that a backup needs.
func TestSweptFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := t.TempDir()
		left := filepath.Join(path, Backup{Cluster: 7, Time: at("1999-12-31T02:00:00Z"), Revision: 1}.Name()+".1"+part)
		write(t, left)
		b := run(t, &fake{}, func(o *Options) {
			o.Target = DirToBe(path)
			o.Ready = func(context.Context) error {
				if _, err := os.Stat(left); err == nil {
					return ErrNoRoom
				}
				return nil
			}
		})
		after(time.Minute)
		if s := b.Stats(); s.Successes != 1 || s.Failures > 0 {
			t.Errorf("%+v", s)
		}
		b.stop()
	})
}

// TestOthers: backups of other clusters are told of, at the first look and after each backup, and in the metrics, and stay.
func TestOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		target := (&fake{}).with(7, "1999-12-31T23:00:00Z")
		b := run(t, target, func(o *Options) { o.Keep, o.Logger = Keep{Count: 1}, slog.New(slog.NewTextHandler(&log, nil)) })
		told := func(of string) int {
			return strings.Count(log.String(), "of other clusters, which are not removed\" target=fake/ backups="+of)
		}
		after(time.Hour)
		if got := collected(t, b.Runner); told("") != 0 || got["keelson_backup_others"] != 0 {
			t.Errorf("there are none, %v\n%s", got, log.String())
		}
		target.mu.Lock()
		target.with(8, "1999-12-31T02:00:00Z", "1999-12-30T02:00:00Z").with(9, "1999-12-31T02:00:00Z")
		target.mu.Unlock()
		after(2 * time.Hour)
		got := collected(t, b.Runner)
		if told("3 total-bytes=9") != 1 || got["keelson_backup_others"] != 3 || got["keelson_backup_others_size_bytes"] != 9 || len(target.has()) != 4 {
			t.Errorf("%v, %q\n%s", got, target.has(), log.String())
		}
		b.follows.Store(true)
		after(time.Minute)
		if v, ok := collected(t, b.Runner)["keelson_backup_others"]; ok {
			t.Errorf("who does not back up shows %v", v)
		}
		b.follows.Store(false)
		after(time.Minute)
		if told("3 total-bytes=9") != 2 {
			t.Errorf("it was not told when the server looked again\n%s", log.String())
		}
		b.stop()
	})
}

// TestRetry: what fails is tried again after longer and longer pauses, and afresh when the next one is due.
func TestRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tries []time.Duration
		var works atomic.Bool
		start := time.Now()
		fail := func(context.Context) error {
			if works.Load() {
				return nil
			}
			tries = append(tries, time.Since(start).Round(time.Second))
			return errors.New("refused")
		}
		b := run(t, &fake{put: fail}, func(o *Options) { o.Schedule = schedule(t, "@every 1h") })
		after(90 * time.Second)
		want := []time.Duration{0, 5 * time.Second, 15 * time.Second, 35 * time.Second, 75 * time.Second}
		if !slices.Equal(tries, want) {
			t.Errorf("tries at %v, want %v", tries, want)
		}
		if s := b.Stats(); !s.Failed || s.Failures != 5 || s.Successes != 0 || !s.Last.Time.IsZero() {
			t.Errorf("%+v", s)
		}
		works.Store(true)
		after(10 * time.Minute)
		b.expect(t, "01 00:02")
		if s := b.Stats(); s.Failed || s.Successes != 1 {
			t.Errorf("%+v", s)
		}
		b.stop()
	})
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		fail := func(context.Context) error {
			tries++
			return errors.New("no such bucket")
		}
		b := run(t, &fake{list: fail}, func(o *Options) { o.Schedule = schedule(t, "CRON_TZ=UTC * * * * *") })
		after(10 * time.Minute)
		// Four in each minute, after 0, 5, 15 and 35 seconds.
		if tries < 40 || tries > 44 {
			t.Errorf("%d tries", tries)
		}
		if s := b.Stats(); !s.Failed || s.Failures != uint64(tries) {
			t.Errorf("%+v", s)
		}
		b.stop()
	})
}

// TestHanging: a target that hangs is given up. It may not even hear of that; then nothing else is asked of it, and a stop does not wait for it.
func TestHanging(t *testing.T) {
	for name, deaf := range map[string]bool{"hears": false, "deaf": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				free := make(chan struct{})
				var puts atomic.Int64
				f := &fake{put: func(ctx context.Context) error {
					switch n := puts.Add(1); {
					case deaf && n == 1:
						<-free
						return errors.New("too late")
					case n == 1:
						return hangs(ctx)
					}
					return nil
				}}
				b := run(t, f, func(o *Options) { o.Stall = time.Minute })
				after(30 * time.Second)
				if s := b.Stats(); !s.Running || s.Failures > 0 {
					t.Errorf("%+v", s)
				}
				after(time.Minute)
				if s := b.Stats(); deaf && (s.Failures == 0 || puts.Load() != 1) || !deaf && s.Failures != 1 {
					t.Errorf("%+v, %d puts", s, puts.Load())
				}
				if deaf {
					after(time.Hour)
					b.expect(t)
					close(free)
				}
				after(11 * time.Minute)
				if got := b.times(); len(got) != 1 {
					t.Errorf("there are %q", got)
				}
				b.stop()
			})
		})
	}
}

// trickling takes so many bytes of a backup every ten seconds.
type trickling struct {
	*fake
	bytes int64
}

func (s trickling) Put(ctx context.Context, b Backup, r io.Reader) error {
	for {
		n, err := io.CopyN(io.Discard, r, s.bytes)
		if errors.Is(err, io.EOF) {
			return s.fake.Put(ctx, b, zeros(b.Size))
		}
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("after %d bytes more: %w", n, ctx.Err())
		case <-time.After(10 * time.Second):
		}
	}
}

func zeros(n int64) io.Reader { return bytes.NewReader(make([]byte, n)) }

// TestTrickling: a target that goes forward, but would take for ever, is given up; one that is slow is not.
func TestTrickling(t *testing.T) {
	for _, c := range []struct {
		bytes     int64 // in ten seconds
		successes uint64
	}{{100, 0}, {10 * slowest, 1}} {
		synctest.Test(t, func(t *testing.T) {
			const size = 64 << 20
			b := run(t, &fake{}, func(o *Options) {
				o.Target, o.Stall = trickling{&fake{}, c.bytes}, time.Minute
				o.Source = func(context.Context) (*Snapshot, error) {
					return &Snapshot{ReadCloser: io.NopCloser(zeros(size)), Size: size, Revision: 1}, nil
				}
			})
			after(time.Minute + size/slowest*time.Second)
			if s := b.Stats(); !s.Running && c.successes == 0 || s.Failures > 0 || s.Successes != c.successes {
				t.Errorf("%d bytes in ten seconds: %+v", c.bytes, s)
			}
			after(time.Minute + size/slowest*time.Second)
			if s := b.Stats(); s.Successes != c.successes || s.Failures != 1-c.successes || s.Failed != (c.successes == 0) {
				t.Errorf("%d bytes in ten seconds: %+v", c.bytes, s)
			}
			b.stop()
		})
	}
}

// TestMakeWatched: who makes a backup without a runner is not held up either.
func TestMakeWatched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{put: hangs}
		m := &Maker{Target: f, Cluster: 7, Now: time.Now}
		start := time.Now()
		if _, err := m.MakeWatched(t.Context(), snapshotOf("content", 42), 0); !errors.Is(err, ErrStalled) {
			t.Errorf("error %v", err)
		}
		if took := time.Since(start); took < DefaultStall || took > DefaultStall+2*watchEvery {
			t.Errorf("it took %v", took)
		}
		f.put = nil
		if made, err := m.MakeWatched(t.Context(), snapshotOf("content", 42), 0); err != nil || made.Size != 7 {
			t.Errorf("%+v, %v", made, err)
		}
	})
}

// TestStopWhileHanging: a stop waits for a moment, whatever the target does.
func TestStopWhileHanging(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		free := make(chan struct{})
		b := run(t, &fake{list: func(context.Context) error {
			<-free
			return nil
		}}, nil)
		after(time.Second)
		start := time.Now()
		b.stop()
		if took := time.Since(start); took > grace {
			t.Errorf("it took %v", took)
		}
		if s := b.Stats(); s.Failures > 0 {
			t.Errorf("a stop is no failure: %+v", s)
		}
		close(free)
	})
}

// TestSlowSnapshot: to make a snapshot may take as long as it does.
func TestSlowSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := run(t, &fake{}, func(o *Options) {
			source := o.Source
			o.Source = func(ctx context.Context) (*Snapshot, error) {
				time.Sleep(time.Hour)
				return source(ctx)
			}
		})
		after(time.Hour + time.Second)
		b.expect(t, "01 01:00")
		b.stop()
	})
}

// TestClockJumps: forward, what is due is made at once; back, what was made in a wrong future does not keep back what is due.
func TestClockJumps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := run(t, (&fake{}).with(7, "1999-12-31T02:00:00Z"), func(o *Options) { o.Keep = Keep{Count: 3} })
		after(time.Minute)
		const years = 10 * 365 * 24 * time.Hour
		b.shift.Store(int64(years))
		after(time.Minute)
		b.expect(t, "31 02:00", "29 00:01")
		b.shift.Store(0)
		after(time.Minute)
		b.expect(t, "31 02:00", "29 00:01")
		after(2 * time.Hour)
		b.expect(t, "31 02:00", "01 02:00", "29 00:01")
		after(24 * time.Hour)
		b.expect(t, "31 02:00", "01 02:00", "02 02:00", "29 00:01")
		// A little back: what was just made is the last one all the same.
		after(30 * time.Second)
		b.shift.Store(int64(-10 * time.Minute))
		after(time.Hour)
		b.expect(t, "31 02:00", "01 02:00", "02 02:00", "29 00:01")
		b.stop()
	})
}

// TestDirAway: a directory that is not there, or that hangs, ends nothing, is told, and gets a backup when it is back.
func TestDirAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		above := filepath.Join(t.TempDir(), "mounted")
		dir := DirToBe(filepath.Join(above, "backups"))
		b := run(t, &fake{}, func(o *Options) { o.Target = dir })
		after(time.Second)
		if s := b.Stats(); s.Failures != 1 || !s.Failed {
			t.Errorf("%+v", s)
		}
		if got := collected(t, b.Runner); got["keelson_backup_attempts_total failure"] != 1 {
			t.Errorf("%v", got)
		}
		if err := os.Mkdir(above, 0o700); err != nil {
			t.Fatal(err)
		}
		after(time.Hour)
		if all, err := dir.List(t.Context()); err != nil || len(all) != 1 || b.Stats().Successes != 1 {
			t.Errorf("%v, %v, %+v", all, err, b.Stats())
		}
		b.stop()
	})
}

// TestFollowerTells: also a server that is not to make backups tells, once, that it could not, and does not wait for a target that hangs.
func TestFollowerTells(t *testing.T) {
	for name, list := range map[string]func(context.Context) error{
		"fails": func(context.Context) error { return errors.New("nothing is there") }, "hangs": hangs, "is well": nil,
	} {
		synctest.Test(t, func(t *testing.T) {
			var log bytes.Buffer
			target := &fake{list: list}
			b := &bench{target: target}
			b.Runner = NewRunner(Options{Target: target, Leads: func() bool { return false }, Logger: slog.New(slog.NewTextHandler(&log, nil))})
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error)
			go func() { done <- b.Run(ctx) }()
			after(time.Hour)
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
			if n := strings.Count(log.String(), "no backups could be made from here"); n != 1 && list != nil || n != 0 && list == nil {
				t.Errorf("a target that %s was told of %d times", name, n)
			}
			if s := b.Stats(); s != (Stats{}) {
				t.Errorf("%+v", s)
			}
		})
	}
}

// TestNotReady: where a backup cannot be begun no snapshot is made.
func TestNotReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var full atomic.Bool
		full.Store(true)
		b := run(t, &fake{}, func(o *Options) {
			o.Ready = func(context.Context) error {
				if full.Load() {
					return ErrNoRoom
				}
				return nil
			}
		})
		after(time.Minute)
		if n := b.asked.Load(); n > 0 || b.Stats().Failures == 0 {
			t.Errorf("%d snapshots were made, %+v", n, b.Stats())
		}
		full.Store(false)
		after(time.Hour)
		if b.Stats().Successes != 1 {
			t.Errorf("%+v", b.Stats())
		}
		b.stop()
	})
}

// TestMetricsFollow: a server that leads no longer does not go on telling what became of its last attempt.
func TestMetricsFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := run(t, &fake{}, nil)
		after(time.Minute)
		b.follows.Store(true)
		got := collected(t, b.Runner)
		if v, ok := got["keelson_backup_last_result"]; ok {
			t.Errorf("the result is %v", v)
		}
		if v := got["keelson_backup_attempts_total success"]; v != 1 {
			t.Errorf("%v successes", v)
		}
		b.stop()
	})
}

func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		before := collected(t, NewRunner(Options{Target: &fake{}, Logger: discard(), Leads: func() bool { return true }}))
		for _, name := range []string{"keelson_backup_last_success_timestamp_seconds", "keelson_backup_last_result"} {
			if v, ok := before[name]; ok {
				t.Errorf("%s is %v before anything was done", name, v)
			}
		}
		b := run(t, &fake{}, nil)
		after(10 * time.Minute)
		got := collected(t, b.Runner)
		for name, want := range map[string]float64{
			"keelson_backup_last_success_timestamp_seconds": 946684800, "keelson_backup_last_success_age_seconds": 600,
			"keelson_backup_last_success_size_bytes": 9, "keelson_backup_last_success_revision": 1,
			"keelson_backup_last_result": 1, "keelson_backup_in_progress": 0,
			"keelson_backup_attempts_total success": 1, "keelson_backup_attempts_total failure": 0,
		} {
			if v, ok := got[name]; !ok || v != want {
				t.Errorf("%s is %v, %v; want %v", name, v, ok, want)
			}
		}
		b.stop()
	})
}
