package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/keelson-io/keelson/server/history/historypb"
)

// TestLineDiff holds hunks against patch, which must make the one text of the other.
func TestLineDiff(t *testing.T) {
	patch, err := exec.LookPath("patch")
	if err != nil {
		patch = ""
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 60 {
		text := func(lines []string) string { return strings.Join(append(lines, ""), "\n") }
		var a, b []string
		for i := range r.IntN(60) {
			line := fmt.Sprint("line ", i%7)
			if r.IntN(8) > 0 {
				a = append(a, line)
			}
			if r.IntN(8) > 0 {
				b = append(b, line)
			}
		}
		before, after := text(a), text(b)
		difference := lineDiff(before, after)
		if (difference == "") != (before == after) {
			t.Errorf("%q and %q differ by %q", before, after, difference)
		}
		if got := applied(t, before, difference); got != after {
			t.Errorf("%q with\n%s\nis %q, want %q", before, difference, got, after)
		}
		if patch == "" || difference == "" || before == "\n" || after == "\n" {
			continue
		}
		file := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(file, []byte(before), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(patch, "--silent", file)
		cmd.Stdin = strings.NewReader("--- a\n+++ b\n" + difference)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("patch: %v\n%s\n%s", err, out, difference)
		}
		if got, err := os.ReadFile(file); err != nil || string(got) != after {
			t.Errorf("patch makes %q, want %q: %v", got, after, err)
		}
	}
	if got := lineDiff("", "a\n"); got != "@@ -0,0 +1 @@\n+a\n" {
		t.Errorf("%q", got)
	}
}

// applied does what a difference says.
func applied(t *testing.T, before, difference string) string {
	t.Helper()
	var out []string
	rest, at := lines(before), 1
	for _, l := range lines(difference) {
		var from, n int
		if strings.HasPrefix(l, "@@ ") {
			if k, _ := fmt.Sscanf(l, "@@ -%d,%d ", &from, &n); k < 2 {
				n = 1
			}
			if n == 0 {
				from++
			}
			for ; at < from; at++ {
				out, rest = append(out, rest[0]), rest[1:]
			}
			continue
		}
		if l[0] != '+' {
			if len(rest) == 0 || rest[0] != l[1:] {
				t.Errorf("%q is not %q", l, rest)
				return ""
			}
			rest, at = rest[1:], at+1
		}
		if l[0] != '-' {
			out = append(out, l[1:])
		}
	}
	return strings.Join(append(append(out, rest...), ""), "\n")
}

func TestMoment(t *testing.T) {
	now := time.Date(2026, 11, 26, 18, 0, 0, 0, time.UTC)
	for text, want := range map[string]*historypb.Moment{
		"57":                        {At: &historypb.Moment_Revision{Revision: 57}},
		"2h":                        at(now.Add(-2 * time.Hour)),
		"2026-11-26T17:00:00Z":      at(now.Add(-time.Hour)),
		"2026-11-26T17:00:00.5Z":    at(now.Add(-time.Hour + 500*time.Millisecond)),
		"2026-11-26T19:00:00+02:00": at(now.Add(-time.Hour)),
		"2026-11-26 17:00":          at(time.Date(2026, 11, 26, 17, 0, 0, 0, time.Local)),
		"2026-11-26":                at(time.Date(2026, 11, 26, 0, 0, 0, 0, time.Local)),
	} {
		if got, err := parseMoment(text, now); err != nil || got.String() != want.String() {
			t.Errorf("%s: %v, want %v: %v", text, got, want, err)
		}
	}
	for _, text := range []string{"", "0", "-5", "-2h", "yesterday", "2026-13-01"} {
		if got, err := parseMoment(text, now); err == nil {
			t.Errorf("%q is %v", text, got)
		}
	}
}

func TestInNamespace(t *testing.T) {
	for key, want := range map[string]bool{
		"/registry/namespaces/shop":                                     true,
		"/registry/namespaces/shop2":                                    false,
		"/registry/configmaps/shop/a":                                   true,
		"/registry/configmaps/shop2/a":                                  false,
		"/registry/configmaps/a/shop":                                   false,
		"/registry/services/specs/shop/a":                               true,
		"/registry/services/specs/a/shop":                               false,
		"/registry/example.com/widgets/shop/a":                          true,
		"/registry/example.com/shop/a":                                  false,
		"/registry/apiregistration.k8s.io/apiservices/shop":             false,
		"/registry/nodes/shop":                                          false,
		"/other/configmaps/shop/a":                                      false,
		"/registry/clusterroles/system:controller:namespace-controller": false,
	} {
		if got := inNamespace("/registry/", key, "shop"); got != want {
			t.Errorf("%s: %v", key, got)
		}
	}
}

// TestShow: values that are no objects do a terminal no harm, and objects in protobuf are named without their types being known.
func TestShow(t *testing.T) {
	bytes := func(number protowire.Number, value []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), value)
	}
	meta := append(bytes(1, []byte("v1")), bytes(2, []byte("Secret"))...)
	names := append(bytes(1, []byte("n")), bytes(3, []byte("ns"))...)
	object := append([]byte(kubeMagic), bytes(1, meta)...)
	object = append(object, bytes(2, bytes(1, names))...)
	for value, want := range map[string]string{
		"":                                    "",
		"text":                                "text\n",
		"a\nb\n":                              "a\nb\n",
		"\x1b[2J":                             "# 4 bytes: 1b5b324a\n",
		"\x00":                                "# 1 bytes: 00\n",
		strings.Repeat("\xff", 65):            "# 65 bytes: " + strings.Repeat("ff", 64) + "…\n",
		"k8s:enc:aescbc:v1:key1:\x00\x01\x02": "# 26 bytes, encrypted by kube-apiserver (aescbc:v1:key1)\n",
		"k8s:enc:kms:v2:name:\x00":            "# 21 bytes, encrypted by kube-apiserver (kms:v2:name)\n",
		`{"b":1,"a":{"c":[1,2]}}`:             "a:\n  c:\n  - 1\n  - 2\nb: 1\n",
		"{no json":                            "{no json\n",
		"k8s\x00\xff\xff":                     "# 6 bytes: 6b387300ffff\n",
		string(object):                        "apiVersion: v1\nkind: Secret\nmetadata:\n  name: \"n\"\n  namespace: ns\n# The rest is not shown: 9 bytes of protobuf, which keelson-kube decodes if it is beside keelson or in PATH.\n",
	} {
		d := new(decoder) // without a program
		if got := d.show(t.Context(), []byte(value)); got != want {
			t.Errorf("%q is shown as %q, want %q", value, got, want)
		}
	}
}

