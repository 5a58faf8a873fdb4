package exchange

import (
	"math/bits"
	"net/http"
	"net/url"
	"slices"
	"sort"
	"strconv"
	"time"

	"tapedeck/shared/market"
)

// maxTrades is how many trades of a market are kept.
const maxTrades = 200_000

// The number of trades in a reply: rest-api.md, "Recent trades list", "Old trade lookup", "Compressed/Aggregate trades
// list".
const (
	defaultTrades  = 500
	maxTradesReply = 1000
)

// Trades are the latest trades of a market, at most maxTrades of them, by ascending ids.
type Trades struct {
	ring  []trade
	first int // where the oldest is, once the ring is full
}

// trade is one trade as it is kept.
type trade struct {
	id           int64
	time         market.Time
	price        market.Decimal
	quantity     market.Decimal
	aggregate    int64 // the id of the aggregate that it belongs to
	buyerIsMaker bool
	bestMatch    bool
}

// add appends a trade. Trades of the same instant, price and taker's side are one aggregate.
func (t *Trades) add(n trade) {
	n.aggregate = n.id
	if count := t.len(); count > 0 {
		last := t.at(count - 1)
		if n.id <= last.id {
			return // it was played before
		}
		n.aggregate = last.aggregate
		if n.time != last.time || n.price != last.price || n.buyerIsMaker != last.buyerIsMaker {
			n.aggregate++
		}
	}
	if len(t.ring) < maxTrades {
		t.ring = append(t.ring, n)
		return
	}
	t.ring[t.first] = n
	t.first = (t.first + 1) % maxTrades
}

func (t *Trades) len() int { return len(t.ring) }

// at returns the trade at i, counted from the oldest.
func (t *Trades) at(i int) *trade { return &t.ring[(t.first+i)%len(t.ring)] }

// search returns the index of the oldest trade for which ok holds, which holds for all after it.
func (t *Trades) search(ok func(*trade) bool) int {
	return sort.Search(t.len(), func(i int) bool { return ok(t.at(i)) })
}

// Trades returns the stand-in's own trades of a market from an id on, at most limit of those that it still has: the truth,
// for tests, whatever faults hide. Errors are those of Source.Trades.
func (s *Server) Trades(symbol string, fromID int64, limit int) ([]market.Trade, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	kept, err := s.source.Trades(symbol)
	if err != nil {
		return nil, err
	}
	var list []market.Trade
	for i := kept.search(func(n *trade) bool { return n.id >= fromID }); i < kept.len() && len(list) < limit; i++ {
		n := kept.at(i)
		side := market.Buy
		if n.buyerIsMaker {
			side = market.Sell
		}
		flags := uint8(0)
		if n.bestMatch {
			flags = market.TradeFlagM
		}
		list = append(list, market.Trade{
			ID: n.id, EventTime: n.time, Price: n.price, Quantity: n.quantity, Side: side, Flags: flags,
		})
	}
	return list, nil
}

var errBadFromID = &apiError{
	http.StatusBadRequest, -1100,
	"Illegal characters found in parameter 'fromId'; legal range is '^[0-9]{1,20}$'.",
}

// recentTrades answers /api/v3/trades.
func (s *Server) recentTrades(r *http.Request) (any, *apiError) {
	return s.tradesFrom(r.URL.Query(), false)
}

// historicalTrades answers /api/v3/historicalTrades.
func (s *Server) historicalTrades(r *http.Request) (any, *apiError) {
	return s.tradesFrom(r.URL.Query(), true)
}

