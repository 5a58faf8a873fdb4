package exchange

import (
	"math"
	"math/bits"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"tapedeck/shared/market"
)

const (
	minLevels = 100
	maxLevels = 5_000
	// keptLevels is how many levels a side always has left.
	keptLevels = 20

	// updateIDsPerMillisecond and tradeIDsPerMillisecond are far more than a market uses, so that ids that begin at the
	// start time times these are above all that an earlier run has used.
	updateIDsPerMillisecond = 16
	tradeIDsPerMillisecond  = 4
)

// never is later than everything.
const never = market.Time(math.MaxInt64)

// syntheticMarket is one made-up market. Its life is a row of slots of 100 ms. In a slot that is not quiet the book
// changes in a few steps, after each of which there may be trades and a new best price; the last step shows all changes
// in one depth update. All numbers are integers, so that a seed gives the same market on every machine.
type syntheticMarket struct {
	number    int
	symbol    string
	tick, lot market.Decimal
	rng       *rand.PCG
	levels    int // about how many a side
	quietness int // each degree halves the activity

	book     ladder
	updateID int64
	tradeID  int64
	center   int // the index around which the price wanders

	end       market.Time
	next      market.Time // of the next step; never when the market has ended
	slotEnd   market.Time
	stepsLeft int // in the slot, this one included
	changes   int // to be made in each of them
	reach     int // how far from the best price they usually are
	shown     changes
	perSecond *changes // nil when nobody listens
	best      [4]int64 // as last shown

	pauses int // nothing happens while there are any
	latest Trades

	depth, depthSeconds, trades, tickers madeStream
}

// madeStream is what the frames of one stream have in common.
type madeStream struct {
	head     []byte // what each combined frame begins with
	name     []byte // in head
	rawStart int
}

func newMadeStream(symbol, kind, data string) madeStream {
	const before, between = `{"stream":"`, `","data":`
	name := strings.ToLower(symbol) + kind
	head := []byte(before + name + between + data)
	return madeStream{
		head: head, name: head[len(before) : len(before)+len(name)], rawStart: len(before) + len(name) + len(between),
	}
}

func (s *madeStream) frame(combined []byte) Frame {
	return Frame{Stream: s.name, Combined: combined, Raw: combined[s.rawStart : len(combined)-1]}
}

// newSyntheticMarket returns market number n of a configuration.
func newSyntheticMarket(symbol string, n, quietness int, cfg *SyntheticConfig) *syntheticMarket {
	m := &syntheticMarket{
		number: n, symbol: symbol, levels: cfg.Levels, quietness: quietness, end: never,
		rng:      rand.NewPCG(cfg.Seed, uint64(n)),
		updateID: milliseconds(cfg.Start) * updateIDsPerMillisecond,
		tradeID:  milliseconds(cfg.Start) * tradeIDsPerMillisecond,

		depth:        newMadeStream(symbol, "@depth@100ms", `{"e":"depthUpdate","E":`),
		depthSeconds: newMadeStream(symbol, "@depth", `{"e":"depthUpdate","E":`),
		trades:       newMadeStream(symbol, "@trade", `{"e":"trade","E":`),
		tickers:      newMadeStream(symbol, "@bookTicker", `{"u":`),
	}
	if cfg.Duration > 0 {
		m.end = cfg.Start.Add(cfg.Duration)
	}
	// Five classes of prices: around 60000 with a tick of 1 down to around 6 with a tick of 0.0001.
	m.tick, m.lot = market.DecimalOne, market.DecimalOne/100_000
	for range n % 5 {
		m.tick, m.lot = m.tick/10, m.lot*10
	}
	price := 40_000 + m.below(40_000)
	size := max(price/2, 8*m.levels)
	m.book = newLadder(price-size/2, size)
	m.shown = newChanges(size)
	m.center = size / 2
	m.reach = nearTicks
	m.fillBook()
	// Markets do not all tick at the same instant.
	phase := market.Time(m.below(int(slot/time.Millisecond))+1) * market.Time(time.Millisecond)
	m.slotEnd = cfg.Start + phase
	m.planSlot()
	return m
}

func (m *syntheticMarket) before(other *syntheticMarket) bool {
	return m.next < other.next || m.next == other.next && m.number < other.number
}

// below returns a random number in [0, n).
func (m *syntheticMarket) below(n int) int {
	hi, _ := bits.Mul64(m.rng.Uint64(), uint64(n))
	return int(hi)
}

