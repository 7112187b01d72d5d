package kine

import (
	"errors"
	"io/fs"
	"net/url"
	"strings"
	"testing"

	"github.com/go-sql-driver/mysql"
)

// TestPostgresURL: without a database it is kine's usual one.
func TestPostgresURL(t *testing.T) {
	for source, want := range map[string]string{
		"postgres://u:p@h":                    "postgres://u:p@h/kubernetes",
		"postgres://u:p@h/?sslmode=disable":   "postgres://u:p@h/kubernetes?sslmode=disable",
		"postgres://u:p%25@h:1/K3s?user=b%26": "postgres://u:p%25@h:1/k3s?user=b%26",
	} {
		if got, err := postgresURL(source); got != want || err != nil {
			t.Errorf("%s is %s, %v, and not %s", source, got, err, want)
		}
	}
	if _, err := postgresURL("postgres://u@h/x?sslmode=verify-ca&sslrootcert=/none/at/all"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

// TestSecrets: neither an error nor a description has a password, however it is written.
func TestSecrets(t *testing.T) {
	for _, source := range []string{
		"u:secret@tcp(h:1)/d", "u:secret@tcp(h:1)", "u:secret@tcp(h:1/d", "u:secret@h:1/d", "u:sec/secret@tcp(h:1)/d?tls=x", "u:s@secret@tcp(h)/d", "u:secret", "secret", "u:x/secret@tcp(h)", "tcp/secret@tcp(h)",
		"u:x(secret@tcp(h)/d", "u:secret@tcp(h)/d?parseTime=secret", "u:secret@unix(/s)/d?x", "u:secret@tcp(h)/%zzsecret",
	} {
		if _, err := mysqlDSN(source); err != nil && err != errDSN {
			t.Errorf("%s: %v", source, err)
		}
		if s := Describe(MySQL, source); strings.Contains(s, "secret") {
			t.Errorf("%s is %s", source, s)
		}
	}
	for _, source := range []string{
		"postgres://u:secret@h/d", "postgres://u:secret@h:port/d", "postgres://u:1#secret@h/d", "postgres://u:1/secret@h/d", "postgres://u:1?secret@h/d", "postgres://u:x@y/secret@h/d", "postgres://u:x@y#secret@h/d",
		"postgres://u@h/d?password=secret", "postgres://u@h/d?password=secret&sslmode=x", "postgres://u:secret@h/d?sslmode=x", "postgres://u:%zzsecret@h/d",
	} {
		if _, err := postgresURL(source); err != nil && err != errURL {
			t.Errorf("%s: %v", source, err)
		}
		if s := Describe(Postgres, source); strings.Contains(s, "secret") {
			t.Errorf("%s is %s", source, s)
		}
	}
}

// TestWithPassword: any password comes through.
func TestWithPassword(t *testing.T) {
	for _, password := range []string{"plain", "a b", `:/@?#%&=()'"\`, ""} {
		for _, source := range []string{"u@tcp(h:1)/d", "u:old@tcp(h:1)/d?tls=skip-verify"} {
			text, err := WithPassword(MySQL, source, password)
			if err != nil {
				t.Fatal(err)
			}
			c, err := mysql.ParseDSN(text)
			if err != nil || c.User != "u" || c.Passwd != password || c.Addr != "h:1" || c.DBName != "d" {
				t.Errorf("%s with %q is %s, %v", source, password, text, err)
			}
		}
		for _, source := range []string{"postgres://u@h:1/d?sslmode=disable", "postgres://u:old@h:1/d?sslmode=disable", "postgres://u@h:1/d?password=old&sslmode=disable"} {
			text, err := WithPassword(Postgres, source, password)
			if err != nil {
				t.Fatal(err)
			}
			u, err := url.Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			if got, _ := u.User.Password(); got != password || u.User.Username() != "u" || u.Host != "h:1" || u.Path != "/d" || u.RawQuery != "sslmode=disable" {
				t.Errorf("%s with %q is %s", source, password, text)
			}
		}
	}
	for dialect, source := range map[Dialect]string{SQLite: "x", Postgres: "postgres://h:port", MySQL: "x"} {
		if _, err := WithPassword(dialect, source, "secret"); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", source, err)
		}
	}
}
