package ctl

import (
	"fmt"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// names are one server's own values and what stands for them in masked output.
type names struct {
	values map[string]string // name by value
	vars   map[string]string // value by name, for what steps may say
	leases int
}

func newNames(t Target) *names {
	n := &names{values: map[string]string{}, vars: map[string]string{}}
	n.add("endpoint", t.Endpoint)
	n.add("peer", t.Peer)
	n.add("dir", t.Dir)
	return n
}

func (n *names) add(name, value string) {
	n.values[value] = "<" + name + ">"
	n.vars[name] = value
}

// id names an id, in both its spellings.
func (n *names) id(name string, id uint64) {
	n.add(name+".decimal", strconv.FormatUint(id, 10))
	n.add(name, strconv.FormatUint(id, 16))
	n.values[fmt.Sprintf("%016x", id)] = "<" + name + ">"
}

// lease names a lease that was not seen before. Small ids are the sequence's own choice.
func (n *names) lease(id uint64) {
	if _, known := n.values[strconv.FormatUint(id, 16)]; known || id < 1<<32 {
		return
	}
	n.leases++
	n.id(fmt.Sprintf("lease%d", n.leases), id)
}

var variable = regexp.MustCompile(`\$[a-z]+[0-9]*`)

// expand puts values for the variables of a step. An unknown one stays as it is.
func (n *names) expand(s string) string {
	return variable.ReplaceAllStringFunc(s, func(v string) string {
		if value, ok := n.vars[v[1:]]; ok {
			return value
		}
		return v
	})
}

// rule masks what stands in one place of the output of some commands.
type rule struct {
	commands []string // their first words, joined; nil means all
	what     *regexp.Regexp
	with     string
}

// masks are the rules. What a rule leaves must be equal.
func masks() []rule {
	status := []string{"endpoint status"}
	return []rule{
		// etcdctl's own log on standard error.
		{what: regexp.MustCompile(`"ts":"[^"]*"`), with: `"ts":"<time>"`},
		{what: regexp.MustCompile(`etcd-endpoints://0x[0-9a-f]+/`), with: `etcd-endpoints://<pointer>/`},
		{what: regexp.MustCompile(`LocalAddr: '127\.0\.0\.1:\d+'`), with: `LocalAddr: '<local>'`},
		{what: regexp.MustCompile(`\(&\{\{\{\} \[\] \[\] 0x[0-9a-f]+\}`), with: `(&{{{} [] [] <pointer>}`},
		// Messages as text have one blank or two, which is random by design for each binary.
		{what: regexp.MustCompile(`(memberID:[0-9]+) +alarm:`), with: `$1 alarm:`},
		// Ids are filled up with blanks.
		{[]string{"member"}, regexp.MustCompile(` +`), ` `},
		// How long something took.
		// The id is made of the time, and the members come by id.
		{[]string{"member add"}, regexp.MustCompile(`Member [0-9a-f]+ added`), `Member <member> added`},
		{[]string{"member add"}, regexp.MustCompile(`ETCD_INITIAL_CLUSTER="[^"]*"`), `ETCD_INITIAL_CLUSTER="<members>"`},
		{[]string{"endpoint health"}, regexp.MustCompile(`took = [0-9.]+(µs|ms|s)`), `took = <duration>`},
		{[]string{"endpoint health"}, regexp.MustCompile(`"took":"[0-9.]+(µs|ms|s)"`), `"took":"<duration>"`},
		{[]string{"endpoint health"}, regexp.MustCompile(`"Took" : [0-9.]+(µs|ms|s)`), `"Took" : <duration>`},
		{[]string{"endpoint health"}, regexp.MustCompile(`│ +[0-9.]+(µs|ms|s) │`), `│ <duration> │`},
		{[]string{"defrag"}, regexp.MustCompile(`took [0-9.]+(µs|ms|s)`), `took <duration>`},
		// What is left of a lease.
		{[]string{"lease timetolive"}, regexp.MustCompile(`remaining\(\d+s\)`), `remaining(<ttl>)`},
		{[]string{"lease timetolive"}, regexp.MustCompile(`"ttl":\d+`), `"ttl":<ttl>`},
		{[]string{"lease timetolive"}, regexp.MustCompile(`"TTL" : \d+`), `"TTL" : <ttl>`},
		// Sizes of files, and the positions of logs that are written differently.
		{status, regexp.MustCompile(`"(dbSize|dbSizeInUse|raftIndex|raftAppliedIndex)":\d+`), `"$1":<n>`},
		{status, regexp.MustCompile(`"(DBSize|DBSizeInUse|RaftIndex|RaftAppliedIndex)" : \d+`), `"$1" : <n>`},
		{status, regexp.MustCompile(`, [0-9.]+ [kM]B, [0-9.]+ [kM]B, \d+%, (.*, \d+), \d+, \d+, `), `, <size>, <size>, <percent>, $1, <n>, <n>, `},
		{status, regexp.MustCompile(`│ +[0-9.]+ [kM]B │ +[0-9.]+ [kM]B │ +\d+% │(.*│ +\d+) │ +\d+ │ +\d+ │`), `│ <size> │ <size> │ <percent> │$1 │ <n> │ <n> │`},
		// The name of a key that a lock or an election made of its lease, which is gone by then.
		{[]string{"lock", "elect"}, regexp.MustCompile(`the(lock|election)/[0-9a-f]{8,16}\b`), `the$1/<lease>`},
		{[]string{"elect"}, regexp.MustCompile(`"Lease" : [1-9]\d*`), `"Lease" : <lease>`},
	}
}

// lines are what tables are drawn of: as wide as the values were.
var lines = regexp.MustCompile(`─+`)

var blanks = regexp.MustCompile(` +`)

// word is what a value must be to be masked: not a part of a longer one.
var word = regexp.MustCompile(`[0-9A-Za-z]+`)

// mask replaces what must differ in one output of a step.
func (n *names) mask(step Step, format string, out []byte) []byte {
	text := string(out)
	if m := step.message(); format == "protobuf" && m != nil {
		text = messageText(m, out)
	}
	for _, m := range masks() {
		if m.commands == nil || slices.ContainsFunc(m.commands, func(c string) bool { return step.is(strings.Fields(c)...) }) {
			text = m.what.ReplaceAllString(text, m.with)
		}
	}
	for value, name := range n.values { // addresses and directories, which are no words
		if _, _, err := net.SplitHostPort(value); err == nil || strings.HasPrefix(value, "/") {
			text = strings.ReplaceAll(text, value, name)
		}
	}
	text = word.ReplaceAllStringFunc(text, func(w string) string {
		if name, ok := n.values[w]; ok {
			return name
		}
		return w
	})
	if format == "table" {
		text = blanks.ReplaceAllString(lines.ReplaceAllString(text, "─"), " ")
	}
	return []byte(text)
}

// messageText is a message as JSON, whose whitespace is random by design and taken out.
// What is no such message, as the text of an error, is left as it is.
func messageText(empty proto.Message, out []byte) string {
	m := proto.Clone(empty)
	if len(out) == 0 || proto.Unmarshal(out, m) != nil || len(m.ProtoReflect().GetUnknown()) > 0 {
		return strconv.QuoteToASCII(string(out))
	}
	text, err := protojson.Marshal(m)
	if err != nil {
		return err.Error()
	}
	return strings.ReplaceAll(string(text), " ", "")
}
