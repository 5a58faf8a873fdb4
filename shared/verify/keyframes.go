package verify

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"tapedeck/shared/book"
	"tapedeck/shared/market"
)

const (
	// maxBooks bounds the books that are replayed side by side: one for each recorder, and a doubtful one.
	maxBooks = 4
	// maxSilence is how many keyframes of others may pass before a book that none confirms is given up: its recorder
	// stopped, or began anew from another snapshot.
	maxSilence = 4
	// maxDue bounds the keyframes that wait for their turn.
	maxDue = 1 << 20
	// maxGivenUp bounds the sources that are remembered of books that were given up.
	maxGivenUp = 64
)

// frame is the place of a keyframe.
type frame struct {
	id   int64
	time market.Time
}

func compareFrames(a, b frame) int {
	return cmp.Or(cmp.Compare(a.id, b.id), cmp.Compare(a.time, b.time))
}

// source is what a recorder built a book from.
type source struct {
	snapshotID               int64
	verifiedBid, verifiedAsk market.Decimal
}

func sourceOf(k *market.Keyframe) source { return source{k.SnapshotID, k.VerifiedBid, k.VerifiedAsk} }

// origin is a book on its way from a keyframe.
type origin struct {
	book *book.Book

	// A keyframe with the same source is a later state of this book, equal in all levels; or of another one, where two
	// recorders asked for a snapshot at once and one of them kept levels beyond it.
	source source

	applied int64 // since the snapshot
	firstID int64 // of the first update applied since the snapshot; 0 when none was
	silent  int   // keyframes of other origins since its own last one
	crossed bool
	fresh   bool // begun within an update: to be compared after it
	doubted bool // begun with a keyframe that differed from all other books
	at      market.Time
}

func (o *origin) apply(u *market.DepthUpdate) {
	if o.book.Apply(u) != book.Applied {
		return
	}
	if o.applied == 0 {
		o.firstID = u.FirstID
	}
	o.applied++
	o.crossed = o.book.Crossed()
}

// edges tells the best prices.
func (o *origin) edges() string {
	bid, _ := o.book.BestBid()
	ask, _ := o.book.BestAsk()
	return fmt.Sprintf("best bid %v, best ask %v", bid.Price, ask.Price)
}

// load finds the keyframes with after < EventTime <= until. They wait as places only, and are read when due.
func (d *depth) load(ctx context.Context, after, until market.Time) error {
	err := d.find(ctx, after, until, func(f frame) {
		if _, known := d.ahead[f]; known {
			delete(d.ahead, f)
			return
		}
		d.push(f)
	})
	d.loaded = max(d.loaded, until)
	return err
}

// loadAhead finds the keyframes of a window of time that is read ahead of its turn, as far as they are not known yet.
func (d *depth) loadAhead(ctx context.Context, window market.Time) error {
	return d.find(ctx, max(d.loaded, window-1), window.Add(market.BlockWindow)-1, func(f frame) {
		if _, known := d.ahead[f]; !known {
			d.ahead[f] = struct{}{}
			d.push(f)
		}
	})
}

// find calls f with the keyframes with after < EventTime <= until.
func (d *depth) find(ctx context.Context, after, until market.Time, f func(frame)) error {
	for at := until; at > after; {
		k, err := d.reader.Keyframe(ctx, d.task.series.Market, at)
		if isNotFound(err) || err == nil && k.EventTime <= after {
			break
		}
		if err != nil {
			return err
		}
		f(frame{k.UpdateID, k.EventTime})
		at = k.EventTime - 1
	}
	if len(d.due)+len(d.ahead) > maxDue {
		return market.Errorf(market.KindTooLarge, "more than %d keyframes at once between %v and %v", maxDue, after, until)
	}
	return nil
}

func (d *depth) push(f frame) {
	if i, known := slices.BinarySearchFunc(d.due, f, compareFrames); !known {
		d.due = slices.Insert(d.due, i, f)
	}
}

