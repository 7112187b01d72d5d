package main

import (
	"errors"
	"flag"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestFlags: what a line defines, what comes first of the arguments and the environment, and what is left of the arguments.
func TestFlags(t *testing.T) {
	for _, c := range []struct {
		environ, args, rest    string
		format, cert, key, err string
		wait                   time.Duration
	}{
		{format: "simple", wait: time.Second},
		{args: "-w json a --key k --cert c b", rest: "a b", format: "json", cert: "c", key: "k", wait: time.Second},
		{args: "--write-out json -w=yaml --plain=false", format: "yaml", wait: time.Second},
		{args: "a -- -w json", rest: "a -w json", format: "simple", wait: time.Second},
		{environ: "ETCDCTL_KEY=k ETCDCTL_CERT=c ETCDCTL_WRITE_OUT=json ETCD_WAIT=2s", args: "--key other", format: "simple", cert: "c", key: "other", wait: 2 * time.Second},
		{environ: "ETCD_WAIT=long", format: "simple", err: "ETCD_WAIT is not what --wait takes: parse error"},
		{args: "a --wait", format: "simple", wait: time.Second, err: "flag needs an argument: -wait"},
	} {
		format, cert, key, plain, wait := "simple", "", "", true, time.Second
		f := (&program{environ: strings.Fields(c.environ)}).flags("")
		f.own("-w, --write-out FORMAT", "how", &format)
		f.client("--cert FILE, --key FILE", "what", &cert, &key)
		f.client("--plain=false", "not", &plain)
		f.server("--wait DURATION", "", &wait)
		rest, err := f.parse(strings.Fields(c.args))
		if !slices.Equal(rest, strings.Fields(c.rest)) || format != c.format || cert != c.cert || key != c.key || wait != c.wait || plain == strings.Contains(c.args, "--plain=false") {
			t.Errorf("%+v: %q, %s, %s, %s, %v, %v", c, rest, format, cert, key, plain, wait)
		}
		if (err != nil) != (c.err != "") || err != nil && (err.Error() != c.err || !errors.As(err, new(errUsage))) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// TestFlagsHelp: the lines are in the order in which they were defined, also if something else is wrong.
func TestFlagsHelp(t *testing.T) {
	var out strings.Builder
	f := (&program{stdout: &out, environ: []string{"ETCD_N=x"}}).flags("Usage\n\n")
	n := 0
	f.server("--n N", "one", &n)
	f.own("", "and more of it")
	f.own("--hidden", "", new(bool))
	f.own("--a", "two", new(string))
	want := "Usage\n\n  --n N                           one\n                                  and more of it\n  --a                             two\n"
	if _, err := f.parse([]string{"x", "--help"}); !errors.Is(err, flag.ErrHelp) || out.String() != want {
		t.Errorf("%v\n%s", err, out.String())
	}
}