// tradesFrom answers with trades from an id on, or with the latest.
func (s *Server) tradesFrom(query url.Values, byID bool) (any, *apiError) {
	limit, apiErr := limitOf(query, defaultTrades, maxTradesReply)
	if apiErr != nil {
		return nil, apiErr
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	shown, apiErr := s.shownTrades(query)
	if apiErr != nil {
		return nil, apiErr
	}
	var list []trade
	if byID && query.Has("fromId") {
		from, err := strconv.ParseInt(query.Get("fromId"), 10, 64)
		if err != nil || from < 0 {
			return nil, errBadFromID
		}
		list = shown.from(shown.kept.search(func(n *trade) bool { return n.id >= from }), limit)
	} else {
		list = shown.latest(limit)
	}
	body := []byte{'['}
	for i := range list {
		if i > 0 {
			body = append(body, ',')
		}
		body = s.appendTrade(body, &list[i])
	}
	return append(body, ']'), nil
}

// aggregateTrades answers /api/v3/aggTrades.
func (s *Server) aggregateTrades(r *http.Request) (any, *apiError) {
	query := r.URL.Query()
	limit, apiErr := limitOf(query, defaultTrades, maxTradesReply)
	if apiErr != nil {
		return nil, apiErr
	}
	bounds := map[string]int64{"fromId": 0, "startTime": 0, "endTime": 1 << 62}
	for name := range bounds {
		if query.Has(name) {
			value, err := strconv.ParseInt(query.Get(name), 10, 64)
			if err != nil || value < 0 {
				return nil, &apiError{
					http.StatusBadRequest, -1100,
					"Illegal characters found in parameter '" + name + "'; legal range is '^[0-9]{1,20}$'.",
				}
			}
			bounds[name] = value
		}
	}
	timed := query.Has("startTime") || query.Has("endTime")
	if timed && query.Has("fromId") {
		return nil, errCombined
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	shown, apiErr := s.shownTrades(query)
	if apiErr != nil {
		return nil, apiErr
	}
	start := 0
	switch {
	case query.Has("fromId"):
		start = shown.kept.search(func(n *trade) bool { return n.aggregate >= bounds["fromId"] })
	case !timed:
		start = shown.latestAggregates(limit)
	}
	list := shown.aggregates(start, func(n *trade) bool {
		ms := milliseconds(s.faults.clock.shown(n.time))
		return ms >= bounds["startTime"] && ms <= bounds["endTime"]
	})
	if query.Has("fromId") || query.Has("startTime") {
		list = list[:min(limit, len(list))]
	} else {
		list = list[max(len(list)-limit, 0):]
	}
	body := []byte{'['}
	for i := range list {
		if i > 0 {
			body = append(body, ',')
		}
		body = s.appendAggregate(body, &list[i])
	}
	return append(body, ']'), nil
}

// shownTrades are the trades of a market but for those that a fault hides.
type shownTrades struct {
	kept   *Trades
	hidden []int64
}

// shownTrades returns the trades of the symbol that a request names. The caller holds mu.
func (s *Server) shownTrades(query url.Values) (shownTrades, *apiError) {
	symbol := query.Get("symbol")
	switch {
	case symbol == "":
		return shownTrades{}, errNoSymbol
	case !symbolRange.MatchString(symbol):
		return shownTrades{}, errBadSymbol
	}
	kept, err := s.source.Trades(symbol)
	if err != nil {
		return shownTrades{}, errInvalidSymbol
	}
	return shownTrades{kept, s.faults.hidden[symbol]}, nil
}

func (t *shownTrades) hides(n *trade) bool {
	_, found := slices.BinarySearch(t.hidden, n.id)
	return found
}

// from returns at most limit trades from index i on.
func (t *shownTrades) from(i, limit int) (list []trade) {
	for ; i < t.kept.len() && len(list) < limit; i++ {
		if n := t.kept.at(i); !t.hides(n) {
			list = append(list, *n)
		}
	}
	return list
}

// latest returns the last limit trades.
func (t *shownTrades) latest(limit int) (list []trade) {
	for i := t.kept.len() - 1; i >= 0 && len(list) < limit; i-- {
		if n := t.kept.at(i); !t.hides(n) {
			list = append(list, *n)
		}
	}
	slices.Reverse(list)
	return list
}

// aggregate is one or several trades that one order made at one price.
type aggregate struct {
	trade
	last int64
}

// latestAggregates returns where the last n aggregates begin.
func (t *shownTrades) latestAggregates(n int) int {
	i := t.kept.len() - 1
	for last := int64(-1); i >= 0; i-- {
		if id := t.kept.at(i).aggregate; id != last {
			if last = id; n == 0 {
				break
			}
			n--
		}
	}
	return i + 1
}

// aggregates returns those of trades that are wanted, from index i on.
func (t *shownTrades) aggregates(i int, wanted func(*trade) bool) (list []aggregate) {
	for ; i < t.kept.len(); i++ {
		n := t.kept.at(i)
		if t.hides(n) || !wanted(n) {
			continue
		}
		if last := len(list) - 1; last >= 0 && list[last].aggregate == n.aggregate {
			list[last].last = n.id
			list[last].quantity += n.quantity
			continue
		}
		list = append(list, aggregate{trade: *n, last: n.id})
	}
	return list
}

// appendTrade appends a trade as the exchange writes it.
func (s *Server) appendTrade(dst []byte, n *trade) []byte {
	dst = appendNumber(append(dst, `{"id":`...), n.id)
	dst = n.price.Append(append(dst, `,"price":"`...))
	dst = n.quantity.Append(append(dst, `","qty":"`...))
	dst = product(n.price, n.quantity).Append(append(dst, `","quoteQty":"`...))
	dst = appendNumber(append(dst, `","time":`...), milliseconds(s.faults.clock.shown(n.time)))
	dst = strconv.AppendBool(append(dst, `,"isBuyerMaker":`...), n.buyerIsMaker)
	return append(strconv.AppendBool(append(dst, `,"isBestMatch":`...), n.bestMatch), '}')
}

// appendAggregate appends an aggregate as the exchange writes it.
func (s *Server) appendAggregate(dst []byte, a *aggregate) []byte {
	dst = appendNumber(append(dst, `{"a":`...), a.aggregate)
	dst = a.price.Append(append(dst, `,"p":"`...))
	dst = a.quantity.Append(append(dst, `","q":"`...))
	dst = appendNumber(append(dst, `","f":`...), a.id)
	dst = appendNumber(append(dst, `,"l":`...), a.last)
	dst = appendNumber(append(dst, `,"T":`...), milliseconds(s.faults.clock.shown(a.time)))
	dst = strconv.AppendBool(append(dst, `,"m":`...), a.buyerIsMaker)
	return append(strconv.AppendBool(append(dst, `,"M":`...), a.bestMatch), '}')
}

// product returns a * b, cut to the digits of a Decimal.
func product(a, b market.Decimal) market.Decimal {
	hi, lo := bits.Mul64(uint64(a), uint64(b))
	if hi >= uint64(market.DecimalOne) {
		return 1<<63 - 1 // beyond what a Decimal holds
	}
	quotient, _ := bits.Div64(hi, lo, uint64(market.DecimalOne))
	return market.Decimal(min(quotient, 1<<63-1))
}

// parseTrade reads the payload of a trade as the exchange writes it.
func parseTrade(raw []byte) (n trade, ok bool) {
	c := cursor{text: raw, ok: true}
	c.literal(`{"e":"trade","E":`)
	c.integer()
	c.literal(`,"s":"`)
	c.skipPast('"')
	c.literal(`,"t":`)
	n.id = c.integer()
	c.literal(`,"p":"`)
	n.price = c.decimal()
	c.literal(`,"q":"`)
	n.quantity = c.decimal()
	return n, c.ok && c.tradeTail(&n)
}

// tradeTail reads what follows the quantity of a trade; recordings of before 2024 have the ids of orders there.
func (c *cursor) tradeTail(n *trade) bool {
	for _, key := range []string{`,"b":`, `,"a":`} {
		if c.has(key) {
			c.literal(key)
			c.integer()
		}
	}
	c.literal(`,"T":`)
	n.time = market.Time(c.integer()) * market.Time(time.Millisecond)
	c.literal(`,"m":`)
	n.buyerIsMaker = c.boolean()
	c.literal(`,"M":`)
	n.bestMatch = c.boolean()
	c.literal(`}`)
	return c.ok
}

func (c *cursor) has(s string) bool { return len(c.text) >= len(s) && string(c.text[:len(s)]) == s }

func (c *cursor) boolean() bool {
	if c.has("true") {
		c.literal("true")
		return true
	}
	c.literal("false")
	return false
}
