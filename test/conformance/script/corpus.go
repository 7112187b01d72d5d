package script

import (
	"bytes"
	"context"
	"embed"
	"fmt"
	"path"
	"strings"
	"testing"
)

//go:embed testdata/*.txt testdata/later/*.txt
var corpus embed.FS

// Script is one file of the corpus.
type Script struct {
	// Name is the file's name.
	Name string
	// Flags are what the server has to be started with, beside its addresses.
	Flags []string
	// Source is the file.
	Source []byte
}

// Corpus returns the scripts of testdata.
func Corpus() ([]Script, error) { return scripts("testdata") }

// Later returns the scripts of what Keelson does not have yet: see testdata/later/README.md.
func Later() ([]Script, error) { return scripts("testdata/later") }

func scripts(dir string) ([]Script, error) {
	entries, err := corpus.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("script: corpus: %w", err)
	}
	var scripts []Script
	for _, e := range entries {
		if e.IsDir() {
			continue
		}
		src, err := corpus.ReadFile(path.Join(dir, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("script: corpus: %w", err)
		}
		scripts = append(scripts, Parse(e.Name(), src))
	}
	return scripts, nil
}

// Parse finds the flags in a script's source.
func Parse(name string, src []byte) Script {
	s := Script{Name: name, Source: src}
	for line := range strings.Lines(string(src)) {
		if rest, ok := strings.CutPrefix(line, "server "); ok {
			for _, f := range strings.Fields(rest) {
				s.Flags = append(s.Flags, "--"+f)
			}
		}
	}
	return s
}

// StartFunc starts an empty server with flags, for one script. The server is
// to be closed by tb.Cleanup.
type StartFunc func(tb testing.TB, flags []string) Server

// RunCorpus plays every script of the corpus, each on a server of its own, and fails where an
// answer is not the one that real etcd gave.
func RunCorpus(t *testing.T, start StartFunc) {
	scripts, err := Corpus()
	if err != nil {
		t.Fatal(err)
	}
	Run(t, start, scripts)
}

// Run plays scripts as RunCorpus does.
func Run(t *testing.T, start StartFunc, scripts []Script) {
	if len(scripts) == 0 {
		t.Fatal("the corpus is empty")
	}
	for _, s := range scripts {
		t.Run(strings.TrimSuffix(s.Name, ".txt"), func(t *testing.T) {
			got, err := Play(t.Context(), start(t, s.Flags), s)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, s.Source) {
				t.Error(Difference(string(s.Source), string(got)))
			}
		})
	}
}

// Play plays a script and returns its source with the answers of this server.
func Play(ctx context.Context, server Server, s Script) ([]byte, error) {
	p, err := Open(ctx, server)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	var out strings.Builder
	for _, b := range blocks(s.Source) {
		if b.command == "" {
			out.WriteString(b.comment)
			continue
		}
		answer, err := p.Do(ctx, b.command)
		if err != nil {
			return nil, fmt.Errorf("%s: %s: %w", s.Name, b.command, err)
		}
		fmt.Fprintf(&out, "%s%s\n----\n%s\n", b.comment, b.command, answer)
	}
	return []byte(strings.TrimRight(out.String(), "\n") + "\n"), nil
}

// block is a command with the comment above it, or a comment alone.
type block struct{ comment, command string }

func blocks(src []byte) []block {
	var all []block
	var comment, command []string
	inAnswer := false
	flush := func(c []string, cmd string) {
		text := ""
		if len(c) > 0 {
			text = strings.Join(c, "\n") + "\n"
		}
		all = append(all, block{text, cmd})
	}
	for line := range strings.SplitSeq(strings.TrimRight(string(src), "\n"), "\n") {
		switch {
		case inAnswer:
			inAnswer = line != ""
		case line == "----":
			flush(comment, strings.Join(command, "\n"))
			comment, command, inAnswer = nil, nil, true
		case len(command) == 0 && (line == "" || strings.HasPrefix(line, "#") || strings.HasPrefix(line, "server ")):
			comment = append(comment, line)
		case line == "" && len(command) > 0: // a command without an answer yet
			flush(comment, strings.Join(command, "\n"))
			comment, command = nil, nil
		default:
			command = append(command, line)
		}
	}
	if len(command) > 0 || len(comment) > 0 {
		flush(comment, strings.Join(command, "\n"))
	}
	return all
}

// Difference shows the commands whose answers differ.
func Difference(want, got string) string {
	var out strings.Builder
	w, g := answers(want), answers(got)
	for i := range max(len(w), len(g)) {
		var a, b string
		if i < len(w) {
			a = w[i]
		}
		if i < len(g) {
			b = g[i]
		}
		if a != b {
			fmt.Fprintf(&out, "etcd:\n%s\nthis server:\n%s\n\n", a, b)
		}
	}
	return out.String()
}

// answers cuts a played script into its commands with their answers.
func answers(src string) []string { return strings.Split(strings.TrimRight(src, "\n"), "\n\n") }
