package binance

import "bytes"

// wrapperPrefix is how every event of the combined endpoint begins; the exchange writes no white space (measured).
const wrapperPrefix = `{"stream":"`

// Route returns the stream name of a frame of the combined endpoint without parsing the rest, as a part of frame; nil
// when the frame has none (a control reply) or must be parsed to find it. It never fails: what it does not recognise
// goes the slow way. It does not allocate.
func Route(frame []byte) []byte {
	if len(frame) < len(wrapperPrefix) || string(frame[:len(wrapperPrefix)]) != wrapperPrefix {
		return nil
	}
	rest := frame[len(wrapperPrefix):]
	end := bytes.IndexByte(rest, '"')
	if end <= 0 || bytes.IndexByte(rest[:end], '\\') >= 0 {
		return nil
	}
	return rest[:end]
}
