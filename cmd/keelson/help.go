package main

import (
	"context"
	"fmt"

	"github.com/keelson-io/keelson/server/config"
)

const commands = `Keelson is an etcd v3 server whose storage is an append-only log in SQL.

Commands:

  keelson [flags]    run a server: what etcd does with the same flags
  keelson check      examine the store of a stopped server, or a database (keelson check --help)
  keelson snapshot   save, examine and restore snapshots (keelson snapshot --help)
  keelson history    show what changed, and when (keelson history --help)
  keelson rewind     put back what was there at some moment (keelson rewind --help)
  keelson migrate    move a store between etcd, Keelson and kine (keelson migrate --help)
  keelson backup     make a backup of a running server now, or list those there are (keelson backup --help)
  keelson version    print the versions
  keelson help       print this, or the help of the command named after it

`

// help prints what there is, or the help of a command that is named.
func (p *program) help(ctx context.Context, args []string) error {
	if name, command := p.command(args); name != "" && name != "version" && name != "help" {
		return command(ctx, []string{"--help"})
	}
	if _, err := fmt.Fprint(p.stdout, commands); err != nil {
		return err
	}
	return config.Help(p.stdout)
}
