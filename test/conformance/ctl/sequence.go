package ctl

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// Known differences.
const (
	hashCompacted = "etcd keeps the hash from before the compaction of a revision, under the compact revision of then"
	olderFormat   = "Keelson's snapshots are of the storage version that etcd 3.6 takes as well"
	equals        = "servers on one database join by being started with its --datastore"
)

// run is a step of words that hold no blanks.
func run(command string) Step { return Step{Args: strings.Fields(command)} }

// words is a step whose arguments may hold anything.
func words(args ...string) Step { return Step{Args: args} }

func (s Step) in(text string) Step         { s.Stdin = text; return s }
func (s Step) only(formats ...string) Step { s.Formats = formats; return s }
func (s Step) until(n int) Step            { s.Until = n; return s }
func (s Step) during(steps ...Step) Step   { s.During = steps; return s }
func (s Step) differs(because string) Step { s.Differs = because; return s }
func (s Step) differsShared(because string) Step {
	s.DiffersShared = because
	return s
}

// each is a step for each command.
func each(commands ...string) []Step {
	var steps []Step
	for _, c := range commands {
		steps = append(steps, run(c))
	}
	return steps
}

// wrong is a step for each command that is refused, with the same text in every format.
func wrong(commands ...string) []Step {
	steps := each(commands...)
	for i := range steps {
		steps[i] = steps[i].only("simple")
	}
	return steps
}

// Steps is the sequence for an empty server, in one format. Revisions in it are counted from the start.
func Steps(format string) []Step {
	if format == "table" { // few commands print one
		return append(slices.Concat(puts(), cluster(), alarms()), each("endpoint hashkv", "endpoint hashkv --rev=5", "endpoint hashkv --rev=99", "get a", "lease list", "auth status")...)
	}
	var all []Step
	for _, part := range [][]Step{
		puts(), gets(), deletes(), txns(), watches(), compactions(), leases(), cluster(), auth(), users(), locks(), mirror(), alarms(), last(),
	} {
		all = append(all, part...)
	}
	return all
}

// Shared is a sequence for a server whose database others may share.
func Shared(steps []Step) []Step {
	steps = slices.Clone(steps)
	for i := range steps {
		steps[i].Differs = cmp.Or(steps[i].DiffersShared, steps[i].Differs)
	}
	return steps
}

// puts leaves the keys a, b, bin and others at revisions 2 to 13.
func puts() []Step {
	steps := each("get nothing", "get --prefix=true --count-only x", "put a 1", "put a 2", "put a 3 --prev-kv", "put b 1 --prev-kv")
	return append(steps,
		words("put", "bin", "a\x01\"\\\n\xff ü"),
		words("put", "\x01\xfe", "odd key"),
		words("put", "stdin").in("from stdin\n"),
		words("put", "c", ""),
		run("put a --ignore-value --prev-kv"),
		run("put a 4 --ignore-lease"),
		words("put", "--", "-d", "-1"),
		words("put", "zz", "last"),
		// Errors.
		run("put missing --ignore-value"), run("put missing 1 --ignore-lease"), run("put a 1 --ignore-value"),
		run("put a 1 --lease=4d2"), words("put", "", "x"), run("put a 1 --lease=xyz").only("simple"), run("put").only("simple"), run("put a 1 2").only("simple"),
	)
}