// tail returns a random number of at least least: half of them under twice that, a quarter of them under four times,
// and so on; the last of the given doublings gets what is left over. Sizes of everything in a market are like this.
func (m *syntheticMarket) tail(least, doublings int) int {
	r := m.rng.Uint64()
	least <<= min(bits.TrailingZeros64(r), doublings)
	hi, _ := bits.Mul64(r&^0xffff, uint64(least))
	return least + int(hi)
}

// fillBook gives the new book its levels: dense around the price, thinner and thinner away from it.
func (m *syntheticMarket) fillBook() {
	l := &m.book
	l.bestBid, l.bestAsk = m.center-1, m.center
	for _, i := range []int{l.bestBid, l.bestAsk} {
		l.set(i, m.quantity())
	}
	l.bidCount, l.askCount = 1, 1
	for l.bidCount < m.levels {
		if i := l.down(max(l.bestBid-m.distance(), 0), false); i >= 0 {
			l.set(i, m.quantity())
			l.bidCount++
		}
	}
	for l.askCount < m.levels {
		if i := l.up(min(l.bestAsk+m.distance(), len(l.lots)-1), false); i >= 0 {
			l.set(i, m.quantity())
			l.askCount++
		}
	}
}

// distance returns how far from the best price something happens, in ticks.
func (m *syntheticMarket) distance() int {
	const farthest = 4096
	d := m.below(m.tail(m.reach, bits.Len(uint(farthest/m.reach))))
	if d%4 == 0 {
		d /= nearTicks // competition at the front
	}
	return d
}

func (m *syntheticMarket) quantity() uint32 { return uint32(m.tail(100, 16)) }

// planSlot decides what happens in the slot that ends at slotEnd. A market ends before a slot that it cannot finish.
func (m *syntheticMarket) planSlot() {
	if m.pauses > 0 && m.slotEnd <= m.end {
		m.stepsLeft, m.next = 0, m.slotEnd // nothing but to show what is left of the second
		return
	}
	// A degree of quietness first makes slots smaller, then rarer.
	smaller := min(m.quietness, 3)
	for m.quietness > smaller && m.below(1<<(m.quietness-smaller)) != 0 {
		if m.secondEnds() {
			m.stepsLeft, m.next = 0, m.slotEnd // nothing but to show what is left of the second
			return
		}
		m.slotEnd += market.Time(slot)
	}
	if m.slotEnd > m.end {
		m.next = never
		return
	}
	changes := m.tail(max(slotChanges>>smaller, 1), 5)
	m.reach = nearTicks + changes // many changes are not many of the same few levels
	m.stepsLeft = min(slotSteps, 1+changes/2)
	m.changes = (changes + m.stepsLeft - 1) / m.stepsLeft
	m.planStep()
}

const (
	// slotChanges is the least number of changes in a slot of a busy market.
	slotChanges = 10
	// slotSteps is the greatest number of steps in a slot.
	slotSteps = 8
	// nearTicks is how far from the best price half of all changes are at the most, when there are few.
	nearTicks = 64
)

// planStep decides when the next step is: the last one at the end of the slot, the others spread over it.
func (m *syntheticMarket) planStep() {
	m.next = m.slotEnd
	if m.stepsLeft > 1 {
		share := int(slot/time.Millisecond) / slotSteps
		m.next -= market.Time((m.stepsLeft-1)*share+m.below(share/2)) * market.Time(time.Millisecond)
	}
}

// step lets something happen and emits what is to be seen of it. It uses buf for frames and returns it.
func (m *syntheticMarket) step(buf []byte, emit func(Frame)) []byte {
	if m.stepsLeft == 0 {
		return m.endSlot(buf, emit)
	}
	for range m.changes {
		m.change()
	}
	if m.below(2*slotSteps) == 0 {
		buf = m.trade(buf, emit)
	}
	buf = m.showBest(buf, emit)
	m.stepsLeft--
	if m.stepsLeft > 0 {
		m.planStep()
		return buf
	}
	buf = m.showChanges(buf, emit, &m.depth, &m.shown)
	return m.endSlot(buf, emit)
}

// endSlot goes on to the next slot.
func (m *syntheticMarket) endSlot(buf []byte, emit func(Frame)) []byte {
	if m.secondEnds() {
		buf = m.showChanges(buf, emit, &m.depthSeconds, m.perSecond)
	}
	m.slotEnd += market.Time(slot)
	m.planSlot()
	return buf
}

// secondEnds says whether this is the last slot of a second that has changes to be shown.
func (m *syntheticMarket) secondEnds() bool {
	return m.perSecond != nil && m.perSecond.firstID != 0 &&
		(m.slotEnd+market.Time(slot)).Truncate(second) > m.slotEnd.Truncate(second)
}

