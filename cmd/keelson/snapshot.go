package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"time"

	"github.com/keelson-io/keelson/etcdfile"
)

const snapshotUsage = `Usage:

  keelson snapshot save FILE       save a snapshot of a running server
  keelson snapshot status FILE     say what a snapshot has
  keelson snapshot restore FILE    make a server's data of a snapshot

A snapshot is etcd's: etcdctl and etcdutl make and take the same files. The same words after each of the three and
--help say more. The exit code is 0, 1 for a failure, 2 for wrong usage.
`

// snapshot says what commands there are about snapshots, of which none was named.
func (p *program) snapshot(_ context.Context, args []string) error {
	switch name := strings.Join(args[:min(1, len(args))], ""); name {
	case "help", "-h", "-help", "--help":
		fmt.Fprint(p.stdout, snapshotUsage)
		return nil
	case "":
		fmt.Fprint(p.stdout, snapshotUsage)
		return errUsage{flag.ErrHelp}
	default:
		return usageError("there is no 'keelson snapshot %s'", name)
	}
}

const statusUsage = `Usage:

  keelson snapshot status FILE [--write-out FORMAT]

Say what etcdutl snapshot status says of a snapshot or of a member's database: the hash of the content, the revision, the keys that are there,
the size, the storage version. The whole file is examined, and its sha256 if it has one.

`

func (p *program) snapshotStatus(_ context.Context, args []string) error {
	format := "simple"
	f := p.flags(statusUsage)
	f.own("-w, --write-out FORMAT", "simple, table, json or fields; simple if not given", &format)
	file, err := f.parseFile(args)
	if err != nil {
		return err
	}
	print, known := map[string]func(io.Writer, etcdfile.Status) error{
		"simple": statusSimple, "table": statusTable, "json": statusJSON, "fields": statusFields,
	}[format]
	if !known {
		return usageError("%q is no format that it can write: simple, table, json or fields", format)
	}
	db, err := openSnapshot(file, taking{bare: true})
	if err != nil {
		return err
	}
	s, err := db.Status()
	if err = errors.Join(err, db.Close()); err != nil {
		return err
	}
	return print(p.stdout, s)
}

// taking says what a file may be.
type taking struct {
	bare     bool // one without a sha256
	skipHash bool // believe a sha256
}

// openSnapshot opens a file, and says what may be wrong with it in the words of who has it.
func openSnapshot(path string, t taking) (*etcdfile.File, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a file", path)
	}
	if info.Size()%512 == 0 && !t.bare {
		return nil, fmt.Errorf("snapshot missing hash but --skip-hash-check=false: %s is a member's own database (member/snap/db), for which --skip-hash-check is to be given, or a snapshot that was cut off", path)
	}
	f, err := etcdfile.Open(path, etcdfile.Options{SkipHash: t.skipHash})
	switch {
	case errors.Is(err, etcdfile.ErrHash):
		return nil, fmt.Errorf("the snapshot was altered, or its copy is not whole: %w", err)
	case errors.Is(err, etcdfile.ErrInUse):
		return nil, fmt.Errorf("an etcd has the file open: stop it first, or take a snapshot of it (etcdctl snapshot save): %w", err)
	case errors.Is(err, etcdfile.ErrDamaged):
		return nil, fmt.Errorf("the file was cut off or altered, or is not of etcd: %w", err)
	}
	return f, err
}

func statusColumns(s etcdfile.Status) []string {
	return []string{fmt.Sprintf("%x", s.Hash), fmt.Sprint(s.Revision), fmt.Sprint(s.TotalKey), formatBytes(s.TotalSize), s.Version}
}

func statusSimple(w io.Writer, s etcdfile.Status) error {
	_, err := fmt.Fprintln(w, strings.Join(statusColumns(s), ", "))
	return err
}

func statusTable(w io.Writer, s etcdfile.Status) error {
	heads := []string{"HASH", "REVISION", "TOTAL KEYS", "TOTAL SIZE", "VERSION"}
	columns := statusColumns(s)
	var names, values, lines []string
	for i, head := range heads {
		width := max(len(head), len(columns[i]))
		left := (width - len(head)) / 2
		names = append(names, fmt.Sprintf(" %*s%s%*s ", left, "", head, width-left-len(head), ""))
		values = append(values, fmt.Sprintf(" %*s ", width, columns[i]))
		lines = append(lines, strings.Repeat("─", width+2))
	}
	_, err := fmt.Fprintf(w, "┌%s┐\n│%s│\n├%s┤\n│%s│\n└%s┘\n", strings.Join(lines, "┬"), strings.Join(names, "│"),
		strings.Join(lines, "┼"), strings.Join(values, "│"), strings.Join(lines, "┴"))
	return err
}

func statusJSON(w io.Writer, s etcdfile.Status) error {
	return json.NewEncoder(w).Encode(struct {
		Hash      uint32 `json:"hash"`
		Revision  int64  `json:"revision"`
		TotalKey  int    `json:"totalKey"`
		TotalSize int64  `json:"totalSize"`
		Version   string `json:"version"`
	}{s.Hash, s.Revision, s.TotalKey, s.TotalSize, s.Version})
}

func statusFields(w io.Writer, s etcdfile.Status) error {
	_, err := fmt.Fprintf(w, "\"Hash\" : %d\n\"Revision\" : %d\n\"Keys\" : %d\n\"Size\" : %d\n\"Version\" : %s\n", s.Hash, s.Revision, s.TotalKey, s.TotalSize, s.Version)
	return err
}

// formatBytes writes a size as etcdutl does: 10 B, 1.5 kB, 23 MB.
func formatBytes(n int64) string {
	if n < 10 {
		return fmt.Sprintf("%d B", n)
	}
	e := math.Floor(math.Log(float64(n)) / math.Log(1000))
	v := math.Floor(float64(n)/math.Pow(1000, e)*10+0.5) / 10
	digits := 0
	if v < 10 {
		digits = 1
	}
	return fmt.Sprintf("%.*f %s", digits, v, [...]string{"B", "kB", "MB", "GB", "TB", "PB", "EB"}[int(e)])
}

// meter tells on a line of a terminal how far something is, how fast it goes and how long it will take.
type meter struct {
	line  *progressLine
	what  string
	total int64                // 0 if it is not known
	unit  func(n int64) string // writes an amount
	begun time.Time
}

func (l *progressLine) meter(what string, total int64, unit func(int64) string) *meter {
	return &meter{line: l, what: what, total: total, unit: unit, begun: time.Now()}
}

// terminal tells whether anybody sees the line.
func (l *progressLine) terminal() bool { return l.w != nil }

func (m *meter) show(done int64) {
	if m.line.w == nil || time.Now().Before(m.line.next) {
		return
	}
	m.line.next = time.Now().Add(progressEvery)
	m.line.say(m.text(done, time.Since(m.begun)))
}

func (m *meter) text(done int64, took time.Duration) string {
	rate := int64(float64(done) / max(took.Seconds(), 0.001))
	if m.total <= 0 {
		return fmt.Sprintf("%s: %s, %s/s", m.what, m.unit(done), m.unit(rate))
	}
	text := fmt.Sprintf("%s: %3d %%, %s of %s, %s/s", m.what, 100*done/m.total, m.unit(done), m.unit(m.total), m.unit(rate))
	if left := m.total - done; left > 0 && rate > 0 {
		text += fmt.Sprintf(", %v left", time.Duration(left/rate+1)*time.Second)
	}
	return text
}

func formatRows(n int64) string { return fmt.Sprintf("%d rows", n) }
