package guide

import (
	"os"
	"strings"
	"testing"
)

// block is a piece of a page that a reader pastes into a shell.
type block struct {
	heading string // under which it stands
	script  string
}

// blocks gives those of a page that are marked as sh.
func blocks(t *testing.T, path string) (all []block) {
	t.Helper()
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	heading, inside := "", false
	for line := range strings.Lines(string(page)) {
		switch trimmed := strings.TrimSpace(line); {
		case inside && trimmed == "```":
			inside = false
		case inside:
			all[len(all)-1].script += line
		case trimmed == "```sh":
			inside = true
			all = append(all, block{heading: heading})
		case strings.HasPrefix(trimmed, "## "):
			heading = strings.TrimPrefix(trimmed, "## ")
		}
	}
	if len(all) == 0 || inside {
		t.Fatalf("%s: %d blocks, the last one open: %v", path, len(all), inside)
	}
	return all
}
