package binance

import (
	"context"
	"encoding/json"
	"errors"
	"math/bits"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	"tapedeck/shared/market"
)

// historyEndpoint is the one that data-api.binance.vision does not have (faqs/market_data_only.md).
const historyEndpoint = "historicalTrades"

// refusalMemory is how long an exchange that refused historyEndpoint is not asked for it again.
const refusalMemory = time.Hour

// history remembers whether the exchange gives trades by id.
type history struct {
	mu           sync.Mutex
	refusedUntil time.Time
}

func (h *history) refused() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return time.Now().Before(h.refusedUntil)
}

func (h *history) refuse() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.refusedUntil = time.Now().Add(refusalMemory)
}

// LastUpdateID returns the id of the last update in the exchange's own book. It costs a fiftieth of a whole Snapshot.
func (r *REST) LastUpdateID(ctx context.Context, m market.Market) (id int64, err error) {
	defer market.Wrap(&err, "LastUpdateID(%v)", m)
	query := url.Values{"symbol": {m.Symbol}, "limit": {"1"}}
	body, err := r.get(ctx, SnapshotWeight(1), "depth", query)
	if err != nil {
		return 0, err
	}
	s, err := DecodeSnapshot(body)
	return s.LastID, err
}

// LastTradeID returns the id of the market's last trade; an error of kind KindNotFound when it never had one.
func (r *REST) LastTradeID(ctx context.Context, m market.Market) (id int64, err error) {
	defer market.Wrap(&err, "LastTradeID(%v)", m)
	page, err := r.aggregates(ctx, m, -1, 1)
	if err != nil {
		return 0, err
	}
	if len(page) == 0 {
		return 0, market.Errorf(market.KindNotFound, "no trades")
	}
	return page[len(page)-1].last, nil
}

// TradesFrom fetches trades by id: those with fromID and more, ascending, at most limit (1 to MaxTradesPage) of them.
// They carry TradeFlagBackfilled, the arrival of the reply as RecvTime, and no SentTime. None means that there is no
// such trade yet.
//
// They begin with fromID and are contiguous where the exchange still has all of them, as long as it gives trades by id
// (historicalTrades). Where it refuses to, which is remembered for an hour, the latest MaxTradesPage trades serve
// (trades), and for older ones the aggregates (aggTrades): of those only the ones of a single trade are exact and
// returned, so that ids are left out. The error is of kind KindNotFound when none of several thousand are exact.
func (r *REST) TradesFrom(ctx context.Context, m market.Market, fromID int64, limit int) (trades []market.Trade, err error) {
	defer market.Wrap(&err, "TradesFrom(%v, %d, %d)", m, fromID, limit)
	if fromID < 0 || limit < 1 || limit > MaxTradesPage {
		return nil, market.Errorf(market.KindInvalid, "id is negative or limit is not in 1 to %d", MaxTradesPage)
	}
	if !r.history.refused() {
		trades, err = r.historicalTrades(ctx, m, fromID, limit)
		if !isRefusal(err) {
			return trades, err
		}
		r.history.refuse()
	}
	return r.recentTrades(ctx, m, fromID, limit)
}

// isRefusal reports whether the exchange does not offer the endpoint here: the address is not known, or wants a key.
func isRefusal(err error) bool {
	status := httpStatus(0)
	if !errors.As(err, &status) || market.KindOf(err) == market.KindNotFound {
		return false
	}
	switch status {
	case http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound,
		http.StatusMethodNotAllowed, http.StatusGone:
		return true
	}
	return false
}

// historicalTrades asks for trades by id. The first may be a later one than asked for, when the exchange no longer has
// that (binance-public-data#376).
func (r *REST) historicalTrades(ctx context.Context, m market.Market, fromID int64, limit int) ([]market.Trade, error) {
	query := url.Values{
		"symbol": {m.Symbol}, "fromId": {strconv.FormatInt(fromID, 10)}, "limit": {strconv.Itoa(limit)},
	}
	body, err := r.get(ctx, tradesWeight, historyEndpoint, query)
	if err != nil {
		return nil, err
	}
	trades, err := decodeTrades(body, limit, market.TimeOf(time.Now()))
	if err == nil && len(trades) > 0 && trades[0].ID < fromID {
		err = corrupt(market.Errorf(market.KindInvalid, "begins with id %d before %d", trades[0].ID, fromID), "trades", body)
	}
	return trades, err
}

