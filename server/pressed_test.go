package server

import (
	"context"
	"errors"
	"testing"

	"github.com/keelson-io/keelson/server/config"
)

// sized is a log of some size, exact or, as Postgres', estimated.
type sized struct {
	Datastore
	total, inUse int64
	err          error
}

func (s sized) Size(context.Context) (total, inUse int64, err error) { return s.total, s.inUse, s.err }

type estimated struct{ sized }

func (estimated) Needs(entries, bytes int64) int64 { return 10*entries + bytes }

// TestPressed: history gives way from 80 % of the quota on. What is free in the database is room, also where only the entries tell that there must be some.
func TestPressed(t *testing.T) {
	const quota = 1_000_000
	for name, c := range map[string]struct {
		log   Datastore
		quota int64
		bytes int64 // of 1,000 entries
		want  bool
	}{
		"below":                        {sized{total: 790_000, inUse: 790_000}, quota, 0, false},
		"above":                        {sized{total: 800_000, inUse: 800_000}, quota, 0, true},
		"free":                         {sized{total: 990_000, inUse: 790_000}, quota, 0, false},
		"no quota":                     {sized{total: 990_000, inUse: 990_000}, -1, 0, false},
		"no answer":                    {sized{total: 990_000, inUse: 990_000, err: errors.New("no answer")}, quota, 0, false},
		"estimated, below":             {estimated{sized{total: 790_000, inUse: 790_000}}, quota, 900_000, false},
		"estimated, free":              {estimated{sized{total: 940_000, inUse: 940_000}}, quota, 780_000, false},
		"estimated, needed":            {estimated{sized{total: 940_000, inUse: 940_000}}, quota, 790_000, true},
		"estimated, dead for a time":   {estimated{sized{total: 940_000, inUse: 500_000}}, quota, 790_000, true},
		"estimated, nearly full":       {estimated{sized{total: 950_000, inUse: 950_000}}, quota, 490_000, true},
		"estimated, much must be free": {estimated{sized{total: 990_000, inUse: 990_000}}, quota, 480_000, false},
	} {
		opts := config.Default()
		opts.QuotaBackendBytes = c.quota
		n := &Node{opts: opts, log: c.log}
		if got := n.pressed(t.Context(), func() (int64, int64) { return 1000, c.bytes }); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
