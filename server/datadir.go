package server

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// databaseName is the database's name under the data directory's member directory.
const databaseName = "keelson.db"

// Restoring is the directory within a data directory or a --wal-dir in which a restore makes what it will put there.
const Restoring = "restoring"

// DatabasePath gives the path of the database under a data directory and
// makes its directory. It refuses a directory that holds etcd's data, or to which a restore is not finished.
func DatabasePath(dataDir string) (string, error) {
	dir := filepath.Join(dataDir, "member")
	for _, foreign := range []string{"snap", "wal"} {
		if info, err := os.Stat(filepath.Join(dir, foreign)); err == nil && info.IsDir() {
			if _, err := os.Stat(filepath.Join(dir, databaseName)); err == nil {
				return "", fmt.Errorf("the data directory %s holds data of Keelson (%s) and of an etcd (%s), which must have been started on it later: decide which go on, and move the others away", dataDir, filepath.Join("member", databaseName), filepath.Join("member", foreign))
			}
			return "", fmt.Errorf("the data directory %s holds the data of an etcd (%s): choose another --data-dir, or restore it (keelson snapshot restore)", dataDir, filepath.Join("member", foreign))
		}
	}
	if err := restored(dataDir); err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make the data directory: %w", err)
	}
	// A restore looks for this directory after it has made its own, and so one of the two sees the other.
	if err := restored(dataDir); err != nil {
		_ = os.Remove(dir) // which removes only an empty one
		return "", err
	}
	return filepath.Join(dir, databaseName), nil
}

// restored refuses a data directory that does not have what a restore is to put there. What is at its place is whole.
func restored(dataDir string) error {
	if _, err := os.Stat(filepath.Join(dataDir, "member", databaseName)); err == nil {
		return nil
	}
	work := filepath.Join(dataDir, Restoring)
	if _, err := os.Lstat(work); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return fmt.Errorf("a restore to the data directory %s is under way or was broken off: wait for it, or restore again (keelson snapshot restore), or remove %s to begin with an empty store", dataDir, work)
}

// guardText is what stands in the way of an etcd.
const guardText = `The data in this directory are Keelson's, in keelson.db. An etcd that is started here would begin with an empty store:
this file is where it wants a directory, so it does not start. To go back to etcd see "keelson migrate --help".
`

// guard makes an etcd fail that is started on a data directory of Keelson's, as after an image was changed back: it would begin with
// an empty store. etcd makes member/snap a directory before anything else.
func guard(dataDir string) error {
	f, err := os.OpenFile(filepath.Join(dataDir, "member", "snap"), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = f.WriteString(guardText)
	return errors.Join(err, f.Close())
}