// recentTrades finds trades without asking for them by id.
func (r *REST) recentTrades(ctx context.Context, m market.Market, fromID int64, limit int) ([]market.Trade, error) {
	latest, err := r.aggregates(ctx, m, -1, MaxTradesPage)
	if err != nil || len(latest) == 0 || latest[len(latest)-1].last < fromID {
		return nil, err
	}
	if latest[len(latest)-1].last-fromID < MaxTradesPage {
		trades, err := r.latestTrades(ctx, m)
		if err != nil {
			return nil, err
		}
		if len(trades) > 0 && trades[0].ID <= fromID {
			return clip(trades, fromID, limit), nil
		} // others traded meanwhile, or the market is new
	}
	page, err := r.findAggregates(ctx, m, fromID, latest)
	if err != nil {
		return nil, err
	}
	const maxPages = 5
	for range maxPages {
		if trades := clip(exact(page), fromID, limit); len(trades) > 0 {
			return trades, nil
		}
		next := page[len(page)-1].id + 1
		if page, err = r.aggregates(ctx, m, next, MaxTradesPage); err != nil || len(page) == 0 {
			return nil, err
		}
	}
	return nil, market.Errorf(market.KindNotFound, "no trade is told apart from others after id %d", fromID)
}

// latestTrades asks for the latest trades.
func (r *REST) latestTrades(ctx context.Context, m market.Market) ([]market.Trade, error) {
	query := url.Values{"symbol": {m.Symbol}, "limit": {strconv.Itoa(MaxTradesPage)}}
	body, err := r.get(ctx, tradesWeight, "trades", query)
	if err != nil {
		return nil, err
	}
	return decodeTrades(body, MaxTradesPage, market.TimeOf(time.Now()))
}

// clip returns the trades from an id on, at most limit.
func clip(trades []market.Trade, fromID int64, limit int) []market.Trade {
	first := slices.IndexFunc(trades, func(t market.Trade) bool { return t.ID >= fromID })
	if first < 0 {
		return nil
	}
	return trades[first:min(first+limit, len(trades))]
}

// aggregate is one of aggTrades: the trades first to last, which one order made at one price.
type aggregate struct {
	id, first, last int64
	trade           market.Trade // of the sum; exact when first is last
}

// exact returns the trades that are alone in their aggregates.
func exact(page []aggregate) (trades []market.Trade) {
	for i := range page {
		if page[i].first == page[i].last {
			trades = append(trades, page[i].trade)
		}
	}
	return trades
}

// aggregates asks for a page of aggregates from the given one on; of the latest when from is negative.
func (r *REST) aggregates(ctx context.Context, m market.Market, from int64, limit int) ([]aggregate, error) {
	query := url.Values{"symbol": {m.Symbol}, "limit": {strconv.Itoa(limit)}}
	if from >= 0 {
		query.Set("fromId", strconv.FormatInt(from, 10))
	}
	body, err := r.get(ctx, aggTradesWeight, "aggTrades", query)
	if err != nil {
		return nil, err
	}
	page, err := decodeAggregates(body, limit, market.TimeOf(time.Now()))
	if err == nil && from >= 0 && len(page) > 0 && page[0].id < from {
		err = corrupt(market.Errorf(market.KindInvalid, "begins with id %d before %d", page[0].id, from), "aggregates", body)
	}
	return page, err
}

// findAggregates returns a page of aggregates that holds a trade, or begins with the first one after it. Aggregates have
// ids of their own, which no request translates, but both run on side by side: the place is guessed from two pages
// around it, and every other time their middle is taken, so that nothing can make the search long. The page is not empty.
func (r *REST) findAggregates(ctx context.Context, m market.Market, tradeID int64, page []aggregate) ([]aggregate, error) {
	const maxProbes = 64 // each second one halves what is left of ids of 31 bits
	below := aggregate{id: -1, last: -1}
	above := page[0]
	for probe := range maxProbes {
		first, last := page[0], page[len(page)-1]
		switch {
		case tradeID < first.first:
			above = first
		case tradeID > last.last:
			below = last
		default:
			return page, nil
		}
		from, width := above.id, above.id-below.id-1
		if width > 0 {
			guess := width / 2
			if probe%2 == 0 {
				guess = interpolate(tradeID-below.last-1, above.first-below.last-1, width)
				guess = max(guess-MaxTradesPage/2, 0) // in the middle of the page
			}
			from = below.id + 1 + min(guess, width-1)
		}
		var err error
		if page, err = r.aggregates(ctx, m, from, MaxTradesPage); err != nil {
			return nil, err
		}
		if len(page) == 0 || page[0].id > above.id {
			return nil, market.Errorf(market.KindCorrupt, "no aggregates from %d to %d, which was there before", from, above.id)
		}
		if width <= 0 { // no aggregate has it
			return page, nil
		}
	}
	return nil, market.Errorf(market.KindCorrupt, "aggregates do not lead to trade %d", tradeID)
}

// interpolate returns what is to width as part is to whole, for 0 <= part <= whole.
func interpolate(part, whole, width int64) int64 {
	if whole <= 0 {
		return 0
	}
	hi, lo := bits.Mul64(uint64(part), uint64(width))
	quotient, _ := bits.Div64(hi, lo, uint64(whole))
	return int64(quotient)
}

