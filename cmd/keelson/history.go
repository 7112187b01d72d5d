package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"sigs.k8s.io/yaml"

	"github.com/keelson-io/keelson/server/history/historypb"
)

const historyUsage = `Usage:

  keelson history PREFIX [flags]

Show what changed under a prefix, and when: what the server's log has, also of what was compacted. How long it has that says the
server's --history-retention. Objects of Kubernetes are shown as YAML. A MOMENT is ` + momentUsage + `.

`

// historyCommand is keelson history.
type historyCommand struct {
	client   clientOptions
	key      string
	exact    bool
	except   prefixes
	since    *historypb.Moment
	until    *historypb.Moment
	limit    int64
	newest   bool
	format   string
	diff     bool
	out      io.Writer
	values   *decoder
	last     map[string]shown // what keys were, as far as that has been seen
	withheld []string         // what --diff --limit holds back
}

// shown is what a key was.
type shown struct {
	text string
	is   bool // there was something
}

func (p *program) history(ctx context.Context, args []string) error {
	c, err := p.parseHistory(args)
	if err != nil {
		return err
	}
	conn, _, err := c.client.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	c.out, c.values = p.stdout, newDecoder()
	defer c.values.close()
	extent, err := c.run(ctx, conn)
	if err != nil {
		return explain(err)
	}
	fmt.Fprintf(p.stderr, "The log has all changes from revision %d on; the current revision is %d, %s.\n",
		extent.GetCompleteRevision(), extent.GetRevision(), compactedAt(extent.GetCompactRevision()))
	return nil
}

// explain says what an error of the service means.
func explain(err error) error {
	switch s := status.Convert(err); s.Code() {
	case codes.Unimplemented:
		return errors.New("the server is not Keelson, or an older one: it has no history")
	case codes.OutOfRange, codes.ResourceExhausted, codes.InvalidArgument:
		return errors.New(s.Message())
	}
	return err
}

func (p *program) parseHistory(args []string) (*historyCommand, error) {
	c := &historyCommand{format: "simple", last: map[string]shown{}}
	f := p.flags(historyUsage)
	f.own("--exact", "the key PREFIX alone", &c.exact)
	f.own("--exclude PREFIX", "but not the keys under this one; may be given more than once", &c.except)
	f.own("--since MOMENT", "what changed after it", momentFlag{&c.since, time.Now})
	f.own("--until MOMENT", "what had changed by then", momentFlag{&c.until, time.Now})
	f.own("--limit N", "the last N changes, or the first with --since and no --newest-first", &c.limit)
	f.own("--newest-first", "the newest change first", &c.newest)
	f.own("-w, --write-out FORMAT", "simple (a line for each change, the default), yaml (with the objects), or json", &c.format)
	f.own("--diff", "what each change made different", &c.diff)
	c.client.define(f)
	rest, err := f.parse(args)
	switch {
	case err != nil:
		return nil, err
	case len(rest) != 1 || rest[0] == "":
		return nil, usageError("it takes one prefix")
	case c.format != "simple" && c.format != "yaml" && c.format != "json":
		return nil, usageError("-w %s: there is simple, yaml and json", c.format)
	case c.limit < 0:
		return nil, usageError("--limit is negative")
	case c.diff && (c.format == "json" || c.newest):
		return nil, usageError("--diff is for people, and in the order in which things happened: not with -w json, nor with --newest-first")
	}
	c.key = rest[0]
	return c, nil
}

func (c *historyCommand) run(ctx context.Context, conn *grpc.ClientConn) (*historypb.Extent, error) {
	r := &historypb.ChangesRequest{
		Keys: prefixRange(c.key), Except: c.except.ranges(), Since: c.since, Until: c.until, Limit: c.limit,
		KeysOnly: c.format == "simple" && !c.diff,
	}
	if c.exact {
		r.Keys = &historypb.Range{Key: []byte(c.key)}
	}
	// The last ones are found from the end.
	last := c.limit > 0 && c.since == nil && !c.newest
	if r.NewestFirst = c.newest || last; c.diff {
		// What a key was before is seen on the way, so everything is read.
		r.NewestFirst, r.Since, r.Limit = false, nil, 0
	}
	var from int64
	if c.diff && c.since != nil {
		var err error
		if from, err = c.revision(ctx, conn); err != nil {
			return nil, err
		}
	}
	stream, err := historypb.NewHistoryClient(conn).Changes(ctx, r, grpc.MaxCallRecvMsgSize(maxMessage))
	if err != nil {
		return nil, err
	}
	var extent *historypb.Extent
	var back []*historypb.Change
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if resp.Extent != nil {
			extent = resp.Extent
		}
		for _, change := range resp.Changes {
			switch {
			case last && !c.diff:
				back = append(back, change)
				continue
			case c.diff && change.ModRevision <= from:
				c.remember(change, c.text(ctx, change))
				continue
			}
			if err := c.show(ctx, change); err != nil {
				return nil, err
			}
			if c.diff && c.since != nil && c.limit > 0 && int64(len(c.withheld)) == c.limit {
				return extent, c.release()
			}
		}
	}
	for i := range back {
		if err := c.show(ctx, back[len(back)-1-i]); err != nil {
			return nil, err
		}
	}
	return extent, c.release()
}

