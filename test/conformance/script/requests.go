package script

import (
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// switches are the words that need no value.
var switches = map[string]bool{
	"serializable": true, "keys_only": true, "count_only": true, "prev_kv": true,
	"ignore_value": true, "ignore_lease": true, "physical": true, "keys": true,
	"fragment": true, "progress_notify": true,
}

func (w *words) rangeRequest() *pb.RangeRequest {
	return &pb.RangeRequest{
		Key:               w.bytes("key"),
		RangeEnd:          w.optional(),
		Limit:             w.number("limit"),
		Revision:          w.number("rev"),
		SortOrder:         pb.RangeRequest_SortOrder(w.enum("order", pb.RangeRequest_SortOrder_value)),
		SortTarget:        pb.RangeRequest_SortTarget(w.enum("target", pb.RangeRequest_SortTarget_value)),
		Serializable:      w.flag("serializable"),
		KeysOnly:          w.flag("keys_only"),
		CountOnly:         w.flag("count_only"),
		MinModRevision:    w.number("min_mod"),
		MaxModRevision:    w.number("max_mod"),
		MinCreateRevision: w.number("min_create"),
		MaxCreateRevision: w.number("max_create"),
	}
}

func (w *words) putRequest() *pb.PutRequest {
	r := &pb.PutRequest{Key: w.bytes("key")}
	r.Value = w.optional()
	r.Lease = w.number("lease")
	r.PrevKv = w.flag("prev_kv")
	r.IgnoreValue = w.flag("ignore_value")
	r.IgnoreLease = w.flag("ignore_lease")
	return r
}

func (w *words) deleteRequest() *pb.DeleteRangeRequest {
	return &pb.DeleteRangeRequest{Key: w.bytes("key"), RangeEnd: w.optional(), PrevKv: w.flag("prev_kv")}
}

// operators are the compare results as they are written.
var operators = map[string]int32{
	"=": int32(pb.Compare_EQUAL), "!=": int32(pb.Compare_NOT_EQUAL),
	"<": int32(pb.Compare_LESS), ">": int32(pb.Compare_GREATER),
}

func (w *words) compare() *pb.Compare {
	target := w.next("target")
	c := &pb.Compare{Target: pb.Compare_CompareTarget(w.parseEnum(target, pb.Compare_CompareTarget_value))}
	c.Key = w.bytes("key")
	c.Result = pb.Compare_CompareResult(w.parseEnum(w.next("operator"), operators))
	union := w.text("union")
	if union == "" {
		union = target
	}
	operand := w.next("operand")
	switch union {
	case "version":
		c.TargetUnion = &pb.Compare_Version{Version: w.parse(operand)}
	case "create":
		c.TargetUnion = &pb.Compare_CreateRevision{CreateRevision: w.parse(operand)}
	case "mod":
		c.TargetUnion = &pb.Compare_ModRevision{ModRevision: w.parse(operand)}
	case "value":
		c.TargetUnion = &pb.Compare_Value{Value: w.literal(operand)}
	case "lease":
		c.TargetUnion = &pb.Compare_Lease{Lease: w.parse(operand)}
	case "none":
	default:
		w.fail("operand field %q", union)
	}
	if end, ok := w.named["end"]; ok {
		delete(w.named, "end")
		c.RangeEnd = w.literal(end)
	}
	return c
}

// txnRequest reads the indented lines of a txn command.
func (p *Player) txnRequest(body []string) (*pb.TxnRequest, error) {
	r := &pb.TxnRequest{}
	for len(body) > 0 {
		line := body[0]
		depth := indent(line)
		n := 1
		for n < len(body) && indent(body[n]) > depth {
			n++
		}
		if err := p.txnLine(r, strings.TrimSpace(line), body[1:n]); err != nil {
			return nil, err
		}
		body = body[n:]
	}
	return r, nil
}

func indent(line string) int { return len(line) - len(strings.TrimLeft(line, " ")) }

func (p *Player) txnLine(r *pb.TxnRequest, line string, nested []string) error {
	branch, rest, _ := strings.Cut(line, " ")
	switch branch {
	case "if":
		w, err := p.parseCompare(rest)
		if err != nil {
			return err
		}
		r.Compare = append(r.Compare, w.compare())
		return w.done()
	case "then":
		op, err := p.requestOp(rest, nested)
		r.Success = append(r.Success, op)
		return err
	case "else":
		op, err := p.requestOp(rest, nested)
		r.Failure = append(r.Failure, op)
		return err
	}
	return syntaxErrorf("txn line %q", line)
}

// parseCompare keeps the operator "=" from being read as a named word.
func (p *Player) parseCompare(line string) (*words, error) {
	all, err := split(line)
	if err != nil {
		return nil, err
	}
	w := &words{player: p, named: map[string]string{}}
	for i, word := range all {
		name, value, isNamed := strings.Cut(word, "=")
		if isNamed && i > 3 && (name == "end" || name == "union") {
			w.named[name] = value
		} else {
			w.pos = append(w.pos, word)
		}
	}
	return w, nil
}

func (p *Player) requestOp(line string, nested []string) (*pb.RequestOp, error) {
	name, rest, _ := strings.Cut(line, " ")
	w, err := p.parseWords(rest)
	if err != nil {
		return nil, err
	}
	op := &pb.RequestOp{}
	switch name {
	case "range":
		op.Request = &pb.RequestOp_RequestRange{RequestRange: w.rangeRequest()}
	case "put":
		op.Request = &pb.RequestOp_RequestPut{RequestPut: w.putRequest()}
	case "del":
		op.Request = &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: w.deleteRequest()}
	case "txn":
		inner, err := p.txnRequest(nested)
		if err != nil {
			return nil, err
		}
		op.Request = &pb.RequestOp_RequestTxn{RequestTxn: inner}
	case "empty":
	default:
		return nil, syntaxErrorf("operation %q in a txn", name)
	}
	return op, w.done()
}

func (w *words) watchRequest() *pb.WatchCreateRequest {
	r := &pb.WatchCreateRequest{
		Key:            w.bytes("key"),
		RangeEnd:       w.optional(),
		StartRevision:  w.number("start"),
		ProgressNotify: w.flag("progress_notify"),
		PrevKv:         w.flag("prev_kv"),
		WatchId:        w.number("id"),
		Fragment:       w.flag("fragment"),
	}
	if filters := w.text("filters"); filters != "" {
		for f := range strings.SplitSeq(filters, ",") {
			n := w.parseEnum(f, pb.WatchCreateRequest_FilterType_value)
			r.Filters = append(r.Filters, pb.WatchCreateRequest_FilterType(n))
		}
	}
	return r
}
