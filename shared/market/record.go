package market

import (
	"slices"
	"time"
)

// What a store keeps. Stores treat Data as opaque bytes; everything they index or filter by stands beside it.

// BlockWindow is the stretch of event time that a block covers at the most, aligned to the Unix epoch: every event of
// a block has the same EventTime.Truncate(BlockWindow). A fixed window makes blocks of two recorders of one stream
// equal, and bounds how far before an instant a reader has to look for blocks that hold it.
const BlockWindow = time.Second

// Bounds of a block. A recorder cuts a block before it would exceed one; a decoder refuses one that does.
const (
	MaxBlockEvents = 4096
	MaxBlockLevels = 1 << 17 // levels of all depth updates of a block together
	MaxBlockBytes  = 4 << 20 // encoded; a stored document is a little larger and stays well under MongoDB's 16 MiB
)

// MaxUpdateLevels bounds the levels of one depth update, both sides together; the largest recorded one has 1076. It is
// half of MaxBlockLevels, so that cutting a block before the update that would exceed it keeps every bound.
const MaxUpdateLevels = 1 << 16

// MaxBookLevels bounds the levels of one side of a stored book.
const MaxBookLevels = 1 << 18

// Block is a stretch of one series: consecutive events without a hole among them, encoded by package tape.
// Blocks of one series may overlap in ids (two recorders, a recording played twice); readers merge them by id. A block
// is identified by Series, Start, FirstID and LastID: writing it again changes nothing.
type Block struct {
	Series  Series
	FirstID int64 // first id of the first event
	LastID  int64 // last id of the last event
	PrevID  int64 // the id before the block (DepthUpdate.PrevID of the first event; FirstID-1 for trades)
	SpanID  int64 // Span.FirstID of the span that the block belongs to
	Start   Time  // least event time in the block
	End     Time  // greatest event time in the block, inclusive
	Events  int
	Data    []byte
}

// Keyframe is the whole book of a market after the event that holds UpdateID. It is identified by Market, EventTime
// and UpdateID.
type Keyframe struct {
	Market   Market
	UpdateID int64
	// EventTime is that of the event that holds UpdateID; of the next event, where the clock stepped back in between; a
	// nanosecond more where the book corrects a stored one; see Snapshot.EventTime where no event holds UpdateID.
	EventTime Time
	RecvTime  Time

	// The proof: the exchange's own snapshot that the book was built from, and what was applied since.
	SnapshotID     int64
	UpdatesApplied int64
	FirstUpdateID  int64 // first id of the first update applied since the snapshot; 0 when none was

	// The book is known to be complete for bids at or above VerifiedBid and asks at or below VerifiedAsk: as deep as
	// the snapshot reached. Levels beyond were learnt from updates alone. A zero bound means that nothing on that
	// side is verified.
	VerifiedBid Decimal
	VerifiedAsk Decimal

	Data []byte // the levels, encoded by package tape
}

// Span is a contiguous stretch of a series: no id is missing between FirstID and LastID. A recorder that goes on
// recording grows its span; writes of one span merge by taking the greater LastID and End, so order and repetition do
// not matter. It is identified by Series and FirstID. Two spans of which one's PrevID lies inside the other belong
// together.
type Span struct {
	Series  Series
	FirstID int64
	PrevID  int64 // the id before FirstID, as in Block
	LastID  int64
	Start   Time // event time of the first event
	End     Time // event time of the last event, inclusive
}

// Cause says why something is missing. The list is closed; docs/runbook.md explains each.
type Cause string

// The causes of gaps.
const (
	CauseSequence   Cause = "sequence"   // the exchange's ids skipped within one connection
	CauseDisconnect Cause = "disconnect" // ids are missing across a reconnect
	CauseStall      Cause = "stall"      // the stream was mute on an open connection
	CauseRestart    Cause = "restart"    // nobody recorded: the recorder was down
	CauseOverflow   Cause = "overflow"   // a bounded queue of the recorder, in memory or on disk, was full
	CauseMalformed  Cause = "malformed"  // a frame could not be decoded
	CauseCrossed    Cause = "crossed"    // the book was crossed after an update
	CauseClock      Cause = "clock"      // the exchange's clock stepped back
	CauseAudit      Cause = "audit"      // the book was not the exchange's own; no id need be missing
	CauseRefused    Cause = "refused"    // the store refused the record for good; it is among the dead letters
	CauseDamaged    Cause = "damaged"    // records were damaged on disk, on their way to the store
)

// Causes returns all causes.
func Causes() []Cause {
	return []Cause{
		CauseSequence, CauseDisconnect, CauseStall, CauseRestart, CauseOverflow, CauseMalformed, CauseCrossed,
		CauseClock, CauseAudit, CauseRefused, CauseDamaged,
	}
}

// IsDoubt reports whether an entry of this cause speaks of doubt: its ids may all be held, and holding them settles
// nothing. Entries of the other causes speak of missing ids, and are settled where the ids turn out to be held.
func (c Cause) IsDoubt() bool { return c == CauseAudit || c == CauseCrossed || c == CauseClock }

// MissesNothing reports whether an entry of this cause says that no id is missing: it explains no hole, and stands beside
// the entry of one.
func (c Cause) MissesNothing() bool { return c == CauseAudit || c == CauseClock }

// ParseCause reads the name of a cause.
func ParseCause(s string) (Cause, error) {
	if c := Cause(s); slices.Contains(Causes(), c) {
		return c, nil
	}
	return "", Errorf(KindInvalid, "unknown cause %q", s)
}

// Repair says how a gap ended.
type Repair string