func gets() []Step {
	steps := each("get a", "get b c", "get a zz", "get b --prefix", "get b --from-key", "get --prefix=true --keys-only a",
		"get a --consistency=s", "get a --consistency=l")
	steps = append(steps, wrong("get a --consistency=x", "get", "get a b c", "get a b --prefix", "get a --prefix --from-key")...)
	steps = append(steps, words("get", "", "--prefix"), words("get", "", "--from-key"), words("get", ""), words("get", "\x01\xfe"))
	for _, flags := range []string{
		"--limit=2", "--limit=2 --order=DESCEND", "--limit=-1", "--order=ASCEND", "--order=DESCEND", "--order=SIDEWAYS",
		"--sort-by=CREATE", "--sort-by=KEY --order=DESCEND", "--sort-by=MODIFY", "--sort-by=VALUE", "--sort-by=VERSION", "--sort-by=VERSION --order=DESCEND", "--sort-by=WEIGHT",
		"--rev=1", "--rev=3", "--rev=5", "--rev=13", "--rev=99", "--rev=-1",
		"--keys-only", "--count-only", "--keys-only --count-only", "--print-value-only", "--keys-only --print-value-only", "--hex", "--hex --keys-only", "--hex --print-value-only",
		"--min-mod-rev=8", "--max-mod-rev=8", "--min-create-rev=6", "--max-create-rev=6", "--min-mod-rev=6 --max-mod-rev=9 --count-only", "--min-mod-rev=8 --limit=2",
		"--stream", "--stream --limit=3", "--stream --rev=5", "--stream --rev=99", "--stream --count-only", "--stream --keys-only", "--stream --order=DESCEND", "--stream --sort-by=MODIFY", "--stream --min-mod-rev=8",
	} {
		steps = append(steps, words(append([]string{"get", "", "--prefix"}, strings.Fields(flags)...)...).only("simple", "json"))
	}
	return steps
}

// deletes takes revisions 14 to 19.
func deletes() []Step {
	return append(append(wrong("del", "del a b c", "del d/ d/9 --prefix"), each("put d/1 1", "put d/2 2", "put d/3 3", "put d/4 4",
		"del nothing", "del d/1", "del d/2 d/4 --range --prev-kv", "del d/ --prefix --prev-kv", "del nothing --prefix --prev-kv",
		"del zz --from-key --prev-kv", "del c --range", "del c --range=false", "put c again")...),
		words("del", ""))
}

// txns are transactions from standard input, first without and then with -i.
func txns() []Step {
	inputs := []string{
		"\n\n\n",
		"mod(\"a\") > \"0\"\n\nput a 5\nget a\n\nget b\n\n",
		"mod(\"a\") = \"0\"\n\nput a 6\n\nget a\nput b \"quoted words\"\ndel c\n\n",
		"value(\"a\") = \"5\"\nversion(\"a\") > \"1\"\ncreate(\"a\") < \"9\"\n\nget a --rev=2\ndel nothing\n\n\n",
		"value(\"a\") != \"5\"\n\n\nget a b\nget --prefix b\nget a --keys-only\n\n",
		"\nput t/1 1\nput t/2 2 --prev-kv\nget t/ --prefix\ndel t/ --prefix --prev-kv\nget t/ --prefix --count-only\n\n\n",
		"\nput a 1\nput a 2\n\n\n",
		"\nget a --rev=999\n\n\n",
		"\nfly a\n\n\n", "\nput a\n\n\n",
		"put a 1\n",
	}
	var steps []Step
	for _, in := range inputs {
		steps = append(steps, run("txn").in(in))
	}
	return append(steps, run("txn -i").in(inputs[1]).only("simple", "json", "fields"), run("txn --hex").in(inputs[1]))
}

// watches watch what has been and what comes.
func watches() []Step {
	watched := []string{"simple", "json", "fields", "protobuf"}
	// In text, what is compared ends before the last event that is waited for.
	script := `echo "$ETCD_WATCH_REVISION $ETCD_WATCH_EVENT_TYPE $ETCD_WATCH_KEY $ETCD_WATCH_VALUE"; echo PUT`
	return []Step{
		run("watch a --rev=1").until(6).only(watched...),
		run("watch d/ --prefix --rev=1").until(8).only(watched...),
		run("watch d/ --prefix --rev=1 --prev-kv").until(8).only(watched...),
		run("watch d/2 d/4 --rev=15 --prev-kv").until(4).only(watched...),
		run("watch a --rev=1 --hex").until(5).only("simple", "fields"),
		run("watch w").until(2).only(watched...).during(run("put w 1"), run("put v 1"), run("put w 2")),
		run("watch w --prefix --prev-kv").until(4).only(watched...).during(run("put w 3"), run("txn").in("\nput w1 1\nput w2 2\n\n\n"), run("del w")),
		run("watch w --rev=1 --progress-notify").until(4).only(watched...),
		run("watch -i").in("fly\nwatch\nwatch w --rev 1\n").until(4).only("simple"),
		words("watch", "b", "--rev=1", "--", "sh", "-c", script).until(4).only("simple"),
		run("watch").only("simple"), run("watch a b --prefix").only("simple"), run("watch a --rev=x").only("simple"),
		run("watch -i").in("fly\n").only("simple"),
	}
}

