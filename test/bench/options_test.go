package main

import (
	"errors"
	"testing"

	"github.com/keelson-io/keelson/test/bench/load"
)

func TestParse(t *testing.T) {
	o, err := parse(nil)
	if err != nil || !o.whole || len(o.loads) != len(load.All()) || len(o.specs) != 5 {
		t.Errorf("without flags: %+v, %v, want everything", o, err)
	}
	for _, args := range [][]string{{"-scale=0.1"}, {"-rounds=1"}, {"-only=list"}, {"-servers=etcd"}, {"-profile=p"}, {"-connections=1"}} {
		if o, err := parse(args); err != nil || o.whole {
			t.Errorf("%v: whole %v, %v, want a part", args, o.whole, err)
		}
	}
	o, err = parse([]string{"-only=list,create-1", "-servers=null,etcd"})
	if err != nil || len(o.loads) != 2 || o.loads[0].Name != "create-1" || len(o.specs) != 2 || o.specs[0].Name != "etcd" {
		t.Errorf("a choice: %+v, %v, want it in the table's order", o, err)
	}
	for _, args := range [][]string{{"-only=none"}, {"-servers=etcd,"}, {"-rounds=0"}, {"-scale=0"}, {"-connections=0"}, {"more"}} {
		if _, err := parse(args); !errors.Is(err, errUsage) {
			t.Errorf("%v: %v, want errUsage", args, err)
		}
	}
}
