package gateway

import (
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"gopkg.in/yaml.v3"
)

// repository is the module's folder.
const repository = "../.."

const smallTemplate = `
Transform: AWS::Serverless-2016-10-31
Parameters:
  Stage: {Type: String, Default: live, AllowedValues: [live, test]}
  Seconds: {Type: Number, Default: 7}
  Uri: {Type: String, NoEcho: true}
Globals:
  Function:
    Runtime: provided.al2023
    Timeout: !Ref Seconds
    Environment: {Variables: {URI: !Ref Uri, LEVEL: info, EMPTY: ""}}
Resources:
  Api:
    Type: AWS::Serverless::Api
    Properties: {StageName: !Ref Stage}
  OneFunction:
    Type: AWS::Serverless::Function
    Metadata: {BuildMethod: makefile}
    Properties:
      Handler: one
      MemorySize: 256
      Environment:
        Variables:
          LEVEL: debug
          NUMBER: 5
          SUB: !Sub "${Stage}-${AWS::Region}-${!kept}-${Api}-${OtherFunction.Arn}"
          LONG: {"Fn::Sub": "${Stage}"}
          ARN: !GetAtt OtherFunction.Arn
          LONG_ARN: {"Fn::GetAtt": [OtherFunction, Arn]}
          REF: {Ref: OtherFunction}
      Events:
        Get:
          Type: Api
          Properties: {RestApiId: !Ref Api, Method: get, Path: "/one/{id}"}
  OtherFunction:
    Type: AWS::Serverless::Function
    Properties: {Timeout: 900}
  Logs: {Type: AWS::Logs::LogGroup}
`

