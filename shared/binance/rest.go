package binance

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"tapedeck/shared/market"
)

// MaxReplyBytes bounds the body of a REST reply. A snapshot of 5000 levels a side has about 400 kB (measured).
const MaxReplyBytes = 16 << 20

// requestTimeout bounds one request, once the budget let it through; the exchange itself gives up after 10 seconds
// (errors.md, -1007).
const requestTimeout = 15 * time.Second

// REST calls the exchange's REST interface. It is safe for concurrent use. Every request takes its weight from a Budget
// first, and waits there; none is repeated.
//
// Errors of all calls: KindUnavailable when the exchange does not answer, does not want to now, the budget does not
// allow it before ctx's deadline, or ctx ended (errors.Is finds its cause); KindCorrupt when the reply is not what the
// exchange documents; KindTooLarge beyond MaxReplyBytes; KindInvalid when the exchange refuses the request;
// KindNotFound for an unknown market. An APIError or a RateLimitError is inside where the exchange gave one.
type REST struct {
	base     string
	client   *http.Client
	budget   *Budget
	priority priority
	history  *history
}

// NewREST returns a client for the given base ("https://api.binance.com"), whose requests share the budget. A nil client
// means one that takes its proxy from the environment, as net/http does; a nil budget means one of its own.
func NewREST(base string, client *http.Client, budget *Budget) *REST {
	if client == nil {
		// A redirect would be a request beside the budget; the exchange does not use any.
		client = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	}
	if budget == nil {
		budget = NewBudget(nil)
	}
	return &REST{base: strings.TrimRight(base, "/"), client: client, budget: budget, history: new(history)}
}

// Background returns a client whose requests come after all others: for what can wait.
func (r *REST) Background() *REST {
	patient := *r
	patient.priority = background
	return &patient
}

// ServerTime asks for the exchange's clock.
func (r *REST) ServerTime(ctx context.Context) (t market.Time, err error) {
	defer market.Wrap(&err, "ServerTime(%s)", r.base)
	p, err := r.budget.acquire(ctx, ServerTimeWeight, r.priority)
	if err != nil {
		return 0, r.unsent(err, "time")
	}
	defer p.release()
	return r.serverTime(ctx, p)
}

func (r *REST) serverTime(ctx context.Context, p *permit) (t market.Time, err error) {
	body, err := r.send(ctx, p, ServerTimeWeight, "time", nil)
	if err != nil {
		return 0, err
	}
	o, err := parseObject(body)
	if err != nil {
		return 0, corrupt(err, "time", body)
	}
	v, err := o.integer("serverTime")
	if err != nil {
		return 0, corrupt(err, "time", body)
	}
	if t, err = timeOf(v); err != nil {
		return 0, corrupt(err, "time", body)
	}
	return t, nil
}

// Snapshot fetches a book of up to limit levels a side (1 to MaxSnapshotLimit), asking the exchange's clock just before
// (see market.Snapshot.EventTime). It is checked as DecodeSnapshot says.
func (r *REST) Snapshot(ctx context.Context, m market.Market, limit int) (s market.Snapshot, err error) {
	defer market.Wrap(&err, "Snapshot(%v, %d)", m, limit)
	if limit < 1 || limit > MaxSnapshotLimit {
		return market.Snapshot{}, market.Errorf(market.KindInvalid, "limit is not in 1 to %d", MaxSnapshotLimit)
	}
	// The weight of both requests is taken at once, so that no wait comes between them.
	weight := SnapshotWeight(limit)
	p, err := r.budget.acquire(ctx, ServerTimeWeight+weight, r.priority)
	if err != nil {
		return market.Snapshot{}, r.unsent(err, "depth")
	}
	defer p.release()
	eventTime, err := r.serverTime(ctx, p)
	if err != nil {
		return market.Snapshot{}, err
	}
	body, err := r.send(ctx, p, weight, "depth", url.Values{"symbol": {m.Symbol}, "limit": {strconv.Itoa(limit)}})
	if err != nil {
		return market.Snapshot{}, err
	}
	recvTime := market.TimeOf(time.Now())
	if s, err = DecodeSnapshot(body); err != nil {
		return market.Snapshot{}, err
	}
	if max(len(s.Bids), len(s.Asks)) > limit {
		err = market.Errorf(market.KindInvalid, "%d bids and %d asks, %d were asked for", len(s.Bids), len(s.Asks), limit)
		return market.Snapshot{}, corrupt(err, "snapshot", body)
	}
	s.EventTime, s.RecvTime = eventTime, recvTime
	return s, nil
}

