// Command pg starts an empty PostgreSQL, prints its URL, and ends it when its standard input ends or it is told to. It is for
// tests whose modules do not share this one's dependencies.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/keelson-io/keelson/test/pg"
)

func main() {
	durable := flag.Bool("durable", false, "with PostgreSQL's defaults for durability, not without fsync")
	flag.Parse()
	if err := run(*durable); err != nil {
		fmt.Fprintln(os.Stderr, "pg:", err)
		os.Exit(1)
	}
}

func run(durable bool) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	s, err := pg.Start(ctx, pg.Options{Durable: durable})
	if err != nil {
		return err
	}
	fmt.Println(s.URL("postgres"))
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // it ends, in whatever way
		stop()
	}()
	<-ctx.Done()
	return s.Close()
}
