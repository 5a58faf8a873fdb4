package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const oneFunction = `
Transform: AWS::Serverless-2016-10-31
Parameters:
  Greeting: {Type: String}
Resources:
  Api: {Type: AWS::Serverless::Api, Properties: {StageName: live}}
  HelloFunction:
    Type: AWS::Serverless::Function
    Properties:
      Runtime: provided.al2023
      Environment: {Variables: {GREETING: !Ref Greeting}}
      Events:
        Get: {Type: Api, Properties: {RestApiId: !Ref Api, Method: get, Path: /hello}}
`

// arguments lays down a template and its built function, and returns the flags that name them.
func arguments(t *testing.T) []string {
	t.Helper()
	dir := t.TempDir()
	template := filepath.Join(dir, "template.yaml")
	if err := os.WriteFile(template, []byte(oneFunction), 0o600); err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(dir, "HelloFunction", "bootstrap")
	build := exec.CommandContext(t.Context(), "go", "build", "-tags", "lambda.norpc", "-o", binary,
		"../../testdata/function")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	return []string{"-template", template, "-functions", dir, "-addr", "127.0.0.1:0"}
}

func TestRunServesUntilItIsStopped(t *testing.T) {
	t.Setenv("GREETING", "good day")
	ctx, stop := context.WithCancel(t.Context())
	addresses, done := make(chan net.Addr, 1), make(chan error, 1)
	args := append(arguments(t), "-env", "GREETING")
	go func() { done <- run(ctx, args, t.Output(), func(a net.Addr) { addresses <- a }) }()
	var address net.Addr
	select {
	case address = <-addresses:
	case err := <-done:
		t.Fatal(err)
	}
	resp, err := http.Get("http://" + address.String() + "/hello")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(body), "GREETING=good day") {
		t.Errorf("%s %v %s", resp.Status, err, body)
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestRunErrors(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"-template", "nowhere.yaml"}, "nowhere.yaml"},
		{[]string{"extra"}, `unexpected argument "extra"`},
		{[]string{"-max-processes", "many"}, "max-processes"},
		{[]string{"-template", "../../../../template.yaml"}, "parameter MongodbUri has no value"},
	} {
		err := run(t.Context(), c.args, io.Discard, nil)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: error %v, want %s", c.args, err, c.want)
		}
	}
}