// maxMessage is the largest message that is taken: a value may be as large as --max-request-bytes of the server allows, beside others.
const maxMessage = 1 << 30

// revision gives that of --since.
func (c *historyCommand) revision(ctx context.Context, conn *grpc.ClientConn) (int64, error) {
	if at, ok := c.since.At.(*historypb.Moment_Revision); ok {
		return at.Revision, nil
	}
	// No key is named so, and what is asked for is the moment alone.
	stream, err := historypb.NewHistoryClient(conn).Changes(ctx, &historypb.ChangesRequest{
		Keys: &historypb.Range{Key: []byte(c.key), RangeEnd: prefixRange(c.key).RangeEnd}, Since: c.since, Limit: 1, KeysOnly: true,
	})
	if err != nil {
		return 0, err
	}
	for {
		resp, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return 1<<63 - 1, nil // nothing has changed since
		case err != nil:
			return 0, err
		case len(resp.Changes) > 0:
			return resp.Changes[0].ModRevision - 1, nil
		}
	}
}

// op is what a change did.
func op(change *historypb.Change) string {
	switch change.Version {
	case 0:
		return "deleted"
	case 1:
		return "created"
	}
	return "changed"
}

func (c *historyCommand) text(ctx context.Context, change *historypb.Change) string {
	switch {
	case change.Version == 0:
		return ""
	case change.ValueGone:
		return "# The value was removed from the log just now.\n"
	}
	return c.values.show(ctx, change.Value)
}

func (c *historyCommand) remember(change *historypb.Change, text string) {
	c.last[string(change.Key)] = shown{text, change.Version > 0}
}

// show prints a change, or keeps it until it is known to be one of the last.
func (c *historyCommand) show(ctx context.Context, change *historypb.Change) error {
	line := fmt.Sprintf("%d  %s  %s  %s", change.ModRevision, stamp(change.UnixMs), op(change), printable(string(change.Key)))
	if change.Lease != 0 {
		line += fmt.Sprintf("  lease %x", change.Lease)
	}
	switch {
	case c.format == "json":
		return writeJSON(c.out, c.asJSON(ctx, change))
	case c.diff:
		text := c.text(ctx, change)
		before, seen := c.last[string(change.Key)]
		c.remember(change, text)
		difference := lineDiff(before.text, text)
		if !seen && change.Version > 1 {
			difference = "# What it was before is not in the log any more.\n" + text
		}
		return c.keep(line + "\n" + difference)
	case c.format == "yaml":
		return c.print("# " + line + "\n" + c.text(ctx, change) + "---\n")
	}
	return c.print(line + "\n")
}

func (c *historyCommand) print(text string) error {
	_, err := io.WriteString(c.out, text)
	return err
}

// keep holds back what may turn out not to be one of the last.
func (c *historyCommand) keep(text string) error {
	if c.limit == 0 {
		return c.print(text)
	}
	if c.withheld = append(c.withheld, text); int64(len(c.withheld)) > c.limit {
		c.withheld = c.withheld[1:]
	}
	return nil
}

func (c *historyCommand) release() error {
	return c.print(strings.Join(c.withheld, ""))
}

// changeJSON is a change as -w json has it.
type changeJSON struct {
	Revision       int64           `json:"revision"`
	Sub            int32           `json:"sub"`
	Time           string          `json:"time"`
	Op             string          `json:"op"`
	Key            string          `json:"key"`
	KeyBytes       []byte          `json:"key_base64,omitempty"` // if the key is no text
	Version        int64           `json:"version,omitempty"`
	CreateRevision int64           `json:"create_revision,omitempty"`
	Lease          int64           `json:"lease,omitempty"`
	Value          []byte          `json:"value_base64,omitempty"`
	Object         json.RawMessage `json:"object,omitempty"` // in place of the value
	ValueGone      bool            `json:"value_gone,omitempty"`
}

func (c *historyCommand) asJSON(ctx context.Context, change *historypb.Change) *changeJSON {
	j := &changeJSON{
		Revision: change.ModRevision, Sub: change.Sub, Time: stamp(change.UnixMs), Op: op(change), Key: string(change.Key),
		KeyBytes: bytesOf(change.Key), Version: change.Version, CreateRevision: change.CreateRevision, Lease: change.Lease, ValueGone: change.ValueGone,
	}
	if isObject(change.Value) {
		j.Object = change.Value // as it is: numbers of any size, and fields in whatever order and number
		return j
	}
	if text, ok := c.values.object(ctx, change.Value); ok {
		if object, err := yaml.YAMLToJSON([]byte(text)); err == nil {
			j.Object = object
			return j
		}
	}
	j.Value = change.Value
	return j
}

// bytesOf gives a key that is no text, for it cannot be read off a string of JSON.
func bytesOf(key []byte) []byte {
	if printableText(string(key)) {
		return nil
	}
	return key
}

// writeJSON writes something as a line of JSON that does a terminal no harm.
func writeJSON(w io.Writer, v any) error {
	var line bytes.Buffer
	e := json.NewEncoder(&line)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return err
	}
	_, err := io.WriteString(w, harmless(line.String()))
	return err
}