func leases() []Step {
	steps := each("lease list", "lease grant 100", "lease grant 200", "lease grant 300", "lease list",
		"lease timetolive $lease1", "put l/1 1 --lease=$lease1", "put l/2 2 --lease=$lease2", "put l/3 3 --lease=$lease2",
		"lease timetolive $lease1 --keys", "lease timetolive $lease3 --keys", "lease keep-alive --once $lease1", "get l/ --prefix", "get l/1 --hex",
		"put l/1 kept --ignore-lease --prev-kv", "put l/1 dropped", "lease timetolive --keys $lease1", "lease revoke $lease1", "get l/ --prefix",
		"lease list", "lease timetolive $lease1", "lease keep-alive --once $lease1", "lease revoke $lease1",
		"lease revoke $lease2", "lease revoke $lease3", "lease list",
		// Errors.
		"lease grant 0", "lease grant -- -1", "lease grant 9999999999", "lease timetolive 4d2",
		"lease timetolive 4d2 --keys", "lease keep-alive --once 4d2", "lease keep-alive 4d2", "lease revoke 4d2")
	return append(steps, wrong("lease", "lease grant x", "lease grant", "lease revoke", "lease revoke xyz", "lease timetolive", "lease timetolive xyz", "lease keep-alive")...)
}

func cluster() []Step {
	steps := each("endpoint health", "endpoint health --cluster", "endpoint status", "endpoint status --cluster", "member list", "member list --consistency=s", "endpoint status --hex", "member list --hex",
		"alarm list", "alarm disarm", "defrag", "defrag --cluster", "move-leader $member", "move-leader 4d2",
		"member remove 4d2", "member remove $member", "member update 4d2 --peer-urls=http://127.0.0.1:1", "member update $member",
		"member update $member --peer-urls=http://$peer", "member promote 4d2", "member promote $member", "member list",
		"member add x", "member add x --peer-urls=bad", "member add x --peer-urls=http://$peer", "member add x --learner --peer-urls=http://$peer",
		"downgrade validate 3.6", "downgrade validate 3.5", "downgrade validate 3.8", "downgrade validate x", "downgrade validate", "downgrade cancel", "downgrade enable x",
		"version")
	return append(steps, wrong("alarm", "move-leader", "move-leader xyz", "member", "member remove", "member remove xyz", "member update", "member promote", "member add",
		"endpoint", "no-such-command", "get a --no-such-flag")...)
}

// alarms are shown, stop writes or everything, and end when they are disarmed. There is one at a time: etcd has no order of them.
func alarms() []Step {
	raise := func(a pb.AlarmType) Step { return Step{Args: []string{"raise", a.String()}, Alarm: a} }
	seen := []string{"alarm list", "endpoint health", "endpoint status", "put alarmed 1", "lease grant 100", "get alarmed", "del alarmed"}
	gone := []string{"alarm disarm", "alarm list", "endpoint health", "endpoint status", "put alarmed 2", "del alarmed"}
	return slices.Concat(
		[]Step{raise(pb.AlarmType_NOSPACE)}, each(seen...), []Step{run("txn").in("\nput alarmed 1\n\n\n"), run("txn").in("\ndel alarmed\n\n\n")}, each(gone...),
		[]Step{raise(pb.AlarmType_CORRUPT)}, each(seen...), each(gone...))
}

// auth is about an etcd whose auth is off and that has no users.
func auth() []Step {
	return append(each("auth status", "user list", "role list", "auth enable", "auth disable", "get a --user=x:y", "get a --user=x --password=y", "auth status --hex"), wrong("user get x", "role get x", "user delete x", "role delete x",
		"user grant-role x y", "user revoke-role x y", "user passwd x --interactive=false", "role grant-permission x read a", "role revoke-permission x a")...)
}

