package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/keelson-io/keelson/server/config"
)

// newLogger makes the logger that the options ask for: JSON lines with etcd's keys, or text.
func newLogger(opts config.Options, stdout, stderr io.Writer) (*slog.Logger, func() error, error) {
	level, err := logLevel(opts.LogLevel)
	if err != nil {
		return nil, nil, err
	}
	out, closeOut, err := logOutputs(opts.LogOutputs, stdout, stderr)
	if err != nil {
		return nil, nil, err
	}
	h := &slog.HandlerOptions{Level: level, ReplaceAttr: etcdKeys}
	if opts.LogFormat == config.LogConsole {
		return slog.New(slog.NewTextHandler(out, h)), closeOut, nil
	}
	return slog.New(slog.NewJSONHandler(out, h)), closeOut, nil
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
func logOutputs(names []string, stdout, stderr io.Writer) (io.Writer, func() error, error) {
	var outs []io.Writer
	var files []*os.File
	closeAll := func() (err error) {
		for _, f := range files {
			err = errors.Join(err, f.Close())
		}
		return err
	}
	for _, name := range names {
		switch name {
		case config.LogOutputDefault, config.LogOutputStderr, config.LogOutputJournal:
			outs = append(outs, stderr)
		case config.LogOutputStdout:
			outs = append(outs, stdout)
		default:
			f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
			if err != nil {
				return nil, nil, errors.Join(err, closeAll())
			}
			files, outs = append(files, f), append(outs, f)
		}
	}
	return io.MultiWriter(outs...), closeAll, nil
}
