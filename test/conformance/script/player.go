package script

import (
	"context"
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"
)

// Server is what a script is played on: empty at first, and of the script alone.
type Server interface {
	// Conn is a connection that survives Restart. It has no limit on what it receives.
	Conn() *grpc.ClientConn
	// Restart ends the server, as a crash does if kill is set, and starts it
	// again on its data. It returns when the server is ready.
	Restart(ctx context.Context, kill bool) error
}

// requestTimeout bounds every request, and every wait for something that is due.
const requestTimeout = 10 * time.Second

// Dial connects to an endpoint as the player needs it: without limits on
// message sizes, and quick to connect again after a restart.
func Dial(endpoint string, more ...grpc.DialOption) (*grpc.ClientConn, error) {
	quick := backoff.Config{BaseDelay: 10 * time.Millisecond, Multiplier: 1.6, MaxDelay: 200 * time.Millisecond}
	opts := append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: quick, MinConnectTimeout: time.Second}),
		grpc.WithDefaultCallOptions(
			grpc.MaxCallRecvMsgSize(math.MaxInt32), grpc.MaxCallSendMsgSize(math.MaxInt32), grpc.WaitForReady(true)),
	}, more...)
	conn, err := grpc.NewClient(endpoint, opts...)
	if err != nil {
		return nil, fmt.Errorf("script: dial %s: %w", endpoint, err)
	}
	return conn, nil
}

// Player plays commands on one server.
type Player struct {
	server Server
	kv     pb.KVClient
	lease  pb.LeaseClient

	revision          int64 // the highest revision that an answer's header told
	compacted         int64 // the last revision compacted by this player
	everCompacted     map[int64]bool
	clusterID         uint64
	memberID          uint64
	leaseByName       map[string]int64
	leaseNames        map[int64]string
	watch             watchState
	fragmentSizeLimit int
}

// Open prepares a player on an empty server.
func Open(ctx context.Context, server Server) (*Player, error) {
	conn := server.Conn()
	p := &Player{
		server: server, kv: pb.NewKVClient(conn), lease: pb.NewLeaseClient(conn),
		compacted: -1, everCompacted: map[int64]bool{},
		leaseByName: map[string]int64{}, leaseNames: map[int64]string{},
		fragmentSizeLimit: 2 << 20, // the request limit and 512 KiB
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if err := p.watch.open(p, 0); err != nil {
		return nil, err
	}
	resp, err := p.kv.Range(ctx, &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}})
	if err != nil {
		p.Close()
		return nil, fmt.Errorf("script: first request: %w", err)
	}
	if resp.Header == nil || resp.Header.Revision != 1 || resp.Count != 0 {
		p.Close()
		return nil, fmt.Errorf("script: the server is not empty: %v", resp)
	}
	p.topHeader(resp.Header)
	return p, nil
}

// Close ends the player's streams. It does not close the server.
func (p *Player) Close() { p.watch.closeAll() }

// command plays one kind of command. The words are what followed its name.
type command func(ctx context.Context, w *words, body []string) (string, error)

func (p *Player) command(name string) command {
	switch name {
	case "range", "rangestream", "put", "del", "txn", "compact":
		return p.kvCommand(name)
	case "grant", "revoke", "keepalive", "ttl", "leases":
		return p.leaseCommand(name)
	case "watch", "cancel", "cancelid", "closestream", "events", "progress", "notified", "fragments", "await":
		return p.watchCommand(name)
	case "call":
		return p.call
	case "hashkv":
		return p.hashKV
	case "history":
		return p.history
	case "snapshot":
		return p.snapshot
	case "restart", "kill":
		return func(ctx context.Context, w *words, _ []string) (string, error) {
			return p.restart(ctx, w, name == "kill")
		}
	}
	return nil
}

// exiter is a server that can tell that it has ended by itself.
type exiter interface{ Exited() <-chan struct{} }

func (p *Player) serverGone() bool {
	e, ok := p.server.(exiter)
	if !ok {
		return false
	}
	select {
	case <-e.Exited():
		return true
	default:
		return false
	}
}

