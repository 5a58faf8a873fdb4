package api

import (
	"context"

	"tapedeck/functions/internal/query"
	"tapedeck/shared/market"
)

// Version is the version of the functions; the build sets it with -ldflags -X.
var Version = "dev"

type marketItem struct {
	Exchange   market.Exchange          `json:"exchange"`
	Symbol     string                   `json:"symbol"`
	Status     string                   `json:"status"`
	TickSize   optional[market.Decimal] `json:"tick_size"`
	LotSize    optional[market.Decimal] `json:"lot_size"`
	FirstEvent instant                  `json:"first_event"`
	LastEvent  instant                  `json:"last_event"`
	FirstID    optional[int64]          `json:"first_update_id"`
	LastID     optional[int64]          `json:"last_update_id"`
}

// Markets answers GET /v1/markets.
func Markets(ctx context.Context, s *query.Service, r *Request) (*Reply, error) {
	if err := newParams(r).err(); err != nil {
		return nil, err
	}
	infos, err := s.Markets(ctx)
	if err != nil {
		return nil, err
	}
	items := make([]marketItem, len(infos))
	for i, m := range infos {
		items[i] = marketItem{
			Exchange:   m.Market.Exchange,
			Symbol:     m.Market.Symbol,
			Status:     m.Status,
			TickSize:   optional[market.Decimal]{m.TickSize},
			LotSize:    optional[market.Decimal]{m.LotSize},
			FirstEvent: instant(m.FirstEvent),
			LastEvent:  instant(m.LastEvent),
			FirstID:    optional[int64]{m.FirstID},
			LastID:     optional[int64]{m.LastID},
		}
		if m.Status == "" {
			items[i].Status = "unknown"
		}
	}
	return &Reply{Data: mustMarshal(items)}, nil
}

type statusData struct {
	Recorders []recorderItem `json:"recorders"`
	Store     storeItem      `json:"store"`
	Versions  versionsItem   `json:"versions"`
}

type storeItem struct {
	Reachable  bool  `json:"reachable"`
	PingMillis int64 `json:"ping_ms"`
}

type versionsItem struct {
	API string `json:"api"`
}

type recorderItem struct {
	Name      string               `json:"name"`
	Version   string               `json:"version"`
	StartedAt instant              `json:"started_at"`
	UpdatedAt instant              `json:"updated_at"`
	State     query.RecorderState  `json:"state"`
	Markets   []recorderMarketItem `json:"markets"`
}

type recorderMarketItem struct {
	Exchange     market.Exchange    `json:"exchange"`
	Symbol       string             `json:"symbol"`
	State        market.MarketState `json:"state"`
	LastUpdateID optional[int64]    `json:"last_update_id"`
	LastTradeID  optional[int64]    `json:"last_trade_id"`
	EventTime    instant            `json:"ts_event"`
	RecvTime     instant            `json:"ts_recv"`
	LagMillis    *int64             `json:"lag_ms"` // null: no frame was received yet
}

// Status answers GET /v1/status.
func Status(ctx context.Context, s *query.Service, r *Request) (*Reply, error) {
	if err := newParams(r).err(); err != nil {
		return nil, err
	}
	status, err := s.Status(ctx)
	if err != nil {
		return nil, err
	}
	data := statusData{
		Recorders: make([]recorderItem, len(status.Recorders)),
		Store:     storeItem{Reachable: true, PingMillis: status.Ping.Milliseconds()},
		Versions:  versionsItem{API: Version},
	}
	for i, rec := range status.Recorders {
		data.Recorders[i] = recorderItemOf(&rec)
	}
	return &Reply{Data: mustMarshal(data)}, nil
}

func recorderItemOf(r *query.RecorderInfo) recorderItem {
	item := recorderItem{
		Name:      r.Recorder,
		Version:   r.Version,
		StartedAt: instant(r.StartedAt),
		UpdatedAt: instant(r.UpdatedAt),
		State:     r.State,
		Markets:   make([]recorderMarketItem, len(r.Markets)),
	}
	for i, m := range r.Markets {
		item.Markets[i] = recorderMarketItem{
			Exchange:     m.Market.Exchange,
			Symbol:       m.Market.Symbol,
			State:        m.State,
			LastUpdateID: optional[int64]{m.LastUpdateID},
			LastTradeID:  optional[int64]{m.LastTradeID},
			EventTime:    instant(m.EventTime),
			RecvTime:     instant(m.RecvTime),
		}
		if m.RecvTime != 0 {
			item.Markets[i].LagMillis = new(r.Lags[i].Milliseconds())
		}
	}
	return item
}
