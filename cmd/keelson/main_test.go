package main

import (
	"strings"
	"testing"
)

// TestEnd: how commands end, whichever they are.
func TestEnd(t *testing.T) {
	for _, name := range []string{"check", "snapshot save", "snapshot status", "snapshot restore", "history", "rewind", "migrate", "backup"} {
		words := strings.Fields(name)
		if o := run(t, nil, append(words, "--help")...); o.code != 0 || !strings.HasPrefix(o.stdout, "Usage:\n\n  keelson "+name) || o.stderr != "" {
			t.Errorf("%s: %+v", name, o)
		} else if other := run(t, nil, append([]string{"help"}, words...)...); other != o {
			t.Errorf("help %s: %+v", name, other)
		}
		want := output{2, "", "keelson: " + name + ": flag provided but not defined: -nonsense\n'keelson " + name + " --help' says how it is used.\n"}
		if o := run(t, nil, append(words, "--nonsense")...); o != want {
			t.Errorf("%s: %+v", name, o)
		}
	}
	for _, args := range []string{"history a", "rewind --prefix=a --to=5", "snapshot save f", "backup --backup-dir=d"} {
		if o := run(t, nil, append(strings.Fields(args), "--cert=c")...); o.code != 2 || !strings.Contains(o.stderr, "--cert and --key go together\n'keelson ") {
			t.Errorf("%s: %+v", args, o)
		}
	}
}