// users are kept while auth is off, and roles.
func users() []Step {
	steps := each("user add u:secret", "user add u:secret", "user add plain --no-password", "user list", "role add r", "role add r", "role add s", "role list",
		"role grant-permission r read a", "role grant-permission r write b c", "role grant-permission r readwrite d/ --prefix", "role grant-permission s read e --from-key", "role grant-permission x read a",
		"role get r", "role get s", "user grant-role u r", "user grant-role u s", "user grant-role u x", "user grant-role x r", "user grant-role u r", "user get u", "user get plain",
		"role revoke-permission r a", "role revoke-permission r a", "role revoke-permission r b c", "role revoke-permission r d/ --prefix", "role get r", "user revoke-role u r", "user revoke-role u r", "user get u",
		"role delete s", "user get u", "role delete s", "user delete plain", "user delete plain", "user list", "role list", "auth status", "auth enable")
	steps = append(steps, run("user grant-role u r"), run("user get u --detail").only("simple", "json", "fields"))
	return append(append(steps, run("user passwd u --interactive=false").in("other\n"), run("user add v --interactive=false").in("secret\n")),
		wrong("user add", "role add", "user grant-role u", "role grant-permission r fly a", "role grant-permission r read a b --prefix", "user get", "role get")...)
}

// compactions compares the hashes before and after; no key has a lease yet whose id the server chose.
func compactions() []Step {
	return append(each("compaction 5", "get a --rev=4", "get a --rev=5", "compaction 5", "compaction 4", "compaction 9999", "compaction", "compaction x", "compaction -- -1",
		"compaction 12 --physical", "get a --rev=11", "get a --rev=12", "txn"),
		run("watch a --rev=3").only("simple", "json", "fields", "protobuf"),
		run("txn").in("\nget a --rev=3\n\n\n"),
		run("endpoint hashkv"), run("endpoint hashkv --rev=12").only("simple", "json", "fields").differs(hashCompacted), run("endpoint hashkv --rev=20"), run("endpoint hashkv --rev=9999"), run("endpoint hashkv --rev=11"), run("endpoint hashkv --cluster"))
}

// locks are made by the client of leases, transactions and watches.
func locks() []Step {
	text := []string{"simple", "fields"} // the lease is in the key's name
	elected := run("elect theelection me").until(1).only(text...).during(
		run("elect theelection --listen").until(1).only(text...),
		run("get theelection --prefix --count-only").only(text...))
	return []Step{
		words("lock", "thelock", "sh", "-c", "echo held").only(text...),
		words("lock", "thelock", "--ttl=20", "sh", "-c", "exit 3").only(text...),
		run("lock thelock").until(1).only(text...).during(run("get thelock --prefix --count-only").only(text...)),
		elected,
		run("get theelection --prefix --count-only"), run("get thelock --prefix --count-only"),
		run("lock").only("simple"), run("elect").only("simple"), run("elect theelection").only("simple"),
	}
}

// mirror copies a prefix to another on the same server, what was there before and what comes.
func mirror() []Step {
	return []Step{
		run("put m/1 1"), run("put m/2 2"),
		run("make-mirror --prefix=m/ --dest-prefix=copy/ $endpoint").only("simple").during(
			run("watch copy/ --prefix --rev=30").until(2), run("put m/3 3"),
			run("watch copy/ --prefix --rev=30").until(3), run("del m/1"),
			run("watch copy/ --prefix --rev=30").until(4)),
		run("get copy/ --prefix").only("simple"),
		run("make-mirror").only("simple"), run("make-mirror --prefix=m/ --dest-prefix=x --no-dest-prefix $endpoint").only("simple"),
	}
}

// last is what leaves etcd without a quorum, or is not there yet.
func last() []Step {
	return []Step{
		run("snapshot").only("simple"), run("snapshot save").only("simple"),
		run("snapshot save $dir/snapshot").only("simple").differs(olderFormat),
		run("member add learner --learner --peer-urls=http://127.0.0.1:1").only("simple").differsShared(equals),
	}
}

// Checks are the commands that put load on the server and judge it by its speed, which no test does.
func Checks(names ...string) ([]Step, error) {
	var steps []Step
	for _, name := range names {
		switch name {
		case "perf", "datascale":
			step := run("check " + name + " --load=s")
			step.Takes = 5 * time.Minute
			steps = append(steps, step)
		default:
			return nil, fmt.Errorf("ctl: no check %q", name)
		}
	}
	return steps, nil
}
