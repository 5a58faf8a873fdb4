package verify

// SetMaxWaitingBytes sets the bound of the blocks that wait for their turn, and returns what sets it back.
func SetMaxWaitingBytes(n int) (restore func()) {
	before := maxWaitingBytes
	maxWaitingBytes = n
	return func() { maxWaitingBytes = before }
}
