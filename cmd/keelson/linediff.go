package main

import (
	"fmt"
	"strings"
)

// contextLines is how many lines are shown around what differs.
const contextLines = 3

// lineDiff gives what differs between two texts, line by line, in the way of diff -u without its first two lines. It is empty if nothing does.
func lineDiff(before, after string) string {
	a, b := lines(before), lines(after)
	front := 0
	for front < len(a) && front < len(b) && a[front] == b[front] {
		front++
	}
	back := 0
	for back < len(a)-front && back < len(b)-front && a[len(a)-1-back] == b[len(b)-1-back] {
		back++
	}
	edits := make([]lineEdit, 0, len(a)+len(b))
	for _, l := range a[:front] {
		edits = append(edits, lineEdit{' ', l})
	}
	edits = append(edits, middle(a[front:len(a)-back], b[front:len(b)-back])...)
	for _, l := range a[len(a)-back:] {
		edits = append(edits, lineEdit{' ', l})
	}
	return hunks(edits)
}

func lines(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(text, "\n"), "\n")
}

// lineEdit is a line that stays (' '), goes ('-') or comes ('+').
type lineEdit struct {
	how  byte
	line string
}

// maxTable bounds the memory that comparing takes: beyond it everything goes and comes.
const maxTable = 16 << 20

// middle finds a longest common subsequence.
func middle(a, b []string) (edits []lineEdit) {
	if len(a)*len(b) > maxTable {
		for _, l := range a {
			edits = append(edits, lineEdit{'-', l})
		}
		for _, l := range b {
			edits = append(edits, lineEdit{'+', l})
		}
		return edits
	}
	width := len(b) + 1
	length := make([]int32, (len(a)+1)*width) // of the longest one of a[i:] and b[j:]
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if a[i] == b[j] {
				length[i*width+j] = length[(i+1)*width+j+1] + 1
			} else {
				length[i*width+j] = max(length[(i+1)*width+j], length[i*width+j+1])
			}
		}
	}
	for i, j := 0, 0; i < len(a) || j < len(b); {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			edits = append(edits, lineEdit{' ', a[i]})
			i, j = i+1, j+1
		case i < len(a) && (j == len(b) || length[(i+1)*width+j] >= length[i*width+j+1]):
			edits = append(edits, lineEdit{'-', a[i]})
			i++
		default:
			edits = append(edits, lineEdit{'+', b[j]})
			j++
		}
	}
	return edits
}

// hunks writes down the edits, with some lines around them.
func hunks(edits []lineEdit) string {
	var out strings.Builder
	oldLine, newLine := 1, 1
	for at := 0; at < len(edits); {
		if edits[at].how == ' ' {
			at, oldLine, newLine = at+1, oldLine+1, newLine+1
			continue
		}
		first := max(at-contextLines, 0)
		end, same := at, 0
		for end < len(edits) && same <= 2*contextLines {
			if edits[end].how == ' ' {
				same++
			} else {
				same = 0
			}
			end++
		}
		end -= max(same-contextLines, 0)
		olds, news := 0, 0
		for _, e := range edits[first:end] {
			if e.how != '+' {
				olds++
			}
			if e.how != '-' {
				news++
			}
		}
		fmt.Fprintf(&out, "@@ -%s +%s @@\n", span(oldLine-(at-first), olds), span(newLine-(at-first), news))
		for _, e := range edits[first:end] {
			fmt.Fprintf(&out, "%c%s\n", e.how, e.line)
		}
		for ; at < end; at++ {
			if edits[at].how != '+' {
				oldLine++
			}
			if edits[at].how != '-' {
				newLine++
			}
		}
	}
	return out.String()
}

// span writes down where lines are, as diff does: of none, the line before.
func span(first, n int) string {
	switch n {
	case 0:
		return fmt.Sprintf("%d,0", first-1)
	case 1:
		return fmt.Sprint(first)
	}
	return fmt.Sprintf("%d,%d", first, n)
}
