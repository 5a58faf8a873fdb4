package recorder

import "sync/atomic"

// maxFloor bounds what each account is guaranteed.
const maxFloor = 64 << 10

// Memory is the budget of bytes that the queues of all markets of a process share: the frames in their inboxes and the
// updates that wait for a snapshot. Each queue is guaranteed a little, so that a market in a storm cannot take the last
// byte from a quiet one. It is safe for concurrent use.
type Memory struct {
	floor  int64        // what each account has for itself
	limit  int64        // what all accounts share beyond
	shared atomic.Int64 // how much of it is taken
}

// NewMemory returns a budget of limit bytes for so many markets.
func NewMemory(limit, markets int) *Memory {
	accounts := 2 * int64(max(markets, 1)) // an inbox and a buffer of updates each
	floor := min(maxFloor, int64(limit)/(2*accounts))
	return &Memory{floor: floor, limit: int64(limit) - accounts*floor}
}

// exhausted reports whether all of what is shared is taken.
func (m *Memory) exhausted() bool { return m.shared.Load() >= m.limit }

// account is what one queue holds of a Memory. It belongs to whoever guards the queue.
type account struct {
	memory *Memory
	held   int64
}

// take charges n bytes, or returns false when they are not there.
func (a *account) take(n int) bool {
	borrowed := a.beyondFloor(int64(n))
	if borrowed > 0 && a.memory.shared.Add(borrowed) > a.memory.limit {
		a.memory.shared.Add(-borrowed)
		return false
	}
	a.held += int64(n)
	return true
}

// force charges n bytes, whether they are there or not.
func (a *account) force(n int) {
	if borrowed := a.beyondFloor(int64(n)); borrowed > 0 {
		a.memory.shared.Add(borrowed)
	}
	a.held += int64(n)
}

// give returns n bytes.
func (a *account) give(n int) {
	if n == 0 {
		return
	}
	if borrowed := a.beyondFloor(int64(-n)); borrowed < 0 {
		a.memory.shared.Add(borrowed)
	}
	a.held -= int64(n)
}

// left returns how many bytes can be taken now, if nobody else takes any.
func (a *account) left() int {
	return int(max(a.memory.floor-a.held, 0) + max(a.memory.limit-a.memory.shared.Load(), 0))
}

// full reports whether the account is beyond its floor and nothing is left to share.
func (a *account) full() bool { return a.held >= a.memory.floor && a.memory.exhausted() }

// beyondFloor returns by how much a change of n bytes changes what is held beyond the floor.
func (a *account) beyondFloor(n int64) int64 {
	return max(a.held+n-a.memory.floor, 0) - max(a.held-a.memory.floor, 0)
}
