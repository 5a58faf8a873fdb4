// Package faults describes what goes wrong on purpose: scripts of faults that the exchange stand-in (package exchange)
// and the proxy before the store (package storeproxy) carry out. It injects nothing itself and knows no network.
//
// # Scripts
//
// A script is a list of faults, in the text form divided by semicolons or line ends; # begins a comment.
//
//	fault    = kind [ "@" duration ] { key "=" value }
//	draw     = "random" [ "@" duration ] { key "=" value }
//	duration = as time.ParseDuration reads it: 10s, 1m30s, 250ms
//
// What follows the @ is when the fault happens, from the start of the script on; without it that is at once. With every=
// it happens again and again, with times= so often in all. The keys for= (how long it lasts), symbol=, stream= and conn=
// (what it strikes) and those of its own follow in any order:
//
//	cut@10s                                     # every socket is reset, ten seconds after the start
//	close@30s conn=1 status=1008 every=1m       # the oldest connection gets a close frame, once a minute
//	stall@20s for=15s stream=SYN001USDT@trade   # one stream is mute
//	drop@30s count=5 stream=@depth              # five depth updates, of whichever markets, are lost
//	random seed=7 every=3s                      # anything at all, every three seconds on average
//
// stream= names a stream with its market (SYN001USDT@trade), or that of all markets (@trade); @depth means every speed
// of it. conn= numbers the connections that listen to what is struck, the oldest first, and begins again behind the last:
// conn=2 of three is the second, of one the first. Without it a fault strikes all connections alike: the same events are
// lost for all. Every key that is left out has the default that Kinds tells.
//
// # Draws
//
// A draw makes up faults of all kinds from its seed alone: the same draw gives the same faults on every machine. Keys:
// seed=, every= (the mean distance), for= (when it ends; for ever without it), longest= (bound of everything that is
// drawn in time), kinds= and symbols= (comma-separated: what to draw among), deal=true (kinds are dealt like cards: each
// once before any twice), side=.
//
// # Sides
//
// A kind belongs to one of two sides: the exchange, or the store. Each side carries out its part of a script (Script.On),
// so that one script, and one seed, describes both.
package faults
