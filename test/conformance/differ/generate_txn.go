package differ

import (
	"fmt"
	"regexp"
	"strings"
)

// txn makes the lines below a txn command.
func (g *generator) txn() string {
	lines := g.txnLines("  ", 0)
	if hasPut(lines) {
		lines = avoidFromKey(lines)
	}
	if len(lines) == 0 {
		return ""
	}
	return "\n" + strings.Join(lines, "\n")
}

func (g *generator) txnLines(margin string, depth int) []string {
	var lines []string
	for range pick(g, 0, 1, 1, 1, 2, 3) {
		lines = append(lines, margin+"if "+g.compare())
	}
	for _, branch := range []string{"then ", "else "} {
		for range pick(g, 0, 1, 1, 2, 3) {
			lines = append(lines, g.txnOp(margin, branch, depth)...)
		}
	}
	return lines
}

func (g *generator) txnOp(margin, branch string, depth int) []string {
	switch n := g.IntN(24); {
	case n < 8:
		return []string{margin + branch + g.put()}
	case n < 12:
		return []string{margin + branch + g.del()}
	case n < 19:
		return []string{margin + branch + g.rangeCommand()}
	case n == 19 && g.one(4):
		return []string{margin + branch + "empty"}
	case depth < 3:
		return append([]string{margin + branch + "txn"}, g.txnLines(margin+"  ", depth+1)...)
	}
	return nil
}

func (g *generator) compare() string {
	target := pick(g, "version", "create", "mod", "value", "lease")
	operator := pick(g, "=", "=", "=", "!=", "<", ">")
	operand := ""
	switch target {
	case "version":
		operand = fmt.Sprint(g.IntN(4))
	case "value":
		operand = g.value()
	case "lease":
		operand = pick(g, "0", "0", "1", "2", "-3")
	default:
		operand = pick(g, "0", "@", "@-1", "@-2", "@-5", "max", "-1")
	}
	if g.one(25) {
		target = pick(g, "5", "9", "-1")
		operand += pick(g, " union=none", " union=mod", " union=version")
		if strings.HasPrefix(operand, "v") || strings.HasPrefix(operand, "x") || strings.HasPrefix(operand, `"`) {
			operand = "1 union=none"
		}
	}
	if g.one(30) {
		operator = pick(g, "4", "-1")
	}
	line := fmt.Sprintf("%s %s %s %s", target, g.key(), operator, operand)
	if g.one(4) {
		if end := strings.TrimSpace(g.end()); end != "" {
			line += " end=" + end
		}
	}
	return line
}

func hasPut(lines []string) bool {
	for _, l := range lines {
		if strings.Contains(l, "then put ") || strings.Contains(l, "else put ") {
			return true
		}
	}
	return false
}

// avoidFromKey closes the deletes from a key on: etcd's overlap check does not
// see them, and a put in such a range makes etcd panic, now and at every start.
func avoidFromKey(lines []string) []string {
	fromKey := regexp.MustCompile(`( del \S+) "\\x00"( prev_kv)?$`)
	for i := range lines {
		lines[i] = fromKey.ReplaceAllString(lines[i], `$1 "\xff\xff\xff"$2`)
	}
	return lines
}

func (g *generator) watch() string {
	g.watches++
	line := fmt.Sprintf("watch W%d %s%s", g.watches, g.key(), g.end())
	switch g.IntN(8) {
	case 0, 1, 2:
		line += fmt.Sprintf(" start=@-%d", g.IntN(15))
	case 3:
		line += fmt.Sprintf(" start=@+%d", 1+g.IntN(6))
	case 4:
		line += " start=" + pick(g, "1", "2", "-1", "min", "max", "0")
	}
	if g.one(8) {
		line += " id=" + pick(g, "1", "2", "3", "9", "-5", "max")
	}
	if g.one(6) {
		line += " filters=" + pick(g, "noput", "nodelete", "noput,nodelete", "5", "nodelete,nodelete")
	}
	if g.one(3) {
		line += " stream=" + pick(g, "s2", "s3")
	}
	return line + g.flags(2, "prev_kv") + g.flags(6, "fragment", "progress_notify")
}

func (g *generator) watchEnd() string {
	switch g.IntN(8) {
	case 0:
		return "cancelid " + pick(g, "0", "1", "2", "9", "100", "-1", "-5") + pick(g, "", " stream=s2")
	case 1:
		return "closestream " + pick(g, "default", "s2", "s3")
	}
	return fmt.Sprintf("cancel W%d", 1+g.IntN(g.watches+1))
}
