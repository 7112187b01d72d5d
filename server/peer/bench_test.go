package peer

import (
	"fmt"
	"syscall"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
)

func cpu(b *testing.B) int64 {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
}

// BenchmarkMessages sends MsgApps of one entry, so many at once, and waits for them: the processor time is that of both
// sides.
func BenchmarkMessages(b *testing.B) {
	for _, size := range []int{128, 1 << 10, 64 << 10, 1 << 20} {
		for _, burst := range []int{1, 16, 256} {
			if size*burst > maxQueuedBytes/2 {
				continue
			}
			b.Run(fmt.Sprintf("bytes=%d/burst=%d", size, burst), func(b *testing.B) {
				m := start(b, memberOptions{})
				n, _ := network(b, nil, m.url)
				message := appendOf(1, size)
				n.Send([]*raftpb.Message{message})
				await(b, m.got, "the first message")
				b.SetBytes(int64(size))
				before := cpu(b)
				b.ResetTimer()
				for left := b.N; left > 0; left -= burst {
					for range min(left, burst) {
						n.Send([]*raftpb.Message{message})
					}
					for range min(left, burst) {
						<-m.got
					}
				}
				b.StopTimer()
				b.ReportMetric(float64(cpu(b)-before)/float64(b.N), "cpu-ns/op")
			})
		}
	}
}
