package differ

import (
	"fmt"
	"math/rand/v2"
	"strings"

	"github.com/keelson-io/keelson/test/conformance/script"
)

// Step is one command, or some that have to stay together.
type Step []string

// keys are few, so that requests meet, and awkward: prefixes of each other,
// zero and 0xff bytes at either end.
func keys() []string {
	return []string{
		"a", "a\x00", "a\x00\x00", "a\xff", "aa", "ab", "b", "b/", "b/1", "b/\xff", "c",
		"\x00", "\x00a", "\xff", "\xff\xff",
	}
}

type generator struct {
	*rand.Rand
	keys    []string
	watches int
	grants  int
}

// Generate makes a script of n steps, and last ones that look at everything.
func Generate(seed uint64, n int) []Step {
	g := &generator{Rand: rand.New(rand.NewPCG(seed, 0)), keys: keys()}
	steps := make([]Step, 0, n+6)
	steps = append(steps, Step{"grant 10000 id=1"}, Step{"grant 20000 id=2"},
		Step{"call Auth.RoleAdd name=r"}, Step{"call Auth.UserAdd name=u password=p"})
	for range n {
		steps = append(steps, g.step())
	}
	return append(steps, everyAuth(), finalStep())
}

func finalStep() Step {
	return Step{"events", "progress", "progress s2", "history", "events"}
}

// one returns true once in n times.
func (g *generator) one(n int) bool { return g.IntN(n) == 0 }

func pick[T any](g *generator, of ...T) T { return of[g.IntN(len(of))] }

func (g *generator) step() Step {
	kinds := []struct {
		weight int
		make   func() Step
	}{
		{25, func() Step { return Step{g.put()} }},
		{8, func() Step { return Step{g.del()} }},
		{20, func() Step { return Step{g.rangeCommand()} }},
		{5, func() Step { return Step{g.rangeStream()} }},
		{20, func() Step { return Step{"txn" + g.txn()} }},
		{2, func() Step { return Step{g.compact()} }},
		{5, g.lease},
		{5, func() Step { return Step{g.watch()} }},
		{2, func() Step { return Step{g.watchEnd()} }},
		{4, func() Step { return Step{"events"} }},
		{2, func() Step { return Step{pick(g, "progress", "progress s2", "progress s3")} }},
		{3, func() Step { return Step{"hashkv " + g.revision()} }},
		{10, g.auth},
		{1, func() Step { return Step{g.other()} }},
	}
	total := 0
	for _, k := range kinds {
		total += k.weight
	}
	n := g.IntN(total)
	for _, k := range kinds {
		if n -= k.weight; n < 0 {
			return k.make()
		}
	}
	return nil
}

func (g *generator) key() string {
	if g.one(60) {
		return `""`
	}
	return script.Quote([]byte(pick(g, g.keys...)))
}

// end is a range_end with the blank before it, or nothing for one key.
func (g *generator) end() string {
	switch g.IntN(9) {
	case 0, 1:
		return ""
	case 2, 3, 4:
		return ` "\x00"`
	case 5, 6:
		return pick(g, ` d`, ` "\xff"`, ` "\xff\xff\xff"`, ` "b/\xff\xff"`, ` b0`, ` "\x00\x00"`)
	}
	return " " + script.Quote([]byte(pick(g, g.keys...)))
}

func (g *generator) value() string {
	switch g.IntN(12) {
	case 0:
		return `""`
	case 1:
		return `"\x00\xff\x80"`
	case 2:
		return fmt.Sprintf("x*%d", g.IntN(4000))
	}
	return fmt.Sprintf("v%d", g.IntN(6))
}

// revision is one that a read may ask for.
func (g *generator) revision() string {
	switch g.IntN(12) {
	case 0:
		return fmt.Sprint(g.IntN(6))
	case 1:
		return fmt.Sprintf("@+%d", 1+g.IntN(3))
	case 2:
		return pick(g, "-1", "max", "min", "0")
	case 3, 4:
		return "@"
	}
	return fmt.Sprintf("@-%d", 1+g.IntN(12))
}

// flags returns each of the flags once in n times.
func (g *generator) flags(n int, flags ...string) string {
	var out strings.Builder
	for _, f := range flags {
		if g.one(n) {
			out.WriteString(" " + f)
		}
	}
	return out.String()
}

