package postgres

import (
	"testing"

	"github.com/keelson-io/keelson/drivers"
)

// TestSliceAsksForWhatIsWanted: who looks at a few positions does not have the database read thousands of rows.
func TestSliceAsksForWhatIsWanted(t *testing.T) {
	for opts, want := range map[drivers.ScanOptions]int64{
		{After: 100, UpTo: 356}:      256,
		{UpTo: 1}:                    1,
		{After: 5, UpTo: 5 + 20_000}: 20_000,
		{UpTo: 1 << 40}:              metaRows,
	} {
		if s := (slice{opts: opts}); s.most() != want {
			t.Errorf("%+v asks for %d rows, want %d", opts, s.most(), want)
		}
	}
}
