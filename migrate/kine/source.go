package kine

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"strings"

	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5"
)

// defaultDatabase is the one that kine takes if none is named.
const defaultDatabase = "kubernetes"

// Errors of parsers are not given on: what is wrong with a source may be what makes them show a password in it.
var (
	errURL = errors.New("kine: the URL of the database, which is not shown since a password may be in it, is not postgres://user@host:port/database?parameter=value; special characters in it must be escaped with %")
	errDSN = errors.New("kine: the DSN of the database, which is not shown since a password may be in it, is not user:password@tcp(host:port)/database?parameter=value")
)

// WithPassword puts a password into a source, in the place of one that it may have.
func WithPassword(dialect Dialect, source, password string) (string, error) {
	switch dialect {
	case Postgres:
		u, err := url.Parse(source)
		if err != nil {
			return "", errURL
		}
		q := u.Query()
		q.Del("password")
		u.RawQuery = q.Encode()
		u.User = url.UserPassword(u.User.Username(), password)
		return u.String(), nil
	case MySQL:
		config, err := mysql.ParseDSN(source)
		if err != nil {
			return "", errDSN
		}
		config.Passwd = password
		return config.FormatDSN(), nil
	}
	return "", errors.New("kine: a file of SQLite has no password")
}

// Describe names a source without passwords and parameters.
func Describe(dialect Dialect, source string) string {
	switch dialect {
	case SQLite:
		return source
	case Postgres:
		return DescribeURL(source)
	}
	config, err := mysql.ParseDSN(source)
	// A password with characters that end it may be taken for anything.
	if err != nil || strings.Contains(config.Addr+config.DBName, "@") {
		return "a database"
	}
	return "mysql://" + config.Addr + "/" + config.DBName
}

// DescribeURL names the database of a URL without passwords and parameters.
func DescribeURL(source string) string {
	u, err := url.Parse(source)
	if err != nil || u.User == nil && strings.Contains(source, "@") || strings.Contains(u.Host+u.Path+u.Fragment, "@") {
		return "a database"
	}
	u.RawQuery, u.ForceQuery, u.Fragment, u.RawFragment = "", false, "", ""
	return u.Redacted()
}

// postgresURL names the database as kine does where the URL names none, or one in capitals.
func postgresURL(source string) (string, error) {
	u, err := url.Parse(source)
	if err != nil {
		return "", errURL
	}
	if u.Path = strings.ToLower(u.Path); strings.Trim(u.Path, "/") == "" {
		u.Path = "/" + defaultDatabase
	}
	source = u.String()
	if _, err := pgx.ParseConfig(source); err != nil {
		var file *fs.PathError
		if errors.As(err, &file) {
			return "", fmt.Errorf("kine: a file that the URL of the database names: %w", file)
		}
		return "", errURL
	}
	return source, nil
}

// mysqlDSN names the database as kine does where the DSN names none.
func mysqlDSN(source string) (string, error) {
	config, err := mysql.ParseDSN(source)
	if err != nil {
		return "", errDSN
	}
	if config.DBName == "" {
		config.DBName = defaultDatabase
	}
	return config.FormatDSN(), nil
}
