package gateway

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"
)

// Template is what the gateway understands of a SAM template: one REST API and the functions behind it.
type Template struct {
	Stage     string
	Functions []Function // in the order of the file
}

// Function is one AWS::Serverless::Function, with the Globals and the overrides applied.
type Function struct {
	LogicalID   string // its key under Resources; also its name (AWS_LAMBDA_FUNCTION_NAME)
	Handler     string
	Timeout     time.Duration
	MemoryMB    int
	Environment map[string]string
	Routes      []Route
}

// Route is one method and path of the API that a function answers. A path consists of literal segments and of
// parameters, which take one whole segment: /v1/markets/{exchange}.
type Route struct {
	Method string // upper case
	Path   string
}

// Overrides replace values of a template when it is read.
type Overrides struct {
	// Parameters are values for the template's Parameters.
	Parameters map[string]string
	// Environment replaces environment variables in every function that declares them. The template's own value of a
	// replaced variable is not looked at, so that a parameter without a default, used nowhere else, needs no value.
	Environment map[string]string
}

// AWS's limits and defaults.
const (
	// integrationTimeout is how long API Gateway waits for a function:
	// https://docs.aws.amazon.com/apigateway/latest/developerguide/api-gateway-execution-service-limits-table.html
	integrationTimeout = 29 * time.Second
	// Defaults of Timeout and MemorySize:
	// https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-lambda-function.html
	defaultTimeout  = 3 * time.Second
	defaultMemoryMB = 128
)

// ReadTemplate reads the template in a file; see ParseTemplate.
func ReadTemplate(file string, overrides Overrides) (*Template, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read template: %w", err)
	}
	t, err := ParseTemplate(data, overrides)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return t, nil
}

// ParseTemplate reads a SAM template. Anything in it that the gateway does not understand is an error that names the
// line, except for properties that are known to mean nothing on one machine. Ref, Fn::Sub and Fn::GetAtt are resolved;
// a reference to a resource yields its logical id. Overrides of parameters or variables that the template does not
// declare are errors.
func ParseTemplate(data []byte, overrides Overrides) (*Template, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return nil, err
	}
	if len(doc.Content) == 0 {
		return nil, errors.New("the template is empty")
	}
	root, err := newMapping(doc.Content[0], "template")
	if err != nil {
		return nil, err
	}
	if err := root.only("AWSTemplateFormatVersion", "Transform", "Description", "Metadata", "Parameters", "Globals",
		"Resources", "Outputs"); err != nil {
		return nil, err
	}
	if t := root.values["Transform"]; t == nil || t.Value != "AWS::Serverless-2016-10-31" {
		return nil, errors.New("the template has no Transform: AWS::Serverless-2016-10-31")
	}
	r := reader{overrides: overrides, unusedEnvironment: maps.Clone(overrides.Environment)}
	return r.template(root)
}

// reader turns the parts of a template into a Template.
type reader struct {
	overrides         Overrides
	unusedEnvironment map[string]string // overrides that no function has declared yet
	values            resolver
	api               string // logical id of the API
	globals           mapping
}

func (r *reader) template(root mapping) (*Template, error) {
	resources, err := newMapping(root.values["Resources"], "Resources")
	if err != nil {
		return nil, err
	}
	if r.values, err = newResolver(root.values["Parameters"], r.overrides.Parameters, resources); err != nil {
		return nil, err
	}
	if err := r.readGlobals(root.values["Globals"]); err != nil {
		return nil, err
	}
	t := &Template{}
	if err := r.readAPI(t, resources); err != nil {
		return nil, err
	}
	for _, id := range resources.keys {
		if err := r.readResource(t, id, resources.values[id]); err != nil {
			return nil, err
		}
	}
	if len(r.unusedEnvironment) > 0 {
		names := slices.Sorted(maps.Keys(r.unusedEnvironment))
		return nil, fmt.Errorf("no function declares the overridden variables %s", strings.Join(names, ", "))
	}
	if _, err := newRouter(t.Functions); err != nil {
		return nil, err
	}
	return t, nil
}

