package sink

import (
	"maps"
	"slices"

	"tapedeck/ingester/internal/spool"
	"tapedeck/shared/market"
)

// delivery is what is written together, or refused together: the records of one Put or, where the store refused one of
// them, a part of those.
type delivery struct {
	batch    market.Batch
	received market.Time  // when the oldest event in the batch was received; 0 when it holds none
	session  int64        // of the process that received it; see Sink
	lost     market.Cause // why records between the one before and this one are gone; "" when none are
	position spool.Position
	partial  bool // whether more of what stands at the position follows

	unfinished bool     // whether it is a block that was saved before it was whole; see unfinished
	stored     presence // of one that was
}

// account is the one owner of spans, and the guarantor of the ledger: whatever comes through the spool, in whatever
// pieces, afterwards every id from the first block of a series that was written on is in the span of a stored block or
// in an entry of the ledger; and no span claims an id that no stored block holds.
//
// It is a pure state machine over what comes out of the spool, and what it remembers is kept with the spool's
// checkpoint. So what is delivered again after a crash changes nothing: it is known to be written, or gets the same
// spans and the same entries again.
//
// An account belongs to one goroutine. Changes are made in a draft, and take effect with draft.commit.
type account struct {
	series     map[market.Series]standing
	settled    spool.Position // of the last delivery of which all is part of it
	checkpoint spool.Position // settled at the time that remembered standings are of
}

// standing is where the account of one series stands. Its slices are shared between copies and never written to.
type standing struct {
	remembered bool // whether it began with what was remembered, and so with all up to the checkpoint

	// Front is the span that grows. Its LastID is the greatest id that is held.
	Front market.Span
	// Back is the span of the last blocks that came behind Front, such as trades fetched again; zero when none did.
	Back market.Span

	Keyframe int64       // UpdateID of the market's last keyframe
	Received market.Time // when Front's last block was received
	Session  int64       // of the process that received it; 0 when not known

	// Lost and Hint say why ids may be missing before the next block: what the spool lost, and the cause of an entry
	// that touches the end of Front and ends before that block.
	Lost, Hint market.Cause
	// Missed is the greatest id that may be among records that were lost or refused, while Lost is empty: of ids up to it
	// an entry may say wrongly that they were fetched again and are held.
	Missed int64
	// Explained are the ids beyond Front that are in the ledger already, or held by another recorder's blocks.
	Explained idRanges
}

// newAccount returns an account that knows no series yet; see open. Deliveries up to the checkpoint are part of every
// remembered standing.
func newAccount(checkpoint spool.Position) *account {
	return &account{series: make(map[market.Series]standing), settled: checkpoint, checkpoint: checkpoint}
}

// open begins the account of a series from what is known of it, before its first delivery.
//
// remembered is the standing at the spool's checkpoint, nil when there is none; the caller has seen that the store
// holds the block it ends with, and else leaves it out, as it then speaks of some other store. tail is the store's last
// block, nil when it holds none. What lies between the two was written by this recorder after the checkpoint, and may
// come again, or by another one. Either way it is in a span or in the ledger: stores write the entries that explain a
// hole before the blocks behind it; see market.Batch.
func (a *account) open(series market.Series, remembered *standing, tail *market.Block) {
	switch {
	case remembered != nil:
		s := *remembered
		s.remembered = true
		if tail != nil {
			s.Explained = s.Explained.with(s.Front.LastID+1, tail.LastID)
		}
		a.series[series] = s
	case tail != nil:
		a.series[series] = standing{Front: spanOfTail(tail)}
	}
}

// spanOfTail returns the span of a series' last block as far as the block tells. Stores merge spans, so that what is
// not known of the span's beginning changes nothing where the span is stored.
func spanOfTail(tail *market.Block) market.Span {
	span := market.Span{
		Series: tail.Series, FirstID: tail.SpanID, PrevID: tail.SpanID - 1,
		LastID: tail.LastID, Start: tail.Start, End: tail.End,
	}
	if tail.FirstID == tail.SpanID {
		span.PrevID = tail.PrevID
	}
	return span
}

