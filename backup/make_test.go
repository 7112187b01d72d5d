package backup

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"testing"
	"time"
)

func TestMake(t *testing.T) {
	f := &fake{}
	steps := 0
	m := &Maker{Target: f, Cluster: 7, Now: fixed("2026-11-26T02:00:00.0005Z"), Progress: func() { steps++ }}
	made, err := m.Make(t.Context(), snapshotOf("content", 42))
	if err != nil {
		t.Fatal(err)
	}
	want := Backup{Cluster: 7, Time: at("2026-11-26T02:00:00Z"), Revision: 42, Size: 7}
	if made.Backup != want || made.Left != nil || steps < 2 {
		t.Errorf("%+v after %d steps", made, steps)
	}
	if got := f.has(); !slices.Equal(got, []string{want.Name()}) || string(f.files[want.Name()]) != "content" {
		t.Errorf("stored: %q", got)
	}
}

// TestMakeFails: whatever goes wrong, no bad backup stays, and no old one goes.
func TestMakeFails(t *testing.T) {
	refused := errors.New("refused")
	refuse := func(context.Context) error { return refused }
	old := []string{"2026-11-24T02:00:00Z", "2026-11-25T02:00:00Z"}
	short := snapshotOf("cont", 42)
	short.Size = 7
	for name, c := range map[string]struct {
		target   *fake
		snapshot *Snapshot
		err      error
	}{
		"put":     {&fake{put: refuse}, snapshotOf("content", 42), refused},
		"open":    {&fake{open: refuse}, snapshotOf("content", 42), refused},
		"altered": {&fake{flip: true}, snapshotOf("content", 42), ErrAltered},
		"short":   {&fake{}, short, ErrShort},
	} {
		want := c.target.with(7, old...).has()
		m := &Maker{Target: c.target, Cluster: 7, Keep: Keep{Count: 1}, Now: fixed("2026-11-26T02:00:00Z")}
		if made, err := m.Make(t.Context(), c.snapshot); !errors.Is(err, c.err) || made != nil {
			t.Errorf("%s: %+v, %v", name, made, err)
		}
		if got := c.target.has(); !slices.Equal(got, want) {
			t.Errorf("%s: there are %q, and were %q", name, got, want)
		}
	}
}

// TestMakeCancelled: a backup that is stored and cannot be verified any more since there is no time stays: another server may have read it by now, and count on it. One that was found altered goes all the same.
func TestMakeCancelled(t *testing.T) {
	why := errors.New("why")
	for name, c := range map[string]struct {
		flip, readable bool
		want           error
		stay           int
	}{
		"not read":        {false, false, why, 1},
		"read, and whole": {false, true, nil, 1},
		"altered":         {true, true, ErrAltered, 0},
	} {
		ctx, cancel := context.WithCancelCause(t.Context())
		f := &fake{flip: c.flip, open: func(ctx context.Context) error {
			cancel(why)
			if c.readable {
				return nil
			}
			return ctx.Err()
		}}
		m := &Maker{Target: f, Cluster: 7, Now: fixed("2026-11-26T02:00:00Z")}
		if _, err := m.Make(ctx, snapshotOf("content", 42)); !errors.Is(err, c.want) {
			t.Errorf("%s: error %v", name, err)
		}
		if got := f.has(); len(got) != c.stay {
			t.Errorf("%s: there are %q", name, got)
		}
	}
}

