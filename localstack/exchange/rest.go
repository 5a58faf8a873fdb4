package exchange

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"tapedeck/shared/market"
)

// The depth of a book that is answered: rest-api.md, "Order book".
const (
	defaultDepth = 100
	maxDepth     = 5000
)

// apiError is an error of the REST interface: errors.md.
type apiError struct {
	status int
	Code   int    `json:"code"`
	Msg    string `json:"msg"`
}

var (
	errInvalidSymbol = &apiError{http.StatusBadRequest, -1121, "Invalid symbol."}
	errNoSymbol      = &apiError{
		http.StatusBadRequest, -1102,
		"Mandatory parameter 'symbol' was not sent, was empty/null, or malformed.",
	}
	errBadSymbol = &apiError{
		http.StatusBadRequest, -1100,
		"Illegal characters found in parameter 'symbol'; legal range is '^[A-Z0-9-_.]{1,20}$'.",
	}
	errBadSymbols = &apiError{
		http.StatusBadRequest, -1100,
		"Illegal characters found in parameter 'symbols'; legal range is a JSON array of symbols.",
	}
	errBadLimit = &apiError{
		http.StatusBadRequest, -1100,
		"Illegal characters found in parameter 'limit'; legal range is '^[0-9]{1,20}$'.",
	}
	errZeroLimit = &apiError{http.StatusBadRequest, -1130, "Data sent for parameter 'limit' is not valid."}
	errCombined  = &apiError{http.StatusBadRequest, -1128, "Combination of optional parameters invalid."}
	errTooMany   = &apiError{
		http.StatusTooManyRequests, -1003,
		"Too much request weight used; please use WebSocket Streams for live updates to avoid polling the API.",
	}
	errBanned = &apiError{
		http.StatusTeapot, -1003,
		"Way too much request weight used; IP banned. Please use WebSocket Streams for live updates to avoid bans.",
	}
)

// symbolRange is what a symbol may look like. Symbols may have non-ASCII letters since December 2025.
var symbolRange = regexp.MustCompile(`^[\p{Lu}\p{Lo}0-9-_.]{1,20}$`)

// routes returns the handler of everything.
func (s *Server) routes() http.Handler {
	api := http.NewServeMux()
	api.HandleFunc("GET /api/v3/ping", s.endpoint(fixed(1), func(*http.Request) (any, *apiError) {
		return struct{}{}, nil
	}))
	api.HandleFunc("GET /api/v3/time", s.endpoint(fixed(1), s.serverTime))
	api.HandleFunc("GET /api/v3/depth", s.endpoint(depthWeight, s.depth))
	api.HandleFunc("GET /api/v3/exchangeInfo", s.endpoint(fixed(20), s.exchangeInfo))
	api.HandleFunc("GET /api/v3/trades", s.endpoint(fixed(25), s.recentTrades))
	api.HandleFunc("GET /api/v3/aggTrades", s.endpoint(fixed(4), s.aggregateTrades))
	if !s.marketDataOnly {
		api.HandleFunc("GET /api/v3/historicalTrades", s.endpoint(fixed(25), s.historicalTrades))
	}

	mux := http.NewServeMux()
	mux.Handle("/api/", s.withFaults(s.rest(api)))
	stream := func(w http.ResponseWriter, r *http.Request) {
		s.serveStream(w, r, true, splitStreams(r.URL.Query().Get("streams")))
	}
	mux.HandleFunc("/stream", stream)
	raw := func(w http.ResponseWriter, r *http.Request) {
		s.serveStream(w, r, false, splitStreams(r.PathValue("streams")))
	}
	mux.HandleFunc("/ws", raw)
	mux.HandleFunc("/ws/{streams...}", raw)
	return mux
}

// endpoint makes a handler that accounts for the weight of a request and writes the answer.
func (s *Server) endpoint(
	weight func(url.Values) int, answer func(*http.Request) (any, *apiError),
) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		verdict := s.weight.use(weight(r.URL.Query()), time.Now())
		header := w.Header()
		header.Set("Content-Type", "application/json;charset=UTF-8")
		header["X-MBX-USED-WEIGHT"] = []string{strconv.Itoa(verdict.used)} // as the exchange spells it
		header["X-MBX-USED-WEIGHT-1M"] = header["X-MBX-USED-WEIGHT"]
		var body any
		var apiErr *apiError
		if verdict.retryAfter > 0 {
			apiErr = s.refuse(header, verdict)
		} else {
			body, apiErr = answer(r)
		}
		if apiErr != nil {
			w.WriteHeader(apiErr.status)
			body = apiErr
		}
		text, ok := body.([]byte)
		if !ok {
			var err error
			if text, err = json.Marshal(body); err != nil {
				panic("exchange: answer cannot be encoded: " + err.Error())
			}
		}
		_, _ = w.Write(text) // a client that went away is its own affair
	}
}

