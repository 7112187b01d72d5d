package main

import (
	"fmt"

	"github.com/keelson-io/keelson/server/config"
)

const commands = `Keelson is an etcd v3 server whose storage is an append-only log in SQL.

Commands:

  keelson [flags]    run a server: what etcd does with the same flags
  keelson check      examine the store of a stopped server (keelson check --help)
  keelson backup     make a backup of a running server now, or list those there are (keelson backup --help)
  keelson snapshot   save, examine and restore snapshots (keelson snapshot --help)
  keelson version    print the versions
  keelson help       print this

`

func (p *program) help() int {
	if _, err := fmt.Fprint(p.stdout, commands); err != nil {
		return p.fail(err)
	}
	if err := config.Help(p.stdout); err != nil {
		return p.fail(err)
	}
	return 0
}
