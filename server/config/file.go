package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"sigs.k8s.io/yaml"
)

// document is a configuration file, its values not yet read.
type document map[string]json.RawMessage

// errNotAMapping says that the file, or a section of it, is not a mapping of keys to values.
var errNotAMapping = errors.New("expected a mapping of keys to values")

// parseFile reads a configuration file, YAML or JSON, with etcd's keys. What it leaves out has etcd's defaults:
// arguments and environment count for nothing beside a file.
func parseFile(path string) (Options, []Warning, error) {
	o := Default()
	data, err := os.ReadFile(path)
	if err != nil {
		return o, nil, err
	}
	doc, err := parseDocument(data)
	if err != nil {
		return o, nil, fmt.Errorf("%s: %w", path, err)
	}
	warnings := doc.unknown()
	given := map[string]bool{}
	for key := range doc {
		given[key] = true
	}
	renamed, err := doc.applyAliases()
	warnings = append(warnings, renamed...)
	if err != nil {
		return o, warnings, fmt.Errorf("%s: %w", path, err)
	}
	if err := doc.readDurations(); err != nil {
		return o, warnings, fmt.Errorf("%s: %w", path, err)
	}
	plain, err := json.Marshal(doc)
	if err != nil {
		return o, warnings, err
	}
	if err := json.Unmarshal(plain, &o); err != nil {
		return o, warnings, fmt.Errorf("%s: %w", path, err)
	}
	if o.discovers() && o.InitialCluster == defaultInitialCluster {
		o.InitialCluster = ""
	}
	return o, append(warnings, inertWarnings(given)...), nil
}

func parseDocument(data []byte) (document, error) {
	plain, err := yaml.YAMLToJSON(data)
	if err != nil {
		return nil, err
	}
	doc := document{}
	if err := json.Unmarshal(plain, &doc); err != nil {
		return nil, fmt.Errorf("%w (%w)", errNotAMapping, err)
	}
	return doc, nil
}

// unknown warns of keys that nobody will read. etcd passes over them in silence, and so a certificate that was
// named at the wrong place goes unnoticed.
func (doc document) unknown() []Warning {
	warnings := unknownIn(doc, "", fileKeys())
	for section, fields := range map[string]reflect.Type{
		"client-transport-security": reflect.TypeFor[TLS](),
		"peer-transport-security":   reflect.TypeFor[TLS](),
		"socket-options":            reflect.TypeFor[SocketOptions](),
	} {
		inner := document{}
		if json.Unmarshal(doc[section], &inner) == nil {
			warnings = append(warnings, unknownIn(inner, section+".", keysOf(fields))...)
		}
	}
	slices.SortFunc(warnings, func(a, b Warning) int { return strings.Compare(a.Flag, b.Flag) })
	return warnings
}

func unknownIn(doc document, prefix string, known map[string]bool) []Warning {
	var warnings []Warning
	for key := range doc {
		if !known[strings.ToLower(key)] {
			warnings = append(warnings, Warning{prefix + key, "unknown key in the configuration file"})
		}
	}
	return warnings
}

// fileKeys are the keys that a file may have at its top.
func fileKeys() map[string]bool {
	keys := keysOf(reflect.TypeFor[Options]())
	for _, in := range inertFlags() {
		keys[in.name] = true
	}
	for _, a := range aliases() {
		keys[a.old] = true
	}
	return keys
}

func keysOf(t reflect.Type) map[string]bool {
	keys := map[string]bool{}
	for i := range t.NumField() {
		if key := t.Field(i).Tag.Get("json"); key != "-" {
			keys[key] = true
		}
	}
	return keys
}

// applyAliases renames the keys of older releases, unless the file has the successor too.
func (doc document) applyAliases() ([]Warning, error) {
	var warnings []Warning
	var gates Gates
	if err := unmarshalIfAny(doc["feature-gates"], &gates); err != nil {
		return nil, err
	}
	if gates == nil {
		gates = Gates{}
	}
	for _, a := range aliases() {
		value, ok := doc[a.old]
		if !ok {
			continue
		}
		delete(doc, a.old)
		warnings = append(warnings, a.warning())
		switch {
		case a.flag == "peer-skip-client-san-verification":
			if err := doc.skipPeerSAN(value); err != nil {
				return warnings, err
			}
		case a.flag != "":
			if _, both := doc[a.flag]; !both {
				doc[a.flag] = value
			}
		case a.gate != "":
			var on bool
			if err := json.Unmarshal(value, &on); err != nil {
				return warnings, fmt.Errorf("%s: %w", a.old, err)
			}
			if _, own := gates[a.gate]; !own {
				gates[a.gate] = on
			}
		}
	}
	if len(gates) > 0 {
		doc["feature-gates"], _ = json.Marshal(gates.String())
	}
	return warnings, nil
}

// readDurations makes numbers of durations such as "24h", which etcd refuses.
func (doc document) readDurations() error {
	for field := range reflect.TypeFor[Options]().Fields() {
		key := field.Tag.Get("json")
		if field.Type != reflect.TypeFor[time.Duration]() || !bytes.HasPrefix(doc[key], []byte{'"'}) {
			continue
		}
		d, err := time.ParseDuration(strings.Trim(string(doc[key]), `"`))
		if err != nil {
			return fmt.Errorf("%s: %s is no duration such as 1h30m, nor a number of nanoseconds", key, doc[key])
		}
		doc[key] = json.RawMessage(strconv.FormatInt(int64(d), 10))
	}
	return nil
}

// skipPeerSAN moves the one key that has gone from the top of the file into a section.
func (doc document) skipPeerSAN(value json.RawMessage) error {
	section := map[string]json.RawMessage{"skip-client-san-verification": value}
	var own map[string]json.RawMessage
	if err := unmarshalIfAny(doc["peer-transport-security"], &own); err != nil {
		return fmt.Errorf("invalid peer-transport-security: %w", err)
	}
	maps.Copy(section, own)
	merged, err := json.Marshal(section)
	if err != nil {
		return err
	}
	doc["peer-transport-security"] = merged
	return nil
}

func unmarshalIfAny(data json.RawMessage, into any) error {
	if len(data) == 0 {
		return nil
	}
	return json.Unmarshal(data, into)
}