// TestDecoderFails: a program that is none of ours is not asked again, and its values are shown without it.
func TestDecoderFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), decoderName)
	if err := os.WriteFile(path, []byte("#!/bin/sh\nexit 3\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	d := &decoder{path: path, patience: time.Minute}
	defer d.close()
	for range mostDeaths {
		if got := d.show(t.Context(), []byte("k8s\x00\x00")); got != "# 5 bytes: 6b38730000\n" {
			t.Errorf("%q", got)
		}
	}
	if d.path != "" {
		t.Error("it would be asked again")
	}
}

// TestDecoderDies: a program that ends with one value is started again for the next.
func TestDecoderDies(t *testing.T) {
	path := filepath.Join(t.TempDir(), decoderName)
	// Of each value of 5 bytes it says "a", but it does not get over an x.
	script := "#!/bin/sh\nwhile read=$(head -c 9 | tail -c 1) && [ \"$read\" = . ]; do printf '\\0\\0\\0\\0\\2a\\n'; done\nexit 3\n"
	if err := os.WriteFile(path, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	d := &decoder{path: path, patience: time.Minute}
	defer d.close()
	for range 2 * mostDeaths {
		if got := d.show(t.Context(), []byte("k8s\x00.")); got != "a\n" {
			t.Fatalf("it says %q", got)
		}
		for range mostDeaths - 1 {
			if got := d.show(t.Context(), []byte("k8s\x00x")); got != "# 5 bytes: 6b38730078\n" {
				t.Fatalf("of the one it says %q", got)
			}
		}
	}
}

// TestDecoderHangs: nobody waits for ever for a program that neither answers nor ends.
func TestDecoderHangs(t *testing.T) {
	path := filepath.Join(t.TempDir(), decoderName)
	if err := os.WriteFile(path, []byte("#!/bin/sh\nexec sleep 100000\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	d := &decoder{path: path, patience: 20 * time.Millisecond}
	if got := d.show(t.Context(), []byte("k8s\x00\x00")); got != "# 5 bytes: 6b38730000\n" || d.cmd != nil {
		t.Errorf("%q", got)
	}
	if err := d.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.close()
	if d.cmd != nil {
		t.Error("it is there still")
	}
}

// TestHarmless: nothing that is printed turns the direction of what stands after it, nor does anything else to a terminal; and JSON stays the same.
func TestHarmless(t *testing.T) {
	bad := "a\u202eb\u007f\u009b\u2066\u200f\u2028c"
	if printableText(bad) || strings.ContainsFunc(printable(bad), harms) {
		t.Errorf("%q is printed as it is", bad)
	}
	d := new(decoder)
	object := `{"s":"` + bad + `"}`
	for _, value := range []string{object, bad, "{\"s\":\"a\u202eb\"}"} { // YAML has no DEL, so the first is shown by its bytes
		if got := d.show(t.Context(), []byte(value)); got == "" || strings.ContainsFunc(got, harms) {
			t.Errorf("%q is shown as %q", value, got)
		}
	}
	c := &historyCommand{values: d}
	var out bytes.Buffer
	if err := writeJSON(&out, c.asJSON(t.Context(), &historypb.Change{Key: []byte(bad), Value: []byte(object)})); err != nil {
		t.Fatal(err)
	}
	var back struct {
		Key    string
		Bytes  []byte `json:"key_base64"`
		Object struct{ S string }
	}
	if err := json.Unmarshal(out.Bytes(), &back); err != nil || strings.ContainsFunc(out.String(), harms) || back.Key != bad || string(back.Bytes) != bad || back.Object.S != bad {
		t.Errorf("%q is %+v: %v", out.String(), back, err)
	}
}

// TestJSONObject: an object is given as it is, with numbers of any size and every field; and a value that is gone is not one that was empty.
func TestJSONObject(t *testing.T) {
	c := &historyCommand{values: new(decoder)}
	for value, want := range map[string]string{
		`{"n": 12345678901234567890123, "f": 1.0, "a": 1, "a": 2}`: `"object":{"n":12345678901234567890123,"f":1.0,"a":1,"a":2}`,
		"{\"s\":\"\xff\"}": `"value_base64":"eyJzIjoi/yJ9"`,
		"text":             `"value_base64":"dGV4dA=="`,
	} {
		var out bytes.Buffer
		if err := writeJSON(&out, c.asJSON(t.Context(), &historypb.Change{Key: []byte("k"), Value: []byte(value), Version: 1})); err != nil || !strings.Contains(out.String(), want) {
			t.Errorf("%q is %s, want %s: %v", value, out.String(), want, err)
		}
	}
	for _, gone := range []bool{false, true} {
		var out bytes.Buffer
		if err := writeJSON(&out, c.asJSON(t.Context(), &historypb.Change{Key: []byte("k"), Version: 1, ValueGone: gone})); err != nil || strings.Contains(out.String(), `"value_gone":true`) != gone {
			t.Errorf("gone %v: %s, %v", gone, out.String(), err)
		}
	}
}

func TestUndoUsage(t *testing.T) {
	for _, args := range []string{
		"history", "history a b", "history a -w xml", "history a --limit=-1", "history a --diff -w json", "history a --since never", "history a --exclude=",
		"rewind", "rewind --prefix a", "rewind --to 5", "rewind --prefix a --to 5 b", "rewind --prefix= --to 5 --exact", "rewind --prefix a --to 5 --force",
		"rewind --prefix a --to 5m --apply", "rewind --apply --prefix a --to 2h", "rewind --prefix a --to 5 --max-txn-ops 0", "rewind --namespace a --prefix b --exact --to 5",
	} {
		if got := run(t, nil, strings.Fields(args)...); got.code != 2 || !strings.Contains(got.stderr, "--help") {
			t.Errorf("%s: %+v", args, got)
		}
	}
	for _, args := range []string{"history --help", "rewind -h"} {
		if got := run(t, nil, strings.Fields(args)...); got.code != 0 || !strings.Contains(got.stdout, "--exclude") {
			t.Errorf("%s: %+v", args, got)
		}
	}
	if got := run(t, []string{"ETCDCTL_ENDPOINTS=unix:" + filepath.Join(t.TempDir(), "nobody")}, "history", "a"); got.code != 1 {
		t.Errorf("%+v", got)
	}
}