// refuse says how long to wait.
func (s *Server) refuse(header http.Header, v verdict) *apiError {
	seconds := int(v.retryAfter.Seconds()) + 1
	header.Set("Retry-After", strconv.Itoa(seconds))
	s.stats.wait(time.Now(), time.Duration(seconds)*time.Second)
	if v.newBan || !v.ban {
		s.stats.refusal(v.ban)
	}
	if v.ban {
		return errBanned
	}
	return errTooMany
}

func (s *Server) serverTime(*http.Request) (any, *apiError) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return map[string]int64{"serverTime": milliseconds(s.time())}, nil
}

// time returns what the exchange's clock shows. The caller holds mu.
func (s *Server) time() market.Time { return s.source.Time().Add(s.faults.clock.now()) }

// depth answers with the book at the present position of the source. It waits for a book that is still to come.
func (s *Server) depth(r *http.Request) (any, *apiError) {
	query := r.URL.Query()
	symbol := query.Get("symbol")
	if symbol == "" {
		return nil, errNoSymbol
	}
	if !symbolRange.MatchString(symbol) {
		return nil, errBadSymbol
	}
	limit, apiErr := limitOf(query, defaultDepth, maxDepth)
	if apiErr != nil {
		return nil, apiErr
	}
	timer := time.NewTimer(s.bookTimeout)
	defer timer.Stop()
	for {
		book, arrived, apiErr := s.fetch(symbol, limit)
		if arrived == nil {
			if apiErr != nil {
				return nil, apiErr
			}
			return appendBook(nil, &book), nil
		}
		select {
		case <-arrived:
		case <-timer.C:
			return nil, noBook(symbol, "was reached in time")
		case <-s.ctx.Done():
			return nil, noBook(symbol, "was reached before the end")
		case <-r.Context().Done():
			return nil, noBook(symbol, "was waited for")
		}
	}
}

// fetch takes the book of a symbol. When the book is still to come it returns what is closed on its arrival.
func (s *Server) fetch(symbol string, limit int) (market.Snapshot, <-chan struct{}, *apiError) {
	s.mu.Lock()
	defer s.mu.Unlock()
	book, err := s.book(symbol, limit)
	switch {
	case err == nil:
		s.fetched[symbol] = true
		s.poke()
		return book, nil, nil
	case errors.Is(err, ErrUnknownSymbol):
		return book, nil, errInvalidSymbol
	case s.over:
		return book, nil, noBook(symbol, "was in the source")
	}
	arrived, ok := s.arrivals[symbol]
	if !ok {
		arrived = make(chan struct{})
		s.arrivals[symbol] = arrived
	}
	return book, arrived, nil
}

func noBook(symbol, why string) *apiError {
	return &apiError{http.StatusServiceUnavailable, -1001, "No book of " + symbol + ": no snapshot of it " + why + "."}
}

// limitOf returns how many items are asked for; more than the greatest is clamped.
func limitOf(query url.Values, usual, greatest int) (int, *apiError) {
	text := query.Get("limit")
	if text == "" {
		return usual, nil
	}
	limit, err := strconv.ParseUint(text, 10, 64)
	switch {
	case err != nil:
		return 0, errBadLimit
	case limit == 0:
		return 0, errZeroLimit
	}
	return int(min(limit, uint64(greatest))), nil
}

// depthWeight is the weight of a request for a book: rest-api.md, "Order book".
func depthWeight(query url.Values) int {
	limit, _ := limitOf(query, defaultDepth, maxDepth) // a wrong one is refused later
	switch {
	case limit <= 100:
		return 5
	case limit <= 500:
		return 25
	case limit <= 1000:
		return 50
	}
	return 250
}

func fixed(weight int) func(url.Values) int { return func(url.Values) int { return weight } }

type exchangeInfo struct {
	Timezone        string       `json:"timezone"`
	ServerTime      int64        `json:"serverTime"`
	RateLimits      []rateLimit  `json:"rateLimits"`
	ExchangeFilters []struct{}   `json:"exchangeFilters"`
	Symbols         []symbolInfo `json:"symbols"`
}

type rateLimit struct {
	RateLimitType string `json:"rateLimitType"`
	Interval      string `json:"interval"`
	IntervalNum   int    `json:"intervalNum"`
	Limit         int    `json:"limit"`
}