func (r *reader) readGlobals(n *yaml.Node) error {
	if n == nil {
		return nil
	}
	globals, err := newMapping(n, "Globals")
	if err != nil {
		return err
	}
	if err := globals.only("Function"); err != nil {
		return err
	}
	if r.globals, err = newMapping(globals.values["Function"], "Globals.Function"); err != nil {
		return err
	}
	return r.globals.only(functionProperties...)
}

// readAPI finds the one API of the template, which must be read before the functions that refer to it.
func (r *reader) readAPI(t *Template, resources mapping) error {
	for _, id := range resources.keys {
		typ, properties, err := resource(id, resources.values[id])
		if err != nil {
			return err
		}
		if typ != "AWS::Serverless::Api" {
			continue
		}
		if r.api != "" {
			return fmt.Errorf("line %d: %s is a second API beside %s", resources.values[id].Line, id, r.api)
		}
		// Left out on purpose: Auth, Cors, DefinitionBody and others that change what a client sees.
		if err := properties.only("StageName", "EndpointConfiguration", "Description", "Name", "Tags",
			"TracingEnabled", "MethodSettings", "AccessLogSetting", "AlwaysDeploy"); err != nil {
			return err
		}
		stage := properties.values["StageName"]
		if stage == nil {
			return fmt.Errorf("line %d: %s has no StageName", resources.values[id].Line, id)
		}
		if t.Stage, err = r.values.text(stage); err != nil {
			return err
		}
		r.api = id
	}
	return nil
}

func (r *reader) readResource(t *Template, id string, n *yaml.Node) error {
	typ, properties, err := resource(id, n)
	if err != nil {
		return err
	}
	switch typ {
	case "AWS::Serverless::Api", "AWS::Logs::LogGroup":
		return nil
	case "AWS::Serverless::Function":
		f, err := r.function(id, properties)
		if err != nil {
			return fmt.Errorf("%s: %w", id, err)
		}
		t.Functions = append(t.Functions, f)
		return nil
	default:
		return fmt.Errorf("line %d: %s is of the type %q, which the gateway does not understand", n.Line, id, typ)
	}
}

// resource returns the type and the properties of a resource.
func resource(id string, n *yaml.Node) (typ string, properties mapping, err error) {
	m, err := newMapping(n, id)
	if err != nil {
		return "", mapping{}, err
	}
	if err := m.only("Type", "Properties", "Metadata", "DependsOn", "DeletionPolicy", "UpdateReplacePolicy"); err != nil {
		return "", mapping{}, err
	}
	if m.values["Type"] == nil {
		return "", mapping{}, fmt.Errorf("line %d: %s has no Type", n.Line, id)
	}
	properties = mapping{name: id + ".Properties"}
	if p := m.values["Properties"]; p != nil {
		if properties, err = newMapping(p, properties.name); err != nil {
			return "", mapping{}, err
		}
	}
	return m.values["Type"].Value, properties, nil
}

// functionProperties are the properties of a function that the gateway uses, and those that mean nothing here.
var functionProperties = []string{
	"Runtime", "Handler", "Timeout", "MemorySize", "Environment", "Events",
	"CodeUri", "Architectures", "Description", "LoggingConfig", "Policies", "Tags", "Tracing",
}

func (r *reader) function(id string, properties mapping) (Function, error) {
	f := Function{LogicalID: id, Handler: "bootstrap", Timeout: defaultTimeout, MemoryMB: defaultMemoryMB}
	if err := properties.only(functionProperties...); err != nil {
		return f, err
	}
	property := func(key string) *yaml.Node {
		if n := properties.values[key]; n != nil {
			return n
		}
		return r.globals.values[key]
	}
	if err := r.settings(&f, property); err != nil {
		return f, err
	}
	var err error
	if f.Environment, err = r.environment(properties.values["Environment"]); err != nil {
		return f, err
	}
	if f.Routes, err = r.routes(properties.values["Events"]); err != nil {
		return f, err
	}
	if len(f.Routes) > 0 && f.Timeout > integrationTimeout {
		return f, fmt.Errorf("a Timeout of %v is more than the %v that API Gateway waits", f.Timeout, integrationTimeout)
	}
	return f, nil
}

