package etcdfile

import (
	"cmp"
	"encoding/binary"
	"fmt"
)

// Revision is where a change stands in the history.
type Revision struct {
	// Main is the revision as clients know it. It rises by one per request that changes keys.
	Main int64
	// Sub counts the changes of one request, from 0.
	Sub int64
}

// Compare orders revisions as they came to be.
func (r Revision) Compare(o Revision) int {
	return cmp.Or(cmp.Compare(r.Main, o.Main), cmp.Compare(r.Sub, o.Sub))
}

func (r Revision) String() string { return fmt.Sprintf("%d.%d", r.Main, r.Sub) }

// Row is one change, as the key bucket holds it.
type Row struct {
	Revision
	// Tombstone is set if the change deleted the key.
	Tombstone bool
	// KeyValue is a marshalled mvccpb.KeyValue; of a tombstone it has just the key. It is empty in a bump marker.
	KeyValue []byte
}

// Marker tells whether the row is a bump marker: it has no key and only raises the revision.
func (r Row) Marker() bool { return len(r.KeyValue) == 0 && !r.Tombstone }

const (
	revisionSize = 8 + 1 + 8
	separator    = '_'
	tombstone    = 't'
)

// appendRevision appends a revision as the keys of rows begin, and as the bucket meta has compactions.
func appendRevision(b []byte, r Revision) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(r.Main))
	b = append(b, separator)
	return binary.BigEndian.AppendUint64(b, uint64(r.Sub))
}

func parseRevision(b []byte) (Revision, error) {
	if len(b) != revisionSize || b[8] != separator {
		return Revision{}, damaged("%x is no revision", b)
	}
	r := Revision{int64(binary.BigEndian.Uint64(b)), int64(binary.BigEndian.Uint64(b[9:]))}
	if r.Main < 0 || r.Sub < 0 {
		return Revision{}, damaged("negative revision %v", r)
	}
	return r, nil
}

// appendKey appends the row's key in the bucket.
func (r Row) appendKey(b []byte) []byte {
	b = appendRevision(b, r.Revision)
	if r.Tombstone {
		b = append(b, tombstone)
	}
	return b
}

// parseRow takes a row out of the key bucket and checks it. The row keeps value.
func parseRow(key, value []byte) (row Row, changed []byte, err error) {
	if row.Tombstone = len(key) == revisionSize+1 && key[revisionSize] == tombstone; row.Tombstone {
		key = key[:revisionSize]
	}
	if row.Revision, err = parseRevision(key); err != nil {
		return row, nil, err
	}
	row.KeyValue = value
	changed, err = row.check()
	return row, changed, err
}

// check gives the key that the row changes, empty for a bump marker, or says what etcd would not have written.
func (r Row) check() ([]byte, error) {
	// etcd reads no row of revision 0.
	if r.Main < 1 || r.Sub < 0 {
		return nil, fmt.Errorf("%w: no change has the revision %v", ErrRow, r.Revision)
	}
	if r.Marker() {
		return nil, nil
	}
	key, mod, err := scanKeyValue(r.KeyValue)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: the key-value of revision %v: %w", ErrRow, r.Revision, err)
	case len(key) == 0:
		return nil, fmt.Errorf("%w: no key at revision %v", ErrRow, r.Revision)
	case !r.Tombstone && mod != r.Main:
		return nil, fmt.Errorf("%w: a mod_revision of %d at revision %v", ErrRow, mod, r.Revision)
	}
	return key, nil
}
