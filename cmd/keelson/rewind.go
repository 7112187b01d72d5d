package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keelson-io/keelson/server/history/historypb"
)

const rewindUsage = `Usage:

  keelson rewind --prefix PREFIX --to MOMENT [--apply] [flags]
  keelson rewind --namespace NAMESPACE --to MOMENT [--apply] [flags]

Put back what was there under a prefix at some moment, as new revisions: keys that were deleted since are created again, keys that
were changed get their values of then, keys that came since are deleted. Without --apply it prints what it would do, and changes nothing.
How far back one can go says the server's --history-retention. A MOMENT is ` + momentUsage + `.

How long ago is another moment at each run: so --apply does not take that, and the dry run's last line names the revision to give.

It is done in transactions of at most --max-txn-ops keys and about a megabyte; the dry run says in how many. Each is refused as a whole if one of its
keys has been changed since the list was made. Several transactions are not one: others may see what is there in between, and what was done before one
that is refused is done. For the rest rewind to the same revision again, without --apply first: that makes a new list, which has also what others have
changed or made meanwhile, to be changed back or deleted. What others make after the list was made is not on it, and stays.
The exit code is 1 if anything was refused or failed.

`

// rewindCommand is keelson rewind.
type rewindCommand struct {
	client clientOptions
	prefix string
	exact  bool
	// namespace is one of Kubernetes', whose keys are meant.
	namespace string
	except    prefixes
	to        *historypb.Moment
	apply     bool
	force     bool
	ops       int
	json      bool

	leases map[int64]bool // those that there are
	plan   rewindPlan
}

// rewindPlan is what is to be done.
type rewindPlan struct {
	steps []*rewindStep
	count map[string]int // by what
}

// What a rewind does to a key.
const (
	createdAgain = "created again"
	changedBack  = "changed back"
	deleted      = "deleted"
	leftAlone    = "left alone"
	asItWas      = "as it was"
)

// rewindStep is one key. A dry run does not keep the value.
type rewindStep struct {
	what string
	key  *historypb.Rewound
	size int // of the value
}

func (p *program) rewind(ctx context.Context, args []string) error {
	c, err := p.parseRewind(args)
	if err != nil {
		return err
	}
	conn, _, err := c.client.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	return explain(c.run(ctx, p, conn))
}

func (p *program) parseRewind(args []string) (*rewindCommand, error) {
	c := &rewindCommand{ops: 128}
	f := p.flags(rewindUsage)
	f.own("--prefix PREFIX", "which keys; an empty one means all", &c.prefix)
	f.own("--exact", "the key PREFIX alone", &c.exact)
	f.own("--namespace NAMESPACE", "the namespace of Kubernetes of this name and what is in it; --prefix is then kube-apiserver's --etcd-prefix, /registry/ if not given", &c.namespace)
	f.own("--exclude PREFIX", "but not the keys under this one; may be given more than once", &c.except)
	ago := false
	f.own("--to MOMENT", "as they were then", func(text string) error {
		ago = isAgo(text)
		return momentFlag{&c.to, time.Now}.Set(text)
	})
	f.own("--apply", "do it", &c.apply)
	f.own("--force", "also where something was changed since the list was made", &c.force)
	f.own("--max-txn-ops N", fmt.Sprintf("most keys of a transaction, %d if not given; fewer if the server's flag of this name allows no more", c.ops), &c.ops)
	f.own("--json", "one JSON object for each key, and one for the whole", &c.json)
	c.client.define(f)
	if err := f.parseAlone(args); err != nil {
		return nil, err
	}
	switch {
	case c.namespace != "" && c.exact:
		return nil, usageError("--namespace and --exact do not go together")
	case c.namespace != "" && !f.given("prefix"):
		c.prefix = "/registry/"
	case !f.given("prefix"):
		return nil, usageError("--prefix is required; --prefix= means every key")
	case c.exact && c.prefix == "":
		return nil, usageError("--exact names no key")
	}
	switch {
	case c.to == nil:
		return nil, usageError("--to is required")
	case ago && c.apply:
		return nil, usageError("--apply takes a revision or a time, not how long ago: run it without --apply first, look at what it would do, and give the revision that its last line names")
	case c.ops < 1:
		return nil, usageError("--max-txn-ops is too small")
	case c.force && !c.apply:
		return nil, usageError("--force is of use with --apply only")
	}
	return c, nil
}

