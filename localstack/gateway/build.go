package gateway

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Progress is told as functions are built: once when one begins, with Elapsed 0, and once when it is done.
type Progress struct {
	Function string // logical id
	Number   int    // 1 to Total
	Total    int
	Elapsed  time.Duration
}

// Build compiles the functions of a template for this machine with the flags that a deployment uses. module is the
// module's folder. The binaries become out/<logical id>/bootstrap, the places that BootstrapIn names and that `sam
// build` chooses too. progress may be nil. What is up to date is not built again.
func Build(ctx context.Context, t *Template, module, out string, progress func(Progress)) error {
	bootstrap := BootstrapIn(out)
	for i, f := range t.Functions {
		p := Progress{Function: f.LogicalID, Number: i + 1, Total: len(t.Functions)}
		if progress != nil {
			progress(p)
		}
		begin := time.Now()
		if err := build(ctx, module, bootstrap(f.LogicalID), Package(f.LogicalID)); err != nil {
			return fmt.Errorf("build %s: %w", f.LogicalID, err)
		}
		if p.Elapsed = max(time.Since(begin), 1); progress != nil {
			progress(p)
		}
	}
	return nil
}

func build(ctx context.Context, module, binary, pkg string) error {
	absolute, err := filepath.Abs(binary)
	if err != nil {
		return err
	}
	args := append([]string{"build"}, buildFlags...)
	cmd := exec.CommandContext(ctx, "go", append(args, "-o", absolute, pkg)...)
	cmd.Dir = module
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(output))
	}
	return nil
}

// buildFlags give a static binary without paths, symbols, and the RPC server of the retired go1.x runtime. The
// Makefile's targets for `sam build` use the same.
var buildFlags = []string{"-tags", "lambda.norpc", "-trimpath", "-ldflags", "-s -w"}

// Package returns the package of a function: BookFunction is built from ./functions/book.
func Package(logicalID string) string {
	return "./functions/" + strings.ToLower(strings.TrimSuffix(logicalID, "Function"))
}

// BootstrapIn returns the places of the functions' binaries in a folder, for Config.Bootstrap.
func BootstrapIn(folder string) func(logicalID string) string {
	return func(logicalID string) string { return filepath.Join(folder, logicalID, "bootstrap") }
}
