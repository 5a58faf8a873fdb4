package gateway

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"
)

// mapping is a YAML mapping that keeps the order of its keys and the lines of its values.
type mapping struct {
	name   string
	keys   []string
	values map[string]*yaml.Node
}

// newMapping reads a mapping without intrinsics. name says in errors what it is.
func newMapping(n *yaml.Node, name string) (mapping, error) {
	switch {
	case n == nil:
		return mapping{}, fmt.Errorf("%s is missing", name)
	case n.Kind != yaml.MappingNode || n.Tag != "!!map":
		return mapping{}, fmt.Errorf("line %d: %s is not a plain mapping", n.Line, name)
	}
	m := mapping{name: name, values: make(map[string]*yaml.Node, len(n.Content)/2)}
	for i := 0; i < len(n.Content); i += 2 {
		key := n.Content[i]
		if key.Kind != yaml.ScalarNode || key.Tag == "!!merge" {
			return mapping{}, fmt.Errorf("line %d: %s has a key that is not plain text", key.Line, name)
		}
		if _, again := m.values[key.Value]; again {
			return mapping{}, fmt.Errorf("line %d: %s has the key %s twice", key.Line, name, key.Value)
		}
		m.keys = append(m.keys, key.Value)
		m.values[key.Value] = n.Content[i+1]
	}
	return m, nil
}

// only returns an error if m has a key that is not among the known ones.
func (m mapping) only(known ...string) error {
	for _, key := range m.keys {
		if !slices.Contains(known, key) {
			return fmt.Errorf("line %d: the gateway does not understand %s in %s", m.values[key].Line, key, m.name)
		}
	}
	return nil
}

// The account and the region that the gateway stands for.
const (
	accountID = "000000000000"
	region    = "us-east-1"
)

// resolver resolves the intrinsic functions of a template to text.
type resolver struct {
	names     map[string]string // parameters with a value, pseudo parameters, resources (their logical ids)
	valueless map[string]bool   // parameters without a value: an error only where one is used
	functions map[string]bool   // logical ids
}

func newResolver(parameters *yaml.Node, overrides map[string]string, resources mapping) (resolver, error) {
	r := resolver{
		names: map[string]string{
			"AWS::AccountId": accountID,
			"AWS::Partition": "aws",
			"AWS::Region":    region,
			"AWS::StackName": "local",
			"AWS::URLSuffix": "amazonaws.com",
		},
		valueless: map[string]bool{},
		functions: map[string]bool{},
	}
	for _, id := range resources.keys {
		typ, _, err := resource(id, resources.values[id])
		if err != nil {
			return r, err
		}
		r.names[id], r.functions[id] = id, typ == "AWS::Serverless::Function"
	}
	unused := maps.Clone(overrides)
	if parameters != nil {
		m, err := newMapping(parameters, "Parameters")
		if err != nil {
			return r, err
		}
		for _, name := range m.keys {
			value, given := overrides[name]
			delete(unused, name)
			if err := r.addParameter(name, m.values[name], value, given); err != nil {
				return r, err
			}
		}
	}
	if len(unused) > 0 {
		names := slices.Sorted(maps.Keys(unused))
		return r, fmt.Errorf("the template has no parameters %s", strings.Join(names, ", "))
	}
	return r, nil
}

// addParameter takes the given value, or else the default, of one parameter.
func (r *resolver) addParameter(name string, n *yaml.Node, value string, given bool) error {
	p, err := newMapping(n, "parameter "+name)
	if err != nil {
		return err
	}
	if err := p.only("Type", "Default", "AllowedValues", "Description", "ConstraintDescription", "NoEcho"); err != nil {
		return err
	}
	if t := p.values["Type"]; t == nil || t.Value != "String" && t.Value != "Number" {
		return fmt.Errorf("line %d: parameter %s is neither a String nor a Number", n.Line, name)
	}
	if d := p.values["Default"]; d != nil && !given {
		if value, err = r.text(d); err != nil {
			return err
		}
		given = true
	}
	if !given {
		r.valueless[name] = true
		return nil
	}
	if allowed := p.values["AllowedValues"]; allowed != nil {
		if !slices.ContainsFunc(allowed.Content, func(n *yaml.Node) bool { return n.Value == value }) {
			return fmt.Errorf("parameter %s does not allow the value %q", name, value)
		}
	}
	r.names[name] = value
	return nil
}