func (c *rewindCommand) run(ctx context.Context, p *program, conn *grpc.ClientConn) error {
	// The list is to have everything acknowledged before, whichever member it comes from.
	keys := prefixRange(c.prefix)
	if c.exact {
		keys = &historypb.Range{Key: []byte(c.prefix)}
	}
	if _, err := pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: keys.Key, CountOnly: true}); err != nil {
		return err
	}
	if err := c.listLeases(ctx, conn); err != nil {
		return err
	}
	stream, err := historypb.NewHistoryClient(conn).Rewound(ctx, c.request(keys), grpc.MaxCallRecvMsgSize(maxMessage))
	if err != nil {
		return err
	}
	if c.namespace != "" && !strings.HasSuffix(c.prefix, "/") {
		c.prefix += "/"
	}
	out := rewindOutput{json: c.json, w: p.stdout}
	c.plan.count = map[string]int{}
	var first *historypb.RewoundResponse
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if first == nil {
			first = resp
			out.begin(c, first)
		}
		for _, k := range resp.Keys {
			if c.namespace != "" && !inNamespace(c.prefix, string(k.Key), c.namespace) {
				continue
			}
			step := &rewindStep{c.judge(k), k, len(k.Then.GetValue())}
			c.plan.count[step.what]++
			out.step(step)
			if !c.apply && k.Then != nil {
				k.Then.Value = nil
			}
			if step.what != leftAlone && step.what != asItWas {
				c.plan.steps = append(c.plan.steps, step)
			}
		}
	}
	if first == nil {
		return errors.New("the server has said nothing")
	}
	return errors.Join(c.finish(ctx, conn, &out, first.Revision), out.err)
}

// request asks for what was there. What is in a namespace contains its name between slashes, and its own key has it in the end: whatever else does is left out when it comes, but the keys
// of other namespaces, of which there may be very many, do not come at all.
func (c *rewindCommand) request(keys *historypb.Range) *historypb.RewoundRequest {
	r := &historypb.RewoundRequest{Keys: keys, Except: c.except.ranges(), To: c.to}
	if c.namespace != "" {
		r.Containing = [][]byte{[]byte("/" + c.namespace + "/"), []byte("namespaces/" + c.namespace)}
	}
	return r
}

// listLeases asks which leases there are.
func (c *rewindCommand) listLeases(ctx context.Context, conn *grpc.ClientConn) error {
	resp, err := pb.NewLeaseClient(conn).LeaseLeases(ctx, &pb.LeaseLeasesRequest{})
	if err != nil {
		return err
	}
	c.leases = map[int64]bool{}
	for _, l := range resp.Leases {
		c.leases[l.ID] = true
	}
	return nil
}

// inNamespace tells whether a key of kube-apiserver is of an object in a namespace, or that namespace: PREFIX/RESOURCE/NAMESPACE/NAME,
// PREFIX/GROUP/RESOURCE/NAMESPACE/NAME (of custom resources, and also of services), PREFIX/namespaces/NAMESPACE.
func inNamespace(prefix, key, namespace string) bool {
	rest, ok := strings.CutPrefix(key, prefix)
	parts := strings.Split(strings.TrimPrefix(rest, "/"), "/")
	switch {
	case !ok:
		return false
	case len(parts) == 2:
		return parts[0] == "namespaces" && parts[1] == namespace
	case len(parts) == 3:
		return parts[1] == namespace && !strings.Contains(parts[0], ".") // or it is a group's, and in no namespace
	}
	return len(parts) == 4 && parts[2] == namespace
}

// order puts first what others belong to, so that no controller of Kubernetes takes those for orphans in between: namespaces come first, and then what
// is made for others comes last. Within each the keys are in order.
func (p *rewindPlan) order(prefix string) {
	rank := func(s *rewindStep) int {
		resource, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(string(s.key.Key), prefix), "/"), "/")
		switch {
		case s.what == deleted:
			return 4
		case resource == "namespaces":
			return 0
		case resource == "replicasets", resource == "jobs", resource == "endpointslices", resource == "controllerrevisions":
			return 2
		case resource == "pods":
			return 3
		}
		return 1
	}
	slices.SortStableFunc(p.steps, func(a, b *rewindStep) int { return rank(a) - rank(b) })
}

