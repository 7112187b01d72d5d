package cluster

import (
	"errors"
	"fmt"
	"testing"

	"github.com/keelson-io/keelson/test/conformance/history"
)

// TestKubeadm lets a member that began alone get company as kubeadm does it: one learner after the other, promoted as
// soon as that can be. Nobody who asks or watches the first notices.
func TestKubeadm(t *testing.T) {
	d := newDrill(t, 3)
	for _, m := range d.members {
		m.extra = []string{
			"--feature-gates=InitialCorruptCheck=true",
			"--watch-progress-notify-interval=5s",
			"--snapshot-count=10000",
			"--listen-metrics-urls=http://127.0.0.1:2381",
		}
	}
	d.members[0].configure("new", d.members[:1], d.members[0].extra...)
	d.formed(1)
	d.quiet()
	for n := 1; n < 3; n++ {
		d.step(fmt.Sprintf("member %d joins", n), func() error { return d.join(n, 0, true) })
	}
	var failed []*history.Op
	for _, op := range d.recorder.Ops() {
		if op.Server%len(d.members) == 0 && op.Unknown {
			failed = append(failed, op)
		}
	}
	d.mu.Lock()
	broken, breaks := d.broken[0], errors.Join(d.breaks...)
	d.mu.Unlock()
	d.finish()
	if len(failed) > 0 {
		t.Errorf("the first member left %d requests without an answer, among them %v", len(failed), failed[0])
	}
	if broken > 0 {
		t.Errorf("%d streams of watches on the first member broke, among all:\n%.2000v", broken, breaks)
	}
}
