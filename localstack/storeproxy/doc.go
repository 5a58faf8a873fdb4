// Package storeproxy stands between the ingester and its store on one machine and does to their connections what faults
// (package faults, the side of the store) say: latency, little bandwidth, cuts, refused and half-closed connections, black
// holes. It is for any protocol over TCP; MongoDB's drivers must be told to connect directly (directConnection=true), or
// they find a way past it.
//
// It is not built on toxiproxy: that ends connections gracefully where a fault must reset them, and adding toxics to and
// removing them from connections in use made it panic (index out of range in ToxicLink.AddToxic, v2.12.0).
package storeproxy
