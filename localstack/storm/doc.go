// Package storm holds the longest tests of the whole: the ingester as it is shipped, in a process of its own, between
// the exchange stand-in and a store, while everything goes wrong that can. The stand-in knows what really happened; the
// tests compare, event by event, what the store holds in the end.
//
//	go test -run '^TestStorm$' ./localstack/storm                                  # about a minute, three seeds
//	go test -run '^TestStorm$' -timeout 2h ./localstack/storm -args -duration 30m  # one long storm, with a seed of its own
//	go test -run '^TestSoak$'  -timeout 2h ./localstack/storm -args -duration 20m  # no faults: does anything grow?
//
// A storm that finds something prints how to repeat it, and keeps its folder: the store, the spool, the ingester's log,
// the truth, and what went wrong when.
package storm
