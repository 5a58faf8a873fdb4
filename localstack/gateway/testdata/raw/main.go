// Command raw speaks the Lambda Runtime API by itself, rightly and wrongly, for the gateway's tests. The variable MODE
// says how.
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
)

var api = "http://" + os.Getenv("AWS_LAMBDA_RUNTIME_API") + "/2018-06-01/runtime/"

func main() {
	countStart()
	switch mode := os.Getenv("MODE"); mode {
	case "init-exit":
		os.Exit(4)
	case "init-exit-once":
		if starts() == 1 {
			os.Exit(4)
		}
		for {
			answer(next())
		}
	case "init-error":
		post("init/error", `{"errorType": "Config", "errorMessage": "no store is configured"}`)
		os.Exit(1)
	case "answer-then-exit":
		answer(next())
	case "answer-twice":
		for {
			id := next()
			answer(id)
			if status := answer(id); status != http.StatusBadRequest {
				panic(fmt.Sprint("a second answer got ", status))
			}
		}
	case "answer-another":
		for {
			id := next()
			if status := answer("another"); status != http.StatusBadRequest {
				panic(fmt.Sprint("an answer to nothing got ", status))
			}
			answer(id)
		}
	case "never-answer":
		for {
			next()
		}
	default:
		panic("unknown MODE " + mode)
	}
}

func next() (id string) {
	resp, err := http.Get(api + "invocation/next")
	if err != nil {
		panic(err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.Header.Get("Lambda-Runtime-Aws-Request-Id")
}

func answer(id string) (status int) {
	return post("invocation/"+id+"/response", `{"statusCode": 200, "body": "fine"}`)
}

func post(path, body string) (status int) {
	resp, err := http.Post(api+path, "application/json", strings.NewReader(body))
	if err != nil {
		panic(err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode
}

// countStart appends to the file that STARTS names, if any.
func countStart() {
	file := os.Getenv("STARTS")
	if file == "" {
		return
	}
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		panic(err)
	}
	defer f.Close()
	if _, err := f.WriteString("x"); err != nil {
		panic(err)
	}
}

func starts() int {
	info, err := os.Stat(os.Getenv("STARTS"))
	if err != nil {
		panic(err)
	}
	return int(info.Size())
}
