// Package report keeps the results of the benchmark, judges them by the project's floors, and writes them as a Markdown
// table, between two markers of a README, and as JSON. It runs nothing; it reads the machine's description from /proc.
package report