// settings reads the properties with one value.
func (r *reader) settings(f *Function, property func(string) *yaml.Node) error {
	const runtime = "provided.al2023"
	n := property("Runtime")
	if n == nil {
		return errors.New("the function has no Runtime")
	}
	if v, err := r.values.text(n); err != nil {
		return err
	} else if v != runtime {
		return fmt.Errorf("line %d: Runtime %q is not %s", n.Line, v, runtime)
	}
	if n := property("Handler"); n != nil {
		v, err := r.values.text(n)
		if err != nil {
			return err
		}
		f.Handler = v
	}
	if n := property("Timeout"); n != nil {
		seconds, err := r.values.number(n, 1, 900)
		if err != nil {
			return fmt.Errorf("property Timeout: %w", err)
		}
		f.Timeout = time.Duration(seconds) * time.Second
	}
	if n := property("MemorySize"); n != nil {
		v, err := r.values.number(n, 128, 10240)
		if err != nil {
			return fmt.Errorf("property MemorySize: %w", err)
		}
		f.MemoryMB = v
	}
	return nil
}

// environment merges the variables of Globals, of the function and of the overrides; later ones win.
func (r *reader) environment(own *yaml.Node) (map[string]string, error) {
	nodes := map[string]*yaml.Node{}
	for _, n := range []*yaml.Node{r.globals.values["Environment"], own} {
		if n == nil {
			continue
		}
		environment, err := newMapping(n, "Environment")
		if err != nil {
			return nil, err
		}
		if err := environment.only("Variables"); err != nil {
			return nil, err
		}
		variables, err := newMapping(environment.values["Variables"], "Environment.Variables")
		if err != nil {
			return nil, err
		}
		maps.Copy(nodes, variables.values)
	}
	environment := make(map[string]string, len(nodes))
	for name, n := range nodes {
		v, overridden := r.overrides.Environment[name]
		delete(r.unusedEnvironment, name)
		if !overridden {
			var err error
			if v, err = r.values.text(n); err != nil {
				return nil, fmt.Errorf("variable %s: %w", name, err)
			}
		}
		environment[name] = v
	}
	return environment, nil
}

func (r *reader) routes(n *yaml.Node) ([]Route, error) {
	if n == nil {
		return nil, nil
	}
	events, err := newMapping(n, "Events")
	if err != nil {
		return nil, err
	}
	var routes []Route
	for _, name := range events.keys {
		typ, properties, err := resource(name, events.values[name])
		if err != nil {
			return nil, err
		}
		if typ != "Api" {
			return nil, fmt.Errorf("line %d: event %s is of the type %q, which the gateway does not understand",
				events.values[name].Line, name, typ)
		}
		route, err := r.route(name, properties)
		if err != nil {
			return nil, err
		}
		routes = append(routes, route)
	}
	return routes, nil
}

func (r *reader) route(event string, properties mapping) (Route, error) {
	if err := properties.only("Path", "Method", "RestApiId"); err != nil {
		return Route{}, err
	}
	texts := map[string]string{}
	for _, key := range []string{"Path", "Method", "RestApiId"} {
		n := properties.values[key]
		if n == nil {
			return Route{}, fmt.Errorf("event %s has no %s", event, key)
		}
		var err error
		if texts[key], err = r.values.text(n); err != nil {
			return Route{}, err
		}
	}
	if texts["RestApiId"] != r.api {
		return Route{}, fmt.Errorf("event %s belongs to %q, which is no API of this template", event, texts["RestApiId"])
	}
	return Route{Method: strings.ToUpper(texts["Method"]), Path: texts["Path"]}, nil
}

// number resolves a node to an integer in [low, high].
func (r *resolver) number(n *yaml.Node, low, high int) (int, error) {
	s, err := r.text(n)
	if err != nil {
		return 0, err
	}
	v, err := strconv.Atoi(s)
	if err != nil || v < low || v > high {
		return 0, fmt.Errorf("line %d: %q is not an integer from %d to %d", n.Line, s, low, high)
	}
	return v, nil
}
