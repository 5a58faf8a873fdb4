package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"tapedeck/shared/market"
)

// TestRunbook: what operators see stands in the runbook, and nothing stands there that they cannot see.
func TestRunbook(t *testing.T) {
	text, err := os.ReadFile("../docs/runbook.md")
	if err != nil {
		t.Fatal(err)
	}
	name := regexp.MustCompile(`tapedeck_[a-z_]+`)
	told := map[string]bool{}
	for _, n := range name.FindAllString(string(text), -1) {
		told[n] = true
	}
	exists := metricNames(t)
	for n := range exists {
		if !told[n] {
			t.Errorf("the runbook does not explain %s", n)
		}
	}
	for n := range told {
		if !exists[n] {
			t.Errorf("the runbook explains %s, which does not exist", n)
		}
	}
	for _, cause := range market.Causes() {
		if !strings.Contains(string(text), "\n| `"+string(cause)+"` |") {
			t.Errorf("the runbook does not explain the cause %s", cause)
		}
	}
}

// metricNames returns the names of metrics in the ingester's sources.
func metricNames(t *testing.T) map[string]bool {
	t.Helper()
	whole := regexp.MustCompile(`^tapedeck_[a-z_]+$`)
	names := map[string]bool{}
	err := filepath.WalkDir(".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
				if s, err := strconv.Unquote(lit.Value); err == nil && whole.MatchString(s) {
					names[s] = true
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(names) < 20 {
		t.Fatalf("only %d metrics found: %v", len(names), names)
	}
	return names
}