// judge says what is to be done to a key.
func (c *rewindCommand) judge(k *historypb.Rewound) string {
	switch {
	case k.Same:
		return asItWas
	case k.Then != nil && k.Then.Lease != 0 && (k.LeaseEnded || !c.leases[k.Then.Lease]):
		return leftAlone // it would stay for ever, or for as long as another lease that got the id
	case k.Then == nil:
		return deleted
	case k.Now == nil:
		return createdAgain
	}
	return changedBack
}

// finish does what is to be done, if it is, and tells of it.
func (c *rewindCommand) finish(ctx context.Context, conn *grpc.ClientConn, out *rewindOutput, revision int64) error {
	sum := rewindSummary{
		Revision: revision, Created: c.plan.count[createdAgain], Changed: c.plan.count[changedBack], Deleted: c.plan.count[deleted],
		LeftAlone: c.plan.count[leftAlone], Same: c.plan.count[asItWas], Keys: len(c.plan.steps), Applied: c.apply,
	}
	c.plan.order(c.prefix)
	if !c.apply {
		for from := 0; from < len(c.plan.steps); from += c.chunk(from) {
			sum.Transactions++
		}
		out.summary(&sum)
		return nil
	}
	kv := pb.NewKVClient(conn)
	for from := 0; from < len(c.plan.steps); {
		n := c.chunk(from)
		resp, err := kv.Txn(ctx, c.txn(c.plan.steps[from:from+n]))
		switch {
		case tooMuch(err) && n > 1:
			c.ops = n / 2
			continue
		case err != nil:
			err = outcome(err)
		case !resp.Succeeded:
			err = c.conflict(out, c.plan.steps[from:from+n], resp)
		}
		if err != nil {
			sum.Keys = from
			out.summary(&sum)
			return fmt.Errorf("stopped after %d keys of %d: %w; what is left is shown by --to %d without --apply: keys that others have changed or made meanwhile are on that list too, to be changed back or deleted", from, len(c.plan.steps), err, revision)
		}
		sum.Transactions++
		sum.Header = resp.Header.GetRevision()
		from += n
	}
	out.summary(&sum)
	return nil
}

// tooMuch tells whether a server refuses a transaction since it is too large for it.
func tooMuch(err error) bool {
	switch rpctypes.Error(err) {
	case rpctypes.ErrTooManyOps, rpctypes.ErrRequestTooLarge:
		return true
	case rpctypes.ErrNoSpace, rpctypes.ErrTooManyRequests:
		return false
	}
	return status.Code(err) == codes.ResourceExhausted // gRPC has not even read it
}

// outcome says what a transaction that has failed has done.
func outcome(err error) error {
	s := status.Convert(err)
	switch s.Code() {
	case codes.InvalidArgument, codes.NotFound, codes.ResourceExhausted, codes.FailedPrecondition, codes.PermissionDenied, codes.Unauthenticated, codes.OutOfRange, codes.Unimplemented:
		return errors.New(s.Message())
	}
	return fmt.Errorf("%s (it is not known whether this transaction was done)", s.Message())
}

// txnBytes bounds a transaction, below the server's usual --max-request-bytes.
const txnBytes = 1 << 20

// chunk is how many steps, from one on, make a transaction.
func (c *rewindCommand) chunk(from int) (n int) {
	bytes := 0
	for from+n < len(c.plan.steps) && n < c.ops {
		s := c.plan.steps[from+n]
		if bytes += 3*len(s.key.Key) + s.size + 64; n > 0 && bytes > txnBytes {
			break
		}
		n++
	}
	return n
}

// txn makes the transaction of some steps. If a key is not what it was when the list was made it changes nothing, and tells what they are.
func (c *rewindCommand) txn(steps []*rewindStep) *pb.TxnRequest {
	txn := new(pb.TxnRequest)
	for _, s := range steps {
		key := s.key.Key
		if !c.force {
			txn.Compare = append(txn.Compare, &pb.Compare{
				Key: key, Target: pb.Compare_MOD, Result: pb.Compare_EQUAL, TargetUnion: &pb.Compare_ModRevision{ModRevision: s.key.Now.GetModRevision()},
			})
			txn.Failure = append(txn.Failure, &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: key, KeysOnly: true}}})
		}
		op := &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: key}}}
		if then := s.key.Then; then != nil {
			op.Request = &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: key, Value: then.Value, Lease: then.Lease}}
		}
		txn.Success = append(txn.Success, op)
	}
	return txn
}

