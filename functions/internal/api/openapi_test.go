package api

import (
	"fmt"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/pb33f/jsonschema/v6"
	"go.yaml.in/yaml/v3"

	"tapedeck/shared/market"
)

const openapiFile = "../../../docs/openapi.yaml"

// contract is the OpenAPI document. Its schemas are JSON Schema 2020-12, as OpenAPI 3.1 defines.
type contract struct {
	document map[string]any
	mu       sync.Mutex
	compiler *jsonschema.Compiler
}

var loadContract = sync.OnceValues(func() (*contract, error) {
	text, err := os.ReadFile(openapiFile)
	if err != nil {
		return nil, err
	}
	c := &contract{compiler: jsonschema.NewCompiler()}
	if err := yaml.Unmarshal(text, &c.document); err != nil {
		return nil, err
	}
	c.compiler.AssertFormat()
	return c, c.compiler.AddResource("openapi", c.document)
})

func mustLoadContract(t *testing.T) *contract {
	t.Helper()
	c, err := loadContract()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// find follows names from the root of the document, and references among its components.
func (c *contract) find(names ...string) (value any, pointer string) {
	value = any(c.document)
	for _, name := range names {
		object, _ := value.(map[string]any)
		value = object[name]
		pointer += "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(name)
		if object, ok := value.(map[string]any); ok {
			if ref, ok := object["$ref"].(string); ok {
				value, pointer = c.find(strings.Split(strings.TrimPrefix(ref, "#/"), "/")...)
			}
		}
	}
	return value, pointer
}

// check returns what is wrong with a reply to a GET of a path as the document spells it.
func (c *contract) check(route string, r *reply) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	contentType := r.Headers["Content-Type"]
	status := []string{"paths", route, "get", "responses", strconv.Itoa(r.StatusCode)}
	if value, _ := c.find(status...); value == nil {
		return fmt.Errorf("status %d is not documented", r.StatusCode)
	}
	value, pointer := c.find(append(status, "content", contentType)...)
	if value == nil {
		return fmt.Errorf("media type %q is not documented", contentType)
	}
	schema, err := c.compiler.Compile("openapi#" + pointer + "/schema")
	if err != nil {
		return err
	}
	body, err := jsonschema.UnmarshalJSON(strings.NewReader(r.Body))
	if err != nil {
		return err
	}
	headers, _ := c.find(append(status, "headers")...)
	documented, _ := headers.(map[string]any)
	for name := range documented {
		if r.Headers[name] == "" {
			return fmt.Errorf("header %s is missing", name)
		}
	}
	return schema.Validate(body)
}

// checkContract fails the test when a reply is not what the document promises.
func checkContract(t *testing.T, route string, r *reply) {
	t.Helper()
	if err := mustLoadContract(t).check(route, r); err != nil {
		t.Errorf("GET %s: %d %s\nagainst the contract: %v", route, r.StatusCode, r.Body, err)
	}
}

