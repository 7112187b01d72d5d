package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"sigs.k8s.io/yaml"
)

// kubeMagic begins the values that kube-apiserver writes in protobuf, encrypted those that it encrypts.
const (
	kubeMagic = "k8s\x00"
	encrypted = "k8s:enc:"
)

// decoderName is the program that knows Kubernetes' types. It is one of its own, since they, and what they need, are of no use to a server.
const decoderName = "keelson-kube"

// decoder shows values. Those of Kubernetes' own types go through decoderName, if it is there: it is started once, and given one value after the other.
type decoder struct {
	path     string        // of the program; empty if there is none, or it is of no use
	patience time.Duration // with an answer, and, for endPatience at most, with its end
	deaths   int           // since its last answer
	cmd      *exec.Cmd
	in       io.WriteCloser
	out      *bufio.Reader
}

const (
	// decoderPatience is what the program may take for a value: the largest takes less than a second.
	decoderPatience = 30 * time.Second
	endPatience     = 2 * time.Second
	// mostDeaths is how often the program may end without an answer in between before it is given up: it may be one value that it does not get over.
	mostDeaths = 3
)

// newDecoder looks for the program beside this one, and then where programs are.
func newDecoder() *decoder {
	if self, err := os.Executable(); err == nil {
		if path := filepath.Join(filepath.Dir(self), decoderName); isProgram(path) {
			return &decoder{path: path, patience: decoderPatience}
		}
	}
	path, err := exec.LookPath(decoderName)
	if err != nil {
		path = "" // also one in the current directory: whoever can write there is nobody to run programs of
	}
	return &decoder{path: path, patience: decoderPatience}
}

func isProgram(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

func (d *decoder) close() {
	if d.cmd == nil {
		return
	}
	d.in.Close()
	defer d.atMost(min(d.patience, endPatience))()
	_ = d.cmd.Wait() // it was of no use if it failed
	d.cmd = nil
}

// atMost ends the program if what is begun takes too long.
func (d *decoder) atMost(patience time.Duration) (ended func() bool) {
	process := d.cmd.Process
	return time.AfterFunc(patience, func() { _ = process.Kill() }).Stop
}

// show gives a value as text, as YAML if it is an object.
func (d *decoder) show(ctx context.Context, value []byte) string {
	if text, ok := d.object(ctx, value); ok {
		return harmless(text)
	}
	return raw(value)
}

// object gives the YAML of an object.
func (d *decoder) object(ctx context.Context, value []byte) (string, bool) {
	switch {
	case bytes.HasPrefix(value, []byte(kubeMagic)):
		if text, err := d.ask(ctx, value); err == nil {
			return text, true
		}
		return envelope(value)
	case isObject(value):
		text, err := yaml.JSONToYAML(value)
		return string(text), err == nil
	}
	return "", false
}

// isObject tells whether a value is an object in JSON.
func isObject(value []byte) bool {
	return len(value) > 0 && value[0] == '{' && utf8.Valid(value) && json.Valid(value)
}

// errNoDecoder says that there is no decoderName.
var errNoDecoder = errors.New(decoderName + " is neither beside keelson nor in PATH")

// ask has decoderName decode a value. Both ways a value is its length in four bytes, and itself; an answer has a byte before that, 0 if it is YAML.
func (d *decoder) ask(ctx context.Context, value []byte) (string, error) {
	if d.path == "" {
		return "", errNoDecoder
	}
	if d.cmd == nil {
		if err := d.start(ctx); err != nil {
			d.path = ""
			return "", err
		}
	}
	text, err := d.exchange(value)
	if err == nil || errors.Is(err, errNotDecoded) {
		d.deaths = 0
		return text, err
	}
	// It is started again for the next value.
	d.close()
	if d.deaths++; d.deaths == mostDeaths {
		d.path = ""
	}
	return "", err
}

func (d *decoder) start(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, d.path)
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	d.cmd, d.in, d.out = cmd, in, bufio.NewReader(out)
	return nil
}

// errNotDecoded says that decoderName does not know the type.
var errNotDecoded = errors.New("not decoded")

// maxAnswer bounds what decoderName may answer.
const maxAnswer = 256 << 20