func TestParseTemplate(t *testing.T) {
	t.Parallel()
	got, err := ParseTemplate([]byte(smallTemplate), Overrides{
		Parameters: map[string]string{"Stage": "test", "Uri": "secret"}, Environment: map[string]string{"EMPTY": "not"},
	})
	if err != nil {
		t.Fatal(err)
	}
	arn := "arn:aws:lambda:us-east-1:000000000000:function:OtherFunction"
	want := &Template{Stage: "test", Functions: []Function{
		{
			LogicalID: "OneFunction", Handler: "one", Timeout: 7 * time.Second, MemoryMB: 256,
			Environment: map[string]string{
				"URI": "secret", "LEVEL": "debug", "EMPTY": "not", "NUMBER": "5",
				"SUB": "test-us-east-1-${kept}-Api-" + arn, "LONG": "test", "ARN": arn, "LONG_ARN": arn,
				"REF": "OtherFunction",
			},
			Routes: []Route{{"GET", "/one/{id}"}},
		},
		{
			LogicalID: "OtherFunction", Handler: "bootstrap", Timeout: 900 * time.Second, MemoryMB: 128,
			Environment: map[string]string{"URI": "secret", "LEVEL": "info", "EMPTY": "not"},
		},
	}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestOverriddenVariableNeedsNoParameter(t *testing.T) {
	t.Parallel()
	_, err := ParseTemplate([]byte(smallTemplate), Overrides{Environment: map[string]string{"URI": "given"}})
	if err != nil {
		t.Error(err)
	}
	_, err = ParseTemplate([]byte(smallTemplate), Overrides{})
	if want := "parameter Uri has no value"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v, want %s", err, want)
	}
}

// TestTemplateErrors changes one thing in a good template and wants an error that tells it.
func TestTemplateErrors(t *testing.T) {
	t.Parallel()
	given := map[string]string{"Uri": "given"}
	for _, c := range []struct {
		name, old, replacement string
		overrides              Overrides
		want                   string
	}{
		{name: "no YAML", old: "Parameters:", replacement: "\t", want: "yaml"},
		{name: "no SAM", old: "Transform: AWS::Serverless-2016-10-31", want: "Transform"},
		{name: "a section", old: "Parameters:", replacement: "Conditions: {A: b}\nParameters:", want: "line 3: the gateway does not understand Conditions"},
		{name: "globals of the API", old: "Globals:", replacement: "Globals:\n  Api: {Auth: {}}", want: "does not understand Api in Globals"},
		{name: "a resource", old: "AWS::Logs::LogGroup", replacement: "AWS::SQS::Queue", want: `Logs is of the type "AWS::SQS::Queue"`},
		{name: "a condition", old: "Logs: {", replacement: "Logs: {Condition: A, ", want: "does not understand Condition in Logs"},
		{name: "a property", old: "Handler: one", replacement: "Layers: [a]", want: "does not understand Layers in OneFunction.Properties"},
		{name: "authorisation", old: "{StageName: !Ref Stage}", replacement: "{StageName: a, Auth: {}}", want: "does not understand Auth in Api.Properties"},
		{name: "no stage", old: "{StageName: !Ref Stage}", replacement: "{}", want: "Api has no StageName"},
		{name: "a second API", old: "Logs: {Type: AWS::Logs::LogGroup", replacement: "B: {Type: AWS::Serverless::Api", want: "B is a second API beside Api"},
		{name: "an event", old: "Type: Api\n", replacement: "Type: Schedule\n", want: `type "Schedule"`},
		{name: "an event's property", old: "Method: get", replacement: "Auth: {}, Method: get", want: "does not understand Auth"},
		{name: "an event without a path", old: `, Path: "/one/{id}"`, want: "event Get has no Path"},
		{name: "another API", old: "RestApiId: !Ref Api", replacement: "RestApiId: other", want: `belongs to "other"`},
		{name: "a greedy path", old: "{id}", replacement: "{id+}", want: "does not understand the segment"},
		{name: "a relative path", old: "/one/", replacement: "one/", want: "does not begin with a slash"},
		{name: "any method", old: "Method: get", replacement: "Method: any", want: "does not understand the method"},
		{name: "a runtime", old: "provided.al2023", replacement: "go1.x", want: `Runtime "go1.x"`},
		{name: "an intrinsic", old: "!Ref Seconds", replacement: "!FindInMap [a, b, c]", want: "line 10"},
		{name: "a conditional", old: "LEVEL: debug", replacement: "LEVEL: !If [a, b, c]", want: "!If"},
		{name: "a long intrinsic", old: "LEVEL: debug", replacement: `LEVEL: {"Fn::Join": x}`, want: "does not understand !Join"},
		{name: "a null", old: "LEVEL: debug", replacement: "LEVEL:", want: "!!null"},
		{name: "an unknown reference", old: "{Ref: OtherFunction}", replacement: "{Ref: Nobody}", want: `"Nobody", which is not there`},
		{name: "an unknown attribute", old: "!GetAtt OtherFunction.Arn", replacement: "!GetAtt OtherFunction.Version", want: `"Version"`},
		{name: "an attribute of another kind", old: "!GetAtt OtherFunction.Arn", replacement: "!GetAtt Logs.Arn", want: `"Arn" of Logs`},
		{name: "an open brace", old: "${OtherFunction.Arn}", replacement: "${OtherFunction.Arn", want: `"${OtherFunction.Arn" is not closed`},
		{name: "a substitution with a map", old: `{"Fn::Sub": "${Stage}"}`, replacement: `!Sub ["${a}", {a: b}]`, want: "line 27: the gateway does not understand this value (!Sub)"},
		{name: "no number", old: "MemorySize: 256", replacement: "MemorySize: much", want: "not an integer from 128"},
		{name: "too long for API Gateway", old: "Default: 7", replacement: "Default: 30", want: "more than the 29s"},
		{name: "a key twice", old: "LEVEL: debug", replacement: "LEVEL: debug\n          LEVEL: info", want: "LEVEL twice"},
		{name: "a list of parameters", old: "Type: Number", replacement: "Type: CommaDelimitedList", want: "neither a String nor a Number"},
		{
			name: "a forbidden value", overrides: Overrides{Parameters: map[string]string{"Stage": "other"}},
			want: `parameter Stage does not allow the value "other"`,
		},
		{
			name: "an unknown parameter", overrides: Overrides{Parameters: map[string]string{"Nobody": ""}},
			want: "no parameters Nobody",
		},
		{
			name: "an unknown variable", overrides: Overrides{Environment: map[string]string{"NOBODY": ""}},
			want: "no function declares the overridden variables NOBODY",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if !strings.Contains(smallTemplate, c.old) {
				t.Fatalf("the template has no %q", c.old)
			}
			text := smallTemplate
			if c.old != "" {
				text = strings.Replace(text, c.old, c.replacement, 1)
			}
			parameters := maps.Clone(given)
			maps.Copy(parameters, c.overrides.Parameters)
			c.overrides.Parameters = parameters
			_, err := ParseTemplate([]byte(text), c.overrides)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %s", err, c.want)
			}
		})
	}
}