// get takes weight from the budget, asks the endpoint ("depth") and returns the body of a good reply.
func (r *REST) get(ctx context.Context, weight int, endpoint string, query url.Values) ([]byte, error) {
	p, err := r.budget.acquire(ctx, weight, r.priority)
	if err != nil {
		return nil, r.unsent(err, endpoint)
	}
	defer p.release()
	return r.send(ctx, p, weight, endpoint, query)
}

// unsent reports a request that the budget did not let through.
func (r *REST) unsent(err error, endpoint string) error {
	r.budget.observe(Request{Endpoint: endpoint, Result: ResultUnsent, UsedWeight: -1})
	return err
}

// send spends weight of a permit on a request, and returns the body of a good reply. It sends nothing when the exchange
// has begun to want no requests since the permit was given: another request's reply may have said so.
func (r *REST) send(ctx context.Context, p *permit, weight int, endpoint string, query url.Values) ([]byte, error) {
	if err := p.paused(); err != nil {
		return nil, r.unsent(err, endpoint)
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	used, body, err := r.exchange(ctx, endpoint, query)
	limited, _ := errors.AsType[*RateLimitError](err)
	pause, status := limited, httpStatus(0)
	if errors.As(err, &status) && status == http.StatusForbidden && endpoint != historyEndpoint {
		pause = &RateLimitError{RetryAfter: wallPause, Message: "web application firewall"}
	}
	p.replied(weight, used, pause)
	request := Request{Endpoint: endpoint, Result: ResultOK, Waited: p.waited, UsedWeight: used}
	switch {
	case err == nil:
	case limited != nil:
		request.Result = ResultRateLimited
	case status >= http.StatusBadRequest && status < http.StatusInternalServerError:
		request.Result = ResultRefused
	default:
		request.Result = ResultFailed
	}
	r.budget.observe(request)
	return body, err
}

// exchange sends one request. It returns the used weight that the reply tells, -1 when it does not, and its body.
func (r *REST) exchange(ctx context.Context, endpoint string, query url.Values) (used int, body []byte, err error) {
	address := r.base + "/api/v3/" + endpoint
	if len(query) > 0 {
		address += "?" + query.Encode()
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return -1, nil, market.Errorf(market.KindInvalid, "%w", err)
	}
	reply, err := r.client.Do(request)
	if err != nil { // names method and address
		return -1, nil, market.Errorf(market.KindUnavailable, "%w", err)
	}
	defer func() {
		if closeErr := reply.Body.Close(); closeErr != nil && err == nil {
			err = market.Errorf(market.KindUnavailable, "GET %s: %w", address, closeErr)
		}
	}()
	if used, err = strconv.Atoi(reply.Header.Get("X-MBX-USED-WEIGHT-1M")); err != nil || used < 0 {
		used = -1 // a proxy's or a web application firewall's reply does not say
	}
	body, err = io.ReadAll(io.LimitReader(reply.Body, MaxReplyBytes+1))
	switch {
	case reply.StatusCode != http.StatusOK: // what it says counts even when it was cut off
		return used, nil, statusError(address, reply, body)
	case err != nil:
		return used, nil, market.Errorf(market.KindUnavailable, "GET %s: body: %w", address, err)
	case len(body) > MaxReplyBytes:
		return used, nil, market.Errorf(market.KindTooLarge, "GET %s: reply is larger than %d bytes", address, MaxReplyBytes)
	}
	return used, body, nil
}

// Codes of APIError that are told apart (errors.md).
const (
	codeIllegalCharacters = -1100
	codeUnknownSymbol     = -1121
)

// listingsPerRequest bounds the address of a request for listings to a few kilobytes.
const listingsPerRequest = 100

// Listings fetches what the exchange says of the given markets, in their order. Those that it does not know are left
// out, and the error beside the others, of kind KindNotFound, names them. With any other error there are no listings.
func (r *REST) Listings(ctx context.Context, markets []market.Market) (listings []market.Listing, err error) {
	defer market.Wrap(&err, "Listings(%d markets)", len(markets))
	known := make(map[string]market.Listing, len(markets))
	var symbols []string // each once: the exchange refuses duplicates
	for _, m := range markets {
		if _, ok := known[m.Symbol]; !ok {
			known[m.Symbol] = market.Listing{}
			symbols = append(symbols, m.Symbol)
		}
	}
	for len(symbols) > 0 {
		n := min(len(symbols), listingsPerRequest)
		if err := r.fetchListings(ctx, symbols[:n], known); err != nil {
			return nil, err
		}
		symbols = symbols[n:]
	}
	var unknown []string
	for _, m := range markets {
		listing := known[m.Symbol]
		if listing.UpdatedAt == 0 {
			unknown = append(unknown, m.String())
			continue
		}
		listing.Market = m
		listings = append(listings, listing)
	}
	if len(unknown) > 0 {
		return listings, market.Errorf(market.KindNotFound, "not listed: %s", strings.Join(unknown, ", "))
	}
	return listings, nil
}

// fetchListings fetches some listings into known. The exchange refuses the whole request for one unknown symbol and
// does not name it, so the others are fetched by halves.
func (r *REST) fetchListings(ctx context.Context, symbols []string, known map[string]market.Listing) error {
	list, err := json.Marshal(symbols)
	if err != nil {
		return market.Errorf(market.KindInvalid, "symbols: %w", err)
	}
	// Permission sets are most of a listing and are not used.
	query := url.Values{"symbols": {string(list)}, "showPermissionSets": {"false"}}
	body, err := r.get(ctx, exchangeInfoWeight, "exchangeInfo", query)
	if err == nil {
		return r.parseListings(body, known)
	}
	refusal, ok := errors.AsType[*APIError](err)
	if !ok || refusal.Code != codeUnknownSymbol && refusal.Code != codeIllegalCharacters {
		return err
	}
	if len(symbols) == 1 {
		return nil // it is known as it was: not at all
	}
	half := len(symbols) / 2
	if err := r.fetchListings(ctx, symbols[:half], known); err != nil {
		return err
	}
	return r.fetchListings(ctx, symbols[half:], known)
}

// parseListings reads a reply of /api/v3/exchangeInfo. Filters are optional (rest-api.md, "Exchange information").
func (r *REST) parseListings(body []byte, known map[string]market.Listing) error {
	var reply struct {
		RateLimits []struct {
			Type     string `json:"rateLimitType"`
			Interval string `json:"interval"`
			Count    int    `json:"intervalNum"`
			Limit    int    `json:"limit"`
		} `json:"rateLimits"`
		Symbols []struct {
			Symbol  string `json:"symbol"`
			Status  string `json:"status"`
			Filters []struct {
				Type     string         `json:"filterType"`
				TickSize market.Decimal `json:"tickSize"`
				StepSize market.Decimal `json:"stepSize"`
			} `json:"filters"`
		} `json:"symbols"`
	}
	if err := json.Unmarshal(body, &reply); err != nil {
		return corrupt(err, "exchange information", body)
	}
	for _, l := range reply.RateLimits {
		if l.Type == "REQUEST_WEIGHT" && l.Interval == "MINUTE" && l.Count == 1 {
			r.budget.setLimit(l.Limit)
		}
	}
	now := market.TimeOf(time.Now())
	for _, s := range reply.Symbols {
		if _, asked := known[s.Symbol]; !asked {
			continue
		}
		listing := market.Listing{Status: s.Status, UpdatedAt: now}
		for _, filter := range s.Filters {
			switch filter.Type {
			case "PRICE_FILTER":
				listing.TickSize = filter.TickSize
			case "LOT_SIZE":
				listing.LotSize = filter.StepSize
			}
		}
		if listing.TickSize < 0 || listing.LotSize < 0 {
			err := market.Errorf(market.KindCorrupt, "%s: tick size %v or lot size %v is negative",
				s.Symbol, listing.TickSize, listing.LotSize)
			return corrupt(err, "exchange information", body)
		}
		known[s.Symbol] = listing
	}
	return nil
}