// text resolves a node to text: a plain scalar, or one of the intrinsic functions Ref, Fn::Sub and Fn::GetAtt in their
// short and long forms.
func (r *resolver) text(n *yaml.Node) (string, error) {
	function, argument := n.Tag, n
	if n.Kind == yaml.MappingNode && n.Tag == "!!map" && len(n.Content) == 2 {
		function, argument = "!"+strings.TrimPrefix(n.Content[0].Value, "Fn::"), n.Content[1]
	}
	var (
		s   string
		err error
	)
	switch {
	case argument.Kind != yaml.ScalarNode && function != "!GetAtt":
		err = fmt.Errorf("the gateway does not understand this value (%s)", n.Tag)
	case function == "!!str" || function == "!!int" || function == "!!bool" || function == "!!float":
		s = n.Value
	case function == "!Ref":
		s, err = r.ref(argument.Value)
	case function == "!Sub":
		s, err = r.sub(argument.Value)
	case function == "!GetAtt":
		s, err = r.attribute(argument)
	default:
		err = fmt.Errorf("the gateway does not understand %s", function)
	}
	if err != nil {
		return "", fmt.Errorf("line %d: %w", n.Line, err)
	}
	return s, nil
}

func (r *resolver) ref(name string) (string, error) {
	if v, ok := r.names[name]; ok {
		return v, nil
	}
	if r.valueless[name] {
		return "", fmt.Errorf("parameter %s has no value and no default", name)
	}
	return "", fmt.Errorf("reference to %q, which is not there", name)
}

// placeholder matches ${Name}, ${Name.Attribute} and ${!Literal}, and a brace that is not closed.
var placeholder = regexp.MustCompile(`\$\{[^}]*\}?`)

func (r *resolver) sub(template string) (string, error) {
	var failed error
	s := placeholder.ReplaceAllStringFunc(template, func(match string) string {
		name, closed := strings.CutSuffix(match[2:], "}")
		if !closed && failed == nil {
			failed = fmt.Errorf("%q is not closed", match)
		}
		if literal, ok := strings.CutPrefix(name, "!"); ok {
			return "${" + literal + "}"
		}
		v, err := r.placeholder(strings.TrimSpace(name))
		if err != nil && failed == nil {
			failed = err
		}
		return v
	})
	return s, failed
}

func (r *resolver) placeholder(name string) (string, error) {
	if id, attribute, ok := strings.Cut(name, "."); ok {
		return r.attributeOf(id, attribute)
	}
	return r.ref(name)
}

// attribute resolves the argument of Fn::GetAtt: "Id.Attribute" or [Id, Attribute].
func (r *resolver) attribute(n *yaml.Node) (string, error) {
	if n.Kind == yaml.SequenceNode && len(n.Content) == 2 {
		return r.attributeOf(n.Content[0].Value, n.Content[1].Value)
	}
	id, attribute, _ := strings.Cut(n.Value, ".")
	return r.attributeOf(id, attribute)
}

func (r *resolver) attributeOf(id, attribute string) (string, error) {
	if !r.functions[id] || attribute != "Arn" {
		return "", fmt.Errorf("the gateway does not understand the attribute %q of %s", attribute, id)
	}
	return functionARN(id), nil
}

// functionARN returns the Amazon resource name that a function has here.
func functionARN(name string) string {
	return "arn:aws:lambda:" + region + ":" + accountID + ":function:" + name
}
