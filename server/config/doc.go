// Package config is etcd's command line: what an operator may say to a server, and what it means.
//
// One Options struct holds it. Parse fills it from the arguments, the ETCD_* environment or a configuration
// file with etcd's precedence: a configuration file makes arguments and environment ignored; an argument whose
// environment variable is set too is an error. EnsureDefaults derives what was left open from what was said,
// Validate refuses what cannot be, in etcd's words where etcd has words for it. VerifyBootstrap is apart, since
// etcd looks at the initial cluster only while a member has no data yet.
//
// Every flag of etcd 3.7 exists. They fall in four sorts:
//
//   - flags with a meaning here, each a field of Options;
//   - flags that mean something only among several members (raft, peers): fields too, accepted silently;
//   - flags that cannot mean anything here (inert.go): accepted, with one warning that says why;
//   - names of older releases (aliases.go): mapped to their successors, with a warning that names it.
//
// An unknown flag is an error.
//
// The package must not know what a server does with the options. It reads the configuration file and, in
// VerifyBootstrap, may ask the resolver; it opens nothing else, logs nothing and never exits: what the operator
// should read comes back as Warnings. Values have no goroutines and no locks.
package config
