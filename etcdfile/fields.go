package etcdfile

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// Fields of mvccpb.KeyValue.
const (
	keyField protowire.Number = 1
	modField protowire.Number = 3
)

// scanKeyValue finds two fields of a marshalled mvccpb.KeyValue, without a copy: the key is a part of b.
func scanKeyValue(b []byte) (key []byte, mod int64, err error) {
	err = fields(b, func(num protowire.Number, typ protowire.Type, value []byte) {
		switch {
		case num == keyField && typ == protowire.BytesType:
			key, _ = protowire.ConsumeBytes(value)
		case num == modField && typ == protowire.VarintType:
			v, _ := protowire.ConsumeVarint(value)
			mod = int64(v)
		}
	})
	return key, mod, err
}

// Fields of etcd's leasepb.Lease, all of them varints.
const (
	leaseID        protowire.Number = 1
	leaseTTL       protowire.Number = 2
	leaseRemaining protowire.Number = 3
)

func (l *Lease) marshal() (b []byte) {
	for i, v := range []int64{l.ID, l.TTL, l.Remaining} {
		if v != 0 {
			b = protowire.AppendTag(b, leaseID+protowire.Number(i), protowire.VarintType)
			b = protowire.AppendVarint(b, uint64(v))
		}
	}
	return b
}

func parseLease(b []byte) (l Lease, err error) {
	err = fields(b, func(num protowire.Number, typ protowire.Type, value []byte) {
		if typ != protowire.VarintType {
			return
		}
		v, _ := protowire.ConsumeVarint(value)
		switch num {
		case leaseID:
			l.ID = int64(v)
		case leaseTTL:
			l.TTL = int64(v)
		case leaseRemaining:
			l.Remaining = int64(v)
		}
	})
	return l, err
}

// fields visits the fields of a message with what follows their tags. It takes just what can be unmarshalled.
func fields(b []byte, visit func(num protowire.Number, typ protowire.Type, value []byte)) error {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		if !num.IsValid() {
			return fmt.Errorf("a field of number %d", num)
		}
		b = b[n:]
		if n = protowire.ConsumeFieldValue(num, typ, b); n < 0 {
			return protowire.ParseError(n)
		}
		visit(num, typ, b)
		b = b[n:]
	}
	return nil
}