func (d *decoder) exchange(value []byte) (string, error) {
	defer d.atMost(d.patience)()
	if _, err := d.in.Write(binary.BigEndian.AppendUint32(nil, uint32(len(value)))); err != nil {
		return "", err
	}
	if _, err := d.in.Write(value); err != nil {
		return "", err
	}
	var head [5]byte
	if _, err := io.ReadFull(d.out, head[:]); err != nil {
		return "", err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > maxAnswer {
		return "", fmt.Errorf("%s answers with %d bytes", decoderName, n)
	}
	text := make([]byte, n)
	if _, err := io.ReadFull(d.out, text); err != nil {
		return "", err
	}
	if head[0] != 0 {
		return "", fmt.Errorf("%w: %s", errNotDecoded, text)
	}
	return string(text), nil
}

// envelope shows what can be read of an object in protobuf without knowing its type: that, and its names.
func envelope(value []byte) (string, bool) {
	body := value[len(kubeMagic):]
	meta, ok := field(body, 1)
	if !ok {
		return "", false
	}
	version, _ := field(meta, 1)
	kind, ok := field(meta, 2)
	if !ok {
		return "", false
	}
	object, _ := field(body, 2)
	names := map[string]any{}
	if om, ok := field(object, 1); ok {
		for name, number := range map[string]protowire.Number{"name": 1, "generateName": 2, "namespace": 3, "uid": 5} {
			if v, ok := field(om, number); ok && len(v) > 0 && utf8.Valid(v) {
				names[name] = string(v)
			}
		}
	}
	text, err := yaml.Marshal(map[string]any{"apiVersion": string(version), "kind": string(kind), "metadata": names})
	return fmt.Sprintf("%s# The rest is not shown: %d bytes of protobuf, which %s decodes if it is beside keelson or in PATH.\n", text, len(object), decoderName), err == nil
}

// field gives the last field of bytes of this number in a message.
func field(message []byte, number protowire.Number) (value []byte, ok bool) {
	for len(message) > 0 {
		num, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return nil, false
		}
		message = message[n:]
		if n = protowire.ConsumeFieldValue(num, kind, message); n < 0 {
			return nil, false
		}
		if num == number && kind == protowire.BytesType {
			value, _ = protowire.ConsumeBytes(message)
			ok = true
		}
		message = message[n:]
	}
	return value, ok
}

// rawShown is how many bytes are shown of a value that is no text.
const rawShown = 64

// raw shows a value that is no object.
func raw(value []byte) string {
	switch text := string(value); {
	case len(value) == 0:
		return ""
	case strings.HasPrefix(text, encrypted):
		name := text[len(encrypted):]
		if parts := strings.SplitN(name, ":", 4); len(parts) == 4 {
			name = strings.Join(parts[:3], ":")
		}
		return fmt.Sprintf("# %d bytes, encrypted by kube-apiserver (%s)\n", len(value), printable(name))
	case printableText(text):
		return strings.TrimSuffix(text, "\n") + "\n"
	}
	return fmt.Sprintf("# %d bytes: %s%s\n", len(value), hex.EncodeToString(value[:min(len(value), rawShown)]), ellipsis(len(value) > rawShown))
}

func ellipsis(more bool) string {
	if more {
		return "…"
	}
	return ""
}

// printableText tells whether a value is text that does no harm to a terminal.
func printableText(text string) bool {
	return utf8.ValidString(text) && !strings.ContainsFunc(text, harms)
}

// harms tells whether a character does something to a terminal, or to how what stands around it reads: control characters, and those that turn the direction of text or end lines.
func harms(r rune) bool {
	switch {
	case r < ' ':
		return r != '\n' && r != '\t'
	case r >= 0x7f && r < 0xa0, r == 0x61c, r == 0x200e, r == 0x200f, r >= 0x2028 && r <= 0x202e, r >= 0x2066 && r <= 0x2069:
		return true
	}
	return false
}

// harmless writes down such characters by their numbers, as in JSON. In JSON they stand in strings alone, so it stays the same.
func harmless(text string) string {
	if !strings.ContainsFunc(text, harms) {
		return text
	}
	var out strings.Builder
	for _, r := range text {
		if harms(r) {
			fmt.Fprintf(&out, "\\u%04x", r)
		} else {
			out.WriteRune(r)
		}
	}
	return out.String()
}

// printable gives a name as it is, or quoted.
func printable(name string) string {
	if printableText(name) && !strings.ContainsAny(name, "\n\t") {
		return name
	}
	return fmt.Sprintf("%q", name)
}