// Do plays a command: its first line, and for a txn the lines below. It
// returns what the server answered. The error is for what is wrong with the
// command, never for what the server did.
func (p *Player) Do(ctx context.Context, text string) (string, error) {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	name, rest, _ := strings.Cut(lines[0], " ")
	do := p.command(name)
	if do == nil {
		return "", syntaxErrorf("no command %q", name)
	}
	if len(lines) > 1 && name != "txn" {
		return "", syntaxErrorf("%s takes one line", name)
	}
	w, err := p.parseWords(rest)
	if err != nil {
		return "", err
	}
	if p.serverGone() {
		return "BREACH: the server has exited\n", nil
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return do(ctx, w, lines[1:])
}

func (p *Player) kvCommand(name string) command {
	return func(ctx context.Context, w *words, body []string) (string, error) {
		switch name {
		case "range":
			return send(p, w, w.rangeRequest(), p.kv.Range, ctx)
		case "rangestream":
			return p.rangeStream(ctx, w)
		case "put":
			return send(p, w, w.putRequest(), p.kv.Put, ctx)
		case "del":
			return send(p, w, w.deleteRequest(), p.kv.DeleteRange, ctx)
		case "compact":
			return p.compact(ctx, w)
		}
		r, err := p.txnRequest(body)
		if err != nil {
			return "", err
		}
		return send(p, w, r, p.kv.Txn, ctx)
	}
}

// send finishes the words, sends the request and writes the answer.
func send[Req any, Resp proto.Message](p *Player, w *words, r Req,
	rpc func(context.Context, Req, ...grpc.CallOption) (Resp, error), ctx context.Context,
) (string, error) {
	if err := w.done(); err != nil {
		return "", err
	}
	resp, err := rpc(ctx, r)
	return p.answer(resp, err), nil
}

// compact waits for the watches first: one that is behind would be cancelled
// or not, as time will have it.
func (p *Player) compact(ctx context.Context, w *words) (string, error) {
	r := &pb.CompactionRequest{Revision: w.nextNumber("revision"), Physical: w.flag("physical")}
	if err := w.done(); err != nil {
		return "", err
	}
	late := p.watch.catchUp(ctx, p)
	resp, err := p.kv.Compact(ctx, r)
	if err == nil {
		p.compacted = max(p.compacted, r.Revision)
		p.everCompacted[r.Revision] = true
	}
	return late + p.answer(resp, err), nil
}

// rangeStream merges the chunks as the API's comment says, and checks what it
// says about them.
func (p *Player) rangeStream(ctx context.Context, w *words) (string, error) {
	r := w.rangeRequest()
	if err := w.done(); err != nil {
		return "", err
	}
	stream, err := p.kv.RangeStream(ctx, r)
	if err != nil {
		return errorText(err), nil
	}
	merged, breaches, ended := &pb.RangeResponse{}, "", false
	for {
		chunk, err := stream.Recv()
		if err == io.EOF {
			break
		}
		if err != nil {
			return errorText(err), nil
		}
		part := chunk.RangeResponse
		if ended {
			breaches += "BREACH: a chunk after the final one\n"
		}
		ended = part.GetHeader() != nil
		if !ended && (part.GetMore() || part.GetCount() != 0) {
			breaches += "BREACH: more or count before the final chunk\n"
		}
		proto.Merge(merged, part)
	}
	if !ended {
		breaches += "BREACH: the stream ended without a final chunk\n"
	}
	return breaches + p.answer(merged, nil), nil
}

func (p *Player) leaseCommand(name string) command {
	return func(ctx context.Context, w *words, _ []string) (string, error) {
		switch name {
		case "grant":
			return p.grant(ctx, w)
		case "revoke":
			return send(p, w, &pb.LeaseRevokeRequest{ID: w.nextNumber("lease id")}, p.lease.LeaseRevoke, ctx)
		case "ttl":
			r := &pb.LeaseTimeToLiveRequest{ID: w.nextNumber("lease id"), Keys: w.flag("keys")}
			return send(p, w, r, p.lease.LeaseTimeToLive, ctx)
		case "leases":
			return send(p, w, &pb.LeaseLeasesRequest{}, p.lease.LeaseLeases, ctx)
		}
		return p.keepAlive(ctx, w)
	}
}

func (p *Player) grant(ctx context.Context, w *words) (string, error) {
	r := &pb.LeaseGrantRequest{TTL: w.nextNumber("TTL"), ID: w.number("id")}
	name := w.text("as")
	if err := w.done(); err != nil {
		return "", err
	}
	resp, err := p.lease.LeaseGrant(ctx, r)
	if err == nil && r.ID == 0 {
		if name == "" {
			name = fmt.Sprintf("lease%d", len(p.leaseNames)+1)
		}
		p.leaseByName[name], p.leaseNames[resp.ID] = resp.ID, name
		if resp.ID <= 0 {
			return fmt.Sprintf("BREACH: the server chose lease id %d\n", resp.ID), nil
		}
	}
	return p.answer(resp, err), nil
}

func (p *Player) keepAlive(ctx context.Context, w *words) (string, error) {
	r := &pb.LeaseKeepAliveRequest{ID: w.nextNumber("lease id")}
	if err := w.done(); err != nil {
		return "", err
	}
	stream, err := p.lease.LeaseKeepAlive(ctx)
	if err == nil {
		err = stream.Send(r)
	}
	if err != nil {
		return errorText(err), nil
	}
	resp, err := stream.Recv()
	if err != nil {
		return errorText(err), nil
	}
	out := p.answer(resp, nil)
	if err := stream.CloseSend(); err != nil {
		return out + errorText(err), nil
	}
	if _, err := stream.Recv(); err != io.EOF {
		out += fmt.Sprintf("BREACH: after the last keepalive: %v\n", err)
	}
	return out, nil
}

// restart also ends the watches: their streams break with the server.
func (p *Player) restart(ctx context.Context, w *words, kill bool) (string, error) {
	if err := w.done(); err != nil {
		return "", err
	}
	late := p.watch.settle(ctx, p)
	seen := p.watch.auditor.lastRevision()
	p.watch.closeAll()
	// A start may be slower than a request.
	if err := p.server.Restart(context.WithoutCancel(ctx), kill); err != nil {
		return "", fmt.Errorf("script: restart: %w", err)
	}
	fresh, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestTimeout)
	defer cancel()
	resp, err := p.kv.Range(fresh, &pb.RangeRequest{Key: []byte{0}, CountOnly: true})
	if err == nil {
		err = p.watch.open(p, seen+1)
	}
	if err != nil {
		return late + errorText(err), nil
	}
	return late + p.answer(&pb.RangeResponse{Header: resp.Header}, nil), nil
}

func (p *Player) snapshot(ctx context.Context, w *words, _ []string) (string, error) {
	if err := w.done(); err != nil {
		return "", err
	}
	stream, err := pb.NewMaintenanceClient(p.server.Conn()).Snapshot(ctx, &pb.SnapshotRequest{})
	if err != nil {
		return errorText(err), nil
	}
	var size, chunks, last uint64
	for {
		resp, err := stream.Recv()
		if err == io.EOF {
			break
		}
		if err != nil {
			return errorText(err), nil
		}
		size += uint64(len(resp.Blob))
		last = resp.RemainingBytes
		chunks++
	}
	return fmt.Sprintf("bytes=%t chunks=%t remaining_bytes=%d\n", size > 0, chunks > 0, last), nil
}

func (p *Player) hashKV(ctx context.Context, w *words, _ []string) (string, error) {
	r := &pb.HashKVRequest{}
	if len(w.pos) > 0 {
		r.Revision = w.nextNumber("revision")
	}
	if err := w.done(); err == nil && p.everCompacted[r.Revision] {
		return "nobody knows: etcd may answer with the hash that it took when it compacted this revision\n", nil
	}
	return send(p, w, r, pb.NewMaintenanceClient(p.server.Conn()).HashKV, ctx)
}