// TestContractRefuses makes sure that the check can fail.
func TestContractRefuses(t *testing.T) {
	const meta = `"meta":{"request_id":"","gaps":[],"next_cursor":null}`
	headers := map[string]string{"Content-Type": "application/json", "Cache-Control": "no-store"}
	c := mustLoadContract(t)
	if err := c.check("/v1/markets", &reply{StatusCode: 200, Headers: headers, Body: `{"data":[],` + meta + `}`}); err != nil {
		t.Error(err)
	}
	for name, r := range map[string]*reply{
		"no meta":        {StatusCode: 200, Headers: headers, Body: `{"data":[]}`},
		"unknown member": {StatusCode: 200, Headers: headers, Body: `{"data":[],"x":1,` + meta + `}`},
		"wrong type":     {StatusCode: 200, Headers: headers, Body: `{"data":{},` + meta + `}`},
		"bad time": {
			StatusCode: 200, Headers: headers,
			Body: `{"data":[{"exchange":"x","symbol":"x","status":"x","tick_size":null,"lot_size":null,"first_event":"yesterday","last_event":null,"first_update_id":null,"last_update_id":null}],` + meta + `}`,
		},
		"status":     {StatusCode: 418, Headers: headers, Body: `{"data":[],` + meta + `}`},
		"media type": {StatusCode: 200, Headers: map[string]string{"Content-Type": "text/html"}, Body: `{"data":[],` + meta + `}`},
		"no header":  {StatusCode: 503, Headers: map[string]string{"Content-Type": "application/problem+json"}, Body: string(mustMarshal(problemOf(http.ErrHandlerTimeout, "x")))},
	} {
		if c.check("/v1/markets", r) == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestEveryRouteIsDocumentedBuiltAndTested compares the document with the folders of functions and with these tests.
func TestEveryRouteIsDocumentedBuiltAndTested(t *testing.T) {
	paths, _ := mustLoadContract(t).find("paths")
	var documented, built, tested []string
	for p := range paths.(map[string]any) {
		documented = append(documented, path.Base(p))
	}
	mains, err := filepath.Glob("../../*/main.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mains {
		built = append(built, filepath.Base(filepath.Dir(m)))
	}
	for name := range routes {
		tested = append(tested, name)
	}
	slices.Sort(documented)
	slices.Sort(built)
	slices.Sort(tested)
	if !slices.Equal(documented, built) || !slices.Equal(documented, tested) {
		t.Errorf("documented %v, built %v, tested %v", documented, built, tested)
	}
}

// TestDocumentedExamples checks the examples of replies against their schemas, and the bounds of parameters against
// those in force.
func TestDocumentedExamples(t *testing.T) {
	c := mustLoadContract(t)
	paths, _ := c.find("paths")
	examples := 0
	for route := range paths.(map[string]any) {
		responses, _ := c.find("paths", route, "get", "responses")
		for status := range responses.(map[string]any) {
			content, pointer := c.find("paths", route, "get", "responses", status, "content")
			for mediaType := range toMap(content) {
				example, _ := c.find("paths", route, "get", "responses", status, "content", mediaType, "example")
				if example == nil {
					continue
				}
				examples++
				schema, err := c.compiler.Compile("openapi#" + pointer + "/" + strings.ReplaceAll(mediaType, "/", "~1") + "/schema")
				if err != nil {
					t.Fatal(err)
				}
				if err := schema.Validate(example); err != nil {
					t.Errorf("example of %s %s: %v", route, status, err)
				}
			}
		}
	}
	if examples == 0 {
		t.Error("no examples found")
	}
	limit, _ := c.find("components", "parameters", "Limit", "schema")
	if l := toMap(limit); l["maximum"] != maxLimit || l["default"] != defaultLimit {
		t.Errorf("limit: %v", l)
	}
	parameters, _ := c.find("paths", "/v1/markets/{exchange}/{symbol}/book", "get", "parameters")
	for _, p := range parameters.([]any) {
		if schema := toMap(toMap(p)["schema"]); toMap(p)["name"] == "depth" && (schema["maximum"] != maxDepth || schema["default"] != defaultDepth) {
			t.Errorf("depth: %v", schema)
		}
	}
}

// TestClosedLists compares the lists that the document gives with those in force.
func TestClosedLists(t *testing.T) {
	c := mustLoadContract(t)
	for name, want := range map[string]string{
		"Stream": fmt.Sprint([]market.Stream{market.Depth, market.Trades}),
		"Cause":  fmt.Sprint(market.Causes()),
		"Repair": fmt.Sprint(market.Repairs()),
	} {
		if enum, _ := c.find("components", "schemas", name, "enum"); fmt.Sprint(enum) != want {
			t.Errorf("%s: documented %v, in force %s", name, enum, want)
		}
	}
}

func toMap(v any) map[string]any {
	m, _ := v.(map[string]any)
	return m
}
