package memory

import (
	"fmt"
	"sync"
	"testing"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/drivers/drivertest"
)

func TestContract(t *testing.T) {
	var mu sync.Mutex
	stores := make(map[string]*Store)
	drivertest.Run(t, drivertest.Harness{
		Shared: true,
		New: func(t *testing.T) string {
			mu.Lock()
			defer mu.Unlock()
			place := fmt.Sprint(len(stores))
			stores[place] = NewStore()
			return place
		},
		Open: func(place string) (drivertest.Log, error) {
			mu.Lock()
			defer mu.Unlock()
			return stores[place].Open(), nil
		},
		Doubt: func(_ *testing.T, l drivertest.Log, d drivertest.Doubt) {
			op := OpAppend
			if d.Scrub {
				op = OpScrub
			}
			l.(*Log).Inject(op, Fault{Err: drivers.ErrUncertain, Apply: d.Done})
		},
	})
}