// keyframesBefore looks at the keyframes whose turn comes before the update u, or at the end, when u is nil.
func (d *depth) keyframesBefore(ctx context.Context, u *market.DepthUpdate) error {
	limit := d.reached + 1 // what lies beyond the last update is not part of the range
	if u != nil {
		limit = u.LastID
	}
	for len(d.due) > 0 && d.due[0].id < limit {
		f := d.due[0]
		d.due = d.due[1:]
		k, ok, err := d.fetch(ctx, f)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		d.task.stream.Keyframes.Bytes += int64(len(k.Data))
		d.progress.Bytes += int64(len(k.Data))
		if err := d.keyframe(ctx, &k, u); err != nil {
			return err
		}
		d.seen = f
	}
	return nil
}

// fetch reads a keyframe; false when it is hidden by one with a greater id at the same time, stored meanwhile.
func (d *depth) fetch(ctx context.Context, f frame) (market.Keyframe, bool, error) {
	k, err := d.reader.Keyframe(ctx, d.task.series.Market, f.time)
	return k, err == nil && k.UpdateID == f.id && k.EventTime == f.time, err
}

// unfounded looks, at the end, for keyframes that say to be made of updates within the range, beyond the last one held.
func (d *depth) unfounded(ctx context.Context) error {
	for _, f := range d.due {
		if f.time > d.until || d.live { // its updates may have been stored meanwhile
			continue
		}
		k, ok, err := d.fetch(ctx, f)
		if err != nil {
			return err
		}
		if ok && k.UpdatesApplied > 0 {
			d.problem(KeyframeMisplaced, at(&k), k.EventTime, "no update up to its id is held at its time")
		}
	}
	return nil
}

// keyframe verifies a keyframe before the update next is applied; nil at the end.
func (d *depth) keyframe(ctx context.Context, k *market.Keyframe, next *market.DepthUpdate) error {
	if k.UpdateID < d.before.last {
		if d.walk.jumped.holds(ids{k.UpdateID, k.UpdateID}) {
			d.note(KeyframeUnread, at(k), k.EventTime, "")
		} else {
			d.problem(KeyframeMisplaced, at(k), k.EventTime, "later updates are earlier than it")
		}
		return nil
	}
	bids, asks, err := d.decoder.Book(k.Data)
	if err != nil {
		d.problem(Checksum, at(k), k.EventTime, "keyframe: %v", err)
		return nil
	}
	if err := d.proof(ctx, k, next); err != nil {
		return err
	}
	o := &origin{
		book: book.New(), source: sourceOf(k), applied: k.UpdatesApplied, firstID: k.FirstUpdateID, at: k.EventTime,
	}
	o.book.Reset(k.UpdateID, bids, asks)
	o.crossed = o.book.Crossed()
	if d.read(o.book); !slices.Equal(d.levels[0], bids) || !slices.Equal(d.levels[1], asks) {
		d.problem(KeyframeDiffers, at(k), k.EventTime, "its levels are not in order, or not each once")
	}
	if o.crossed {
		d.problem(CrossedBook, at(k), k.EventTime, "keyframe: %s", o.edges())
	}
	if next != nil {
		d.drop(min(k.UpdateID, next.PrevID)) // what lies between is missing
	}
	o.fresh = len(d.books) > 0 && d.books[0].book.LastID() < k.UpdateID
	if o.fresh {
		if k.UpdatesApplied > 0 {
			d.problem(KeyframeMisplaced, at(k), k.EventTime, "no update ends with its id")
		}
		d.adopt(o)
		return nil
	}
	return d.compare(ctx, k, o)
}

func at(k *market.Keyframe) ids { return ids{k.UpdateID, k.UpdateID} }

