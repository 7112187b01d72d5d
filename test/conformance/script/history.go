package script

import (
	"context"
	"fmt"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// history writes the whole state: everything at every revision since the last
// compaction, with HashKV there, then the leases with their keys.
func (p *Player) history(ctx context.Context, w *words, _ []string) (string, error) {
	if err := w.done(); err != nil {
		return "", err
	}
	var out strings.Builder
	maintenance := pb.NewMaintenanceClient(p.server.Conn())
	for rev := max(p.compacted, 1); rev <= p.revision; rev++ {
		resp, err := p.kv.Range(ctx, &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, Revision: rev})
		fmt.Fprintf(&out, "at %d: %s", rev, p.answer(resp, err))
		if !p.everCompacted[rev] {
			resp, err := maintenance.HashKV(ctx, &pb.HashKVRequest{Revision: rev})
			fmt.Fprintf(&out, "hash at %d: %s", rev, p.answer(resp, err))
		}
	}
	leases, err := p.lease.LeaseLeases(ctx, &pb.LeaseLeasesRequest{})
	out.WriteString(p.answer(leases, err))
	for _, l := range leases.GetLeases() {
		resp, err := p.lease.LeaseTimeToLive(ctx, &pb.LeaseTimeToLiveRequest{ID: l.ID, Keys: true})
		out.WriteString(p.answer(resp, err))
	}
	status, err := maintenance.Status(ctx, &pb.StatusRequest{})
	out.WriteString(p.answer(status, err))
	return out.String(), nil
}
