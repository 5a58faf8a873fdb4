// Command trades is the Lambda function behind GET /v1/markets/{exchange}/{symbol}/trades.
package main

import (
	"github.com/aws/aws-lambda-go/lambda"

	"tapedeck/functions/internal/api"
	"tapedeck/functions/internal/boot"
)

func main() {
	lambda.Start(boot.Handler(api.Trades))
}
