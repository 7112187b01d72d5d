package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keelson-io/keelson/server/config"
)

// logger makes a logger of these options, on top of the defaults, which the test closes.
func logger(t *testing.T, sinks logSinks, set func(*config.Options)) (*slog.Logger, func() error) {
	t.Helper()
	opts := config.Default()
	set(&opts)
	l, closeLog, err := newLogger(opts, sinks)
	if err != nil {
		t.Fatal(err)
	}
	return l, closeLog
}

func TestLogOutputs(t *testing.T) {
	var stdout, stderr bytes.Buffer
	path := filepath.Join(t.TempDir(), "log")
	for range 2 { // a file is appended to
		l, closeLog := logger(t, logSinks{stdout: &stdout, stderr: &stderr}, func(o *config.Options) {
			o.LogOutputs = []string{config.LogOutputStderr, config.LogOutputStdout, path}
		})
		l.Warn("hello", "n", 1)
		l.Debug("not this")
		if err := closeLog(); err != nil {
			t.Fatal(err)
		}
	}
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"stdout": stdout.String(), "stderr": stderr.String(), "file": string(file)} {
		lines := strings.Split(strings.TrimSpace(text), "\n")
		var line struct {
			Ts, Level, Msg string
			N              int
		}
		if len(lines) != 2 || json.Unmarshal([]byte(lines[1]), &line) != nil || line.Level != "warn" || line.Msg != "hello" || line.N != 1 || line.Ts == "" {
			t.Errorf("%s has %q", name, text)
		}
	}
}

// TestLogRotation: a full file is put aside, and a new one begun.
func TestLogRotation(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "log")
	l, closeLog := logger(t, logSinks{}, func(o *config.Options) {
		o.LogOutputs = []string{path}
		o.EnableLogRotation, o.LogRotationJSON = true, `{"maxsize": 1}`
	})
	for _, c := range "ab" {
		l.Info(strings.Repeat(string(c), 600<<10))
	}
	if err := closeLog(); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "log*"))
	if err != nil || len(files) != 2 {
		t.Fatalf("%v, %v; want two", files, err)
	}
	last, err := os.ReadFile(path)
	if err != nil || !bytes.Contains(last, []byte("bbb")) || bytes.Contains(last, []byte("aaa")) {
		t.Errorf("the current file has %d bytes (%v), and is to have the last line alone", len(last), err)
	}
}

func TestLogFileRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none", "log")
	for _, rotate := range []bool{false, true} {
		opts := config.Default()
		opts.LogOutputs, opts.EnableLogRotation = []string{path}, rotate
		if _, _, err := newLogger(opts, logSinks{}); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("rotated %v: error %v", rotate, err)
		}
	}
}

func TestJournal(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "journal")
	listener, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	var stderr bytes.Buffer
	journalled := func(o *config.Options) {
		o.LogOutputs, o.LogLevel, o.LogFormat = []string{config.LogOutputJournal}, "debug", config.LogConsole
	}
	l, closeLog := logger(t, logSinks{stderr: &stderr, journal: socket}, journalled)
	defer closeLog()
	l = l.With("a", 1).WithGroup("g")
	for _, c := range []struct {
		level    slog.Level
		priority string
	}{{slog.LevelDebug, "7"}, {slog.LevelInfo, "6"}, {slog.LevelWarn, "4"}, {slog.LevelError, "3"}} {
		l.Log(t.Context(), c.level, "two\nlines", "b", 2)
		buf := make([]byte, 4096)
		n, err := listener.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		got := string(buf[:n])
		if !strings.HasPrefix(got, "PRIORITY="+c.priority+"\nSYSLOG_IDENTIFIER=keelson\nMESSAGE=") ||
			!strings.HasSuffix(got, `msg="two\nlines" a=1 g.b=2`+"\n") {
			t.Errorf("%v: the journal got %q", c.level, got)
		}
	}
	if stderr.Len() > 0 {
		t.Errorf("stderr got %q", stderr.String())
	}
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	l.Info("nobody listens")
	if !strings.Contains(stderr.String(), "nobody listens") {
		t.Errorf("stderr got %q", stderr.String())
	}
}

func TestJournalMissing(t *testing.T) {
	opts := config.Default()
	opts.LogOutputs = []string{config.LogOutputJournal}
	_, _, err := newLogger(opts, logSinks{journal: filepath.Join(t.TempDir(), "none")})
	if err == nil || !strings.Contains(err.Error(), "there is no systemd journal") {
		t.Errorf("error %v", err)
	}
}

// TestNoFsync: the option is heard and not followed.
func TestNoFsync(t *testing.T) {
	dir := t.TempDir()
	// A directory that holds an etcd's data ends the server right after it has said what it ignores.
	if err := os.MkdirAll(filepath.Join(dir, "member", "wal"), 0o700); err != nil {
		t.Fatal(err)
	}
	o := run(t, nil, "--data-dir", dir, "--unsafe-no-fsync")
	if o.code != 1 || !strings.Contains(o.stderr, `"flag":"unsafe-no-fsync"`) {
		t.Errorf("%+v", o)
	}
	if o = run(t, nil, "--data-dir", dir); strings.Contains(o.stderr, "fsync") {
		t.Errorf("%+v", o)
	}
}
