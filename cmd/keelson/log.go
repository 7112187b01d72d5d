package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"

	"gopkg.in/natefinch/lumberjack.v2"

	"github.com/keelson-io/keelson/server/config"
)

// logSinks is where log lines can go beside files.
type logSinks struct {
	stdout, stderr io.Writer
	journal        string // the socket of systemd's journal
}

// newLogger makes the logger that the options ask for: JSON lines with etcd's keys, or text.
func newLogger(opts config.Options, sinks logSinks) (*slog.Logger, func() error, error) {
	level, err := logLevel(opts.LogLevel)
	if err != nil {
		return nil, nil, err
	}
	h := &slog.HandlerOptions{Level: level, ReplaceAttr: etcdKeys}
	format := func(w io.Writer) slog.Handler {
		if opts.LogFormat == config.LogConsole {
			return slog.NewTextHandler(w, h)
		}
		return slog.NewJSONHandler(w, h)
	}
	if slices.Contains(opts.LogOutputs, config.LogOutputJournal) {
		j, err := openJournal(sinks.journal, sinks.stderr)
		if err != nil {
			return nil, nil, err
		}
		return slog.New(j.handler(format)), j.conn.Close, nil
	}
	out, closeOut, err := logOutputs(opts, sinks)
	if err != nil {
		return nil, nil, err
	}
	return slog.New(format(out)), closeOut, nil
}

func logLevel(name string) (slog.Level, error) {
	switch strings.ToLower(name) {
	case "debug":
		return slog.LevelDebug, nil
	case "info", "":
		return slog.LevelInfo, nil
	case "warn":
		return slog.LevelWarn, nil
	case "error", "dpanic", "panic", "fatal":
		return slog.LevelError, nil
	}
	return 0, fmt.Errorf("unknown --log-level %q", name)
}

// etcdKeys names the fields of a line as etcd's logs do.
func etcdKeys(groups []string, a slog.Attr) slog.Attr {
	if len(groups) > 0 {
		return a
	}
	switch a.Key {
	case slog.TimeKey:
		a.Key = "ts"
		a.Value = slog.StringValue(a.Value.Time().UTC().Format("2006-01-02T15:04:05.000000Z0700"))
	case slog.LevelKey:
		a.Value = slog.StringValue(strings.ToLower(a.Value.String()))
	}
	if err, ok := a.Value.Any().(error); ok {
		a.Value = slog.StringValue(err.Error())
	}
	if a.Value.Kind() == slog.KindDuration {
		a.Value = slog.StringValue(a.Value.Duration().String())
	}
	return a
}

// logOutputs opens what --log-outputs names.
func logOutputs(opts config.Options, sinks logSinks) (io.Writer, func() error, error) {
	var outs []io.Writer
	var files []io.Closer
	closeAll := func() (err error) {
		for _, f := range files {
			err = errors.Join(err, f.Close())
		}
		return err
	}
	for _, name := range opts.LogOutputs {
		switch name {
		case config.LogOutputDefault, config.LogOutputStderr:
			outs = append(outs, sinks.stderr)
		case config.LogOutputStdout:
			outs = append(outs, sinks.stdout)
		default:
			f, err := logFile(name, opts)
			if err != nil {
				return nil, nil, errors.Join(err, closeAll())
			}
			files, outs = append(files, f), append(outs, f)
		}
	}
	return io.MultiWriter(outs...), closeAll, nil
}

// logFile opens a file to append to, which is rotated if the options say so.
func logFile(path string, opts config.Options) (io.WriteCloser, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil || !opts.EnableLogRotation {
		return f, err
	}
	// Rotation opens the file itself, at the first line: this was to see that it can.
	if err := f.Close(); err != nil {
		return nil, err
	}
	r, err := opts.LogRotation()
	if err != nil {
		return nil, err
	}
	return &lumberjack.Logger{
		Filename: path, MaxSize: r.MaxSize, MaxAge: r.MaxAge, MaxBackups: r.MaxBackups,
		LocalTime: r.LocalTime, Compress: r.Compress,
	}, nil
}
