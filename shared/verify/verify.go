package verify

import (
	"cmp"
	"context"
	"slices"
	"time"

	"tapedeck/shared/market"
)

// Reader is the part of a store that is verified. Package storetest states what each method promises.
type Reader interface {
	Tail(ctx context.Context, series market.Series) (market.Block, error)
	Blocks(ctx context.Context, query market.BlockQuery) ([]market.Block, error)
	BlockByID(ctx context.Context, series market.Series, id int64) (market.Block, error)
	Keyframe(ctx context.Context, m market.Market, at market.Time) (market.Keyframe, error)
	Spans(ctx context.Context, series market.Series, from, to market.Time, limit int) ([]market.Span, error)
	Gaps(ctx context.Context, query market.GapQuery) ([]market.Gap, error)
	Listings(ctx context.Context) ([]market.Listing, error)
	Recorders(ctx context.Context) ([]market.RecorderStatus, error)
}

// Options say what is verified.
type Options struct {
	// Markets are verified in this order; none means all that a recorder has ever listed or recorded.
	Markets []market.Market
	// Start and End bound the event time: Start inclusive, End exclusive. A Start of 0 is that of the first record. For
	// depth it is moved back to the keyframe at or before it, without which there is no book. An End of 0 is the end of
	// the last block that is stored when Run begins, of each stream.
	Start, End market.Time
	// Listed bounds the places that are listed for each finding and stream; 0 means 20. All are counted.
	Listed int
	// Settle is how long a write may be under way that has stored some of its records and not yet all; 0 means 2 s. A
	// store to which a recorder writes is given that time before it is judged, so that it causes no false alarm.
	Settle time.Duration
	// Progress, unless nil, is called after every page that was read, by the goroutine that called Run.
	Progress func(Progress)
}

// Progress is how far a run has come.
type Progress struct {
	Series market.Series
	At     market.Time // event time reached
	Events int64       // so far, of all series
	Bytes  int64
}

const (
	defaultListed = 20
	defaultSettle = 2 * time.Second
	// aliveTime is how old the last word of a recorder may be that still writes; they speak every few seconds.
	aliveTime = 15 * time.Second
	// maxRechecks bounds how often a finding in a store that is being written to is looked at again after Settle.
	maxRechecks = 8
)

// endOfTime is later than every event: the bound of market.ParseTime.
var endOfTime = market.TimeOf(time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC))

// Run verifies what opts say. A nil error means that all of it was read; what does not hold is in the report, not in
// the error. With an error (of the store, or of ctx) the report holds what was found until then, and Complete is false.
// An error of kind KindNotFound says that there is nothing to verify: no market is listed, or nothing is stored of one
// that opts name.
//
// The store may be written to meanwhile: what is stored after Run began is not part of the range.
func Run(ctx context.Context, reader Reader, opts Options) (report Report, err error) {
	defer market.Wrap(&err, "verify")
	if opts.Listed <= 0 {
		opts.Listed = defaultListed
	}
	if opts.Settle <= 0 {
		opts.Settle = defaultSettle
	}
	report = Report{Start: opts.Start, End: opts.End, Markets: []Market{}}
	r := &verifier{reader: reader, opts: opts}
	tasks, err := r.tasks(ctx)
	if err != nil {
		return report, err
	}
	if r.live {
		if err := wait(ctx, opts.Settle); err != nil {
			return report, err
		}
	}
	for i := range tasks {
		err := r.verify(ctx, &tasks[i])
		report.add(&tasks[i])
		if err != nil {
			return report, err
		}
	}
	report.Complete = true
	return report, nil
}

// verifier is what the verification of all series shares. It belongs to one goroutine.
type verifier struct {
	reader   Reader
	opts     Options
	live     bool // a recorder writes
	rechecks int
	progress Progress
}

// task is one series to verify.
type task struct {
	series market.Series
	tail   market.Block // the last block when Run began; without events when there was none
	stream Stream
}

// tasks returns every series to verify. The tails are read before anything else, so that all before them is written
// by the time it is looked at.
func (r *verifier) tasks(ctx context.Context) ([]task, error) {
	recorders, err := r.reader.Recorders(ctx)
	if err != nil {
		return nil, err
	}
	now := market.TimeOf(time.Now())
	r.live = slices.ContainsFunc(recorders, func(s market.RecorderStatus) bool {
		return !s.Stopped && now.Sub(s.UpdatedAt) < aliveTime
	})
	markets := r.opts.Markets
	if len(markets) == 0 {
		if markets, err = r.listed(ctx, recorders); err != nil {
			return nil, err
		}
	}
	var tasks []task
	for _, m := range markets {
		held := false
		for _, stream := range []market.Stream{market.Depth, market.Trades} {
			series := market.Series{Market: m, Stream: stream}
			tail, err := r.reader.Tail(ctx, series)
			if err != nil && market.KindOf(err) != market.KindNotFound {
				return nil, err
			}
			held = held || err == nil
			tasks = append(tasks, task{series: series, tail: tail, stream: newStream(stream, r.opts.Listed)})
		}
		if !held && len(r.opts.Markets) > 0 {
			return nil, market.Errorf(market.KindNotFound, "nothing is stored of market %v", m)
		}
	}
	return tasks, nil
}

// listed returns all markets that the store knows of.
func (r *verifier) listed(ctx context.Context, recorders []market.RecorderStatus) ([]market.Market, error) {
	listings, err := r.reader.Listings(ctx)
	if err != nil {
		return nil, err
	}
	var markets []market.Market
	for i := range listings {
		markets = append(markets, listings[i].Market)
	}
	for i := range recorders {
		for _, m := range recorders[i].Markets {
			markets = append(markets, m.Market)
		}
	}
	if len(markets) == 0 {
		return nil, market.Errorf(market.KindNotFound, "no market is listed in the store; name those to verify")
	}
	slices.SortFunc(markets, func(a, b market.Market) int {
		return cmp.Or(cmp.Compare(a.Exchange, b.Exchange), cmp.Compare(a.Symbol, b.Symbol))
	})
	return slices.Compact(markets), nil
}

// verify verifies one series: its spans, its blocks and keyframes, and its ledger.
func (r *verifier) verify(ctx context.Context, t *task) (err error) {
	defer market.Wrap(&err, "%v", t.series)
	r.progress.Series = t.series
	if err := r.spans(ctx, t); err != nil {
		return err
	}
	if t.tail.Events > 0 {
		if t.series.Stream == market.Depth {
			err = r.depth(ctx, t)
		} else {
			err = r.trades(ctx, t)
		}
		if err != nil {
			return err
		}
	}
	return r.ledger(ctx, t)
}

// end returns the bound of the event time of records that are no blocks.
func (r *verifier) end() market.Time {
	if r.opts.End != 0 {
		return r.opts.End
	}
	return endOfTime
}

// again reports whether a finding should be looked at once more, and waits before that: a write that is under way may
// have stored only some of its records.
func (r *verifier) again(ctx context.Context) (bool, error) {
	if !r.live || r.rechecks == maxRechecks {
		return false, nil
	}
	r.rechecks++
	return true, wait(ctx, r.opts.Settle)
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func isNotFound(err error) bool { return market.KindOf(err) == market.KindNotFound }