// The ways in which gaps end. The zero value stands for one that has not.
const (
	RepairSnapshot   Repair = "snapshot"   // the book was built anew; the missing updates stay missing
	RepairResumed    Repair = "resumed"    // the stream goes on; what is missing stays missing
	RepairBackfilled Repair = "backfilled" // all of it was fetched again and is held; see TradeFlagBackfilled
)

// Repairs returns all repairs.
func Repairs() []Repair { return []Repair{RepairSnapshot, RepairResumed, RepairBackfilled} }

// Gap is an entry of the ledger: ids of a series that are missing, and why. It is identified by its Key. It is written
// when the hole is noticed and written again, with more known, when it is repaired.
type Gap struct {
	Series  Series
	Cause   Cause
	FirstID int64 // first missing id
	LastID  int64 // last missing id as far as known; see Merge

	Start     Time // event time of the last event before the hole; 0 when not known
	End       Time // event time of the first state after the hole; 0 while the hole is open
	RecvStart Time // the receiver's clock at the same two points
	RecvEnd   Time

	DetectedAt Time   // the receiver's clock
	RepairedAt Time   // 0 while not repaired
	Repair     Repair // how; "" while not repaired
}

// GapKey identifies an entry of the ledger.
type GapKey struct {
	Series  Series
	FirstID int64
	Beside  Cause // of an entry that misses nothing, and so stands beside the one of a hole; "" of all others
}

// Key returns what identifies the entry.
func (g *Gap) Key() GapKey {
	k := GapKey{Series: g.Series, FirstID: g.FirstID}
	if g.Cause.MissesNothing() {
		k.Beside = g.Cause
	}
	return k
}

// Merge returns the entry that stands where later is written over g; both have the same Key. The later one counts, but one
// that is not repaired does not replace one that is, and LastID only grows. As RepairBackfilled vouches for every id that
// an entry names, one that says so and names fewer ids than the other does not count, whichever is the later.
func (g Gap) Merge(later Gap) Gap {
	last := max(g.LastID, later.LastID)
	if !g.yields(&later) {
		later = g
	}
	later.LastID = last
	return later
}

func (g *Gap) yields(later *Gap) bool {
	held, heldLater := g.Repair == RepairBackfilled, later.Repair == RepairBackfilled
	switch {
	case held && !heldLater && g.LastID < later.LastID:
		return true
	case !held && heldLater && later.LastID < g.LastID:
		return false
	default:
		return g.RepairedAt == 0 || later.RepairedAt != 0
	}
}

// Listing is what the exchange says of a market (exchangeInfo), as last read by a recorder.
type Listing struct {
	Market    Market
	Status    string // as the exchange names it: TRADING, HALT, BREAK, …; "" when it did not say
	TickSize  Decimal
	LotSize   Decimal
	UpdatedAt Time
}

// RecorderStatus is what one recorder last said of itself. It is identified by Recorder and written again every few
// seconds while the recorder lives.
type RecorderStatus struct {
	Recorder  string // name of the recorder, unique among those that write to one store
	Version   string
	StartedAt Time
	UpdatedAt Time
	Stopped   bool // true when the recorder said that it was stopping
	Markets   []MarketStatus
}

// MarketState is how a recorder stands to a market.
type MarketState string

// The states.
const (
	StateSyncing MarketState = "syncing" // no book yet, or the book is being built anew after a gap
	StateSynced  MarketState = "synced"  // connected, and the book follows the stream
	StateOffline MarketState = "offline" // not connected
)

// MarketStatus is the state of one market in one recorder.
type MarketStatus struct {
	Market       Market
	State        MarketState
	LastUpdateID int64
	LastTradeID  int64
	EventTime    Time // of the last event
	RecvTime     Time // of the last frame
}

// Batch is a set of writes. Where a store has transactions it writes all at once, else in an order that keeps a crash
// in the middle harmless, even when nobody is left who could write the rest:
//
//  1. entries of the ledger, but for those that say RepairBackfilled: no block is stored behind a hole that nothing
//     explains, and an entry whose blocks never come is true;
//  2. blocks and keyframes, each in their order in the batch: a block's SpanID claims what is before it;
//  3. spans, in their order in the batch: those that were not written understate what is held, and the recorder's next
//     start heals them;
//  4. the other entries of the ledger, which claim that ids are held;
//  5. listings and statuses.
//
// Writing a batch again changes nothing.
type Batch struct {
	Blocks    []Block
	Keyframes []Keyframe
	Spans     []Span
	Gaps      []Gap
	Listings  []Listing
	Statuses  []RecorderStatus
}

// Len returns the number of records in b.
func (b *Batch) Len() int {
	return len(b.Blocks) + len(b.Keyframes) + len(b.Spans) + len(b.Gaps) + len(b.Listings) + len(b.Statuses)
}

// BlockQuery selects blocks of a series with From <= Start < To, ordered by Start, FirstID, LastID; at most Limit of
// them, behind After when it is not the zero key.
type BlockQuery struct {
	Series   Series
	From, To Time
	After    BlockKey
	Limit    int // at least 1
}

// BlockKey is the place of a block in the order of its series.
type BlockKey struct {
	Start           Time
	FirstID, LastID int64
}

// Key returns the block's place in the order of its series.
func (b *Block) Key() BlockKey { return BlockKey{Start: b.Start, FirstID: b.FirstID, LastID: b.LastID} }

// GapQuery selects gaps of a market that overlap [From, To), ordered by Start, then by FirstID. Empty Stream and Cause
// select all. An open gap (End 0) overlaps everything after its Start.
type GapQuery struct {
	Market   Market
	Stream   Stream
	Cause    Cause
	From, To Time
	Limit    int // at least 1
}
