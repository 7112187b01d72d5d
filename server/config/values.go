package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strconv"
	"strings"
)

// List is a set of words, sorted, written as a comma-separated list.
type List []string

// String returns the words as a comma-separated list.
func (l List) String() string { return strings.Join(l, ",") }

// Set reads a comma-separated list.
func (l *List) Set(list string) error {
	words := strings.Split(list, ",")
	sort.Strings(words)
	*l = slices.Compact(words)
	return nil
}

// UnmarshalJSON reads the comma-separated list that a configuration file has.
func (l *List) UnmarshalJSON(data []byte) error {
	var list string
	if err := json.Unmarshal(data, &list); err != nil {
		return err
	}
	if list == "" {
		return nil
	}
	return l.Set(list)
}

// Has says whether the word, or "*", is in the list, or the list is empty: etcd's rule for origins and hosts.
func (l List) Has(word string) bool {
	return len(l) == 0 || slices.Contains(l, "*") || slices.Contains(l, word)
}

// origins is the flag of a List whose words are "*" or URLs.
type origins struct{ list *List }

func (v origins) String() string {
	if v.list == nil {
		return ""
	}
	return v.list.String()
}

func (v origins) Set(list string) error {
	if list == "*" {
		return v.list.Set(list)
	}
	urls, err := ParseURLs(list)
	if err != nil {
		return err
	}
	return v.list.Set(urls.String())
}

// words is the flag of a comma-separated list that keeps its order and may be empty.
type words struct{ list *[]string }

func (v words) String() string {
	if v.list == nil {
		return ""
	}
	return strings.Join(*v.list, ",")
}

func (v words) Set(list string) error {
	*v.list = strings.Split(list, ",")
	return nil
}

// set is the flag of a comma-separated list that is sorted and free of duplicates.
type set struct{ list *[]string }

func (v set) String() string { return words(v).String() }

func (v set) Set(list string) error { return (*List)(v.list).Set(list) }

// choice is the flag of a word that must be one of several.
type choice struct {
	value *string
	of    []string
}

var errInvalidValue = errors.New("invalid value")

func (v choice) String() string {
	if v.value == nil {
		return ""
	}
	return *v.value
}

func (v choice) Set(word string) error {
	if !slices.Contains(v.of, word) {
		return errInvalidValue
	}
	*v.value = word
	return nil
}

// choices is the flag of a comma-separated list of words that must be of a closed set. Its value is not kept.
type choices struct{ of []string }

func (v choices) String() string { return "" }

func (v choices) Set(list string) error {
	for word := range strings.SplitSeq(list, ",") {
		if !slices.Contains(v.of, word) {
			return fmt.Errorf("invalid value %q", word)
		}
	}
	return nil
}

// uint32Value is the flag of a uint32.
type uint32Value struct{ value *uint32 }

func (v uint32Value) String() string {
	if v.value == nil {
		return ""
	}
	return strconv.FormatUint(uint64(*v.value), 10)
}

func (v uint32Value) Set(text string) error {
	n, err := strconv.ParseUint(text, 0, 32)
	*v.value = uint32(n)
	return err
}

// Gates are the feature gates that were set. A gate that was not set has etcd's default.
type Gates map[string]bool

type stage string

const (
	alpha stage = "ALPHA"
	beta  stage = "BETA"

	allAlpha = "AllAlpha"
	allBeta  = "AllBeta"
)

type gate struct {
	name  string
	stage stage
	on    bool
}

// knownGates are etcd 3.7's. They switch parts of etcd's implementation; but for the two that compare data they change nothing of what this server does.
func knownGates() []gate {
	return []gate{
		{allAlpha, alpha, false},
		{allBeta, beta, false},
		{"CompactHashCheck", alpha, false},
		{"FastLeaseKeepAlive", beta, true},
		{"InitialCorruptCheck", alpha, false},
		{"LeaseCheckpoint", alpha, false},
		{"LeaseCheckpointPersist", alpha, false},
		{"PriorityRequest", alpha, false},
		{"SetMemberLocalAddr", alpha, false},
		{"StopGRPCServiceOnDefrag", alpha, false},
		{"TxnModeWriteWithSharedBuffer", beta, true},
	}
}

// inert gives the gates that were set and change nothing here.
func (g Gates) inert() Gates {
	inert := maps.Clone(g)
	delete(inert, "InitialCorruptCheck")
	delete(inert, "CompactHashCheck")
	return inert
}

func gateNamed(name string) (gate, bool) {
	all := knownGates()
	i := slices.IndexFunc(all, func(g gate) bool { return g.name == name })
	if i < 0 {
		return gate{}, false
	}
	return all[i], true
}

// String returns the gates that were set as a comma-separated list of name=bool.
func (g Gates) String() string {
	pairs := make([]string, 0, len(g))
	for name, on := range g {
		pairs = append(pairs, fmt.Sprintf("%s=%t", name, on))
	}
	sort.Strings(pairs)
	return strings.Join(pairs, ",")
}

// Set reads a comma-separated list of name=bool. AllAlpha and AllBeta set the gates of their stage that are not
// set on their own.
func (g Gates) Set(list string) error {
	given := map[string]bool{}
	for pair := range strings.SplitSeq(list, ",") {
		if pair == "" {
			continue
		}
		name, value, found := strings.Cut(pair, "=")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		if !found {
			return fmt.Errorf("missing bool value for %s", name)
		}
		on, err := strconv.ParseBool(value)
		if err != nil {
			return fmt.Errorf("invalid value of %s=%s, err: %w", name, value, err)
		}
		if _, ok := gateNamed(name); !ok {
			return fmt.Errorf("unrecognized feature gate: %s", name)
		}
		given[name] = on
	}
	for name, on := range given {
		g[name] = on
	}
	g.spread(given)
	return nil
}

// spread gives the gates of a stage the value of AllAlpha or AllBeta, unless they have one of their own.
func (g Gates) spread(given map[string]bool) {
	for all, stage := range map[string]stage{allAlpha: alpha, allBeta: beta} {
		on, ok := given[all]
		if !ok {
			continue
		}
		for _, known := range knownGates() {
			if _, own := g[known.name]; !own && known.stage == stage {
				g[known.name] = on
			}
		}
	}
}

// UnmarshalJSON reads the comma-separated list that a configuration file has.
func (g *Gates) UnmarshalJSON(data []byte) error {
	var list string
	if err := json.Unmarshal(data, &list); err != nil {
		return err
	}
	if *g == nil {
		*g = Gates{}
	}
	return g.Set(list)
}

// Enabled says whether a gate of etcd's is on, set or by default.
func (g Gates) Enabled(name string) bool {
	if on, ok := g[name]; ok {
		return on
	}
	known, _ := gateNamed(name)
	return known.on
}
