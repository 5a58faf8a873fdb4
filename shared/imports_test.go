// Package shared has no code of its own; this test keeps the packages of the whole module apart.
package shared

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// allowed says which of the module's own packages a package may import, beside shared/market, which all may. An entry
// that ends in /... stands for the whole tree. Tests may import what they like.
var allowed = map[string][]string{
	"shared/market":            {},
	"shared/book":              {},
	"shared/tape":              {},
	"shared/binance":           {},
	"shared/config":            {},
	"shared/recording":         {},
	"shared/recording/witness": {"shared/recording"},
	"shared/mongostore":        {},
	"shared/sqlitestore":       {},
	"shared/storetest":         {},
	"shared/verify":            {"shared/book", "shared/tape"},

	"ingester/internal/feed":     {"shared/binance"},
	"ingester/internal/recorder": {"shared/binance", "shared/book", "shared/tape"},
	"ingester/internal/spool":    {},
	"ingester/internal/sink":     {"ingester/internal/spool"},
	"ingester/internal/ops":      {},
	"ingester":                   {"ingester/internal/...", "shared/..."}, // a main wires

	"ingester/cmd/tapedeck-verify": {"shared/config", "shared/mongostore", "shared/sqlitestore", "shared/verify"},

	"functions/internal/api":   {"functions/internal/query"},
	"functions/internal/query": {"shared/book", "shared/tape"},
	"functions/internal/boot":  {"functions/internal/...", "shared/config", "shared/mongostore", "shared/sqlitestore"},
	"functions/book":           {"functions/internal/..."},
	"functions/coverage":       {"functions/internal/..."},
	"functions/gaps":           {"functions/internal/..."},
	"functions/markets":        {"functions/internal/..."},
	"functions/status":         {"functions/internal/..."},
	"functions/trades":         {"functions/internal/..."},

	"localstack/internal/child":      {},
	"localstack/faults":              {},
	"localstack/storeproxy":          {"localstack/faults"},
	"localstack/exchange":            {"localstack/faults", "shared/book", "shared/recording"}, // not shared/binance: a witness of its own
	"localstack/storm":               {"localstack/...", "shared/..."},
	"localstack/gateway":             {"localstack/internal/child"},
	"localstack/gateway/cmd/gateway": {"localstack/gateway"},
	"localstack/devstack":            {"localstack/...", "shared/recording"}, // a main wires
}

// owners says which packages alone may use a library.
var owners = map[string][]string{
	"go.mongodb.org/mongo-driver":         {"shared/mongostore", "shared/mongostore/mongotest"},
	"modernc.org/sqlite":                  {"shared/sqlitestore"},
	"github.com/klauspost/compress":       {"shared/tape", "shared/recording"},
	"github.com/gorilla/websocket":        {"ingester/internal/feed", "localstack/exchange"},
	"github.com/aws/aws-lambda-go":        {"functions/...", "localstack/gateway"},
	"github.com/prometheus/client_golang": {"ingester/internal/..."},
	"github.com/testcontainers":           {"shared/mongostore/mongotest"},
	"github.com/fxamacker/cbor":           {"ingester/internal/sink"},
	"github.com/gofrs/flock":              {"ingester/internal/spool"},
}

// testOnly are packages that only tests may import.
var testOnly = []string{
	"shared/storetest", "shared/storetest/...", "shared/recording/witness", "shared/mongostore/mongotest", "functions/internal/historytest",
}

// imports returns the packages that each package of the module imports, tests left out. It parses the files itself, so
// that nothing cached can hide a change.
func imports(t *testing.T) map[string][]string {
	t.Helper()
	found := map[string][]string{}
	err := filepath.WalkDir("..", func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := entry.Name()
		if entry.IsDir() && (strings.HasPrefix(name, ".") && name != ".." || name == "testdata") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		pkg := strings.TrimPrefix(path.Dir(filepath.ToSlash(file)), "../")
		found[pkg] = append(found[pkg], "") // a package without imports is one too
		for _, spec := range parsed.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			found[pkg] = append(found[pkg], imported)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// matches reports whether a package is in a list, of which entries that end in /... stand for a tree.
func matches(list []string, pkg string) bool {
	for _, entry := range list {
		tree, isTree := strings.CutSuffix(entry, "/...")
		if pkg == entry || isTree && strings.HasPrefix(pkg, tree+"/") {
			return true
		}
	}
	return false
}

func TestPackagesImportInOneDirection(t *testing.T) {
	found := imports(t)
	if len(found) < len(allowed)/2 {
		t.Fatalf("only %d packages found", len(found))
	}
	for pkg, list := range found {
		may, known := allowed[pkg]
		if !known && !matches(testOnly, pkg) {
			t.Errorf("%s is not in the table of allowed imports", pkg)
			continue
		}
		for _, imported := range list {
			own, isOwn := strings.CutPrefix(imported, "tapedeck/")
			switch {
			case !isOwn:
				checkOwner(t, pkg, imported)
			case matches(testOnly, pkg) || own == "shared/market":
			case matches(testOnly, own):
				t.Errorf("%s imports %s, which is for tests", pkg, own)
			case !matches(may, own):
				t.Errorf("%s must not import %s", pkg, own)
			}
		}
	}
	for pkg := range allowed {
		if found[pkg] == nil {
			t.Errorf("%s is in the table of allowed imports, but there is no such package", pkg)
		}
	}
}

func checkOwner(t *testing.T, pkg, imported string) {
	t.Helper()
	for library, by := range owners {
		if (imported == library || strings.HasPrefix(imported, library+"/")) && !matches(by, pkg) {
			t.Errorf("%s must not import %s: only %v may", pkg, imported, by)
		}
	}
}
