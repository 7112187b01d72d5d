package history

import (
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/keelson-io/keelson/server/history/historypb"
	"github.com/keelson-io/keelson/sqllog"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// fake is a store that remembers what it was asked.
type fake struct {
	extent  sqllog.Extent
	later   sqllog.Extent // from the second question on, if it is set
	asked   int
	at      int64 // the revision of every time
	err     error
	wanted  sqllog.Wanted
	rewound int64
}

func (f *fake) Extent(context.Context) (sqllog.Extent, error) {
	if f.asked++; f.asked > 1 && f.later != (sqllog.Extent{}) {
		return f.later, nil
	}
	return f.extent, nil
}

func (f *fake) RevisionAt(_ context.Context, _ sqllog.Extent, ms int64) (rev, written int64, err error) {
	return f.at, ms - 5, nil
}

func (f *fake) Changes(_ context.Context, _ sqllog.Extent, w sqllog.Wanted, fn func([]sqllog.Change) error) error {
	f.wanted = w
	if f.err != nil {
		return f.err
	}
	return fn([]sqllog.Change{{Key: "k", Version: mvcc.Version{Main: 5, Sub: 1, Create: 3, Count: 2, Lease: 7}, Value: []byte("v"), Written: 1000}})
}

func (f *fake) Rewound(_ context.Context, _ sqllog.Extent, rev int64, w sqllog.Wanted, fn func([]sqllog.Rewound) error) error {
	f.wanted, f.rewound = w, rev
	if f.err != nil {
		return f.err
	}
	return fn([]sqllog.Rewound{{Key: "k", Now: mvcc.Version{Main: 5, Create: 5, Count: 1}}, {Key: "l", LeaseEnded: true, Then: mvcc.Version{Main: 3, Create: 3, Count: 1}, Value: []byte("v")}})
}

func client(t *testing.T, f Store) historypb.HistoryClient {
	t.Helper()
	return clientOf(t, New(Options{Store: f, Cluster: 1, Member: 2, AtOnce: 1}))
}

func clientOf(t *testing.T, s *Service) historypb.HistoryClient {
	t.Helper()
	l := bufconn.Listen(1 << 20)
	g := grpc.NewServer()
	historypb.RegisterHistoryServer(g, s)
	go g.Serve(l)
	t.Cleanup(g.Stop)
	conn, err := grpc.NewClient("passthrough:///", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return historypb.NewHistoryClient(conn)
}

func revision(rev int64) *historypb.Moment {
	return &historypb.Moment{At: &historypb.Moment_Revision{Revision: rev}}
}

func ms(at int64) *historypb.Moment {
	return &historypb.Moment{At: &historypb.Moment_UnixMs{UnixMs: at}}
}

func TestChanges(t *testing.T) {
	f := &fake{extent: sqllog.Extent{Rev: 9, Compact: 6, Complete: 4}, at: 3}
	c := client(t, f)
	k := &historypb.Range{Key: []byte("k")}
	for _, test := range []struct {
		r        *historypb.ChangesRequest
		from, to int64
		code     codes.Code
	}{
		{r: &historypb.ChangesRequest{Keys: k}, from: 1},
		{r: &historypb.ChangesRequest{Keys: k, Since: revision(4), Until: revision(9)}, from: 5, to: 9},
		{r: &historypb.ChangesRequest{Keys: k, Since: ms(50)}, from: 4},
		{r: &historypb.ChangesRequest{Keys: k, Until: ms(50)}, from: 1, to: 3},
		{r: &historypb.ChangesRequest{Keys: k, Since: revision(10)}, code: codes.OutOfRange},
		{r: &historypb.ChangesRequest{Keys: k, Since: revision(0)}, code: codes.InvalidArgument},
		{r: &historypb.ChangesRequest{}, code: codes.InvalidArgument},
	} {
		stream, err := c.Changes(t.Context(), test.r)
		if err != nil {
			t.Fatal(err)
		}
		first, err := stream.Recv()
		if status.Code(err) != test.code {
			t.Errorf("%v: %v", test.r, err)
		}
		if err != nil {
			continue
		}
		if e := first.Extent; e.ClusterId != 1 || e.MemberId != 2 || e.Revision != 9 || e.CompactRevision != 6 || e.CompleteRevision != 4 {
			t.Errorf("the extent is %v", e)
		}
		second, err := stream.Recv()
		if err != nil || len(second.Changes) != 1 {
			t.Fatalf("%v: %v", second, err)
		}
		if c := second.Changes[0]; string(c.Key) != "k" || string(c.Value) != "v" || c.ModRevision != 5 || c.Sub != 1 || c.CreateRevision != 3 || c.Version != 2 || c.Lease != 7 || c.UnixMs != 1000 {
			t.Errorf("%v", c)
		}
		if last, err := stream.Recv(); err != nil || last.Extent.GetCompleteRevision() != 4 || len(last.Changes) > 0 {
			t.Errorf("the last is %v, %v", last, err)
		}
		if _, err := stream.Recv(); err != io.EOF {
			t.Errorf("it ends with %v", err)
		}
		if f.wanted.From != test.from || f.wanted.To != test.to {
			t.Errorf("%v: asked for %+v", test.r, f.wanted)
		}
	}
}

// TestChangesScrubbedMeanwhile: in the end is told what the log has then, of what was told.
func TestChangesScrubbedMeanwhile(t *testing.T) {
	for complete, want := range map[int64]int64{4: 4, 7: 7, 15: 10} {
		f := &fake{extent: sqllog.Extent{Rev: 9, Compact: 6, Complete: 4}, later: sqllog.Extent{Rev: 20, Compact: 15, Complete: complete}}
		stream, err := client(t, f).Changes(t.Context(), &historypb.ChangesRequest{Keys: &historypb.Range{Key: []byte("k")}})
		if err != nil {
			t.Fatal(err)
		}
		var last *historypb.Extent
		for {
			resp, err := stream.Recv()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if resp.Extent != nil {
				last = resp.Extent
			}
		}
		if last.Revision != 9 || last.CompactRevision != 15 || last.CompleteRevision != want {
			t.Errorf("all is there from revision %d on: %v", complete, last)
		}
	}
}

func TestRewound(t *testing.T) {
	f := &fake{extent: sqllog.Extent{Rev: 9, Compact: 6, Complete: 4}, at: 3}
	c := client(t, f)
	ask := func(to *historypb.Moment) ([]*historypb.RewoundResponse, error) {
		stream, err := c.Rewound(t.Context(), &historypb.RewoundRequest{
			Keys: &historypb.Range{Key: []byte("k"), RangeEnd: []byte("m")}, Except: []*historypb.Range{{Key: []byte("ka")}}, To: to,
			Containing: [][]byte{[]byte("/x/")},
		})
		if err != nil {
			t.Fatal(err)
		}
		var all []*historypb.RewoundResponse
		for {
			resp, err := stream.Recv()
			if err == io.EOF {
				return all, nil
			}
			if err != nil {
				return all, err
			}
			all = append(all, resp)
		}
	}
	all, err := ask(ms(100))
	if err != nil || len(all) != 2 || all[0].Revision != 3 || all[0].UnixMs != 95 || f.rewound != 3 {
		t.Fatalf("%v, %v", all, err)
	}
	if a, b := all[1].Keys[0], all[1].Keys[1]; a.Then != nil || a.Now.ModRevision != 5 || b.Now != nil || string(b.Then.Value) != "v" || a.LeaseEnded || !b.LeaseEnded {
		t.Errorf("%v, %v", a, b)
	}
	if w := f.wanted; w.Keys != (mvcc.Range{Start: "k", End: "m"}) || len(w.Except) != 1 || !w.Except[0].Contains("ka") || !slices.Equal(w.Containing, []string{"/x/"}) {
		t.Errorf("asked for %+v", w)
	}
	// Everything came later: that there was nothing at that time does not follow, whatever is kept.
	extent := f.extent
	for _, complete := range []int64{1, extent.Complete} {
		f.at, f.extent.Complete = 0, complete
		if all, err := ask(ms(100)); status.Code(err) != codes.OutOfRange || len(all) != 0 {
			t.Errorf("%v, %v", all, err)
		}
	}
	f.extent = extent
	if _, err := ask(nil); status.Code(err) != codes.InvalidArgument {
		t.Error(err)
	}
	if all, err := ask(revision(2)); status.Code(err) != codes.OutOfRange || len(all) != 0 {
		t.Errorf("%v, %v", all, err)
	}
	for why, code := range map[error]codes.Code{
		fmt.Errorf("revision 2: %w", sqllog.ErrNotKept): codes.OutOfRange, sqllog.ErrTooMany: codes.ResourceExhausted,
		sqllog.ErrStopped: codes.Unavailable, fmt.Errorf("%w: disk", sqllog.ErrStorage): codes.Unavailable, io.ErrUnexpectedEOF: codes.Unknown,
	} {
		f.err = why
		if _, err := ask(revision(5)); status.Code(err) != code {
			t.Errorf("%v is told as %v", why, err)
		}
	}
}
