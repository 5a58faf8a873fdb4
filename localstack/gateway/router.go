package gateway

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// router finds the function that answers a path. It is a tree of path segments and does not change once built.
type router struct {
	root node
}

type node struct {
	literals  map[string]*node
	parameter *node  // the child for any segment, or nil
	name      string // of the parameter that this node is
	resource  string // the template's path, "" where none ends
	methods   map[string]string
}

// match is the outcome of a look-up.
type match struct {
	resource   string // the path as the template writes it
	parameters map[string]string
	methods    map[string]string // method -> logical id of the function
}

// allow returns the value of the header Allow.
func (m match) allow() string { return strings.Join(slices.Sorted(maps.Keys(m.methods)), ", ") }

var methods = []string{
	http.MethodDelete, http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodPatch, http.MethodPost,
	http.MethodPut,
}

// parameterSegment is what API Gateway allows as {name}. A greedy {name+} is not supported.
var parameterSegment = regexp.MustCompile(`^\{([A-Za-z0-9._:-]+)\}$`)

func newRouter(functions []Function) (*router, error) {
	r := &router{}
	for _, f := range functions {
		for _, route := range f.Routes {
			if err := r.add(route, f.LogicalID); err != nil {
				return nil, fmt.Errorf("%s: route %s %s: %w", f.LogicalID, route.Method, route.Path, err)
			}
		}
	}
	return r, nil
}

func (r *router) add(route Route, function string) error {
	if !slices.Contains(methods, route.Method) {
		return fmt.Errorf("the gateway does not understand the method")
	}
	rest, ok := strings.CutPrefix(route.Path, "/")
	if !ok {
		return fmt.Errorf("the path does not begin with a slash")
	}
	at := &r.root
	for segment := range strings.SplitSeq(rest, "/") {
		var err error
		if at, err = at.child(segment); err != nil {
			return err
		}
	}
	if other, taken := at.methods[route.Method]; taken {
		return fmt.Errorf("%s answers it already", other)
	}
	if at.methods == nil {
		at.methods = map[string]string{}
	}
	at.resource, at.methods[route.Method] = route.Path, function
	return nil
}

// child returns the child for a segment of a template's path and makes it where it is not there.
func (n *node) child(segment string) (*node, error) {
	if parameter := parameterSegment.FindStringSubmatch(segment); parameter != nil {
		if n.parameter == nil {
			n.parameter = &node{name: parameter[1]}
		}
		if n.parameter.name != parameter[1] {
			return nil, fmt.Errorf("the parameters {%s} and {%s} stand in one place", n.parameter.name, parameter[1])
		}
		return n.parameter, nil
	}
	if segment == "" || strings.ContainsAny(segment, "{}%") {
		return nil, fmt.Errorf("the gateway does not understand the segment %q", segment)
	}
	child, ok := n.literals[segment]
	if !ok {
		child = &node{}
		if n.literals == nil {
			n.literals = map[string]*node{}
		}
		n.literals[segment] = child
	}
	return child, nil
}

// find looks a path up, in the escaped form in which it arrived: each segment is decoded by itself, so that an encoded
// slash is part of a segment and does not end it. A literal segment is preferred to a parameter.
func (r *router) find(escapedPath string) (match, bool) {
	rest, ok := strings.CutPrefix(escapedPath, "/")
	if !ok {
		return match{}, false
	}
	segments := strings.Split(rest, "/")
	for i, s := range segments {
		decoded, err := url.PathUnescape(s)
		if err != nil || decoded == "" {
			return match{}, false
		}
		segments[i] = decoded
	}
	parameters := map[string]string{}
	n := r.root.find(segments, parameters)
	if n == nil {
		return match{}, false
	}
	return match{resource: n.resource, parameters: parameters, methods: n.methods}, true
}

func (n *node) find(segments []string, parameters map[string]string) *node {
	if len(segments) == 0 {
		if n.methods == nil {
			return nil
		}
		return n
	}
	if child, ok := n.literals[segments[0]]; ok {
		if found := child.find(segments[1:], parameters); found != nil {
			return found
		}
	}
	if n.parameter == nil {
		return nil
	}
	found := n.parameter.find(segments[1:], parameters)
	if found != nil {
		parameters[n.parameter.name] = segments[0]
	}
	return found
}
