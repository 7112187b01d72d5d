package listen

import (
	"crypto/tls"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"
)

// followed is a TLS configuration that follows its files: it is read anew when they have changed.
type followed struct {
	log   *slog.Logger
	paths []string
	load  func() (*tls.Config, error)

	mu     sync.Mutex
	config *tls.Config
	stamps []stamp // of the files that config was loaded from
	failed []stamp // the files that could not be loaded, so as to say so once
}

// follow loads the configuration for the first time, and fails if that fails.
func follow(o TLSOptions, load func() (*tls.Config, error)) (*followed, error) {
	f := &followed{log: o.Log, paths: []string{o.CertFile, o.KeyFile, o.TrustedCAFile, o.CRLFile}, load: load}
	if f.log == nil {
		f.log = slog.New(slog.DiscardHandler)
	}
	// The stamps are older than what is read, so that a change in between is seen next time.
	f.stamps = f.stamp()
	var err error
	f.config, err = load()
	return f, err
}

// current is the configuration by the files as they are now, or as they last could be used.
func (f *followed) current() *tls.Config {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.stamp()
	if slices.EqualFunc(now, f.stamps, stamp.same) || f.failed != nil && slices.EqualFunc(now, f.failed, stamp.same) {
		return f.config
	}
	fresh, err := f.load()
	if err != nil {
		f.failed = now
		f.log.Warn("TLS files have changed and cannot be used; the ones before stay in use", "cert-file", f.paths[0], "error", err)
		return f.config
	}
	f.config, f.stamps, f.failed = fresh, now, nil
	return fresh
}

// stamp tells one state of a file from another without reading it.
type stamp struct {
	info os.FileInfo // nil if there is none
	seen time.Time
}

// settling is how long after its last change a file may change again without a trace in its times.
const settling = time.Second

// same says that the file is certainly the one that the older stamp, b, was made of.
func (a stamp) same(b stamp) bool {
	if a.info == nil || b.info == nil {
		return a.info == nil && b.info == nil
	}
	return os.SameFile(a.info, b.info) && a.info.ModTime().Equal(b.info.ModTime()) && a.info.Size() == b.info.Size() &&
		b.seen.Sub(b.info.ModTime()) > settling
}

func (f *followed) stamp() []stamp {
	var list []stamp
	for _, path := range f.paths {
		s := stamp{seen: time.Now()}
		if path != "" {
			s.info, _ = os.Stat(path)
		}
		list = append(list, s)
	}
	return list
}