// change changes one level: about 48 in a hundred changes remove one, nearly all others add one.
func (m *syntheticMarket) change() {
	r := m.below(1 << 20)
	bid := r&1 == 0
	percent := (r >> 1) % 100
	count := m.book.askCount
	if bid {
		count = m.book.bidCount
	}
	removals := 48
	switch { // keeps the number of levels about where it shall be
	case count > m.levels*21/20:
		removals += 3
	case count < m.levels*19/20:
		removals -= 3
	}
	switch {
	case percent < removals:
		m.removeLevel(bid)
	case percent < 97:
		m.placeLevel(bid, false)
	default:
		m.placeLevel(bid, true)
	}
}

// removeLevel removes a level near to a random distance from the best price.
func (m *syntheticMarket) removeLevel(bid bool) {
	l := &m.book
	var i int
	if bid {
		i = l.down(max(l.bestBid-m.distance(), 0), true)
	} else {
		i = l.up(min(l.bestAsk+m.distance(), len(l.lots)-1), true)
	}
	if i >= 0 {
		m.take(i, bid)
	}
}

// take removes a level, unless too few would be left.
func (m *syntheticMarket) take(i int, bid bool) bool {
	l := &m.book
	if bid && l.bidCount <= keptLevels || !bid && l.askCount <= keptLevels {
		return false
	}
	l.set(i, 0)
	m.note(i, bid)
	if bid {
		l.bidCount--
		if i == l.bestBid {
			l.bestBid = l.down(i-1, true)
		}
	} else {
		l.askCount--
		if i == l.bestAsk {
			l.bestAsk = l.up(i+1, true)
		}
	}
	return true
}

// placeLevel sets the quantity at a random distance from the other side's best price. Unless standing is true it looks
// for a price that has none.
func (m *syntheticMarket) placeLevel(bid, standing bool) {
	l := &m.book
	i := m.place(bid)
	if !standing && l.has(i) {
		if i = m.place(bid); bid { // a second try, so that holes do not fill at once
			i = l.down(i, false)
		} else {
			i = l.up(i, false)
		}
	}
	if i < 0 {
		return
	}
	added := !l.has(i)
	l.set(i, m.quantity())
	m.note(i, bid)
	switch {
	case !added:
	case bid:
		l.bidCount++
		l.bestBid = max(l.bestBid, i)
	default:
		l.askCount++
		l.bestAsk = min(l.bestAsk, i)
	}
}

// place returns a price for a new order, near the other side's best price more often than not.
func (m *syntheticMarket) place(bid bool) int {
	if bid {
		return max(m.book.bestAsk-1-m.distance(), 0)
	}
	return min(m.book.bestBid+1+m.distance(), len(m.book.lots)-1)
}

// note gives a change the next update id and remembers to show it.
func (m *syntheticMarket) note(i int, bid bool) {
	m.updateID++
	m.shown.add(i, bid, m.updateID)
	if m.perSecond != nil {
		m.perSecond.add(i, bid, m.updateID)
	}
}

// trade lets a taker trade against the best levels of one side, in several trades of the same instant.
func (m *syntheticMarket) trade(buf []byte, emit func(Frame)) []byte {
	l := &m.book
	buy := m.below(2) == 0
	// The price wanders, but stays away from the ends of the ladder.
	if reach := len(l.lots) / 4; l.bestBid < m.center-reach {
		buy = true
	} else if l.bestBid > m.center+reach {
		buy = false
	}
	for range m.tail(1, 5) {
		i := l.bestBid
		if buy {
			i = l.bestAsk
		}
		price, lots := l.base+i, min(m.quantity(), l.lots[i])
		if lots == l.lots[i] {
			if !m.take(i, !buy) {
				break
			}
		} else {
			l.set(i, l.lots[i]-lots)
			m.note(i, !buy)
		}
		m.tradeID++
		m.latest.add(trade{
			id: m.tradeID, time: m.next, price: market.Decimal(price) * m.tick, quantity: market.Decimal(lots) * m.lot,
			buyerIsMaker: !buy, bestMatch: true,
		})
		buf = m.appendTrade(buf[:0], price, lots, buy)
		emit(m.trades.frame(buf))
	}
	return buf
}