// draft is a change of an account that is being written to the store, and what is to be written.
type draft struct {
	account *account
	changed map[market.Series]standing
	settled spool.Position
	batch   market.Batch
	spans   map[spanKey]int // indices of batch.Spans
	entered []market.Cause  // of the ledger entries that the account adds

	unfinished []spool.Position // where blocks stand that were never finished and are part of it
}

// spanKey identifies a span; see market.Span.
type spanKey struct {
	series  market.Series
	firstID int64
}

func (a *account) draft() *draft {
	return &draft{
		account: a, settled: a.settled,
		changed: make(map[market.Series]standing), spans: make(map[spanKey]int),
	}
}

// commit makes the change part of the account: the store holds the batch.
func (d *draft) commit() {
	maps.Copy(d.account.series, d.changed)
	d.account.settled = d.settled
}

// standing returns where a series stands in the draft.
func (d *draft) standing(series market.Series) (standing, bool) {
	if s, ok := d.changed[series]; ok {
		return s, true
	}
	s, ok := d.account.series[series]
	return s, ok
}

// add takes a delivery in. Entries of the ledger and keyframes come first, as they explain and end holes before the blocks
// beside them.
func (d *draft) add(v *delivery) {
	d.settle(v)
	for i := range v.batch.Gaps {
		d.gap(&v.batch.Gaps[i], v)
	}
	for i := range v.batch.Keyframes {
		d.keyframe(&v.batch.Keyframes[i], v)
	}
	for i := range v.batch.Blocks {
		d.block(v.batch.Blocks[i], v)
	}
	d.batch.Keyframes = append(d.batch.Keyframes, v.batch.Keyframes...)
	d.batch.Listings = append(d.batch.Listings, v.batch.Listings...)
	d.batch.Statuses = append(d.batch.Statuses, v.batch.Statuses...)
}

// settle makes the delivery part of the account. Where the spool lost records before it, nobody knows of which series.
func (d *draft) settle(v *delivery) {
	if !v.partial {
		d.settled = max(d.settled, v.position)
	}
	if v.unfinished {
		d.unfinished = append(d.unfinished, v.position)
	}
	if v.lost == "" {
		return
	}
	for series, s := range d.all() {
		if !d.again(&s, v) {
			s.Lost = v.lost
			d.changed[series] = s
		}
	}
}

// all returns where every series stands in the draft.
func (d *draft) all() map[market.Series]standing {
	all := maps.Clone(d.account.series)
	maps.Copy(all, d.changed)
	return all
}

// again reports whether the delivery comes again after a crash, by its position.
func (d *draft) again(s *standing, v *delivery) bool {
	return s.remembered && v.position <= d.account.checkpoint
}

// written reports whether the delivery is part of a standing already, and so in the store. A block that was never finished
// becomes part of it later than what stands behind it, but before what has greater ids.
func (d *draft) written(s *standing, v *delivery) bool {
	if !d.again(s, v) || !v.unfinished {
		return d.again(s, v)
	}
	b := &v.batch.Blocks[0]
	return holds(s.Front, b) || holds(s.Back, b) || v.stored == itself && b.LastID <= s.Front.LastID
}

// gap takes an entry of the ledger in.
func (d *draft) gap(g *market.Gap, v *delivery) {
	s, known := d.standing(g.Series)
	if d.written(&s, v) {
		return
	}
	if !known || g.Cause.MissesNothing() { // nothing is missing before the first block of a series either
		d.batch.Gaps = append(d.batch.Gaps, *g)
		return
	}
	d.batch.Gaps = append(d.batch.Gaps, s.honest(*g))
	if g.FirstID <= s.Front.LastID+1 && g.LastID >= s.Front.LastID {
		s.Hint = g.Cause
	}
	s.Explained = s.Explained.with(max(g.FirstID, s.Front.LastID+1), g.LastID)
	d.changed[g.Series] = s
}

// keyframe notes that there is a book.
func (d *draft) keyframe(k *market.Keyframe, v *delivery) {
	series := market.Series{Market: k.Market, Stream: market.Depth}
	if s, known := d.standing(series); known && !d.written(&s, v) {
		s.Keyframe = k.UpdateID
		d.changed[series] = s
	}
}

