package script

import (
	"bytes"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

// take keeps a response's events and checks what etcd's API promises of them:
// ordered, unique, atomic per revision, not older than what progress has been
// told, and not before the revision that was asked for.
func (w *watch) take(resp *pb.WatchResponse) {
	if w.canceled {
		w.breach("events after the watch was cancelled")
	}
	if resp.CompactRevision != 0 || resp.CancelReason != "" {
		w.breach("events in a response about a cancel: %v", resp)
	}
	w.takeFragment(resp)
	for i, e := range resp.Events {
		if e.Kv == nil {
			w.breach("an event without a key")
			continue
		}
		mod := e.Kv.ModRevision
		switch {
		case mod < w.last:
			w.breach("revision %d after revision %d", mod, w.last)
		case mod == w.last && i == 0 && !w.unfinished:
			w.breach("revision %d is cut in two", mod)
		case mod < w.from():
			w.breach("revision %d, but the watch is from %d on", mod, w.from())
		}
		if mod <= w.progress {
			w.breach("revision %d after progress was told at %d", mod, w.progress)
		}
		if mod > resp.GetHeader().GetRevision() {
			w.breach("the header is at revision %d, an event at %d", resp.GetHeader().GetRevision(), mod)
		}
		w.checkUnique(e.Kv.Key, mod)
		w.last = mod
		w.events = append(w.events, e)
		w.log = append(w.log, entry{event: e})
	}
	w.unfinished = resp.Fragment
}

func (w *watch) breach(format string, args ...any) {
	w.log = append(w.log, entry{breach: "BREACH: " + fmt.Sprintf(format, args...)})
}

func (w *watch) takeFragment(resp *pb.WatchResponse) {
	if len(resp.Events) > 1 { // one event is never cut
		w.largest = max(w.largest, proto.Size(resp))
	}
	if resp.Fragment || w.unfinished {
		w.fragments++
	}
	if resp.Fragment && !w.request.Fragment {
		w.breach("a fragment that was not asked for")
	}
}

// checkUnique looks at the events of the same revision, which are the last ones.
func (w *watch) checkUnique(key []byte, mod int64) {
	for i := len(w.events) - 1; i >= 0 && w.events[i].Kv.ModRevision == mod; i-- {
		if bytes.Equal(w.events[i].Kv.Key, key) {
			w.breach("two events of %s in revision %d", Quote(key), mod)
		}
	}
}
