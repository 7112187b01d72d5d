package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
)

// journalSocket is where systemd's journal listens.
const journalSocket = "/run/systemd/journal/socket"

// journal is a connection to systemd's journal, by its native protocol: a datagram
// for each line, with a field for its priority.
type journal struct {
	conn   *net.UnixConn
	stderr io.Writer // gets what the journal does not take
}

func openJournal(socket string, stderr io.Writer) (*journal, error) {
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("--log-outputs: there is no systemd journal: %w", err)
	}
	return &journal{conn: conn, stderr: stderr}, nil
}

// handler gives a handler whose lines go to the journal under the priority of their level.
func (j *journal) handler(format func(io.Writer) slog.Handler) slog.Handler {
	const debug, info, warning, failure = 7, 6, 4, 3 // syslog's
	h := make(byLevel, 0, 4)
	for _, priority := range []int{debug, info, warning, failure} {
		h = append(h, format(journalWriter{j, priority}))
	}
	return h
}

// journalWriter writes lines of one priority.
type journalWriter struct {
	*journal
	priority int
}

func (w journalWriter) Write(line []byte) (int, error) {
	// Fields are lines; handlers quote line breaks within one.
	text := bytes.ReplaceAll(bytes.TrimRight(line, "\n"), []byte("\n"), []byte(" "))
	message := fmt.Appendf(nil, "PRIORITY=%d\nSYSLOG_IDENTIFIER=keelson\nMESSAGE=%s\n", w.priority, text)
	if _, err := w.conn.Write(message); err != nil {
		return w.stderr.Write(line)
	}
	return len(line), nil
}

// byLevel has a handler for each of the levels debug, info, warn and error.
type byLevel []slog.Handler

// Enabled implements slog.Handler.
func (h byLevel) Enabled(ctx context.Context, l slog.Level) bool { return h[0].Enabled(ctx, l) }

// Handle implements slog.Handler.
func (h byLevel) Handle(ctx context.Context, r slog.Record) error {
	i := 0
	for _, from := range []slog.Level{slog.LevelInfo, slog.LevelWarn, slog.LevelError} {
		if r.Level >= from {
			i++
		}
	}
	return h[i].Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h byLevel) WithAttrs(attrs []slog.Attr) slog.Handler {
	return h.each(func(one slog.Handler) slog.Handler { return one.WithAttrs(attrs) })
}

// WithGroup implements slog.Handler.
func (h byLevel) WithGroup(name string) slog.Handler {
	return h.each(func(one slog.Handler) slog.Handler { return one.WithGroup(name) })
}

func (h byLevel) each(fn func(slog.Handler) slog.Handler) byLevel {
	all := make(byLevel, len(h))
	for i, one := range h {
		all[i] = fn(one)
	}
	return all
}
