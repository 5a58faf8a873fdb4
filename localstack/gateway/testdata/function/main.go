// Command function is a Lambda function for the gateway's tests. The query parameter "do" says how it behaves.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambdacontext"
)

type handler struct{}

// Invoke implements lambda.Handler, which may answer with any bytes.
func (handler) Invoke(ctx context.Context, payload []byte) ([]byte, error) {
	var e events.APIGatewayProxyRequest
	if err := json.Unmarshal(payload, &e); err != nil {
		return nil, err
	}
	q := e.QueryStringParameters
	switch q["do"] {
	case "crash":
		os.Exit(3)
	case "panic":
		panic("as asked")
	case "error":
		return nil, errors.New("as asked")
	case "hang":
		meet(q["address"])
		select {}
	case "meet": // answers when the test lets it
		meet(q["address"])
	case "ignore-term":
		signal.Ignore(syscall.SIGTERM)
		meet(q["address"])
	case "big":
		n, err := strconv.Atoi(q["bytes"])
		return []byte(`{"statusCode": 200, "body": "` + strings.Repeat("x", n) + `"}`), err
	case "reply":
		return []byte(e.Body), nil
	case "print":
		fmt.Print("one\r\ntwo\n\n", strings.Repeat("x", 70_000), "\nunfinished")
	}
	return echo(ctx, payload)
}

// meet tells the test that the function is there, and waits for a byte. The connection ends with the process.
func meet(address string) {
	if address == "" {
		return
	}
	conn, err := net.Dial("tcp", address)
	if err != nil {
		panic(err)
	}
	_, _ = conn.Read(make([]byte, 1))
}

func echo(ctx context.Context, payload []byte) ([]byte, error) {
	lc, _ := lambdacontext.FromContext(ctx)
	deadline, _ := ctx.Deadline()
	body, err := json.Marshal(map[string]any{
		"event":       json.RawMessage(payload),
		"environment": os.Environ(),
		"pid":         os.Getpid(),
		"request_id":  lc.AwsRequestID,
		"arn":         lc.InvokedFunctionArn,
		"deadline":    deadline,
	})
	if err != nil {
		return nil, err
	}
	return json.Marshal(events.APIGatewayProxyResponse{StatusCode: 200, Body: string(body)})
}

func main() { lambda.Start(handler{}) }
