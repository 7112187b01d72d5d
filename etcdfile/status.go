package etcdfile

import "hash/crc32"

// Status is what etcdutl snapshot status says of a file, and in its JSON.
type Status struct {
	// Hash is the CRC-32 (Castagnoli) of the buckets' names, keys and values. Two files with the same content have the same.
	Hash uint32 `json:"hash"`
	// Revision is that of the last row. A compaction may be above it, see Meta.Revision.
	Revision int64 `json:"revision"`
	// TotalKey counts the keys that are there at the last row. As etcdutl has it, a bump marker makes one more.
	TotalKey int `json:"totalKey"`
	// TotalSize is the number of bytes of the database, without a hash and without what is reserved behind its pages.
	TotalSize int64 `json:"totalSize"`
	// Version is the storage version.
	Version string `json:"version"`
}

// Status reads the whole file. It counts all rows that are there, also those that a compaction is still to free, and
// uses memory for their keys.
func (f *File) Status() (Status, error) {
	s := Status{TotalSize: f.image.size(), Version: f.meta.Version}
	castagnoli := crc32.MakeTable(crc32.Castagnoli)
	add := func(b []byte) { s.Hash = crc32.Update(s.Hash, castagnoli, b) }
	keys := map[string]struct{}{}
	w := newWalk(f.image)
	for _, b := range f.buckets {
		add([]byte(b.name))
		err := w.elements(b, func(e element) error {
			add(e.key)
			add(e.value)
			if b.name != keyBucket {
				return nil
			}
			row, key, err := parseRow(e.key, e.value)
			if s.Revision = row.Main; row.Tombstone {
				delete(keys, string(key))
			} else {
				keys[string(key)] = struct{}{}
			}
			return err
		})
		if err != nil {
			return Status{}, err
		}
	}
	s.TotalKey = len(keys)
	return s, nil
}
