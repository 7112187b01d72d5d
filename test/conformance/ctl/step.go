package ctl

import (
	"regexp"
	"slices"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

// Step is one command. In Args and Stdin, $member, $endpoint, $peer, $dir and $lease1,
// $lease2, … (in hexadecimal, in the order of grants) stand for the server's own.
type Step struct {
	Args  []string
	Stdin string
	// Formats in which the step is run; nil means all.
	Formats []string
	// Until is how many events, or keys of an election, a command that does not end by
	// itself shows before it is interrupted. What a watch writes as text is compared up to
	// the last of these: of that one nothing but the beginning is waited for.
	Until int
	// Stays marks a command that does not end by itself and shows nothing.
	Stays bool
	// During are the steps to run while this command stays.
	During []Step
	// Alarm raises an alarm instead of running a command, which etcdctl cannot.
	Alarm pb.AlarmType
	// Takes is how long the command needs at most, where that is long.
	Takes time.Duration
	// Differs says why the answers differ, where they must; and then they must.
	Differs string
	// DiffersShared says so of servers that share a database.
	DiffersShared string
}

func (s Step) String() string { return strings.Join(s.Args, " ") }

// message is an empty one of the kind that the command writes in the format protobuf, or nil for text.
func (s Step) message() proto.Message {
	messages := []struct {
		command string
		empty   proto.Message
	}{
		{"put", &pb.PutResponse{}}, {"get", &pb.RangeResponse{}}, {"del", &pb.DeleteRangeResponse{}},
		{"txn", &pb.TxnResponse{}}, {"watch", &pb.WatchResponse{}}, {"elect", &pb.RangeResponse{}},
		{"lease", &pb.ResponseHeader{}}, {"alarm", &pb.AlarmResponse{}},
		{"member list", &pb.MemberListResponse{}}, {"member update", &pb.MemberUpdateResponse{}},
		{"member add", &pb.MemberAddResponse{}}, {"auth status", &pb.AuthStatusResponse{}},
		{"downgrade", &pb.DowngradeResponse{}}, {"user list", &pb.AuthUserListResponse{}}, {"role list", &pb.AuthRoleListResponse{}},
		{"user get", &pb.AuthUserGetResponse{}}, {"role get", &pb.AuthRoleGetResponse{}},
		{"user", &pb.AuthUserAddResponse{}}, {"role", &pb.AuthRoleAddResponse{}}, // the others have a header alone
	}
	for _, m := range messages {
		if s.is(strings.Fields(m.command)...) {
			return m.empty
		}
	}
	return nil
}

func (s Step) runsIn(format string) bool {
	return s.Formats == nil || slices.Contains(s.Formats, format)
}

func (s Step) stays() bool { return s.Stays || s.Until > 0 || s.During != nil }

func (s Step) is(command ...string) bool {
	return len(s.Args) >= len(command) && slices.Equal(s.Args[:len(command)], command)
}

// watchesOn says whether the step watches from now on, so that it must have begun before what it is to see.
func (s Step) watchesOn() bool {
	return s.is("watch") && s.During != nil && !slices.ContainsFunc(s.Args, func(a string) bool { return strings.HasPrefix(a, "--rev") })
}

var shownBy = map[string]*regexp.Regexp{
	"simple": regexp.MustCompile(`(?m)^(PUT|DELETE)$`),
	"json":   regexp.MustCompile(`"kv":`),
	"fields": regexp.MustCompile(`(?m)^"Type" : `),
}

// shown counts the events that a watch has written, or whether another command wrote anything.
func (s Step) shown(format string, out []byte) int {
	if !s.is("watch") {
		return min(len(out), 1)
	}
	if format != "protobuf" {
		return len(shownBy[format].FindAll(out, -1))
	}
	var all pb.WatchResponse // messages one after another are one message with all their events
	if proto.Unmarshal(out, &all) != nil {
		return 0
	}
	return len(all.Events)
}

// cut takes away what a watch wrote as text from the last event on that was waited for.
func (s Step) cut(format string, out []byte) []byte {
	if !s.is("watch") || s.Until == 0 || format != "simple" && format != "fields" {
		return out
	}
	if at := shownBy[format].FindAllIndex(out, s.Until); len(at) == s.Until {
		return out[:at[s.Until-1][0]]
	}
	return out
}