// proof verifies what a keyframe before the update next says of itself.
//
// A keyframe of updates has the time of the last of them, or a nanosecond more where it corrects another. A snapshot
// has the time at which it was asked for, which may be a little before that of its last update, and is never later than
// the next one by more than readers look back. Behind a step back of the clock, a keyframe of updates is stored once more,
// with the time behind the step, of which the ledger tells: the update behind the step need not be held.
func (d *depth) proof(ctx context.Context, k *market.Keyframe, next *market.DepthUpdate) error {
	isSnapshot := k.UpdateID == k.SnapshotID
	if k.SnapshotID > k.UpdateID || isSnapshot != (k.UpdatesApplied == 0) || isSnapshot != (k.FirstUpdateID == 0) ||
		k.FirstUpdateID > k.SnapshotID+1 || k.UpdatesApplied > k.UpdateID-k.SnapshotID {
		d.problem(KeyframeProof, at(k), k.EventTime, "snapshot %d, %d updates applied from %d on, do not make a book at %d",
			k.SnapshotID, k.UpdatesApplied, k.FirstUpdateID, k.UpdateID)
	}
	last := d.before.time
	back := next != nil && next.EventTime < last // the clock steps back behind the keyframe
	switch {
	case back && k.EventTime == next.EventTime:
	case k.EventTime == last+1 && d.seen == frame{k.UpdateID, last}:
	case k.UpdateID == d.before.last && !isSnapshot && k.EventTime != last, k.EventTime < last.Add(-nearby):
		stepped, err := d.told(ctx, market.Depth, k.EventTime, last, func(g *market.Gap) bool {
			return g.Cause == market.CauseClock && g.FirstID == k.UpdateID+1 && g.End == k.EventTime
		})
		if err != nil {
			return err
		}
		if !stepped {
			d.problem(KeyframeMisplaced, at(k), k.EventTime, "its update is of %v", last)
		}
	case isSnapshot && next != nil && !back && k.EventTime > next.EventTime.Add(clockSlack):
		d.problem(KeyframeMisplaced, at(k), k.EventTime, "the update behind it is of %v", next.EventTime)
	}
	return nil
}

// compare compares the book of a keyframe with those that were replayed up to its id.
func (d *depth) compare(ctx context.Context, k *market.Keyframe, o *origin) error {
	counts := d.task.stream.Keyframes
	same := 0
	for _, b := range d.books {
		if b.source != o.source {
			continue
		}
		same++
		if !d.equal(b.book, o.book) {
			continue
		}
		counts.Whole++
		if b.applied != k.UpdatesApplied || b.firstID != k.FirstUpdateID {
			d.problem(KeyframeProof, at(k), k.EventTime, "it says %d updates from %d on, the blocks hold %d from %d on",
				k.UpdatesApplied, k.FirstUpdateID, b.applied, b.firstID)
		}
		d.confirm(b, o)
		return nil
	}
	if same > 0 && k.UpdatesApplied > 0 && !d.takeBack(o.source) {
		d.problem(KeyframeDiffers, at(k), k.EventTime, "%s", d.difference(d.sibling(o).book, o.book))
		o.doubted = true
		d.adopt(o)
		return nil
	}
	return d.rebase(ctx, o)
}

// sibling returns a book of the same source as o; there is one.
func (d *depth) sibling(o *origin) *origin {
	return d.books[slices.IndexFunc(d.books, func(b *origin) bool { return b.source == o.source })]
}

// rebase takes a book from another snapshot: as deep as both snapshots reached, it is that of the others, or the ledger
// says that they were wrong.
func (d *depth) rebase(ctx context.Context, o *origin) error {
	counts := d.task.stream.Keyframes
	var last *origin
	for _, b := range d.books {
		if b != o && b.book.LastID() == o.book.LastID() {
			if last = b; d.agree(b, o) {
				counts.Depth++
				d.adopt(o)
				return nil
			}
		}
	}
	id := o.book.LastID()
	if last == nil {
		counts.Begun++
		d.adopt(o)
		return nil
	}
	known, err := d.doubted(ctx, ids{id, id + 1}, last.at, o.at, market.CauseAudit, market.CauseCrossed)
	if err != nil {
		return err
	}
	if known {
		counts.Corrected++
		d.books = d.books[:0]
	} else {
		o.doubted = true
		d.problem(KeyframeDiffers, ids{id, id}, o.at, "within the depth of two snapshots: %s", d.difference(last.book, o.book))
	}
	d.adopt(o)
	return nil
}

// settle compares books that began within the update u, now that it is applied.
func (d *depth) settle(ctx context.Context, u *market.DepthUpdate) error {
	for {
		i := slices.IndexFunc(d.books, func(o *origin) bool { return o.fresh && o.book.LastID() == u.LastID })
		if i < 0 {
			return nil
		}
		o := d.books[i]
		o.fresh, o.at = false, u.EventTime
		d.books = slices.Delete(d.books, i, i+1)
		if err := d.rebase(ctx, o); err != nil {
			return err
		}
	}
}

