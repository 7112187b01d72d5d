package etcdv3

import (
	"context"
	"fmt"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/sqllog"
)

// Whoever gave up is told so, and not that the storage is ill; an unknown
// outcome stays unknown whatever made it so.
func TestErrorsOfContexts(t *testing.T) {
	for _, c := range []struct {
		err  error
		want codes.Code
	}{
		{fmt.Errorf("%w: %w", sqllog.ErrStorage, context.Canceled), codes.Canceled},
		{fmt.Errorf("%w: %w", sqllog.ErrStorage, context.DeadlineExceeded), codes.DeadlineExceeded},
		{fmt.Errorf("%w: %w", drivers.ErrUncertain, context.Canceled), codes.Unavailable},
		{sqllog.ErrStorage, codes.Unavailable},
	} {
		if got := status.Code(grpcError(c.err)); got != c.want {
			t.Errorf("%v becomes %v, want %v", c.err, got, c.want)
		}
	}
}
