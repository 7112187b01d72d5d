package script

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"slices"
	"strconv"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// ttlTolerance is how many seconds of a lease may have passed unnoticed.
const ttlTolerance = 10

// printer writes messages as text, field by field through reflection, so that
// a field that nobody thought of is written too.
type printer struct {
	player *Player
	b      strings.Builder
}

// answer writes a whole response, or the error in its place.
func (p *Player) answer(m proto.Message, err error) string {
	if err != nil {
		return errorText(err)
	}
	pr := &printer{player: p}
	pr.top(m)
	return pr.b.String()
}

func errorText(err error) string {
	s, ok := status.FromError(err)
	if !ok {
		return fmt.Sprintf("error outside gRPC: %v\n", err)
	}
	return fmt.Sprintf("error %s: %s\n", s.Code(), s.Message())
}

// top writes a response. Its header must carry the ids.
func (pr *printer) top(m proto.Message) {
	var line []string
	if h, ok := m.(interface{ GetHeader() *pb.ResponseHeader }); ok {
		line = append(line, pr.player.topHeader(h.GetHeader())...)
	}
	pr.message("", line, m.ProtoReflect())
}

func (p *Player) topHeader(h *pb.ResponseHeader) []string {
	if h == nil {
		return []string{"header=none"}
	}
	p.revision = max(p.revision, h.Revision)
	words := []string{fmt.Sprintf("rev=%d", h.Revision)}
	if p.clusterID == 0 {
		p.clusterID, p.memberID = h.ClusterId, h.MemberId
	}
	if h.ClusterId != p.clusterID || h.ClusterId == 0 {
		words = append(words, "cluster_id="+presence(h.ClusterId))
	}
	if h.MemberId != p.memberID || h.MemberId == 0 {
		words = append(words, "member_id="+presence(h.MemberId))
	}
	if h.RaftTerm == 0 {
		words = append(words, "raft_term=unset")
	}
	return append(words, unknown(h.ProtoReflect())...)
}

func presence(id uint64) string {
	if id == 0 {
		return "unset"
	}
	return "changed"
}

// innerHeader writes the header of an answer inside a transaction's, which has no ids.
func innerHeader(h *pb.ResponseHeader) []string {
	words := []string{fmt.Sprintf("rev=%d", h.Revision)}
	for name, id := range map[string]uint64{"cluster_id": h.ClusterId, "member_id": h.MemberId, "raft_term": h.RaftTerm} {
		if id != 0 {
			words = append(words, name+"=set")
		}
	}
	slices.Sort(words[1:])
	return append(words, unknown(h.ProtoReflect())...)
}

func unknown(m protoreflect.Message) []string {
	if len(m.GetUnknown()) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("unknown_fields=%x", m.GetUnknown())}
}

// message writes one message: a line of its scalars, then its inner messages,
// indented. line is what the line begins with.
func (pr *printer) message(margin string, line []string, m protoreflect.Message) {
	var inner []func()
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		switch {
		case fd.Name() == "header" || fd.Name() == "storageVersion": // etcd tells the latter late
		case !m.Has(fd):
		case fd.Message() != nil && fd.IsList():
			list := m.Get(fd).List()
			for j := range list.Len() {
				inner = append(inner, func() { pr.field(margin+"  ", fd, list.Get(j).Message()) })
			}
		case fd.Message() != nil:
			inner = append(inner, func() { pr.field(margin+"  ", fd, m.Get(fd).Message()) })
		default:
			line = append(line, pr.scalar(m, fd))
		}
	}
	line = append(line, unknown(m)...)
	if len(line) == 0 {
		line = []string{"ok"}
	}
	pr.b.WriteString(margin + strings.Join(line, " ") + "\n")
	for _, write := range inner {
		write()
	}
}

// field writes a message inside another.
func (pr *printer) field(margin string, fd protoreflect.FieldDescriptor, m protoreflect.Message) {
	name := string(fd.Name())
	switch v := m.Interface().(type) {
	case *mvccpb.KeyValue:
		label := ""
		if name != "kvs" {
			label = name + ": "
		}
		pr.b.WriteString(margin + label + pr.player.keyValue(v) + "\n")
		return
	case *pb.ResponseOp:
		pr.responseOp(margin, v)
		return
	case *pb.RangeResponse:
		pr.message(margin, append([]string{name + ":"}, headerOf(v)...), m)
		return
	}
	pr.message(margin, []string{name + ":"}, m)
}

func headerOf(m interface{ GetHeader() *pb.ResponseHeader }) []string {
	if h := m.GetHeader(); h != nil {
		return innerHeader(h)
	}
	return []string{"header=none"}
}

func (pr *printer) responseOp(margin string, op *pb.ResponseOp) {
	var m interface {
		proto.Message
		GetHeader() *pb.ResponseHeader
	}
	var name string
	switch r := op.Response.(type) {
	case *pb.ResponseOp_ResponseRange:
		name, m = "range:", r.ResponseRange
	case *pb.ResponseOp_ResponsePut:
		name, m = "put:", r.ResponsePut
	case *pb.ResponseOp_ResponseDeleteRange:
		name, m = "del:", r.ResponseDeleteRange
	case *pb.ResponseOp_ResponseTxn:
		name, m = "txn:", r.ResponseTxn
	default:
		pr.b.WriteString(margin + "empty" + "\n")
		return
	}
	pr.message(margin, append([]string{name}, headerOf(m)...), m.ProtoReflect())
}