type symbolInfo struct {
	Symbol              string `json:"symbol"`
	Status              string `json:"status"`
	BaseAsset           string `json:"baseAsset"`
	BaseAssetPrecision  int    `json:"baseAssetPrecision"`
	QuoteAsset          string `json:"quoteAsset"`
	QuotePrecision      int    `json:"quotePrecision"`
	QuoteAssetPrecision int    `json:"quoteAssetPrecision"`
	Filters             []any  `json:"filters"`
}

type priceFilter struct {
	FilterType string         `json:"filterType"`
	MinPrice   market.Decimal `json:"minPrice"`
	MaxPrice   market.Decimal `json:"maxPrice"`
	TickSize   market.Decimal `json:"tickSize"`
}

type lotSizeFilter struct {
	FilterType string         `json:"filterType"`
	MinQty     market.Decimal `json:"minQty"`
	MaxQty     market.Decimal `json:"maxQty"`
	StepSize   market.Decimal `json:"stepSize"`
}

// exchangeInfo answers for one symbol, several, or all.
func (s *Server) exchangeInfo(r *http.Request) (any, *apiError) {
	wanted, apiErr := wantedSymbols(r.URL.Query())
	if apiErr != nil {
		return nil, apiErr
	}
	s.mu.Lock()
	listings, now := s.listings(), s.time()
	s.mu.Unlock()
	info := exchangeInfo{
		Timezone: "UTC", ServerTime: milliseconds(now),
		RateLimits: []rateLimit{
			{"REQUEST_WEIGHT", "MINUTE", 1, s.weightPerMinute},
			{"RAW_REQUESTS", "MINUTE", 5, 300_000},
		},
		ExchangeFilters: []struct{}{}, Symbols: []symbolInfo{},
	}
	for _, l := range listings {
		if wanted == nil || wanted[l.Market.Symbol] {
			info.Symbols = append(info.Symbols, infoOf(l))
			delete(wanted, l.Market.Symbol)
		}
	}
	if len(wanted) > 0 {
		return nil, errInvalidSymbol
	}
	return info, nil
}

// wantedSymbols reads "symbol" or "symbols"; nil means all.
func wantedSymbols(query url.Values) (map[string]bool, *apiError) {
	var symbols []string
	switch {
	case query.Has("symbol") && query.Has("symbols"):
		return nil, errCombined
	case query.Has("symbol"):
		if !symbolRange.MatchString(query.Get("symbol")) {
			return nil, errBadSymbol
		}
		symbols = []string{query.Get("symbol")}
	case query.Has("symbols"):
		if json.Unmarshal([]byte(query.Get("symbols")), &symbols) != nil || len(symbols) == 0 {
			return nil, errBadSymbols
		}
	default:
		return nil, nil
	}
	wanted := make(map[string]bool, len(symbols))
	for _, symbol := range symbols {
		wanted[symbol] = true
	}
	return wanted, nil
}

func infoOf(l market.Listing) symbolInfo {
	base, quote := l.Market.Symbol, ""
	for _, q := range []string{"USDT", "USDC", "FDUSD", "BTC", "ETH", "BNB", "EUR", "TRY"} {
		if b, ok := strings.CutSuffix(l.Market.Symbol, q); ok && b != "" {
			base, quote = b, q
			break
		}
	}
	return symbolInfo{
		Symbol: l.Market.Symbol, Status: l.Status,
		BaseAsset: base, BaseAssetPrecision: 8, QuoteAsset: quote, QuotePrecision: 8, QuoteAssetPrecision: 8,
		Filters: []any{
			priceFilter{"PRICE_FILTER", l.TickSize, 1e6 * market.DecimalOne, l.TickSize},
			lotSizeFilter{"LOT_SIZE", l.LotSize, 9e6 * market.DecimalOne, l.LotSize},
		},
	}
}

// appendBook appends a book as the exchange writes it.
func appendBook(dst []byte, book *market.Snapshot) []byte {
	dst = append(dst, `{"lastUpdateId":`...)
	dst = strconv.AppendInt(dst, book.LastID, 10)
	dst = append(dst, `,"bids":`...)
	dst = appendLevels(dst, book.Bids)
	dst = append(dst, `,"asks":`...)
	dst = appendLevels(dst, book.Asks)
	return append(dst, '}')
}

func appendLevels(dst []byte, levels []market.Level) []byte {
	dst = append(dst, '[')
	for i, l := range levels {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendLevel(dst, l)
	}
	return append(dst, ']')
}

func appendLevel(dst []byte, l market.Level) []byte {
	dst = l.Price.Append(append(dst, '[', '"'))
	dst = l.Quantity.Append(append(dst, '"', ',', '"'))
	return append(dst, '"', ']')
}

func milliseconds(t market.Time) int64 { return int64(t) / int64(time.Millisecond) }
