package config

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"slices"
	"strings"
)

var (
	// ErrHelp says that help was asked for, not a server.
	ErrHelp = flag.ErrHelp
	// ErrVersion says that the version was asked for, not a server.
	ErrVersion = errors.New("version asked for")
	// ErrUsage wraps what is wrong with the command line itself: an unknown flag, or a value that cannot be read.
	// etcd prints it with a line on its usage and exits with 2; every other error exits with 1.
	ErrUsage = errors.New("usage")
	// ErrShadowedEnv says that a flag and its environment variable are both set, which etcd refuses.
	ErrShadowedEnv = errors.New("conflicting environment variable is shadowed by corresponding command-line flag (either unset environment variable or disable flag)")

	errParse = errors.New("parse error")
)

// Warning is something that the operator should read and that does not stop the server.
type Warning struct {
	// Flag is the flag, environment variable or key of the configuration file that it is about.
	Flag string
	// Text says what about it.
	Text string
}

// Input is where options come from.
type Input struct {
	// Args are the command line's arguments, without the program's name.
	Args []string
	// Environ is the environment as name=value.
	Environ []string
}

// Load parses the options, fills in what follows from them, and validates the whole. The warnings are of use
// with an error too.
func Load(in Input) (Options, []Warning, error) {
	o, warnings, err := Parse(in)
	if err != nil {
		return o, warnings, err
	}
	o.EnsureDefaults()
	if showsPassword(in.Args) {
		warnings = append(warnings, Warning{"datastore", "the database's password is in the arguments, where the list of processes shows it: " +
			"give it in --datastore-password-file, PGPASSWORD or ETCD_DATASTORE"})
	}
	return o, append(warnings, o.advice()...), o.Validate()
}

// Parse reads the options from a configuration file if one is named, else from arguments and environment.
func Parse(in Input) (Options, []Warning, error) {
	o := Default()
	f := newFlags(&o)
	if err := f.Parse(in.Args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return o, nil, ErrHelp
		}
		return o, nil, usageError{err}
	}
	if f.NArg() > 0 {
		return o, nil, fmt.Errorf("%q is not a valid flag", f.Arg(0))
	}
	if f.show {
		return o, nil, ErrVersion
	}
	env := environ(in.Environ)
	if f.file == "" {
		f.file = env[envName("config-file")]
	}
	if f.file != "" {
		return parseFile(f.file)
	}
	warnings, err := f.parseEnviron(env)
	if err != nil {
		return o, warnings, err
	}
	given := map[string]bool{}
	f.Visit(func(fl *flag.Flag) { given[fl.Name] = true })
	renamed, err := f.applyAliases(given)
	warnings = append(warnings, renamed...)
	if err != nil {
		return o, warnings, err
	}
	if given["listen-client-urls"] && !given["advertise-client-urls"] {
		o.AdvertiseClientURLs = nil
	}
	if o.discovers() && !given["initial-cluster"] {
		o.InitialCluster = ""
	}
	return o, append(warnings, inertWarnings(given)...), nil
}

// usageError is an error with the flag package's own text that is also ErrUsage.
type usageError struct{ error }

func (e usageError) Unwrap() []error { return []error{e.error, ErrUsage} }

// envName is the environment variable of a flag.
func envName(flag string) string {
	return "ETCD_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// environ returns the variables that are etcd's.
func environ(list []string) map[string]string {
	env := map[string]string{}
	for _, entry := range list {
		if name, value, ok := strings.Cut(entry, "="); ok && strings.HasPrefix(name, "ETCD_") {
			env[name] = value
		}
	}
	return env
}

// parseEnviron sets the flags that the arguments left alone from their variables. An empty variable says
// nothing, but beside its flag even that is refused. Values stay out of the warnings: one may be a password.
func (f *flags) parseEnviron(env map[string]string) ([]Warning, error) {
	var warnings []Warning
	if env[envName("version")] != "" {
		warnings = append(warnings, Warning{envName("version"), "cannot set special environment variable"})
	}
	delete(env, envName("version"))
	delete(env, "ETCD_UNSUPPORTED_ARCH")

	given := map[string]bool{}
	f.Visit(func(fl *flag.Flag) { given[fl.Name] = true })
	var errs []error
	f.VisitAll(func(fl *flag.Flag) {
		name := envName(fl.Name)
		value, ok := env[name]
		delete(env, name)
		switch {
		case !ok:
		case given[fl.Name]:
			errs = append(errs, fmt.Errorf("%w: %s", ErrShadowedEnv, name))
		case value != "":
			if err := f.Set(fl.Name, value); err != nil {
				errs = append(errs, fmt.Errorf("invalid value %q for %s: %w", value, name, err))
			}
		}
	})
	for _, name := range slices.Sorted(maps.Keys(env)) {
		warnings = append(warnings, Warning{name, "unrecognized environment variable"})
	}
	return warnings, errors.Join(errs...)
}