// TestKeep: the time of the new backup is 2026-11-26T02:00Z.
func TestKeep(t *testing.T) {
	const day = 24 * time.Hour
	olds := []string{"2026-11-22T02:00:00Z", "2026-11-23T02:00:00Z", "2026-11-24T02:00:00Z", "2026-11-25T02:00:00Z"}
	for _, c := range []struct {
		keep    Keep
		olds    []string
		removed []string
	}{
		{Keep{}, olds, nil},
		{Keep{Count: 1}, olds, []string{olds[3], olds[2], olds[1], olds[0]}},
		{Keep{Count: 3}, olds, []string{olds[1], olds[0]}},
		{Keep{Count: 5}, olds, nil},
		{Keep{For: 2 * day}, olds, []string{olds[1], olds[0]}},
		{Keep{For: time.Minute}, olds, []string{olds[3], olds[2], olds[1], olds[0]}},
		// What one of the two is for stays.
		{Keep{Count: 4, For: day}, olds, []string{olds[0]}},
		{Keep{Count: 2, For: 3 * day}, olds, []string{olds[0]}},
		// A clock that was wrong has made some of these. They stay, and do not count.
		{Keep{Count: 2}, []string{"2036-01-01T00:00:00Z", "2037-01-01T00:00:00Z"}, nil},
		{Keep{Count: 3}, append([]string{"2036-01-01T00:00:00Z", "2037-01-01T00:00:00Z"}, olds...), []string{olds[1], olds[0]}},
		{Keep{For: day}, []string{"1970-01-01T00:00:00Z", "2037-01-01T00:00:00Z"}, []string{"1970-01-01T00:00:00Z"}},
	} {
		f := (&fake{}).with(7, c.olds...).with(8, olds...)
		f.files["keelson-notes.txt"], f.files["etcd.db"] = nil, nil
		before := f.has()
		m := &Maker{Target: f, Cluster: 7, Keep: c.keep, Now: fixed("2026-11-26T02:00:00Z")}
		made, err := m.Make(t.Context(), snapshotOf("content", 42))
		strange := slices.ContainsFunc(c.olds, func(at string) bool { return at > "2026-11-26T02:00:00Z" })
		if err != nil || errors.Is(made.Left, ErrStrange) != strange || made.Left != nil && !strange {
			t.Fatal(err, made.Left)
		}
		var removed []string
		for _, b := range made.Removed {
			removed = append(removed, b.Time.Format(time.RFC3339))
			before = slices.DeleteFunc(before, func(name string) bool { return name == b.Name() })
		}
		if !reflect.DeepEqual(removed, c.removed) {
			t.Errorf("%+v of %q: removed %q, want %q", c.keep, c.olds, removed, c.removed)
		}
		want := append(before, made.Name())
		slices.Sort(want)
		if got := f.has(); !slices.Equal(got, want) {
			t.Errorf("%+v: there are %q, want %q", c.keep, got, want)
		}
	}
}

// TestKeepNotAltered: what is not whole takes the place of no good one, and goes where others go.
func TestKeepNotAltered(t *testing.T) {
	olds := []string{"2026-11-23T02:00:00Z", "2026-11-24T02:00:00Z", "2026-11-25T02:00:00Z"}
	for _, c := range []struct {
		keep    Keep
		removed []string
	}{{Keep{}, nil}, {Keep{Count: 2}, []string{olds[2], olds[0]}}, {Keep{For: 36 * time.Hour}, []string{olds[2], olds[1], olds[0]}}} {
		f := (&fake{}).with(7, olds...)
		all, err := f.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		m := &Maker{Target: f, Cluster: 7, Keep: c.keep, Now: fixed("2026-11-26T02:00:00Z")}
		for _, b := range all {
			if b.Time.Equal(at(olds[2])) {
				m.Altered = []string{b.Name()}
			}
		}
		made, err := m.Make(t.Context(), snapshotOf("content", 42))
		if err != nil || made.Left != nil {
			t.Fatal(err, made)
		}
		var removed []string
		for _, b := range made.Removed {
			removed = append(removed, b.Time.Format(time.RFC3339))
		}
		if !slices.Equal(removed, c.removed) {
			t.Errorf("%+v: removed %q, want %q", c.keep, removed, c.removed)
		}
	}
}

// TestOfAnotherStore: what has a higher revision is not removed for what has less: it may be of another store, or this one may have lost its data.
func TestOfAnotherStore(t *testing.T) {
	f := (&fake{}).with(7, "2026-11-24T02:00:00Z", "2026-11-25T02:00:00Z")
	before := f.has()
	m := &Maker{Target: f, Cluster: 7, Keep: Keep{Count: 1, For: time.Hour}, Now: fixed("2026-11-26T02:00:00Z")}
	made, err := m.Make(t.Context(), snapshotOf("nothing", 0))
	if err != nil || !errors.Is(made.Left, ErrStrange) || len(f.has()) != len(before)+1 {
		t.Errorf("%+v, %v: %q", made, err, f.has())
	}
}

// TestRemovingRefused: a backup is good though others cannot be removed.
func TestRemovingRefused(t *testing.T) {
	refused := errors.New("refused")
	refuse := func(context.Context) error { return refused }
	for _, f := range []*fake{{remove: refuse}, {list: refuse}} {
		f.with(7, "2026-11-25T02:00:00Z")
		m := &Maker{Target: f, Cluster: 7, Keep: Keep{Count: 1}, Now: fixed("2026-11-26T02:00:00Z")}
		made, err := m.Make(t.Context(), snapshotOf("content", 42))
		if err != nil || !errors.Is(made.Left, refused) || len(f.has()) != 2 {
			t.Errorf("%+v, %v: %q", made, err, f.has())
		}
	}
}