func (g *generator) leaseID() string {
	return pick(g, "1", "2", "3", "4", "5", "-3", "max", "77", "$g1", "$g2")
}

// ownLease is an id that the client has chosen, or nobody: what is attached to
// one that the server chose would be in HashKV.
func (g *generator) ownLease() string {
	return pick(g, "1", "2", "1", "2", "3", "4", "5", "-3", "max", "77")
}

func (g *generator) put() string {
	line := "put " + g.key()
	switch g.IntN(12) {
	case 0:
		return line + ` "" ignore_value` + g.flags(4, "prev_kv", "ignore_lease", "lease="+g.ownLease())
	case 1:
		return line + " " + g.value() + " ignore_lease" + g.flags(4, "prev_kv", "ignore_value")
	case 2, 3, 4:
		return line + " " + g.value() + " lease=" + g.ownLease() + g.flags(2, "prev_kv") + g.flags(6, "ignore_lease", "ignore_value")
	}
	return line + " " + g.value() + g.flags(2, "prev_kv")
}

func (g *generator) del() string { return "del " + g.key() + g.end() + g.flags(3, "prev_kv") }

func (g *generator) rangeCommand() string { return "range " + g.rangeWords() }

func (g *generator) rangeWords() string {
	line := g.key() + g.end()
	if g.one(4) { // much of the store
		line = pick(g, `"\x00" "\x00"`, `a "\x00"`, `a c`)
	}
	if g.one(3) {
		line += " limit=" + pick(g, "0", "1", "2", "3", "5", "14", "15", "100", "-1", "max", "min")
	}
	if g.one(3) {
		line += " rev=" + g.revision()
	}
	if g.one(4) {
		line += " order=" + pick(g, "none", "ascend", "descend", "ascend", "descend", "3", "-1")
	}
	if g.one(4) {
		line += " target=" + pick(g, "key", "version", "create", "mod", "value", "5", "-7")
	}
	if g.one(5) {
		line += fmt.Sprintf(" %s=%s", pick(g, "min_mod", "max_mod", "min_create", "max_create"), g.revision())
	}
	return line + g.flags(6, "keys_only", "count_only", "serializable")
}

func (g *generator) rangeStream() string {
	if g.one(4) {
		return "rangestream " + g.rangeWords()
	}
	line := "rangestream " + g.key() + g.end()
	if g.one(3) {
		line += " limit=" + pick(g, "0", "1", "3", "9", "10", "11", "12", "-1", "max")
	}
	if g.one(3) {
		line += " rev=" + g.revision()
	}
	return line + g.flags(6, "keys_only", "count_only", "serializable")
}

func (g *generator) compact() string {
	rev := pick(g, "@", "@-1", "@-3", "@-10", "@-20", "@+1", "0", "1", "-1", "max")
	return "compact " + rev + g.flags(2, "physical")
}

func (g *generator) lease() Step {
	switch g.IntN(12) {
	case 0: // short ones end at once, before they could expire
		id := g.leaseID()
		if strings.HasPrefix(id, "$") {
			id = "6"
		}
		return Step{fmt.Sprintf("grant %s id=%s", pick(g, "0", "1", "-1", "min"), id), "revoke " + id}
	case 1, 2, 3, 4:
		ttl := pick(g, "1000", "5000", "20000", "100000", "9000000000", "9000000001", "max")
		return Step{fmt.Sprintf("grant %s id=%s", ttl, pick(g, "1", "2", "3", "4", "5", "-3", "max"))}
	case 5:
		g.grants++
		return Step{fmt.Sprintf("grant %d as=g%d", 3000+g.grants, g.grants)}
	case 6, 7:
		return Step{"revoke " + g.leaseID()}
	case 8:
		return Step{"keepalive " + g.leaseID()}
	case 9:
		return Step{"leases"}
	}
	return Step{"ttl " + g.leaseID() + g.flags(2, "keys")}
}

func (g *generator) other() string {
	return pick(g, "call Maintenance.Status", "call Cluster.MemberList", "call Maintenance.Alarm",
		"call Maintenance.Hash", "call Maintenance.Defragment", "hashkv")
}
