package mvcc

import "github.com/keelson-io/keelson/drivers"

// Events decodes the changes of revision from and later in an entry of the
// log, with the versions they replaced as far as the index still knows them.
func (ix *Index) Events(e *drivers.Entry, from int64) ([]*Event, error) {
	switch e.Kind {
	case KindPut:
		key, v, err := decodePut(e.Meta)
		if err != nil || v.Main < from {
			return nil, err
		}
		v.Position = e.Position
		return []*Event{ix.event(key, v, e.Value)}, nil
	case KindDelete:
		main, sub, keys, err := decodeDelete(e.Meta)
		if err != nil || main < from {
			return nil, err
		}
		events := make([]*Event, len(keys))
		for i, k := range keys {
			events[i] = ix.event(k, Version{Main: main, Sub: sub + int32(i), Position: e.Position}, nil)
		}
		return events, nil
	}
	return nil, nil
}

func (ix *Index) event(key string, v Version, value []byte) *Event {
	ev := &Event{Key: key, Value: value, Version: v}
	if prev := ix.PrevVersion(key, v.Main); prev != nil {
		ev.Prev = *prev
	}
	return ev
}
