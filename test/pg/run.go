package pg

import "testing"

// Run starts a server that is closed with the test. A test that fails shows the end of its log.
func Run(tb testing.TB, opts Options) *Server {
	tb.Helper()
	s, err := Start(tb.Context(), opts)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if tb.Failed() {
			tb.Logf("the log of Postgres %s ends:\n%s", s.Name(), s.LogTail())
		}
		if err := s.Close(); err != nil {
			tb.Error(err)
		}
	})
	return s
}

// Database creates a database with a name of its own in a server, and returns its URL. It is much cheaper than another
// server.
func Database(tb testing.TB, s *Server, name string) string {
	tb.Helper()
	if err := s.CreateDatabase(tb.Context(), name); err != nil {
		tb.Fatal(err)
	}
	return s.URL(name)
}
