//go:build !linux

package wal

func (f osFile) Datasync() error { return f.Sync() }

// Allocate implements file: it does without.
func (osFile) Allocate(int64) error { return nil }