// decodeTrades decodes a reply of trades and historicalTrades, of at most limit trades with ascending ids.
func decodeTrades(body []byte, limit int, recv market.Time) ([]market.Trade, error) {
	objects, err := parseList(body, limit)
	if err != nil {
		return nil, corrupt(err, "trades", body)
	}
	trades := make([]market.Trade, len(objects))
	for i, o := range objects {
		t := &trades[i]
		if *t, err = o.restTrade(tradeKeys, recv); err == nil {
			t.ID, err = o.id64("id")
		}
		if err == nil && i > 0 && t.ID <= trades[i-1].ID {
			err = market.Errorf(market.KindInvalid, "id %d follows %d", t.ID, trades[i-1].ID)
		}
		if err != nil {
			return nil, corrupt(market.Errorf(market.KindOf(err), "trade %d: %w", i, err), "trades", body)
		}
	}
	return trades, nil
}

// decodeAggregates decodes a reply of aggTrades, of at most limit aggregates with ascending ids.
func decodeAggregates(body []byte, limit int, recv market.Time) ([]aggregate, error) {
	objects, err := parseList(body, limit)
	if err != nil {
		return nil, corrupt(err, "aggregates", body)
	}
	page := make([]aggregate, len(objects))
	for i, o := range objects {
		if page[i], err = o.aggregate(recv); err == nil && i > 0 && (page[i].id <= page[i-1].id || page[i].first <= page[i-1].last) {
			err = market.Errorf(market.KindInvalid, "%d (%d to %d) follows %d (%d to %d)", page[i].id, page[i].first,
				page[i].last, page[i-1].id, page[i-1].first, page[i-1].last)
		}
		if err != nil {
			return nil, corrupt(market.Errorf(market.KindOf(err), "aggregate %d: %w", i, err), "aggregates", body)
		}
	}
	return page, nil
}

// parseList parses an array of at most limit objects.
func parseList(body []byte, limit int) ([]object, error) {
	var list []object
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, market.Errorf(market.KindInvalid, "%w", err)
	}
	switch {
	case list == nil:
		return nil, market.Errorf(market.KindInvalid, "null is no list")
	case len(list) > limit:
		return nil, market.Errorf(market.KindInvalid, "%d items, %d were asked for", len(list), limit)
	}
	return list, nil
}

// restKeys are the names of the fields of a trade in a reply.
type restKeys struct{ price, quantity, time, buyerIsMaker, bestMatch string }

var (
	tradeKeys     = restKeys{"price", "qty", "time", "isBuyerMaker", "isBestMatch"}
	aggregateKeys = restKeys{"p", "q", "T", "m", "M"}
)

// restTrade reads a trade but for its id.
func (o object) restTrade(keys restKeys, recv market.Time) (t market.Trade, err error) {
	if !o.has(keys.price, keys.quantity, keys.time, keys.buyerIsMaker) {
		return t, market.Errorf(market.KindInvalid, "a field is missing")
	}
	t = market.Trade{RecvTime: recv, Side: market.Buy, Flags: market.TradeFlagBackfilled}
	if t.Price, err = o.amount(keys.price); err != nil {
		return t, err
	}
	if t.Quantity, err = o.amount(keys.quantity); err != nil {
		return t, err
	}
	ms, err := o.integer(keys.time)
	if err != nil {
		return t, err
	}
	if t.EventTime, err = timeOf(ms); err != nil {
		return t, err
	}
	var buyerIsMaker, bestMatch bool
	if err = o.unmarshal(keys.buyerIsMaker, &buyerIsMaker); err != nil {
		return t, err
	}
	if err = o.unmarshal(keys.bestMatch, &bestMatch); err != nil {
		return t, err
	}
	if buyerIsMaker {
		t.Side = market.Sell
	}
	if bestMatch {
		t.Flags |= market.TradeFlagM
	}
	return t, nil
}

// aggregate reads one item of aggTrades.
func (o object) aggregate(recv market.Time) (a aggregate, err error) {
	if a.trade, err = o.restTrade(aggregateKeys, recv); err != nil {
		return a, err
	}
	for key, to := range map[string]*int64{"a": &a.id, "f": &a.first, "l": &a.last} {
		if *to, err = o.id64(key); err != nil {
			return a, err
		}
	}
	if a.first > a.last {
		return a, market.Errorf(market.KindInvalid, "from trade %d down to %d", a.first, a.last)
	}
	a.trade.ID = a.first
	return a, nil
}

// amount reads a decimal above zero.
func (o object) amount(key string) (market.Decimal, error) {
	text, err := o.text(key)
	if err != nil {
		return 0, err
	}
	v, err := parseAmount(text)
	if err == nil && v == 0 {
		err = market.Errorf(market.KindInvalid, "field %s is zero", key)
	}
	return v, err
}

// id64 reads an id, which must be there.
func (o object) id64(key string) (int64, error) {
	id, err := o.integer(key)
	if err == nil && (id < 0 || !o.has(key)) {
		err = market.Errorf(market.KindInvalid, "field %s is missing or negative", key)
	}
	return id, err
}
