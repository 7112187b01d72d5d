package ctl

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

// Formats are etcdctl's output formats.
func Formats() []string { return []string{"simple", "table", "json", "fields", "protobuf"} }

// patience bounds every wait for a command or for its output.
const patience = 10 * time.Second

// ErrNoOutput means that a command did not show what was expected of it in time.
var ErrNoOutput = errors.New("ctl: the command did not show what was waited for")

// Target is the server that commands are sent to.
type Target struct {
	// Etcdctl is the program's path.
	Etcdctl string
	// Endpoint is the server's client address, host and port.
	Endpoint string
	// Peer is its peer address, host and port.
	Peer string
	// Dir is an existing directory for the files that commands write.
	Dir string
	// Conn is a connection to the server, to learn ids from.
	Conn *grpc.ClientConn
}

// Result is what one command gave.
type Result struct {
	// Args are the command's words, as the step has them.
	Args           string
	Stdout, Stderr []byte
	// Code is the exit code, -1 after a signal.
	Code int
	step Step
}

// Session runs steps against one server, in one format.
type Session struct {
	target  Target
	format  string
	names   *names
	results []Result
	watches int // how many staying steps are watching from now on
}

// Run plays the steps and returns what each command gave. The results are masked.
func Run(ctx context.Context, target Target, format string, steps []Step) ([]Result, error) {
	s := &Session{target: target, format: format, names: newNames(target)}
	if err := s.learnMember(ctx); err != nil {
		return nil, err
	}
	err := s.play(ctx, steps)
	for i := range s.results {
		r := &s.results[i]
		r.Stdout, r.Stderr = s.names.mask(r.step, s.format, r.step.cut(s.format, r.Stdout)), s.names.mask(r.step, "simple", r.Stderr)
	}
	return s.results, err
}

func (s *Session) play(ctx context.Context, steps []Step) error {
	for _, step := range steps {
		if !step.runsIn(s.format) {
			continue
		}
		play := s.do
		if step.Alarm != pb.AlarmType_NONE {
			play = s.raise
		}
		if err := play(ctx, step); err != nil {
			return fmt.Errorf("etcdctl %s: %w", step, err)
		}
		if err := s.learnLeases(ctx); err != nil {
			return fmt.Errorf("after etcdctl %s: %w", step, err)
		}
	}
	return nil
}

// do runs one command to its end, or until it has shown what was waited for.
func (s *Session) do(ctx context.Context, step Step) error {
	ctx, cancel := context.WithTimeout(ctx, patience+step.Takes)
	defer cancel()
	args := []string{"--endpoints=" + s.target.Endpoint, "--write-out=" + s.format}
	for _, a := range step.Args {
		args = append(args, s.names.expand(a))
	}
	cmd := exec.CommandContext(ctx, s.target.Etcdctl, args...)
	cmd.Env = []string{"PATH=/usr/local/bin:/usr/bin:/bin"}
	stdout, stderr := newOutput(), newOutput()
	cmd.Stdout, cmd.Stderr = stdout, stderr
	cmd.WaitDelay = patience
	feed, err := s.input(cmd, step)
	if err != nil {
		return err
	}
	if err := s.awaitWatchers(ctx, step); err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	if err := feed(); err != nil {
		return errors.Join(err, cmd.Process.Kill(), cmd.Wait())
	}
	at := len(s.results)
	s.results = append(s.results, Result{Args: step.String(), step: step})
	if step.stays() {
		err = errors.Join(s.during(ctx, step, stdout), interrupt(cmd.Process))
	}
	waitErr := cmd.Wait()
	if ctx.Err() != nil {
		err = errors.Join(err, fmt.Errorf("%w (it wrote: %s)", ErrNoOutput, stderr.bytes()))
	}
	if exit := (*exec.ExitError)(nil); waitErr != nil && !errors.As(waitErr, &exit) {
		err = errors.Join(err, waitErr)
	}
	r := &s.results[at]
	r.Stdout, r.Stderr, r.Code = stdout.bytes(), stderr.bytes(), cmd.ProcessState.ExitCode()
	return err
}

// raise raises an alarm of the server's member.
func (s *Session) raise(ctx context.Context, step Step) error {
	member, err := strconv.ParseUint(s.names.expand("$member"), 16, 64)
	if err != nil {
		return err
	}
	_, err = pb.NewMaintenanceClient(s.target.Conn).Alarm(ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: member, Alarm: step.Alarm})
	return err
}

