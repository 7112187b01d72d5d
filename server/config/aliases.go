package config

import (
	"fmt"
	"strconv"
)

// An alias is the name that an older release had for a flag, or for a feature gate.
type alias struct {
	old  string
	flag string // the successor, if that is a flag
	gate string // the successor, if that is a feature gate
}

func aliases() []alias {
	var all []alias
	for _, name := range []string{
		"compact-hash-check-time", "corrupt-check-time", "compaction-batch-limit", "compaction-sleep-interval",
		"watch-progress-notify-interval", "warning-apply-duration", "warning-unary-request-duration",
		"bootstrap-defrag-threshold-megabytes", "memory-mlock", "snapshot-catchup-entries", "max-learners",
		"downgrade-check-time", "peer-skip-client-san-verification", "enable-distributed-tracing",
		"distributed-tracing-address", "distributed-tracing-service-name", "distributed-tracing-instance-id",
		"distributed-tracing-sampling-rate", "backend-bbolt-freelist-type",
	} {
		all = append(all, alias{old: "experimental-" + name, flag: name})
	}
	return append(all,
		alias{old: "experimental-snapshot-catch-up-entries", flag: "snapshot-catchup-entries"},
		alias{old: "experimental-initial-corrupt-check", gate: "InitialCorruptCheck"},
		alias{old: "experimental-compact-hash-check-enabled", gate: "CompactHashCheck"},
		alias{old: "experimental-enable-lease-checkpoint", gate: "LeaseCheckpoint"},
		alias{old: "experimental-enable-lease-checkpoint-persist", gate: "LeaseCheckpointPersist"},
		alias{old: "experimental-txn-mode-write-with-shared-buffer", gate: "TxnModeWriteWithSharedBuffer"},
		alias{old: "experimental-stop-grpc-service-on-defrag", gate: "StopGRPCServiceOnDefrag"},
		alias{old: "experimental-set-member-localaddr", gate: "SetMemberLocalAddr"},
		alias{old: "experimental-enable-v2v3"},
		alias{old: "experimental-wait-cluster-ready-timeout"},
	)
}

// older is the flag of an alias. It keeps the text until it is known whether the successor was given too, which
// then wins.
type older struct {
	alias
	yes  bool
	text string
}

func (v *older) String() string   { return v.text }
func (v *older) IsBoolFlag() bool { return v.yes }

func (v *older) Set(text string) error {
	if v.gate != "" {
		if _, err := strconv.ParseBool(text); err != nil {
			return errParse
		}
	}
	v.text = text
	return nil
}

// aliases defines the older names. They are not shown in the help, which would double in length.
func (f *flags) aliases() {
	for _, a := range aliases() {
		v := &older{alias: a, yes: a.gate != ""}
		if a.flag != "" {
			b, ok := f.Lookup(a.flag).Value.(interface{ IsBoolFlag() bool })
			v.yes = ok && b.IsBoolFlag()
		}
		f.Var(v, a.old, "")
	}
}

// applyAliases hands the values of older names on to their successors, which win where both are given. It adds
// to given what it sets.
func (f *flags) applyAliases(given map[string]bool) ([]Warning, error) {
	gates := f.Lookup("feature-gates").Value.(Gates)
	var warnings []Warning
	for _, a := range aliases() {
		if !given[a.old] {
			continue
		}
		warnings = append(warnings, a.warning())
		text := f.Lookup(a.old).Value.String()
		switch {
		case a.flag != "" && !given[a.flag]:
			if err := f.Set(a.flag, text); err != nil {
				return warnings, usageError{fmt.Errorf("invalid value %q for flag -%s: %w", text, a.old, err)}
			}
			given[a.flag] = true
		case a.gate != "":
			if _, own := gates[a.gate]; !own {
				gates[a.gate], _ = strconv.ParseBool(text)
			}
		}
	}
	return warnings, nil
}

func (a alias) warning() Warning {
	switch {
	case a.flag != "":
		return Warning{a.old, "option has been renamed: use --" + a.flag}
	case a.gate != "":
		return Warning{a.old, "option has become a feature gate: use --feature-gates=" + a.gate + "=true|false"}
	}
	return Warning{a.old, "option has no effect: etcd has dropped it"}
}
