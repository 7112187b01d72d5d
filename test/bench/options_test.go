package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/keelson-io/keelson/test/bench/load"
)

func TestParse(t *testing.T) {
	o, err := parse(nil)
	if err != nil || !o.whole || len(o.tables) != 3 ||
		len(o.tables[0].Loads) != len(load.All()) || len(o.tables[0].Servers) != 5 ||
		len(o.tables[1].Loads) != len(load.Postgres()) || len(o.tables[1].Servers) != 4 ||
		len(o.tables[2].Loads) != len(load.Raft()) || len(o.tables[2].Servers) != 2 {
		t.Errorf("without flags: %+v, %v, want everything", o, err)
	}
	for _, args := range [][]string{{"-scale=0.1"}, {"-rounds=1"}, {"-only=list"}, {"-servers=etcd"}, {"-profile=p"}, {"-connections=1"}, {"-keelson=other"}} {
		if o, err := parse(args); err != nil || o.whole {
			t.Errorf("%v: whole %v, %v, want a part", args, o.whole, err)
		}
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"-only=list,create-1", "-servers=null,etcd"}, "sqlite: create-1 list on etcd null;"},
		{[]string{"-only=list"}, "sqlite: list on etcd kine-full kine keelson null; postgres: list on kine-postgres kine-postgres-120 keelson-postgres keelson-postgres-two;"},
		{[]string{"-only=list", "-table=postgres"}, "postgres: list on kine-postgres kine-postgres-120 keelson-postgres keelson-postgres-two;"},
		{[]string{"-only=failover"}, "raft: failover on etcd-raft keelson-raft;"},
		{[]string{"-only=create-1", "-servers=etcd,keelson-raft"}, "sqlite: create-1 on etcd; raft: create-1 on keelson-raft;"},
		{[]string{"-only=list", "-servers=etcd,keelson-postgres"}, "sqlite: list on etcd; postgres: list on keelson-postgres;"},
	} {
		o, err := parse(c.args)
		if got := chosen(o); err != nil || got != c.want {
			t.Errorf("%v: %q, %v, want %q", c.args, got, err, c.want)
		}
	}
	if o, err := parse([]string{"-table=postgres"}); err != nil || !o.whole || len(o.tables) != 1 {
		t.Errorf("one table: %+v, %v, want all of it", o, err)
	}
	for _, args := range [][]string{{"-only=none"}, {"-servers=etcd,"}, {"-rounds=0"}, {"-scale=0"}, {"-connections=0"}, {"more"},
		{"-table=mysql"}, {"-table=postgres", "-servers=etcd"}, {"-only=memory", "-servers=kine-postgres"}} {
		if _, err := parse(args); !errors.Is(err, errUsage) {
			t.Errorf("%v: %v, want errUsage", args, err)
		}
	}
}

func TestAnotherKeelson(t *testing.T) {
	o, err := parse([]string{"-keelson=/other/one"})
	if err != nil {
		t.Fatal(err)
	}
	replaced := 0
	for _, table := range o.tables {
		for _, s := range table.Servers {
			if ours := strings.HasPrefix(s.Name, "keelson"); ours != (s.Binary == "/other/one") {
				t.Errorf("%s is %s", s.Name, s.Binary)
			} else if ours {
				replaced++
			}
		}
	}
	if replaced != 4 {
		t.Errorf("%d servers are replaced, want 4", replaced)
	}
}

// chosen lists the loads and servers of each table.
func chosen(o options) string {
	var b strings.Builder
	for i, t := range o.tables {
		if i > 0 {
			b.WriteString(" ")
		}
		b.WriteString(t.Name + ":")
		for _, l := range t.Loads {
			b.WriteString(" " + l.Name)
		}
		b.WriteString(" on")
		for _, s := range t.Servers {
			b.WriteString(" " + s.Name)
		}
		b.WriteString(";")
	}
	return b.String()
}
