// Command clock makes programs whose wall clock jumps on demand. Go asks the kernel for the time and not the C library,
// so nothing outside a process can change its clock alone; `go build -overlay` can, with a changed package time.
//
//	go run ./cmd/clock DIR
//	go build -overlay DIR/overlay.json ...
//
// The program reads how many seconds its clock is off from the file that CLOCK_FILE in its environment names, some times
// a second, and writes a line to standard error after each change, with the time that it now takes it to be. The
// monotonic clock goes on as it was, as it does on a machine whose clock is set.
package main

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// reader is the file that package time gets in addition.
//
//go:embed jump.go.txt
var reader string

// asks is where time.Now asks for the time.
const asks = "\tsec, nsec, mono := runtimeNow()\n\tif mono == 0 {\n"

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: clock DIR")
		os.Exit(2)
	}
	if err := write(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "clock:", err)
		os.Exit(1)
	}
}

func write(dir string) error {
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return fmt.Errorf("go env GOROOT: %w", err)
	}
	pkg := filepath.Join(strings.TrimSpace(string(root)), "src", "time")
	source, err := os.ReadFile(filepath.Join(pkg, "time.go"))
	if err != nil {
		return err
	}
	if n := strings.Count(string(source), asks); n != 1 {
		return fmt.Errorf("time.Now of this Go is not the one that this program knows: the place to change is there %d times", n)
	}
	changed := strings.Replace(string(source), asks, strings.Replace(asks, "\n", "\n\tsec += jumped.Load()\n", 1), 1)
	if dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	overlay := map[string]string{}
	for name, text := range map[string]string{"time.go": changed, "jump.go": reader} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
		overlay[filepath.Join(pkg, name)] = path
	}
	b, err := json.MarshalIndent(map[string]any{"Replace": overlay}, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "overlay.json"), b, 0o644)
}