// keyValue writes every field of a key-value pair; an unset value is not written.
func (p *Player) keyValue(kv *mvccpb.KeyValue) string {
	if kv == nil {
		return "none"
	}
	words := []string{Quote(kv.Key) + "=" + display(kv.Value)}
	for _, f := range []struct {
		name  string
		value int64
	}{{"create", kv.CreateRevision}, {"mod", kv.ModRevision}, {"version", kv.Version}} {
		if f.value != 0 {
			words = append(words, fmt.Sprintf("%s=%d", f.name, f.value))
		}
	}
	if kv.Lease != 0 {
		words = append(words, "lease="+p.leaseName(kv.Lease))
	}
	return strings.Join(append(words, unknown(kv.ProtoReflect())...), " ")
}

// display is Quote with long content cut to a checksum.
func display(b []byte) string {
	switch {
	case len(b) == 0:
		return ""
	case len(b) <= 64 || strings.Count(string(b), string(b[:1])) == len(b):
		return Quote(b)
	}
	return fmt.Sprintf("<%d bytes, crc32 %08x>", len(b), crc32.ChecksumIEEE(b))
}

func (p *Player) leaseName(id int64) string {
	if name, ok := p.leaseNames[id]; ok {
		return "$" + name
	}
	return strconv.FormatInt(id, 10)
}

// scalar writes a set field that is not a message, or a list of such.
func (pr *printer) scalar(m protoreflect.Message, fd protoreflect.FieldDescriptor) string {
	name := string(fd.Name())
	if fd.IsList() {
		var words []string
		list := m.Get(fd).List()
		for i := range list.Len() {
			words = append(words, pr.single(m, fd, list.Get(i)))
		}
		if _, ok := m.Interface().(*pb.LeaseTimeToLiveResponse); ok {
			slices.Sort(words) // etcd keeps a lease's keys in no order
		}
		return name + "=[" + strings.Join(words, " ") + "]"
	}
	if fd.Kind() == protoreflect.BoolKind {
		return name
	}
	return name + "=" + pr.single(m, fd, m.Get(fd))
}

func (pr *printer) single(m protoreflect.Message, fd protoreflect.FieldDescriptor, v protoreflect.Value) string {
	if text, ok := pr.masked(m, string(fd.Name()), v); ok {
		return text
	}
	switch fd.Kind() {
	case protoreflect.BytesKind:
		return display(v.Bytes())
	case protoreflect.StringKind:
		text := strings.ReplaceAll(v.String(), strconv.FormatUint(pr.player.memberID, 10), "<self>")
		if _, ok := m.Interface().(*pb.StatusResponse); ok {
			text = strings.Join(strings.Fields(text), " ") // printed messages have one blank or two, by the build
		}
		return strconv.Quote(text)
	case protoreflect.EnumKind:
		if e := fd.Enum().Values().ByNumber(v.Enum()); e != nil {
			return string(e.Name())
		}
		return strconv.Itoa(int(v.Enum()))
	}
	return v.String()
}

// masked writes the fields that no two servers can have alike.
func (pr *printer) masked(m protoreflect.Message, name string, v protoreflect.Value) (string, bool) {
	switch r := m.Interface().(type) {
	case *pb.StatusResponse:
		switch name {
		case "dbSize", "dbSizeInUse", "raftIndex", "raftTerm", "raftAppliedIndex":
			return "set", true
		case "leader":
			return pr.player.memberName(v.Uint()), true
		}
	case *pb.Member:
		switch name {
		case "ID":
			return pr.player.memberName(v.Uint()), true
		case "peerURLs", "clientURLs":
			return "set", true
		}
	case *pb.AlarmMember:
		if name == "memberID" {
			return pr.player.memberName(v.Uint()), true
		}
	case *pb.HashResponse, *pb.AuthenticateResponse:
		return "set", true
	case *pb.LeaseGrantResponse, *pb.LeaseKeepAliveResponse, *pb.LeaseStatus:
		if name == "ID" {
			return pr.player.leaseName(v.Int()), true
		}
	case *pb.LeaseTimeToLiveResponse:
		if name == "ID" {
			return pr.player.leaseName(v.Int()), true
		}
		if name == "TTL" && r.TTL <= r.GrantedTTL && r.TTL > r.GrantedTTL-ttlTolerance && r.TTL >= 0 {
			return "~granted", true
		}
	}
	return "", false
}

func (p *Player) memberName(id uint64) string {
	if id == p.memberID {
		return "self"
	}
	return "other"
}

// event writes a watch event.
func (p *Player) event(e *mvccpb.Event) string {
	words := []string{strings.ToLower(e.Type.String()), p.keyValue(e.Kv)}
	if e.PrevKv != nil {
		words = append(words, "prev_kv:", p.keyValue(e.PrevKv))
	}
	return strings.Join(append(words, unknown(e.ProtoReflect())...), " ")
}

// inRange says whether key is in [from, end) in the API's sense of range_end.
func inRange(key, from, end []byte) bool {
	switch {
	case len(end) == 0:
		return bytes.Equal(key, from)
	case len(end) == 1 && end[0] == 0:
		return bytes.Compare(key, from) >= 0
	}
	return bytes.Compare(key, from) >= 0 && bytes.Compare(key, end) < 0
}
