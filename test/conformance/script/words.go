package script

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// ErrSyntax means that the script itself is wrong, not the server.
var ErrSyntax = errors.New("script: syntax")

func syntaxErrorf(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrSyntax, fmt.Sprintf(format, args...))
}

// split cuts a line into words. Quotes are kept, for literal to undo.
func split(line string) ([]string, error) {
	var words []string
	var word strings.Builder
	inWord := false
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case c == ' ' || c == '\t':
			if inWord {
				words = append(words, word.String())
				word.Reset()
				inWord = false
			}
		case c == '"':
			quoted, err := strconv.QuotedPrefix(line[i:])
			if err != nil {
				return nil, syntaxErrorf("quotes in %q", line)
			}
			word.WriteString(quoted)
			i += len(quoted) - 1
			inWord = true
		default:
			word.WriteByte(c)
			inWord = true
		}
	}
	if inWord {
		words = append(words, word.String())
	}
	return words, nil
}

// literal undoes quotes and repetition.
func literal(word string) ([]byte, error) {
	text, rest := word, ""
	if strings.HasPrefix(word, `"`) {
		quoted, err := strconv.QuotedPrefix(word)
		if err != nil {
			return nil, syntaxErrorf("quotes in %q", word)
		}
		if text, err = strconv.Unquote(quoted); err != nil {
			return nil, syntaxErrorf("quotes in %q", word)
		}
		rest = word[len(quoted):]
	} else if i := strings.LastIndexByte(word, '*'); i >= 0 {
		text, rest = word[:i], word[i:]
	}
	if rest == "" {
		return []byte(text), nil
	}
	n, err := strconv.Atoi(strings.TrimPrefix(rest, "*"))
	if err != nil || rest[0] != '*' || n < 0 {
		return nil, syntaxErrorf("repetition in %q", word)
	}
	return []byte(strings.Repeat(text, n)), nil
}

// Quote writes bytes as a word of a script that literal reads back.
func Quote(b []byte) string {
	if n := len(b); n > 40 && strings.Count(string(b), string(b[:1])) == n {
		return Quote(b[:1]) + "*" + strconv.Itoa(n)
	}
	if bare(b) {
		return string(b)
	}
	var s strings.Builder
	s.WriteByte('"')
	for _, c := range b {
		if c >= ' ' && c <= '~' && c != '"' && c != '\\' {
			s.WriteByte(c)
		} else {
			fmt.Fprintf(&s, `\x%02x`, c)
		}
	}
	s.WriteByte('"')
	return s.String()
}

func bare(b []byte) bool {
	for _, c := range b {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !letter && !strings.ContainsRune("/_.-", rune(c)) {
			return false
		}
	}
	return len(b) > 0 && !switches[string(b)]
}

// words is a command's arguments: positional ones are taken from the front,
// named ones by name. The first error sticks, and done reports it or whatever
// nobody took.
type words struct {
	player *Player
	pos    []string
	named  map[string]string
	err    error
}

func (p *Player) parseWords(line string) (*words, error) {
	all, err := split(line)
	if err != nil {
		return nil, err
	}
	w := &words{player: p, named: map[string]string{}}
	for _, word := range all {
		name, value, isNamed := strings.Cut(word, "=")
		switch {
		case isNamed && fieldName(name):
			w.named[name] = value
		case switches[word]:
			w.named[word] = "true"
		default:
			w.pos = append(w.pos, word)
		}
	}
	return w, nil
}

func fieldName(s string) bool {
	for _, c := range s {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' || c == '.' || c == '-') {
			return false
		}
	}
	return s != ""
}

func (w *words) fail(format string, args ...any) {
	if w.err == nil {
		w.err = syntaxErrorf(format, args...)
	}
}

// next takes the next positional word; what names it in the error.
func (w *words) next(what string) string {
	if len(w.pos) == 0 {
		w.fail("%s is missing", what)
		return ""
	}
	word := w.pos[0]
	w.pos = w.pos[1:]
	return word
}

func (w *words) bytes(what string) []byte { return w.literal(w.next(what)) }

// optional takes an optional positional word as bytes.
func (w *words) optional() []byte {
	if len(w.pos) == 0 {
		return nil
	}
	return w.bytes("")
}

func (w *words) literal(word string) []byte {
	b, err := literal(word)
	if err != nil && w.err == nil {
		w.err = err
	}
	return b
}

func (w *words) flag(name string) bool { return w.text(name) == "true" }

func (w *words) text(name string) string {
	value := w.named[name]
	delete(w.named, name)
	return value
}

func (w *words) number(name string) int64 {
	text, ok := w.named[name]
	if !ok {
		return 0
	}
	delete(w.named, name)
	return w.parse(text)
}

func (w *words) nextNumber(what string) int64 { return w.parse(w.next(what)) }

// parse reads a number in any of the forms of the package comment.
func (w *words) parse(text string) int64 {
	switch {
	case text == "max":
		return math.MaxInt64
	case text == "min":
		return math.MinInt64
	case strings.HasPrefix(text, "$"):
		id, ok := w.player.leaseByName[text[1:]]
		if !ok { // the grant was refused, or was taken out of the script
			return 0x7fff_ffff_ffff_0000
		}
		return id
	case strings.HasPrefix(text, "@"):
		if text == "@" {
			return w.player.revision
		}
		n, err := strconv.ParseInt(text[1:], 10, 64)
		if err != nil {
			w.fail("relative revision %q", text)
		}
		return w.player.revision + n
	}
	n, err := strconv.ParseInt(text, 0, 64)
	if err != nil {
		w.fail("number %q", text)
	}
	return n
}

// enum reads an enum's value by its lower-case name, or any number.
func (w *words) enum(name string, values map[string]int32) int32 {
	text, ok := w.named[name]
	if !ok {
		return 0
	}
	delete(w.named, name)
	return w.parseEnum(text, values)
}

func (w *words) parseEnum(text string, values map[string]int32) int32 {
	if n, ok := values[strings.ToUpper(text)]; ok {
		return n
	}
	n, err := strconv.ParseInt(text, 10, 32)
	if err != nil {
		w.fail("enum value %q", text)
	}
	return int32(n)
}

func (w *words) done() error {
	if w.err == nil && len(w.pos) > 0 {
		w.fail("too many words: %v", w.pos)
	}
	for name := range w.named {
		w.fail("unknown word %s", name)
	}
	return w.err
}
