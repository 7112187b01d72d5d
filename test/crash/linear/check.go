package linear

import (
	"bytes"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/keelson-io/keelson/test/conformance/history"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

var (
	// ErrIllegal means that no order of the requests explains their answers.
	ErrIllegal = errors.New("linear: the history is not linearizable")
	// ErrUndecided means that the search took too long.
	ErrUndecided = errors.New("linear: the search for an order took too long")
)

// explaining bounds the search for the longest part of a history that can be explained.
const explaining = 10 * time.Second

// Verdict is what came of a check.
type Verdict struct {
	// Calls is how many requests took part.
	Calls int
	// Open is how many of them had no answer and may have been done.
	Open int
	// Took is how long the search took.
	Took time.Duration
	// Page is an HTML page that shows the requests around those that cannot be explained.
	Page []byte
}

// Check judges a history; events are what a watch of all keys from the first revision on has shown after
// the last request. The error is ErrIllegal or ErrUndecided, or says that the events are no history themselves.
func Check(ops []*history.Op, events []*mvccpb.Event, patience time.Duration) (*Verdict, error) {
	shown, err := history.NewModel(events)
	if err != nil {
		return nil, err
	}
	j := &judge{shown: shown, seed: maphash.MakeSeed()}
	calls := j.prepare(ops)
	v := &Verdict{Calls: len(calls)}
	for _, c := range calls {
		if c.Input.(*call).kind == shownLater {
			v.Open++
		}
	}
	began := time.Now()
	result := porcupine.CheckOperationsTimeout(j.model(initial()), calls, patience)
	v.Took = time.Since(began)
	switch result {
	case porcupine.Ok:
		return v, nil
	case porcupine.Unknown:
		err = fmt.Errorf("%w: %v for %d requests", ErrUndecided, v.Took, len(calls))
	default:
		err = ErrIllegal
	}
	return v, errors.Join(err, j.explain(calls, v))
}

func (j *judge) model(from *state) porcupine.Model {
	return porcupine.Model{
		Init: func() any { return from },
		Step: func(s, input, _ any) (bool, any) {
			next := j.step(s.(*state), input.(*call))
			return next != nil, next
		},
		Equal:             func(a, b any) bool { return a.(*state).equal(b.(*state)) },
		Hash:              func(s any) uint64 { return s.(*state).path ^ s.(*state).rest },
		DescribeOperation: func(input, _ any) string { return input.(*call).String() },
		DescribeState:     func(s any) string { return s.(*state).String() },
	}
}

// prepare makes porcupine's operations of what was recorded.
func (j *judge) prepare(ops []*history.Op) []porcupine.Operation {
	var end time.Duration
	claimed := map[int64]bool{}
	for _, op := range ops {
		end = max(end, op.Begin, op.End)
		if op.Response != nil && history.Changed(op.Response) {
			claimed[op.Revision()] = true
		}
	}
	var unclaimed []int64
	for rev := int64(2); rev <= j.shown.Last(); rev++ {
		if !claimed[rev] {
			unclaimed = append(unclaimed, rev)
		}
	}
	var calls []porcupine.Operation
	add := func(c *call, begin, end time.Duration) {
		calls = append(calls, porcupine.Operation{ClientId: c.op.Client, Input: c, Call: int64(begin), Return: int64(end)})
	}
	for _, op := range ops {
		var leaseOrCompaction bool
		switch op.Request.(type) {
		case *pb.LeaseGrantRequest, *pb.LeaseRevokeRequest, *pb.CompactionRequest:
			leaseOrCompaction = true
		}
		switch {
		case op.Serializable():
		case op.Unknown:
			if leaseOrCompaction {
				add(&call{op: op, kind: announced}, op.Begin, op.Begin)
			}
			if makes := j.couldMake(op, unclaimed); len(makes) > 0 {
				add(&call{op: op, kind: shownLater, makes: makes}, op.Begin, end+1)
			}
		case op.Err != nil:
			add(&call{op: op, kind: answered}, op.Begin, op.End)
		default:
			add(&call{op: op, kind: answered, answer: history.WithoutHeaders(op.Response)}, op.Begin, op.End)
			if leaseOrCompaction {
				add(&call{op: op, kind: observed}, op.Begin, op.End)
			}
		}
	}
	return calls
}

// couldMake finds the revisions that a request without an answer may have made.
func (j *judge) couldMake(op *history.Op, unclaimed []int64) []int64 {
	var makes []int64
	for _, rev := range unclaimed {
		o := history.Execute(j.shown.State(rev-1), op.Request, rev, j.shown.State)
		if len(o.Events) > 0 && j.isShown(rev, o.Events) {
			makes = append(makes, rev)
		}
	}
	return makes
}

// around is how many requests before and after those that cannot be explained are shown.
const around = 150

// explain says where the longest order found ends, and what does not go on from there.
func (j *judge) explain(calls []porcupine.Operation, v *Verdict) error {
	_, info := porcupine.CheckOperationsVerbose(j.model(initial()), calls, explaining)
	var longest []int
	for _, order := range info.PartialLinearizations()[0] {
		if len(order) > len(longest) {
			longest = order
		}
	}
	states := []*state{initial()}
	done := map[int]bool{}
	for _, i := range longest {
		states = append(states, j.step(states[len(states)-1], calls[i].Input.(*call)))
		done[i] = true
	}
	// A search that begins a little before has a page that can be looked at.
	from := max(0, len(longest)-around)
	var left, window []porcupine.Operation
	for _, i := range longest[from:] {
		window = append(window, calls[i])
	}
	for i, c := range calls {
		if !done[i] {
			left = append(left, c)
		}
	}
	slices.SortStableFunc(left, func(a, b porcupine.Operation) int { return int(a.Return - b.Return) })
	window = append(window, left[:min(len(left), around)]...)
	model := j.model(states[from])
	_, info = porcupine.CheckOperationsVerbose(model, window, explaining)
	var page bytes.Buffer
	if err := porcupine.Visualize(model, info, &page); err != nil {
		return err
	}
	v.Page = page.Bytes()
	return j.stuck(states[len(states)-1], left)
}

// stuck describes the state after which nothing goes on, and the requests that would have to.
func (j *judge) stuck(s *state, left []porcupine.Operation) error {
	var text strings.Builder
	fmt.Fprintf(&text, "%d requests have no place after the state %v", len(left), s)
	if next := s.rev + 1; next <= j.shown.Last() {
		fmt.Fprintf(&text, "\nthe next revision is %v", j.shown.Events(next))
	}
	for _, c := range left[:min(len(left), 8)] {
		if c.Call <= left[0].Return {
			fmt.Fprintf(&text, "\n%v", c.Input)
		}
	}
	return errors.New(text.String())
}

func (c *call) String() string {
	switch c.kind {
	case observed:
		return fmt.Sprintf("the header's revision of: %v", c.op)
	case announced:
		return fmt.Sprintf("perhaps done from here on: %v", c.op)
	case shownLater:
		return fmt.Sprintf("perhaps the maker of %v: %v", c.makes, c.op)
	}
	return c.op.String()
}
