# Tapedeck. `make help` lists what there is. Nothing but Go and make is needed for run, test and bench.

GOLANGCI_LINT_VERSION := v2.15.0
GOLANGCI_LINT := go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT_VERSION)

# make check, and so CI, tests with the race detector, which needs a C compiler and takes three times as long; make test
# is for a machine with nothing but Go. RACE=-race adds it.
RACE ?=
check: RACE := -race

# make run FEED=replay SPEED=1 SYMBOLS=BTCUSDT DATA=dir MONGODB_URI=mongodb://… ; all optional.
FEED ?= auto
RUN_FLAGS := -feed $(FEED) $(if $(SPEED),-speed $(SPEED)) $(if $(SYMBOLS),-symbols $(SYMBOLS)) \
	$(if $(RECORDING),-recording $(RECORDING)) $(if $(DATA),-data $(DATA)) \
	$(if $(API_ADDR),-api-addr $(API_ADDR)) $(if $(OPS_ADDR),-ops-addr $(OPS_ADDR))

# How many inputs each fuzz target tries in make check.
FUZZ_RUNS ?= 10000

BENCH_COUNT ?= 5

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z][a-z-]*:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

.PHONY: run
run: ## run everything on this machine: feed, ingester, embedded store, API (FEED=auto|binance|replay|synthetic)
	@go build -o .tapedeck/bin/devstack ./localstack/devstack
	@exec .tapedeck/bin/devstack $(RUN_FLAGS) $(if $(MONGODB_URI),-mongodb-uri '$(MONGODB_URI)')

.PHONY: test
test: ## run every test that needs neither Docker nor the internet
	@# Several tests build these; done before, they do not do it side by side.
	@CGO_ENABLED=0 go build -tags lambda.norpc -trimpath ./functions/... ./ingester
	go test $(RACE) -shuffle=on -timeout 10m ./...

.PHONY: check
check: format-check vet lint tidy-check test fuzz validate ## everything that CI checks

.PHONY: format
format: ## format the code
	$(GOLANGCI_LINT) fmt ./...

.PHONY: format-check
format-check: ## fail when code is not formatted
	$(GOLANGCI_LINT) fmt --diff ./...

.PHONY: vet
vet: ## run go vet
	go vet ./...

.PHONY: lint
lint: ## run the pinned linters
	$(GOLANGCI_LINT) run ./...

.PHONY: tidy-check
tidy-check: ## fail when go.mod or go.sum drifted
	go mod tidy -diff
	go mod verify

# A count, not a time: at the end of a time Go may fail a target that found nothing (golang/go#75804).
.PHONY: fuzz
fuzz: ## run every fuzz target FUZZ_RUNS times
	@set -e; for file in $$(grep -rlE '^func Fuzz' --include='*_test.go' .); do \
		for target in $$(grep -ohE '^func Fuzz[A-Za-z0-9_]*' $$file | cut -c6-); do \
			echo "fuzz $$target ($$(dirname $$file)), $(FUZZ_RUNS) runs"; \
			go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZ_RUNS)x -fuzzminimizetime 1x $$(dirname $$file); \
		done; \
	done

# make storm DURATION=30m SEED=7; make soak DURATION=20m.
DURATION ?= 20m
SEED ?= 0

.PHONY: storm
storm: ## let everything go wrong at random for DURATION, and prove what is held in the end (SEED repeats one)
	go test -count 1 -v -timeout 24h -run '^TestStorm$$' ./localstack/storm -args -duration $(DURATION) -seed $(SEED)

.PHONY: soak
soak: ## record busy markets for DURATION with nothing going wrong, and look whether anything grows
	go test -count 1 -v -timeout 24h -run '^TestSoak$$' ./localstack/storm -args -duration $(DURATION) -seed $(SEED)

.PHONY: verify
verify: ## prove what the store holds: make verify SQLITE_PATH=.tapedeck/replay/tapedeck.db, or MONGODB_URI=…
	go run ./ingester/cmd/tapedeck-verify $(VERIFY_FLAGS)

.PHONY: validate
validate: ## check template.yaml and docker-compose.yml with the tools of their makers
	.ci/validate

.PHONY: bench
bench: ## run the benchmarks (BENCH_COUNT times each)
	go test -run '^$$' -bench . -benchmem -count $(BENCH_COUNT) ./...

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)

.PHONY: build
build: ## build the ingester and all functions into bin/
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/ingester ./ingester
	@set -e; for f in $(FUNCTIONS); do $(MAKE) --no-print-directory build-$$f ARTIFACTS_DIR=bin/functions/$$f LAMBDA_ARCHITECTURE=native; done

# `sam build` calls build-<logical id> with ARTIFACTS_DIR set. LAMBDA_ARCHITECTURE must be the template's Architecture.
FUNCTIONS := $(shell sed -nE 's/^  ([A-Za-z]+Function):$$/\1/p' template.yaml)
LAMBDA_ARCHITECTURE ?= arm64
GOARCH_arm64 := arm64
GOARCH_x86_64 := amd64
GOARCH_native := $(shell go env GOARCH)

.PHONY: $(addprefix build-,$(FUNCTIONS))
$(addprefix build-,$(FUNCTIONS)): build-%Function:
	CGO_ENABLED=0 GOOS=$(if $(filter native,$(LAMBDA_ARCHITECTURE)),$$(go env GOOS),linux) GOARCH=$(GOARCH_$(LAMBDA_ARCHITECTURE)) go build -tags lambda.norpc -trimpath \
		-ldflags '-s -w -X tapedeck/functions/internal/api.Version=$(VERSION)' \
		-o $(ARTIFACTS_DIR)/bootstrap ./functions/$(shell echo $* | tr A-Z a-z)

.PHONY: clean
clean: ## remove what was built (not the recorded data)
	rm -rf bin .tapedeck/bin .aws-sam
