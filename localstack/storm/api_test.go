package storm

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"testing"

	"tapedeck/localstack/gateway"
	"tapedeck/shared/market"
)

// api asks the function that answers for books, as it is deployed, behind the bundled gateway.
type api struct {
	t     *testing.T
	url   string
	dice  *rand.Rand
	every int // of so many events one is asked for
	judge *judge
}

// bookFunction is the function in template.yaml.
const bookFunction = "BookFunction"

// startAPI serves what a store holds until the test ends. environment names the store.
func startAPI(t *testing.T, environment map[string]string) *api {
	template, err := gateway.ReadTemplate(filepath.Join(module, "template.yaml"), gateway.Overrides{Environment: environment})
	if err != nil {
		t.Fatal(err)
	}
	template.Functions = slices.DeleteFunc(template.Functions, func(f gateway.Function) bool { return f.LogicalID != bookFunction })
	folder, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	g, err := gateway.Start(gateway.Config{
		Template: template, Bootstrap: gateway.BootstrapIn(folder), Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(g)
	t.Cleanup(func() {
		server.Close()
		if err := g.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Errorf("close the gateway: %v", err)
		}
	})
	return &api{t: t, url: server.URL}
}

// answer is what the API says of a book, or why it does not.
type answer struct {
	Data struct {
		LastID int64       `json:"last_update_id"`
		Bids   [][2]string `json:"bids"`
		Asks   [][2]string `json:"asks"`
	} `json:"data"`
	Meta struct {
		State    string                   `json:"state"`
		Gaps     []gap                    `json:"gaps"`
		Verified struct{ Bids, Asks int } `json:"verified_levels"`
	} `json:"meta"`
	Code string `json:"code"`
	Gaps []gap  `json:"gaps"`
}

// noBook stands for the state of a book where none is held.
const noBook = "no data"

type gap struct {
	Cause market.Cause `json:"cause"`
}

// ask asks for the book after some of the events, by id and by time, and compares it with the truth.
func (a *api) ask(s *sample) error {
	if a.dice.IntN(a.every) != 0 {
		return nil
	}
	id := s.made.firstID + a.dice.Int64N(s.made.lastID-s.made.firstID+1)
	if err := a.question(s, fmt.Sprintf("update_id=%d", id), id, false); err != nil {
		return err
	}
	if s.known && s.held.time <= s.since {
		return nil
	}
	// Where the exchange's clock stepped, several events may have had the time that is asked for.
	ambiguous := a.stepped(s)
	return a.question(s, fmt.Sprintf("at=%d", s.held.time/1e6), id, ambiguous)
}

// question asks one.
func (a *api) question(s *sample, question string, id int64, ambiguous bool) error {
	got, err := a.get(s.market, question)
	if err != nil {
		return err
	}
	a.judge.counts.Asked++
	a.compare(s, question, id, ambiguous, got)
	return nil
}

func (a *api) get(m market.Market, question string) (got answer, err error) {
	address := fmt.Sprintf("%s/v1/markets/%s/%s/book?depth=5000&%s", a.url, m.Exchange, m.Symbol, question)
	strict := a.dice.IntN(2) == 0
	if strict {
		address += "&strict=true"
	}
	status, body, err := get(a.t.Context(), address)
	if err != nil {
		return got, err
	}
	if err := json.Unmarshal(body, &got); err != nil {
		return got, fmt.Errorf("%s: status %d: %w", address, status, err)
	}
	switch {
	case strict && status == http.StatusConflict && got.Code == "data_gap":
		got.Meta.State, got.Meta.Gaps = "gap", got.Gaps
	case status == http.StatusNotFound && got.Code == "no_data":
		got.Meta.State = noBook
	case status != http.StatusOK || strict && got.Meta.State != "synced":
		return got, fmt.Errorf("%s: status %d: %.500s", address, status, body)
	}
	return got, nil
}

// compare compares an answer with the truth. A question may be ambiguous, and then be answered with another event's book.
func (a *api) compare(s *sample, question string, id int64, ambiguous bool, got answer) {
	what := fmt.Sprintf("%v: the API, asked for %s, of an event with ids %d to %d", s.market, question, s.made.firstID, s.made.lastID)
	switch {
	case got.Meta.State == "gap" && len(got.Meta.Gaps) == 0:
		a.judge.problem("%s, says gap, and not which", what)
	case got.Meta.State == "gap" && s.known && !ambiguous:
		a.judge.problem("%s, says gap (%v), but the book is held", what, got.Meta.Gaps)
	case got.Meta.State == "gap":
	case got.Meta.State == noBook && !s.known: // the books before it were given up
	case got.Meta.State != "synced":
		a.judge.problem("%s, says %s", what, got.Meta.State)
	case got.Data.LastID == id && id != s.made.lastID: // a snapshot within the event
	case got.Data.LastID != s.made.lastID && ambiguous:
	case !s.known && got.Data.LastID != id: // a snapshot may have had that very id
		a.judge.problem("%s, gives a book up to id %d, but nobody can know it", what, got.Data.LastID)
	case got.Data.LastID != s.made.lastID:
		a.judge.problem("%s, gives the book up to id %d", what, got.Data.LastID)
	default:
		a.compareLevels(s, what, got)
	}
}

// stepped reports whether the exchange's clock was wrong at about that time. The same time may lie in a hole then, too.
func (a *api) stepped(s *sample) bool { return len(a.judge.weather.clockErrors(s.made.made)) > 1 }

func (a *api) compareLevels(s *sample, what string, got answer) {
	bids, err := levels(got.Data.Bids[:min(got.Meta.Verified.Bids, len(got.Data.Bids))])
	if err != nil {
		a.judge.problem("%s: %v", what, err)
	}
	asks, err := levels(got.Data.Asks[:min(got.Meta.Verified.Asks, len(got.Data.Asks))])
	if err != nil {
		a.judge.problem("%s: %v", what, err)
	}
	want := [4][]market.Level{s.book.AppendBids(nil, len(bids)), bids, s.book.AppendAsks(nil, len(asks)), asks}
	if !slices.Equal(want[0], want[1]) || !slices.Equal(want[2], want[3]) {
		a.judge.problem("%s, gives a wrong book: %s", what, difference(want))
	}
}