// input prepares the command's standard input; feed is called once it has started. The input of a
// command that stays is left open until it ends.
func (s *Session) input(cmd *exec.Cmd, step Step) (feed func() error, err error) {
	text := s.names.expand(step.Stdin)
	if !step.stays() {
		cmd.Stdin = strings.NewReader(text)
		return func() error { return nil }, nil
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	return func() error { _, err := io.WriteString(in, text); return err }, nil
}

// during runs the steps that belong between a staying command's start and end.
func (s *Session) during(ctx context.Context, step Step, stdout *output) error {
	if step.watchesOn() {
		s.watches++
		defer func() { s.watches-- }()
	}
	if err := s.awaitWatchers(ctx, step); err != nil {
		return err
	}
	if !step.is("watch") { // what it shows does not come from the steps during it
		if err := s.awaitShown(ctx, step, stdout); err != nil {
			return err
		}
	}
	if err := s.play(ctx, step.During); err != nil {
		return err
	}
	return s.awaitShown(ctx, step, stdout)
}

// awaitShown waits until a staying command has shown what is waited for.
func (s *Session) awaitShown(ctx context.Context, step Step, stdout *output) error {
	for step.shown(s.format, stdout.bytes()) < step.Until {
		select {
		case <-stdout.changed:
		case <-ctx.Done():
			return fmt.Errorf("%w: %d of %d, in: %s", ErrNoOutput, step.shown(s.format, stdout.bytes()), step.Until, stdout.bytes())
		}
	}
	return nil
}

var watcherTotal = regexp.MustCompile(`(?m)^etcd_debugging_mvcc_watcher_total (\d+)`)

// awaitWatchers waits until the server has as many watchers as the session knows of, for a step that
// watches from now on: before it begins, those of earlier steps must be gone, so that its own is seen to come.
func (s *Session) awaitWatchers(ctx context.Context, step Step) error {
	if !step.watchesOn() {
		return nil
	}
	ask := time.NewTicker(5 * time.Millisecond)
	defer ask.Stop()
	for {
		n, err := s.watchers(ctx)
		if err != nil || n == s.watches {
			return err
		}
		select {
		case <-ask.C:
		case <-ctx.Done():
			return fmt.Errorf("%w: %d watchers of %d", ErrNoOutput, n, s.watches)
		}
	}
}

// watchers asks how many watchers the server has.
func (s *Session) watchers(ctx context.Context) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.target.Endpoint+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err
	}
	m := watcherTotal.FindSubmatch(text)
	if m == nil {
		return 0, fmt.Errorf("no etcd_debugging_mvcc_watcher_total in the server's metrics")
	}
	return strconv.Atoi(string(m[1]))
}

func (s *Session) learnMember(ctx context.Context) error {
	resp, err := pb.NewMaintenanceClient(s.target.Conn).Status(ctx, &pb.StatusRequest{})
	if err != nil {
		return fmt.Errorf("ctl: ask for the ids: %w", err)
	}
	s.names.id("cluster", resp.Header.ClusterId)
	s.names.id("member", resp.Header.MemberId)
	return nil
}

// learnLeases gives each new lease a name, by its place in the order of grants.
func (s *Session) learnLeases(ctx context.Context) error {
	resp, err := pb.NewLeaseClient(s.target.Conn).LeaseLeases(ctx, &pb.LeaseLeasesRequest{})
	if err != nil {
		return err
	}
	for _, l := range resp.GetLeases() {
		s.names.lease(uint64(l.ID))
	}
	return nil
}

// Compare says how two servers' results differ, an entry for each command that differs
// and is not expected to, or is expected to and does not. Both must stem from the same steps.
func Compare(etcd, tested []Result) []string {
	var found []string
	if len(etcd) != len(tested) {
		found = append(found, fmt.Sprintf("%d commands on etcd, %d on the other", len(etcd), len(tested)))
	}
	for i := range min(len(etcd), len(tested)) {
		e, t := etcd[i], tested[i]
		same := e.Code == t.Code && bytes.Equal(e.Stdout, t.Stdout) && bytes.Equal(e.Stderr, t.Stderr)
		switch {
		case same == (e.step.Differs == ""):
		case same:
			found = append(found, fmt.Sprintf("etcdctl %s: no difference any more, but one is marked: %s", e.Args, e.step.Differs))
		default:
			found = append(found, fmt.Sprintf("etcdctl %s\n-- etcd: %s-- tested: %s", e.Args, e, t))
		}
	}
	return found
}

// Judged says whether a check ran to its end: it says so, and how much memory or how many writes it saw,
// whatever it thinks of that.
func Judged(r Result) bool {
	return regexp.MustCompile(`(?m)^(PASS|FAIL)`).Match(r.Stdout) && !bytes.Contains(r.Stdout, []byte("ERROR"))
}

// String shows all that the command gave.
func (r Result) String() string {
	return fmt.Sprintf("exit %d\n%s\n%s\n", r.Code, r.Stdout, r.Stderr)
}
