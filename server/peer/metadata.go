package peer

import (
	"context"
	"strconv"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// What a call says about itself. Ids are in hex.
const (
	keyCluster = "keelson-cluster-id"
	keyFrom    = "keelson-from"
	keyTo      = "keelson-to"
	keyOrigin  = "keelson-origin"  // left out if it is 0
	keyUnbegun = "keelson-unbegun" // there if it is so
)

// caller is who calls whom.
type caller struct {
	cluster, from, to uint64
	origin            uint64
	unbegun           bool
}

func hex(id uint64) string { return strconv.FormatUint(id, 16) }

// attach puts the metadata on a call. It takes the place of what is there under the same keys, which a
// forwarded request may have brought along from a client.
func (c caller) attach(ctx context.Context) context.Context {
	md, _ := metadata.FromOutgoingContext(ctx) // a copy
	if md == nil {
		md = metadata.MD{}
	}
	md.Set(keyCluster, hex(c.cluster))
	md.Set(keyFrom, hex(c.from))
	md.Set(keyTo, hex(c.to))
	md.Delete(keyOrigin)
	md.Delete(keyUnbegun)
	if c.unbegun {
		md.Set(keyUnbegun, "1")
	}
	if c.origin != 0 {
		md.Set(keyOrigin, hex(c.origin))
	}
	return metadata.NewOutgoingContext(ctx, md)
}

// readCaller reads what a call says about itself; false if it says nothing.
func readCaller(ctx context.Context) (caller, bool, error) {
	var c caller
	missing := 0
	for key, id := range map[string]*uint64{keyCluster: &c.cluster, keyFrom: &c.from, keyTo: &c.to} {
		values := metadata.ValueFromIncomingContext(ctx, key)
		if len(values) == 0 {
			missing++
			continue
		}
		var err error
		if *id, err = strconv.ParseUint(values[0], 16, 64); err != nil || len(values) > 1 {
			return c, true, status.Errorf(codes.InvalidArgument, "%s is not one id in hex: %q", key, values)
		}
	}
	switch missing {
	case 0:
		var err error
		c.unbegun = len(metadata.ValueFromIncomingContext(ctx, keyUnbegun)) > 0
		c.origin, err = readOrigin(metadata.ValueFromIncomingContext(ctx, keyOrigin))
		return c, true, err
	case 3:
		return c, false, nil
	}
	return c, true, status.Errorf(codes.InvalidArgument, "a call between members needs %s, %s and %s", keyCluster, keyFrom, keyTo)
}

// readOrigin reads what a cluster's log began with, from the values of keyOrigin. Who does not say is of a cluster that began with nothing.
func readOrigin(values []string) (origin uint64, err error) {
	if len(values) == 0 {
		return 0, nil
	}
	if origin, err = strconv.ParseUint(values[0], 16, 64); err != nil || len(values) > 1 {
		return 0, status.Errorf(codes.InvalidArgument, "%s is not one number in hex: %q", keyOrigin, values)
	}
	return origin, nil
}

type callerKey struct{}

// From gives the member that a call comes from, which the Guard has read; 0 if it did not say.
func From(ctx context.Context) uint64 {
	c, _ := ctx.Value(callerKey{}).(caller)
	return c.from
}
