package verify

// Code names a kind of finding. The names are stable: docs/runbook.md explains each, and scripts may rely on them.
type Code string

// The codes of problems.
const (
	Checksum           Code = "checksum"
	BlockDiffers       Code = "block_differs"
	HoleInBlock        Code = "hole_in_block"
	UnexplainedHole    Code = "unexplained_hole"
	DuplicateDiffers   Code = "duplicate_differs"
	SpanWithoutBlocks  Code = "span_without_blocks"
	SpanDiffers        Code = "span_differs"
	BlockWithoutSpan   Code = "block_without_span"
	SpanIDWrong        Code = "span_id_wrong"
	KeyframeDiffers    Code = "keyframe_differs"
	KeyframeMisplaced  Code = "keyframe_misplaced"
	KeyframeProof      Code = "keyframe_proof"
	CrossedBook        Code = "crossed_book"
	TimeStepsBack      Code = "time_steps_back"
	LedgerEntry        Code = "ledger_entry"
	EntryFar           Code = "entry_far"
	BackfillIncomplete Code = "backfill_incomplete"
)

// The codes of notes. TimeStepsBack is one, too, for steps that are so short that readers do not mind.
const (
	EntryHeld      Code = "entry_held"
	EntryOpen      Code = "entry_open"
	SpanIDDiffers  Code = "span_id_differs"
	KeyframeUnread Code = "keyframe_unread"
)

// explanations says for each code what it means, and what to do.
var explanations = map[Code][2]string{
	Checksum: {
		"the data of a block or keyframe is damaged and cannot be decoded",
		"restore the record from a backup or another replica; if there is none, its ids are lost. Check the disk",
	},
	BlockDiffers: {
		"what stands beside a block's data (ids, times, number of events) is not what the data holds",
		"something other than Tapedeck changed the record, or there is a bug: restore it, and report it",
	},
	HoleInBlock: {
		"ids are missing between the events of one block, where none may be",
		"report it: the recorder must cut a block at a hole",
	},
	UnexplainedHole: {
		"ids are missing, and the ledger has no entry for them",
		"look for a block that was deleted (span_without_blocks says so), then at the recorder's log of that time; report it",
	},
	DuplicateDiffers: {
		"two records of the same event are not the same",
		"compare the recorders' versions and sources; one of them recorded something else than the exchange sent",
	},
	SpanWithoutBlocks: {
		"a span says that ids are held, and no block holds them",
		"blocks were deleted or lost after they had been stored: restore them from a backup",
	},
	SpanDiffers: {
		"the ends of a span are not those of its first and last block",
		"coverage is told wrongly there; the events are safe. Something changed the record, or there is a bug: report it",
	},
	BlockWithoutSpan: {
		"a block lies outside of every span",
		"the events are safe, but coverage does not show them. After a crash of the store the recorder's next start mends it; else report it",
	},
	SpanIDWrong: {
		"the span that a block names can hold no such block: none begins with its id, or ids are missing in between",
		"a recorder that starts behind such a block may claim ids that nobody holds. Something changed the record, or there is a bug: restore it, and report it",
	},
	KeyframeDiffers: {
		"a stored book is not the one that follows from the stored book before it",
		"books from there to the next keyframe are doubtful; compare with another recorder's store, and report it",
	},
	KeyframeMisplaced: {
		"a stored book does not stand at the time of its last update, so that readers apply the wrong updates to it",
		"something changed the record, or there is a bug: restore it, and report it",
	},
	KeyframeProof: {
		"a stored book is right, but what it says of its origin (snapshot, updates applied) is not",
		"answers from it carry a wrong proof: report it",
	},
	CrossedBook: {
		"the best bid is at or above the best ask after an event, and the ledger does not say so",
		"an update is wrong or missing there: treat the book as doubtful up to the next keyframe, and report it",
	},
	TimeStepsBack: {
		"the exchange's clock steps back from one event to the next, and the ledger does not say so",
		"nothing for a step of up to a second; behind a longer one, questions by time may leave out events, those by id do not: report it",
	},
	LedgerEntry: {
		"an entry of the ledger contradicts itself",
		"something changed the record, or there is a bug: report it",
	},
	EntryFar: {
		"the entry that explains a hole stands at a later time than the hole, where questions by time do not find it",
		"something changed the record, or there is a bug: restore it, and report it",
	},
	BackfillIncomplete: {
		"the ledger says that all missing ids were fetched again, and not all of them are held",
		"fetched blocks were lost, or the entry is wrong: look for span_without_blocks there, and report it",
	},
	EntryHeld: {
		"the ledger says that ids are missing, and another record holds them all",
		"nothing: another recorder had them, or they came after the hole had been told of",
	},
	EntryOpen: {
		"a hole that has not ended: the recorder is still without a book, or it was stopped then",
		"nothing while the recorder works on it or another entry continues it",
	},
	SpanIDDiffers: {
		"the span that a block names is not stored as far as the block, but another span holds all of it",
		"nothing: a recorder was killed between two writes, and another one had the same block",
	},
	KeyframeUnread: {
		"a stored book lies where the exchange's clock had jumped, and was not compared",
		"nothing",
	},
}

// Meaning says in a sentence what was found.
func (c Code) Meaning() string { return explanations[c][0] }

// Action says what to do about it.
func (c Code) Action() string { return explanations[c][1] }