func TestRouterErrors(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		paths []string
		want  string
	}{
		{[]string{"/a", "/a"}, "First answers it already"},
		{[]string{"/{a}/x", "/{b}/y"}, "{a} and {b} stand in one place"},
		{[]string{"/{a}", "/{a}"}, "First answers it already"},
		{[]string{"/a//b", "/b"}, "segment"},
		{[]string{"/a/", "/b"}, "segment"},
		{[]string{"/a{b}", "/b"}, "segment"},
	} {
		_, err := newRouter([]Function{
			{LogicalID: "First", Routes: []Route{{"GET", c.paths[0]}}},
			{LogicalID: "Second", Routes: []Route{{"GET", c.paths[1]}}},
		})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: error %v, want %s", c.paths, err, c.want)
		}
	}
}

func TestRouterPrefersLiterals(t *testing.T) {
	t.Parallel()
	r, err := newRouter([]Function{{LogicalID: "F", Routes: []Route{
		{"GET", "/m/{x}/book"}, {"GET", "/m/all/{y}"}, {"POST", "/m/{x}/book"}, {"GET", "/m/all"},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path, resource string
		parameters     map[string]string
	}{
		{"/m/all", "/m/all", map[string]string{}},
		{"/m/all/book", "/m/all/{y}", map[string]string{"y": "book"}},
		{"/m/other/book", "/m/{x}/book", map[string]string{"x": "other"}},
		{"/m/a%2Fll/book", "/m/{x}/book", map[string]string{"x": "a/ll"}},
		{"/m/%C4%8D/book", "/m/{x}/book", map[string]string{"x": "č"}},
		{"/m/%61ll", "/m/all", map[string]string{}},
		{"/m/%zz/book", "", nil},
		{"/m", "", nil},
		{"/m/other", "", nil},
		{"", "", nil},
		{"*", "", nil},
	} {
		m, found := r.find(c.path)
		if found != (c.resource != "") || m.resource != c.resource || !maps.Equal(m.parameters, c.parameters) {
			t.Errorf("%s: %v %+v", c.path, found, m)
		}
	}
}

// projectTemplate reads the project's own template.
func projectTemplate(t *testing.T) *Template {
	t.Helper()
	template, err := ReadTemplate(filepath.Join(repository, "template.yaml"), Overrides{
		Environment: map[string]string{"MONGODB_URI": "", "SQLITE_PATH": "/tmp/store"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return template
}

func TestProjectTemplate(t *testing.T) {
	t.Parallel()
	template := projectTemplate(t)
	routes := map[string]string{}
	for _, f := range template.Functions {
		if len(f.Routes) != 1 {
			t.Errorf("%s has %d routes", f.LogicalID, len(f.Routes))
			continue
		}
		routes[f.Routes[0].Method+" "+f.Routes[0].Path] = f.LogicalID
		if f.Environment["SQLITE_PATH"] != "/tmp/store" || f.Environment["MONGODB_DATABASE"] != "tapedeck" {
			t.Errorf("%s has the environment %v", f.LogicalID, f.Environment)
		}
		if _, err := os.Stat(filepath.Join(repository, Package(f.LogicalID), "main.go")); err != nil {
			t.Errorf("%s: %v", f.LogicalID, err)
		}
	}
	want := map[string]string{
		"GET /v1/status":  "StatusFunction",
		"GET /v1/markets": "MarketsFunction",
		"GET /v1/markets/{exchange}/{symbol}/book":     "BookFunction",
		"GET /v1/markets/{exchange}/{symbol}/trades":   "TradesFunction",
		"GET /v1/markets/{exchange}/{symbol}/coverage": "CoverageFunction",
		"GET /v1/markets/{exchange}/{symbol}/gaps":     "GapsFunction",
	}
	if !maps.Equal(routes, want) {
		t.Errorf("routes %v, want %v", routes, want)
	}
}

// TestProjectTemplateServesTheDocumentedPaths compares the template with docs/openapi.yaml.
func TestProjectTemplateServesTheDocumentedPaths(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile(filepath.Join(repository, "docs", "openapi.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var document struct {
		Paths map[string]map[string]yaml.Node
	}
	if err := yaml.Unmarshal(data, &document); err != nil {
		t.Fatal(err)
	}
	var documented, served []string
	for path, operations := range document.Paths {
		for operation := range operations {
			if method := strings.ToUpper(operation); slices.Contains(methods, method) {
				documented = append(documented, method+" "+path)
			}
		}
	}
	for _, f := range projectTemplate(t).Functions {
		for _, r := range f.Routes {
			served = append(served, r.Method+" "+r.Path)
		}
	}
	slices.Sort(documented)
	slices.Sort(served)
	if !slices.Equal(documented, served) {
		t.Errorf("documented %q\nserved     %q", documented, served)
	}
}
