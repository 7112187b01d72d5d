package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/keelson-io/keelson/test/bench/nullserver"
)

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	cancel()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) > 0 && args[0] == "null" {
		return serveNull(ctx, args[1:])
	}
	opts, err := parse(args)
	if err != nil {
		return err
	}
	// The client is not what is measured: it may use memory to save its own time.
	debug.SetGCPercent(400)
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	var sessions []*session
	for _, t := range opts.tables { // what is missing is found before half an hour is spent
		s, err := newSession(ctx, opts, t, log)
		if err != nil {
			return err
		}
		sessions = append(sessions, s)
	}
	var failed []error
	for _, s := range sessions {
		if err := s.run(ctx); err != nil {
			failed = append(failed, fmt.Errorf("table %s: %w", s.table.Name, err))
		}
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(failed...)
}

// serveNull is the server that stores nothing, in a process of its own like the others.
func serveNull(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("bench null", flag.ContinueOnError)
	listen := flags.String("listen", "127.0.0.1:0", "address to serve on")
	if err := flags.Parse(args); err != nil {
		return err
	}
	l, err := net.Listen("tcp", *listen)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	return nullserver.Run(ctx, l)
}
