package crash

import (
	"context"
	"fmt"
	"os/exec"
)

// checkStore walks the store of a stopped server for its invariants, with the server's own command.
func checkStore(ctx context.Context, srv *server) error {
	if *serverName != "keelson" {
		return nil // the command is keelson's own
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, srv.binary, "check", "--data-dir="+srv.data).CombinedOutput()
	if err != nil {
		return fmt.Errorf("keelson check: %w\n%s", err, out)
	}
	return nil
}
