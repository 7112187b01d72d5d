package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// Rotation is how a log file is rotated.
type Rotation struct {
	// Path is the file.
	Path string `json:"-"`
	// MaxSize is the size in megabytes at which a new file is begun; 0 means 100.
	MaxSize int `json:"maxsize"`
	// MaxAge is how many days, and MaxBackups how many, old files are kept; 0 sets no limit.
	MaxAge     int `json:"maxage"`
	MaxBackups int `json:"maxbackups"`
	// LocalTime names old files by local time rather than UTC.
	LocalTime bool `json:"localtime"`
	// Compress compresses old files.
	Compress bool `json:"compress"`
}

// LogRotation reads LogRotationJSON, and finds the one file that it is for among LogOutputs.
func (o *Options) LogRotation() (Rotation, error) {
	var r Rotation
	named := []string{LogOutputDefault, LogOutputStderr, LogOutputStdout}
	files := slices.DeleteFunc(slices.Clone(o.LogOutputs), func(s string) bool { return slices.Contains(named, s) })
	if len(files) > 1 || len(files) == 0 && len(o.LogOutputs) == 1 {
		return r, ErrLogRotationOutput
	}
	if len(files) == 1 {
		r.Path = files[0]
	}
	if err := json.Unmarshal([]byte(o.LogRotationJSON), &r); err != nil {
		var syntax *json.SyntaxError
		var kind *json.UnmarshalTypeError
		switch {
		case errors.As(err, &syntax):
			return r, fmt.Errorf("improperly formatted log rotation config: %w", err)
		case errors.As(err, &kind):
			return r, fmt.Errorf("invalid log rotation config: %w", err)
		}
		return r, fmt.Errorf("fail to unmarshal log rotation config: %w", err)
	}
	return r, nil
}