// showBest emits the best prices if they have changed.
func (m *syntheticMarket) showBest(buf []byte, emit func(Frame)) []byte {
	l := &m.book
	best := [4]int64{int64(l.bestBid), int64(l.lots[l.bestBid]), int64(l.bestAsk), int64(l.lots[l.bestAsk])}
	if best == m.best {
		return buf
	}
	m.best = best
	buf = append(buf[:0], m.tickers.head...)
	buf = strconv.AppendInt(buf, m.updateID, 10)
	buf = append(append(append(buf, `,"s":"`...), m.symbol...), `","b":"`...)
	buf = m.appendPrice(buf, l.base+l.bestBid)
	buf = m.appendLots(append(buf, `","B":"`...), l.lots[l.bestBid])
	buf = m.appendPrice(append(buf, `","a":"`...), l.base+l.bestAsk)
	buf = m.appendLots(append(buf, `","A":"`...), l.lots[l.bestAsk])
	buf = append(buf, `"}}`...)
	emit(m.tickers.frame(buf))
	return buf
}

// showChanges emits a depth update of the changes in c, if there are any, and forgets them.
func (m *syntheticMarket) showChanges(buf []byte, emit func(Frame), s *madeStream, c *changes) []byte {
	if c.firstID == 0 {
		return buf
	}
	l := &m.book
	buf = append(buf[:0], s.head...)
	buf = strconv.AppendInt(buf, milliseconds(m.slotEnd), 10)
	buf = append(append(append(buf, `,"s":"`...), m.symbol...), `","U":`...)
	buf = strconv.AppendInt(buf, c.firstID, 10)
	buf = strconv.AppendInt(append(buf, `,"u":`...), m.updateID, 10)
	buf = append(buf, `,"b":[`...)
	slices.Sort(c.bids)
	for n, i := range slices.Backward(c.bids) {
		buf = m.appendChange(buf, int(i), int(i) <= l.bestBid, n < len(c.bids)-1)
	}
	buf = append(buf, `],"a":[`...)
	slices.Sort(c.asks)
	for n, i := range c.asks {
		buf = m.appendChange(buf, int(i), int(i) >= l.bestAsk, n > 0)
	}
	buf = append(buf, `]}}`...)
	c.clear()
	emit(s.frame(buf))
	return buf
}

// watchSeconds switches the depth update of each second on or off. The first one covers what is left of its second.
func (m *syntheticMarket) watchSeconds(on bool) {
	if !on {
		m.perSecond = nil
		return
	}
	c := newChanges(len(m.book.lots))
	m.perSecond = &c
}

// appendChange appends the level at index i as it stands on one side; standing says whether it does.
func (m *syntheticMarket) appendChange(buf []byte, i int, standing, comma bool) []byte {
	if comma {
		buf = append(buf, ',')
	}
	lots := uint32(0)
	if standing {
		lots = m.book.lots[i]
	}
	buf = m.appendPrice(append(buf, `["`...), m.book.base+i)
	buf = m.appendLots(append(buf, `","`...), lots)
	return append(buf, `"]`...)
}

// appendTrade appends the combined frame of a trade. The buyer is the maker when the taker sells.
func (m *syntheticMarket) appendTrade(buf []byte, price int, lots uint32, buy bool) []byte {
	buf = append(buf, m.trades.head...)
	buf = strconv.AppendInt(buf, milliseconds(m.next), 10)
	buf = append(append(append(buf, `,"s":"`...), m.symbol...), `","t":`...)
	buf = strconv.AppendInt(buf, m.tradeID, 10)
	buf = m.appendPrice(append(buf, `,"p":"`...), price)
	buf = m.appendLots(append(buf, `","q":"`...), lots)
	buf = strconv.AppendInt(append(buf, `","T":`...), milliseconds(m.next), 10)
	buf = strconv.AppendBool(append(buf, `,"m":`...), !buy)
	return append(buf, `,"M":true}}`...)
}

func (m *syntheticMarket) appendPrice(buf []byte, ticks int) []byte {
	return appendDecimal(buf, market.Decimal(ticks)*m.tick)
}

func (m *syntheticMarket) appendLots(buf []byte, lots uint32) []byte {
	return appendDecimal(buf, market.Decimal(lots)*m.lot)
}

// digitPairs is "00" to "99".
var digitPairs = func() (pairs [200]byte) {
	for i := range 100 {
		pairs[2*i], pairs[2*i+1] = byte('0'+i/10), byte('0'+i%10)
	}
	return pairs
}()

// appendDecimal is d.Append for d >= 0, several times as fast: most of a frame is made of it.
func appendDecimal(buf []byte, d market.Decimal) []byte {
	buf = strconv.AppendUint(buf, uint64(d/market.DecimalOne), 10)
	f := uint32(d % market.DecimalOne)
	a, b, c, e := f/1_000_000*2, f/10_000%100*2, f/100%100*2, f%100*2
	return append(
		buf, '.', digitPairs[a], digitPairs[a+1], digitPairs[b], digitPairs[b+1],
		digitPairs[c], digitPairs[c+1], digitPairs[e], digitPairs[e+1],
	)
}