// adopt follows a further book.
func (d *depth) adopt(o *origin) {
	d.books = append(d.books, o)
	d.confirm(o, o)
}

// confirm puts b, which is the book of the keyframe read as o, last; gives up the doubtful books beside it, and what no
// keyframe confirms any more.
func (d *depth) confirm(b, o *origin) {
	d.books = slices.DeleteFunc(d.books, func(other *origin) bool {
		if other == b {
			return true
		}
		if other.silent++; b != o && other.doubted {
			return true
		}
		if other.silent > maxSilence {
			d.giveUp(other)
		}
		return other.silent > maxSilence
	})
	b.silent, b.at, b.doubted = 0, o.at, b == o && b.doubted
	d.books = append(d.books, b)
	for len(d.books) > maxBooks {
		d.giveUp(d.books[0])
		d.books = slices.Delete(d.books, 0, 1)
	}
}

// giveUp remembers the source of a book that is followed no longer. A later keyframe with this source may be of that book,
// and need not equal another one that has it.
func (d *depth) giveUp(o *origin) {
	if n := len(d.givenUp); n >= maxGivenUp {
		d.givenUp = slices.Delete(d.givenUp, 0, n-maxGivenUp+1)
	}
	d.givenUp = append(d.givenUp, o.source)
}

// takeBack reports whether a book with that source was given up, which is followed again.
func (d *depth) takeBack(s source) bool {
	i := slices.Index(d.givenUp, s)
	if i >= 0 {
		d.givenUp = slices.Delete(d.givenUp, i, i+1)
	}
	return i >= 0
}

// read puts the levels of b into the memory of the first book.
func (d *depth) read(b *book.Book) {
	d.levels[0] = b.AppendBids(d.levels[0][:0], -1)
	d.levels[1] = b.AppendAsks(d.levels[1][:0], -1)
}

// readBoth puts the levels of both books into memory.
func (d *depth) readBoth(a, b *book.Book) {
	d.read(a)
	d.levels[2] = b.AppendBids(d.levels[2][:0], -1)
	d.levels[3] = b.AppendAsks(d.levels[3][:0], -1)
}

func (d *depth) equal(a, b *book.Book) bool {
	d.readBoth(a, b)
	return slices.Equal(d.levels[0], d.levels[2]) && slices.Equal(d.levels[1], d.levels[3])
}

// agree reports whether two books are equal as deep as both are known to be complete.
func (d *depth) agree(a, b *origin) bool {
	d.readBoth(a.book, b.book)
	if a.source.verifiedBid != 0 && b.source.verifiedBid != 0 {
		bound := max(a.source.verifiedBid, b.source.verifiedBid)
		if !slices.Equal(d.levels[0][:a.book.CountBids(bound)], d.levels[2][:b.book.CountBids(bound)]) {
			return false
		}
	}
	if a.source.verifiedAsk != 0 && b.source.verifiedAsk != 0 {
		bound := min(a.source.verifiedAsk, b.source.verifiedAsk)
		return slices.Equal(d.levels[1][:a.book.CountAsks(bound)], d.levels[3][:b.book.CountAsks(bound)])
	}
	return true
}

// difference tells the first level in which a replayed book and a stored one differ.
func (d *depth) difference(replayed, stored *book.Book) string {
	d.readBoth(replayed, stored)
	for side, name := range []string{"bid", "ask"} {
		a, b := d.levels[side], d.levels[side+2]
		for i := range max(len(a), len(b)) {
			switch {
			case i >= len(a):
				return fmt.Sprintf("%s %d: replayed none, stored %v at %v", name, i+1, b[i].Quantity, b[i].Price)
			case i >= len(b):
				return fmt.Sprintf("%s %d: replayed %v at %v, stored none", name, i+1, a[i].Quantity, a[i].Price)
			case a[i] != b[i]:
				return fmt.Sprintf("%s %d: replayed %v at %v, stored %v at %v", name, i+1,
					a[i].Quantity, a[i].Price, b[i].Quantity, b[i].Price)
			}
		}
	}
	return "no level differs"
}
