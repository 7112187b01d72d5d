package main

import (
	"context"
	"fmt"

	"github.com/keelson-io/keelson/server/config"
)

const commands = `Keelson is an etcd v3 server whose storage is an append-only log in SQL.

Commands:

  keelson [flags]    run a server: what etcd does with the same flags
  keelson check      examine the store of a stopped server (keelson check --help)
  keelson snapshot   save, examine and restore snapshots (keelson snapshot --help)
  keelson history    show what changed, and when (keelson history --help)
  keelson rewind     put back what was there at some moment (keelson rewind --help)
  keelson migrate    move a store between etcd, Keelson and kine (keelson migrate --help)
  keelson backup     make a backup of a running server now, or list those there are (keelson backup --help)
  keelson version    print the versions
  keelson help       print this

`

func (p *program) help(context.Context, []string) error {
	if _, err := fmt.Fprint(p.stdout, commands); err != nil {
		return err
	}
	return config.Help(p.stdout)
}
