package server

import (
	"context"

	"github.com/keelson-io/keelson/drivers/sqlite"
)

type backend struct{ *sqlite.Log }

func (backend) Defragment(ctx context.Context) error { return nil }