// errConflict says that somebody else has changed something.
var errConflict = errors.New("keys were changed since the list was made, and so they, and those with them, were left as they are")

func (c *rewindCommand) conflict(out *rewindOutput, steps []*rewindStep, resp *pb.TxnResponse) error {
	for i, r := range resp.Responses {
		now := int64(0)
		if kvs := r.GetResponseRange().GetKvs(); len(kvs) > 0 {
			now = kvs[0].ModRevision
		}
		if i < len(steps) && now != steps[i].key.Now.GetModRevision() {
			out.conflict(steps[i], now)
		}
	}
	return errConflict
}

// rewindOutput prints.
type rewindOutput struct {
	json bool
	w    io.Writer
	err  error
}

func (o *rewindOutput) print(v any, line string) {
	var err error
	if o.json && v != nil {
		err = writeJSON(o.w, v)
	} else if !o.json && line != "" {
		_, err = fmt.Fprintln(o.w, line)
	}
	if o.err == nil {
		o.err = err
	}
}

func (o *rewindOutput) begin(c *rewindCommand, first *historypb.RewoundResponse) {
	when := ""
	if first.UnixMs != 0 {
		when = ", of " + stamp(first.UnixMs)
	}
	o.print(nil, fmt.Sprintf("%s as of revision %d%s; the current revision is %d", printable(c.prefix), first.Revision, when, first.Extent.GetRevision()))
}

// rewindJSON is a key as --json has it.
type rewindJSON struct {
	What string `json:"what"`
	Key  string `json:"key"`
	// KeyBytes is the key if it is no text.
	KeyBytes []byte `json:"key_base64,omitempty"`
	// Then and Now are the mod revisions of then and now, 0 if there was or is nothing.
	Then  int64  `json:"then"`
	Now   int64  `json:"now"`
	Time  string `json:"time,omitempty"`
	Bytes int    `json:"bytes"`
}

func (o *rewindOutput) step(s *rewindStep) {
	k := s.key
	j := &rewindJSON{What: s.what, Key: string(k.Key), KeyBytes: bytesOf(k.Key), Then: k.Then.GetModRevision(), Now: k.Now.GetModRevision(), Bytes: s.size}
	line := fmt.Sprintf("%-13s  %s", s.what, printable(string(k.Key)))
	if k.Then != nil {
		j.Time = stamp(k.Then.UnixMs)
		line += fmt.Sprintf("  (%d bytes of revision %d, %s)", j.Bytes, j.Then, j.Time)
	}
	switch s.what {
	case asItWas:
		line = ""
	case leftAlone:
		line += fmt.Sprintf("  its lease %x has ended", k.Then.Lease)
	}
	o.print(j, line)
}

func (o *rewindOutput) conflict(s *rewindStep, now int64) {
	j := &rewindJSON{What: "conflict", Key: string(s.key.Key), KeyBytes: bytesOf(s.key.Key), Then: s.key.Now.GetModRevision(), Now: now}
	o.print(j, fmt.Sprintf("%-13s  %s  (it is at revision %d, and was at %d)", j.What, printable(j.Key), now, j.Then))
}

// rewindSummary is what came of it.
type rewindSummary struct {
	Revision     int64 `json:"revision"`
	Created      int   `json:"created"`
	Changed      int   `json:"changed"`
	Deleted      int   `json:"deleted"`
	LeftAlone    int   `json:"left_alone"`
	Same         int   `json:"same"`
	Keys         int   `json:"keys"`
	Transactions int   `json:"transactions"`
	Applied      bool  `json:"applied"`
	Header       int64 `json:"now,omitempty"` // the revision after the last transaction
}

func (o *rewindOutput) summary(s *rewindSummary) {
	line := fmt.Sprintf("%d created again, %d changed back, %d deleted, %d left alone, %d as they were; ", s.Created, s.Changed, s.Deleted, s.LeftAlone, s.Same)
	if s.Applied {
		line += fmt.Sprintf("done for %d keys in %s", s.Keys, transactions(s.Transactions))
	} else {
		line += fmt.Sprintf("it takes %s. Nothing has been changed: --to %d --apply does it.", transactions(s.Transactions), s.Revision)
	}
	o.print(s, line)
}

func transactions(n int) string {
	if n == 1 {
		return "1 transaction"
	}
	return fmt.Sprintf("%d transactions", n)
}
