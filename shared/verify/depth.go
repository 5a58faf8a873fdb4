package verify

import (
	"context"
	"slices"

	"tapedeck/shared/market"
	"tapedeck/shared/tape"
)

// depth is the verification of the depth updates of one market: their blocks, the books that follow from them, and the
// keyframes.
type depth struct {
	*series[market.DepthUpdate]
	books   []*origin          // the one that a keyframe confirmed last stands last
	givenUp []source           // of books that were given up, the last one last
	due     []frame            // keyframes whose turn by id has not come, in the order of ids
	ahead   map[frame]struct{} // keyframes known before load comes to them; see walk
	loaded  market.Time        // up to where keyframes are known
	seen    frame              // the keyframe looked at last
	decoder tape.Decoder
	levels  [4][]market.Level // memory
}

// depth verifies the depth updates and keyframes of one market.
func (r *verifier) depth(ctx context.Context, t *task) error {
	d := &depth{loaded: -1, ahead: make(map[frame]struct{})}
	from, base := r.opts.Start, market.Keyframe{UpdateID: -1}
	if from > 0 {
		k, err := r.reader.Keyframe(ctx, t.series.Market, from)
		switch {
		case err == nil:
			base, from, d.loaded = k, k.EventTime, k.EventTime-1
		case isNotFound(err):
			d.loaded = from - 1
		default:
			return err
		}
	}
	first := from
	if base.UpdateID >= 0 { // an update behind it may be a little earlier
		first = max(0, from.Add(-clockSlack))
	}
	d.series = newSeries(r, t, depthCodec, first.Truncate(market.BlockWindow), base.UpdateID)
	d.reachedAt = from
	page := d.walk.on.page
	d.walk.on.page = func(ctx context.Context, blocks []market.Block) error {
		if err := page(ctx, blocks); err != nil {
			return err
		}
		return d.load(ctx, d.loaded, d.until)
	}
	d.walk.on.ahead = d.loadAhead
	return d.run(ctx)
}

func (d *depth) run(ctx context.Context) error {
	for {
		u, err := d.walk.next(ctx)
		if err != nil {
			return err
		}
		if u == nil { // keyframes may stand where no block does, by mistake
			if err := d.load(ctx, d.loaded, d.end()-1); err != nil {
				return err
			}
		}
		if err := d.keyframesBefore(ctx, u); err != nil {
			return err
		}
		if u == nil {
			break
		}
		if err := d.update(ctx, u); err != nil {
			return err
		}
	}
	if err := d.unfounded(ctx); err != nil {
		return err
	}
	if n := len(d.books); n > 0 {
		b := d.books[n-1].book
		bids, asks := b.Len()
		d.task.stream.Book = &Book{LastID: b.LastID(), Bids: bids, Asks: asks, Digest: b.Digest(digestLevels)}
	}
	return nil
}

// update takes the next update.
func (d *depth) update(ctx context.Context, u *market.DepthUpdate) error {
	whole, err := d.event(ctx, depthCodec.event(u))
	if err != nil {
		return err
	}
	if !whole {
		d.drop(u.PrevID)
	}
	if len(d.books) == 0 {
		d.task.stream.Keyframes.EventsWithoutBook++
		return nil
	}
	crossed := false
	for _, o := range d.books {
		before := o.crossed
		o.apply(u)
		crossed = crossed || o.crossed && !before
	}
	if crossed {
		if err := d.cross(ctx, u); err != nil {
			return err
		}
	}
	return d.settle(ctx, u)
}

// drop gives up the books that do not reach id: updates up to it are missing.
func (d *depth) drop(id int64) {
	d.books = slices.DeleteFunc(d.books, func(o *origin) bool { return o.book.LastID() < id })
}

// cross takes a book that an update left crossed.
func (d *depth) cross(ctx context.Context, u *market.DepthUpdate) error {
	known, err := d.doubted(ctx, ids{u.FirstID, u.LastID}, u.EventTime, u.EventTime, market.CauseCrossed, market.CauseAudit)
	if err != nil {
		return err
	}
	if !known {
		for _, o := range d.books {
			if o.crossed {
				d.problem(CrossedBook, ids{u.FirstID, u.LastID}, u.EventTime, "%s", o.edges())
				return nil
			}
		}
	}
	d.books = slices.DeleteFunc(d.books, func(o *origin) bool { return o.crossed })
	return nil
}
