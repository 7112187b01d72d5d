package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keelson-io/keelson/backup"
)

func TestBackupUsage(t *testing.T) {
	for _, args := range [][]string{
		{"--nonsense"}, {"somewhere", "--backup-dir=d"}, {}, {"list"}, {"--backup-dir=d", "--backup-s3-bucket=backups"}, {"--backup-dir=d", "--backup-keep=-1"}, {"list", "list"},
	} {
		if o := run(t, nil, append([]string{"backup"}, args...)...); o.code != 2 || o.stdout != "" || !strings.Contains(o.stderr, "keelson backup --help") {
			t.Errorf("%v: %+v", args, o)
		}
	}
	if o := run(t, []string{"ETCD_BACKUP_DIR=d", "ETCD_BACKUP_KEEP=x"}, "backup"); o.code != 2 || !strings.Contains(o.stderr, "ETCD_BACKUP_KEEP") {
		t.Errorf("%+v", o)
	}
	for _, args := range [][]string{{"backup", "--help"}, {"backup", "list", "-h"}} {
		if o := run(t, nil, args...); o.code != 0 || !strings.HasPrefix(o.stdout, backupUsage) || !strings.Contains(o.stdout, "--backup-keep-for") || !strings.Contains(o.stdout, "--cacert") {
			t.Errorf("%v: %+v", args, o)
		}
	}
}

// TestBackupList: all that are there, the oldest first, and nothing is made.
func TestBackupList(t *testing.T) {
	dir := t.TempDir()
	var names []string
	for i := range 3 {
		b := backup.Backup{Cluster: 7, Time: time.Date(2026, 11, 26-i, 2, 0, 0, 0, time.UTC), Revision: int64(100 - i)}
		names = append([]string{b.Name()}, names...)
		if err := os.WriteFile(filepath.Join(dir, b.Name()), []byte("content"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "notes"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	o := run(t, []string{"ETCD_BACKUP_DIR=" + dir}, "backup", "list")
	lines := strings.Split(strings.TrimSpace(o.stdout), "\n")
	if o.code != 0 || len(lines) != 3 || !strings.HasPrefix(lines[0], filepath.Join(dir, names[0])+"   revision 98   7 bytes  of 2026-11-2") {
		t.Errorf("%+v", o)
	}
	o = run(t, nil, "backup", "list", "--backup-dir", dir, "--json")
	lines = strings.Split(strings.TrimSpace(o.stdout), "\n")
	var last listed
	if o.code != 0 || len(lines) != 3 || json.Unmarshal([]byte(lines[2]), &last) != nil {
		t.Fatalf("%+v", o)
	}
	if last.Location != filepath.Join(dir, names[2]) || last.Cluster != "7" || last.Revision != 100 || last.Size != 7 || last.Time.Day() != 26 {
		t.Errorf("%+v", last)
	}
	if o := run(t, nil, "backup", "list", "--backup-dir", t.TempDir()); o.code != 0 || o.stdout != "" || !strings.HasPrefix(o.stderr, "There are no backups in ") {
		t.Errorf("%+v", o)
	}
	none := filepath.Join(dir, "none")
	if o := run(t, nil, "backup", "list", "--backup-dir", none); o.code != 1 || !strings.Contains(o.stderr, none) {
		t.Errorf("%+v", o)
	}
	if _, err := os.Stat(none); err == nil {
		t.Error("a list has made the directory")
	}
}

// TestBackupOfNobody: without a server there is no backup, and the exit code says so.
func TestBackupOfNobody(t *testing.T) {
	dir := t.TempDir()
	for _, endpoints := range []string{"127.0.0.1:1", "http://127.0.0.1:1,ftp://127.0.0.1:2", "unix:///none", ""} {
		o := run(t, nil, "backup", "--backup-dir", dir, "--endpoints="+endpoints)
		if o.code != 1 || o.stdout != "" || !strings.HasPrefix(o.stderr, "keelson: backup: ") {
			t.Errorf("%q: %+v", endpoints, o)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("there are %v, %v", left, err)
	}
}