// honest returns an entry that says of missing ids that they were fetched again and are held, as one that does not say
// so where they may be among what was lost on the way.
func (s *standing) honest(g market.Gap) market.Gap {
	if g.Repair == market.RepairBackfilled && (s.Lost != "" || g.FirstID <= s.Missed) {
		held := idRanges{}.with(s.Front.FirstID, s.Front.LastID)
		if s.Back != (market.Span{}) {
			held = held.with(s.Back.FirstID, s.Back.LastID)
		}
		if len(held.missing(g.FirstID, g.LastID)) > 0 {
			g.Repair = market.RepairResumed
		}
	}
	return g
}

// block takes a block in: it grows the span that it continues, or begins one.
func (d *draft) block(b market.Block, v *delivery) {
	s, known := d.standing(b.Series)
	switch {
	case d.written(&s, v) || v.stored == inWhole && !known:
		return
	case v.stored == inWhole:
		s.Explained = s.Explained.with(max(b.PrevID, s.Front.LastID)+1, b.LastID)
		d.changed[b.Series] = s
		return
	case !known:
		s.Front = spanOf(&b)
	case b.LastID <= s.Front.LastID:
		d.behind(b, s)
		return
	case s.Front.FirstID <= b.FirstID && b.PrevID <= s.Front.LastID:
		s.Front.LastID, s.Front.End = b.LastID, max(s.Front.End, b.End)
	default:
		d.explain(&s, b.Series, b.PrevID, b.Start, v)
		s.Front = spanOf(&b)
	}
	if !v.unfinished { // which stands before what may have told of losses
		if s.Lost != "" { // what was lost was put before this block, and so of ids that the exchange had given by then
			s.Missed = max(s.Missed, s.Front.LastID)
		}
		s.Lost, s.Hint = "", ""
	}
	s.Received, s.Session = v.received, v.session
	s.Explained = s.Explained.above(s.Front.LastID)
	d.put(b, s.Front)
	d.changed[b.Series] = s
}

// behind takes in a block of which all ids are at or below the greatest one: it was fetched again, delivered again, or
// is another recorder's.
func (d *draft) behind(b market.Block, s standing) {
	switch {
	case holds(s.Front, &b):
		d.put(b, s.Front)
		return
	case holds(s.Back, &b):
	case s.Back.Series == b.Series && s.Back.FirstID <= b.FirstID && b.PrevID <= s.Back.LastID:
		s.Back.LastID, s.Back.End = b.LastID, max(s.Back.End, b.End)
	default:
		s.Back = spanOf(&b)
	}
	d.put(b, s.Back)
	d.changed[b.Series] = s
}

// holds reports whether a span claims all ids of a block.
func holds(span market.Span, b *market.Block) bool {
	return span.Series == b.Series && span.FirstID <= b.FirstID && b.LastID <= span.LastID
}

// spanOf returns the span that begins with b.
func spanOf(b *market.Block) market.Span {
	return market.Span{
		Series: b.Series, FirstID: b.FirstID, PrevID: b.PrevID, LastID: b.LastID, Start: b.Start, End: b.End,
	}
}

// put adds a block to the batch with the state of its span, of which the batch holds the last one only.
func (d *draft) put(b market.Block, span market.Span) {
	b.SpanID = span.FirstID
	d.batch.Blocks = append(d.batch.Blocks, b)
	d.span(span)
}

func (d *draft) span(span market.Span) {
	key := spanKey{span.Series, span.FirstID}
	at, ok := d.spans[key]
	if !ok {
		d.spans[key] = len(d.batch.Spans)
		d.batch.Spans = append(d.batch.Spans, span)
		return
	}
	merged := &d.batch.Spans[at]
	merged.LastID = max(merged.LastID, span.LastID)
	merged.Start, merged.End = min(merged.Start, span.Start), max(merged.End, span.End)
}

// enter adds an entry to the ledger that nobody sent.
func (d *draft) enter(g market.Gap) {
	d.batch.Gaps = append(d.batch.Gaps, g)
	d.entered = append(d.entered, g.Cause)
}

// explain enters what is missing between the end of the front and the id before, and not in the ledger yet. The hole
// ends at an event of the given time.
func (d *draft) explain(s *standing, series market.Series, before int64, end market.Time, v *delivery) {
	cause := s.cause(v.session)
	for _, r := range s.Explained.missing(s.Front.LastID+1, before) {
		d.enter(entry(s, series, cause, r, end, v))
	}
}

// cause returns why ids are missing after the front.
func (s *standing) cause(session int64) market.Cause {
	switch {
	case s.Lost != "":
		return s.Lost
	case s.Session != session:
		return market.CauseRestart
	case s.Hint != "":
		return s.Hint
	default:
		return market.CauseSequence
	}
}

// entry returns the ledger's entry of ids that are missing after the front, up to an event of the given time. Where the
// recorder saw no hole, as records were lost behind it, there is no new book either.
func entry(s *standing, series market.Series, cause market.Cause, r idRange, end market.Time, v *delivery) market.Gap {
	repair := market.RepairResumed
	if series.Stream == market.Depth && s.Keyframe >= r.Last {
		repair = market.RepairSnapshot
	}
	return market.Gap{
		Series: series, Cause: cause, FirstID: r.First, LastID: r.Last,
		Start: s.Front.End, End: end, RecvStart: s.Received, RecvEnd: v.received,
		DetectedAt: v.received, RepairedAt: v.received, Repair: repair,
	}
}

// refuse takes in a delivery of one record, which the store refuses for good. The ids of a block become an entry of the
// ledger, unless other blocks hold them; it ends with the block, as nobody knows yet what follows.
func (d *draft) refuse(v *delivery) {
	d.settle(v)
	if len(v.batch.Blocks) == 0 {
		return
	}
	b := &v.batch.Blocks[0]
	s, known := d.standing(b.Series)
	if !known || v.stored != absent || d.written(&s, v) || holds(s.Front, b) || holds(s.Back, b) { // nothing is missing before the first block
		return
	}
	s.Missed = max(s.Missed, b.LastID)
	if b.LastID <= s.Front.LastID { // behind
		d.changed[b.Series] = s
		s.Front.End, s.Received = b.Start, v.received // of the entry: it begins with the block
		ids := idRange{b.FirstID, b.LastID}
		d.enter(entry(&s, b.Series, market.CauseRefused, ids, b.End, v))
		return
	}
	d.explain(&s, b.Series, b.PrevID, b.Start, v)
	ids := idRange{max(b.PrevID, s.Front.LastID) + 1, b.LastID}
	d.enter(entry(&s, b.Series, market.CauseRefused, ids, b.End, v))
	s.Explained = s.Explained.with(s.Front.LastID+1, b.LastID)
	s.Hint = market.CauseRefused
	d.changed[b.Series] = s
}

// maxExplained bounds the ranges of one idRanges. Beyond, the lowest is forgotten; if it is a hole after all, it gets a
// second entry.
const maxExplained = 256

// idRange are the ids First to Last.
type idRange struct{ First, Last int64 }

// idRanges are disjoint, not adjacent, and ordered. They are never written to: changes make new ones.
type idRanges []idRange

// with returns the ranges with first to last among them, which is nothing when last is below first.
func (rs idRanges) with(first, last int64) idRanges {
	if last < first {
		return rs
	}
	merged := make(idRanges, 0, len(rs)+1)
	at := 0
	for _, r := range rs {
		switch {
		case r.Last < first-1:
			merged = append(merged, r)
			at = len(merged)
		case r.First-1 > last:
			merged = append(merged, r)
		default:
			first, last = min(first, r.First), max(last, r.Last)
		}
	}
	merged = slices.Insert(merged, at, idRange{first, last})
	if len(merged) > maxExplained {
		merged = merged[1:]
	}
	return merged
}

// above returns what of the ranges is above id.
func (rs idRanges) above(id int64) idRanges {
	for len(rs) > 0 && rs[0].Last <= id {
		rs = rs[1:]
	}
	if len(rs) == 0 {
		return nil
	}
	if rs[0].First > id {
		return rs
	}
	rs = slices.Clone(rs)
	rs[0].First = id + 1
	return rs
}

// missing returns what of first to last is not in the ranges.
func (rs idRanges) missing(first, last int64) []idRange {
	var missing []idRange
	for _, r := range rs {
		if r.First > last {
			break
		}
		if r.First > first {
			missing = append(missing, idRange{first, r.First - 1})
		}
		if r.Last >= last {
			return missing
		}
		first = max(first, r.Last+1)
	}
	if first <= last {
		missing = append(missing, idRange{first, last})
	}
	return missing
}
